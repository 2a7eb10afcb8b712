"""A picture as a person sees it: what it is, why it is here, what they said of it, and how it came to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from tastemaker.serve.events import Shown
from tastemaker.serve.gallery import Picture
from tastemaker.serve.reuse import address, in_short
from tastemaker.serve.store import Word
from tastemaker.serve.visit import Site

SMALL = 128  # pixels; up to here every pixel is meant to be seen


@dataclass(frozen=True)
class Card:
    """A picture shown.

    Attributes:
        impression: number of the impression; None where nothing is logged.
        policy, probability: the rule that chose it, and with which probability.
        said: like, superlike, dislike, or nothing.
        seq: number of that word, to take it back.
        why: in words.
        recipe: how it was drawn, in short.
        again: address of the page that orders such a picture, filled in.
    """

    id: str
    prompt: str
    tag: str
    model: str
    title: str
    maker: str
    base: str
    seed: int
    kind: str
    width: int
    height: int
    page: str
    image: str
    thumbnail: str
    recipe: str
    again: str
    impression: int | None = None
    policy: str | None = None
    probability: float | None = None
    said: str = ""
    seq: int | None = None
    why: str = ""

    @property
    def pixels(self) -> bool:
        return max(self.width, self.height) <= SMALL

    @property
    def alt(self) -> str:
        return f"{self.prompt}, drawn by {self.title}"


def card(picture: Picture, word: Word | None = None, **facts: object) -> Card:
    """A card of a picture; `facts` are further fields."""
    name = quote(picture.id)
    said = "" if word is None else "superlike" if word.superlike else "like" if word.value > 0 else "dislike"
    return Card(
        picture.id, picture.prompt, picture.tag, picture.model, picture.title, picture.maker, picture.base,
        picture.seed, picture.kind, picture.width, picture.height, f"/picture/{name}", f"/images/{name}.png",
        f"/images/{name}.webp", in_short(picture), address(picture), said=said,
        seq=None if word is None else word.seq, **facts,  # type: ignore[arg-type]
    )  # fmt: skip


def show(
    site: Site, person: str, pictures: Sequence[Picture], policy: str, probabilities: Sequence[float], *,
    first: int = 0, why: Sequence[str] = (),
) -> list[Card]:  # fmt: skip
    """Log a list as shown and give its cards. Nothing is shown that could not be logged: raises StoreDown."""
    if not pictures:
        return []
    shown = Shown(person, tuple(one.id for one in pictures), policy, tuple(probabilities), first)
    seq = site.store.add(shown).seq
    return as_shown(pictures, shown, seq, why or [""] * len(pictures), site.store.words(person))


def as_shown(
    pictures: Sequence[Picture], shown: Shown, seq: int, why: Sequence[str], words: Mapping[str, Word]
) -> list[Card]:
    """The cards of a list that was logged under the number `seq`; `words` are what the person said."""
    return [
        card(one, words.get(one.id), impression=seq + at, policy=shown.policy, probability=p, why=reason)
        for at, (one, p, reason) in enumerate(zip(pictures, shown.probabilities, why, strict=True))
    ]
