"""Names and dtypes of every table: the glossary in code.

Inside the library users and items are row numbers (int32) of a `Vocabulary`; outside ids live at the edges.
Tables are polars frames whose columns have exactly these names and dtypes.
"""

from collections.abc import Mapping

import polars as pl

USER = "user"  # row number of a person in a Vocabulary
ITEM = "item"  # row number of an item in a Vocabulary
VALUE = "value"  # what the person said: +1 / -1 on a signed log, a number on the stated scale of a graded one
TIME = "time"  # microseconds since 1970-01-01 UTC, or any other clock that counts up
RANDOM = "random"  # True where the item was shown at random, not because someone chose it
POPULARITY = "popularity"  # outside popularity of the item's maker at the time of the event (Piki: 0..100)
SUPERLIKE = "superlike"  # True where a like was the stronger kind
SIMULATED = "simulated"  # True where nobody real said it: the row of a fake user, from an attack drill
POSITION = "position"  # 0-based place at which an item was shown
POLICY = "policy"  # name of the rule that chose to show it
PROBABILITY = "probability"  # probability with which that rule showed it
SCORE = "score"  # a model's score; only its order matters unless the model says more
RANK = "rank"  # 0-based place in a person's recommendations

#: Feedback events. `time` and the columns below it are optional.
EVENTS: Mapping[str, type[pl.DataType]] = {
    USER: pl.Int32,
    ITEM: pl.Int32,
    VALUE: pl.Float32,
    TIME: pl.Int64,
    RANDOM: pl.Boolean,
    POPULARITY: pl.Float32,
    SUPERLIKE: pl.Boolean,
    SIMULATED: pl.Boolean,
}
REQUIRED_EVENTS = (USER, ITEM, VALUE)

#: Impressions: what was shown, whether or not the person reacted. Only user and item are required.
IMPRESSIONS: Mapping[str, type[pl.DataType]] = {
    USER: pl.Int32,
    ITEM: pl.Int32,
    TIME: pl.Int64,
    POSITION: pl.Int32,
    POLICY: pl.String,
    PROBABILITY: pl.Float64,
}
REQUIRED_IMPRESSIONS = (USER, ITEM)

#: Recommendations: one row a shown item, sorted by user as asked for and then by rank.
RECOMMENDATIONS: Mapping[str, type[pl.DataType]] = {
    USER: pl.Int32,
    ITEM: pl.Int32,
    SCORE: pl.Float32,
    RANK: pl.Int32,
}
