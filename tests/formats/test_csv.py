"""CSV lists, against the csv module and ImageFolder's labels."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from augpipe.data import csv as lists
from augpipe.data.annotated import Annotation, Dataset
from augpipe.data.formats import detect, open_dataset
from augpipe.errors import DataError
from tests.formats.conftest import write
from tests.formats.scenes import by_name, picture


def laid_out(tmp_path: Path, text: str | bytes) -> Path:
    for k, name in enumerate(("a.png", "b c.png", "d\ne.png")):
        picture(tmp_path / "photos" / name, 20, 24, k)
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "list.csv").write_bytes(data)
    return tmp_path


def test_any_reader_reads_what_is_written(made: Dataset, tmp_path: Path) -> None:
    write("csv", tmp_path / "out", made.meta, made)
    with (tmp_path / "out" / "annotations.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 6 + 1
    assert all((tmp_path / "out" / row["file_name"]).is_file() for row in rows)
    assert {row["split"] for row in rows} == {"train", "val"}
    first = rows[0]
    assert (first["label"], first["category"]) == ("outdoor", "cat")
    corners = [float(first[name]) for name in ("xmin", "ymin", "xmax", "ymax")]
    assert corners == [1.0, 2.0, 11.5, 9.25]
    bare = next(row for row in rows if "bare" in row["file_name"])
    assert bare["xmin"] == bare["category"] == ""


def test_a_list_of_images_and_classes(tmp_path: Path) -> None:
    laid_out(tmp_path, 'Path,Class,split,note\na.png,cat,train,"x, y"\n"b c.png",dog,val,\n')
    assert detect(tmp_path) == "csv"
    first, second = open_dataset(tmp_path)
    assert (first.name, first.label, first.split, first.extra) == (
        "a.png",
        "cat",
        "train",
        {"note": "x, y"},
    )
    assert (second.name, second.label, second.split, second.extra) == ("b c.png", "dog", "val", {})
    assert open_dataset(tmp_path).meta.classes == ("cat", "dog")


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_a_list_of_objects(tmp_path: Path, mark: str, start: str) -> None:
    rows = (
        "filename xmin ymin xmax ymax class score",
        "a.png 1 2 3.5 4 cat 0.5",
        "photos.png",
        "a.png 5 6 7 8 dog 1",
    )
    text = start + "\n".join(row.replace(" ", mark) for row in (rows[0], rows[1], rows[3]))
    image = open_dataset(laid_out(tmp_path, text) / "list.csv")[0]
    assert image.annotations == (
        Annotation(1, (1.0, 2.0, 3.5, 4.0), extra={"score": "0.5"}),
        Annotation(2, (5.0, 6.0, 7.0, 8.0), extra={"score": "1"}),
    )


def test_names_with_line_breaks(tmp_path: Path) -> None:
    text = 'image,label\n"d\ne.png",cat\na.png,dog\n'
    found = by_name(open_dataset(laid_out(tmp_path, text) / "list.csv"))
    assert {name: each.label for name, each in found.items()} == {"d\ne.png": "cat", "a.png": "dog"}
    assert found["a.png"].content.read() == (tmp_path / "photos" / "a.png").read_bytes()


HEAD = "image,xmin,ymin,xmax,ymax,label\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "a.png,1,2,3\n", r"list\.csv:2: 4 fields for 6 columns"),
        (HEAD + "../a.png,1,2,3,4,cat\n", r"list\.csv:2: .*leads out"),
        (HEAD + "/a.png,1,2,3,4,cat\n", "is absolute"),
        (HEAD + '"a.png,1,2,3,4,cat\n', "not CSV: unexpected end of data"),
        ("image,split\na.png,train\na.png,val\n", r"a\.png is in two splits"),
        (b"image,label\na\xff.png,cat\n", "is not text in UTF-8"),
        (HEAD, "has no rows"),
        (HEAD + "none.png,1,2,3,4,cat\n", "its images were not found"),
    ],
)
def test_a_bad_list_is_told(tmp_path: Path, text: str | bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        lists.read(laid_out(tmp_path, text) / "list.csv")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("a.png,1,2,nan,4,cat\n", r"list\.csv:2: a corner must be finite"),
        ("a.png,1,2,x,4,cat\n", "a corner is not a number"),
        ("a.png,5,2,3,4,cat\n", "negative size"),
        ("a.png,1,2,3,4,\n", "a box without a known class: ''"),
        ("a.png,1,2,3,4,cat\nb.png,1,2,3,4,cat\n", r"list\.csv:3: the image 'b\.png' is missing"),
    ],
)
def test_a_bad_row_is_its_images_error(tmp_path: Path, row: str, words: str) -> None:
    dataset = open_dataset(laid_out(tmp_path, HEAD + row) / "list.csv")
    with pytest.raises(DataError, match=words):
        list(dataset)
