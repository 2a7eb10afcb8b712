"""Training models of exposure: the published one-person-a-step loop beside our default, and how ours grows.

Every contender runs in a process of its own with one thread, on the published simulation (3,000 people, 1,000 items,
20 steps each). Reported for each: seconds of processor time of an epoch (median; with one thread that is what a clock
shows on an idle machine), peak memory of the process above what it held with torch and the data, and the held-out
log-likelihood: of the next five events of everybody, each after all that came before it, with filtering probabilities.
`level` is the log-likelihood the published loop reaches in `PUBLISHED_EPOCHS` epochs; ours is timed until it is there.

The published loop is our re-creation with a fused Adam, which is about twice as fast as the official code was measured
to be. It keeps its best epoch by the published validation (`validation10`, ...), whose time is not counted. With
--quick it is timed on 300 people and scaled up, without likelihoods.

--recbole PYTHON: our epoch beside one of RecBole's GRU4Rec and SASRec on the same events (`recbole_epoch.py`), with its
default widths and with ours; PYTHON is the interpreter of an environment that has RecBole (`RECBOLE_NEEDS`). Theirs are
timed on `RECBOLE_PEOPLE` of the people and scaled up.

--growth: our epoch with more people, more items, and longer histories, one at a time, in a world of random events; and
one epoch over 100,000 items with the full softmax in chunks (`CHUNKED`).

    PYTHONPATH=src python -m bench.exposure [--quick] [--growth | --recbole PYTHON] [--seed N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl

from bench.output import peak_memory, write_json
from tastemaker.data.feedback import FeedbackLog, Scale
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.simulate.topics import by_iteration, world

PUBLISHED_EPOCHS = 30
CONTENDERS: dict[str, dict[str, Any]] = {
    "published": {"faithful": True, "epochs": PUBLISHED_EPOCHS},
    "default": {},
    "default_all_items": {"negatives": None},
    "transformer": {"encoder": "transformer"},
    "no_encoder": {"encoder": "none"},
    "large_batches": {"batch": 2560, "negatives": 64, "learning_rate": 0.01},
}
PEOPLE = 3_000
BASE = {"users": 1_000, "items": 1_000, "steps": 20}
GROWTH = {"users": (1_000, 3_000, 10_000), "items": (1_000, 10_000, 100_000), "steps": (10, 20, 80, 320)}
CHUNKED = {"users": 100, "items": 100_000, "steps": 20}
RECBOLE_NEEDS = "recbole==1.2.1 torch numpy==1.26.4 pandas==2.2.3 scipy==1.13.1 setuptools==75.8.0"
RECBOLE_PEOPLE = 600
RECBOLE: dict[str, tuple[str, dict[str, int]]] = {
    "gru4rec": ("GRU4Rec", {}),
    "sasrec": ("SASRec", {}),
    "gru4rec_narrow": ("GRU4Rec", {"embedding_size": 32, "hidden_size": 32}),
    "sasrec_narrow": ("SASRec", {"n_layers": 1, "hidden_size": 32, "inner_size": 64}),
}


def random_log(users: int, items: int, steps: int, rng: np.random.Generator) -> FeedbackLog:
    """Every person rates `steps` distinct items; popularity falls with the square root of the place."""
    share = np.cumsum(1 / np.arange(1, items + 1) ** 0.5)
    rows = []
    for _ in range(users):
        item = np.unique(np.searchsorted(share, rng.random(4 * steps) * share[-1]))
        rows.append(rng.permutation(item)[:steps] if len(item) >= steps else rng.permutation(items)[:steps])
    table = {
        "user": np.repeat(np.arange(users), steps),
        "item": np.concatenate(rows),
        "value": rng.integers(0, 11, users * steps).astype(np.float32),
        "time": np.tile(np.arange(steps), users),
    }
    return FeedbackLog(pl.DataFrame(table), Vocabulary.range(users), Vocabulary.range(items), Scale(0, 10))


def work(task: dict[str, Any]) -> dict[str, float]:
    """What one process measures."""
    import torch

    from tastemaker.debias.sequence import Exposure, train_exposure

    torch.set_num_threads(1)
    train, later = FeedbackLog.load(Path(task["data"]) / "train"), None
    if (Path(task["data"]) / "later").exists():
        later = FeedbackLog.load(Path(task["data"]) / "later")
    if people := task.get("people"):
        train, later = train.select(train.user < people), None
    model = Exposure(**task["config"])
    before = peak_memory()
    # Warm up on a corner, so that the first epoch is like the others.
    train_exposure(train.select(train.user < 20), model=Exposure(**task["config"] | {"epochs": 1, "validation": 0.0}))
    ends = [time.process_time()]

    def progress(epoch: int, epochs: int, validation: float) -> None:
        ends.append(time.process_time())

    # Nobody is held out and the last epoch of ours is kept. The published one is validated every tenth, as in its code.
    model.validation = 0.0
    model = train_exposure(train, later if model.faithful else None, model=model, rng=task["seed"], progress=progress)
    seconds = median(np.diff(ends))
    found = {"seconds": seconds, "memory": peak_memory() - before, "total": seconds * len(model.history)}
    for epoch, (_, reached) in enumerate(model.history, 1):
        if np.isfinite(reached):
            found[f"validation{epoch}"] = reached
    if later is not None:
        model.smoothing = False
        found["log_likelihood"] = model.log_likelihood(train, later)
    if people:
        found["seconds"] *= PEOPLE / people
    return found


def in_process(task: dict[str, Any]) -> dict[str, float]:
    """Measure in a process of its own."""
    code = "import json, sys; from bench.exposure import work; print(json.dumps(work(json.loads(sys.argv[1]))))"
    done = subprocess.run([sys.executable, "-c", code, json.dumps(task)], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def contenders(quick: bool, seed: int, data: Path) -> dict[str, float]:
    """Figures of all, and of ours against the published loop."""
    train, later, _ = by_iteration(world(rng=seed).log, 20, 25, 30)
    train.save(data / "train")
    later.save(data / "later")
    figures: dict[str, float] = {}
    for name, config in CONTENDERS.items():
        if quick and name not in ("published", "default"):
            continue
        task = {"seed": seed, "data": str(data), "config": config | ({"epochs": 2} if quick else {})}
        found = in_process(task | ({"people": 300} if quick and name == "published" else {}))
        figures |= {f"{name}.{key}": value for key, value in found.items()}
        if name != "published":
            figures[f"{name}.times_faster"] = figures["published.seconds"] / found["seconds"]
        print(name, {key: round(value, 3) for key, value in found.items()}, file=sys.stderr)
    if not quick:
        figures |= to_level(figures["published.log_likelihood"], figures["published.total"], seed, data)
    return figures


def to_level(level: float, total: float, seed: int, data: Path) -> dict[str, float]:
    """Epochs and seconds until our default has the log-likelihood of the published loop."""
    for epochs in range(1, 13):
        found = in_process({"seed": seed, "data": str(data), "config": {"epochs": epochs}})
        if found["log_likelihood"] >= level:
            return {
                "level.epochs": epochs, "level.seconds": found["total"],
                "level.times_faster": total / found["total"], "level.log_likelihood": found["log_likelihood"],
            }  # fmt: skip
    return {}


def beside_recbole(python: str, quick: bool, seed: int, data: Path) -> dict[str, float]:
    """Our epoch and those of RecBole's sequence recommenders."""
    train, later, _ = by_iteration(world(rng=seed).log, 20, 25, 30)
    train.save(data / "train")
    # RecBole holds everybody's last two events out, so it gets two more.
    events = pl.concat([train.events, later.events.filter(pl.col("time") < 22)])
    events = events.filter(pl.col("user") < RECBOLE_PEOPLE)
    (data / "exposure").mkdir()
    events.select(
        pl.col("user").alias("user_id:token"), pl.col("item").alias("item_id:token"),
        pl.col("time").cast(pl.Float64).alias("timestamp:float"),
    ).write_csv(data / "exposure/exposure.inter", separator="\t")  # fmt: skip
    ours = in_process({"seed": seed, "data": str(data), "config": {"epochs": 1 if quick else 3}})
    figures = {"default.seconds": ours["seconds"]}
    script = Path(__file__).with_name("recbole_epoch.py")
    for name, (model, settings) in list(RECBOLE.items())[: 1 if quick else None]:
        task = {"data": str(data), "model": model, "settings": settings, "steps": 20, "epochs": 2, "seed": seed}
        done = subprocess.run(
            [python, str(script), json.dumps(task)], capture_output=True, text=True, check=False, cwd=data
        )
        if done.returncode:
            last = (done.stderr.strip() or "no message").splitlines()[-1]
            sys.exit(f"{python} cannot run RecBole ({last}); make an environment with: pip install {RECBOLE_NEEDS}")
        found = json.loads(done.stdout.strip().splitlines()[-1])
        figures[f"{name}.seconds"] = found["seconds"] * PEOPLE / RECBOLE_PEOPLE
        figures[f"{name}.times_slower"] = figures[f"{name}.seconds"] / ours["seconds"]
        print(name, round(figures[f"{name}.seconds"], 2), file=sys.stderr)
    return figures


