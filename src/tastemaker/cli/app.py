"""The command and its groups of verbs, and the options most verbs share."""

from collections.abc import Sequence
from typing import Annotated, Any, get_args

from cyclopts import App, Parameter, Token, convert
from cyclopts.validators import Number

import tastemaker


def _unrounded(kind: Any, tokens: Sequence[Token]) -> Any:
    """As cyclopts reads options, but it would round 3.5 to a whole number."""
    if int in (kind, *get_args(kind)) and float not in get_args(kind):
        for token in tokens:
            if "." in token.value and not token.value.rstrip("0").endswith("."):
                raise ValueError(f"{token.value} is not a whole number")
    return convert(kind, tokens)


app = App(
    name="tastemaker",
    help="A generative recommender system that can be trusted.",
    version=tastemaker.__version__,
    help_format="plaintext",
    default_parameter=Parameter(converter=_unrounded),
)
data_app = App(name="data", help="Look at, convert, split and download feedback logs.")
train_app = App(name="train", help="Fit a recommender on a log and save it.")
app.command(data_app)
app.command(train_app)

Json = Annotated[bool, Parameter(negative="", help="Print one JSON document instead of tables.")]
Seed = Annotated[int, Parameter(help="Seed of everything random, from 0.", validator=Number(gte=0))]
