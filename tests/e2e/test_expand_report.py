"""What an expansion comes to, told before it (dry run) and after it (the report)."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from augpipe.data.decode import decode
from augpipe.data.formats import open_dataset
from augpipe.errors import UsageError
from augpipe.expansion import estimate, expand, job_of, verify
from augpipe.report.expanded import describe, write_report
from tests.e2e.conftest import GARMENTS
from tests.e2e.expansion import rows, tree
from tests.harness import ROOT

SAMPLES = ROOT / "samples"
PLAIN: dict[str, Any] = {"version": 1, "seed": 3, "sample": [{"rotate": [-20, 20]}]}
SMALL: dict[str, Any] = {"version": 1, "sample": [{"resize": [60, 80]}, {"rotate": [-9, 9]}]}
_VOID = ("meta", "img", "link", "br")


class Page(HTMLParser):
    """Checks that what is opened is closed, and keeps what the page says."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("script", "link", "iframe", "object")
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names))
        self.sources += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data.strip())

    @property
    def words(self) -> str:
        return " ".join(filter(None, self.text))


@pytest.fixture
def splits(tmp_path: Path) -> Path:
    """Class folders in splits, with an image that is in both, and in two classes of one."""
    for label in ("bag", "coat"):
        own = sorted((GARMENTS / label).iterdir())
        for split, some in (("train", own[:4]), ("val", own[4:6])):
            (tmp_path / "in" / split / label).mkdir(parents=True)
            for path in some:
                shutil.copy(path, tmp_path / "in" / split / label)
    first = sorted((GARMENTS / "bag").iterdir())[0]
    shutil.copy(first, tmp_path / "in" / "val" / "bag" / "again.png")
    large = Image.open(first).resize((80, 80), Image.Resampling.BICUBIC)
    large.save(tmp_path / "in" / "train" / "coat" / "larger.png")
    return tmp_path / "in"


# ---------------------------------------------------------------- beforehand


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dry_run_writes_nothing_and_counts_what_comes(
    splits: Path, tmp_path: Path, workers: int
) -> None:
    out = tmp_path / "out"
    what: dict[str, Any] = {"copies": 0, "keep_originals": True}
    recipe = {**PLAIN, "balance": 9}
    before = tree(tmp_path)
    told = estimate(job_of(recipe, splits, **what), out, workers)
    assert tree(tmp_path) == before and not out.exists()
    expand(recipe, splits, out, **what)
    found = Counter(row["label"] for row in rows(out))
    assert {each.name: each.after for each in told.classes} == found == {"bag": 9, "coat": 9}
    assert {each.name: each.before for each in told.classes} == {"bag": 4, "coat": 5}
    assert told.outputs == len(rows(out)) == 18 and told.kept == 0
    size = sum(row["bytes"] for row in rows(out)) + (out / "manifest.jsonl").stat().st_size
    assert told.bytes == pytest.approx(size, rel=0.25)
    assert told.seconds is not None and told.seconds > 0
    again = estimate(job_of(recipe, splits, **what), out, workers)
    assert (again.kept, again.seconds) == (18, 0.0)
    assert "18 of them there already" in str(again)
    text = str(told).splitlines()
    assert text[0] == f"would write 18 images to {out}"
    assert re.fullmatch(r"about \S+ kB and .* s with \d workers?: estimated from .*", text[1])
    assert [line.split() for line in text[2:]] == [
        ["images", "before", "after"],
        ["bag", "4", "9"],
        ["coat", "5", "9"],
    ]


def test_a_dry_run_refuses_what_expand_would(splits: Path, tmp_path: Path) -> None:
    job = job_of(PLAIN, splits)
    with pytest.raises(UsageError, match="lies inside the input"):
        estimate(job, splits / "out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a.txt").touch()
    with pytest.raises(UsageError, match="not empty"):
        estimate(job, tmp_path / "full")
    expand(PLAIN, splits, tmp_path / "out", copies=2)
    with pytest.raises(UsageError, match=r"copies \(2, now 1\)"):
        estimate(job, tmp_path / "out")
    with pytest.raises(UsageError, match="coco is read and written on disks only"):
        estimate(job_of(PLAIN, splits, to="coco"), "memory://estimate/out")
    record = json.loads((tmp_path / "out" / "job.json").read_text())
    record["versions"]["pillow"] = "1.0"
    (tmp_path / "out" / "job.json").write_text(json.dumps(record))
    twice = job_of(PLAIN, splits, copies=2)
    estimate(twice, tmp_path / "out")  # there is nothing left to do
    (tmp_path / "out" / "manifest.jsonl").unlink()
    with pytest.raises(UsageError, match=r"begun with other versions: pillow 1\.0 is now"):
        estimate(twice, tmp_path / "out")


def test_a_dry_run_says_what_cannot_be_used_and_measures_batches(
    splits: Path, tmp_path: Path
) -> None:
    for path in (splits / "train").rglob("*.png"):
        path.write_bytes(b"nothing")
    told = estimate(job_of(PLAIN, splits), tmp_path / "out")
    assert (told.bytes, told.seconds, told.measured) == (None, None, 0)
    assert "some cannot be used: train/" in str(told)
    mixing = {**PLAIN, "batch": ["mixup"]}
    told = estimate(job_of(mixing, GARMENTS, batch_size=8), tmp_path / "out")
    assert told.measured == 16 and told.bytes is not None


