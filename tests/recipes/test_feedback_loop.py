"""The recipe of the feedback loop: every part at a tiny size, the page, kept results, folders that are not right."""

import gzip
import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recipes.feedback_loop import __main__ as command
from recipes.feedback_loop import coat, jester, kuairec, movielens, table
from tastemaker.errors import DataError, InvalidArgument
from tastemaker.simulate.topics import Topics, world

pytest.importorskip("torch")


def quiet(_: str) -> None: ...


# -- folders in the layout of the real ones ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kuairec_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A platform's log over 120 people and 80 videos, and all 40 x 80 pairs of some of the people."""
    folder = tmp_path_factory.mktemp("kuairec")
    found = world(Topics(users=120, items=80, topics=4, iterations=20, shown=10), 1)
    log, truth = found.log, found.people.rating
    write(folder / "big_matrix.csv", log.user, log.item, log.value / 2, log.events["time"].to_numpy() * 60.5)
    user, item = (side.ravel() for side in np.mgrid[:40, :80])
    write(folder / "small_matrix.csv", user, item, truth[user, item] / 2, None)
    return folder


def write(path: Path, user: np.ndarray, item: np.ndarray, ratio: np.ndarray, time: np.ndarray | None) -> None:
    """Columns and order of KuaiRec; the small matrix lacks some times there, here all."""
    pl.DataFrame({
        "user_id": user + 100, "video_id": item, "play_duration": np.round(ratio * 7000).astype(int),
        "video_duration": np.full(len(user), 7000), "time": None, "date": None,
        "timestamp": None if time is None else 1.59e9 + time, "watch_ratio": ratio,
    }).write_csv(path)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Coat, Jester and MovieLens in small: random people and items, the files' own layout."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    (folder / "coat/user_item_features").mkdir(parents=True)
    rated = rng.integers(1, 6, (30, 25))
    for name, share in (("train", 0.4), ("test", 0.5)):
        np.savetxt(folder / f"coat/{name}.ascii", rated * (rng.random(rated.shape) < share), fmt="%d")
    for name, n in (("user", 30), ("item", 25)):
        features = rng.integers(0, 2, (n, 4))
        np.savetxt(folder / f"coat/user_item_features/{name}_features.ascii", features, fmt="%d")
    (folder / "jester5k").mkdir()
    rows = [f"u{u},j{j},{rng.uniform(-10, 10):.2f}" for u in range(40) for j in range(40)]
    (folder / jester.JESTER).write_bytes(gzip.compress("\n".join(["user,joke,rating", *rows]).encode()))
    (folder / "ml-latest-small").mkdir()
    lines = [f"{u},{i},{rng.integers(1, 11) / 2},{10_000 * u + 60 * k}" for u in range(1, 41)
             for k, i in enumerate(rng.permutation(60)[:25])]  # fmt: skip
    (folder / "ml-latest-small/ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]) + "\n")
    return folder


# -- kuairec -----------------------------------------------------------------------------------------------------------


def test_kuairec_judges_every_weighting_on_the_full_matrix(kuairec_folder: Path) -> None:
    figures, text = kuairec.run(data=kuairec_folder, quick=True, seed=1, seeds=None, say=quiet)
    assert all(np.isfinite(value) for value in figures.values())
    for name, label in kuairec.LABELS.items():
        assert 0 < figures[f"{name}.effective"] <= 1
        assert f"| {label} | {figures[f'{name}.mse']:.3f} |" in text
    assert figures["popularity.gain"] == pytest.approx(figures["naive.mse"] - figures["popularity.mse"], abs=1e-4)
    assert figures["popularity.gain_low"] <= figures["popularity.gain"] <= figures["popularity.gain_high"]


def test_kuairec_reads_both_matrices_on_shared_ids(kuairec_folder: Path) -> None:
    train, test = kuairec.read(kuairec_folder)
    assert train.user_ids == test.user_ids
    assert train.item_ids == test.item_ids
    assert (len(train), len(test)) == (120 * 20, 40 * 80)
    train, test = kuairec.read(kuairec_folder, people=10)
    assert set(train.users) == set(test.users)
    assert len(test) == 10 * 80


def test_without_a_folder_kuairec_says_what_it_needs() -> None:
    figures, text = kuairec.run(data=None, quick=True, seed=1, seeds=None, say=quiet)
    assert figures == {}
    assert "--kuairec" in text


def test_a_kuairec_folder_that_is_not_right_is_refused(kuairec_folder: Path, tmp_path: Path) -> None:
    big, small = (pl.read_csv(kuairec_folder / name) for name in kuairec.FILES)

    def refused(match: str, big: pl.DataFrame, small: pl.DataFrame | None) -> None:
        for name, frame in zip(kuairec.FILES, (big, small), strict=True):
            (tmp_path / name).unlink(missing_ok=True)
            if frame is not None:
                frame.write_csv(tmp_path / name)
        with pytest.raises(DataError, match=match):
            kuairec.read(tmp_path)

    refused("has no small_matrix.csv", big, None)
    refused("50% of the pairs .* swapped", big, small.sample(fraction=0.5, seed=1))
    refused("expected at least 90%", small, big)
    refused("has no timestamps", big.drop("timestamp"), small)
    one_missing = pl.when(pl.int_range(pl.len()) > 0).then("timestamp").alias("timestamp")
    refused("has no timestamps", big.with_columns(one_missing), small)
    refused("watch_ratio", big.drop("watch_ratio"), small)
    refused("watch_ratio", big.with_columns(pl.lit("much").alias("watch_ratio")), small)
    refused("watch_ratio", big.with_columns(pl.lit(float("nan")).alias("watch_ratio")), small)
    refused("nobody of the small matrix", big, small.with_columns(pl.col("user_id") + 10_000))


# -- the other parts ---------------------------------------------------------------------------------------------------


def test_table_orders_and_compares(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "QUICK", Topics(users=60, items=50, topics=3, shown=8))
    figures, text = table.run(data=None, quick=True, seed=1, seeds=2, say=quiet)
    for row in table.NAMES:
        assert np.isfinite(figures[f"{row}.mse"])
        assert f"| {table.NAMES[row]} | {figures[f'{row}.mse']:.3f} |" in text
    assert figures["oracle.gap_closed"] == pytest.approx(1)
    assert figures["ours.gain_over_poisson"] == pytest.approx(figures["poisson.mse"] - figures["ours.mse"], abs=1e-9)
    assert text.count(" > ") >= 4
    with pytest.raises(InvalidArgument, match="at least 2"):
        table.run(data=None, quick=True, seed=1, seeds=1, say=quiet)


@pytest.mark.slow
def test_better_propensities_lower_the_error_on_random_items() -> None:
    """T-B7: test error naive > ours > oracle, mean over 3 worlds."""
    figures, _ = table.run(data=None, quick=True, seed=1, seeds=3, say=quiet)
    assert figures["naive.mse"] > figures["ours.mse"] + 0.02
    assert figures["ours.mse"] > figures["oracle.mse"]


def test_coat_runs_from_its_files(data: Path) -> None:
    figures, text = coat.run(data=data, quick=True, seed=1, seeds=None, say=quiet)
    assert 0 < figures["at_least_3.stable_dr.auc"] < 1
    assert "UPO-DR" in text
    assert "| StableDR |" in text


def test_movielens_compares_models_on_the_same_events(data: Path) -> None:
    figures, text = movielens.run(data=data, quick=True, seed=1, seeds=None, say=quiet)
    candidates = -figures["uniform.log_likelihood"]
    assert np.log(30) < candidates < np.log(60)
    assert "`Exposure()` over" in text


def test_jester_draws_a_plot_a_world(data: Path, tmp_path: Path) -> None:
    figures, text = jester.run(data=data, quick=True, seed=1, seeds=2, say=quiet, plot=tmp_path / "loop.svg")
    assert (tmp_path / "loop.svg").exists()
    assert (tmp_path / "loop_topics.svg").exists()
    assert 0 < figures["jester.people_exposure.effective"] < 1
    assert "corrected: `Exposure` against uncorrected" in text


# -- the command -------------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["feedback_loop", *map(str, words)])
    command.main()


def test_the_page_holds_every_part_and_its_command(
    data: Path, kuairec_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, kept = tmp_path / "page.md", tmp_path / "kept"
    words = ["--quick", "--data", data, "--parts", "coat", "kuairec", "--markdown", page, "--json", tmp_path / "f.json"]
    run(monkeypatch, *words, "--kuairec", kuairec_folder, "--keep", kept)
    text = page.read_text()
    assert "Command: `python -m recipes.feedback_loop --parts kuairec --seed 1 --quick --kuairec FOLDER`" in text
    assert str(tmp_path) not in text
    assert "kuairec.naive.mse" in json.loads((tmp_path / "f.json").read_text())["figures"]

    # Kept results are taken as they are, others are not.
    found = json.loads((kept / "coat.json").read_text())
    (kept / "coat.json").write_text(json.dumps(found | {"text": "from the folder"}))
    run(monkeypatch, *words, "--keep", kept)
    text = page.read_text()
    assert "from the folder" in text
    assert "Left out: pass `--kuairec`" in text  # without its folder the settings differ
    run(monkeypatch, *words, "--seed", 2, "--keep", kept)
    assert "from the folder" not in page.read_text()
    (kept / "coat.json").write_text("[]")
    with pytest.raises(DataError, match="delete it"):
        run(monkeypatch, *words, "--keep", kept)
