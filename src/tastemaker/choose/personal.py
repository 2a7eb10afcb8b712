"""What a person's votes and likes say about models, beside the prompt.

Two sources, one form: `from_votes` reads the belief that votes led to (`choose.rating`; `from_belief` any belief),
`from_likes` any recommender fitted on likes and dislikes of models, or of pictures whose models are known. Correct the
latter for what was shown by fitting it with weights: `Factors().fit(log, weight=inverse(probabilities, log))`, the
probabilities being those that `retrieve` logged.

Nobody is refused: a person unknown to the source gets the crowd's taste (votes) or none (likes), `known` is False, and
`about` says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from tastemaker.choose.belief import Belief
from tastemaker.choose.rating import Ratings
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import InvalidArgument
from tastemaker.recommend.contract import Recommender

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Personal:
    """One person's liking of each model.

    Attributes:
        models: the models.
        mean: shape (n,), centred over the models the source knows; 0 for those it does not know.
        spread: standard deviation of what is not known about it, shape (n,).
        known: whether the source has heard of the person.
        about: whose taste this is, in words.
    """

    models: Vocabulary
    mean: Floats
    spread: Floats
    known: bool
    about: str


def from_votes(ratings: Ratings, person: str, models: Vocabulary) -> Personal:
    """Utilities in logits: 1 above another wins 73 % of this person's battles."""
    belief = ratings.belief(person=person)
    known = "who has not voted" not in belief.about
    about = belief.about if known else f"person '{person}' has not voted: the taste of the crowd"
    return from_belief(belief, models, known=known, about=about)


def from_belief(belief: Belief, models: Vocabulary, *, known: bool, about: str) -> Personal:
    """A belief as one person's liking; `known` and `about` as in `Personal`. A model it lacks is as unsure as any."""
    n = len(belief.ids)
    spread = np.sqrt(np.diag(belief.cov)[:n])
    return _on(models, belief.ids, belief.mean[:n], spread, float(spread.max()), known, about)


def from_likes(
    model: Recommender[Any], person: int | str, models: Vocabulary, *, of: pl.Series | None = None, spread: float = 0.0
) -> Personal:
    """Scores of a fitted recommender for one person.

    Args:
        person: outside id, as in the log that the recommender was fitted on.
        of: the model that made each item of that log, in the order of its items, where these are pictures; the score
            of a model is then the mean over its pictures. By default the items are models.
        spread: what is not known about a score; recommenders do not say.
    """
    state = model.fitted
    if of is not None and len(of) != len(state.item_ids):
        raise InvalidArgument(f"{len(of)} models for {len(state.item_ids)} items; expected the model of each item")
    if spread < 0:
        raise InvalidArgument(f"spread = {spread:g}; expected 0 or more")
    user = state.user_ids.find(pl.Series([person]))
    n = len(models)
    if user[0] < 0:
        about = f"person '{person}' has liked or disliked nothing yet: nothing personal in this choice"
        return Personal(models, np.zeros(n), np.full(n, spread), False, about)
    items = np.arange(len(state.item_ids), dtype=np.int32)
    scores = model.score(np.repeat(user, len(items)), items).astype(np.float64)
    ids = state.item_ids
    if of is not None:
        ids, place = Vocabulary.encode(of)
        scores = np.bincount(place, scores) / np.bincount(place)
    return _on(
        models, ids, scores, np.full(len(ids), spread), spread, True, f"person '{person}', by likes and dislikes"
    )


def _on(
    models: Vocabulary, ids: Vocabulary, mean: Floats, spread: Floats, unknown: float, known: bool, about: str
) -> Personal:
    """Values of `ids` laid out on `models`."""
    at = ids.find(models.series)
    there = at >= 0
    if not there.any():
        raise InvalidArgument("the source knows none of these models; are the ids of the same kind?")
    centre = mean[at[there]].mean()
    return Personal(
        models,
        np.where(there, mean[at] - centre, 0.0),
        np.where(there, spread[at], unknown),
        known,
        about,
    )