def test_a_dry_run_counts_objects(tmp_path: Path) -> None:
    still = {"version": 1, "sample": [{"resize": [60, 80]}]}
    what: dict[str, Any] = {"copies": 3, "keep_originals": True}
    told = estimate(job_of(still, SAMPLES, **what), tmp_path / "out")
    expand(still, SAMPLES, tmp_path / "out", **what)
    names = {each.id: each.name for each in open_dataset(SAMPLES).meta.categories}
    found = Counter(
        names[each["category"]] for row in rows(tmp_path / "out") for each in
        row["record"].get("annotations", ())
    )  # fmt: skip
    assert {each.name: each.after for each in told.objects} == found
    assert all(each.after == 4 * each.before for each in told.objects)


# ---------------------------------------------------------------- afterwards


def test_a_report_says_what_the_folder_holds(splits: Path, tmp_path: Path) -> None:
    (splits / "train" / "bag" / "broken.png").write_bytes(b"nothing")
    (splits / "train" / "bag" / "<i>&amp;.png").write_bytes(b"")
    out = tmp_path / "out"
    recipe = {**PLAIN, "balance": "max", "per_class": {"coat": {"strength": 0.5}}}
    expand(recipe, splits, out)
    before = tree(out)
    page, looks = write_report(out, workers=2)
    assert page == out / "report.html"
    assert {name: data for name, data in tree(out).items() if name in before} == before
    assert tree(out).keys() - before.keys() == {"report.html", "similar.jsonl"}
    made = Page(page.read_text(encoding="utf-8"))
    assert made.sources and all(each.startswith("data:image/") for each in made.sources)
    told = describe(out)
    bag, coat = told.classes
    assert (bag.name, bag.before, coat.before, coat.after) == ("bag", 6, 5, 6)
    assert bag.after == sum(row["label"] == "bag" for row in rows(out)) < 6  # two are skipped
    for words in ("bag 6", "coat 5 6", "coat: strength 0.5", "encode png", "1 warp: rotate#0"):
        assert words in made.words, words
    assert "<i>&amp;.png" in made.words and "empty file" in made.words
    assert (looks.images, looks.copies) == (9 + 5, len(rows(out)))
    stories = {story.name: story for story in told.stories}
    assert {name.split("/")[1] for name in stories} == {"bag", "coat"}
    assert verify(out).findings == ()
    again = expand(recipe, splits, out)
    assert again.written == 0 and tree(out).keys() - before.keys()
    assert verify(out).findings == ()


def test_near_duplicates_across_splits_and_classes_are_said(splits: Path, tmp_path: Path) -> None:
    expand(PLAIN, splits, tmp_path / "out")
    page, looks = write_report(tmp_path / "out")
    (group,) = looks.groups
    names = {each.name for each in group.sources}
    assert names == {"train/bag/bag_00.png", "train/coat/larger.png", "val/bag/again.png"}
    assert (group.classes, group.kinds) == (("bag", "coat"), ("train", "validation"))
    (line,) = (tmp_path / "out" / "similar.jsonl").read_text().splitlines()
    assert {each["source"] for each in json.loads(line)["alike"]} == names
    assert "1 of them span splits" in Page(page.read_text()).words
    assert "1 span classes, 1 span splits, which is leakage" in str(looks)


def test_copies_that_hardly_differ_are_said(splits: Path, tmp_path: Path) -> None:
    some = {"version": 1, "sample": [{"rotate": {"degrees": [90, 90], "p": 0.5}}]}
    out = tmp_path / "out"
    expand(some, splits, out, copies=3)
    _, looks = write_report(out)
    still = {row["output"] for row in rows(out) if "rotate#0" not in row["parameters"]}
    assert {each.output for each in looks.idle} == still and 0 < len(still) < looks.copies == 27
    assert f"{len(still)} of 27 copies hardly differ" in str(looks)


@pytest.mark.parametrize("to", ["coco", "yolo", "voc", "masks", "webdataset", "parquet", "csv"])
def test_no_format_takes_a_report_for_a_part_of_the_dataset(tmp_path: Path, to: str) -> None:
    out = tmp_path / "out"
    expand(SMALL, SAMPLES, out, copies=2, to=to)
    page, _ = write_report(out)
    text = page.read_text()
    assert Page(text).words.count("copy 1") >= 3
    assert len(open_dataset(out)) == 8
    assert verify(out).findings == ()
    told = describe(out)
    assert sum(each.after for each in told.objects) == sum(
        len(row["record"].get("annotations", ())) for row in rows(out)
    )
    children = {(each.source or {})["name"]: [] for each in open_dataset(out)}
    for child in open_dataset(out):
        children[(child.source or {})["name"]].append(child)
    boxes = 0
    for story in told.stories:
        for picture, child in zip(story.variants[1:], children[story.name], strict=True):
            assert np.array_equal(picture.image, decode(child.content.read()))
            assert picture.marks is not None
            want = [each.box for each in child.annotations if each.box]
            assert np.allclose(picture.marks.boxes, np.array(want).reshape(-1, 4), atol=1e-3)
            boxes += len(want)
    assert boxes > 5 or to == "masks"


def test_a_report_of_batches_and_of_nothing_to_time(tmp_path: Path) -> None:
    mixing = {"version": 1, "batch": [{"mixup": {"alpha": 1.0}}]}
    expand(mixing, GARMENTS, tmp_path / "out", batch_size=60)
    told = describe(tmp_path / "out")
    assert any(name.startswith("batch 1") and "mixup" in name for name, _ in told.times)
    notes = {note for story in told.stories for note in story.variants[1].notes}
    assert any(re.fullmatch(r"\w+ 0\.\d\d", note) for note in notes)
    with pytest.raises(UsageError, match="not an expansion"):
        write_report(tmp_path)
    shutil.move(tmp_path / "out", tmp_path / "moved")
    job = tmp_path / "moved" / "job.json"
    job.write_text(job.read_text().replace(str(GARMENTS), str(tmp_path / "gone")))
    with pytest.raises(UsageError, match="the images are not there any more"):
        write_report(tmp_path / "moved")
