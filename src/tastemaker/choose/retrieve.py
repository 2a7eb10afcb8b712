"""Which models to offer for a prompt and a person: stage one of GEMRec (arXiv 2308.02205), which there is browsing.

    score = quality of the model for this prompt (predictor)
          + weight * what the person's votes or likes say of the model (personal)
          - diversity * likeness to the cards above it (maximal marginal relevance; Carbonell & Goldstein 1998)

Cards are chosen one after another. For each, a policy (`explore`) turns scores and what is not known about them into
probabilities, one model is drawn from exactly these, and the probability is put into the table; it is that of this card
next, given the cards above. With explore > 0 every model that passes the filters has a positive one.

Facts that are easy to get wrong:
- All terms are in standard deviations of quality over models, so weights can be read.
- The policy looks at the `pool` best models by score without diversity; the random share looks at all of them.
- What the content filter does not know it cannot hide: without a column `explicit` it goes by the tags people gave.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker import columns as c
from tastemaker.choose.explore import Policy, chances
from tastemaker.choose.personal import Personal
from tastemaker.choose.predictor import Fitted
from tastemaker.choose.search import EXACT, Index
from tastemaker.choose.signature import Signatures
from tastemaker.data.catalog import ID, Catalog
from tastemaker.data.vocabulary import Ids
from tastemaker.errors import InvalidArgument
from tastemaker.evaluate.images.embedding import Encoder

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.integer]

LONGEST = 4000  # characters; encoders read some 300 of them and warn of the rest
EXPLICIT = frozenset({"nsfw", "nude", "nudes", "nude model", "sexy", "porn", "hentai", "ecchi", "explicit", "adult"})


@dataclass(frozen=True, eq=False)
class Shelf:
    """What can be chosen from; build it with `of`.

    Attributes:
        models: facts; filters read the columns base, licence, explicit and tags.
        fitted: predicts quality, rows as in `models`.
        signatures: for diversity, rows as in `models`; or None.
        encoder: turns prompts into vectors; None where prompts are given as vectors.
        index: over `fitted.rows`.
    """

    models: Catalog
    fitted: Fitted
    signatures: Signatures | None
    encoder: Encoder | None
    index: Index

    @classmethod
    def of(
        cls,
        models: Catalog,
        fitted: Fitted,
        *,
        signatures: Signatures | None = None,
        encoder: Encoder | None = None,
        exact: int = EXACT,
    ) -> Shelf:
        """Models nobody tried get quality and signature from their words. `exact`: see `search.Index.of`."""
        if fitted.models != models.ids:
            fitted = fitted.cold(models)
        if signatures is not None and signatures.ids != models.ids:
            signatures = signatures.cold(models)
        return cls(models, fitted, signatures, encoder, Index.of(fitted.rows, exact=exact))

    def passing(
        self, *, base: Sequence[str] = (), licence: Sequence[str] = (), explicit: bool = False, seen: Ids = ()
    ) -> Flags:
        """Which models pass these filters, shape (n,). Raises UnknownName where a filter's column is missing."""
        keep = np.ones(len(self.models), np.bool_)
        for name, wanted in (("base", base), ("licence", licence)):
            if isinstance(wanted, str):
                raise InvalidArgument(f"{name}='{wanted}'; expected a list such as ['{wanted}']")
            if wanted:
                keep &= self.models.column(name).is_in(list(wanted)).fill_null(False).to_numpy()
        if not explicit:
            keep &= ~explicit_models(self.models)
        if len(seen):
            keep[self.models.ids.rows(seen)] = False
        return keep


@dataclass(frozen=True)
class Card:
    """A model to show: its row, the probability with which it was drawn, and its likeness to the nearest card above."""

    row: int
    probability: float
    alike: float | None


@dataclass(frozen=True, eq=False)
class Picks:
    """What to show.

    Attributes:
        table: a row a card, in the order shown: id, position from 0, score (general + suits + personal), its terms
            general, suits and personal, spread, alike (likeness to the nearest card above, null for the first), policy,
            probability, reason.
        about: what should be said with it: whose taste this is, what was hidden.
    """

    table: pl.DataFrame
    about: tuple[str, ...]


