"""Promptbooks: GEMRec's files, and folders that our own grid draws into."""

import csv

import numpy as np
import polars as pl
import pytest

from tastemaker.data.catalog import Catalog
from tastemaker.data.promptbook import Promptbook
from tastemaker.data.read.gemrec import (
    METADATA,
    ROSTER,
    quotas,
    read_gemrec,
    read_metadata,
    read_promptset,
    read_roster,
)
from tastemaker.data.read.grid import COLUMNS, read_grid
from tastemaker.errors import DataError, InvalidArgument, UnknownId
from tastemaker.evaluate.images import gallery
from tastemaker.evaluate.images.embedding import Embeddings
from tastemaker.generate.catalogue import COLUMNS as WRITTEN

PROMPTS = ("prompt_id", "tag", "size", "seed", "prompt", "negativePrompt", "sampler", "cfgScale", "note")
BIG = 2**127 + 5


def write(path, header, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def roster_rows():
    return [
        ["anime|girls", "Ink", 5, "v1", 30, "https://m/30", "['hanfu', 'silk']", 100, "SD 1.5"],
        ["photo", "Real", 6, "v2", 10, "https://m/10", "['']", 7, "SD 2.1"],
        ["photo", "Real", 6, "v3", 20, "https://m/20", "[]", 0, "SD 1.5"],
    ]


def prompt_rows():
    return [
        [2, "art", "512x768", 8486466558, 'a cat, "big"', " ", "Eular a", 7, "original"],
        [1, "abstract", "768x512", 12, "a dog", "ugly", "Eular a", 7.5, ""],
    ]


def metadata_rows():
    """By model, in an order of their own."""
    models = {30: 5, 10: 6, 20: 6}
    facts = {1: ["abstract", "768x512", 12, "a dog"], 2: ["art", "512x768", 8486466558, 'a cat, "big"']}
    return [
        [BIG + 10 * m + p, facts[p][0], models[m], m, p, *facts[p][1:], "x", 7, "Eular a", "", 20.0 + p + m / 100]
        for m in (20, 30, 10)
        for p in (2, 1)
    ]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "roster.csv", ROSTER, roster_rows())
    write(tmp_path / "promptsets" / "promptset_v6.csv", PROMPTS, prompt_rows())
    write(tmp_path / "metadata.csv", [*METADATA, "clip_score"], metadata_rows())
    vectors = np.random.default_rng(0).normal(size=(2, 3, 4))
    np.save(tmp_path / "image_embeddings.npy", (vectors / np.linalg.norm(vectors, axis=2, keepdims=True)).astype("f4"))
    texts = np.random.default_rng(1).normal(size=(2, 4))
    np.save(tmp_path / "text_embeddings.npy", (texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype("f4"))
    (tmp_path / "modelVersion_ids.txt").write_text("10\n20\n30\n")
    return tmp_path


def test_facts(folder):
    book = read_gemrec(folder)
    assert book.models.table["id"].to_list() == [30, 10, 20]
    assert book.models.column("tags").to_list() == [["anime", "girls"], ["photo"], ["photo"]]
    assert book.models.column("triggers").to_list() == [["hanfu", "silk"], [], []]
    assert book.prompts.column("text").to_list() == ['a cat, "big"', "a dog"]
    assert book.prompts.column("seed").to_list() == [8486466558, 12]
    assert book.prompts.column("note").to_list() == ["original", ""]
    assert book.complete


def test_everything_is_joined_by_key(folder):
    """Prompts come as 2, 1, the roster as 30, 10, 20, embeddings as 1, 2 x 10, 20, 30, metadata in another order."""
    array, texts = np.load(folder / "image_embeddings.npy"), np.load(folder / "text_embeddings.npy")
    for metadata in (None, folder / "metadata.csv"):
        book = read_gemrec(folder, metadata=metadata)
        rows = book.rows()
        for i, prompt in enumerate(book.prompts.table["id"]):
            np.testing.assert_array_equal(book.texts[i], texts[prompt - 1])
            for j, model in enumerate(book.models.table["id"]):
                cell = book.cells.row(rows[i, j], named=True)
                assert (cell["prompt"], cell["model"]) == (prompt, model)
                np.testing.assert_array_equal(book.pictures[rows[i, j]], array[prompt - 1, [10, 20, 30].index(model)])
                if metadata:
                    assert cell["picture"] == str(BIG + 10 * model + prompt)
                    assert cell["clip_score"] == 20 + prompt + model / 100


def test_a_missing_cell_shifts_nothing(folder):
    rows = [row for row in metadata_rows() if row[3:5] != [30, 1]]
    whole = read_gemrec(folder, metadata=folder / "metadata.csv")
    write(folder / "metadata.csv", [*METADATA, "clip_score"], rows)
    book = read_gemrec(folder, metadata=folder / "metadata.csv")
    assert not book.complete
    assert (book.rows() == -1).sum() == 1
    assert book.rows()[book.prompts.ids.rows([1])[0], book.models.ids.rows([30])[0]] == -1
    kept = whole.cells.with_row_index("at").join(book.cells, on="picture", maintain_order="right")["at"]
    np.testing.assert_array_equal(book.pictures, whole.pictures[kept.to_numpy()])


def test_embeddings_need_prompts_from_one(folder):
    write(folder / "promptsets" / "promptset_v6.csv", PROMPTS, change(prompt_rows(), 0, 0, 7))
    with pytest.raises(DataError, match=r"must then be 1\.\.2"):
        read_gemrec(folder)


def test_without_embeddings(folder):
    (folder / "image_embeddings.npy").unlink()
    book = read_gemrec(folder)
    assert book.pictures is None
    assert book.texts is None
    assert book.cells.height == 6


def test_parquet_metadata(folder):
    table = pl.read_csv(folder / "metadata.csv", schema_overrides={"image_id": pl.String})
    table.with_columns(image=pl.lit(b"png")).write_parquet(folder / "metadata.parquet")
    book, again = (read_gemrec(folder, metadata=folder / f"metadata.{kind}") for kind in ("csv", "parquet"))
    assert book.cells.equals(again.cells)


def test_only(folder):
    book = read_gemrec(folder)
    part = book.only(prompts=[1], models=[20, 30])
    assert part.prompts.table["id"].to_list() == [1]
    assert part.models.table["id"].to_list() == [20, 30]
    assert part.rows().shape == (1, 2)
    array = np.load(folder / "image_embeddings.npy")
    np.testing.assert_array_equal(part.pictures[part.rows()[0]], array[0, [1, 2]])
    with pytest.raises(UnknownId):
        book.only(models=[99])
    with pytest.raises(InvalidArgument, match="seed 5"):
        book.only(seeds=[5])


def test_it_fits_the_gallery_scores(folder):
    book = read_gemrec(folder)
    texts = Embeddings(book.texts, tuple(map(str, book.prompts.table["id"])))
    cells = gallery.measure(book.cells, book.pictures, texts)
    models = book.models.table.select(model="id", downloads="downloads")
    assert gallery.score(cells, models)["total_score"].is_not_nan().all()


def change(rows, row, column, value):
    rows = [list(r) for r in rows]
    rows[row][column] = value
    return rows


@pytest.mark.parametrize(
    ("file", "rows", "says"),
    [
        ("roster", lambda: change(roster_rows(), 1, 4, 30), "line 3, column 'modelVersion_id': 30 was there .* line 2"),
        ("roster", lambda: change(roster_rows(), 1, 7, "many"), "line 3, column 'model_download_count': 'many'"),
        ("roster", lambda: change(roster_rows(), 1, 7, -3), "line 3, column 'model_download_count': '-3'"),
        ("roster", lambda: change(roster_rows(), 0, 6, "hanfu"), "line 2, column 'modelVersion_trainedWords'"),
        ("roster", lambda: change(roster_rows(), 0, 6, "__import__('os')"), "is not a list"),
        ("roster", lambda: change(roster_rows(), 2, 8, ""), "line 4, column 'baseModel': is empty"),
        ("roster", lambda: [r[:-1] for r in roster_rows()], "line 2: 8 cells"),
        ("roster", list, "no rows"),
        ("promptset", lambda: change(prompt_rows(), 1, 0, 2), "line 3, column 'prompt_id': 2 was there before"),
        ("promptset", lambda: change(prompt_rows(), 1, 2, "large"), "line 3, column 'size': 'large'"),
        ("promptset", lambda: change(prompt_rows(), 0, 3, "12.5"), "line 2, column 'seed': '12.5'"),
        ("promptset", lambda: change(prompt_rows(), 0, 7, "nan"), "line 2, column 'cfgScale': 'nan'"),
        ("metadata", lambda: change(metadata_rows(), 0, 0, "1.7e+38"), "line 2, column 'image_id': .*spreadsheet"),
        ("metadata", lambda: change(metadata_rows(), 1, 0, metadata_rows()[0][0]), "line 3, column 'image_id'"),
        ("metadata", lambda: change(metadata_rows(), 1, 4, 2), "modelVersion_id': 2, 20 was there before, on line 2"),
        ("metadata", lambda: change(metadata_rows(), 3, 3, 77), "line 5, column 'modelVersion_id': 77 is not in the"),
        (
            "metadata",
            lambda: change(metadata_rows(), 3, 4, 9),
            "line 5, column 'prompt_id': 9 is not in the prompt set",
        ),
        ("metadata", lambda: change(metadata_rows(), 3, 1, "food"), "line 5, column 'tag': 'food', but elsewhere"),
        (
            "metadata",
            lambda: change(metadata_rows(), 3, 6, 13),
            "line 5, column 'seed': '13', but elsewhere it is '12'",
        ),
        (
            "metadata",
            lambda: change(metadata_rows(), 3, 2, 6),
            "line 5, column 'model_id': '6', but elsewhere it is '5'",
        ),
        ("metadata", lambda: change(metadata_rows(), 3, 12, "inf"), "line 5, column 'clip_score': 'inf'"),
    ],
)
def test_bad_tables(folder, file, rows, says):
    path, header = {
        "roster": (folder / "roster.csv", ROSTER),
        "promptset": (folder / "promptsets" / "promptset_v6.csv", PROMPTS),
        "metadata": (folder / "metadata.csv", [*METADATA, "clip_score"]),
    }[file]
    write(path, header, rows())
    with pytest.raises(DataError, match=says) as caught:
        read_gemrec(folder, metadata=folder / "metadata.csv")
    assert caught.value.file is not None


def test_missing_columns_and_files(folder, tmp_path):
    for name in ROSTER:
        rest = [i for i, column in enumerate(ROSTER) if column != name]
        write(folder / "short.csv", [ROSTER[i] for i in rest], [[row[i] for i in rest] for row in roster_rows()])
        with pytest.raises(DataError, match=f"line 1, column '{name}': column missing"):
            read_roster(folder / "short.csv")
    write(folder / "twice.csv", [*PROMPTS, "seed"], [[*row, 1] for row in prompt_rows()])
    with pytest.raises(DataError, match="column 'seed': the header names it twice"):
        read_promptset(folder / "twice.csv")
    with pytest.raises(DataError, match="cannot be opened"):
        read_roster(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is no folder"):
        read_gemrec(tmp_path / "none")
    (folder / "bytes.csv").write_bytes(b"prompt_id\xff\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_promptset(folder / "bytes.csv")
    (folder / "cut.csv").write_text('prompt_id,tag\n1,"open')
    with pytest.raises(DataError, match="is no CSV"):
        read_promptset(folder / "cut.csv")
    (folder / "bad.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="Parquet"):
        read_metadata(folder / "bad.parquet", read_roster(folder / "roster.csv"), Catalog(pl.DataFrame({"id": [1]})))


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        ("image_embeddings.npy", np.zeros((2, 2, 4), "f4"), r"expected floats of shape \(2, 3, dim\)"),
        ("image_embeddings.npy", np.zeros((2, 3, 4), "i4"), "holds int32"),
        ("image_embeddings.npy", np.full((2, 3, 4), np.nan, "f4"), "not finite"),
        ("image_embeddings.npy", np.ones((2, 3, 4), "f4"), "6 picture vectors are not of length 1"),
        ("text_embeddings.npy", np.zeros((2, 5), "f4"), r"expected floats of shape \(2, 4\)"),
        ("text_embeddings.npy", np.array([{}], dtype=object), "cannot be read as an array"),
    ],
)
def test_bad_arrays(folder, name, array, says):
    np.save(folder / name, array, allow_pickle=True)
    with pytest.raises(DataError, match=says):
        read_gemrec(folder)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("10\n20\n40\n", "line 3: '40' is no"),
        ("10\nx\n30\n", "line 2: 'x'"),
        ("10\n20\n10\n", "line 3: 10 is there twice"),
        ("10\n20\n", "of shape"),
    ],
)
def test_bad_model_ids(folder, text, says):
    (folder / "modelVersion_ids.txt").write_text(text)
    with pytest.raises(DataError, match=says):
        read_gemrec(folder)


