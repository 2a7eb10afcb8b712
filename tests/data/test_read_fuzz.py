"""Whatever the bytes: a log with every row of the file, or an error of this library."""

import csv
import gzip
import io
import logging
import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy import sparse

from tastemaker.data import FeedbackLog
from tastemaker.data.read import FORMATS, read_log
from tastemaker.errors import TastemakerError

VALID = {
    "table": ("t.csv", b"user,item,rating,time\n1,10,4.5,1260759144\n1,20,3,1260759179\n2,10,1,1260759182\n"),
    "quoted": ("q.csv", b'user,item,rating,title\n"a","x","4.5","one"\n"b","y","3","two, three"\n"b","z","1","4"\n'),
    "movielens": ("u.data", b"196\t242\t3\t881250949\n186\t302\t3\t891717742\n22\t377\t1\t878887116\n"),
    "dat": ("ratings.dat", b"1::122::5::838985046\n1::185::5::838983525\n1::231::5::838983392\n"),
    "recbole": ("s.inter", b"user_id:token\titem_id:token\trating:float\na\tx\t3.5\nb\ty\t4\nc\tz\t1\n"),
    "piki": (
        "p.csv",
        b"timestamp,user_id,song_id,liked,personalized,spotify_popularity\n"
        b"2019-08-23 14:40:33,37,24,1,0,56\n2019-09-30 23:54:55,38,24,0,1,34\n2019-09-30 23:54:56,38,25,2,2,34\n",
    ),
    "histories": ("h.histories", b"u1\ts1\t1\ts2\t-1\nu2\ts1\t2\n"),
    "gowalla": ("g.csv", b"uid,sid\n0,1\n0,2\n1,1\n"),
    "lightgcn": ("train.txt", b"0 1 2 3\n1 2 7\n2 9\n"),
    "coat": ("m.ascii", b"0 1 0 5\n0 2 0 0\n3 0 0 4\n"),
    "jester": ("j.csv", b"user,joke,rating\nu1,j1,-1.6\nu1,j2,9.5\nu2,j1,0\n"),
    "kuairec": (
        "k.csv",
        b"user_id,video_id,watch_ratio,timestamp\n1,1,0.2,1260759144.2\n1,2,2,1260759145\n2,1,9,1260759146\n",
    ),
    "events": (
        "e.jsonl",
        b'{"user": "a", "item": 1, "event": "impression", "time": 1260759100}\n'
        b'{"user": "a", "item": 1, "event": "like", "time": 1260759101}\n'
        b'{"user": "b", "item": 2, "event": "dislike", "time": 1}\n',
    ),
}
ROW_FORMATS = ("table", "quoted", "movielens", "dat", "recbole", "piki", "gowalla", "jester", "kuairec", "events")

ALPHABET = [b"\n", b"\r\n", b"\r", b",", b"\t", b" ", b":", b"::", b'"', b'""', b"'", b"0", b"7", b"-", b".",
            b"e9", b"nan", b"inf", b"x", b"\xc3\xbc", b"\xff", b"\0", b"{", b"}", b"null", b"true",
            b"\xef\xbb\xbf", b"99999999999999999999", b""]  # fmt: skip

quiet = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(autouse=True)
def silent():
    logging.getLogger("tastemaker").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("tastemaker").setLevel(logging.NOTSET)


@st.composite
def mutated(draw):
    """A valid file with a few places cut out, doubled or replaced."""
    kind = draw(st.sampled_from(sorted(VALID)))
    name, data = VALID[kind]
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 12)))
        new = draw(st.sampled_from([*ALPHABET, data[start:end] * 2]))
        data = data[:start] + new + data[end:]
    return kind, name, data


def count_rows(kind, data):
    """Rows that a plain reading finds, not counting the header; blank lines at the end are none."""
    text = data.removeprefix(b"\xef\xbb\xbf").decode().rstrip("\r\n").replace("\r\n", "\n").replace("\r", " ")
    if kind == "events":
        return len(text.split("\n"))
    rows = len(list(csv.reader(io.StringIO(text, newline="")))) if '"' in text else len(text.split("\n"))
    return rows - (kind not in ("movielens", "dat"))


def read(path, **options):
    try:
        return read_log(path, **options)
    except TastemakerError:
        return None


