"""The reader of published rankings."""

import json

import pytest

from tastemaker.choose.rankings import read_rankings
from tastemaker.choose.votes import Choice
from tastemaker.errors import DataError

GOOD = {"id": "a", "prompt": "a cat", "generations": ["1.webp", "2.webp", "3.webp"], "ranking": [5, 1, 5]}


def write(tmp_path, entries):
    path = tmp_path / "rankings.json"
    path.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return path


def test_reads(tmp_path):
    (one,) = read_rankings(write(tmp_path, [GOOD]))
    assert one.places == (5, 1, 5)
    assert one.vote().choices == (
        Choice(("2.webp",), ("2.webp", "1.webp", "3.webp"), True),
        Choice(("1.webp", "3.webp"), ("1.webp", "3.webp"), True),
    )
    assert one.vote().person is None


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("{", "is no JSON"),
        ({}, "holds no list"),
        ([GOOD, 3], "entry 2: lacks fields"),
        ([{"id": "a"}], "lacks \\['prompt'"),
        ([GOOD | {"id": 3}], "expected text"),
        ([GOOD | {"generations": "1.webp"}], "no list of file names"),
        ([GOOD | {"ranking": [1, 2]}], "3 pictures and 2 places"),
        ([GOOD | {"ranking": [1, 2, 0]}], "places from 1"),
        ([GOOD | {"ranking": [1, 2, True]}], "places from 1"),
        ([GOOD | {"ranking": [1], "generations": ["1"]}], "two or more"),
        ([GOOD, GOOD], "id 'a' is there twice"),
        ([GOOD, GOOD | {"id": "b"}], "picture '1.webp' is there twice"),
        ([GOOD | {"generations": ["1", "1", "2"]}], "picture '1' is there twice"),
    ],
)
def test_bad_input(tmp_path, entries, message):
    with pytest.raises(DataError, match=message):
        read_rankings(write(tmp_path, entries))
