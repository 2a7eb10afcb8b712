"""The recipe of the grid: both parts on a small planted grid in GEMRec's layout, metrics against the house's own."""

import csv
import json
import sys
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from recipes.gemrec import __main__ as command
from recipes.gemrec import retrieval, statistics
from recipes.gemrec.grid import read
from tastemaker.choose.predictor import Ridge, Styled, folds, standardised
from tastemaker.data import FeedbackLog
from tastemaker.data.feedback import Scale
from tastemaker.data.read.gemrec import ROSTER
from tastemaker.errors import DataError
from tastemaker.evaluate import ranking
from tests.choose.gallery import book

PROMPTSET = ["prompt_id", "tag", "size", "seed", "prompt", "negativePrompt", "sampler", "cfgScale", "note"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """24 prompts, some in pairs of one seed, and 20 models, as files."""
    root = tmp_path_factory.mktemp("data") / "gemrec"
    (root / "promptsets").mkdir(parents=True)
    planted = book(24, 20)
    models = [
        ["|".join(tags), name, i, "v1", 10 * i + 7, "https://m", "[]", downloads, base]
        for i, (name, base, tags, downloads) in enumerate(
            planted.models.table.select("name", "base", "tags", "downloads").iter_rows()
        )
    ]
    prompts = [[p + 1, "art", "512x512", p - p % 2 * (p < 8), f"p {p}", "", "x", 7, ""] for p in range(24)]
    for path, header, rows in (
        (root / "roster.csv", ROSTER, models),
        (root / "promptsets" / "promptset_v6.csv", PROMPTSET, prompts),
    ):
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
    np.save(root / "image_embeddings.npy", planted.pictures.reshape(24, 20, -1))
    np.save(root / "text_embeddings.npy", planted.texts)
    (root / "modelVersion_ids.txt").write_text("\n".join(str(10 * i + 7) for i in range(20)))
    return root.parent


def test_command_prints_and_writes(folder, tmp_path, monkeypatch, capsys):
    found, page = tmp_path / "found.json", tmp_path / "page.md"
    given = ["--data", folder, "--parts", "statistics", "retrieval", "--quick", "--json", found, "--markdown", page]
    monkeypatch.setattr(sys, "argv", ["x", *map(str, given)])
    command.main()
    figures = json.loads(found.read_text())["figures"]
    assert figures["statistics.groups"] == 20
    assert figures["retrieval.clip.styled.ndcg"] > figures["retrieval.clip.mean.ndcg"]
    assert figures["retrieval.clip.mean.gain"] == 0
    assert all(np.isfinite(value) for value in figures.values())
    assert "clip score" in capsys.readouterr().out
    assert "| Signatures (ours) | 0." in page.read_text()


def test_metrics_are_those_of_the_house():
    """NDCG with linear gains and Recall on a graded log where the ten best are the likes."""
    rng = np.random.default_rng(0)
    quality, scores = rng.normal(size=(6, 40)), rng.normal(size=(6, 40))
    found = retrieval.judge(scores, quality)
    y = standardised(quality)
    gain = (y - y.min(1, keepdims=True)) / (y.max(1, keepdims=True) - y.min(1, keepdims=True))
    user, item = np.divmod(np.arange(240), 40)
    log = FeedbackLog.of(user, item, gain.ravel(), scale=Scale(0, 1))
    order = np.argsort(-scores, axis=1)
    recs = pl.DataFrame(
        {
            "user": user.astype(np.int32),
            "item": order.ravel().astype(np.int32),
            "score": -item.astype(np.float32),
            "rank": item.astype(np.int32),
        }
    )
    judged = ranking.per_user(recs, log, ["NDCG@10"], like=0.5, gain="linear")
    assert found["ndcg"] == pytest.approx(judged["NDCG@10"].to_numpy(), abs=1e-6)
    best = np.argsort(-quality, axis=1)[:, :10]
    assert found["recall"] == pytest.approx([len({*a} & {*b}) / 10 for a, b in zip(order[:, :10], best, strict=True)])
    assert found["regret"] == pytest.approx(y.max(1) - y[np.arange(6), order[:, 0]])
    perfect = retrieval.judge(quality, quality)
    assert (perfect["ndcg"] == 1).all()
    assert perfect["tau"] == pytest.approx(1)
    assert not perfect["regret"].any()


def test_held_out_prompts_are_not_seen(folder):
    """Scrambling the qualities of a fold changes no prediction for it."""
    examples = read(folder).examples("clip")
    among = {"ridge": Ridge(), "styled": Styled()}
    fold = folds(examples.groups, 10, 3)[0]
    quality, pictures = examples.quality.copy(), examples.pictures.copy()
    quality[fold], pictures[fold] = quality[fold][:, ::-1], pictures[fold][:, ::-1]
    one, other = (
        retrieval.held_out(e, among, 3) for e in (examples, replace(examples, quality=quality, pictures=pictures))
    )
    for name in among:
        assert np.allclose(one[name][fold], other[name][fold])
        assert not np.allclose(one[name][~fold], other[name][~fold])


def test_statistics_of_a_grid_without_noise():
    planted = book(20, 12, noise=0.0)
    vectors = planted.pictures.reshape(20, 12, -1).astype(float)
    shares = statistics.variance(vectors)
    assert sum(shares.values()) == pytest.approx(1)
    assert statistics.identification(vectors)["identify.top1"] > 0.5
    assert statistics.identification(np.random.default_rng(0).normal(size=(20, 12, 64)))["identify.top1"] < 0.25


def test_total_is_the_papers(folder):
    grid = read(folder)
    total = grid.values("norm_clip") + 0.8 * grid.values("norm_mcos") + 0.2 * grid.values("norm_pop")
    assert np.allclose(grid.examples("total").quality, total)


def test_a_folder_that_is_not_right(folder, tmp_path):
    with pytest.raises(DataError):
        statistics.measure(tmp_path, 1, True)
    (tmp_path / "promptsets").mkdir()
    for name in ("roster.csv", "promptsets/promptset_v6.csv"):
        (tmp_path / name).write_bytes((folder / "gemrec" / name).read_bytes())
    with pytest.raises(DataError, match="no embeddings"):
        statistics.measure(tmp_path, 1, True)
