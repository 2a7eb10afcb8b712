"""For you, what people say, and taking it back."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Annotated, Literal

from fastapi import APIRouter, Body, Form, Header, Query
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from tastemaker.errors import TastemakerError, UnknownId
from tastemaker.serve.answers import status_of
from tastemaker.serve.cards import Card, as_shown, card, show
from tastemaker.serve.events import Receipt, Said, Undone
from tastemaker.serve.gallery import Picture
from tastemaker.serve.store import Past, Word
from tastemaker.serve.taste import Picks
from tastemaker.serve.visit import Here, Site, Visit

router = APIRouter(tags=["taste"])
VALUES = {"like": 1, "superlike": 1, "dislike": -1}
Key = Annotated[str | None, Header(alias="Idempotency-Key", max_length=100)]


@router.get("/for-you", summary="Pictures chosen for you; each is logged as shown")
async def for_you(
    here: Here,
    k: Annotated[int, Query(ge=1, le=50, description="How many; the page shows one at a time.")] = 1,
    again: Annotated[bool, Query(description="Also what you were shown before and said nothing about.")] = False,
) -> Response:
    return await _chosen(here, k, again=again)


@router.post("/say", summary="Like, superlike or dislike a picture")
async def say(
    here: Here,
    item: Annotated[str, Form(max_length=200)],
    value: Annotated[Literal["like", "superlike", "dislike"], Form()],
    impression: Annotated[
        int | None, Form(ge=1, le=2**62, description="That it answers; the last one if none.")
    ] = None,
    then: Annotated[Literal["card", "deck"], Form(description="What to answer with.")] = "card",
    key: Key = None,
) -> Response:
    picture = here.site.gallery.get(item)
    said = Said(here.person, picture.id, VALUES[value], value == "superlike", impression)
    sent = here.site.store.submit(said, key=_key(here, key))
    receipt = await asyncio.wrap_future(sent)  # no thread waits for the disk
    if here.site.due(receipt.seq):
        await run_in_threadpool(here.site.learned)
    if then == "deck":
        return await _chosen(here, 1)
    if receipt.repeated:  # something else may have been said since
        return await run_in_threadpool(_again, here, picture, impression, receipt.seq)
    word = Word(said.value, said.superlike, receipt.seq, receipt.time)
    return _told(here, picture, word, impression, receipt.seq)


class Spoken(BaseModel):
    """A word among several."""

    item: Annotated[str, Field(max_length=200)]
    value: Literal["like", "superlike", "dislike"]
    impression: Annotated[int | None, Field(ge=1, le=2**62)] = None
    key: Annotated[str | None, Field(max_length=100, description="As the header Idempotency-Key of one word.")] = None


@router.post("/say/many", summary="Several words at once, such as those said while offline")
async def say_many(here: Here, words: Annotated[list[Spoken], Body(min_length=1, max_length=100)]) -> Response:
    """What came of each, in order: its number, or the status and message that it alone would have had."""
    sent = [_spoken(here, word) for word in words]
    if waiting := [one for one in sent if not one.done()]:
        await asyncio.wait([asyncio.wrap_future(waiting[-1])])  # they are stored in order: one wait for all
    told, seq = [], 0
    for word, one in zip(words, sent, strict=True):
        try:
            seq = one.result().seq
            told.append({"item": word.item, "seq": seq})
        except TastemakerError as error:
            told.append({"item": word.item, "status": status_of(error), "message": str(error)})
    if here.site.due(seq):
        await run_in_threadpool(here.site.learned)
    return here.go("/history", {"words": told})


def _spoken(here: Visit, word: Spoken) -> Future[Receipt]:
    """The word on its way; a future that has failed already where it cannot go."""
    try:
        item = here.site.gallery.get(word.item).id
        said = Said(here.person, item, VALUES[word.value], word.value == "superlike", word.impression)
        return here.site.store.submit(said, key=_key(here, word.key))
    except TastemakerError as error:
        failed = Future[Receipt]()
        failed.set_exception(error)
        return failed


def _key(here: Visit, key: str | None) -> str | None:
    """Of this person, whatever others call theirs."""
    return None if key is None else f"{here.person[:90]} {key}"


@router.post("/undo", summary="Take back a word or a vote: the last one, or the one given")
def undo(
    here: Here,
    seq: Annotated[int | None, Form(ge=1, le=2**62)] = None,
    then: Annotated[Literal["card", "deck", "history"], Form()] = "history",
) -> Response:
    site = here.site
    past = next(
        (one for one in site.store.history(here.person, 500) if (not one.undone if seq is None else one.seq == seq)),
        None,
    )
    if past is None:
        raise UnknownId("nothing of yours to take back" if seq is None else f"you said nothing under the number {seq}")
    site.store.add(Undone(here.person, past.seq))
    known = [site.gallery.get(item) for item in past.items if site.gallery.has(item)]
    if then == "deck" and known:
        cards = show(site, here.person, known[:1], "undone", [1.0], why=["You took your word back."])
        values, version = site.store.stand(here.person).values, site.learner.version.version
        return _deck(here, cards, int((values > 0).sum()), int((values < 0).sum()), version)
    if then == "card" and known and past.value is not None:
        return _again(here, known[0], None, past.seq)
    return here.go("/history", {"undone": past.seq, "items": past.items})


@router.get("/history", summary="What you said and voted, newest first")
def history(here: Here, k: Annotated[int, Query(ge=1, le=500)] = 60) -> Response:
    entries = [_entry(here.site, past) for past in here.site.store.history(here.person, k)]
    return here.page("history.html", {"entries": entries})


def _again(here: Visit, picture: Picture, impression: int | None, seq: int) -> Response:
    """The card once more, with what is in force now."""
    return _told(here, picture, here.site.store.words(here.person).get(picture.id), impression, seq)


def _told(here: Visit, picture: Picture, word: Word | None, impression: int | None, seq: int) -> Response:
    shown = card(picture, word, impression=impression)
    if here.htmx:
        return here.page("_reactions.html", {"card": shown})
    return here.go(shown.page, {"seq": seq, "card": shown.__dict__})


async def _chosen(here: Visit, k: int, *, again: bool = False) -> Response:
    picks, pictures, why = await run_in_threadpool(_picked, here.site, here.person, k, again)
    cards: list[Card] = []
    if pictures:
        shown = picks.shown(here.person)
        receipt = await asyncio.wrap_future(here.site.store.submit(shown))  # no thread waits for the disk
        cards = as_shown(pictures, shown, receipt.seq, why, {})  # nothing was said of any of these
    return _deck(here, cards, picks.likes, picks.dislikes, picks.version)


def _picked(site: Site, person: str, k: int, again: bool) -> tuple[Picks, list[Picture], list[str]]:
    """What to show, and why."""
    stand = site.store.stand(person)
    site.gallery.refresh(stand.n_items)
    picks = site.learner.recommend(
        person, k, among=site.gallery.allowed, stand=stand, unseen_only=not again, explore=site.settings.explore,
        reasons=3, rng=site.rng(),
    )  # fmt: skip
    pictures = [site.gallery.get(item) for item in picks.items]
    return picks, pictures, [_why(site, picks, at) for at in range(len(pictures))]


def _deck(here: Visit, cards: list[Card], likes: int, dislikes: int, version: int) -> Response:
    facts = {"cards": cards, "likes": likes, "dislikes": dislikes, "version": version}
    return here.page("_deck.html" if here.htmx else "for_you.html", facts, view={"total": len(here.site.gallery)})


def _why(site: Site, picks: Picks, at: int) -> str:
    """Why this picture, in a sentence."""
    if picks.policy == "random":
        return "Chosen at random: nothing has been learned yet. Every like and dislike counts."
    if picks.scores[at] is None or picks.probabilities[at] < 0.5:
        share = site.settings.explore
        return f"Chosen at random: about {share:.0%} of the places are, so that new pictures and makers get a chance."
    known = [one for one in picks.reasons[at] if site.gallery.has(one[0]) and one[2] > 0]
    if not known:
        return "Liked by others. Say what you think of a few pictures, and this list becomes yours."
    told = [
        f"you {'liked' if value > 0 else 'disliked'} “{_named(site.gallery.get(item))}”" for item, value, _ in known[:2]
    ]
    return f"Because {' and '.join(told)}."


def _named(picture: Picture) -> str:
    return f"{picture.prompt} ({picture.title})"


def _entry(site: Site, past: Past) -> dict[str, object]:
    cards = [card(site.gallery.get(item)) for item in past.items if site.gallery.has(item)]
    if past.value is None:
        best = past.choices[0].chosen
        title = cards[0].prompt if cards else "pictures that are gone"
        winners = [one.title for one in cards if one.id in best]
        what = f"preferred {' and '.join(winners)}" if winners else "found none good enough"
        what = f"called {' and '.join(winners)} equal" if len(winners) > 1 else what
    else:
        what = "superliked" if past.superlike else "liked" if past.value > 0 else "disliked"
        title = cards[0].prompt if cards else "a picture that is gone"
    return {"seq": past.seq, "time": past.time, "what": what, "title": title, "cards": cards, "undone": past.undone}
