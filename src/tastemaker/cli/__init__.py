"""The command line: one verb a line. Each function parses, calls the library and prints.

Results go to stdout, progress and remarks to stderr. `--json` prints one JSON document instead of tables, `--config
FILE` reads any option from TOML (`[report]`, `[train.factors]`). Exit codes: 0 done, 1 refused with a reason (bad data,
unknown name), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import cyclopts
from cyclopts import Parameter
from rich.text import Text

from tastemaker.cli import attack, choose, demo, doctor, gallery, logs, mix, models, pictures, reports, serve  # noqa: F401  each adds its verbs
from tastemaker.cli.app import app
from tastemaker.errors import TastemakerError
from tastemaker.terminal import err


@app.meta.default
def _meta(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
    config: Annotated[Path | None, Parameter(help="TOML file with options, a section a verb.")] = None,
) -> Any:
    app.config = (cyclopts.config.Toml(config, must_exist=True),) if config is not None else ()
    return app(tokens)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the exit code says how it went."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    try:
        app.meta(sys.argv[1:] if arguments is None else arguments)
    except TastemakerError as error:
        _refuse(str(error))
    except BrokenPipeError:  # whoever read has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        _refuse(f"{error.filename}: {error.strerror}; name another place, or make room there")
    except MemoryError as error:
        _refuse(f"not enough memory ({error}); take a smaller log, or smaller sizes such as --rank")
    except KeyboardInterrupt:
        sys.exit(130)


def _refuse(why: str) -> NoReturn:
    err.print(Text.assemble(("error:", "bold red"), " ", why), soft_wrap=True)
    sys.exit(1)
