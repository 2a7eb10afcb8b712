"""Promises of the package as a whole."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import tastemaker
from tastemaker.cli import main
from tastemaker.generate import zoo


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_is_light() -> None:
    heavy = ("torch", "diffusers", "numba", "polars", "scipy", "matplotlib", "fastapi")
    loaded = python(f"import sys, tastemaker; print([m for m in {heavy} if m in sys.modules])")
    assert loaded == "[]"


def test_recommenders_load_no_torch() -> None:
    assert python("import sys; from tastemaker import Factors; print('torch' in sys.modules)") == "False"


def test_every_public_name_exists() -> None:
    for name in tastemaker.__all__:
        assert getattr(tastemaker, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Factor'"):
        tastemaker.Factor  # noqa: B018


def test_the_command_lines_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `tastemaker ...` line, in order, on a ratings.csv of the usual kind."""
    blocks = (Path(__file__).parents[1] / "README.md").read_text().split("```")[1::2]
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("tastemaker ")]
    commands = [shlex.split(line, comments=True)[1:] for line in lines]
    assert len(commands) >= 7
    monkeypatch.chdir(tmp_path)
    rows = [f"{user},{item},{(user * item) % 5 + 1},{1000 + user + item}" for user in range(50) for item in range(15)]
    Path("ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(rows) + "\n")
    shutil.copy(zoo.ROOT / "base" / "00.png", "apple.png")
    Path("prompts.txt").write_text("a red apple\n")
    for command in commands:
        if command[0] == "serve":  # runs until it is stopped; tests/serve has its own
            continue
        with pytest.raises(SystemExit) as end:
            main(command)
        assert end.value.code in (0, None), command
    assert Path("report.html").stat().st_size > 10_000
