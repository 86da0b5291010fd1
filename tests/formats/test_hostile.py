"""Nothing that a dataset says is written outside the output folder, or ends in a crash."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from augpipe.cli.main import main
from augpipe.data.annotated import AnnotatedImage, Annotation, Dataset, Entry, safe_name
from augpipe.data.content import FileContent
from augpipe.data.formats import FORMATS, layout_for, open_dataset
from augpipe.data.sidecar import SIDECAR
from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.expansion import conversion, convert, expand, verify
from augpipe.recipe import load
from tests.e2e.expansion import rows
from tests.formats.conftest import write
from tests.formats.scenes import META, picture

ROTATE = {"version": 1, "sample": ["rotate"]}


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("a.png", "a.png"),
        ("./a//b c/é\n.png", "a/b c/é\n.png"),
        ("..a/b..png", "..a/b..png"),
        ("a/.b", "a/.b"),
    ],
)
def test_names_that_stay(name: str, clean: str) -> None:
    assert safe_name(name, "x") == clean


@pytest.mark.parametrize(
    "name",
    ["", "/", ".", "..", "a/..", "../a", "/a", "a/../../b", "C:\\a", "c:/a", "a\\b", "a\0b",
     "a\udcff", 3, None, b"a"],
)  # fmt: skip
def test_names_that_do_not(name: object) -> None:
    with pytest.raises(DataError, match="x: "):
        safe_name(name, "x")


def made(tmp_path: Path, *images: AnnotatedImage) -> Dataset:
    entries = [Entry(each.name, each.split, each.id) for each in images]
    return Dataset(tmp_path / "in", "made", META, entries, list(images).__getitem__)


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("label", ["../../up", "/etc", ".."])
def test_a_class_cannot_lead_out(
    tmp_path: Path, to: str, label: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = picture(tmp_path / "a.png", 20, 24, 0)
    good = AnnotatedImage("x.png", content, label="fine")
    dataset = made(tmp_path, replace(good, name="a.png", label=label), good)
    monkeypatch.setattr(conversion, "open_dataset", lambda *_: dataset)
    (tmp_path / "work").mkdir()
    before = {path for path in tmp_path.rglob("*") if "work" not in path.parts}
    done = convert(tmp_path / "in", tmp_path / "work" / "out", to)
    assert done.written in (1, 2)
    assert {path for path in tmp_path.rglob("*") if "work" not in path.parts} == before
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["out"]


@pytest.mark.parametrize("to", FORMATS)
def test_a_name_with_a_line_break(tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = picture(tmp_path / "a.png", 20, 24, 0)
    image = AnnotatedImage(
        "one\r\ntwo.png" if to == "csv" else "one\ntwo.png", content, "train", label="cat", id=4
    )
    image = replace(image, annotations=(Annotation(3, (1.0, 2.0, 3.0, 4.0), id=9),))
    other = replace(image, name="three.png", id=5, annotations=())
    dataset = made(tmp_path, image, other)
    monkeypatch.setattr(conversion, "open_dataset", lambda *_: dataset)
    done = convert(tmp_path / "in", tmp_path / "out", to)
    read = {each.name: each for each in open_dataset(tmp_path / "out")}
    if to == "voc":
        assert r"left out train/one\ntwo.png: one\ntwo.png: VOC's lists and XML cannot" in str(done)
        assert (done.exit_code, set(read)) == (1, {"three.png"})
    else:
        assert (done.exit_code, done.written) == (0, 2)
        assert read[image.name].annotations[0].box == (1.0, 2.0, 3.0, 4.0)


@pytest.mark.parametrize("to", ["yolo", "voc", "masks"])
def test_names_alike_but_for_their_ending(
    tmp_path: Path, to: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = picture(tmp_path / "a.png", 20, 24, 0)
    images = [AnnotatedImage(name, content, "train") for name in ("a.png", "A.bmp", "b.png")]
    monkeypatch.setattr(conversion, "open_dataset", lambda *_: made(tmp_path, *images))
    done = convert(tmp_path / "in", tmp_path / "out", to)
    assert (done.written, done.skipped) == (2, 1)
    assert "left out train/A.bmp: A.bmp: a second image would be" in str(done)


def test_a_name_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", 20, 24, 0)
    picture(tmp_path / "masks" / "a.png", 20, 24, 0)
    folder = os.fsencode(tmp_path / "images")
    os.rename(folder + b"/a.png", folder + b"/\xff.png")  # noqa: PTH104 - no Path has such a name
    with pytest.raises(DataError, match="is not UTF-8: rename it"):
        open_dataset(tmp_path, "masks")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": {"name": "../x.png"}}, "leads out"),
        ({"image": {"name": "x.png", "split": "../.."}}, "leads out"),
        ({"mask": "../../x.png"}, "leads out"),
        ({"mask": "/etc/passwd"}, "is absolute"),
        (
            {"image": {"name": "plain.png", "annotations": [{"nothing": 1}]}},
            "not a record|not a line",
        ),
        ({"image": {"name": "plain.png", "annotations": 3}}, "not a record|not a line"),
        ({"image": {"name": "plain.png", "size": "x"}}, "not a record"),
    ],
)
def test_a_hostile_sidecar_is_told(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    content = picture(tmp_path / "a.png", 20, 24, 0)
    image = AnnotatedImage("plain.png", content, "train", (20, 24), id=3)
    write("yolo", tmp_path / "out", META, [image])
    path = tmp_path / "out" / SIDECAR
    head, line, end = path.read_text().splitlines()
    path.write_text("\n".join((head, json.dumps({**json.loads(line), **change}), end, "")))
    with pytest.raises(DataError, match=words):
        open_dataset(tmp_path / "out")[0]


@pytest.mark.parametrize("text", ["{", "[]\n", '{"key": 1}\n', "\xff\n", "[" * 100_000])
def test_a_broken_sidecar_is_told(tmp_path: Path, text: str) -> None:
    image = AnnotatedImage("a.png", picture(tmp_path / "a.png", 20, 24, 0), "train", id=3)
    write("yolo", tmp_path / "out", META, [image])
    (tmp_path / "out" / SIDECAR).write_text(text)
    with pytest.raises(DataError, match=r"\.augpipe\.jsonl:1: not a line of a sidecar"):
        open_dataset(tmp_path / "out")


def test_a_folder_that_leads_elsewhere_is_not_written_in(tmp_path: Path) -> None:
    image = AnnotatedImage("a.png", picture(tmp_path / "a.png", 20, 24, 0), "train", (20, 24))
    image = replace(image, annotations=(Annotation(3, (1.0, 2.0, 9.0, 9.0)),))
    write("yolo", tmp_path / "in", META, [image])
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    expand(load(ROTATE), tmp_path / "in", out)
    for path in (out / "labels" / "train").iterdir():
        path.unlink()
    (out / "labels" / "train").rmdir()
    elsewhere.mkdir()
    (out / "labels" / "train").symlink_to(elsewhere)
    with pytest.raises(AugpipeError, match="leads out of the output folder"):
        expand(load(ROTATE), tmp_path / "in", out)
    assert not list(elsewhere.iterdir())


def test_a_hostile_row_is_not_followed(tmp_path: Path) -> None:
    image = AnnotatedImage("a.png", picture(tmp_path / "a.png", 20, 24, 0), "train", (20, 24))
    mask = FileContent(picture(tmp_path / "m.png", 20, 24, 0).path)
    write("coco", tmp_path / "in", META, [replace(image, mask=mask)])
    out, kept = tmp_path / "out", tmp_path / "kept.png"
    expand(load(ROTATE), tmp_path / "in", out, to="webdataset")
    kept.write_bytes(b"mine")
    (row,) = rows(out)
    row["mask"] |= {"path": "../kept.png", "bytes": 4}
    (out / "manifest.jsonl").write_text(json.dumps(row) + "\n")
    assert "names a file outside the folder" in str(verify(out))
    expand(load(ROTATE), tmp_path / "in", out, to="webdataset")
    assert kept.read_bytes() == b"mine"
    assert verify(out).exit_code == 0


def test_originals_that_would_share_labels_are_refused_at_once(tmp_path: Path) -> None:
    images = [
        AnnotatedImage(name, picture(tmp_path / name, 20, 24, 0), "train")
        for name in ("a.png", "a.bmp")
    ]
    write("coco", tmp_path / "in", META, images)
    with pytest.raises(UsageError, match="differ in ending only, which yolo cannot tell apart"):
        expand(load(ROTATE), tmp_path / "in", tmp_path / "out", to="yolo", keep_originals=True)
    assert not (tmp_path / "out").exists()
    assert expand(load(ROTATE), tmp_path / "in", tmp_path / "out", to="yolo").written == 2


def test_a_conversion_goes_to_an_empty_folder_outside(tmp_path: Path) -> None:
    image = AnnotatedImage("a.png", picture(tmp_path / "a.png", 20, 24, 0), "train")
    write("coco", tmp_path / "in", META, [image])
    for out in (tmp_path / "in", tmp_path / "in" / "x", tmp_path):
        with pytest.raises(UsageError, match="input"):
            convert(tmp_path / "in", out, "yolo")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(UsageError, match="not empty"):
        convert(tmp_path / "in", tmp_path / "full", "yolo")


def test_strict_ends_at_the_first(tmp_path: Path) -> None:
    images = [
        AnnotatedImage(name, picture(tmp_path / name, 20, 24, 0), "train")
        for name in ("a.png", "b.png")
    ]
    write("coco", tmp_path / "in", META, images)
    (tmp_path / "in" / "images" / "train" / "b.png").unlink()
    done = convert(tmp_path / "in", tmp_path / "out", "yolo")
    assert (done.written, done.skipped, done.exit_code) == (1, 1, 1)
    with pytest.raises(DataError, match=r"the image 'b\.png' is missing"):
        convert(tmp_path / "in", tmp_path / "strict", "yolo", strict=True)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["convert", "samples", str(out), "--to", "voc"]) == 0
    assert capsys.readouterr().out == f"converted 4 images from coco to voc in {out}\n"
    assert main(["convert", str(out), str(tmp_path / "b"), "--to", "yolo", "--split", "val"]) == 2
    assert "no split 'val' (it has none)" in capsys.readouterr().err
    assert main(["convert", str(out), str(tmp_path / "b"), "--to", "yolo", "--from", "coco"]) == 2
    assert "no COCO file" in capsys.readouterr().err
    again = ["convert", "samples/annotations/photos.json", str(tmp_path / "c"), "--to", "csv"]
    assert main([*again, "--images", "samples/photos"]) == 0
    assert main([*again, "--images", "samples/none"]) == 2


def test_places_are_as_documented(tmp_path: Path) -> None:
    image = AnnotatedImage("in/a.png", FileContent(tmp_path), "val", label="cat")
    places = {name: layout_for(name, []).place(image) for name in FORMATS}
    assert places == {
        "coco": "images/val/in/a.png",
        "yolo": "images/val/in/a.png",
        "voc": "JPEGImages/in/a.png",
        "webdataset": "val/in/a.png",
        "parquet": "val/in/a.png",
        "csv": "images/val/in/a.png",
        "masks": "images/val/in/a.png",
        "folder": "val/cat/in/a.png",
    }
