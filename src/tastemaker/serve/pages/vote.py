"""Compare and Leaderboard: blind battles between models, and what they tell with how much doubt.

Pictures of one prompt by different models are shown without names, on sides drawn by chance. Which two models meet is
`choose.pairing`'s to say, by what everybody's votes left open; more than two are drawn by lot, and may be put in order.
What was asked, by which policy and with which probability travels through the browser under a signature, so that nobody
can answer a question that was not asked, choose its probability, or answer it twice.
"""

from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Form, Query
from markupsafe import Markup
from starlette.responses import Response

from tastemaker.choose import pairing, rating, votes
from tastemaker.choose.belief import Belief, Leaderboard
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument, UnknownId
from tastemaker.serve.answers import templates
from tastemaker.serve.board import on_models
from tastemaker.serve.cards import card, show
from tastemaker.serve.events import Voted
from tastemaker.serve.gallery import NONE, Picture
from tastemaker.serve.kept import Kept
from tastemaker.serve.visit import Here, Site, Visit

router = APIRouter(tags=["vote"])
_MOST = 9  # keys 1 to 9
_MEET = 32  # models of a prompt
_TABLES = 50  # kept as HTML


@router.get("/compare", summary="A blind question: which of these pictures of one prompt is best?")
def compare(
    here: Here,
    k: Annotated[int, Query(ge=2, le=_MOST, description="Pictures shown at once, from as many models.")] = 2,
    tag: Annotated[str, Query(max_length=200)] = "",
    order: Annotated[bool, Query(description="Ask for all of them in order, not for the best.")] = False,
) -> Response:
    return _ask(here, k, tag, order, last=None)


@router.post("/compare", summary="The answer to a question")
def vote(
    here: Here,
    question: Annotated[str, Form(max_length=4000, description="As it was asked.")],
    answer: Annotated[
        str,
        Form(
            max_length=20,
            description="1 to k, tie (of two), none (none is good enough), or several of them in order: 3,1,2.",
        ),
    ],
    order: Annotated[
        bool, Form(description="Ask for the next place until all have one; nothing is stored yet.")
    ] = False,
) -> Response:
    site = here.site
    asked = site.signer.open("question", question)
    if asked["person"] != here.person:
        raise InvalidArgument("this question was asked of somebody else; load the page again")
    items: list[str] = asked["items"]
    choices = _choices(items, answer)
    if order and answer != "none" and len(choices) < len(items) - 1:
        return _asked(here, asked, question, placed=[int(one) for one in answer.split(",")])
    voted = Voted(here.person, choices, asked["tag"] or None, asked["policy"], asked["probability"])
    receipt = site.store.add(voted, key=f"question {asked['number']}")
    site.learned()
    pictures = [site.gallery.get(item) for item in items]
    best = choices[0].chosen
    last = {
        "seq": receipt.seq, "answer": answer, "models": [one.title for one in pictures],
        "best": [one.title for one in pictures if one.id in best],
        "order": [site.gallery.get(str(one.chosen[0])).title for one in choices[1:]],
    }  # fmt: skip
    return _ask(here, len(items), asked["only"], order, last)


@router.get("/leaderboard", summary="Models by votes, with intervals")
def leaderboard(
    here: Here,
    tag: Annotated[str, Query(max_length=200, description="Votes on prompts of this tag alone.")] = "",
    mine: Annotated[bool, Query(description="By your own votes, others' where you said nothing.")] = False,
) -> Response:
    site = here.site
    site.gallery.refresh()
    votes = site.store.counts()["votes"]
    board, counted = None, votes
    if len(site.gallery):
        if tag:
            counted, board = _of_tag(site, tag) or (votes, None)
        else:
            board = site.learner.leaderboard(person=here.person if mine else None)
            counted -= 0 if mine else site.learner.waiting()
    table = None if board is None else _table(site, board, f"tag {tag}" if tag else "" if not mine else None)
    facts = {
        "rows": [] if table is None else table.rows, "about": "" if board is None else board.about, "votes": votes,
        "waiting": max(0, votes - counted), "tag": tag, "mine": mine,
    }  # fmt: skip
    return here.page("leaderboard.html", facts, view={"tags": site.gallery.tags, "table": table and table.html})