def test_promptbook_refuses():
    models, prompts = Catalog(pl.DataFrame({"id": [1]})), Catalog(pl.DataFrame({"id": ["p"], "text": ["p"]}))
    cells = pl.DataFrame({"prompt": ["p"], "model": [1], "seed": [0], "picture": ["x"]})
    assert Promptbook(models, prompts, cells).complete
    with pytest.raises(DataError, match="lack the columns"):
        Promptbook(models, prompts, cells.drop("seed"))
    with pytest.raises(DataError, match="a model nobody lists, such as 2"):
        Promptbook(models, prompts, cells.with_columns(model=pl.lit(2, pl.Int64)))
    with pytest.raises(DataError, match="prompt p, model 1, seed 0 is there twice"):
        Promptbook(models, prompts, pl.concat([cells, cells.with_columns(picture=pl.lit("y"))]))
    with pytest.raises(DataError, match=r"expected \(1, dim\)"):
        Promptbook(models, prompts, cells, pictures=np.ones((2, 1), "f4"))
    seeds = pl.concat([cells, cells.with_columns(picture=pl.lit("y"), seed=pl.lit(1, pl.Int64))])
    book = Promptbook(models, prompts, seeds)
    assert book.complete
    with pytest.raises(DataError, match="choose a seed"):
        book.rows()
    assert book.only(seeds=[1]).cells["picture"].to_list() == ["y"]


