"""How good will each model be for a prompt that nobody has drawn yet?

Learned from a grid: the vector t of each prompt and the quality y of each cell, standardised within the prompt, so that
only the choice of the model is learned and not which prompts are easy. Everything is two towers: a prompt becomes a
short row, a model has a row, and the predicted quality is their product. So millions of models are one matrix product,
or a search for nearest neighbours.

    Popular    log(downloads + 1), the prompt ignored
    Mean       b_m, the mean quality over the prompts
    Nearest    mean quality over prompts, weighed by exp(sharpness * cosine)
    Ridge      b_m + (t - mean t) . w_m
    Bilinear   the same with predictions of low rank (reduced-rank regression)
    Together   the mean of several
    Styled     Gaussian process around b_m + lean * t . d_m, where d_m is the signature of model m (see the class)
    TwoTower   b_m + f(t) . v_m, f a small network (module `two_tower`)

`Styled` is ours, and the default: with 80 prompts in 768 dimensions nearly everything depends on which directions
of the text space one allows to matter, and the directions in which the models' *pictures* differ are the right ones. It
is a Gaussian process whose prior comes from pictures (which need no quality) and whose data are the qualities.

Facts that are easy to get wrong:
- A missing cell (NaN) is taken for the model's mean, so that it pulls in no direction; b_m is over the cells there are.
- While `Styled` learns, each prompt is compared with signatures made without its own group's pictures; otherwise the
  signature would already know the picture whose quality is to be learned.
- Means are shrunk by nothing: a model with two pictures has a wild b_m. `spread` says how wild.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tastemaker.choose.signature import deviations
from tastemaker.choose.words import guess
from tastemaker.data.catalog import Catalog
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError, InvalidArgument

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Examples:
    """What is known of some models on some prompts.

    Attributes:
        models: the models.
        texts: unit vector of each prompt, shape (n_prompts, dim).
        quality: higher is better, any scale, shape (n_prompts, n_models); NaN where there is none.
        groups: prompts with the same number are kept on one side of every split, shape (n_prompts,).
        pictures: unit vectors in the space of the texts, shape (n_prompts, n_models, dim), NaN where there is none;
            only `Styled` needs them.
    """

    models: Vocabulary
    texts: Floats
    quality: Floats
    groups: NDArray[np.int64]
    pictures: NDArray[np.floating] | None = None

    def __post_init__(self) -> None:
        shape = (len(self.texts), len(self.models))
        if self.quality.shape != shape or self.groups.shape != shape[:1]:
            raise InvalidArgument(
                f"quality of shape {self.quality.shape} and groups of shape {self.groups.shape}; expected {shape} and "
                f"({shape[0]},) for {shape[0]} texts and {shape[1]} models"
            )
        if self.pictures is not None and self.pictures.shape != (*shape, self.texts.shape[1]):
            raise InvalidArgument(f"pictures of shape {self.pictures.shape}; expected {(*shape, self.texts.shape[1])}")
        if (flat := np.isfinite(self.quality).sum(1) < 2).any():
            raise DataError(f"prompt {int(np.argmax(flat))} has qualities for fewer than two models; leave it out")

    def part(self, prompts: ArrayLike | None = None, models: ArrayLike | None = None) -> Examples:
        """Only these prompts and models, given as flags or rows."""
        p = np.arange(len(self.texts)) if prompts is None else np.arange(len(self.texts))[np.asarray(prompts)]
        m = np.arange(len(self.models)) if models is None else np.arange(len(self.models))[np.asarray(models)]
        pictures = None if self.pictures is None else self.pictures[p]
        if pictures is not None and models is not None:
            pictures = pictures[:, m]
        ids = Vocabulary(self.models.ids(m))
        return Examples(ids, self.texts[p], self.quality[np.ix_(p, m)], self.groups[p], pictures)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A predictor that has learned.

    Attributes:
        models: the models.
        dim: length of a prompt's vector.
        tower: turns vectors of prompts (q, dim) into rows (q, r).
        rows: of the models, shape (n, r).
        general: mean quality of each model over all prompts, shape (n,).
        spread: standard deviation of what is not known about `general`, shape (n,).
        guessed: True for models that were not among the examples, shape (n,).
    """

    models: Vocabulary
    dim: int
    tower: Callable[[Floats], Floats]
    rows: Floats
    general: Floats
    spread: Floats
    guessed: NDArray[np.bool_]

    def query(self, texts: ArrayLike) -> Floats:
        """Rows of prompts, shape (q, r). Raises InvalidArgument unless `texts` is of shape (q, dim), all finite."""
        t = np.asarray(texts, np.float64)
        if t.ndim != 2 or t.shape[1] != self.dim or not np.isfinite(t).all():
            raise InvalidArgument(
                f"prompts of shape {t.shape}; expected (n_prompts, {self.dim}), finite: same encoder?"
            )
        return self.tower(t)

    def predict(self, texts: ArrayLike) -> Floats:
        """Quality of every model, in standard deviations over the models, shape (q, n)."""
        return np.asarray(self.query(texts) @ self.rows.T)

    def cold(self, models: Catalog, *, penalty: float = 1.0) -> Fitted:
        """The same for all of `models`: those without examples by their words (`words.guess`), and marked `guessed`."""
        everything = np.column_stack([self.rows, self.general])
        carried = guess(everything, self.models, models, penalty=penalty)
        at = self.models.find(models.table["id"])
        new = at < 0
        # About a model nobody tried we know as little as the models differ from each other.
        spread = np.where(new, np.hypot(self.general.std(), self.spread.mean()), self.spread[at])
        guessed = new | self.guessed[at]  # at = -1 reads a model that `new` overrules
        return Fitted(models.ids, self.dim, self.tower, carried[:, :-1], carried[:, -1], spread, guessed)


