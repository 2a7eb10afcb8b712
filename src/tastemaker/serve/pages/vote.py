"""Compare and Leaderboard: blind battles between models, and what they tell with how much doubt.

Pictures of one prompt by different models are shown without names, on sides drawn by chance. What was asked, by which
policy and with which probability travels through the browser under a signature, so that nobody can answer a question
that was not asked, choose its probability, or answer it twice.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query
from starlette.responses import Response

from tastemaker.choose import rating, votes
from tastemaker.choose.belief import Leaderboard
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument, UnknownId
from tastemaker.serve.board import on_models
from tastemaker.serve.cards import show
from tastemaker.serve.events import Voted
from tastemaker.serve.gallery import NONE, Picture, Wish
from tastemaker.serve.visit import Here, Site, Visit

router = APIRouter(tags=["vote"])
POLICY = "random battle"
_MOST = 9  # keys 1 to 9
_ANY = Wish()


@router.get("/compare", summary="A blind question: which of these pictures of one prompt is best?")
def compare(
    here: Here,
    k: Annotated[int, Query(ge=2, le=_MOST, description="Pictures shown at once, from as many models.")] = 2,
    tag: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    return _ask(here, k, tag, last=None)


@router.post("/compare", summary="The answer to a question")
def vote(
    here: Here,
    question: Annotated[str, Form(max_length=4000, description="As it was asked.")],
    answer: Annotated[str, Form(max_length=10, description="1 to k, tie (of two), or none (none is good enough).")],
) -> Response:
    site = here.site
    asked = site.signer.open("question", question)
    if asked["person"] != here.person:
        raise InvalidArgument("this question was asked of somebody else; load the page again")
    items: list[str] = asked["items"]
    choices = _choices(items, answer)
    voted = Voted(here.person, choices, asked["tag"] or None, asked["policy"], asked["probability"])
    receipt = site.store.add(voted, key=f"question {asked['number']}")
    site.learned()
    pictures = [site.gallery.get(item) for item in items]
    best = choices[0].chosen
    last = {
        "seq": receipt.seq, "answer": answer, "models": [one.title for one in pictures],
        "best": [one.title for one in pictures if one.id in best],
    }  # fmt: skip
    return _ask(here, len(items), asked["only"], last)


@router.get("/leaderboard", summary="Models by votes, with intervals")
def leaderboard(
    here: Here,
    tag: Annotated[str, Query(max_length=200, description="Votes on prompts of this tag alone.")] = "",
    mine: Annotated[bool, Query(description="By your own votes, others' where you said nothing.")] = False,
) -> Response:
    site = here.site
    site.gallery.refresh()
    if not len(site.gallery):
        rows: list[dict[str, Any]] = []
        about = "nobody: the gallery is empty"
    else:
        board = _of_tag(site, tag) if tag else site.learner.leaderboard(person=here.person if mine else None)
        rows, about = ([] if board is None else _rows(site, board)), "" if board is None else board.about
    tags = [name for name, _ in site.gallery.counts(_ANY)["tag"] if name != NONE]
    facts = {"rows": rows, "about": about, "votes": site.store.counts()["votes"], "tag": tag, "mine": mine}
    ends = [row["low"] for row in rows] + [row["high"] for row in rows]
    view = {"tags": tags, "low": min(ends, default=-1.0), "high": max(ends, default=1.0)}
    return here.page("leaderboard.html", facts, view=view)


@router.get("/model/{name:path}", summary="A model: its card, what people think of it, examples")
def model(here: Here, name: str) -> Response:
    site = here.site
    site.gallery.refresh()
    known = site.gallery.model(name)
    pictures = [one for one in site.gallery.everything() if one.model == name]
    rows = _rows(site, site.learner.leaderboard()) if len(site.gallery) else []
    place = next((row for row in rows if row["id"] == name), None)
    examples = show(site, here.person, pictures[-12:][::-1], "model page", [1.0] * min(12, len(pictures)))
    facts = {"model": known, "place": place, "of": len(rows), "pictures": len(pictures), "examples": examples}
    facts["model"] = {name: value for name, value in vars(known).items() if name != "examples"}  # files stay here
    return here.page("model.html", facts, view={"draws": known.draws})


def _ask(here: Visit, k: int, tag: str, last: dict[str, Any] | None) -> Response:
    site = here.site
    site.gallery.refresh()
    found = _question(site, k, tag)
    if found is None:
        facts: dict[str, Any] = {"cards": [], "question": None, "last": last, "k": k, "tag": tag}
        return here.page("_battle.html" if here.htmx else "compare.html", facts)
    pictures, probability = found
    items = [one.id for one in pictures]
    asked = {
        "person": here.person, "items": items, "tag": "" if pictures[0].tag == NONE else pictures[0].tag, "only": tag,
        "policy": POLICY, "probability": probability, "number": secrets.token_hex(8),
    }  # fmt: skip
    shown = show(site, here.person, pictures, POLICY, [probability] * len(items))
    blind = [
        {"id": one.id, "prompt": one.prompt, "image": one.image, "pixels": one.pixels, "impression": one.impression}
        for one in shown
    ]
    facts = {
        "cards": blind, "prompt": pictures[0].prompt, "question": site.signer.seal("question", asked), "last": last,
        "policy": POLICY, "probability": probability, "k": k, "tag": tag,
    }  # fmt: skip
    return here.page("_battle.html" if here.htmx else "compare.html", facts)


def _question(site: Site, k: int, tag: str) -> tuple[list[Picture], float] | None:
    """A prompt, k of its models, a picture of each and their order, all by chance; and with which probability.

    None where no prompt has pictures by two models. Where no prompt has k models, as many as there are.
    """
    models: dict[str, dict[str, list[Picture]]] = {}
    for prompt, pictures in site.gallery.by_prompt().items():
        if tag and pictures[0].tag != tag:
            continue
        of: dict[str, list[Picture]] = {}
        for picture in pictures:
            of.setdefault(picture.model, []).append(picture)
        if len(of) >= 2:
            models[prompt] = of
    if not models:
        return None
    k = min(k, max(map(len, models.values())))
    prompts = [prompt for prompt, of in models.items() if len(of) >= k]
    rng = site.rng()
    of = models[prompts[int(rng.integers(len(prompts)))]]
    names = [list(of)[at] for at in rng.permutation(len(of))[:k]]
    chosen = [of[name][int(rng.integers(len(of[name])))] for name in names]
    ways = len(prompts) * math.perm(len(of), k) * math.prod(len(of[name]) for name in names)
    return chosen, 1 / ways


def _choices(items: Sequence[str], answer: str) -> tuple[votes.Choice, ...]:
    if answer == "none":
        return votes.both_bad(*items) if len(items) == 2 else (votes.Choice((votes.BAR,), (*items, votes.BAR)),)
    if answer == "tie" and len(items) == 2:
        return votes.tie(*items, bad=True)
    if not (answer.isdecimal() and 1 <= int(answer) <= len(items)):
        kinds = f"1 to {len(items)}, {'tie, ' if len(items) == 2 else ''}none"
        raise InvalidArgument(f"answer '{answer}'; expected one of {kinds}")
    best = items[int(answer) - 1]
    if len(items) == 2:
        return votes.pair(best, next(item for item in items if item != best), ties=True, bad=True)
    return votes.pick(best, items, bad=True)


def _rows(site: Site, board: Leaderboard) -> list[dict[str, Any]]:
    return [
        row
        | {"title": site.gallery.title(row["id"]), "maker": getattr(site.gallery.models.get(row["id"]), "maker", None)}
        for row in board.table.to_dicts()
    ]


def _of_tag(site: Site, tag: str) -> Leaderboard | None:
    """A board fitted from the votes on one tag; None where there are none."""
    model_of = {one.id: one.model for one in site.gallery.everything()}
    if tag not in {one.tag for one in site.gallery.everything()}:
        raise UnknownId(f"no picture has the tag '{tag[:80]}'; the Explore page lists those there are")
    known = [
        replace(on_models(vote, model_of), person=None, tag=None)
        for _, vote in site.store.votes()
        if vote.tag == tag and all(item in model_of for one in vote.choices for item in one.among if item is not None)
    ]
    known = [vote for vote in known if vote.choices]
    trust = site.learner.plan.trust
    known = trust(known) if trust else known
    if not known:
        return None
    board = rating.fit(known, Vocabulary.of(sorted(set(model_of.values())))).leaderboard()
    return replace(board, about=f"everybody, on prompts of '{tag}'")
