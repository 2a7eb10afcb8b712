"""`tastemaker train`, `recommend` and `evaluate`: fit recommenders, list items, judge lists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import polars as pl
from cyclopts import Parameter, default_name_transform
from numpy.typing import NDArray

from tastemaker import columns as c
from tastemaker.cli.app import Json, Seed, app, train_app
from tastemaker.cli.logs import READING, Reading
from tastemaker.data import FeedbackLog, Vocabulary
from tastemaker.debias.rating import GMF
from tastemaker.debias.robust import DoublyRobust
from tastemaker.errors import DataError, InvalidArgument, UnknownId, UnknownName
from tastemaker.recommend import MODELS
from tastemaker.recommend import store as model_store
from tastemaker.recommend.contract import Recommender, State
from tastemaker.terminal import err, print_facts, print_json, print_table, working

Names = Annotated[list[str], Parameter(consume_multiple=True, negative="")]


def _option(field: str) -> str:
    """What `like` and `dislike` of a model weigh; the cuts of a graded log have these names at every verb."""
    return f"{field}-weight" if field in ("like", "dislike") else default_name_transform(field)


def _train_command(model_type: type[Recommender[Any]]) -> Any:
    """`tastemaker train KIND`: the dataclass of the model is its list of options."""

    def train(
        log: Path, *, to: Path, model: Any, seed: int = 0, reading: Reading = READING, json: bool = False
    ) -> None:
        read = reading.read(log)
        with working(f"fitting {model}"):
            model.fit(read, rng=seed)
        model.save(to)
        facts: dict[str, Any] = {"model": repr(model), "events": len(read), "seed": seed, "folder": str(to)}
        print_json(facts) if json else print_facts(facts)

    # cyclopts reads options from annotations; each model's own class is known only here.
    options: dict[str, Any] = {
        "log": Annotated[Path, Parameter(help="File or folder in any known format.")],
        "to": Annotated[Path, Parameter(help="Folder to save the model in.")],
        "model": Annotated[model_type, Parameter(name="*", name_transform=_option)],
        "seed": Seed,
        "reading": Reading,
        "json": Json,
        "return": None,
    }
    train.__annotations__ = options
    train.__kwdefaults__ = (train.__kwdefaults__ or {}) | {"model": model_type()}
    train.__doc__ = (model_type.__doc__ or "").split("\n", 1)[0]
    return train


KINDS: dict[str, type[Recommender[Any]]] = {**MODELS, GMF.kind: GMF, DoublyRobust.kind: DoublyRobust}
for _kind, _type in KINDS.items():
    train_app.command(_train_command(_type), name=_kind)


@app.command
def recommend(
    model: Path,
    *,
    users: Names | None = None,
    k: Annotated[int, Parameter(name=["--k", "-k"])] = 10,
    exclude: Path | None = None,
    to: Path | None = None,
    reading: Reading = READING,
    json: Json = False,
) -> None:
    """The best items for people, by a saved model.

    Args:
        model: Folder of a saved model.
        users: Ids of the people; everybody when not given.
        k: Items a person.
        exclude: A log; what a person has events on is left out.
        to: Write the table to this .parquet or .csv file instead of printing it.
    """
    loaded = load_model(model)
    state = loaded.fitted
    ids = state.user_ids
    rows = np.arange(len(ids)) if users is None else _known(users, ids)
    seen = None if exclude is None else aligned(reading.read(exclude), state)
    with working("recommending"):
        recs = loaded.recommend(rows, k, exclude=seen)
    table = recs.with_columns(ids.ids(recs[c.USER]).alias(c.USER), state.item_ids.ids(recs[c.ITEM]).alias(c.ITEM))
    if to is not None:
        write_table(table, to)
        err.print(f"{table.height:,} rows -> {to}", soft_wrap=True)
    elif json:
        print_json(table.to_dicts())
    else:
        print_table(f"{k} items a person", table)


@app.command
def evaluate(
    lists: Path,
    test: Path,
    *,
    train: Path | None = None,
    metrics: Names = ["NDCG@10", "Recall@10", "Dislikes@10"],  # noqa: B006
    seed: Seed = 0,
    reading: Reading = READING,
    json: Json = False,
) -> None:
    """How good lists are for what people said later: those of a saved model, or a table any program wrote.

    Args:
        lists: Folder of a saved model, or a .parquet or .csv table of user, item (ids) and rank (from 0).
        test: The test log.
        train: The training log; a model does not recommend what a person has events on there.
        metrics: Names such as NDCG@10.
    """
    from tastemaker.evaluate import ranking

    if not metrics:
        raise InvalidArgument("--metrics without a name; expected some, such as NDCG@10")
    held_out = reading.read(test)
    if lists.is_dir():
        loaded = load_model(lists)
        held_out = aligned(held_out, loaded.fitted)
        seen = None if train is None else aligned(reading.read(train), loaded.fitted)
        known = held_out.users[held_out.users < len(loaded.fitted.user_ids)]
        with working("recommending"):
            recs = loaded.recommend(known, ranking.depth(metrics), exclude=seen)
    else:
        recs, held_out = ranking.read_lists(lists, held_out)
    with working("judging"):
        table = ranking.summary(ranking.per_user(recs, held_out, metrics), rng=seed)
    print_json(table.to_dicts()) if json else print_table(f"{lists} on {test}", table)


def load_model(folder: Path) -> Recommender[Any]:
    """A saved model of any kind of this library."""
    kind = model_store.describe(folder)["kind"]
    if kind not in KINDS:
        raise UnknownName("kind of model", str(kind), KINDS)
    return KINDS[kind].load(folder)


def aligned(log: FeedbackLog, state: State) -> FeedbackLog:
    """The log in the model's row numbers; says what had to be left out."""
    for what, ours, theirs in (("user", state.user_ids, log.user_ids), ("item", state.item_ids, log.item_ids)):
        mine, given = ours.series.dtype == pl.String, theirs.series.dtype == pl.String
        if mine != given:
            words = {True: "text", False: "numbers"}
            raise DataError(
                f"{what} ids of this log are {words[given]}, those that the model was fitted on are {words[mine]}; "
                f"read both alike, with --id-type {'string' if mine else 'int'}, or fit the model on this log"
            )
    result = log.aligned(state.user_ids, state.item_ids)
    if len(result) < len(log):
        err.print(result.notes[-1])
    return result


def _known(users: list[str], ids: Vocabulary) -> NDArray[np.int32]:
    """Rows of these people. Raises UnknownId for those the model was not fitted on."""
    try:
        typed = users if ids.series.dtype == pl.String else [int(one) for one in users]
    except ValueError as error:
        raise InvalidArgument(f"user ids {users}; this model's user ids are integers") from error
    rows = ids.find(typed)
    if (rows < 0).any():
        strange = [one for one, row in zip(users, rows, strict=True) if row < 0]
        raise UnknownId(f"the model has not met {', '.join(strange[:5])}; it was fitted on {len(ids):,} people")
    return rows


def write_table(table: pl.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.write_parquet(path)
    elif path.suffix == ".csv":
        table.write_csv(path)
    else:
        raise InvalidArgument(f"cannot write '{path.suffix}' files; expected a name that ends in .parquet or .csv")