class Predictor(Protocol):
    """Its fields are its settings; `fit` learns and returns a new value."""

    def fit(self, examples: Examples) -> Fitted: ...


def standardised(quality: Floats) -> Floats:
    """Mean 0 and standard deviation 1 over the models of each prompt; a prompt whose models are all alike becomes 0."""
    centred = quality - np.nanmean(quality, axis=1, keepdims=True)
    spread = np.nanstd(quality, axis=1, keepdims=True)
    return np.asarray(centred / np.where(spread > 1e-12, spread, 1))


def means(examples: Examples) -> tuple[Floats, Floats, Floats]:
    """Mean standardised quality of each model (n,), its standard error (n,), and what is left (n_prompts, n), NaN as 0.

    A model without any quality has the mean of the others.
    """
    y = standardised(examples.quality)
    n = np.isfinite(y).sum(0)
    general = np.where(n > 0, np.nansum(y, axis=0) / np.maximum(n, 1), 0.0)
    rest = np.nan_to_num(y - general)
    noise = np.sqrt((rest**2).sum() / max(1, n.sum() - len(n)))
    return general, np.where(n > 0, noise / np.sqrt(np.maximum(n, 1)), general.std() + noise), rest


@dataclass(frozen=True)
class Mean:
    """Every model as good as it is on average."""

    def fit(self, examples: Examples) -> Fitted:
        general, spread, _ = means(examples)
        return _fitted(examples, lambda t: np.ones((len(t), 1)), general[:, None], general, spread)


@dataclass(frozen=True, eq=False)
class Popular:
    """By downloads.

    Attributes:
        models: with a column downloads; holds every model of the examples.
    """

    models: Catalog

    def fit(self, examples: Examples) -> Fitted:
        general, spread, _ = means(examples)
        downloads = self.models.aligned(examples.models).column("downloads").cast(float).to_numpy()
        logs = np.log10(downloads + 1)[:, None]
        return _fitted(examples, lambda t: np.ones((len(t), 1)), logs - logs.mean(), general, spread)


