"""A grid of prompts x models x seeds side by side with a plain diffusers loop.

Both load every model, draw every picture with the same noise, steps and guidance, and write it as PNG. Each run is a
process of its own, in turns; after one picture to warm up, time runs from the first load to the last file. Medians are
given, of seconds on the clock and of processor seconds, which say more where other work shares the machine.
The plain loop is what people write: a pipeline a model, a call a picture. The grid draws in batches, loads the next
model in a thread while one draws, and also writes recipes, thumbnails and its catalogue. `difference` is the largest
over all pixels of all pictures, of 255.

    PYTHONPATH=src python -m bench.grid [--quick] [--models ...] [--device cpu] [--batch N] [--seed N] [--json FILE]
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

from bench.output import peak_memory, write_json

SUBJECTS = ("a red apple", "a dog", "a house", "a rocket", "a pumpkin", "a panda", "a pizza", "a crown")
GUIDANCE = 4.0


def plain(task: dict[str, Any], folder: Path) -> float:
    """One pipeline a model, one call a picture."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    began = time.perf_counter()
    for number, model in enumerate(task["models"]):
        pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=getattr(torch, task["dtype"]))
        pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
        pipeline.to(task["device"]).set_progress_bar_config(disable=True)
        for prompt in task["prompts"]:
            for seed in task["seeds"]:
                noise = torch.Generator().manual_seed(seed)
                drawn = pipeline(prompt, generator=noise, num_inference_steps=task["steps"], guidance_scale=GUIDANCE)
                drawn.images[0].save(folder / f"{number}-{prompt}-{seed}.png")
    return time.perf_counter() - began


def grid(task: dict[str, Any], folder: Path) -> float:
    """Ours."""
    from tastemaker.generate import grid as grids

    plan = grids.plan(
        task["prompts"], task["models"], task["seeds"], steps=task["steps"], guidance=GUIDANCE, triggers=False
    )
    began = time.perf_counter()
    outcome = grids.draw_grid(
        plan, folder / "grid", batch=task["batch"], loading=grids.Loading(task["device"], task["dtype"])
    )
    seconds = time.perf_counter() - began
    if outcome.failures:
        raise SystemExit(f"{outcome.failures[0]}")
    for (prompt, model, seed), file in outcome.files.items():
        file.rename(folder / f"{task['models'].index(model)}-{prompt}-{seed}.png")
    return seconds


def run(contender: str, task: dict[str, Any], folder: Path) -> dict[str, float]:
    """One contender in a process of its own."""
    folder.mkdir()
    command = [sys.executable, "-m", "bench.grid", "--worker", contender, json.dumps(task), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr}")
    answer: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return answer


def work(contender: str, given: str, folder: str) -> None:
    task, draw = json.loads(given), {"plain": plain, "grid": grid}[contender]
    with tempfile.TemporaryDirectory() as scratch:  # one picture to import and warm up
        draw(task | {"models": task["models"][:1], "prompts": ["a"], "seeds": [0], "steps": 2}, Path(scratch))
    before = time.process_time()
    seconds = draw(task, Path(folder))
    processor = time.process_time() - before
    print(json.dumps({"seconds": seconds, "processor": processor, "memory": peak_memory()}))


def side_by_side(task: dict[str, Any], runs: int) -> dict[str, float]:
    """Medians of both contenders, taking turns, and their ratios."""
    from tastemaker.generate.picture import read_picture
    from tastemaker.generate.redraw import difference

    results: dict[str, list[dict[str, float]]] = {"plain": [], "grid": []}
    n_pictures = len(task["prompts"]) * len(task["models"]) * len(task["seeds"])
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(runs):
            for contender, several in results.items():
                several.append(run(contender, task, Path(scratch) / f"{contender}{number}"))
        pairs = [(file, Path(scratch) / "grid0" / file.name) for file in (Path(scratch) / "plain0").glob("*.png")]
        largest = max(difference(read_picture(one), read_picture(other)) for one, other in pairs)
    figures: dict[str, float] = {"pictures": n_pictures, "models": len(task["models"]), "difference": largest}
    for contender, several in results.items():
        figures[f"{contender}.seconds"] = median(one["seconds"] for one in several)
        figures[f"{contender}.pictures_a_second"] = n_pictures / figures[f"{contender}.seconds"]
        for what in ("processor", "memory"):
            figures[f"{contender}.{what}"] = median(one[what] for one in several)
    for what in ("seconds", "processor", "memory"):
        figures[f"ratio.{what}"] = figures[f"grid.{what}"] / figures[f"plain.{what}"]
    return figures


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        work(*sys.argv[2:5])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="two models, two prompts, one run: under a minute")
    parser.add_argument("--models", nargs="+", default=["zoo/*"], help="zoo/NAME, folders or patterns")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()

    from rich.console import Console
    from rich.table import Table

    from tastemaker.generate import zoo

    few = 2 if args.quick else None
    task = {
        "models": [str(zoo.resolve(name).resolve()) for name in zoo.find(args.models)][:few],
        "prompts": SUBJECTS[:few],
        "seeds": [args.seed, args.seed + 1],
        "steps": 10 if args.quick else 20,
        "device": args.device,
        "dtype": args.dtype,
        "batch": args.batch,
    }
    figures = side_by_side(task, 1 if args.quick else 3)
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name, f"{value:.4g}")
    Console().print(table)
    if args.json:
        write_json(args.json, module="bench.grid", seed=args.seed, figures=figures)


if __name__ == "__main__":
    main()
