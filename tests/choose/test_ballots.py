"""The file of votes: what is written is read, and nothing else."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.choose.ballots import HEADER, Ballot, append, read
from tastemaker.choose.votes import Vote, both_bad, dislike, like, pair, pick, sort, tie
from tastemaker.errors import DataError, InvalidArgument

ITEMS = st.one_of(
    st.lists(st.text(max_size=4), min_size=3, max_size=5, unique=True),
    st.lists(st.integers(-(10**20), 10**20), min_size=3, max_size=5, unique=True),
)


@st.composite
def ballots(draw):
    a, b, *rest = draw(ITEMS)
    choices = draw(
        st.sampled_from(
            [pair(a, b), pair(b, a, ties=True, bad=True), tie(a, b), both_bad(a, b), like(a), dislike(b),
             pick(a, [b, a, *rest], bad=True), sort([a, [b, rest[0]]]), sort([rest[0], b, a])]
        )
    )  # fmt: skip
    names = st.none() | st.text(max_size=6)
    weight = draw(st.floats(0, 1e300))
    chance = st.none() | st.floats(1e-300, 1)
    vote = Vote(choices, draw(names), draw(names), weight)
    return Ballot(vote, draw(st.none() | st.integers()), draw(names), draw(chance))


@given(st.lists(st.lists(ballots(), max_size=3), min_size=1, max_size=3))
def test_round_trip(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("votes") / "votes.jsonl"
    for part in parts:
        append(path, part)
    assert read(path) == tuple(one for part in parts for one in part)


def test_the_file(tmp_path):
    path = tmp_path / "votes.jsonl"
    append(path, [Ballot(Vote(both_bad("ä\n", "b"), "ada"), 7, "random", 0.25)])
    first, second = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(first) == HEADER
    assert json.loads(second) == {
        "person": "ada",
        "choices": [{"chosen": [None], "among": ["ä\n", "b", None], "ties": True}],
        "time": 7,
        "policy": "random",
        "probability": 0.25,
    }


def test_an_empty_file_is_begun(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.touch()
    assert read(path) == ()
    append(path, [])
    assert read(path) == ()
    append(path, [Ballot(Vote(like(1)))])
    assert read(path) == (Ballot(Vote(like(1))),)


GOOD = '{"choices": [{"chosen": [1], "among": [1, 2]}]}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "Expecting value"),
        ("[]", "a vote is \\[\\]; expected an object"),
        ("{}", "no field 'choices'"),
        ('{"choices": []}', "at least one"),
        ('{"choices": [], "choices": []}', "there twice"),
        ('{"choices": [7]}', "a choice is 7"),
        ('{"choices": [{"chosen": [3], "among": [1, 2]}]}', "3 was chosen, but only"),
        ('{"choices": [{"chosen": [1], "among": [1, 1]}]}', "two different"),
        ('{"choices": [{"chosen": [1], "among": [1, true]}]}', "item True"),
        ('{"choices": [{"chosen": [1], "among": [1, 2.5]}]}', "item 2.5"),
        ('{"choices": [{"chosen": [1], "among": [1, [2]]}]}', "item \\[2\\]"),
        ('{"choices": [{"chosen": 1, "among": [1, 2]}]}', "chosen is 1; expected list"),
        ('{"choices": [{"chosen": [1], "among": [1, 2], "ties": 1}]}', "ties is 1; expected bool"),
        ('{"choices": [{"chosen": [1], "among": [1, 2], "side": 1}]}', "the field 'side'"),
        (GOOD[:-1] + ', "persons": "ada"}', "the field 'persons'; known: choices, person"),
        (GOOD[:-1] + ', "person": 3}', "person is 3; expected str"),
        (GOOD[:-1] + ', "person": null}', "person is None"),
        (GOOD[:-1] + ', "time": true}', "time is True"),
        (GOOD[:-1] + ', "time": 1.5}', "time is 1.5"),
        (GOOD[:-1] + ', "weight": NaN}', "NaN is no number"),
        (GOOD[:-1] + ', "weight": 1e999}', "expected a finite"),
        (GOOD[:-1] + ', "weight": -1}', "weight = -1"),
        (GOOD[:-1] + ', "probability": 0}', "probability = 0"),
        (GOOD[:-1] + ', "probability": 1.5}', "probability = 1.5"),
        (GOOD[:9], "line 3"),
        ("[" * 100_000, "line 3"),
    ],
)
def test_bad_lines(tmp_path, line, message):
    path = tmp_path / "votes.jsonl"
    path.write_text(f"{json.dumps(HEADER)}\n{GOOD}\n{line}\n{GOOD}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert caught.value.line == 3
    assert caught.value.file == path


def test_bad_files(tmp_path):
    path = tmp_path / "votes.jsonl"
    path.write_bytes(b"user,item\n1,2\n")
    with pytest.raises(DataError, match="line 1"):
        read(path)
    with pytest.raises(DataError, match="is it a file of votes"):
        append(path, [])
    path.write_text('{"format": "tastemaker votes", "version": 2}\n')
    with pytest.raises(DataError, match=r"line 1: expected .*newer"):
        read(path)
    path.write_text(f"{json.dumps(HEADER)}\n{GOOD}\n{GOOD[:20]}")
    with pytest.raises(DataError, match="line 3: is cut short"):
        read(path)
    with pytest.raises(DataError, match="cut short; delete it"):
        append(path, [Ballot(Vote(like(1)))])
    path.write_bytes(json.dumps(HEADER).encode() + b"\n\xff\n")
    with pytest.raises(DataError, match="line 2"):
        read(path)
    with pytest.raises(InvalidArgument, match="without choices"):
        Ballot(Vote(()))
    with pytest.raises(InvalidArgument, match="probability = 0"):
        Ballot(Vote(like(1)), probability=0.0)