@dataclass(frozen=True)
class Nearest:
    """What was good for similar prompts."""

    sharpness: float = 20.0

    def fit(self, examples: Examples) -> Fitted:
        general, spread, rest = means(examples)

        def query(t: Floats) -> Floats:
            near = self.sharpness * t @ examples.texts.T
            weight = np.exp(near - near.max(1, keepdims=True))
            return np.column_stack([np.ones(len(t)), weight / weight.sum(1, keepdims=True)])

        return _fitted(examples, query, np.column_stack([general, rest.T]), general, spread)


@dataclass(frozen=True)
class Ridge:
    """Linear in the prompt's vector; the penalty is relative to the mean squared length of the centred vectors."""

    penalty: float = 2.0

    def fit(self, examples: Examples) -> Fitted:
        return _linear(examples, self.penalty)


@dataclass(frozen=True)
class Bilinear:
    """Ridge whose predictions on the examples have this rank."""

    rank: int = 4
    penalty: float = 2.0

    def fit(self, examples: Examples) -> Fitted:
        full = Ridge(self.penalty).fit(examples)
        _, _, common = np.linalg.svd(full.predict(examples.texts) - full.general, full_matrices=False)
        v = common[: self.rank].T
        rows = np.column_stack([full.general, v])

        def query(t: Floats) -> Floats:
            found = full.tower(t)
            return np.column_stack([found[:, 0], found[:, 1:] @ (full.rows[:, 1:].T @ v)])

        return replace(full, tower=query, rows=rows)


@dataclass(frozen=True)
class Styled:
    """Gaussian process in the space in which the models' pictures differ, leaning to each model's signature.

    A prompt's place there is x = (t - mean t) D', one number a model: how well its text matches what is special about
    the model's pictures. The kernel is x . x' plus, for what is not linear, `curved` * exp(-|x - x'|^2 / median).

    Attributes:
        penalty: variance of a quality's noise, where a typical prompt has variance 1 under the kernel.
        lean: what the match of prompt and signature itself is worth beforehand, in standard deviations of quality.
        curved: weight of the second kernel.
    """

    penalty: float = 4.0
    lean: float = 0.2
    curved: float = 1.0

    def fit(self, examples: Examples) -> Fitted:
        """Raises DataError for examples without pictures."""
        if examples.pictures is None:
            raise DataError("these examples have no pictures, which Styled learns from; use Ridge, or embed them")
        general, spread, rest = means(examples)
        centre = examples.texts.mean(0)
        d, match = _matches(examples)
        lean = self.lean / match.std()
        x = (examples.texts - centre) @ d.T
        size, wide = (x**2).sum() / len(x), np.median(_distances(x, x)) or 1.0

        def kernel(at: Floats) -> Floats:
            return np.asarray(at @ x.T / size + self.curved * np.exp(-_distances(at, x) / wide))

        own = kernel(x)
        offset = own.mean(0) - own.mean() / 2  # of a kernel with mean 0 over the examples
        centred = own - offset - offset[:, None]
        w = np.linalg.solve(centred + self.penalty * np.eye(len(x)), rest - lean * match)

        def query(t: Floats) -> Floats:
            at = (t - centre) @ d.T
            k = kernel(at)
            return np.column_stack(
                [np.ones(len(t)), k - k.mean(1, keepdims=True) - own.mean(0) + own.mean(), t - centre]
            )

        return _fitted(examples, query, np.column_stack([general, w.T, lean * d]), general, spread)


