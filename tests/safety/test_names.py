"""Names: what is odd comes through whole, and nothing is written outside the output folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from augpipe.data.annotated import AnnotatedImage, Annotation, Category, Dataset, Entry, Meta
from augpipe.data.content import FileContent
from augpipe.data.formats import FORMATS, open_dataset
from augpipe.data.sidecar import SIDECAR
from augpipe.errors import DataError
from augpipe.expansion import conversion, convert, expand, sources
from augpipe.recipe import load
from tests.formats.scenes import picture
from tests.safety.cases import tree

LISTED = ("yolo", "voc", "masks", "folder")
"""What is found by looking into folders, which passes over hidden names."""

FLIP = load({"version": 1, "sample": ["horizontal_flip"]})
META = Meta((Category(1, "cat"), Category(2, "a dog")), ("one", "two"))

BAD = ["../up.png", "../../up.png", "a/../../up.png", "a/..", "..", "/tmp/up.png", "C:\\up.png"]
BAD += ["a\\..\\..\\up.png", "a\0.png", "\ud800.png", "", ".", "/", "n" * 300 + ".png"]
BAD += ["d" * 300 + "/x.png"]

ODD = ["with space.png", " before.png", "behind .png", "a tab\t.png", "é ü.png", "photo 1.png"]
ODD += ["photo -1.png", "-o.png", "#x.png", "%41.png", 'it\'s "it".png', "<x> & ]].png", "{0}.png"]
ODD += ["dots.in.it.png", "a/b c/d.png", "*.png", "$HOME.png", "x;y,z.png", "~.png", "\u202e.png"]
ODD += ["n" * 200 + ".png", "train.png", "null.png", "1.png", "[a].png", "ab: c.png", ".hidden.png"]


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Sees to it that nothing beside `work/out` is other than it was, in a folder."""

    def others() -> dict[str, bytes | None]:
        found = tree(folder)
        return {k: v for k, v in found.items() if not f"{k}/".startswith("work/out/")}

    before = others()
    yield
    assert others() == before


def image(folder: Path, name: str, k: int, split: str | None = "train") -> AnnotatedImage:
    """An image of some name, whose file has another."""
    content = picture(folder / "files" / f"{k}.png", 12, 14, k)
    box = Annotation(1 + k % 2, (1.0, 2.0, 7.0, 8.0), id=k + 1)
    return AnnotatedImage(name, content, split, (12, 14), "one", (box,), id=k + 1)


def dataset(folder: Path, images: list[AnnotatedImage]) -> Dataset:
    entries = [Entry(each.name, each.split, each.id) for each in images]
    return Dataset(folder / "files", "made", META, entries, images.__getitem__, (99, 99))


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dataset]:
    """Gives `convert` and `expand` a dataset that no format could have told of."""

    def serve(images: list[AnnotatedImage]) -> Dataset:
        made = dataset(tmp_path, images)
        for module in (conversion, sources):
            monkeypatch.setattr(module, "open_dataset", lambda *_: made)
        (tmp_path / "work").mkdir(exist_ok=True)
        return made

    return serve


# --- written --------------------------------------------------------------------------------


def job(tmp_path: Path, served: Callable[..., Dataset], images: list[AnnotatedImage]) -> Path:
    served(images)
    return tmp_path / "work" / "out"


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("what", ["name", "split", "label", "mask"])
def test_bad_names_are_not_written(
    tmp_path: Path, served: Callable[..., Dataset], to: str, what: str
) -> None:
    images = [image(tmp_path, "good.png", 0)]
    for k, name in enumerate(BAD if what != "mask" else ("./../x", ".\\..\\x", "." + "n" * 300), 1):
        if not name and what != "name":
            continue
        each = image(tmp_path, name if what == "name" else f"{k}.png", k)
        if what == "mask":
            each = replace(each, mask=FileContent(Path(f"{tmp_path}/x{name}")))
        elif what != "name":
            each = replace(each, **{what: name})
        images.append(each)
    out = job(tmp_path, served, images)
    with inside(tmp_path):
        done = convert(tmp_path / "files", out, to)
    # Only in folders of classes is a class a name of a file; but UTF-8 it has to be everywhere.
    refused = len(images) - 1 if what != "label" or to == "folder" else 1
    assert (done.written, done.skipped) == (len(images) - refused, refused), done
    assert "good.png" in [each.name.rpartition("/")[2] for each in open_dataset(out, to)]


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("what", ["name", "split"])
def test_an_expansion_writes_no_bad_names(
    tmp_path: Path, served: Callable[..., Dataset], to: str, what: str
) -> None:
    images = [image(tmp_path, "good.png", 0)]
    images += [
        replace(image(tmp_path, f"{k}.png", k), **{what: name})
        for k, name in enumerate(BAD, 1)
        if name and name != "\ud800.png"  # no dataset can be read that says so
    ]
    out = job(tmp_path, served, images)
    with inside(tmp_path):
        done = expand(FLIP, tmp_path / "files", out, source_format="coco", to=to, split="none")
    assert (done.written, done.skipped) == (1, len(images) - 1)


