"""The published attack beside the same computation done densely: one outer round, the whole, several problems at once.

One outer round is timed on the attack paper's Gowalla data: 13,149 users x 14,007 items, 131 fake users, five head
targets, matrix factorisation of rank 128, 50 epochs of Adam of which the last 10 are differentiated, the published
mini-batches. The dense computation forms every users x items matrix and keeps every differentiated step; at this size
it would need about 25 GB, so it is timed on a share of users and items (`--share`), where both compute the same
gradient from the same start and the relative difference is reported; its time at full size is extrapolated by cells,
`dense_full_seconds`. `float32_error` is how far ours in float32 is from ours in float64; `nudge_error` how far
float64 gets from itself when the factors start off by one unit in the last place of float32, and all else is exact: how
much of a rounding the training itself passes on, whatever adds up its sums.

`--whole` adds the published attack, 30 such rounds. `--together` adds 4 and 8 problems (other seeds, fakes and
targets) solved at once against one after the other, on the paper's synthetic world (rank 16, 100 steps, all
differentiated) and on the busiest tenth of users and items (two ranks); there they are all put together, which the
library does only while they are small.

Seconds are of the processor, all threads added up, since the machine may be busy; `wall_seconds` is of the clock. Torch
and BLAS take one thread, as waiting threads of theirs would count as work; ours shares its pieces among all cores, and
`main_seconds` is what its first thread does alone. Each contender runs in a process of its own, and memory is that
process's peak. Without the data a generated log of the same size stands in.

    PYTHONPATH=src python -m bench.attack [--quick] [--whole] [--together] [--seed N] [--data FOLDER] [--share X]
                                          [--json FILE]
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from bench.output import peak_memory, write_json

GOWALLA = Path(__file__).parents[2] / "shared" / "data" / "gowalla_attack"
HEAD = (259, 2272, 3010, 6737, 7690)
HEAD_OF_SHARE = (0, 1, 2, 3, 4)
FULL = (13_149, 14_007)
N_FAKES, WEIGHT = 131, 20.0


def gowalla(folder: Path) -> Any:
    """Train clicks as ones, users x items."""
    with gzip.open(folder / "train.csv.gz", "rt", encoding="utf-8") as file:
        user, item = np.loadtxt(file, np.int32, delimiter=",", skiprows=1, unpack=True)
    return sparse.csr_matrix((np.ones(len(user), np.float32), (user, item)), FULL)


def generated(rng: np.random.Generator) -> Any:
    """As many clicks as Gowalla's, popularity falling as a power of the place."""
    share = np.cumsum(1 / np.arange(1, FULL[1] + 1) ** 0.7)
    item = np.searchsorted(share, rng.random(500_000) * share[-1])
    matrix = sparse.csr_matrix((np.ones(500_000, np.float32), (rng.integers(0, FULL[0], 500_000), item)), FULL)
    matrix.data[:] = 1
    return matrix


class Meter:
    """Seconds since it was made, and the process's peak memory."""

    def __init__(self) -> None:
        self.before = peak_memory()
        self.began = time.perf_counter(), time.process_time(), time.thread_time()

    def read(self) -> dict[str, float]:
        now = time.perf_counter(), time.process_time(), time.thread_time()
        spent = [end - start for end, start in zip(now, self.began, strict=True)]
        seconds = dict(zip(("wall_seconds", "cpu_seconds", "main_seconds"), spent, strict=True))
        return seconds | {"memory": peak_memory(), "memory_before": self.before}


def one_round(contender: str, real: Any, task: dict[str, Any]) -> tuple[dict[str, float], Any]:
    """Train and differentiate once."""
    from tastemaker.attack.bilevel_loss import Adversary
    from tastemaker.attack.bilevel_wmf import WMF
    from tastemaker.attack.clicks import Clicks

    dtype = np.float64 if contender in ("float64", "nudged") else np.float32
    short = np.flatnonzero(np.diff(real.indptr) <= 100)
    fakes = real[short[: task["fakes"]]].toarray().astype(dtype)
    clicks = Clicks.build(real, fakes, WEIGHT)
    targets = np.array(task["targets"], np.int32)
    model = WMF(rank=task["rank"], epochs=task["epochs"], unroll=task["unroll"], batch=task["batch"], weight=WEIGHT)
    if contender == "nudged":
        model = dataclasses.replace(model, init=float(np.nextafter(np.float32(model.init), np.float32(1))))
    if contender == "dense":
        from tests.attack.dense import wmf_gradient
    else:
        few = Clicks.build(real[:50], fakes[:2], WEIGHT)  # compile first
        WMF(rank=8, epochs=2, unroll=1).solve(few, Adversary(targets, few), "exact", np.random.default_rng(0))
    meter = Meter()
    if contender == "dense":
        loss, gradient = wmf_gradient(model, clicks, targets, np.random.default_rng(task["seed"]))
    else:
        judged, found = model.solve(clicks, Adversary(targets, clicks), "exact", np.random.default_rng(task["seed"]))
        assert found is not None
        loss, gradient = judged.loss, found
    return meter.read() | {"loss": loss}, gradient


