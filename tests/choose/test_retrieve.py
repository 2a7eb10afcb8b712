"""Choosing models: planted best, filters, personal terms, logged probabilities, diversity, search, bad input."""

from collections import Counter
from importlib.util import find_spec

import numpy as np
import polars as pl
import pytest

from tastemaker import columns as c
from tastemaker.choose.personal import Personal, from_likes, from_votes
from tastemaker.choose.predictor import Mean, Styled
from tastemaker.choose.rating import fit
from tastemaker.choose.retrieve import LONGEST, Shelf, deal, retrieve
from tastemaker.choose.search import Index, largest
from tastemaker.choose.signature import signatures
from tastemaker.choose.votes import Vote, pair
from tastemaker.data import FeedbackLog
from tastemaker.data.catalog import Catalog
from tastemaker.debias.weight import inverse
from tastemaker.errors import InvalidArgument, UnknownId, UnknownName
from tastemaker.evaluate.images.embedding import Embeddings
from tastemaker.recommend import Factors
from tests.choose.gallery import book, examples


class Words:
    """A real, if simple, encoder: the vector of the prompt whose number the text ends with."""

    name = "by number"

    def __init__(self, planted):
        self.texts = planted.texts

    def embed_texts(self, texts):
        return Embeddings.of(np.array([self.texts[int(text.split()[-1])] for text in texts]), texts)

    def embed_pictures(self, pictures, *, fit="crop"):
        raise NotImplementedError


@pytest.fixture(scope="module")
def planted():
    return book(30, 20)


@pytest.fixture(scope="module")
def known(planted):
    return examples(planted, noise=0.05)


@pytest.fixture(scope="module")
def shelf(planted, known):
    fitted = Styled(penalty=0.5).fit(known)
    return Shelf.of(planted.models, fitted, signatures=signatures(planted), encoder=Words(planted))


def sure(shelf, **kw):
    given = {"prompt": "prompt 3", "policy": "greedy", "explore": 0, "rng": 0, "explicit": True} | kw
    return retrieve(**given, shelf=shelf)


def test_best_models_of_a_planted_world_come_first(shelf, known, planted):
    for prompt in range(0, 30, 5):
        picks = sure(shelf, prompt=f"prompt {prompt}", k=5, diversity=0)
        best = planted.models.ids.ids(np.argsort(-known.quality[prompt])[:5]).to_list()
        assert len(set(picks.table["id"]) & set(best)) >= 4
        assert picks.table[c.SCORE].is_sorted(descending=True)
    assert picks.table[c.POSITION].to_list() == [0, 1, 2, 3, 4]
    assert picks.table[c.PROBABILITY].to_list() == [1] * 5


def test_terms_add_up_and_are_said(shelf):
    table = sure(shelf, k=20, diversity=0).table
    assert np.allclose(table["general"] + table["suits"] + table["personal"], table[c.SCORE])
    assert "suits this prompt (+" in table["reason"][0]
    assert all(table["reason"])


def test_filters(shelf, planted):
    models = planted.models.table
    new = models.filter(pl.col("base") == "new")["id"]
    assert set(sure(shelf, base=["new"], k=20).table["id"]) == set(new)
    hidden = models["id"][3]
    safe = sure(shelf, explicit=False, k=20)
    assert hidden not in safe.table["id"]
    assert "1 explicit models hidden" in safe.about
    assert hidden in sure(shelf, k=20).table["id"]
    seen = models["id"][:15]
    assert set(sure(shelf, seen=seen, k=20).table["id"]) == set(models["id"][15:])
    with pytest.raises(InvalidArgument, match="loosen"):
        sure(shelf, base=["newest"])
    with pytest.raises(UnknownName, match="licence"):
        sure(shelf, licence=["MIT"])
    with pytest.raises(InvalidArgument, match="list such as"):
        sure(shelf, base="new")
    with pytest.raises(UnknownId):
        sure(shelf, seen=[-5])


def test_votes_move_the_order_and_strangers_are_told(shelf, planted):
    ids = planted.models.ids
    beloved = sure(shelf, k=20).table["id"][-1]
    votes = [Vote(pair(beloved, int(other)), "ada") for other in ids.series if other != beloved for _ in range(3)]
    ratings = fit(votes, ids)
    ada, bob = (from_votes(ratings, name, ids) for name in ("ada", "bob"))
    assert sure(shelf, person=ada, weight=2.0, diversity=0).table["id"][0] == beloved
    assert ada.known
    assert not bob.known
    assert "has not voted" in sure(shelf, person=bob).about[0]
    assert (bob.spread > ada.spread).all()
    assert "nobody in particular" in sure(shelf).about[0]