def _matches(examples: Examples) -> tuple[Floats, Floats]:
    """Signatures less their mean (n, dim), and how well each prompt's text matches the signatures made without its own
    group, centred over prompts and models (n_prompts, n)."""
    assert examples.pictures is not None
    deviation, drawn = deviations(examples.pictures)
    total, n = deviation.sum(0, dtype=np.float64), drawn.sum(0)
    match = np.empty(examples.quality.shape)
    for group in np.unique(examples.groups):
        own = examples.groups == group
        others = (total - deviation[own].sum(0)) / np.maximum(n - drawn[own].sum(0), 1)[:, None]
        match[own] = examples.texts[own] @ (others - others.mean(0)).T
    d = total / np.maximum(n, 1)[:, None]
    return d - d.mean(0), match - match.mean(0)


def _distances(a: Floats, b: Floats) -> Floats:
    """Squared distances, shape (len(a), len(b))."""
    return np.asarray(((a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T).clip(0))


def _linear(examples: Examples, penalty: float) -> Fitted:
    """Ridge on the centred texts; solved over prompts, of which there are fewer than dimensions."""
    general, spread, rest = means(examples)
    centre = examples.texts.mean(0)
    x = examples.texts - centre
    kernel = x @ x.T
    size = np.trace(kernel) / len(x)
    w = x.T @ np.linalg.solve(kernel / size + penalty * np.eye(len(x)), rest) / size

    def query(t: Floats) -> Floats:
        return np.column_stack([np.ones(len(t)), t - centre])

    return _fitted(examples, query, np.column_stack([general, w.T]), general, spread)


def _fitted(
    examples: Examples, tower: Callable[[Floats], Floats], rows: Floats, general: Floats, spread: Floats
) -> Fitted:
    guessed = np.zeros(len(general), np.bool_)
    return Fitted(examples.models, examples.texts.shape[1], tower, rows, general, spread, guessed)


@dataclass(frozen=True)
class Together:
    """The mean of what several predictors say."""

    parts: tuple[Predictor, ...]

    def fit(self, examples: Examples) -> Fitted:
        if not self.parts:
            raise InvalidArgument("no predictors to average; expected at least one")
        each = [part.fit(examples) for part in self.parts]
        rows = np.hstack([one.rows / len(each) for one in each])
        return replace(each[0], tower=lambda t: np.hstack([one.tower(t) for one in each]), rows=rows)


@dataclass(frozen=True)
class Chosen:
    """The best of several predictors, by cross-validation inside the examples over groups of prompts.

    The criterion is the mean correlation, over prompts, of predicted and real quality: it uses all models and is far
    steadier than what happens in the first ten.
    """

    among: tuple[Predictor, ...]
    folds: int = 5
    rng: int = field(default=0)

    def fit(self, examples: Examples) -> Fitted:
        return self.best(examples).fit(examples)

    def best(self, examples: Examples) -> Predictor:
        """Which one it is. Raises InvalidArgument for no predictors or fewer groups than folds."""
        if not self.among:
            raise InvalidArgument("no predictors to choose among")
        parts = folds(examples.groups, self.folds, self.rng)
        worth = [
            np.mean([correlation(p.fit(examples.part(~part)), examples.part(part)) for part in parts])
            for p in self.among
        ]
        return self.among[int(np.argmax(worth))]


def correlation(fitted: Fitted, examples: Examples) -> float:
    """Mean over prompts of the correlation of predicted with real quality; cells without quality are left out."""
    real, there = standardised(examples.quality), np.isfinite(examples.quality)
    given = np.where(there, fitted.predict(examples.texts), np.nan)
    return float(np.mean(np.nanmean(standardised(given) * real, axis=1)))


def folds(groups: NDArray[np.integer], n: int, rng: int | np.random.Generator) -> list[NDArray[np.bool_]]:
    """Flags of each fold's prompts; groups are drawn at random and stay together."""
    names = np.unique(groups)
    if not 2 <= n <= len(names):
        raise InvalidArgument(f"{n} folds of {len(names)} groups; expected from 2 to the number of groups")
    order = np.random.default_rng(rng).permutation(names)
    return [np.isin(groups, part) for part in np.array_split(order, n)]