def _ask(here: Visit, k: int, tag: str, order: bool, last: dict[str, Any] | None) -> Response:
    site = here.site
    site.gallery.refresh()
    found = _question(site, k, tag)
    if found is None:
        facts: dict[str, Any] = {"cards": [], "question": None, "last": last, "k": k, "tag": tag, "order": order}
        return here.page("_battle.html" if here.htmx else "compare.html", facts)
    pictures, policy, probability = found
    items = [one.id for one in pictures]
    shown = show(site, here.person, pictures, policy, [probability] * len(items))
    asked = {
        "person": here.person, "items": items, "tag": "" if pictures[0].tag == NONE else pictures[0].tag, "only": tag,
        "policy": policy, "probability": probability, "number": secrets.token_hex(8),
        "impressions": [one.impression for one in shown],
    }  # fmt: skip
    return _asked(here, asked, site.signer.seal("question", asked), last=last, order=order and len(items) > 2)


def _asked(
    here: Visit, asked: dict[str, Any], question: str, *, placed: Sequence[int] = (),
    last: dict[str, Any] | None = None, order: bool = True,
) -> Response:  # fmt: skip
    """A question on the page, and the places given so far, blind: no card names its model."""
    cards = [card(here.site.gallery.get(item)) for item in asked["items"]]
    blind = [
        {"id": one.id, "prompt": one.prompt, "image": one.image, "pixels": one.pixels, "impression": impression}
        for one, impression in zip(cards, asked["impressions"], strict=True)
    ]
    facts = {
        "cards": blind, "prompt": cards[0].prompt, "question": question, "last": last, "policy": asked["policy"],
        "probability": asked["probability"], "k": len(blind), "tag": asked["only"], "order": order, "placed": placed,
    }  # fmt: skip
    return here.page("_battle.html" if here.htmx else "compare.html", facts)


def _question(site: Site, k: int, tag: str) -> tuple[list[Picture], str, float] | None:
    """A prompt by chance, k of its models, a picture of each by chance; by which policy and with which probability.

    Two models are those that `pairing.ask` asks about, on its sides; more are drawn by lot, with their order. None
    where no prompt has pictures by two models. Where no prompt has k models, as many as there are.

    Where many models drew the prompt, some drawn by lot meet: a pair that tells nearly as much is among them, the
    question costs little, and two people asked at once are asked different things. The probability is that both were
    drawn, times that of the pair among those drawn: 1 / it has mean 1 over all that might have been asked.
    """
    models = site.gallery.battles(tag)
    if not models:
        return None
    k = min(k, max(map(len, models.values())))
    prompts = [prompt for prompt, of in models.items() if len(of) >= k]
    rng, settings = site.rng(), site.settings
    of = models[prompts[int(rng.integers(len(prompts)))]]
    met = list(of)
    if len(of) > _MEET:
        met = [met[at] for at in rng.permutation(len(of))[:_MEET]]
    belief = site.learner.belief() if k == 2 and settings.ask != "random" else None
    if belief is not None and (belief.ids.find(met) >= 0).all():  # a picture stored without a model has no board
        two = pairing.ask(_part(belief, met), policy=settings.ask, ties=True, explore=settings.explore, rng=rng)
        names, policy = [str(two.left), str(two.right)], f"{settings.ask} battle"
        chance = two.probability * math.perm(len(met), 2) / math.perm(len(of), 2)
    else:
        names = [list(of)[at] for at in rng.permutation(len(of))[:k]]
        policy, chance = "random battle", 1 / math.perm(len(of), k)
    chosen = [of[name][int(rng.integers(len(of[name])))] for name in names]
    return chosen, policy, chance / (len(prompts) * math.prod(len(of[name]) for name in names))