def test_likes_with_weights_from_what_was_shown(shelf, planted):
    ids, rng = planted.models.ids, np.random.default_rng(0)
    user, item = np.divmod(rng.choice(20 * 20, 300, replace=False), 20)
    kind = item % 4
    value = np.where((user % 4 == kind) ^ (rng.random(300) < 0.05), 1, -1)
    log = FeedbackLog.of([f"u{u}" for u in user], ids.ids(item), value)
    model = Factors(rank=4, reg=0.1).fit(log, weight=inverse(rng.uniform(0.2, 1, 300), log, clip=20), rng=0)
    person = from_likes(model, "u2", ids)
    assert person.mean[np.arange(20) % 4 == 2].mean() > person.mean.mean() + 0.2
    stranger = from_likes(model, "nobody", ids)
    assert not stranger.known
    assert not stranger.mean.any()
    assert "nothing personal" in stranger.about


def test_likes_of_pictures_count_for_their_models(planted):
    ids = planted.models.ids
    log = FeedbackLog.of(["a"] * 4 + ["b"] * 2, ["p1", "p2", "p3", "p4", "p1", "p3"], [1, 1, -1, -1, 1, -1])
    model = Factors(rank=2).fit(log, rng=0)
    of = pl.Series([7, 7, 17, 17])
    person = from_likes(model, "a", ids, of=of)
    scores = model.score(np.zeros(4, np.int32), np.arange(4, dtype=np.int32))
    assert person.mean[0] - person.mean[1] == pytest.approx(scores[:2].mean() - scores[2:].mean(), abs=1e-6)
    assert not person.mean[2:].any()
    with pytest.raises(InvalidArgument, match="model of each item"):
        from_likes(model, "a", ids, of=of[:2])
    with pytest.raises(InvalidArgument, match="knows none"):
        from_likes(model, "a", planted.only(models=[27]).models.ids, of=of)


@pytest.mark.parametrize("policy", ["thompson", "ucb", "greedy"])
def test_logged_probability_is_the_frequency(policy):
    """Of each ordered pair of cards: product of the logged probabilities = how often it was dealt."""
    rng = np.random.default_rng(5)
    score, spread, style = np.array([1.0, 0.9, 0.2]), np.array([0.3, 0.5, 0.4]), rng.normal(size=(5, 5))
    shown, logged, runs = Counter(), {}, 2000

    def alike(rows, above):
        return style[rows][:, above].max(1) if above else np.zeros(len(rows))

    for _ in range(runs):
        best, every = np.array([3, 0, 4]), np.arange(5)
        given = {"diversity": 0.3, "policy": policy, "explore": 0.3, "rng": rng}
        cards = deal(best, score, spread, every, 2, alike=alike, **given)
        rows = tuple(card.row for card in cards)
        shown[rows] += 1
        logged[rows] = cards[0].probability * cards[1].probability
    assert len(shown) == 5 * 4  # every pair can happen, also those the policy does not look at
    assert sum(logged.values()) == pytest.approx(1)
    for rows, n in shown.items():
        p = logged[rows]
        assert abs(n / runs - p) < 5 * np.sqrt(p * (1 - p) / runs)


def test_cards_come_from_the_deal(shelf):
    """First cards of many retrievals, against their logged probability."""
    gone = shelf.models.table["id"][3:]
    tables = [sure(shelf, k=1, pool=1, seen=gone, policy="thompson", explore=0.5, rng=seed).table for seed in range(60)]
    first = Counter(table["id"][0] for table in tables)
    for table in tables:
        p = table[c.PROBABILITY][0]
        assert abs(first[table["id"][0]] / 60 - p) < 5 * np.sqrt(p * (1 - p) / 60)


def test_nothing_has_probability_zero_when_exploring(shelf):
    table = sure(shelf, k=20, pool=20, policy="greedy", explore=0.1).table
    assert (table[c.PROBABILITY].to_numpy() >= 0.1 / 20).all()
    assert table[c.POLICY][0] == "greedy, 10% at random"