def retrieve(
    prompt: str | NDArray[np.floating],
    person: Personal | None = None,
    *,
    shelf: Shelf,
    k: int = 8,
    base: Sequence[str] = (),
    licence: Sequence[str] = (),
    explicit: bool = False,
    seen: Ids = (),
    weight: float = 0.5,
    diversity: float = 0.2,
    policy: Policy = "thompson",
    explore: float = 0.05,
    pool: int = 100,
    rng: int | np.random.Generator,
) -> Picks:
    """Models for a prompt and a person.

    Args:
        prompt: what to draw, or its unit vector, shape (dim,).
        person: from `personal`; None is nobody in particular.
        shelf: the models.
        k: cards; fewer where fewer models pass the filters.
        base, licence: keep only models with one of these; empty keeps all.
        explicit: whether explicit models may be shown.
        seen: models to leave out, for example those already shown to the person.
        weight: of the personal term.
        diversity: how much a model that draws just like a card above loses.
        policy, explore: see `explore`.
        pool: how many of the best models the policy looks at, at least k.

    Raises InvalidArgument for an empty or endless prompt, or where no model passes the filters; UnknownName and
    UnknownId for columns and models that are not there.
    """
    if not 0 <= explore <= 1 or k < 1 or pool < k or not (weight >= 0 and diversity >= 0):
        raise InvalidArgument(
            f"explore={explore}, k={k}, pool={pool}, weight={weight}, diversity={diversity}; expected explore from 0 "
            f"to 1, k from 1, pool from k, weight and diversity from 0"
        )
    if diversity and shelf.signatures is None:
        raise InvalidArgument("diversity needs signatures; build the shelf with them, or pass diversity=0")
    if person is not None and person.models != shelf.models.ids:
        raise InvalidArgument("the personal term is about other models; build it with models=shelf.models.ids")
    query = shelf.fitted.query(_vector(prompt, shelf)[None])[0]
    passing = shelf.passing(base=base, licence=licence, explicit=explicit, seen=seen)
    if not passing.any():
        raise InvalidArgument(
            f"none of {len(passing)} models passes the filters base={list(base)}, licence={list(licence)}, "
            f"explicit={explicit}, {len(seen)} seen; loosen them"
        )
    liking = np.zeros(len(passing)) if person is None else weight * person.mean
    unsure = shelf.fitted.spread if person is None else np.hypot(shelf.fitted.spread, weight * person.spread)
    best = shelf.index.best(query, pool, allowed=passing, extra=liking)[0]
    score = shelf.fitted.rows[best] @ query + liking[best]
    cards = deal(
        best,
        score,
        unsure[best],
        np.flatnonzero(passing),
        k,
        alike=lambda rows, shown: _alike(shelf, rows, shown),
        diversity=diversity,
        policy=policy,
        explore=explore,
        rng=np.random.default_rng(rng),
    )
    return Picks(_table(shelf, cards, query, liking, unsure, policy, explore), _about(shelf, person, passing, explicit))


def deal(
    best: Rows,
    score: Floats,
    spread: Floats,
    open_to_chance: Rows,
    k: int,
    *,
    alike: Callable[[Rows, list[int]], Floats],
    diversity: float,
    policy: Policy,
    explore: float,
    rng: np.random.Generator,
) -> list[Card]:
    """Draw up to k cards, one after another, each from the probabilities that are logged with it.

    Args:
        best, score, spread: rows of the models the policy looks at, and what is believed of them.
        open_to_chance: rows of all models that may be shown; `best` are among them.
        alike: likeness of models to the nearest of those shown.
    """
    cards: list[Card] = []
    for _ in range(min(k, len(open_to_chance))):
        shown = [card.row for card in cards]
        share = explore if len(best) else 1.0
        chance = np.zeros(0)
        if len(best):
            chance = chances(score - diversity * alike(best, shown), spread, policy=policy)
        by_chance = rng.random() < share
        at = int(rng.choice(open_to_chance) if by_chance else rng.choice(best, p=chance))
        probability = share / len(open_to_chance) + (1 - share) * float(chance[best == at].sum())
        cards.append(Card(at, probability, float(alike(np.array([at]), shown)[0]) if shown else None))
        keep = best != at
        best, score, spread = best[keep], score[keep], spread[keep]
        open_to_chance = open_to_chance[open_to_chance != at]
    return cards