@quiet
@given(mutated(), st.booleans())
@example(
    ("quoted", "q.csv", b'user,item,rating,title\n"a","x","4.5","one"\n"b","y","3","two, three\n"b","z","1","4"\n'),
    False,
)
@example(("table", "t.csv", b"user,item,rating,time\n1,10,4.5,1260759144\n1\n\n"), False)
def test_mutated_files(tmp_path, case, packed):
    kind, name, data = case
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(data) if packed else data)
    log = read(path, on_duplicate="keep")
    if log is None:
        return
    assert isinstance(log, FeedbackLog)
    assert np.isfinite(log.value).all()
    if kind in ROW_FORMATS and log.notes[0] in (f"read as '{kind}'", "read as 'table'", "read as 'movielens'"):
        shown = 0 if log.impressions is None else log.impressions.height
        assert len(log) + shown == count_rows(kind, data)


@quiet
@given(
    st.sampled_from(sorted(FORMATS)),
    st.binary(max_size=200),
    st.sampled_from(["", ".csv", ".txt", ".npz", ".parquet", ".jsonl"]),
)
def test_any_bytes_in_any_format(tmp_path, format, data, suffix):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(data)
    read(path, format=format)
    read(path)


@settings(quiet, max_examples=200)
@given(st.integers(0, 3000), st.binary(min_size=1, max_size=4), st.sampled_from(["npz", "parquet", "gz"]))
def test_damaged_binaries(tmp_path, at, patch, kind):
    path = tmp_path / f"file.{kind}"
    if kind == "npz":
        sparse.save_npz(path, sparse.csr_matrix(np.array([[1, 0, -1], [0, -1, 0]], np.float32)))
    elif kind == "parquet":
        pl.DataFrame({"user": [1, 2], "item": ["a", "b"], "rating": [1.0, 2.0]}).write_parquet(path)
    else:
        path.write_bytes(gzip.compress(VALID["table"][1]))
    data = path.read_bytes()
    at %= len(data)
    # Parquet is cut here and patched below, in a process of its own.
    path.write_bytes(data[:at] if kind == "parquet" else data[:at] + patch + data[at + len(patch) :])
    read(path)


PATCHED = """
import random, sys
from pathlib import Path
from tastemaker.data.read import read_log
from tastemaker.errors import TastemakerError
path = Path(sys.argv[1])
whole = path.read_bytes()
for number in range(int(sys.argv[2]), int(sys.argv[3])):
    rng = random.Random(number)
    at, patch = rng.randrange(len(whole)), rng.randbytes(rng.randint(1, 4))
    path.with_name("patched.parquet").write_bytes(whole[:at] + patch + whole[at + len(patch) :])
    print(number, flush=True)
    try:
        read_log(path.with_name("patched.parquet"))
    except TastemakerError:
        pass
"""


def test_patched_parquet(tmp_path):
    """Polars allocates what a patched page claims to hold, petabytes at times, and Rust then ends the process, which no
    Python code can catch. That is the only end but a log or our own error."""
    path, begin, end = tmp_path / "whole.parquet", 0, 400
    pl.DataFrame({"user": [1, 2], "item": ["a", "b"], "rating": [1.0, 2.0]}).write_parquet(path)
    while begin < end:
        command = [sys.executable, "-c", PATCHED, str(path), str(begin), str(end)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            break
        assert "memory allocation of" in done.stderr, done.stderr
        begin = int(done.stdout.split()[-1]) + 1


@settings(quiet, max_examples=100)
@given(
    st.lists(
        st.tuples(
            st.integers(-5, 10**12),
            st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1),
            st.floats(-9, 9, width=32),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_what_is_written_is_read(tmp_path, rows):
    table = pl.DataFrame(rows, schema={"user": pl.Int64, "item": pl.String, "rating": pl.Float32}, orient="row")
    table.write_csv(tmp_path / "t.csv")
    table.write_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        log = read(tmp_path / name, on_duplicate="keep", id_type="string")
        if log is None:  # one value alone states no scale
            assert table["rating"].n_unique() == 1
            continue
        assert log.user_ids.ids(log.user).to_list() == [str(user) for user in table["user"]]
        assert log.item_ids.ids(log.item).to_list() == table["item"].to_list()
        np.testing.assert_allclose(np.abs(log.value), np.abs(table["rating"].to_numpy()), rtol=1e-6)