def growth(quick: bool, seed: int, data: Path) -> dict[str, float]:
    """Our epoch as one size grows."""
    figures: dict[str, float] = {}
    tasks = {
        f"{size}.{value}": (BASE | {size: value}, {"epochs": 2})
        for size, values in GROWTH.items()
        for value in (values[:2] if quick else values)
    }
    if not quick:
        tasks["chunked"] = CHUNKED, {"epochs": 1, "negatives": None}
    for name, (size, config) in tasks.items():
        random_log(**size, rng=np.random.default_rng(seed)).save(data / "train")
        found = in_process({"seed": seed, "data": str(data), "config": config})
        figures |= {f"{name}.{key}": found[key] for key in ("seconds", "memory")}
        print(name, {key: round(value, 2) for key, value in found.items()}, file=sys.stderr)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.exposure", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="the published loop on 300 people, two epochs of ours")
    parser.add_argument("--growth", action="store_true", help="how our epoch grows, instead of the comparison")
    parser.add_argument("--recbole", metavar="PYTHON", help="beside RecBole, which this interpreter has, instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.recbole:
            figures = beside_recbole(given.recbole, given.quick, given.seed, Path(folder))
        else:
            figures = (growth if given.growth else contenders)(given.quick, given.seed, Path(folder))
    for name, value in figures.items():
        print(f"{name:40s} {value:12.4g}")
    if given.json:
        write_json(given.json, module="bench.exposure", seed=given.seed, figures=figures)


if __name__ == "__main__":
    main()
