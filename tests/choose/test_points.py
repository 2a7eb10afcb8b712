"""The gallery's own rules, and their defects."""

import polars as pl
import pytest

from tastemaker.choose.points import HIDDEN, Battle, Sorted, battle, lineup, replay, visible, votes_of
from tastemaker.choose.rating import fit
from tastemaker.choose.votes import pair, sort
from tastemaker.data.vocabulary import Vocabulary
from tastemaker.errors import DataError, InvalidArgument


def points(events, **kinds):
    return dict(replay(events, **kinds).select("id", "points").iter_rows())


def test_battle_points():
    events = [Battle(1, 1, "A", "B"), Battle(1, 1, "A", "C"), Battle(1, 1, "D", "A")]
    assert points(events) == points(events, paper=True) == {"A": 2, "B": 0, "C": 0, "D": 3}
    assert replay(events)["id"].to_list() == ["D", "A", "B", "C"]
    assert replay(events)["rank"].to_list() == [1, 2, 3, 4]


def test_sort_points():
    assert points([Sorted(1, 1, ("a", "b", "c", "d"))]) == {"a": 5, "b": 3, "c": 1, "d": 0}
    assert points([Sorted(1, 1, ("a", "b"))]) == {"a": 5, "b": 3}
    assert replay([]).height == 0


def test_all_batches_of_a_session_survive():
    events = [Sorted(1, 1, ("a", "b", "c", "d")), Sorted(1, 1, ("e", "f", "g", "h"))]
    assert set(points(events)) == set("abcdefgh")
    assert set(points(events, paper=True)) == set("efgh")


def test_the_latest_round_of_each_prompt_counts():
    events = [Sorted(1, 1, ("a", "b")), Sorted(2, 1, ("c", "d")), Sorted(2, 2, ("d", "c"))]
    assert points(events) == {"a": 5, "b": 3, "c": 3, "d": 5}
    assert points(events, paper=True) == {"c": 3, "d": 5}


def test_king_of_the_hill():
    sides = []

    def left_wins(left, right):
        sides.append((left, right))
        return max(left, right)

    rounds = list(battle([1, 3, 2, 4], left_wins, prompt="p"))
    assert [(r.winner, r.loser) for r in rounds] == [(3, 1), (3, 2), (4, 3)]
    assert sides == [(1, 3), (2, 3), (4, 3)]  # a winner keeps its side


def test_the_first_of_equals_needs_every_win():
    """With the same record the last item is ahead by points, and the ratings are not fooled."""
    rounds = list(battle(["first", "b", "c", "last"], lambda left, right: right, prompt="p"))
    assert replay(rounds)["id"][0] in ("b", "last")
    chain = [Battle("p", 1, "a", "b"), Battle("p", 1, "a", "c"), Battle("p", 1, "d", "a")]
    board = fit(votes_of(chain), Vocabulary.of(list("abcd"))).leaderboard().table
    assert dict(board.select("id", "rank_low").iter_rows())["d"] == 1


def test_votes_of_keep_everything():
    events = [Sorted(1, 1, ("a", "b", "c")), Sorted(1, 2, ("a",)), Battle(2, 1, "a", "b")]
    votes = votes_of(events, person="ada", tag="art")
    assert [v.choices for v in votes] == [sort("abc"), pair("a", "b")]
    assert {(v.person, v.tag) for v in votes} == {("ada", "art")}


def test_lineup_is_filled_with_the_best_unpicked():
    totals = pl.DataFrame({"model": [10, 11, 12, 13, 14, 15], "total_score": [0.1, 0.9, 0.5, 0.5, 0.7, 0.2]})
    assert lineup(totals, [10]) == [10, 12, 14, 11]
    assert lineup(totals, [10, 15, 12, 13]) == [10, 15, 12, 13]
    assert lineup(totals, [10, 11, 12, 13, 15]) == [10, 15, 12, 13, 14, 11]  # two short, one left


def test_visible():
    cells = pl.DataFrame({"prompt": range(1, 91)}).with_columns(norm_nsfw=pl.lit(0.8))
    assert visible(cells).height == 90 - len(HIDDEN) == 76
    assert visible(cells.with_columns(norm_nsfw=pl.lit(0.81))).height == 0


def test_bad_input():
    totals = pl.DataFrame({"model": [1, 2], "total_score": [0.1, 0.9]})
    with pytest.raises(DataError, match="3 was picked"):
        lineup(totals, [3])
    with pytest.raises(InvalidArgument, match="at least one"):
        lineup(totals, [])
    with pytest.raises(DataError, match="twice"):
        lineup(pl.concat([totals, totals]), [1])
    with pytest.raises(DataError, match="itself"):
        Battle(1, 1, "a", "a")
    with pytest.raises(DataError, match="1 to 4"):
        Sorted(1, 1, tuple("abcde"))
    with pytest.raises(DataError, match="number 0"):
        replay([Battle(1, 0, "a", "b")])
    with pytest.raises(InvalidArgument, match="returned 7"):
        list(battle([1, 2], lambda a, b: 7, prompt=1))
    with pytest.raises(InvalidArgument, match="at least two"):
        list(battle([1], max, prompt=1))
