"""`tastemaker demo`: once through with tiny real models, again without drawing, with the gallery, and refusals."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="fastapi is not installed: pip install 'tastemaker[serve]'")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'tastemaker[report]'")

from tastemaker.cli import main
from tastemaker.data.read.grid import read_grid
from tastemaker.serve.store import Store
from tests.generate import tiny

SMALL = {
    "--models": "models/*", "--prompts": "6", "--steps": "1", "--people": "30", "--crowds": "2", "--rounds": "3",
    "--device": "cpu",
}  # fmt: skip


def asked(**other: str) -> list[str]:
    """The arguments of a small demo, some of them changed."""
    options = SMALL | {f"--{name}": value for name, value in other.items()}
    return ["demo", *(word for option in options.items() for word in option)]


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the demo has run once."""
    folder = tmp_path_factory.mktemp("demo")
    for name in ("sd1", "sd1-style", "sd2"):
        tiny.save(name, folder / "models")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert code(*asked()) == 0
    return folder


def code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


def test_it_leaves_pictures_a_report_and_a_gallery(here: Path) -> None:
    (book,) = (here / "demo").glob("book-*")
    assert read_grid(book).cells.height == 18
    assert "(invented)" in (book / "models.csv").read_text()
    assert "a fox,animals" in (book / "prompts.csv").read_text()
    text = (here / "report.html").read_text()
    assert text.count("data:image/svg+xml") == 6
    assert 'src="http' not in text
    with Store(here / "demo" / "gallery" / "store.db") as store:
        pictures, log = store.items(), store.log()
        assert store.user("simulated 0-1").simulated
    assert len(pictures) == 18
    assert (log.n_users, len(log)) == (30, 30 * (5 + 3 * 3))
    assert log.impressions is not None
    assert log.impressions["probability"].is_between(0, 1, closed="right").all()
    drill = json.loads((here / "demo" / "gallery" / "drill.json").read_text())
    assert set(drill) == {"name", "command", "figures"}
    assert "plain_raided.during" in drill["figures"]
    assert all("raid" in name for name in drill["figures"])


def test_again_draws_nothing_and_says_the_same(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    capsys.readouterr()
    assert code(*asked(), "--json") == 0
    one = json.loads(capsys.readouterr().out)
    before = (here / "report.html").read_text()
    assert code(*asked()) == 0
    said = capsys.readouterr()
    assert "there already" in said.out
    assert "drawing with" not in said.err
    assert "tastemaker serve demo/book-" in said.err
    assert code(*asked(), "--json") == 0
    assert json.loads(capsys.readouterr().out)["figures"] == one["figures"]
    strip = "<dt>command</dt>"
    assert (here / "report.html").read_text().split(strip)[0] == before.split(strip)[0]
    with Store(here / "demo" / "gallery" / "store.db") as store:
        assert len(store.log()) == 30 * 14  # nobody said anything twice


def test_fewer_prompts_use_the_same_pictures(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(here)
    assert code(*asked(prompts="5", seed="3", out="other.html")) == 0
    assert "drawing with" not in capsys.readouterr().err
    assert len(list((here / "demo").glob("book-*"))) == 1
    with Store(here / "demo" / "gallery" / "store.db") as store:
        assert store.log().n_users == 60  # another seed is other people


def test_the_gallery_opens_and_ends(here: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    line = [sys.executable, "-m", "tastemaker", *asked(), "--serve", "--port", str(port)]
    running = subprocess.Popen(line, cwd=here, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        page = None
        until = time.monotonic() + 120
        while page is None and running.poll() is None and time.monotonic() < until:
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/explore?format=json", timeout=10).read()
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(0.3)
        assert page is not None, running.stderr and running.stderr.read()
        assert b"a-fox" in page
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
        assert running.returncode in (0, 130), said
        assert f":{port}/" in said
    finally:
        running.kill()
        running.wait()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("prompts", "1", "--prompts 1; expected 2 to 16"),
        ("prompts", "17", "expected 2 to 16"),
        ("rounds", "2", "--rounds 2; expected at least 3"),
        ("rounds", "300", "there are 18"),
        ("crowds", "1", "at least 2"),
        ("people", "0", "people=0"),
        ("steps", "0", "steps = 0"),
        ("models", "nowhere", "no such model"),
    ],
)
def test_refusals(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str, says: str
) -> None:
    monkeypatch.chdir(here)
    capsys.readouterr()
    assert code(*asked(**{name: value})) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert says in said
    assert "drawing" not in said  # before minutes are spent
