"""Who draws a prompt for a person, and in which order they would like what was drawn: `tastemaker.choose`, served.

What the models drew before teaches it: the gallery's own pictures, and the examples on the cards of the embedded
models. They are looked at once, in the background, when somebody first asks; again when there are a fifth more.

Nothing is guessed in secret. Where no encoder can judge these models, or there is nothing to learn from, or it is still
being looked at, models are drawn by lot; the policy that is logged says `uniform`, and the page says why.

Facts that are easy to get wrong:
- The embedded encoder knows the embedded models' words only. Other models need one of their own (`Settings.encoder`).
- A like of a picture counts as a choice of its model over the bar, in one belief with the person's votes.
- Probabilities are those of a model next, given the models above it: what `retrieve` says, and what 1 / p wants.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.choose.belief import Belief
from tastemaker.choose.personal import Personal, from_belief
from tastemaker.choose.rank import Pictures, Taste, learned
from tastemaker.choose.retrieve import Shelf, retrieve
from tastemaker.choose.votes import Vote, dislike, like
from tastemaker.data.catalog import ID, Catalog
from tastemaker.data.promptbook import MODEL, PICTURE, PROMPT, Promptbook
from tastemaker.errors import InvalidArgument, TastemakerError
from tastemaker.generate import zoo
from tastemaker.generate.picture import read_picture
from tastemaker.serve.gallery import Gallery, Model, Picture
from tastemaker.serve.learn import Learner
from tastemaker.serve.lessons import Sign, drawn_before, facts, on_these, signs
from tastemaker.serve.settings import Settings
from tastemaker.serve.store import Store, Word

if TYPE_CHECKING:
    from tastemaker.choose.stock import Look
    from tastemaker.generate.embed import Encoder

UNIFORM = "uniform"
_BATCH = 64  # pictures embedded at once
_GROWN = 1.2, 10  # times as many pictures, and so many more: look again
_WAIT = 15.0  # seconds an order waits for the first look
_SAID = 200  # of a person's last votes and words that rank pictures
_VOTERS = 5, 200  # people whose votes say what people share: fewer would be oneself, more would take long
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Chosen:
    """Models in the order drawn, with what is logged and what is said; `about` says whose taste, or why none."""

    models: tuple[str, ...]
    policy: str
    probabilities: tuple[float, ...]
    reasons: tuple[str, ...]
    about: tuple[str, ...]


@dataclass(frozen=True)
class Ranked:
    """Pictures best first, why each stands there, and whose order it is."""

    pictures: tuple[Picture, ...]
    reasons: tuple[str, ...]
    about: str


@dataclass(frozen=True, eq=False)
class Stocked:
    """What one look at the pictures gave.

    Attributes:
        shelf: models to choose from.
        look, seen: features of pictures, and those of the pictures looked at.
        crowd: what people share, by the votes at that time.
        signs: what each model is known by.
    """

    shelf: Shelf
    encoder: Encoder
    look: Look
    seen: Pictures
    crowd: Taste
    signs: Mapping[str, Sign]


class Chooser:
    """Chooses models and orders pictures. Any thread may ask."""

    def __init__(self, settings: Settings, store: Store, gallery: Gallery, learner: Learner) -> None:
        self.settings, self.store, self.gallery, self.learner = settings, store, gallery, learner
        self._gate = threading.Lock()
        self._looking: Future[Stocked] | None = None
        self._stocked: Stocked | None = None
        self._size = 0  # of the gallery when it was last looked at
        self._vectors: dict[str, Vectors] = {}

    # -- choosing ----------------------------------------------------------------------------------------------------

    def choose(
        self,
        prompt: str,
        person: str,
        k: int,
        rng: np.random.Generator,
        *,
        base: Sequence[str] = (),
        licence: Sequence[str] = (),
    ) -> Chosen:
        """Up to k models that draw, for a prompt and a person. Raises InvalidArgument where none passes the filters."""
        models = drawing(self.gallery)
        passing = [one for one in models if (not base or one.base in base) and (not licence or one.licence in licence)]
        if not models:
            raise InvalidArgument("this gallery has no model that draws; start it with --models")
        if not passing:
            raise InvalidArgument(f"none of {len(models)} models is of base {list(base)}, licence {list(licence)}")
        stocked = self.stocked(wait=_WAIT)
        if isinstance(stocked, str):
            return by_lot([one.name for one in passing], k, rng, stocked)
        liking = self._liking(person, stocked.shelf)
        picks = retrieve(
            prompt, liking, shelf=stocked.shelf, k=k, pool=max(100, k), base=base, licence=licence,
            explore=self.settings.explore, rng=rng,
        )  # fmt: skip
        columns = (picks.table[name].to_list() for name in (ID, "probability", "reason"))
        names, probabilities, reasons = (tuple(column) for column in columns)
        return Chosen(names, str(picks.table["policy"][0]), probabilities, reasons, picks.about)

    def _liking(self, person: str, shelf: Shelf) -> Personal | None:
        """What the person's votes, likes and dislikes say of models; the crowd's where they said nothing; or None."""
        words = self.store.words(person)
        model_of = {id: self.gallery.get(id).model for id in words if self.gallery.has(id)}
        if not len(self.gallery):
            return None
        belief = liked(self.learner.belief(person=person), words, model_of)
        own = len(self.store.votes(user=person))
        if not belief.votes.any() or not (belief.ids.find(shelf.models.ids.series) >= 0).any():
            return None
        about = f"by your {own} votes and {len(words)} likes and dislikes"
        if not own and not words:
            about = "by what others voted: you have said nothing yet"
        return from_belief(belief, shelf.models.ids, known=bool(own or words), about=about)

    # -- ordering ----------------------------------------------------------------------------------------------------

    def rank(self, person: str, pictures: Sequence[Picture]) -> Ranked | None:
        """Pictures of one prompt, best for this person first; None while nothing was looked at yet, or never is."""
        stocked = self._stocked
        if stocked is None or len({one.id for one in pictures}) < 2:
            return None
        vectors = np.stack(self._seen(pictures, stocked.encoder))
        text = stocked.encoder.embed_texts([pictures[0].prompt]).vectors[0]
        taste = self._taste(person, stocked)
        if not taste.seen and not taste.voters:
            fits = vectors @ text
            order = np.argsort(-fits, kind="stable")
            reasons = tuple(f"shows the prompt: {fits[at]:.2f}" for at in order)
            return Ranked(tuple(pictures[at] for at in order), reasons, "how well they show the prompt")
        place = {one.id: one for one in pictures}
        board = taste.rank(stocked.look.drawn([one.id for one in pictures], vectors, text)).table
        about = "your taste" if taste.seen else f"the taste of {taste.voters} others: you have said nothing yet"
        return Ranked(tuple(place[id] for id in board[ID]), tuple(board["reason"]), about)

    def _taste(self, person: str, stocked: Stocked) -> Taste:
        known = set(stocked.seen.ids.series)
        own = [vote for _, vote in self.store.votes(user=person)]
        words = self.store.words(person)
        own += [Vote(like(id) if word.value > 0 else dislike(id), person) for id, word in words.items()]
        return stocked.crowd.of(person).update(on_these(own, known)[-_SAID:], stocked.seen)

    # -- looking -----------------------------------------------------------------------------------------------------

    def stocked(self, *, wait: float = 0.0) -> Stocked | str:
        """What was seen, or in words why there is nothing. Looks in the background; `wait` seconds for the first."""
        if reason := self._without():
            return reason
        with self._gate:
            grown = len(self.gallery) > _GROWN[0] * self._size + _GROWN[1]
            if self._looking is None or (self._looking.done() and grown):
                self._size, self._looking = len(self.gallery), Future[Stocked]()
                threading.Thread(target=self._look, args=(self._looking,), name="chooser", daemon=True).start()
            looking = self._looking
        if self._stocked is not None:
            return self._stocked
        try:
            return looking.result(timeout=wait)
        except TimeoutError:
            return "still looking at what they drew before; the next order will be chosen for you"
        except TastemakerError as error:
            return str(getattr(error, "problem", error))  # without the place of a file here
        except Exception:
            return "looking at what they drew before failed; the server's log says why"

    def _without(self) -> str:
        """Why nothing can be seen, if that is known beforehand."""
        if self.settings.encoder is not None:
            return ""
        if not all(model.name.startswith(zoo.PREFIX) for model in drawing(self.gallery)):
            return "nothing here can judge their pictures; start the gallery with --encoder and a CLIP folder"
        return ""

    def _look(self, looking: Future[Stocked]) -> None:
        try:
            self._stocked = self._look_at_all()
        except TastemakerError as error:
            looking.set_exception(error)
        except Exception as error:
            logging.getLogger("tastemaker.serve").error("looking at pictures failed", exc_info=error)
            looking.set_exception(error)
        else:
            looking.set_result(self._stocked)

    def _look_at_all(self) -> Stocked:
        from tastemaker.choose.stock import Look, eyes, stock

        encoder = eyes(self.settings.encoder) if self._stocked is None else self._stocked.encoder
        models = drawing(self.gallery)
        cells, files = drawn_before(self.gallery, {model.name for model in models})
        if not cells.height:
            raise InvalidArgument("these models drew nothing yet that could be compared; order some pictures by name")
        self._embed(files, encoder)
        texts = cells[PROMPT].unique(maintain_order=True).to_list()
        kept = facts(models)
        book = Promptbook(
            Catalog(kept.filter(pl.col(ID).is_in(cells[MODEL].implode()))),
            Catalog(pl.DataFrame({ID: texts, "text": texts})),
            cells,
            np.stack([self._vectors[id] for id in cells[PICTURE]]),
            encoder.embed_texts(texts).vectors,
        )
        look = Look.of(book)
        seen = look.book(book)
        shelf = stock(book, encoder, models=Catalog(kept))
        return Stocked(shelf, encoder, look, seen, self._crowd(seen), signs(shelf, texts, encoder))

    def _crowd(self, seen: Pictures) -> Taste:
        """What people share, by the votes of those who voted most, as far as they are trusted."""
        votes = on_these(self.learner.trusted(self.store.votes()), set(seen.ids.series))
        most = {person for person, _ in Counter(vote.person for vote in votes).most_common(_VOTERS[1])}
        start = Taste.start(seen.names)
        few = len(most) < _VOTERS[0]
        return start if few else learned([vote for vote in votes if vote.person in most], seen, start)

    def _seen(self, pictures: Sequence[Picture], encoder: Encoder) -> list[Vectors]:
        self._embed({one.id: one.file for one in pictures}, encoder)
        return [self._vectors[one.id] for one in pictures]

    def _embed(self, files: Mapping[str, Path], encoder: Encoder) -> None:
        """Vectors of pictures that have none yet."""
        missing = [id for id in files if id not in self._vectors]
        for start in range(0, len(missing), _BATCH):
            some = missing[start : start + _BATCH]
            made = encoder.embed_pictures([read_picture(files[id]) for id in some]).vectors
            self._vectors.update(zip(some, made, strict=True))


def drawing(gallery: Gallery) -> list[Model]:
    """The models that may draw."""
    return [model for model in gallery.models.values() if model.draws]


def by_lot(names: Sequence[str], k: int, rng: np.random.Generator, why: str) -> Chosen:
    """Up to k of these models, each alike."""
    order = rng.permutation(len(names))[:k]
    chances = tuple(1 / (len(names) - at) for at in range(len(order)))
    reasons = ("drawn by lot",) * len(order)
    return Chosen(tuple(names[at] for at in order), UNIFORM, chances, reasons, (f"each model alike: {why}",))


def liked(belief: Belief, words: Mapping[str, Word], model_of: Mapping[str, str]) -> Belief:
    """The belief after likes and dislikes of pictures, each a choice between its model and the bar."""
    counts = Counter((model_of[id], word.value) for id, word in words.items() if id in model_of)
    known = set(belief.ids.series)
    for (model, value), n in sorted(counts.items()):
        if model in known:
            belief = belief.add(like(model) if value > 0 else dislike(model), weight=n)
    return belief
