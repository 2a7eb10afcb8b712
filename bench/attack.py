"""One outer round of the published attack, ours beside the same computation done densely with unrolled autograd.

Ours is timed on the attack paper's Gowalla data: 13,149 users x 14,007 items, 131 fake users, five head targets, matrix
factorisation of rank 128, 50 epochs of Adam of which the last 10 are differentiated, the published mini-batches. The
dense computation forms every users x items matrix and keeps every differentiated step; at this size it would need about
25 GB, so it is timed on a share of users and items (`--share`), where both compute the same gradient from the same
start and the relative difference is reported; its time at full size is extrapolated by cells, `dense_full_seconds`.

Seconds are of the processor, all threads added up, since the machine may be busy; `wall_seconds` is of the clock. Torch
and BLAS take one thread, as waiting threads of theirs would count as work; ours shares its pieces among all cores, and
`main_seconds` is what its first thread does alone. Each contender runs in a process of its own, and memory is that
process's peak. Without the data a generated log of the same size stands in.

    PYTHONPATH=src python -m bench.attack [--quick] [--seed N] [--data FOLDER] [--share X] [--json FILE]
"""

from __future__ import annotations

import argparse
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


def work(contender: str, pairs: str, task: dict[str, Any], answer: str) -> None:
    from tastemaker.attack.bilevel_loss import Adversary
    from tastemaker.attack.bilevel_wmf import WMF
    from tastemaker.attack.clicks import Clicks

    real = sparse.load_npz(pairs)
    short = np.flatnonzero(np.diff(real.indptr) <= 100)
    fakes = real[short[: task["fakes"]]].toarray()
    clicks = Clicks.build(real, fakes, WEIGHT)
    targets = np.array(task["targets"], np.int32)
    model = WMF(rank=task["rank"], epochs=task["epochs"], unroll=task["unroll"], batch=task["batch"], weight=WEIGHT)
    if contender == "dense":
        from tests.attack.dense import wmf_gradient
    else:
        few = Clicks.build(real[:50], fakes[:2], WEIGHT)  # compile first
        WMF(rank=8, epochs=2, unroll=1).solve(few, Adversary(targets, few), "exact", np.random.default_rng(0))
    before, wall, cpu, main = peak_memory(), time.perf_counter(), time.process_time(), time.thread_time()
    if contender == "dense":
        loss, gradient = wmf_gradient(model, clicks, targets, np.random.default_rng(task["seed"]))
    else:
        judged, found = model.solve(clicks, Adversary(targets, clicks), "exact", np.random.default_rng(task["seed"]))
        assert found is not None
        loss, gradient = judged.loss, found
    figures = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    figures |= {"main_seconds": time.thread_time() - main, "loss": loss}
    figures |= {"memory": peak_memory(), "memory_before": before}
    np.save(answer, gradient)
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


def side_by_side(real: Any, share: float, folder: str, **task: Any) -> dict[str, float]:
    """Both contenders on the busiest users and items; times, memory, and how far apart the gradients are."""
    users, items = (np.argsort(-np.asarray(real.sum(axis)).ravel(), kind="stable") for axis in (1, 0))
    part = real[np.sort(users[: round(share * real.shape[0])])][:, np.sort(items[: round(share * real.shape[1])])]
    task |= {"targets": [0, 1, 2, 3, 4], "fakes": max(1, round(share * N_FAKES)), "batch": round(share * 2048)}
    ours, gradient = run("ours", part, folder, **task)
    dense, reference = run("dense", part, folder, **task)
    figures = {f"share.ours.{key}": value for key, value in ours.items()}
    figures |= {f"share.dense.{key}": value for key, value in dense.items()}
    figures["share.relative_difference"] = float(np.linalg.norm(gradient - reference) / np.linalg.norm(reference))
    figures["share.times_faster"] = dense["cpu_seconds"] / ours["cpu_seconds"]
    figures["dense_full_seconds"] = dense["cpu_seconds"] / share**2
    return figures


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        return work(sys.argv[2], sys.argv[3], json.loads(sys.argv[4]), sys.argv[5])
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a share of the data, few epochs; no full size")
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
        if not args.quick:
            full, _ = run("ours", real, folder, **task, targets=HEAD, fakes=N_FAKES, batch=2048)
            figures |= {f"{'gowalla' if there else 'generated'}.ours.{key}": value for key, value in full.items()}
    for key, value in figures.items():
        print(f"{key:32} {value:12.6g}")
    if args.json:
        write_json(args.json, module="bench.attack", seed=args.seed, figures=figures)
    return None


if __name__ == "__main__":
    main()
