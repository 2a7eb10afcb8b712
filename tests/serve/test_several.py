"""`serve --workers`: real processes on one socket and one store; what one is told, the others know at once."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import pytest

pytest.importorskip("fastapi", reason="pip install 'tastemaker[serve]'")
pytest.importorskip("uvicorn", reason="pip install 'tastemaker[serve]'")

from tastemaker.errors import InvalidArgument
from tastemaker.serve import several
from tastemaker.serve.learn import Learner
from tastemaker.serve.store import Store
from tests.serve.planted import plant

ROOT = Path(__file__).parents[2]
JSON = {"Accept": "application/json"}


class Line:
    """One connection kept open, and the process behind it."""

    def __init__(self, port: int, parent: int) -> None:
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.http.connect()
        self.get("/openapi.json")  # accepted by now
        own = self.http.sock.getsockname()[1]
        self.process = next((one for one in _children(parent) if _inode(port, own) in _sockets(one)), 0)
        if not self.process:
            raise ConnectionResetError("closed meanwhile")

    def get(self, path: str, **headers: str) -> dict:
        return self._ask("GET", path, None, headers)

    def post(self, path: str, headers: dict[str, str], **fields: object) -> dict:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        return self._ask("POST", path, urlencode(fields), {**headers, **form})

    def _ask(self, method: str, path: str, body: str | None, headers: dict[str, str]) -> dict:
        self.http.request(method, path, body, {**JSON, **headers})
        answer = self.http.getresponse()
        self.cookie = (answer.headers.get("Set-Cookie") or "").partition(";")[0]
        told = json.loads(answer.read())
        assert answer.status == 200, told
        return told


def _inode(local: int, remote: int) -> str:
    """Of the server's end of a connection."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if [int(fields[at].rpartition(":")[2], 16) for at in (1, 2)] == [local, remote]:
            return f"socket:[{fields[9]}]"
    raise ConnectionResetError("no such connection any more")


def _sockets(process: int) -> set[str]:
    return {os.readlink(one) for one in Path(f"/proc/{process}/fd").iterdir() if one.is_symlink()}


def _children(parent: int) -> list[int]:
    found = []
    for one in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int((one / "stat").read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(one.name))
    return found


class Served:
    def __init__(self, home: Path, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = ["serve", str(folder), "--home", str(home), "--port", str(self.port), "--workers", "2"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tastemaker", *command, "--models", "none", "--devices", "none"], cwd=ROOT
        )
        self.home = home

    def lines(self, within: float = 120) -> dict[int, Line]:
        """A new connection to each of the two processes; one that is idle for five seconds is closed."""
        found: dict[int, Line] = {}
        until = time.monotonic() + within
        while len(found) < 2:
            assert time.monotonic() < until
            assert self.process.poll() is None
            try:
                with ThreadPoolExecutor(8) as pool:  # at once: a single one goes to whoever waits
                    lines = list(pool.map(lambda _: Line(self.port, self.process.pid), range(8)))
                found = {line.process: line for line in lines}
            except OSError:
                time.sleep(0.3)
        return found


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    server = Served(tmp_path / "home", plant(tmp_path / "grid"))
    yield server
    if server.process.poll() is None:
        server.process.terminate()
        server.process.wait(60)


def test_what_one_process_is_told_all_know(served: Served) -> None:
    one, other = served.lines().values()
    token = one.get("/session")["token"]
    session = {"Cookie": one.cookie, "X-CSRF-Token": token}
    said: dict[str, int] = {}
    for turn in range(12):
        asks, tells = (one, other) if turn % 2 else (other, one)
        cards = asks.get("/for-you?k=3&again=true", **session)["cards"]
        assert not {card["id"] for card in cards} & said.keys()  # what the other was told a moment ago
        seq = tells.post("/say", session, item=cards[0]["id"], value="like", impression=cards[0]["impression"])["seq"]
        said[cards[0]["id"]] = seq
        deck = asks.get("/for-you?k=1&again=true", **session)
        assert deck["likes"] == len(said)
    # A model that is fitted is in force for both, and what is taken back at one is taken back at the other.
    with Store(served.home / "store.db") as store:
        learner = Learner(store, served.home / "versions")
        learner.refit()
        learner.close()
    one, other = served.lines().values()
    assert [line.get("/for-you", **session)["version"] for line in (one, other)] == [1, 1]
    assert one.post("/undo", session, then="history")["undone"] == max(said.values())
    assert [line.get("/for-you", **session)["likes"] for line in (one, other)] == [len(said) - 1] * 2


def test_a_process_that_dies_is_replaced_and_all_end_together(served: Served) -> None:
    lines = served.lines()
    token = next(iter(lines.values())).get("/session")["token"]
    session = {"Cookie": next(iter(lines.values())).cookie, "X-CSRF-Token": token}
    dead, (alive, line) = min(lines), max(lines.items())
    card = line.get("/for-you", **session)["cards"][0]
    line.post("/say", session, item=card["id"], value="like")
    os.kill(dead, signal.SIGKILL)
    assert line.get("/for-you", **session)["likes"] == 1  # the other goes on
    again = served.lines()
    assert alive in again
    assert dead not in again
    assert [one.get("/for-you", **session)["likes"] for one in again.values()] == [1, 1]
    served.process.terminate()
    assert served.process.wait(60) == 0
    for process in again:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_no_server_is_left_when_their_starter_is_killed(served: Served) -> None:
    processes = list(served.lines())
    served.process.kill()
    served.process.wait()
    until = time.monotonic() + 30
    while any(Path(f"/proc/{one}").exists() for one in processes):
        assert time.monotonic() < until
        time.sleep(0.2)


def test_a_port_that_is_taken_is_refused() -> None:
    with several.listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(InvalidArgument, match=f"cannot listen on 127.0.0.1:{port}"):
            several.listen("127.0.0.1", port)


def test_one_server_of_a_folder_fits_at_a_time(tmp_path: Path) -> None:
    from tests.serve.test_learn import world

    with Store(tmp_path / "store.db") as store:
        world(store)
        one, other = Learner(store, tmp_path / "versions"), Learner(store, tmp_path / "versions")
        fitting = one.refit_in_background()
        assert fitting is not None
        assert other.refit_in_background() is None
        assert fitting.result(120).version == 1
        assert other.version.version == 1
        again = other.refit_in_background()
        assert again is not None
        assert again.result(120).version == 2
        one.close()
        other.close()
