"""Parquet, against Hugging Face's datasets."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from augpipe.data import parquet, parquet_rows
from augpipe.data.annotated import Dataset
from augpipe.data.decode import decode
from augpipe.data.formats import detect, open_dataset
from augpipe.errors import DataError, UsageError
from tests.formats.conftest import write
from tests.formats.scenes import by_name


@pytest.fixture(autouse=True)
def _quiet() -> None:
    datasets.disable_progress_bars()


def test_load_dataset_opens_what_is_written(made: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write("parquet", out, made.meta, made)
    assert sorted(path.name for path in (out / "data").iterdir()) == [
        "train-00000-of-00001.parquet",
        "validation-00000-of-00001.parquet",
    ]
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 3, "validation": 1}
    features = loaded["train"].features
    assert isinstance(features["image"], datasets.Image)
    assert features["label"].names == ["indoor", "outdoor"]
    rows = list(loaded["train"])
    for row, image in zip(rows, made, strict=False):
        assert np.array_equal(np.asarray(row["image"]), decode(image.content.read()))
        assert features["label"].int2str(row["label"]) == image.label
        assert row["image_id"] == str(image.id)
    objects = rows[0]["objects"]
    assert objects["id"] == [101, 102, 103, 104, 105, 106]
    assert objects["bbox"][0] == [1.0, 2.0, 10.5, 7.25]
    names = features["objects"]["category"].feature.names
    assert [names[k] for k in objects["category"]] == [
        "cat",
        "person",
        "traffic light",
        "cat",
        "traffic light",
        "cat",
    ]
    assert rows[0]["mask"].size == (24, 20) and rows[1]["mask"] is None


def test_what_datasets_writes_is_read(tmp_path: Path) -> None:
    """As its image datasets are on the Hub: no column of ours."""
    pixels = [np.full((6, 7, 3), 40 * k, np.uint8) for k in range(3)]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["no", "yes"]),
            "objects": {
                "bbox": datasets.List(datasets.List(datasets.Value("float32"), length=4)),
                "category": datasets.List(datasets.ClassLabel(names=["cat", "dog"])),
                "area": datasets.List(datasets.Value("int64")),
            },
            "caption": datasets.Value("string"),
        }
    )
    made = datasets.Dataset.from_dict(
        {
            "image": [Image.fromarray(each) for each in pixels],
            "label": [0, 1, 1],
            "objects": [{"bbox": [[1, 2, 3, 4]], "category": [1], "area": [12]}] * 3,
            "caption": ["a", "b", None],
        },
        features=features,
    )
    (tmp_path / "data").mkdir()
    made.to_parquet(str(tmp_path / "data" / "test-00000-of-00001.parquet"))
    assert detect(tmp_path) == "parquet"
    found = open_dataset(tmp_path)
    assert (found.splits, found.meta.classes) == (("test",), ("no", "yes"))
    assert [each.name for each in found.meta.categories] == ["cat", "dog"]
    second = found[1]
    assert np.array_equal(decode(second.content.read()), pixels[1])
    assert (second.label, second.extra) == ("yes", {"caption": "b"})
    assert [(each.category, each.box) for each in second.annotations] == [(1, (1.0, 2.0, 4.0, 6.0))]
    assert second.annotations[0].extra == {"area": 12}


@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("kinds", [[4, 2], ["dog", "cat"]])
def test_classes_without_names(tmp_path: Path, kinds: list[object], listed: bool) -> None:
    buffer = io.BytesIO()
    Image.new("L", (9, 9)).save(buffer, "PNG")
    boxes = [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 2.0, 2.0]]
    objects: object = {"bbox": boxes, "category": kinds}
    if listed:
        objects = [{"bbox": b, "category": k} for b, k in zip(boxes, kinds, strict=True)]
    row = {"image": {"bytes": buffer.getvalue(), "path": "a.png"}, "objects": objects, "label": "x"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    found = open_dataset(tmp_path / "a.parquet")
    names = {each.id: each.name for each in found.meta.categories}
    assert [names[each.category] for each in found[0].annotations] == [str(k) for k in kinds]
    assert [each.box for each in found[0].annotations] == [(1, 2, 4, 6), (0, 0, 2, 2)]
    assert (found.meta.classes, found[0].label) == (("x",), "x")


@pytest.mark.parametrize(
    ("objects", "words"),
    [
        ({"bbox": [[1.0, 2.0, 3.0, 4.0]], "category": [1, 2]}, "1 boxes, and not as many"),
        ({"bbox": [[1.0, 2.0, 3.0]], "category": [1]}, "object 0 is not x, y, width, height"),
        ({"bbox": [[1.0, float("nan"), 3.0, 4.0]], "category": [1]}, "bbox must be finite"),
        ({"bbox": [[1.0, 2.0, -3.0, 4.0]], "category": [1]}, "negative size"),
    ],
)
def test_bad_objects_are_told(tmp_path: Path, objects: object, words: str) -> None:
    row = {"image": {"bytes": b"x", "path": "a.png"}, "objects": objects}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=f"row 0 of group 0: .*{words}"):
        parquet.read(tmp_path / "a.parquet")[0]


def test_files_are_closed_when_they_are_full(
    made: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_rows, "_FILE_ROWS", 2)
    monkeypatch.setattr(parquet_rows, "_ROWS", 1)
    write("parquet", tmp_path / "out", made.meta, made)
    names = sorted(path.name for path in (tmp_path / "out" / "data").iterdir())
    assert names[:2] == ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]
    assert pyarrow.parquet.ParquetFile(tmp_path / "out/data" / names[0]).num_row_groups == 2
    assert by_name(open_dataset(tmp_path / "out")).keys() == by_name(made).keys()


def test_broken_files_are_told(made: Dataset, tmp_path: Path) -> None:
    write("parquet", tmp_path / "out", made.meta, made)
    path = tmp_path / "out" / "data" / "train-00000-of-00001.parquet"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="a Parquet file that is truncated or damaged"):
        open_dataset(tmp_path / "out")
    pyarrow.parquet.write_table(pyarrow.table({"x": [1, 2]}), path)
    with pytest.raises(DataError, match="has no column of images, only x"):
        parquet.read(path)


@pytest.mark.parametrize("name", ["../a.png", "/a.png"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    Image.new("L", (3, 3)).save(buffer, "PNG")
    table = pyarrow.table({"image": [{"bytes": buffer.getvalue(), "path": name}]})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"leads out|is absolute"):
        parquet.read(tmp_path / "a.parquet")


def test_a_row_without_bytes_is_told(tmp_path: Path) -> None:
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    table = pyarrow.table({"image": pyarrow.array([{"bytes": None, "path": "a.png"}], kind)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="row 0 of group 0: no bytes in the column image"):
        parquet.read(tmp_path / "a.parquet")[0].content.read()


def test_without_pyarrow_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"pip install 'augpipe\[parquet\]'"):
        open_dataset(tmp_path)
