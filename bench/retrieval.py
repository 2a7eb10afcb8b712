"""Retrieval of models side by side: ours, plain numpy and, where it is installed, faiss, at growing numbers of models;
and what a vote costs.

Models and prompts are Gaussian vectors with `--dim` numbers; half of the models pass a filter. For each number of
models and contender, in a process of its own: seconds to build, milliseconds for one prompt (median and 95th
percentile), prompts a second one after another, the most memory held beyond the vectors (MiB), and the share of the
true best 100 that is found. The contenders:

    exact    tastemaker.choose.search.Index: every row, filter included
    numpy    rows @ query, -inf where the filter says no, argsort
    faiss    Index with exact=0: an inverted file, a fifth of the lists visited; vectors without any
             clusters, as here, are the worst case for it
    shelf    the whole of `retrieve`: prediction, filter, policy (Thompson), diversity, eight cards with reasons

A vote is a pair: for the leaderboard of 200 or 1,000 models (`Belief.add`), and for a person's taste in 1,000 pictures
of 16 features (`Taste.update`), one after another.

    PYTHONPATH=src python -m bench.retrieval [--quick] [--models N ...] [--dim N] [--seed N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from bench.output import peak_memory, write_json

K = 100
CONTENDERS = ("exact", "numpy", "faiss", "shelf")
Ask = Callable[[np.ndarray[Any, np.dtype[np.float32]]], Any]


def exact(rows: Any, allowed: Any) -> Ask:
    from tastemaker.choose.search import Index

    index = Index.of(rows, exact=len(rows))
    return lambda query: index.best(query, K, allowed=allowed)[0]


def numpy(rows: Any, allowed: Any) -> Ask:
    return lambda query: np.argsort(-np.where(allowed, rows @ query, -np.inf))[:K]


def faiss(rows: Any, allowed: Any) -> Ask:
    from tastemaker.choose.search import Index

    index = Index.of(rows, exact=0)
    return lambda query: index.best(query, K, allowed=allowed)[0]


def shelf(rows: Any, allowed: Any) -> Ask:
    import polars as pl

    from tastemaker.choose.predictor import Fitted
    from tastemaker.choose.retrieve import Shelf, retrieve
    from tastemaker.choose.signature import Signatures
    from tastemaker.data.catalog import Catalog

    n, dim = rows.shape
    models = Catalog(pl.DataFrame({"id": np.arange(n), "explicit": ~allowed}))
    blank = np.zeros(n)
    fitted = Fitted(models.ids, dim, lambda t: t, rows, blank, blank + 0.1, np.zeros(n, np.bool_))
    own = Shelf.of(models, fitted, signatures=Signatures(models.ids, rows, blank, np.ones(n, np.int64)), exact=n)
    rng = np.random.default_rng(0)
    return lambda query: retrieve(query / np.linalg.norm(query), shelf=own, rng=rng).table["id"].to_numpy()


def work(contender: str, n: int, dim: int, prompts: int, seed: int) -> dict[str, float]:
    """One contender at one size."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, dim), np.float32)
    queries = rng.standard_normal((prompts, dim), np.float32)
    allowed = rng.random(n) < 0.5
    before = peak_memory()
    began = time.perf_counter()
    ask = {"exact": exact, "numpy": numpy, "faiss": faiss, "shelf": shelf}[contender](rows, allowed)
    built = time.perf_counter() - began
    ask(queries[0])
    seconds, found = [], []
    for query in queries:
        began = time.perf_counter()
        got = ask(query)
        seconds.append(time.perf_counter() - began)
        found.append(got)
    figures = {
        "build_seconds": built,
        "median_ms": 1e3 * float(np.median(seconds)),
        "p95_ms": 1e3 * float(np.quantile(seconds, 0.95)),
        "prompts_a_second": prompts / sum(seconds),
        "memory": peak_memory() - before,
    }
    if contender != "shelf":
        true = [np.argsort(-np.where(allowed, rows @ query, -np.inf))[:K] for query in queries[:10]]
        share = [np.isin(t[: allowed.sum()], got).mean() for t, got in zip(true, found, strict=False)]
        figures["recall"] = float(np.mean(share))
    return figures


def votes(n_votes: int, seed: int) -> dict[str, float]:
    """Milliseconds of one more vote, median and 95th percentile."""
    from tastemaker.choose.belief import Belief
    from tastemaker.choose.rank import Pictures, Taste
    from tastemaker.choose.votes import Vote, pair
    from tastemaker.data.vocabulary import Vocabulary

    rng = np.random.default_rng(seed)
    pictures = Pictures(Vocabulary.range(1000), rng.standard_normal((1000, 16)) / 4, tuple(map(str, range(16))))
    after = {
        "board_of_200": lambda belief, vote: belief.add(vote.choices),
        "board_of_1000": lambda belief, vote: belief.add(vote.choices),
        "taste": lambda taste, vote: taste.update([vote], pictures),
    }  # fmt: skip
    start: dict[str, Any] = {f"board_of_{n}": Belief.start(Vocabulary.range(n)) for n in (200, 1000)}
    start["taste"] = Taste.start(pictures.names).of("ada")
    figures = {}
    for name, belief in start.items():
        seconds = []
        for _ in range(n_votes):
            better, worse = rng.choice(200 if name == "board_of_200" else 1000, 2, replace=False).tolist()
            vote = Vote(pair(better, worse), "ada")
            began = time.perf_counter()
            belief = after[name](belief, vote)
            seconds.append(time.perf_counter() - began)
        figures |= {f"vote.{name}.median_ms": 1e3 * float(np.median(seconds))}
        figures |= {f"vote.{name}.p95_ms": 1e3 * float(np.quantile(seconds, 0.95))}
    return figures


def run(contender: str, *settings: int) -> dict[str, float]:
    """One contender in a process of its own."""
    command = [sys.executable, "-m", "bench.retrieval", "--worker", contender, *map(str, settings)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(work(sys.argv[2], *map(int, sys.argv[3:]))))
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="200 and 20,000 models, few prompts: under a minute")
    parser.add_argument("--models", nargs="+", type=int, help="numbers of models; 200, 20,000 and 1,000,000 by default")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()

    from rich.console import Console
    from rich.table import Table

    sizes = args.models or ([200, 20_000] if args.quick else [200, 20_000, 1_000_000])
    contenders = [name for name in CONTENDERS if name != "faiss" or find_spec("faiss")]
    figures: dict[str, float] = {"dim": args.dim}
    table = Table("models", "contender", "build s", "median ms", "95 % ms", "prompts/s", "MiB", "recall")
    for n in sizes:
        for contender in contenders:
            found = run(contender, n, args.dim, 10 if args.quick else 50, args.seed)
            figures |= {f"{n}.{contender}.{name}": value for name, value in found.items()}
            table.add_row(f"{n:,}", contender, *(f"{value:.3g}" for value in found.values()))
    Console().print(table)
    told = votes(20 if args.quick else 100, args.seed)
    for name, value in told.items():
        print(f"{name:32} {value:8.2f}")
    figures |= told
    if "faiss" not in contenders:
        print("faiss is not installed: pip install faiss-cpu to compare with it", file=sys.stderr)
    if args.json:
        write_json(args.json, module="bench.retrieval", seed=args.seed, figures=figures)


if __name__ == "__main__":
    main()
