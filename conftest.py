"""What stands in README.md, CONTRIBUTING.md and docs/ runs, and prints what the page says it prints.

Python blocks run everywhere. In docs/tutorials and docs/howto a page is one session in an empty folder: `sh` blocks run
too, and a `text` block is what the block before it printed, where `...` stands for what differs between machines.
"""

import contextlib
import doctest
import io
import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sybil import Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def _empty_folder(namespace: dict[str, Any]) -> None:
    namespace["_stack"] = stack = contextlib.ExitStack()
    stack.enter_context(contextlib.chdir(stack.enter_context(tempfile.TemporaryDirectory(prefix="docs-"))))


def _leave(namespace: dict[str, Any]) -> None:
    namespace["_stack"].close()


def _python(example: Example) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        PythonEvaluator()(example)
    example.namespace["_printed"] = printed.getvalue()


def _shell(example: Example) -> None:
    """`tastemaker` lines run in this process, which has paid for its imports; the others in a shell."""
    from tastemaker.cli import main

    here = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for line in example.parsed.replace("\\\n", " ").splitlines():
            command = shlex.split(line, comments=True)
            if command[:1] == ["tastemaker"]:
                try:
                    main(command[1:])
                except SystemExit as end:
                    if end.code:
                        raise AssertionError(f"exit code {end.code}: {line}") from end
            elif command:
                done = subprocess.run(["bash", "-c", line], check=True, capture_output=True, text=True, env=here)
                print(done.stdout)
    example.namespace["_printed"] = printed.getvalue()


def _output(example: Example) -> str | None:
    got = example.namespace["_printed"]
    if doctest.OutputChecker().check_output(example.parsed, got, _FLAGS):
        return None
    return f"the page says\n{example.parsed}\nand this was printed\n{got}"


_blocks = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md", "docs/api/*.md"],
    excludes=["docs/tutorials/*.md", "docs/howto/*.md"],
)
_sessions = Sybil(
    parsers=[
        CodeBlockParser("python", _python),
        CodeBlockParser("sh", _shell),
        CodeBlockParser("text", _output),
        SkipParser(),
    ],
    patterns=["docs/tutorials/*.md", "docs/howto/*.md"],
    setup=_empty_folder,
    teardown=_leave,
)
pytest_collect_file = (_blocks + _sessions).pytest()