def explicit_models(models: Catalog) -> Flags:
    """By the column `explicit` where there is one, else by tags that people gave, shape (n,)."""
    if "explicit" in models.table.columns:
        return models.column("explicit").fill_null(True).to_numpy()
    if "tags" in models.table.columns:
        tags = models.column("tags").to_list()
        return np.array([any(tag.lower() in EXPLICIT for tag in each or ()) for each in tags], np.bool_)
    return np.zeros(len(models), np.bool_)


def _vector(prompt: str | NDArray[np.floating], shelf: Shelf) -> Floats:
    if not isinstance(prompt, str):
        vector = np.asarray(prompt, np.float64)
        if vector.ndim != 1 or not abs(np.linalg.norm(vector) - 1) < 1e-3:
            raise InvalidArgument(f"a prompt's vector of shape {vector.shape}; expected (dim,), of length 1")
        return vector
    if not prompt.strip() or len(prompt) > LONGEST:
        raise InvalidArgument(f"a prompt of {len(prompt)} characters; expected words, at most {LONGEST} characters")
    if shelf.encoder is None:
        raise InvalidArgument("the shelf has no encoder for texts; build it with encoder=..., or pass a vector")
    return np.asarray(shelf.encoder.embed_texts([prompt]).vectors[0], np.float64)


def _alike(shelf: Shelf, rows: Rows, shown: list[int]) -> Floats:
    """Cosine of these models' signatures with the nearest of those shown, shape (len(rows),); 0 without either."""
    if shelf.signatures is None or not shown:
        return np.zeros(len(rows))
    own, above = (shelf.signatures.vectors[at] for at in (rows, shown))
    length = np.linalg.norm(own, axis=1)[:, None] * np.linalg.norm(above, axis=1)
    return np.asarray((own @ above.T / np.maximum(length, 1e-12)).max(1))


def _table(
    shelf: Shelf,
    cards: list[Card],
    query: Floats,
    liking: Floats,
    unsure: Floats,
    policy: str,
    explore: float,
) -> pl.DataFrame:
    rows = np.array([card.row for card in cards])
    quality, general = shelf.fitted.rows[rows] @ query, shelf.fitted.general[rows]
    table = pl.DataFrame(
        {
            ID: shelf.models.ids.ids(rows),
            c.POSITION: np.arange(len(rows), dtype=np.int32),
            c.SCORE: quality + liking[rows],
            "general": general,
            "suits": quality - general,
            "personal": liking[rows],
            "spread": unsure[rows],
            "alike": pl.Series([card.alike for card in cards], dtype=pl.Float64),
            c.POLICY: f"{policy}, {explore:.0%} at random",
            c.PROBABILITY: [card.probability for card in cards],
        }
    )
    guessed = shelf.fitted.guessed[rows]
    reasons = [_reason(facts, bool(new)) for facts, new in zip(table.iter_rows(named=True), guessed, strict=True)]
    return table.with_columns(pl.Series("reason", reasons, pl.String))


def _reason(facts: dict[str, float], guessed: bool) -> str:
    """The terms of the score in words, the largest first; what is too small to matter is left out."""
    said = {
        "general": ("good on most prompts", "weak on most prompts"),
        "suits": ("suits this prompt", "less suited to this prompt"),
        "personal": ("to your taste", "less to your taste"),
    }
    terms = sorted((name for name in said if abs(facts[name]) >= 0.1), key=lambda name: -facts[name])
    words = [f"{said[name][facts[name] < 0]} ({facts[name]:+.1f})" for name in terms]
    if facts["score"] < 0:
        words.append("shown to learn more about it")
    if guessed:
        words.append("not tried yet: guessed from its description")
    return ", ".join(words) or "about average in everything"


def _about(shelf: Shelf, person: Personal | None, passing: Flags, explicit: bool) -> tuple[str, ...]:
    said = ["nobody in particular: nothing personal in this choice" if person is None else person.about]
    said.append(f"chosen among {int(passing.sum())} of {len(passing)} models")
    if not explicit:
        known = {"explicit", "tags"} & set(shelf.models.table.columns)
        hidden = int(explicit_models(shelf.models).sum())
        said.append(f"{hidden} explicit models hidden" if known else "nothing says which models are explicit")
    return tuple(said)
