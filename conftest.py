"""Python blocks in README.md, CONTRIBUTING.md and docs/ are tests: what stands there runs."""

from typing import Any

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser


def names(namespace: dict[str, Any]) -> None:
    """What conditions of skipped blocks may ask."""
    from tastemaker.generate import zoo

    namespace["embedded"] = zoo.zoo


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["README.md", "CONTRIBUTING.md", "docs/*.md"],
    setup=names,
).pytest()