def test_quotas():
    """A share of each bin, rounded; a bin that holds a model gives at least one; an empty bin gives none."""
    pool = np.concatenate([np.zeros(90), np.full(9, 98.0), [9999.0]])  # bins 0, 9 or 10, and the last
    given = quotas(pool, wanted=10)
    assert given[given > 0].tolist() == [9, 1, 1]
    assert len(given) == 20
    rng = np.random.default_rng(0)
    assert 190 <= quotas(10 ** rng.uniform(0, 6, 3436)).sum() <= 200
    with pytest.raises(InvalidArgument, match="none negative"):
        quotas([-1])


def grid_rows():
    def row(model, prompt, seed, **more):
        cell = {
            "id": f"{model}/{prompt}-{seed}.png", "prompt": prompt, "model": model, "model_hash": f"h-{model}",
            "negative": "", "loras": "", "seed": seed, "steps": 25, "guidance": 5.0, "width": 64, "height": 64,
            "sampler": "ddim", "seconds": "", "thumbnail": "",
        }  # fmt: skip
        return [{**cell, **more}[name] for name in WRITTEN]

    return [
        row("ink", "a dog, red, inkstyle", 1), row("flat", "a dog, red", 1), row("flat", "a dog", 1),
        row("ink", "a dog, inkstyle", 1), row("flat", "a dog", 1, id="flat/l.png", loras="neon:0.8"),
    ]  # fmt: skip


