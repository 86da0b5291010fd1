"""Every format holds everything, by itself or by its sidecar; any to any and back."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from augpipe.data.annotated import AnnotatedImage, Dataset
from augpipe.data.formats import FORMATS, detect, open_dataset
from augpipe.data.sidecar import SIDECAR
from augpipe.errors import UsageError
from augpipe.expansion import convert
from tests.formats.conftest import write
from tests.formats.scenes import by_name, same


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_gives_back_what_was_written(made: Dataset, tmp_path: Path, name: str) -> None:
    write(name, tmp_path / "out", made.meta, made)
    assert detect(tmp_path / "out") == name
    found = open_dataset(tmp_path / "out")
    assert found.meta == made.meta
    assert (found.splits, found.last) == (("train", "val"), (8, 406))
    written, read = by_name(made), by_name(found)
    assert written.keys() == read.keys()
    for key, image in written.items():
        assert same(image, read[key]), key


@pytest.mark.parametrize(("a", "b"), list(itertools.permutations(FORMATS, 2)))
def test_any_to_any(made: Dataset, tmp_path: Path, a: str, b: str) -> None:
    write(a, tmp_path / "a", made.meta, made)
    done = convert(tmp_path / "a", tmp_path / "b", b)
    assert (done.source, done.format, done.written, done.exit_code) == (a, b, 4, 0)
    assert "3 boxes without area" in str(done)
    found = open_dataset(tmp_path / "b", b)
    assert found.meta == made.meta
    read = by_name(found)
    assert all(same(image, read[key]) for key, image in by_name(made).items())


def test_the_bytes_do_not_depend_on_the_time_or_the_way(made: Dataset, tmp_path: Path) -> None:
    for name in FORMATS:
        trees = []
        for k in range(2):
            out = tmp_path / f"{name}{k}"
            write(name, out, made.meta, made)
            files = (path for path in out.rglob("*") if path.is_file())
            trees.append({path.relative_to(out): path.read_bytes() for path in files})
        assert trees[0] == trees[1], name


@pytest.mark.parametrize("name", ["yolo", "voc", "csv"])
def test_an_edited_file_goes_before_the_sidecar(made: Dataset, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    write(name, out, made.meta, made)
    edits = {
        "yolo": (out / "labels/train/plain.txt", "0 0.5 0.5 0.5 0.5\n"),
        "voc": (out / "Annotations/train/plain.xml", None),
        "csv": (out / "annotations.csv", None),
    }
    path, text = edits[name]
    if text is None:
        text = path.read_text().replace("11.5", "10.5", 1)
    assert (out / SIDECAR).is_file()
    path.write_text(text)
    image = by_name(open_dataset(out))["train/plain.png"]
    assert image.annotations[0].id is None
    expected = (6.0, 5.0, 18.0, 15.0) if name == "yolo" else (1.0, 2.0, 10.5, 9.25)
    assert image.annotations[0].box == expected
    untouched = by_name(open_dataset(out))["val/plain.png"]
    assert same(by_name(made)["val/plain.png"], untouched) or name == "csv"


def test_no_sidecar_where_nothing_is_left(made: Dataset, tmp_path: Path) -> None:
    bare = [
        AnnotatedImage(f"{each.label}/{each.name}", each.content, each.split, label=each.label)
        for each in made
    ]
    meta = replace(made.meta, categories=(), extra={})
    write("folder", tmp_path / "out", meta, bare)
    assert not (tmp_path / "out" / SIDECAR).exists()


def test_a_path_of_two_formats_asks_which(made: Dataset, tmp_path: Path) -> None:
    only = [each for each in made if each.split == "train"]
    write("coco", tmp_path / "out", made.meta, only)
    write("voc", tmp_path / "out", made.meta, only)
    (tmp_path / "out" / SIDECAR).unlink()
    with pytest.raises(UsageError, match=r"may be read as coco and voc.*--from coco"):
        detect(tmp_path / "out")
    assert open_dataset(tmp_path / "out", "voc").format == "voc"


def test_what_is_no_dataset_is_told_with_what_was_seen(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "a.json").write_text(json.dumps({"x": 1}))
    with pytest.raises(UsageError, match=r"saw 1 files \.json, 1 files \.txt; known coco: "):
        detect(tmp_path)
    with pytest.raises(UsageError, match="no such file or folder"):
        detect(tmp_path / "none")
    with pytest.raises(UsageError, match=r"no format 'cocoo'.*did you mean 'coco'"):
        open_dataset(tmp_path, "cocoo")
