"""Every recommender on one log: recall@20, NDCG@20, dislikes shown, seconds of training. One seed, untuned settings.

MovieLens ratings become likes (4 and more) and dislikes (2 and less); a quarter of each person's events is held out at
random. A folder in LightGCN format is taken with its own split. `--quick` builds a planted world instead. Settings are
the methods' defaults but for epochs and sizes that suit a small log and one core, and are printed with --settings; this
is a check that the methods work, not a contest.

    PYTHONPATH=src python -m bench.victims [--quick] [--seed N] [--data FOLDER] [--only KIND ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.output import write_json
from tastemaker.data import FeedbackLog, split, synthetic
from tastemaker.data.read import read_pair
from tastemaker.evaluate.ranking import per_user, summary
from tastemaker.recommend import CML, NCF, Factors, ItemAE, ItemKNN, LightGCN, MultVAE, Popular, Recommender

MOVIELENS = Path(__file__).parents[2] / "shared" / "data" / "ml-latest-small"
METRICS = ["Recall@20", "NDCG@20", "Dislikes@20"]
MODELS: tuple[Recommender[Any], ...] = (
    Popular(by="likes"),
    ItemKNN(),
    Factors(),
    ItemAE(),
    MultVAE(epochs=60, batch=64, hidden=200, latent=64),
    NCF(),
    CML(epochs=30),
    LightGCN(epochs=60, learning_rate=5e-3),
)


def logs(data: Path, quick: bool, seed: int) -> tuple[FeedbackLog, FeedbackLog]:
    if not quick and (data / "train.txt").exists():
        return read_pair(data / "train.txt", data / "test.txt", format="lightgcn")
    if not quick and data.is_dir():
        log = FeedbackLog.read(data, like=4, dislike=2)
    else:
        if not quick:
            print(f"{data} is not there; a planted world takes its place", file=sys.stderr)
        log = synthetic.make(
            synthetic.World(n_users=400, n_items=300, rank=3, taste=3.0, seeks_taste=0.3, random_share=0.6, events=60),
            seed,
        ).log
    return split.per_user(log, 0.25, rng=seed)


def bench(train: FeedbackLog, test: FeedbackLog, seed: int, only: list[str]) -> dict[str, float]:
    figures: dict[str, float] = {"users": train.n_users, "items": train.n_items, "train": len(train), "test": len(test)}
    for model in MODELS:
        if only and model.kind not in only:
            continue
        began = time.process_time()
        model.fit(train, rng=seed)
        figures[f"{model.kind}.train_cpu_seconds"] = time.process_time() - began
        judged = per_user(model.recommend(test.users, 20, exclude=train), test, METRICS)
        for name, mean in summary(judged, draws=0).select("metric", "mean").iter_rows():
            figures[f"{model.kind}.{name.lower()}"] = mean
        print(f"{model.kind}: {figures[f'{model.kind}.ndcg@20']:.4f}", file=sys.stderr)
    return figures


def show(figures: dict[str, float]) -> None:
    columns = [*(name.lower() for name in METRICS), "train_cpu_seconds"]
    table = Table("", *(column.replace("_", " ") for column in columns))
    for kind in dict.fromkeys(key.partition(".")[0] for key in figures if "." in key):
        table.add_row(kind, *(f"{figures[f'{kind}.{column}']:.4g}" for column in columns))
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.victims", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a small planted world, under a minute")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=MOVIELENS, help="folder of MovieLens or of LightGCN lists")
    parser.add_argument("--only", nargs="+", default=[], choices=[model.kind for model in MODELS])
    parser.add_argument("--settings", action="store_true", help="print the settings and stop")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.settings:
        print(*MODELS, sep="\n")
        return
    figures = bench(*logs(args.data, args.quick, args.seed), args.seed, args.only)
    show(figures)
    if args.json:
        write_json(args.json, module="bench.victims", seed=args.seed, figures=figures)


if __name__ == "__main__":
    main()