def test_our_own_grid(tmp_path):
    write(tmp_path / "catalogue.csv", WRITTEN, grid_rows())
    book = read_grid(tmp_path, prompts=["a dog", "a dog, red"])
    assert book.models.table["id"].to_list() == ["ink", "flat", "flat + neon:0.8"]
    assert book.rows().tolist() == [[3, 2, 4], [0, 1, -1]]
    assert not book.complete
    assert book.cells["drawn_as"][0] == "a dog, red, inkstyle"
    assert len(read_grid(tmp_path).prompts) == 4  # every text a prompt of its own
    assert set(COLUMNS) < set(WRITTEN)


@pytest.mark.parametrize(
    ("row", "column", "value", "says"),
    [
        (2, "seed", "-1", "line 4, column 'seed'"),
        (2, "seed", "one", "line 4, column 'seed'"),
        (1, "model", "", "line 3, column 'model': is empty"),
        (2, "model_hash", "other", "line 4, column 'model_hash': .*retrained"),
        (1, "prompt", "a dog", "line 4, column 'prompt': .*on line 3, with other settings"),
        (1, "prompt", "a cow", "line 3, column 'prompt': 'a cow' is none of the 2 prompts"),
        (1, "id", "ink/a dog, red, inkstyle-1.png", "line 3, column 'id': .* was there before, on line 2"),
        (1, "width", "0", "line 3, column 'width'"),
    ],
)
def test_bad_grids(tmp_path, row, column, value, says):
    path = write(tmp_path / "catalogue.csv", WRITTEN, change(grid_rows(), row, WRITTEN.index(column), value))
    with pytest.raises(DataError, match=says) as caught:
        read_grid(tmp_path, prompts=["a dog", "a dog, red"])
    assert caught.value.file == path


