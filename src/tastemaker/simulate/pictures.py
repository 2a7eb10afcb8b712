"""People who look at pictures: a planted taste over what is drawn, how, by whom, and over what came out.

The pictures are real ones, the cells of a promptbook with vectors (`data.promptbook`); only the people are made up. A
person likes a picture with probability `noise/2 + (1 - noise) * sigmoid(x)`, where x is the sum of

    subject   direction of the person in the leading axes of the prompts' text vectors
    style     direction in the axes of the models' mean pictures
    maker     liking of each maker, whoever it is
    fame      what everybody gives to well-known makers, in proportion to log downloads
    craft     what everybody gives to a picture that shows what was asked for: its cosine with the prompt, beside the
              other pictures of the prompt, so that a failed drawing is liked less
    look      direction in the axes of what is left of the pictures' vectors when prompt and model are taken out: what
              only this very picture has
    person    generosity

and of one constant that makes `like_rate` of all pairs likes. Axes are standardised, so a spread is the standard
deviation of its part in logits.

Easy to get wrong: all of this is as good as the encoder. The embedded one knows the zoo's words, and what it cannot
see in a picture these people cannot see either. And makers: the embedded models have one maker, its authors, so
`invented_makers` gives them others, and says so in their names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from tastemaker.data.feedback import SIGNED
from tastemaker.data.promptbook import MODEL, PROMPT, Promptbook
from tastemaker.errors import DataError, InvalidArgument
from tastemaker.simulate.people import Likers

Floats = NDArray[np.float64]

MAKER, DOWNLOADS = "maker", "downloads"
KNOWN = ("Ada", "Bo")  # who share every second model
UNKNOWN = ("Cleo", "Dan", "Eve", "Finn", "Gia", "Hal", "Ines", "Jon")


@dataclass(frozen=True)
class Taste:
    """How much each part matters: standard deviations in logits, over people or (fame, craft) over pictures."""

    subject: float = 1.0
    style: float = 1.0
    maker: float = 0.4
    fame: float = 0.4
    craft: float = 0.6
    look: float = 0.6
    person: float = 0.5
    noise: float = 0.05  # share of answers that are a coin toss
    like_rate: float = 0.45
    axes: int = 3  # directions of subject, of style and of look

    def __post_init__(self) -> None:
        spreads = (self.subject, self.style, self.maker, self.fame, self.craft, self.look, self.person)
        if not all(0 <= spread < np.inf for spread in spreads):
            raise InvalidArgument(f"{self}; expected spreads of at least 0")
        if self.axes < 1:
            raise InvalidArgument(f"axes={self.axes}; expected at least 1")
        if not (0 <= self.noise <= 1 and self.noise / 2 < self.like_rate < 1 - self.noise / 2):
            raise InvalidArgument(f"like_rate={self.like_rate:g} cannot be reached with noise={self.noise:g}")


@dataclass(frozen=True, eq=False)
class Viewers:
    """People in front of pictures.

    Attributes:
        people: their answers, on the signed scale; items are the book's cells in their order.
        parts: what each part adds, in logits: name to an array of shape (n_users, n_items).
    """

    people: Likers
    parts: Mapping[str, Floats]


def viewers(
    book: Promptbook, n: int, *, taste: Taste | None = None, rng: int | np.random.Generator | None = None
) -> Viewers:
    """`n` people before the pictures of a book; the same seed gives the same people.

    Args:
        book: with vectors; its models with the columns `maker` and `downloads` (above 0).

    Raises InvalidArgument for n, DataError for a book without vectors, without makers, or of one picture.
    """
    if n < 1:
        raise InvalidArgument(f"{n} people; expected at least 1")
    if book.pictures is None or book.texts is None:
        raise DataError("the promptbook has no vectors of pictures and texts; embed it first")
    if book.cells.height < 2:
        raise DataError(f"{book.cells.height} pictures; expected at least 2, or there is nothing to choose")
    taste, rng = taste or Taste(), np.random.default_rng(rng)
    maker, downloads = makers(book)
    prompt, model = book.prompts.ids.rows(book.cells[PROMPT]), book.models.ids.rows(book.cells[MODEL])
    seen, texts = book.pictures.astype(np.float64), book.texts.astype(np.float64)
    of_prompt, of_model = means(seen, prompt), means(seen, model)
    fit = (seen * texts[prompt]).sum(axis=1, keepdims=True)
    shows = np.clip(standard(fit - means(fit, prompt)[prompt])[:, 0], -3, 3)  # worse than hopeless is hopeless

    def directed(place: Floats, spread: float) -> Floats:
        """Everybody's direction, times the places of the items, (n_items, axes)."""
        direction = rng.standard_normal((n, place.shape[1])) / np.sqrt(max(1, place.shape[1]))
        return np.asarray(spread * direction @ place.T)

    parts = {
        "subject": directed(axes(texts, taste.axes)[prompt], taste.subject),
        "style": directed(axes(of_model, taste.axes)[model], taste.style),
        "maker": taste.maker * rng.standard_normal((n, int(maker.max()) + 1))[:, maker],
        "fame": np.tile(taste.fame * standard(np.log(downloads)[:, None])[:, 0], (n, 1)),
        "craft": np.tile(taste.craft * shows, (n, 1)),
        "look": directed(axes(seen - of_prompt[prompt] - of_model[model], taste.axes), taste.look),
        "person": np.tile(taste.person * rng.standard_normal((n, 1)), (1, len(seen))),
    }
    x = np.sum(list(parts.values()), axis=0)
    constant = brentq(lambda shift: _liked(x + shift, taste.noise).mean() - taste.like_rate, -50, 50)
    return Viewers(Likers(_liked(x + constant, taste.noise), SIGNED), parts)