def test_diversity_spreads_over_styles(shelf):
    def kinds(diversity):
        return len({shelf.models.ids.rows([i])[0] % 4 for i in sure(shelf, k=4, diversity=diversity).table["id"]})

    alike = [sure(shelf, k=5, diversity=d).table["alike"].mean() for d in (0, 5)]
    assert alike[1] < alike[0]
    assert kinds(5) == 4


def test_guessed_models_say_so(planted, known):
    part = Styled().fit(known.part(models=np.arange(1, 20)))
    shelf = Shelf.of(planted.models, part, signatures=signatures(planted))
    table = sure(shelf, prompt=planted.texts[0], k=20).table
    assert "guessed from its description" in table.filter(pl.col("id") == 7)["reason"][0]
    assert table["reason"].str.contains("guessed").sum() == 1


def test_same_seed_same_cards(shelf):
    one, other = (sure(shelf, policy="thompson", explore=0.2, rng=3).table for _ in range(2))
    assert one.equals(other)


def test_bad_input(shelf, planted, known):
    for prompt in ("", "  \n", "x" * (LONGEST + 1)):
        with pytest.raises(InvalidArgument, match="characters"):
            sure(shelf, prompt=prompt)
    with pytest.raises(InvalidArgument, match="of length 1"):
        sure(shelf, prompt=planted.texts[0] * 2)
    with pytest.raises(InvalidArgument, match="same encoder"):
        sure(shelf, prompt=np.eye(5)[0])
    for wrong in ({"explore": 1.5}, {"k": 0}, {"pool": 2}, {"weight": -1.0}, {"diversity": np.nan}):
        with pytest.raises(InvalidArgument, match="expected explore"):
            sure(shelf, **wrong)
    bare = Shelf.of(planted.models, Mean().fit(known))
    with pytest.raises(InvalidArgument, match="signatures"):
        sure(bare, prompt=planted.texts[0])
    with pytest.raises(InvalidArgument, match="encoder"):
        sure(bare, diversity=0)
    other = Personal(planted.only(models=[7]).models.ids, np.zeros(1), np.zeros(1), True, "x")
    with pytest.raises(InvalidArgument, match="other models"):
        sure(shelf, person=other)


def test_content_without_any_facts_is_said():
    planted = book(6, 5)
    models = Catalog(planted.models.table.drop("tags"))
    shelf = Shelf.of(models, Mean().fit(examples(planted)))
    picks = sure(shelf, prompt=planted.texts[0], diversity=0, explicit=False)
    assert "nothing says which models are explicit" in picks.about


# -- search ------------------------------------------------------------------------------------------------------------


def test_search_is_a_sort():
    rng = np.random.default_rng(0)
    rows, q = rng.integers(-2, 3, (500, 3)).astype("f4"), np.array([1, 2, -1])  # many ties
    allowed, extra = rng.random(500) < 0.5, rng.integers(0, 3, 500)
    for k in (1, 7, 200, 600):
        at, scores = Index.of(rows).best(q, k, allowed=allowed, extra=extra)
        worth = np.where(allowed, rows @ q + extra, -np.inf)
        order = np.argsort(-worth, kind="stable")[: min(k, allowed.sum())]
        assert (at == order).all()
        assert np.allclose(scores, worth[order])
    assert largest(np.array([3.0, 1.0]), 5)[0].tolist() == [0, 1]


def test_beyond_exact_search_faiss_is_asked():
    rows = np.random.default_rng(0).normal(size=(3000, 8))
    if find_spec("faiss") is None:
        with pytest.raises(ImportError, match="faiss-cpu"):
            Index.of(rows, exact=100)
        return
    index = Index.of(rows, exact=100, visited=1.0)
    q, allowed = rows[5], np.arange(3000) % 2 == 1
    assert index.faiss is not None
    assert (index.best(q, 10, allowed=allowed)[0] == Index.of(rows).best(q, 10, allowed=allowed)[0]).all()


def test_search_bad_input():
    for rows in (np.zeros((0, 3)), np.zeros(3), np.full((2, 2), np.nan)):
        with pytest.raises(InvalidArgument, match="expected"):
            Index.of(rows)
    with pytest.raises(InvalidArgument, match="k from 1"):
        Index.of(np.ones((2, 2))).best(np.ones(3), 1)