def test_bad_grid_arguments(tmp_path):
    with pytest.raises(DataError, match="cannot be opened"):
        read_grid(tmp_path)
    write(tmp_path / "catalogue.csv", WRITTEN, grid_rows())
    for prompts in ("a dog", [], ["a dog", "a dog"]):
        with pytest.raises(InvalidArgument, match="planned prompt"):
            read_grid(tmp_path, prompts=prompts)


@pytest.fixture(scope="module")
def real(shared_data):
    if not (shared_data / "gemrec" / "roster.csv").exists():
        pytest.skip("no GEMRec here")
    return shared_data / "gemrec"


def test_real_roster_and_prompts(real):
    """The paper's counts."""
    models, prompts = read_roster(real / "roster.csv"), read_promptset(real / "promptsets" / "promptset_v6.csv")
    assert (len(models), models.column("model_id").n_unique()) == (200, 199)
    bases = dict(models.column("base").value_counts().iter_rows())
    assert bases == {"SD 1.5": 153, "SD 2.1 768": 25, "Other": 17, "SD 1.4": 3, "SD 2.1": 2}
    downloads = models.column("downloads")
    assert (downloads.min(), downloads.max()) == (35, 2_276_475)
    assert models.column("tags").explode().n_unique() == 363
    assert (models.column("triggers").list.len() > 0).sum() == 86
    assert (models.table["id"] < 1_000_000).sum() == 197  # the quota, without the three base models
    assert (len(prompts), prompts.column("tag").n_unique(), prompts.column("seed").n_unique()) == (90, 12, 80)
    assert dict(prompts.column("size").value_counts().iter_rows()) == {"768x512": 56, "512x768": 32, "512x512": 2}
    assert (prompts.column("note") == "original").sum() == 10


@pytest.mark.parametrize(
    ("name", "n"), [("v1", 9), ("v2", 69), ("v3", 80), ("v4", 70), ("v5", 80), ("c1", 30), ("e1", 69)]
)
def test_real_earlier_sets(real, name, n):
    assert len(read_promptset(real / "promptsets" / f"promptset_{name}.csv")) == n


def test_real_embeddings(real):
    book = read_gemrec(real)
    assert book.complete
    assert book.pictures.shape == (18_000, 768)
    rows = book.rows()
    own = np.einsum("pmd,pd->pm", book.pictures[rows].astype(np.float64), book.texts.astype(np.float64))
    assert own.mean() == pytest.approx(0.2638, abs=5e-5)
    alike = np.stack([gallery.mcos(book.pictures[row]) for row in rows])
    assert (alike.mean(), alike.min(), alike.max()) == pytest.approx((0.73366, 0.26700, 0.91792), abs=1e-5)
    first = book.models.ids.rows([90, 1145, 1162, 1165, 1315])
    np.testing.assert_allclose(
        alike[book.prompts.ids.rows([1])[0], first], [0.57528, 0.48228, 0.55085, 0.63640, 0.57670], atol=1e-5
    )
