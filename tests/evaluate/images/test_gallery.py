"""The scores of a grid of pictures, by loops, on planted grids, and on the published embeddings of 18,000 pictures."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tastemaker.errors import DataError, InvalidArgument, UnknownId, UnknownName
from tastemaker.evaluate.images.embedding import Embeddings
from tastemaker.evaluate.images.gallery import Weights, mcos, measure, nsfw, nsfw_of_margins, ranked, score


def grid(n_prompts=3, n_models=5, dim=6, seed=0):
    """Cells, their vectors, texts and downloads; model 10 + j, prompt 1 + i."""
    rng = np.random.default_rng(seed)
    cells = pl.DataFrame(
        {
            "prompt": np.repeat(np.arange(1, n_prompts + 1), n_models),
            "model": np.tile(np.arange(10, 10 + n_models), n_prompts),
        }
    )
    vectors = rng.normal(size=(len(cells), dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    texts = Embeddings.of(rng.normal(size=(n_prompts, dim)), [str(i + 1) for i in range(n_prompts)])
    models = pl.DataFrame({"model": np.arange(10, 10 + n_models), "downloads": rng.integers(0, 10**6, n_models)})
    return cells, vectors, texts, models


def scored(cells, vectors, texts, models, **how):
    return score(measure(cells, vectors, texts), models, **how)


@pytest.fixture(scope="module")
def gemrec(shared_data):
    folder = shared_data / "gemrec"
    if not (folder / "image_embeddings.npy").is_file():
        pytest.skip("no GEMRec embeddings here: gemrec/image_embeddings.npy")
    pictures, texts = np.load(folder / "image_embeddings.npy"), np.load(folder / "text_embeddings.npy")
    ids = [int(line) for line in (folder / "modelVersion_ids.txt").read_text().split()]
    cells = pl.DataFrame({"prompt": np.repeat(np.arange(1, 91), 200), "model": np.tile(ids, 90)})
    roster = pl.read_csv(folder / "roster.csv").select(
        pl.col("modelVersion_id").alias("model"), pl.col("model_download_count").alias("downloads")
    )
    texts = Embeddings.of(texts, [str(k) for k in range(1, 91)])
    return cells, pictures.reshape(-1, 768), texts, roster


# -- the published grid ------------------------------------------------------------------------------------------------


def test_published_mcos(gemrec):
    cells, vectors, texts, _ = gemrec
    found = measure(cells, vectors, texts)
    every = found["mcos_score"]
    assert (every.mean(), every.min(), every.max()) == pytest.approx((0.73366, 0.26700, 0.91792), abs=1e-5)
    first = found.filter(pl.col("prompt") == 1)["mcos_score"]
    assert first.mean() == pytest.approx(0.57999766, abs=1e-7)
    assert first.head(5).to_list() == pytest.approx([0.57528, 0.48228, 0.55085, 0.63640, 0.57670], abs=1e-5)
    others = measure(cells, vectors, texts, include_self=False).group_by("prompt").agg(pl.col("mcos_score").mean())
    others = others.sort("mcos_score")
    assert others.row(0) == (47, pytest.approx(0.50129, abs=1e-5))
    assert others.row(-1) == (88, pytest.approx(0.87776, abs=1e-5))


def test_published_norm_mcos_by_model(gemrec):
    table = scored(*gemrec, paper=True)
    means = table.group_by("model").agg(pl.col("norm_mcos").mean()).sort("norm_mcos", descending=True)
    assert means["model"].head(4).to_list() == [66018, 4409, 26849, 4073]
    value = dict(means.iter_rows())
    expected = {66018: 0.654, 4409: 0.565, 26849: 0.540, 4073: 0.501, 51948: 0.447, 97557: 0.442}
    expected |= {1000005: 0.220, 1000004: 0.214, 2000001: 0.316, 61620: 0.104}
    assert {model: round(value[model], 3) for model in expected} == expected
    assert means["model"][-1] == 61620
    assert table["clip_score"].mean() / 100 == pytest.approx(0.2638, abs=5e-5)
    assert means["model"].to_list().index(97557) == 5  # the sixth most distinctive


def test_published_norms_span_zero_to_one(gemrec):
    table = scored(*gemrec, paper=True)
    by_prompt = table.group_by("prompt").agg(
        *(pl.col(f"norm_{name}").min().alias(f"{name}_low") for name in ("clip", "mcos")),
        *(pl.col(f"norm_{name}").max().alias(f"{name}_high") for name in ("clip", "mcos")),
    )
    assert by_prompt.select("clip_low", "mcos_low").to_numpy().max() == 0
    assert by_prompt.select("clip_high", "mcos_high").to_numpy().min() == 1
    pop = table.group_by("model").agg(pl.col("norm_pop").first())
    assert (pop["norm_pop"].min(), pop["norm_pop"].max()) == (0, 1)
    assert pop.sort("norm_pop")["model"][-1] == 1000005
    largest = table.select((pl.col("norm_clip") + 0.8 * pl.col("norm_mcos") + 0.2 * pl.col("norm_pop")).round(4))
    assert (table["total_score"] - largest.to_series()).abs().max() == 0


# -- definitions -------------------------------------------------------------------------------------------------------


@given(st.integers(2, 8), st.integers(1, 6), st.integers(0, 99))
def test_mcos_by_loops(n, dim, seed):
    v = np.random.default_rng(seed).normal(size=(n, dim))
    v /= np.linalg.norm(v, axis=1, keepdims=True)
    everyone = [np.mean([v[i] @ v[j] for j in range(n)]) for i in range(n)]
    others = [np.mean([v[i] @ v[j] for j in range(n) if j != i]) for i in range(n)]
    assert mcos(v) == pytest.approx(everyone)
    assert mcos(v, include_self=False) == pytest.approx(others, abs=1e-12)


@given(st.integers(1, 4), st.integers(3, 6), st.integers(0, 99))
def test_the_total_by_loops(n_prompts, n_models, seed):
    cells, vectors, texts, models = grid(n_prompts, n_models, seed=seed)
    table = scored(cells, vectors, texts, models, paper=True)
    downloads = np.log10(models["downloads"].to_numpy() + 1)
    for prompt in range(n_prompts):
        v = vectors[prompt * n_models : (prompt + 1) * n_models]
        clip = 100 * v @ texts.vectors[prompt].astype(float)
        alike = (v @ v.T).mean(1)
        for model in range(n_models):
            norm_clip = round((clip[model] - clip.min()) / (clip.max() - clip.min()), 4)
            norm_mcos = round(1 - (alike[model] - alike.min()) / (alike.max() - alike.min()), 4)
            norm_pop = round((downloads[model] - downloads.min()) / (downloads.max() - downloads.min()), 4)
            row = table.row(prompt * n_models + model, named=True)
            found = [row[name] for name in ("norm_clip", "norm_mcos", "norm_pop", "total_score")]
            total = norm_clip + 0.8 * norm_mcos + 0.2 * norm_pop
            assert found == pytest.approx([norm_clip, norm_mcos, norm_pop, total], abs=1.01e-4)


def test_nsfw_margins():
    assert nsfw_of_margins(np.full((1, 17), -1.0), np.array([False])) == pytest.approx([0])
    assert nsfw_of_margins(np.full((1, 17), 1.0), np.array([False])) == pytest.approx([1])
    margins = np.random.default_rng(0).uniform(-0.3, 0.1, (50, 17))
    plain, careful = (nsfw_of_margins(margins, np.full(50, special)) for special in (False, True))
    assert careful - plain == pytest.approx(np.full(50, 0.005))  # 0.01 before the (x + 1) / 2
    with pytest.raises(InvalidArgument, match="bool"):
        nsfw_of_margins(margins, np.zeros(50))


def test_nsfw_of_vectors_by_loops():
    rng = np.random.default_rng(0)
    v, concepts, special = rng.normal(size=(9, 4)), rng.normal(size=(3, 4)), rng.normal(size=(2, 4))
    thresholds, careful = np.array([0.1, 0.2, 0.3]), np.array([0.4, 0.5])

    def cosine(x, y):
        return x @ y / np.sqrt((x @ x) * (y @ y))

    expected = []
    for x in v:
        extra = 0.01 if any(cosine(x, y) > t for y, t in zip(special, careful, strict=True)) else 0
        expected.append((max(cosine(x, y) - t + extra for y, t in zip(concepts, thresholds, strict=True)) + 1) / 2)
    assert nsfw(v, concepts, thresholds, special, careful) == pytest.approx(expected)


def test_norm_nsfw_is_over_all_pictures():
    cells, vectors, texts, models = grid()
    measured = measure(cells, vectors, texts).with_columns(pl.Series("nsfw_score", np.linspace(0.3, 0.6, 15)))
    norm = score(measured, models)["norm_nsfw"]
    assert norm.to_list() == pytest.approx(np.linspace(0, 1, 15).tolist())


# -- robust variants ---------------------------------------------------------------------------------------------------


def test_an_outlier_moves_min_max_and_not_ranks():
    cells, vectors, texts, models = grid(1, 30)
    measured = measure(cells, vectors, texts)
    outlier = measured.with_columns(
        pl.when(pl.col("model") == 12).then(900.0).otherwise(pl.col("clip_score")).alias("clip_score")
    )
    rest = pl.col("model") != 12

    def moved(scale):
        before, after = (score(t, models, scale=scale).filter(rest)["norm_clip"] for t in (measured, outlier))
        return (before - after).abs().max()

    assert moved("minmax") > 0.5
    assert moved("rank") <= 1 / 30 + 1e-12


def test_ranks_and_z_scores_by_hand():
    measured = pl.DataFrame(
        {"prompt": [1] * 4, "model": list("abcd"), "clip_score": [1.0, 3, 3, 9], "mcos_score": [0.5] * 3 + [0.9]}
    )
    free = Weights(popularity=0)
    rank = score(measured, scale="rank", weights=free)
    assert rank["norm_clip"].to_list() == pytest.approx([0.125, 0.5, 0.5, 0.875])
    assert rank["norm_mcos"].to_list() == pytest.approx([0.625, 0.625, 0.625, 0.125])  # distinct is good
    z = score(measured, scale="z", weights=free)
    expected = (np.array([1, 3, 3, 9]) - 4) / np.std([1, 3, 3, 9])
    assert z["norm_clip"].to_list() == pytest.approx(expected.tolist())
    assert z["norm_mcos"].mean() == pytest.approx(0)
    assert z["norm_mcos"][3] < 0


@given(st.integers(0, 50))
def test_two_models_are_equally_distinct_whatever_rounding_says(seed):
    cells, vectors, texts, models = grid(2, 2, seed=seed)
    with pytest.raises(DataError, match=r"mcos_score.*equal for prompt 1"):
        scored(cells, vectors, texts, models)
    assert scored(cells, vectors, texts, models, scale="rank")["norm_mcos"].to_list() == [0.5] * 4
    assert scored(cells, vectors, texts, models, scale="z")["norm_mcos"].to_list() == [0.0] * 4


def test_leaving_oneself_out_keeps_norms():
    cells, vectors, texts, models = grid()
    norms = [
        score(measure(cells, vectors, texts, include_self=own), models)["norm_mcos"].to_list() for own in (True, False)
    ]
    assert norms[0] == pytest.approx(norms[1])


# -- keys, never places ------------------------------------------------------------------------------------------------


@given(st.randoms(use_true_random=False))
def test_rows_in_any_order_give_the_same_scores(random):
    cells, vectors, texts, models = grid()
    order = list(range(15))
    random.shuffle(order)
    straight = scored(cells, vectors, texts, models)
    shuffled = scored(cells[order], vectors[order], texts, models.reverse())
    assert shuffled["model"].to_list() == cells[order]["model"].to_list()
    for name in ("clip_score", "mcos_score", "norm_mcos", "norm_pop", "total_score"):
        assert shuffled[name].to_list() == pytest.approx(straight[order][name].to_list(), abs=1e-12)


def test_a_missing_cell_is_refused_or_left_out_by_key():
    cells, vectors, texts, models = grid()
    there = np.arange(15) != 7  # prompt 2, model 12
    with pytest.raises(DataError, match=r"1 of 15 cells are missing, such as \(prompt 2, model 12\)"):
        measure(cells.filter(there), vectors[there], texts)
    kept = measure(cells.filter(there), vectors[there], texts, missing="keep")
    whole = measure(cells, vectors, texts)
    with pytest.raises(DataError, match="missing"):
        score(kept, models)
    assert kept.filter(pl.col("prompt") != 2).equals(whole.filter(pl.col("prompt") != 2))
    v = vectors[5:10][np.arange(5) != 2]
    assert kept.filter(pl.col("prompt") == 2)["mcos_score"].to_list() == pytest.approx(mcos(v).tolist())
    table = score(kept, models, missing="keep")
    expected = score(whole, models).filter(pl.col("prompt") != 2)
    assert table.filter(pl.col("prompt") != 2).equals(expected)
    assert dict(table.select("model", "norm_pop").iter_rows()) == dict(expected.select("model", "norm_pop").iter_rows())


def test_equal_totals_stay_in_the_order_of_models():
    table = pl.DataFrame({"prompt": [2, 2, 2, 1], "model": [7, 5, 6, 9], "total_score": [0.5, 0.5, 0.9, 0.1]})
    assert ranked(table)["model"].to_list() == [9, 6, 5, 7]
    assert ranked(table.reverse())["model"].to_list() == [9, 6, 5, 7]
    assert ranked(table, k=1).rows() == [(1, 9, 0.1, 0), (2, 6, 0.9, 0)]


def test_doubled_and_undefined_cells_are_refused():
    cells, vectors, texts, models = grid()
    with pytest.raises(DataError, match="prompt 1 has 2 pictures by model 10"):
        measure(pl.concat([cells, cells[:1]]), np.vstack([vectors, vectors[:1]]), texts)
    measured = measure(cells, vectors, texts)
    for bad in (None, float("nan")):
        with pytest.raises(DataError, match="null or NaN"):
            score(measured.with_columns(pl.Series("clip_score", [bad, *range(14)], dtype=pl.Float64)), models)
    with pytest.raises(DataError, match=r"\['model'\] are missing"):
        measure(cells.drop("model"), vectors, texts)
    with pytest.raises(DataError, match="no cells"):
        measure(cells[:0], vectors[:0], texts)
    with pytest.raises(UnknownId, match="'3'"):
        measure(cells, vectors, Embeddings.of(texts.vectors[:2], ["1", "2"]))
    with pytest.raises(InvalidArgument, match="one row a cell"):
        measure(cells, vectors[:-1], texts)
    with pytest.raises(InvalidArgument, match="length 1"):
        measure(cells, 2 * vectors, texts)


def test_models_are_joined_by_id():
    cells, vectors, texts, models = grid()
    with pytest.raises(DataError, match="1 models have no downloads, such as 11"):
        scored(cells, vectors, texts, models.filter(pl.col("model") != 11))
    with pytest.raises(DataError, match="model twice"):
        scored(cells, vectors, texts, pl.concat([models, models[:1]]))
    with pytest.raises(DataError, match="one type"):
        scored(cells, vectors, texts, models.with_columns(pl.col("model").cast(pl.String)))
    with pytest.raises(DataError, match="negative"):
        scored(cells, vectors, texts, models.with_columns(downloads=-1))
    with pytest.raises(InvalidArgument, match="popularity=0"):
        scored(cells, vectors, texts, None)
    assert "norm_pop" not in scored(cells, vectors, texts, None, weights=Weights(popularity=0)).columns


def test_vectors_and_tables_need_neither_pillow_nor_torch():
    code = "import sys, tastemaker.evaluate.images.gallery; sys.exit(any(m in sys.modules for m in ('PIL', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_guessing():
    cells, vectors, texts, models = grid()
    with pytest.raises(UnknownName, match="did you mean 'minmax'"):
        scored(cells, vectors, texts, models, scale="min-max")
    with pytest.raises(InvalidArgument, match="'minmax'"):
        scored(cells, vectors, texts, models, scale="rank", paper=True)
    with pytest.raises(UnknownName, match="missing cells"):
        scored(cells, vectors, texts, models, missing="drop")
    flat = measure(cells, vectors, texts).with_columns(
        pl.when(pl.col("prompt") == 2).then(20.0).otherwise(pl.col("clip_score")).alias("clip_score")
    )
    with pytest.raises(DataError, match=r"equal for prompt 2.*rank"):
        score(flat, models)
    assert score(flat, models, scale="rank").filter(pl.col("prompt") == 2)["norm_clip"].unique().to_list() == [0.5]
    assert score(flat, models, scale="z").filter(pl.col("prompt") == 2)["norm_clip"].unique().to_list() == [0.0]
    with pytest.raises(InvalidArgument, match="others"):
        mcos(vectors[:1], include_self=False)