@pytest.mark.parametrize("to", FORMATS)
def test_odd_names_come_through(tmp_path: Path, served: Callable[..., Dataset], to: str) -> None:
    splits = ("train", "val", "a b", " c ", "x/y", "1")
    names = [name for name in ODD if to not in LISTED or not name.startswith(".")]
    images = [image(tmp_path, name, k, splits[k % 6]) for k, name in enumerate(names)]
    if to == "folder":  # which takes any other folder for a class
        images = [replace(each, split="train") for each in images]
    out = job(tmp_path, served, images)
    with inside(tmp_path):
        done = convert(tmp_path / "files", out, to)
    assert (done.written, done.skipped) == (len(images), 0), done
    found = {each.name: each for each in open_dataset(out, to)}
    assert [each.name for each in images if each.name not in found] == []
    for each in images:
        read = found[each.name]
        assert (read.split, read.label) == (each.split, each.label), each.name
        assert read.annotations == each.annotations, each.name
        assert read.content.read() == each.content.read(), each.name


def test_names_that_differ_in_case_only(tmp_path: Path, served: Callable[..., Dataset]) -> None:
    images = [image(tmp_path, name, k) for k, name in enumerate(("a.png", "A.png", "b.png"))]
    for to in FORMATS:
        served(images)
        done = convert(tmp_path / "files", tmp_path / "work" / to, to)
        assert (done.written, done.skipped) == (2, 1)
        served(images)
        out = tmp_path / "work" / f"expanded {to}"
        expand(FLIP, tmp_path / "files", out, source_format="coco", to=to)
        names = {each.name.casefold() for each in open_dataset(out, to)}
        assert len(names) == 3


@pytest.mark.parametrize("to", ["coco", "csv", "folder"])
def test_masks_that_would_share_a_file(
    tmp_path: Path, served: Callable[..., Dataset], to: str
) -> None:
    """Two names that differ in ending only have one name for their masks."""
    images = [
        replace(image(tmp_path, name, k), mask=picture(tmp_path / "masks" / f"{k}.png", 12, 14, k))
        for k, name in enumerate(("a.png", "a.bmp"))
    ]
    out = job(tmp_path, served, images)
    done = convert(tmp_path / "files", out, to)
    assert "a.bmp: a second mask would be" in str(done)
    (read,) = open_dataset(out, to)
    assert read.mask is not None
    assert read.mask.read() == images[0].mask.read()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("to", "splits"),
    [
        ("coco", ("a/b", "a_b")),
        ("webdataset", ("a/b", "a_b")),
        ("parquet", ("val", "valid")),
        ("parquet", ("train", None)),
    ],
)
def test_splits_that_would_share_a_file(
    tmp_path: Path, served: Callable[..., Dataset], to: str, splits: tuple[str, str | None]
) -> None:
    images = [image(tmp_path, f"{k}.png", k, split) for k, split in enumerate(splits)]
    out = job(tmp_path, served, images)
    with pytest.raises(DataError, match=f"the splits {splits[0]} and {splits[1]} would share"):
        convert(tmp_path / "files", out, to)
    assert tree(out) == {}


@pytest.mark.parametrize(
    "name", [SIDECAR, ".augpipe-making/x.png", "train-000000.tar", "x.parquet"]
)
def test_names_of_a_datasets_own_files(
    tmp_path: Path, served: Callable[..., Dataset], name: str
) -> None:
    images = [image(tmp_path, "good.png", 0, None), image(tmp_path, name, 1, None)]
    images = [replace(each, label=None) for each in images]
    for to in ("folder", "webdataset", "parquet"):
        served(images)
        done = convert(tmp_path / "files", tmp_path / "work" / to, to)
        assert (done.written, done.skipped) == (1, 1), (to, done)
        served(images)
        out = tmp_path / "work" / f"expanded {to}"
        options: dict[str, Any] = {"source_format": "coco", "to": to, "keep_originals": True}
        summary = expand(FLIP, tmp_path / "files", out, **options)
        assert (summary.written, summary.skipped) == (2, 1), to
