"""COCO json, against pycocotools and torchvision."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools.coco import COCO
from torchvision.datasets import CocoDetection

from augpipe.data import coco
from augpipe.data.annotated import Dataset
from augpipe.data.rle import decode_rle
from augpipe.data.shapes import Notes
from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.expansion import convert
from tests.formats.conftest import write
from tests.formats.scenes import by_name, picture


def opened(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_pycocotools_reads_what_is_written(made: Dataset, tmp_path: Path) -> None:
    write("coco", tmp_path / "out", made.meta, made)
    known = opened(tmp_path / "out" / "annotations" / "instances_train.json")
    assert {each["name"]: each["id"] for each in known.loadCats(known.getCatIds())} == {
        "cat": 3,
        "person": 7,
        "traffic light": 12,
    }
    assert known.loadCats(7)[0]["skeleton"] == [[1, 2], [1, 3]]
    image = made[0]
    assert image.size is not None
    for each in image.annotations:
        (found,) = known.loadAnns([each.id])
        if each.box is not None:
            x0, y0, x1, y1 = each.box
            assert found["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        if each.rle is not None:
            assert np.array_equal(known.annToMask(found), decode_rle(each.rle, ""))
            assert found["area"] == decode_rle(each.rle, "").sum()
        elif each.polygons:
            assert found["num_keypoints"] == 2
            # pycocotools' own area is that of pixels.
            assert abs(known.annToMask(found).sum() - found["area"]) < 25
    assert known.loadAnns([101])[0]["tags"] == ["a", "é"]
    assert known.loadImgs([5])[0]["license"] == 1


def test_torchvision_reads_what_is_written(made: Dataset, tmp_path: Path) -> None:
    write("coco", tmp_path / "out", made.meta, made)
    with contextlib.redirect_stdout(io.StringIO()):
        found = CocoDetection(
            str(tmp_path / "out" / "images" / "val"),
            str(tmp_path / "out" / "annotations" / "instances_val.json"),
        )
    (pair,) = found
    assert pair[0].size == (20, 22)
    assert [each["category_id"] for each in pair[1]] == [3, 7, 12, 3, 12, 3]


def test_splits_are_files_and_ids_stay(made: Dataset, tmp_path: Path) -> None:
    write("coco", tmp_path / "out", made.meta, made)
    names = sorted(path.name for path in (tmp_path / "out" / "annotations").iterdir())
    assert names == ["instances_train.json", "instances_val.json"]
    val = json.loads((tmp_path / "out" / "annotations" / "instances_val.json").read_text())
    assert [each["id"] for each in val["images"]] == [8]
    assert {each["image_id"] for each in val["annotations"]} == {8}
    assert val["info"] == {"year": 2024}


def simple(tmp_path: Path, **changes: Any) -> Path:
    """Writes a file with one image and one object, changed."""
    picture(tmp_path / "a.png", 10, 12, 0)
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}
    content: dict[str, Any] = {
        "images": [{"id": 1, "file_name": "a.png", "width": 12, "height": 10}],
        "annotations": [{**box, **changes.pop("object", {})}],
        "categories": [{"id": 1, "name": "cat"}],
    }
    content["images"][0] |= changes.pop("image", {})
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**content, **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"object": {"category_id": 9}}, r"a\.png: annotation 1: unknown category id 9"),
        ({"object": {"category_id": True}}, "unknown category id True"),
        ({"object": {"bbox": [1, 2, 3]}}, "annotation 1: bbox has 3 numbers"),
        ({"object": {"bbox": [1, 2, float("nan"), 4]}}, "annotation 1: bbox must be finite"),
        ({"object": {"bbox": [1, 2, 1e400, 4]}}, "bbox must be finite, not inf"),
        ({"object": {"bbox": [1, 2, "3", 4]}}, "bbox must be a number, not '3'"),
        ({"object": {"bbox": [5, 2, -3, 4]}}, "negative size: x 5 to 2"),
        ({"object": {"segmentation": [[1, 2, 3, 4]]}}, "a polygon needs three points"),
        ({"object": {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}}, "a polygon has 7 numbers"),
        ({"object": {"segmentation": {"size": [1]}}}, "a run-length mask needs size"),
        ({"object": {"keypoints": [1, 2]}}, "keypoints has 2 numbers"),
        ({"image": {"width": 0}}, "an image of 10 x 0 pixels"),
    ],
)
def test_a_bad_object_is_its_images_error(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    dataset = coco.read(simple(tmp_path, **changes))
    with pytest.raises(DataError, match=words):
        dataset[0]


BOX = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}
IMAGE = {"id": 1, "file_name": "a.png"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": [IMAGE, IMAGE]}, "two images have the id 1"),
        ({"annotations": [{**BOX, "id": 4}] * 2}, "two annotations have the id 4"),
        ({"annotations": [{"id": 1}]}, "an annotation without image_id at byte"),
        ({"categories": [{"id": 1, "name": "a"}] * 2}, "two categories have the same id"),
        ({"categories": [{"id": 1}]}, "a category needs id and name"),
        ({"categories": [{"id": "1", "name": "a"}]}, "category 'a': its id must be a whole"),
        ({"categories": {"1": "a"}}, "categories must be a list"),
        ({"images": []}, "has no images"),
        ({"image": {"id": [1]}}, r"an id is a whole number or text, not \[1\]"),
        ({"image": {"file_name": "../a.png"}}, r"leads out of the dataset by '\.\.'"),
        ({"image": {"file_name": "/etc/a.png"}}, "'/etc/a.png' is absolute"),
        ({"image": {"file_name": "C:/a.png"}}, "is absolute"),
        ({"image": {"file_name": "a\\..\\b.png"}}, "is not usable as a file name"),
        ({"image": {"file_name": "a\0.png"}}, "is not usable as a file name"),
        ({"image": {"file_name": "a\ud800.png"}}, "is not UTF-8"),
        ({"image": {"file_name": 3}}, "a file name must be text, not int"),
        ({"image": {"split": "../up"}}, r"leads out of the dataset by '\.\.'"),
        ({"image": {"file_name": "missing.png"}}, r"its images were not found: no 'missing\.png'"),
    ],
)
def test_a_bad_file_is_told(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        coco.read(simple(tmp_path, **changes))


def test_a_missing_image_is_its_own_error(tmp_path: Path) -> None:
    images = [IMAGE, {"id": 2, "file_name": "b\n.png"}]
    dataset = coco.read(simple(tmp_path, images=images))
    assert dataset[0].name == "a.png"
    with pytest.raises(DataError, match=r"the image 'b\\n\.png' is missing"):
        dataset[1]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text[: len(text) // 2], "truncated JSON: it ends"),
        (lambda text: text[:-1], "truncated JSON: it ends"),
        (lambda text: text.replace('"bbox"', "bbox"), "not JSON at byte"),
        (lambda text: text + "{}", "text behind the object"),
        (lambda text: '{"images": []}' + text, "text behind the object"),
        (lambda text: text.replace('"categories"', '"images"'), "a second 'images'"),
        (lambda text: text.replace('"cat"', "[" * 100_000), "nested too deeply"),
    ],
)
def test_broken_json_is_told(tmp_path: Path, spoil: Callable[[str], str], words: str) -> None:
    path = simple(tmp_path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(DataError, match=words):
        coco.read(path)


def test_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    path = simple(tmp_path, image={"file_name": "caf\xe9.png"})
    path.write_bytes(path.read_bytes().replace(b"\\u00e9", b"\xe9"))
    with pytest.raises(DataError, match="is not UTF-8"):
        coco.read(path)


def test_names_in_any_spelling(tmp_path: Path) -> None:
    name = "猫 é\n🐈.png"
    picture(tmp_path / name, 10, 12, 0)
    for escaped in (True, False):
        path = simple(tmp_path, image={"file_name": name})
        path.write_text(json.dumps(json.loads(path.read_text()), ensure_ascii=escaped))
        assert coco.read(path)[0].name == name


def test_pieces_of_any_size_give_the_same(
    made: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("coco", tmp_path / "out", made.meta, made)
    whole = by_name(coco.read(tmp_path / "out"))
    for size in (1, 7, 64):
        monkeypatch.setattr("augpipe.data.jsonscan._PIECE", size)
        assert by_name(coco.read(tmp_path / "out")) == whole


def test_what_files_say_differently_stays_so(made: Dataset, tmp_path: Path) -> None:
    write("coco", tmp_path / "a", made.meta, made)
    path = tmp_path / "a" / "annotations" / "instances_val.json"
    path.write_text(path.read_text().replace("2024", "2017"))
    convert(tmp_path / "a", tmp_path / "b", "yolo")
    convert(tmp_path / "b", tmp_path / "c", "coco")
    for name in ("instances_train.json", "instances_val.json"):
        before, after = (
            json.loads((tmp_path / root / "annotations" / name).read_text()) for root in "ac"
        )
        assert after == before


def test_two_files_of_one_split_ask_which(made: Dataset, tmp_path: Path) -> None:
    write("coco", tmp_path / "out", made.meta, made)
    folder = tmp_path / "out" / "annotations"
    (folder / "more_train.json").write_bytes((folder / "instances_train.json").read_bytes())
    with pytest.raises(UsageError, match=r"instances_train.json and more_train.json are both"):
        coco.read(tmp_path / "out")


def test_the_usual_places_of_images(tmp_path: Path) -> None:
    layouts: tuple[tuple[str, str], ...] = (
        ("annotations/instances_train2017.json", "train2017/a.png"),
        ("annotations/x.json", "images/a.png"),
        ("train/_annotations.coco.json", "train/a.png"),
        ("x.json", "photos/a.png"),
    )
    for k, (file, image) in enumerate(layouts):
        root = tmp_path / str(k)
        picture(root / image, 10, 12, 0)
        (root / file).parent.mkdir(exist_ok=True)
        (tmp_path / "from").mkdir(exist_ok=True)
        (root / file).write_bytes(simple(tmp_path / "from").read_bytes())
        assert coco.read(root)[0].content.read() == (root / image).read_bytes()


def test_an_id_that_is_there_twice_is_not_written(made: Dataset, tmp_path: Path) -> None:
    twice: list[Any] = [made[0], made[0]]
    with pytest.raises(DataError, match="a second image has the id 5"):
        coco.write(tmp_path, made.meta, iter(twice), Notes())
    assert not list(tmp_path.rglob("*.json"))
    assert not list((tmp_path / "annotations").iterdir())


def test_what_json_cannot_hold_is_told(made: Dataset, tmp_path: Path) -> None:
    image = replace(made[0], extra={"x": float("nan")})
    with pytest.raises(AugpipeError, match="cannot hold"):
        coco.write(tmp_path, made.meta, iter([image]), Notes())
