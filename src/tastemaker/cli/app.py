"""The command and its groups of verbs, and the options most verbs share."""

from typing import Annotated

from cyclopts import App, Parameter

import tastemaker

app = App(
    name="tastemaker",
    help="A generative recommender system that can be trusted.",
    version=tastemaker.__version__,
    help_format="plaintext",
)
data_app = App(name="data", help="Look at, convert, split and download feedback logs.")
train_app = App(name="train", help="Fit a recommender on a log and save it.")
app.command(data_app)
app.command(train_app)

Json = Annotated[bool, Parameter(negative="", help="Print one JSON document instead of tables.")]
Seed = Annotated[int, Parameter(help="Seed of everything random.")]
