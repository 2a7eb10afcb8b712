"""`tastemaker doctor`: what is installed."""

from __future__ import annotations

import os
import platform
from importlib import metadata, util
from typing import Any

import polars as pl

import tastemaker
from tastemaker.cli.app import Json, app
from tastemaker.errors import InvalidArgument
from tastemaker.terminal import print_facts, print_json, print_table


@app.command
def doctor(*, json: Json = False) -> None:
    """What is installed, what this machine has, and whether the parts fit together."""
    parts = {"numpy": "", "scipy": "", "polars": "", "numba": "", "safetensors": "", "cyclopts": "", "rich": ""}
    parts |= {"jinja2": "report", "matplotlib": "report", "torch": "torch"}
    parts |= dict.fromkeys(("diffusers", "transformers", "peft", "accelerate", "PIL"), "generate")
    parts |= dict.fromkeys(("sqlalchemy", "fastapi", "uvicorn", "python_multipart"), "serve") | {"psycopg": "postgres"}
    rows: list[dict[str, str]] = []
    missing_core = []
    for module, extra in parts.items():
        found = util.find_spec(module) is not None
        version = metadata.version({"PIL": "pillow"}.get(module, module)) if found else "missing"
        todo = "" if found else f"pip install 'tastemaker{f'[{extra}]' if extra else ''}'"
        rows.append({"part": module, "version": version, "needed for": extra or "everything", "to do": todo})
        if not found and not extra:
            missing_core.append(module)
    facts = _machine()
    if json:
        print_json({"machine": facts, "parts": rows})
    else:
        print_facts(facts)
        print_table("parts", pl.DataFrame(rows))
    if missing_core:
        raise InvalidArgument(f"missing parts: {', '.join(missing_core)}; pip install tastemaker")


def _machine() -> dict[str, Any]:
    import numba

    return {
        "tastemaker": tastemaker.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "numba threads": numba.get_num_threads(),
    }