def whole(real: Any, task: dict[str, Any]) -> tuple[dict[str, float], Any]:
    """The published attack from a log to fake users; the profiles as a matrix."""
    from tastemaker.attack import bilevel
    from tastemaker.attack.bilevel_wmf import WMF
    from tastemaker.attack.profiles import Budget
    from tastemaker.data.feedback import FeedbackLog
    from tastemaker.data.vocabulary import Vocabulary

    user, item = real.nonzero()
    known = {"user_ids": Vocabulary.range(real.shape[0]), "item_ids": Vocabulary.range(real.shape[1])}
    log = FeedbackLog.of(user, item, np.ones(len(user)), **known)
    model = WMF(rank=task["rank"], epochs=task["epochs"], unroll=task["unroll"], batch=task["batch"], weight=WEIGHT)
    meter = Meter()  # reading what is compiled counts, as a user would wait for it
    fakes = bilevel.attack(
        log, task["targets"], Budget(task["fakes"]), surrogate=model, rounds=task["rounds"], loop=bilevel.PAPER,
        rng=task["seed"],
    )  # fmt: skip
    rates = [one.hit_rate for one in fakes.history]
    figures = meter.read() | {"first_hit_rate": rates[0], "best_hit_rate": max(rates), "rounds": len(rates)}
    return figures, fakes.matrix().toarray()


def several(contender: str, real: Any, task: dict[str, Any]) -> tuple[dict[str, float], Any]:
    """Problems with seeds, fakes and targets of their own, all at once or one after the other; medians of runs."""
    from tastemaker.attack import bilevel_wmf
    from tastemaker.attack.bilevel_loss import Adversary, Problem
    from tastemaker.attack.clicks import Clicks

    bilevel_wmf.TOGETHER = sys.maxsize if contender == "together" else 1
    model, problems = bilevel_wmf.WMF(**task["model"]), []
    for seed in range(task["problems"]):
        rows = np.random.default_rng(seed).choice(real.shape[0], task["fakes"], replace=False)
        clicks = Clicks.build(real, real[rows].toarray(), WEIGHT)
        problems.append((clicks, Adversary(np.array([seed], np.int32), clicks, 10), seed))
    readings = []
    for _ in range(task["runs"] + 1):  # the first compiles
        meter = Meter()
        solved = model.solve_many([Problem(*one, np.random.default_rng(seed)) for *one, seed in problems], "exact")
        readings.append(meter.read())
    medians = {key: float(np.median([one[key] for one in readings[1:]])) for key in readings[0]}
    return medians | {"memory": readings[-1]["memory"], "memory_before": readings[0]["memory_before"]}, solved[-1][1]


def work(contender: str, pairs: str, task: dict[str, Any], answer: str) -> None:
    real = sparse.load_npz(pairs)
    if contender in ("together", "one_by_one"):
        figures, found = several(contender, real, task)
    else:
        figures, found = whole(real, task) if contender == "whole" else one_round(contender, real, task)
    np.save(answer, found)
    print(json.dumps(figures))


def run(contender: str, real: Any, folder: str, **task: Any) -> tuple[dict[str, float], Any]:
    pairs, answer = str(Path(folder) / "pairs.npz"), str(Path(folder) / f"{contender}.npy")
    sparse.save_npz(pairs, real)
    command = [sys.executable, "-m", "bench.attack", "--worker", contender, pairs, json.dumps(task), answer]
    alone = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=alone)
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures, np.load(answer)


def busiest(real: Any, share: float) -> Any:
    users, items = (np.argsort(-np.asarray(real.sum(axis)).ravel(), kind="stable") for axis in (1, 0))
    return real[np.sort(users[: round(share * real.shape[0])])][:, np.sort(items[: round(share * real.shape[1])])]


def apart(one: Any, other: Any) -> float:
    """Relative difference."""
    return float(np.linalg.norm(one.astype(float) - other) / np.linalg.norm(other))


def in_float32(real: Any, folder: str, ours: Any, **task: Any) -> dict[str, float]:
    """How far `ours` is from the gradient in float64, and how far that is from itself with another start."""
    (figures, exact), (_, nudged) = (run(name, real, folder, **task) for name in ("float64", "nudged"))
    errors = {"float32_error": apart(ours, exact), "nudge_error": apart(nudged, exact)}
    return {f"float64.{key}": value for key, value in figures.items()} | errors


