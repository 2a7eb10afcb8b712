"""Votes of every kind, and bad ones."""

import pytest

from tastemaker.choose.votes import BAR, Choice, Vote, both_bad, dislike, like, pair, pick, sort, tie
from tastemaker.errors import DataError, InvalidArgument


def test_kinds_are_choices():
    assert pair("a", "b") == (Choice(("a",), ("a", "b")),)
    assert pair("a", "b", ties=True, bad=True) == (Choice(("a",), ("a", "b", BAR), True),)
    assert tie("a", "b") == (Choice(("a", "b"), ("a", "b"), True),)
    assert both_bad("a", "b") == (Choice((BAR,), ("a", "b", BAR), True),)
    assert pick(3, [1, 2, 3]) == (Choice((3,), (1, 2, 3)),)
    assert like("a") == (Choice(("a",), ("a", BAR)),)
    assert dislike("a") == (Choice((BAR,), ("a", BAR)),)


def test_a_sort_is_a_choice_a_place():
    assert sort("abc") == (Choice(("a",), ("a", "b", "c")), Choice(("b",), ("b", "c")))
    assert sort(["a", ["b", "c"]]) == (
        Choice(("a",), ("a", "b", "c"), True),
        Choice(("b", "c"), ("b", "c"), True),
    )
    assert sort(["a", "b"], ties=True) == pair("a", "b", ties=True)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Choice(("c",), ("a", "b")), "'c' was chosen, but only .* were shown"),
        (lambda: Choice(("a",), ("a",)), "at least two different"),
        (lambda: Choice(("a",), ("a", "a")), "at least two different"),
        (lambda: Choice((), ("a", "b")), "at least one"),
        (lambda: Choice(("a", "a"), ("a", "b"), True), "each item once"),
        (lambda: Choice(("a", "b"), ("a", "b")), "expected ties=True"),
        (lambda: Choice(("a", BAR), ("a", BAR), True), "no tie with the bar"),
        (lambda: Choice((0,), tuple(range(10)), True), "at most 9"),
        (lambda: pair("a", "a"), "at least two different"),
        (lambda: pick("z", ["a", "b"]), "'z' was chosen"),
        (lambda: sort(["a"]), "at least two"),
        (lambda: sort(["a", "b", "a"]), "each once"),
        (lambda: sort(["a", [], "b"]), "at least two"),
    ],
)
def test_refusals(wrong, says):
    with pytest.raises(DataError, match=says):
        wrong()


@pytest.mark.parametrize("weight", [-1, float("nan"), float("inf")])
def test_weights(weight):
    with pytest.raises(InvalidArgument, match="weight"):
        Vote(pair("a", "b"), weight=weight)