def makers(book: Promptbook) -> tuple[NDArray[np.int32], Floats]:
    """Maker number (of `book.models.groups("maker")`) and downloads of each cell's model, both of shape (n_cells,).

    Raises UnknownName for a book whose models lack the columns, DataError for downloads that are not above 0.
    """
    model = book.models.ids.rows(book.cells[MODEL])
    group, _ = book.models.groups(MAKER)
    downloads = book.models.column(DOWNLOADS).cast(pl.Float64, strict=False).fill_null(np.nan).to_numpy()
    if not (downloads > 0).all():
        raise DataError("a model has no downloads above 0; expected how well known it is", column=DOWNLOADS)
    return group[model].astype(np.int32), downloads[model]


def invented_makers(models: Sequence[str]) -> pl.DataFrame:
    """Makers for models that have none: a few well-known and many lesser-known; columns model, maker, downloads.

    Two well-known makers share every second model, with 40,000 and 20,000 downloads each; every other model has a
    lesser-known maker of its own, the first with 2,400, each next one with half of that. Who is who follows from the
    order of `models` alone.
    """
    rows = []
    for at, model in enumerate(models):
        place = at // 2
        known = at % 2 == 0
        name = KNOWN[place % 2] if known else UNKNOWN[place % len(UNKNOWN)] + "'" * (place // len(UNKNOWN))
        downloads = (40_000 >> place % 2) if known else max(50, 2_400 >> place)
        rows.append({"model": model, MAKER: f"{name} (invented)", DOWNLOADS: downloads})
    return pl.DataFrame(rows, schema={"model": pl.String, MAKER: pl.String, DOWNLOADS: pl.Int64})


# -- parts -------------------------------------------------------------------------------------------------------------


def means(values: Floats, group: NDArray[np.integer]) -> Floats:
    """Mean row of each group, shape (n_groups, d)."""
    total = np.zeros((int(group.max()) + 1, values.shape[1]))
    np.add.at(total, group, values)
    return np.asarray(total / np.maximum(np.bincount(group), 1)[:, None])


def axes(values: Floats, k: int) -> Floats:
    """Places of the rows on the k axes along which they differ most, each standardised, shape (n, k or fewer)."""
    centred = values - values.mean(axis=0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    some = min(k, int((size > 1e-6 * max(1.0, float(size[0]))).sum()))
    return standard(left[:, :some])


def standard(values: Floats) -> Floats:
    """Columns with mean 0 and deviation 1; 0 where all are equal."""
    centred = values - values.mean(axis=0)
    spread = centred.std(axis=0)
    return np.asarray(centred / np.where(spread > 1e-9, spread, 1.0))


def _liked(x: Floats, noise: float) -> Floats:
    return np.asarray(noise / 2 + (1 - noise) * expit(x))