def side_by_side(real: Any, share: float, folder: str, **task: Any) -> dict[str, float]:
    """Both contenders on the busiest users and items; times, memory, and how far apart the gradients are."""
    part = busiest(real, share)
    task |= {"targets": HEAD_OF_SHARE, "fakes": max(1, round(share * N_FAKES)), "batch": round(share * 2048)}
    ours, gradient = run("ours", part, folder, **task)
    dense, reference = run("dense", part, folder, **task)
    figures = {f"share.ours.{key}": value for key, value in ours.items()}
    figures |= {f"share.dense.{key}": value for key, value in dense.items()}
    figures |= {f"share.{key}": value for key, value in in_float32(part, folder, gradient, **task).items()}
    figures["share.relative_difference"] = apart(gradient, reference)
    figures["share.times_faster"] = dense["cpu_seconds"] / ours["cpu_seconds"]
    figures["dense_full_seconds"] = dense["cpu_seconds"] / share**2
    return figures


def at_once(real: Any, folder: str, quick: bool) -> dict[str, float]:
    """Several problems at once against one after the other."""
    from tastemaker.attack.clicks import real_clicks
    from tastemaker.attack.synthetic import low_rank_clicks

    paper = {"rank": 16, "init": 1.0, "learning_rate": 0.5, "decay": 0.0, "batch": None, "unroll": None}
    tenth, few = busiest(real, 0.1), {"batch": 205, "epochs": 5 if quick else 20, "unroll": 1 if quick else 4}
    worlds: dict[str, tuple[Any, int, dict[str, Any]]] = {
        "synthetic": (
            real_clicks(low_rank_clicks(np.random.default_rng(1))[0]), 100, paper | {"epochs": 30 if quick else 100}
        ),
        "tenth_rank_32": (tenth, 13, few | {"rank": 32}),
        "tenth_rank_128": (tenth, 13, few | {"rank": 128}),
    }  # fmt: skip
    figures: dict[str, float] = {}
    for name, (clicks, n_fakes, model) in worlds.items():
        for n in (4,) if quick else (4, 8):
            task = {"model": model, "fakes": n_fakes, "problems": n, "runs": 1 if quick else 5}
            (alone, one), (at_once, other) = (run(how, clicks, folder, **task) for how in ("one_by_one", "together"))
            assert np.array_equal(one, other), f"{name}: {n} problems at once are not what they are alone"
            place = f"{name}.{n}"
            for how, found in (("one_by_one", alone), ("together", at_once)):
                kept = ("wall_seconds", "cpu_seconds", "memory", "memory_before")
                figures |= {f"{place}.{how}.{key}": found[key] for key in kept}
            for clock in ("wall", "cpu"):
                figures[f"{place}.times_faster_{clock}"] = alone[f"{clock}_seconds"] / at_once[f"{clock}_seconds"]
    return figures


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        return work(sys.argv[2], sys.argv[3], json.loads(sys.argv[4]), sys.argv[5])
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a share of the data, few epochs; no full size")
    parser.add_argument("--whole", action="store_true", help="also the published attack, 30 rounds")
    parser.add_argument("--together", action="store_true", help="also several problems at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=GOWALLA, help="folder with the attack paper's train.csv.gz")
    parser.add_argument("--share", type=float, default=0.2, help="of users and items, for the dense computation")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    there = (args.data / "train.csv.gz").exists()
    if not there:
        print(f"no train.csv.gz in {args.data}: a generated log of the same size stands in", file=sys.stderr)
    real = gowalla(args.data) if there else generated(np.random.default_rng(args.seed))
    task: dict[str, Any] = {"rank": 128, "epochs": 50, "unroll": 10, "seed": args.seed}
    if args.quick:
        task |= {"rank": 32, "epochs": 6, "unroll": 2}
        args.share = min(args.share, 0.05)
    with tempfile.TemporaryDirectory() as folder:
        figures = side_by_side(real, args.share, folder, **task)
        name, part = "gowalla" if there else "generated", real
        task |= {"targets": HEAD, "fakes": N_FAKES, "batch": 2048}
        if args.quick:
            name, part = f"share_of_{name}", busiest(real, args.share)
            task |= {"targets": HEAD_OF_SHARE, "fakes": round(args.share * N_FAKES), "batch": round(args.share * 2048)}
        else:
            full, gradient = run("ours", real, folder, **task)
            figures |= {f"{name}.ours.{key}": value for key, value in full.items()}
            figures |= {f"{name}.{key}": value for key, value in in_float32(real, folder, gradient, **task).items()}
        if args.whole:
            found, _ = run("whole", part, folder, **task, rounds=3 if args.quick else 30)
            figures |= {f"{name}.whole.{key}": value for key, value in found.items()}
        if args.together:
            figures |= at_once(real, folder, args.quick)
    for key, value in figures.items():
        print(f"{key:48} {value:12.6g}")
    if args.json:
        write_json(args.json, module="bench.attack", seed=args.seed, figures=figures)
    return None


if __name__ == "__main__":
    main()