def _part(belief: Belief, names: list[str]) -> Belief:
    """What is believed of these alone: asking about few costs little."""
    rows, n = belief.ids.rows(names), len(belief.ids)
    at = np.r_[rows, n, n + 1]
    return Belief(Vocabulary.of(names), belief.mean[at], belief.cov[np.ix_(at, at)], belief.votes[rows], belief.about)


def _choices(items: Sequence[str], answer: str) -> tuple[votes.Choice, ...]:
    """What was said of these. An order is a choice among all, "none" included, then among those left, and so on."""
    if answer == "none":
        return votes.both_bad(*items) if len(items) == 2 else (votes.Choice((votes.BAR,), (*items, votes.BAR)),)
    if answer == "tie" and len(items) == 2:
        return votes.tie(*items, bad=True)
    given = answer.split(",")
    if not all(one.isascii() and one.isdecimal() and 1 <= int(one) <= len(items) for one in given):
        kinds = f"1 to {len(items)}, {'tie, ' if len(items) == 2 else 'several in order such as 2,1, '}none"
        raise InvalidArgument(f"answer '{answer}'; expected one of {kinds}")
    order = [items[int(one) - 1] for one in given]
    if len(set(order)) < len(order):
        raise InvalidArgument(f"answer '{answer}' gives a picture two places; expected each once")
    best = order[0]
    if len(items) == 2:
        return (votes.Choice((best,), (*items, votes.BAR), ties=True),)  # unlike `votes.pair`, with its sides
    left, choices = list(items), list(votes.pick(best, items, bad=True))
    for item, after in itertools.pairwise(order):
        left.remove(item)
        if len(left) > 1:
            choices.append(votes.Choice((after,), tuple(left)))
    return tuple(choices)


def placed(site: Site, board: Leaderboard) -> list[dict[str, Any]]:
    return [
        row
        | {"title": site.gallery.title(row["id"]), "maker": getattr(site.gallery.models.get(row["id"]), "maker", None)}
        for row in board.table.to_dicts()
    ]


@dataclass(frozen=True, eq=False)
class Table:
    """A board as rows and as HTML, kept while it is the same: two hundred rows take longer to write than to read."""

    board: Leaderboard
    rows: list[dict[str, Any]]
    html: Markup


def _table(site: Site, board: Leaderboard, name: str | None) -> Table:
    """The table of a board; kept under a name where it has one."""
    found: Table | None = site.tables.get(name) if name is not None else None
    if found is None or found.board is not board:
        rows = placed(site, board)
        low, high = min(row["low"] for row in rows), max(row["high"] for row in rows)
        text = templates().get_template("_board.html").render(rows=rows, low=low, high=high)
        found = Table(board, rows, Markup(text))
        if name is not None and (name in site.tables or len(site.tables) < _TABLES):
            site.tables[name] = found
    return found


def _of_tag(site: Site, tag: str) -> tuple[int, Leaderboard] | None:
    """A board fitted from the votes on one tag, and how many votes there were then; None where there are none.

    Fitted anew where there are others since; where that takes longer than a moment, the last one.
    """
    if tag not in site.gallery.tags:
        raise UnknownId(f"no picture has the tag '{tag[:80]}'; the Explore page lists those there are")
    counts = site.store.counts()
    key = counts["votes"], counts["retractions"], counts["generations"], site.learner.vetted.seq
    return site.boards.setdefault(tag, Kept(partial(_fitted, site, tag))).get(key, patience=30)


def _fitted(site: Site, tag: str) -> tuple[int, Leaderboard] | None:
    votes, numbered = site.store.counts()["votes"], site.store.votes()
    trusted = site.learner.trusted(numbered)
    model_of = {one.id: one.model for one in site.gallery.everything()}
    known = [
        replace(on_models(vote, model_of), person=None, tag=None)
        for vote in trusted
        if vote.tag == tag and all(item in model_of for one in vote.choices for item in one.among if item is not None)
    ]
    known = [vote for vote in known if vote.choices]
    if not known:
        return None
    board = rating.fit(known, Vocabulary.of(sorted(set(model_of.values())))).leaderboard()
    return votes - (len(numbered) - len(trusted)), replace(board, about=f"everybody, on prompts of '{tag}'")
