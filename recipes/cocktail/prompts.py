"""What is drawn: one subject of the embedded models' vocabulary a prompt, on grounds in turn."""

from __future__ import annotations

from pathlib import Path

from recipes.zoo.artwork import SUBJECTS
from recipes.zoo.scenes import GROUNDS, article
from tastemaker.generate.plan import read_prompts

COUNT = 40
KNOWN = 40  # subjects the embedded models were taught


def prompts(count: int = COUNT, file: Path | None = None, *, skip: int = 0) -> tuple[str, ...]:
    """`count` of a file with one prompt a line, or of ours, after the first `skip`.

    Of ours a subject comes twice after all have come.
    """
    if file is not None:
        return read_prompts(file)[skip : skip + count]
    subjects, grounds = list(SUBJECTS)[:KNOWN], [None, *GROUNDS]
    return tuple(
        _prompt(subjects[at % len(subjects)], grounds[(at + at // len(subjects)) % len(grounds)])
        for at in range(skip, skip + count)
    )


def _prompt(subject: str, ground: str | None) -> str:
    return f"{article(subject)} on {article(ground)} background" if ground else article(subject)
