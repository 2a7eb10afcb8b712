"""The gallery under load, as its user starts it: requests a second, latency, processor time a request, memory.

A store is planted (`bench.planted`) and kept under `--folder`, so that a second run takes it from there. `tastemaker
serve` is started on a copy of it, and a second process asks at a fixed rate (`bench.pace`). Requests are plain HTTP,
each with the session of one of the people; every list shown and every word is on the disk before it is answered.

    recommend    GET /for-you?k=10, JSON: ten pictures, the reason of each, all logged as shown
    say          POST /say, JSON: a like or dislike of a picture that the person was shown
    feedback     POST /say/many, JSON: ten such words of one person; rates are of words
    beside       recommend and feedback at once
    pages        Explore and its next 24 pictures, For you, a picture, leaderboards, audit: HTML, one kind at a time

    PYTHONPATH=src python -m bench.serving [--quick] [--again] [--seed N] [--json FILE]
           [--events N] [--pictures N] [--people N] [--recommend RATE] [--feedback RATE] [--say RATE] [--seconds S]
           [--workers N] [--only LOAD ...]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.output import machine, write_json
from bench.planted import Size, plant

GOALS = {
    "recommend.recommend.p99_ms": (50.0, "recommend, p99 under 50 ms"),
    "beside.recommend.p99_ms": (50.0, "recommend beside feedback, p99 under 50 ms"),
    "feedback.feedback.short": (0.01, "feedback at the rate asked for, within a hundredth"),
    "beside.feedback.short": (0.01, "feedback at that rate beside recommend"),
    "pages.p99_ms": (100.0, "the slowest gallery page, p99 under 100 ms"),
}
LOADS = {
    "recommend": ["recommend"], "say": ["say"], "feedback": ["feedback"], "beside": ["recommend", "feedback"]
}  # fmt: skip
_BATCH = {"feedback": 10}  # words a request
PAGES_RATE = 10.0  # requests a second
PORT = 8801
_TICK = os.sysconf("SC_CLK_TCK")
Figures = dict[str, float]


class Server:
    """`tastemaker serve` on a copy of a planted home."""

    def __init__(self, planted: Path, workers: int = 1) -> None:
        self.home = planted / "running"
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(planted / "home", self.home)
        command = ["-m", "tastemaker", "serve", str(planted / "grid"), "--home", str(self.home), "--port", str(PORT)]
        command += ["--models", "none", "--devices", "none", "--workers", str(workers)]
        self.workers, began = workers, time.perf_counter()
        self.process = subprocess.Popen([sys.executable, *command])
        while not self._answers():
            if self.process.poll() is not None:
                raise SystemExit(f"the server ended at once; is port {PORT} taken?")
            time.sleep(0.1)
        self.start = time.perf_counter() - began
        computed = 0.0
        while self.processor() > computed + 0.1:  # others may still be reading the gallery
            computed = self.processor()
            time.sleep(2.0)

    def _answers(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"http://127.0.0.1:{PORT}/openapi.json", timeout=1).status)
        except OSError:
            return False

    def processor(self) -> float:
        """Seconds that all server processes have computed, without those that fit or count."""
        return sum(_computed(one) for one in self._processes())

    def memory(self) -> Figures:
        """MiB held now and at most, by all server processes together."""
        found = {"VmRSS": 0.0, "VmHWM": 0.0}
        for process in self._processes():
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in found:
                    found[name] += int(value.split()[0]) / 1024
        return {"memory.mib": found["VmRSS"], "memory.peak_mib": found["VmHWM"]}

    def _processes(self) -> list[int]:
        first = self.process.pid
        if self.workers == 1:
            return [first]
        return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]

    def end(self) -> None:
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        shutil.rmtree(self.home)


def _computed(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


class People:
    """Requests of the planted people, each with a session as the gallery itself would seal it."""

    def __init__(self, home: Path, planted: Path, size: Size) -> None:
        from tastemaker.serve.signing import Signer

        self._signer, self._size = Signer.of(home / "secret"), size
        self._rng = np.random.default_rng(size.seed + 1)
        self.silent = pl.read_parquet(planted / "silent.parquet").sample(fraction=1.0, shuffle=True, seed=size.seed)

    def get(self, path: str, n: int, accept: str = "application/json") -> list[str]:
        """The same page asked for by n people."""
        people = self._rng.integers(self._size.people, size=n)
        return [self._request("GET", path, f"person-{at}", accept) for at in people]

    def say(self, n: int) -> list[str]:
        """Words on n pictures that were shown before, none twice."""
        self._enough(self.silent.height, n)
        requests = []
        for number, (person, item, impression) in enumerate(self.silent.head(n).iter_rows()):
            said = {"item": item, "value": "like" if number % 2 else "dislike", "impression": impression}
            body = urllib.parse.urlencode(said)
            requests.append(self._request("POST", "/say", person, "application/json", body, f"bench {impression}"))
        self.silent = self.silent.slice(n)
        return requests

    def say_many(self, n: int) -> list[str]:
        """The same, as many words of one person a request as a batch has."""
        size = _BATCH["feedback"]
        batch = pl.int_range(pl.len()).over("person") // size
        numbered = self.silent.with_columns(batch.alias("batch"))
        groups = numbered.group_by("person", "batch", maintain_order=True).agg("item", "impression")
        groups = groups.filter(pl.col("item").list.len() == size).head(-(-n // size))
        self._enough(groups.height * size, n)
        requests = []
        for person, _, items, impressions in groups.iter_rows():
            words = [
                {
                    "item": item,
                    "impression": impression,
                    "value": "like" if at % 2 else "dislike",
                    "key": f"{impression}",
                }
                for at, (item, impression) in enumerate(zip(items, impressions, strict=True))
            ]
            requests.append(self._request("POST", "/say/many", person, "application/json", json.dumps(words)))
        taken = groups.explode("item", "impression").select("impression")
        self.silent = self.silent.join(taken, on="impression", how="anti")
        return requests

    def _enough(self, there: int, wanted: int) -> None:
        if there < wanted:
            raise SystemExit(f"{wanted} words wanted, {there} are left to say; give fewer --seconds or more --events")

    def _request(self, method: str, path: str, person: str, accept: str, body: str = "", key: str = "") -> str:
        number = f"{int(person.removeprefix('person-')):016x}"  # of the session
        lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{PORT}", f"Accept: {accept}"]
        lines += [f"Cookie: tastemaker={self._signer.seal('session', [person, number])}"]
        if body:
            kind = "x-www-form-urlencoded" if key else "json"
            lines += [f"X-CSRF-Token: {self._signer.tag('csrf', number)}", f"Content-Length: {len(body)}"]
            lines += [f"Content-Type: application/{kind}", *([f"Idempotency-Key: {key}"] if key else [])]
        return "\r\n".join([*lines, "", body])


def warm(seconds: float) -> float:
    """The first seconds of a load, which are not counted."""
    return min(2.0, seconds / 2)


def measure(server: Server, seconds: float, name: str, loads: dict[str, tuple[float, list[str]]]) -> Figures:
    """Several loads at once, each at its rate. Processor time is a request's share of all the server's."""
    told = {
        "port": PORT, "seconds": seconds, "warm": warm(seconds),
        "loads": {
            part: {"rate": rate / _BATCH.get(part, 1), "requests": requests}
            for part, (rate, requests) in loads.items()
        },
    }  # fmt: skip
    before, began = server.processor(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "bench.pace"], input=json.dumps(told), stdout=subprocess.PIPE, text=True, check=True
    )
    parts: dict[str, Any] = json.loads(done.stdout)
    computed, answers = server.processor() - before, sum(sum(one["statuses"].values()) for one in parts.values())
    figures: Figures = {}
    for part, one in parts.items():
        for text in one["bad"]:
            print(f"{part}: {text}", file=sys.stderr)
        ms = one["ms"] or [float("inf")]
        figures |= {f"{name}.{part}.{key}": value for key, value in {
            "asked": loads[part][0], "answered": one["rate"] * _BATCH.get(part, 1),
            "short": 1 - one["rate"] * _BATCH.get(part, 1) / loads[part][0], "p50_ms": float(np.percentile(ms, 50)),
            "p99_ms": float(np.percentile(ms, 99)), "most_ms": max(ms),
            "refused": one["unanswered"] + sum(n for status, n in one["statuses"].items() if status[0] != "2"),
            "cpu_ms": 1e3 * computed / max(1, answers), "cores": computed / (time.perf_counter() - began),
            "load": os.getloadavg()[0],
        }.items()}  # fmt: skip
    return figures


def pages(people: People) -> dict[str, str]:
    """Addresses of the pages to ask for."""
    item = people.silent["item"][0]
    with_json = urllib.request.Request(f"http://127.0.0.1:{PORT}/explore", headers={"Accept": "application/json"})
    following = json.loads(urllib.request.urlopen(with_json).read())["next"]
    return {
        "explore": "/explore", "explore.next": f"/explore?after={following}", "explore.search": "/explore?q=boat+snow",
        "for_you": "/for-you", "picture": f"/picture/{item}", "compare": "/compare", "leaderboard": "/leaderboard",
        "leaderboard.tag": "/leaderboard?tag=cat", "history": "/history", "audit": "/audit",
    }  # fmt: skip


@contextlib.contextmanager
def serving(planted: Path, workers: int) -> Iterator[Server]:
    server = Server(planted, workers)
    try:
        yield server
    finally:
        server.end()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="40,000 events, a second a load: half a minute")
    parser.add_argument("--events", type=int)
    parser.add_argument("--pictures", type=int)
    parser.add_argument("--people", type=int)
    parser.add_argument("--seconds", type=float, help="that each load lasts; 30, or 1 with --quick")
    parser.add_argument("--recommend", type=float, default=200.0, help="requests a second")
    parser.add_argument("--feedback", type=float, default=1000.0, help="words a second, ten a request")
    parser.add_argument("--say", type=float, default=400.0, help="words a second, one a request")
    parser.add_argument("--workers", type=int, default=1, help="server processes")
    parser.add_argument("--folder", type=Path, default=Path("runs/serving"))
    parser.add_argument("--again", action="store_true", help="plant anew, to measure the import")
    parser.add_argument("--only", nargs="+", choices=(*LOADS, "pages"), default=(*LOADS, "pages"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json")
    args = parser.parse_args()

    small, large = (40_000, 1_000, 200), (1_000_000, 20_000, 10_000)
    events, pictures, persons = small if args.quick else large
    size = Size(args.events or events, args.pictures or pictures, args.people or persons, args.seed)
    seconds = args.seconds or (1.0 if args.quick else 30.0)
    planted = args.folder / "-".join(str(one) for one in vars(size).values())
    if args.again:
        shutil.rmtree(planted, ignore_errors=True)
    found = {f"plant.{name}": value for name, value in plant(planted, size).items()}
    rates = {"recommend": args.recommend, "feedback": args.feedback, "say": args.say}
    with serving(planted, args.workers) as server:
        found["start_seconds"] = server.start
        people = People(server.home, planted, size)

        def asked(part: str) -> list[str]:
            n = int((seconds + warm(seconds)) * rates[part]) + 1
            if part == "recommend":
                return people.get("/for-you?k=10", n)
            return people.say(n) if part == "say" else people.say_many(n)

        for name, parts in LOADS.items():
            if name in args.only:
                print(f"{name} ...", file=sys.stderr)
                found |= measure(server, seconds, name, {part: (rates[part], asked(part)) for part in parts})
        if "pages" in args.only:
            for name, path in pages(people).items():
                print(f"{name} ...", file=sys.stderr)
                asks = people.get(path, int(PAGES_RATE * seconds), "text/html")
                found |= measure(server, max(1.0, seconds / 6), "pages", {name: (PAGES_RATE, asks)})
            found["pages.p99_ms"] = max(value for key, value in found.items() if re.fullmatch(r"pages\..*p99_ms", key))
        found |= server.memory()
    tell(found)
    if args.json:
        write_json(args.json, module="bench.serving", seed=args.seed, figures=found)


def tell(found: Figures) -> None:
    """Print the figures, and which goals they reach."""
    from rich.console import Console
    from rich.table import Table

    columns = {
        "asked": "asked/s", "answered": "answered/s", "p50_ms": "p50 ms", "p99_ms": "p99 ms", "most_ms": "most ms",
        "refused": "refused", "cpu_ms": "CPU ms", "cores": "cores", "load": "load",
    }  # fmt: skip
    table = Table("load", *columns.values())
    for name in [key.removesuffix(".asked") for key in found if key.endswith(".asked")]:
        table.add_row(name, *(f"{found[f'{name}.{key}']:,.4g}" for key in columns))
    console = Console(width=140)
    console.print(table)
    for key, value in found.items():
        if key.startswith(("plant.", "memory.", "start")):
            console.print(f"{key} {value:,.4g}", highlight=False)
    for key, (most, what) in GOALS.items():
        if key in found:
            console.print(
                f"{'reached' if found[key] < most else 'MISSED'}: {what} ({found[key]:,.4g})", highlight=False
            )
    facts = machine()
    console.print(f"{facts['cpu']}, {facts['cores']} cores, load {facts['load']}", highlight=False)


if __name__ == "__main__":
    main()
