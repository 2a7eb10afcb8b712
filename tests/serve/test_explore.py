"""The order of Explore, against sorting everything."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.serve.pages.explore import _page

ROWS = st.lists(st.integers(0, 10**6), unique=True, max_size=60)


@given(ROWS, st.sampled_from(["shuffled", "newest"]), st.integers(0, 2**64 - 1), st.integers(1, 30))
def test_pages_are_the_whole_in_order(rows: list[int], sort: str, session: int, k: int) -> None:
    """Page after page every picture comes once, in the order of its key; how many are left is told each time."""
    given_rows, seen, last = np.array(rows, np.int32), [], None
    while True:
        left, keys, first = _page(given_rows, sort, f"{session:x}", last, k)
        assert len(set(keys.tolist())) == len(rows)
        assert left == len(rows) - len(seen)
        seen += first
        if not first:
            break
        last = int(keys[first[-1]])
    assert seen == np.argsort(keys).tolist()
    if sort == "newest":
        assert given_rows[seen].tolist() == sorted(rows, reverse=True)


def test_another_session_has_another_order() -> None:
    rows = np.arange(50, dtype=np.int32)
    assert _page(rows, "shuffled", "1", None, 50)[2] != _page(rows, "shuffled", "2", None, 50)[2]
