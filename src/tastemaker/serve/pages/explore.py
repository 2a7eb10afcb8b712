"""Explore: every picture, by facets and words, in an order that favours nobody.

The order is shuffled for each session, so that what is seen first is chance, and the chance is known: the picture at a
place was one of those left, each alike. A cursor holds the place and the last picture's key in the shuffle; pictures
made meanwhile fall into their own places and move nobody else.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlencode

import numpy as np
from fastapi import APIRouter, Query
from numpy.typing import NDArray
from starlette.responses import Response

from tastemaker.errors import InvalidArgument
from tastemaker.serve.cards import show
from tastemaker.serve.gallery import NONE, Wish
from tastemaker.serve.visit import Here

router = APIRouter(tags=["look"])
Text = Annotated[str, Query(max_length=200)]
_AFTER = re.compile(r"(\d{1,9})\.(\d{1,20})")


@router.get("/explore", summary="Pictures by facets and words, a page at a time")
def explore(
    here: Here,
    tag: Text = "",
    base: Text = "",
    maker: Text = "",
    model: Text = "",
    q: Annotated[str, Query(max_length=200, description="Words that prompt, model or tag hold.")] = "",
    unseen: Annotated[bool, Query(description="Only what you were never shown.")] = False,
    sort: Literal["shuffled", "newest"] = "shuffled",
    after: Annotated[str, Query(max_length=40, description="The cursor `next` of the page before.")] = "",
    k: Annotated[int, Query(ge=1, le=100)] = 24,
) -> Response:
    site = here.site
    site.gallery.refresh()
    wish = Wish(tag, base, maker, model, q)
    seen = site.store.seen(here.person) if unseen else set()
    place, last = _read(after)
    pictures, found = site.gallery.find(wish, seen)
    n, keys, first = _page(site.gallery.rows[found], sort, here.number, last, k)
    page = [pictures[found[at]] for at in first]
    if sort == "shuffled":
        policy, chances = "uniform", [1 / (n - at) for at in range(len(page))]
    else:
        policy, chances = "newest", [1.0] * len(page)
    cards = show(site, here.person, page, policy, chances, first=place)
    more = f"{place + len(page)}.{keys[first[-1]]}" if n > k else None
    asked = {"tag": tag, "base": base, "maker": maker, "model": model, "q": q, "sort": sort}
    asked = {name: value for name, value in asked.items() if value and value != "shuffled"}
    asked |= {"unseen": "true"} if unseen else {}
    facts = {"cards": cards, "left": n, "next": more, "wish": wish}
    view = {
        "address": None if more is None else f"/explore?{urlencode(asked | {'after': more, 'k': str(k)})}",
        "asked": asked, "none": NONE, "total": len(site.gallery),
    }  # fmt: skip
    if here.htmx and after:
        return here.page("_cards.html", facts, view=view)
    counts = site.gallery.counts(wish)
    facts |= {"facets": counts}
    view["titles"] = {name: site.gallery.title(name) for name, _ in counts["model"]}
    return here.page("_found.html" if here.htmx else "explore.html", facts, view=view | {"without": _without(asked)})


def _page(
    rows: NDArray[np.int32], sort: str, session: str, last: int | None, k: int
) -> tuple[int, NDArray[np.uint64], list[int]]:
    """Of the pictures with these rows: how many come after the key `last`, the key of each, and which k come first.

    No key occurs twice: both orders are one to one.
    """
    numbers = rows.astype(np.uint64)
    keys = np.uint64(2**63) - numbers if sort == "newest" else _mixed(numbers ^ np.uint64(int(session, 16)))
    left = np.arange(len(keys)) if last is None else np.flatnonzero(keys > np.uint64(last))
    first = left if len(left) <= k else left[np.argpartition(keys[left], k)[:k]]
    return len(left), keys, first[np.argsort(keys[first])].tolist()


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64: one to one, and every bit of the result hangs on every bit given."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _read(after: str) -> tuple[int, int | None]:
    if not after:
        return 0, None
    found = _AFTER.fullmatch(after)
    if found is None or int(found[2]) >= 2**64:
        raise InvalidArgument(f"after = '{after}' is no cursor; take `next` of the page before, or leave it out")
    return int(found[1]), int(found[2])


def _without(asked: dict[str, str]) -> dict[str, str]:
    """The address without each of the wishes, to take one back."""
    rest = {name: {other: value for other, value in asked.items() if other != name} for name in asked}
    return {name: f"/explore?{urlencode(others)}" for name, others in rest.items()}
