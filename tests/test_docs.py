"""What the documentation promises and its own blocks do not show: pages that are generated, lists that are complete,
command lines that are not run there, and the files of `deploy/`."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tastemaker.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATOR = DOCS / "figures.py"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
#: Modules that are no interface: the command line, parts of one method, parts of the gallery's pages.
INSIDE = re.compile(
    r"\.(__main__|cli.*|terminal|report|data\.read\..*|debias\.(report|sequence_\w+)|evaluate\.images\.folder"
    r"|recommend\.(cells|simd)|attack\.(bilevel_(kernels|loss|threads)|clicks)|simulate\.(quarters|raid|report)"
    r"|serve\.(answers|cards|chooser|guard|intake|kept|lessons|pages.*|signing|trust|visit))$"
)


def lines(text: str) -> list[str]:
    """The `tastemaker ...` lines of fenced blocks, continued ones joined."""
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    joined = "\n".join(blocks).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.startswith("tastemaker ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_command_lines_are_understood(page: Path) -> None:
    """Every option on a page exists, also on lines that no test runs."""
    import tastemaker.cli  # noqa: F401  every verb

    for line in lines(page.read_text(encoding="utf-8")):
        app.parse_args(shlex.split(line.rstrip(" &"), comments=True)[1:], exit_on_error=False, print_error=False)


def test_the_numbers_are_those_of_the_files() -> None:
    subprocess.run([sys.executable, GENERATOR, "--check"], check=True)


def test_figures_name_no_place_of_a_machine() -> None:
    for file in (DOCS / "figures").glob("*.json"):
        content = json.loads(file.read_text(encoding="utf-8"))
        assert not re.search(r"(^|[\s=])(/|\.\./)\w", content["command"]), file.name
        assert content["figures"], file.name
        assert content["machine"]["cpu"], file.name


def test_a_file_is_taken_over(tmp_path: Path) -> None:
    """A copy of the generator in a folder of its own: new figures make a new page, unknown ones are refused."""
    copy = tmp_path / "figures.py"
    copy.write_text(GENERATOR.read_text(encoding="utf-8"), encoding="utf-8")
    given = {
        "name": "grid", "command": "python -m bench.grid --quick --data /somewhere/data --json /somewhere/grid.json",
        "seed": 3, "machine": {"cpu": "a quick one"}, "figures": {"pictures": 12, "seconds": 1.5},
    }  # fmt: skip
    (tmp_path / "grid.json").write_text(json.dumps(given), encoding="utf-8")

    def run(*words: str) -> int:
        return subprocess.run([sys.executable, copy, *words], capture_output=True, check=False).returncode

    assert run("add", str(tmp_path / "grid.json")) == 0
    taken = json.loads((tmp_path / "figures" / "bench.grid.json").read_text(encoding="utf-8"))
    assert taken == given | {"command": "python -m bench.grid --quick --data DATA"}
    page = (tmp_path / "numbers.md").read_text(encoding="utf-8")
    assert "`python -m bench.grid --quick --data DATA`, seed 3; cpu a quick one." in page
    assert run("--check") == 0
    (tmp_path / "numbers.md").write_text(page.replace("seed 3", "seed 4"), encoding="utf-8")
    assert run("--check") == 1
    assert run("add", str(tmp_path / "grid.json"), "--as", "bench.gird") != 0


def test_every_module_has_its_place_in_the_api() -> None:
    told = set(re.findall(r"^::: (\S+)", "".join(p.read_text() for p in (DOCS / "api").glob("*.md")), re.MULTILINE))
    source = ROOT / "src"
    files = [path for path in (source / "tastemaker").rglob("*.py") if path.name != "__init__.py"]
    there = {".".join(path.relative_to(source).with_suffix("").parts) for path in files}
    packages = {".".join(path.parent.relative_to(source).parts) for path in source.rglob("__init__.py")}
    assert told <= there | packages
    public = {name for name in there if not INSIDE.search(name.removeprefix("tastemaker"))}
    assert {name for name in public if not name.startswith("tastemaker.data.read")} <= told


def test_every_page_is_in_the_contents() -> None:
    contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in DOCS.rglob("*.md"):
        assert str(page.relative_to(DOCS)) in contents


def test_the_picture_of_the_loop_stands_alone() -> None:
    text = (DOCS / "img" / "loop.svg").read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    assert "prefers-color-scheme: dark" in text
    assert set(re.findall(r"https?://\S+?(?=\")", text)) == {"http://www.w3.org/2000/svg"}


# -- deploy ------------------------------------------------------------------------------------------------------------


def test_the_image_copies_what_is_there_and_starts_what_exists() -> None:
    text = (ROOT / "deploy" / "Containerfile").read_text(encoding="utf-8")
    given = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE)
    kept = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for name in " ".join(given).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in kept
    command = json.loads(text.rpartition("CMD ")[2])
    app.parse_args(command, exit_on_error=False, print_error=False)
    assert re.search(r"^USER \d+$", text, re.MULTILINE)
    probe = re.search(r'CMD \["python", "-c", "(.+)"\]', text)
    assert probe
    compile(probe[1], "HEALTHCHECK", "exec")


@pytest.mark.parametrize("name", ["tastemaker", "tastemaker-worker@"])
def test_the_unit_starts_what_exists(name: str) -> None:
    import tastemaker.cli  # noqa: F401  every verb

    unit = (ROOT / "deploy" / f"{name}.service").read_text(encoding="utf-8")
    given = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / "deploy" / "tastemaker.env").read_text(), re.MULTILINE))
    start = re.search(r"^ExecStart=\S+/tastemaker (.+)$", unit, re.MULTILINE)
    assert start
    words = re.sub(r"\$\{?(\w+)\}?", lambda found: given[found[1]], start[1]).replace("%I", "cuda:0").split()
    app.parse_args(words, exit_on_error=False, print_error=False)
