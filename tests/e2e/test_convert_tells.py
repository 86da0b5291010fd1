"""What conversion and expansion say of datasets that are not quite what they claim."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from augpipe.data.annotated import AnnotatedImage, Annotation
from augpipe.data.formats import open_dataset
from augpipe.errors import DataError, UsageError
from augpipe.expansion import convert, expand, verify
from augpipe.pipeline import load
from augpipe.targets import Sample, outline
from tests.formats.conftest import write
from tests.formats.scenes import META, picture
from tests.harness import SAMPLES

HEIGHT, WIDTH = 40, 60
PLAIN: dict[str, Any] = {"version": 1, "sample": ["horizontal_flip"]}


def dataset(folder: Path, count: int = 2, **changes: Any) -> list[AnnotatedImage]:
    made = []
    for k in range(count):
        content = picture(folder / f"{k}.png", HEIGHT, WIDTH, k)
        box = Annotation(3, (10.0, 10.0, 30.0, 30.0), id=k + 1)
        image = AnnotatedImage(f"{k}.png", content, None, (HEIGHT, WIDTH), id=k + 1)
        made.append(replace(image, annotations=(box,), **changes))
    return made


@pytest.mark.parametrize("to", ["yolo", "masks"])
def test_a_size_that_is_not_the_images_own_is_refused(tmp_path: Path, to: str) -> None:
    """Fractions of it would be of another size, as where COCO has that before EXIF turned it."""
    images = dataset(tmp_path)
    images[1] = replace(images[1], size=(WIDTH, HEIGHT))
    write("coco", tmp_path / "in", META, images)
    done = convert(tmp_path / "in", tmp_path / "out", to)
    assert (done.written, done.skipped) == (1, 1)
    assert "1.png: is 40 × 60, its annotations say 60 × 40" in str(done)


def test_coco_has_the_size_of_each_image(tmp_path: Path) -> None:
    shutil.copytree(SAMPLES / "garments" / "bag", tmp_path / "in" / "bag")
    (tmp_path / "in" / "bag" / "text.jpg").write_text("no image")
    done = convert(tmp_path / "in", tmp_path / "out", "coco")
    content = json.loads(next((tmp_path / "out" / "annotations").glob("*.json")).read_text())
    assert {(each["width"], each["height"]) for each in content["images"]} == {(28, 28)}
    assert done.skipped == 1
    count = len(content["images"])
    assert f"{count} classes of images, which augpipe alone reads there" in str(done)


def test_masks_that_a_format_has_no_place_for_are_told(tmp_path: Path) -> None:
    picture(tmp_path / "in/images/a.png", HEIGHT, WIDTH, 1)
    (tmp_path / "in/masks").mkdir()
    Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).save(tmp_path / "in/masks/a.png")
    for name, told in (("coco", True), ("yolo", True), ("voc", False), ("parquet", False)):
        words = str(convert(tmp_path / "in", tmp_path / name, name))
        assert ("1 mask of an image, which augpipe alone reads there: a.png" in words) == told
    words = str(expand(PLAIN, tmp_path / "in", tmp_path / "more", to="coco"))
    assert "1 mask of an image, which augpipe alone reads there" in words


def test_a_split_that_is_not_there_matters_where_it_is_asked_for(tmp_path: Path) -> None:
    write("yolo", tmp_path / "in", META, dataset(tmp_path, split="train"))
    config = tmp_path / "in" / "data.yaml"
    config.write_text(config.read_text() + "val: images/val\ntest: ../test/images\n")
    assert expand(PLAIN, tmp_path / "in", tmp_path / "a").written == 2
    assert convert(tmp_path / "in", tmp_path / "b", "coco", split="train").written == 2
    with pytest.raises(DataError, match=r"val: there is no .*images/val \(--split train takes"):
        convert(tmp_path / "in", tmp_path / "c", "coco")
    with pytest.raises(UsageError, match=r"val: there is no .*images/val"):
        convert(tmp_path / "in", tmp_path / "c", "coco", split="val")
    shutil.move(tmp_path / "in" / "images" / "train", tmp_path / "in" / "images" / "val")
    shutil.move(tmp_path / "in" / "labels" / "train", tmp_path / "in" / "labels" / "val")
    with pytest.raises(UsageError, match=r"train: there is no .*images/train"):
        expand(PLAIN, tmp_path / "in", tmp_path / "d")


def test_lines_of_four_corners_are_told_and_can_be_outlines(tmp_path: Path) -> None:
    write("yolo", tmp_path / "in", META, dataset(tmp_path))
    for path in sorted((tmp_path / "in" / "labels").rglob("*.txt")):
        path.write_text("0 0.3 0.3 0.5 0.4 0.45 0.5 0.25 0.4\n")
    (tmp_path / "in" / ".augpipe.jsonl").unlink(missing_ok=True)
    done = convert(tmp_path / "in", tmp_path / "a", "coco")
    assert "label lines of eight numbers are taken for rotated boxes: `task: segment`" in str(done)
    (turned,) = open_dataset(tmp_path / "a")[0].annotations
    assert turned.oriented is not None and not turned.polygons
    assert "taken for rotated boxes" in str(expand(PLAIN, tmp_path / "in", tmp_path / "b"))
    config = tmp_path / "in" / "data.yaml"
    config.write_text(config.read_text() + "task: segment\n")
    done = convert(tmp_path / "in", tmp_path / "c", "coco")
    assert "rotated" not in str(done)
    (drawn,) = open_dataset(tmp_path / "c")[0].annotations
    assert drawn.polygons == ((18.0, 12.0, 30.0, 16.0, 27.0, 20.0, 15.0, 16.0),)


def test_what_six_decimals_add_is_not_told(tmp_path: Path) -> None:
    images = dataset(tmp_path, 1)
    edge = Annotation(3, (33.333, 10.0, float(WIDTH), float(HEIGHT)), id=1)
    write("coco", tmp_path / "in", META, [replace(images[0], annotations=(edge,))])
    convert(tmp_path / "in", tmp_path / "yolo", "yolo")
    (tmp_path / "yolo" / ".augpipe.jsonl").unlink(missing_ok=True)
    assert "beyond" not in str(convert(tmp_path / "yolo", tmp_path / "voc", "voc"))
    out = replace(edge, box=(33.3, 10.0, WIDTH + 0.02, float(HEIGHT)))
    write("coco", tmp_path / "more", META, [replace(images[0], annotations=(out,))])
    assert "1 box that reaches beyond its image" in str(
        convert(tmp_path / "more", tmp_path / "voc2", "voc")
    )


def test_objects_of_no_image_are_left_out_and_told(tmp_path: Path) -> None:
    write("coco", tmp_path / "in", META, dataset(tmp_path))
    (path,) = (tmp_path / "in" / "annotations").glob("*.json")
    content = json.loads(path.read_text())
    one = content["annotations"][0]
    content["annotations"] = [{**one, "id": 77, "image_id": 99}, *content["annotations"]]
    content["annotations"].append({**one, "id": 78, "image_id": 98})
    path.write_text(json.dumps(content))
    done = convert(tmp_path / "in", tmp_path / "out", "voc")
    assert (done.written, done.skipped) == (2, 0)
    assert "left out 2 annotations of images that it lacks: 77 of image 99" in str(done)
    made = open_dataset(tmp_path / "out")
    assert [each.box for image in made for each in image.annotations] == [(10, 10, 30, 30)] * 2
    assert "left out 2 annotations" in str(expand(PLAIN, tmp_path / "in", tmp_path / "more"))


def test_an_expansion_of_which_nothing_came_is_not_fine(tmp_path: Path) -> None:
    (tmp_path / "in" / "bag").mkdir(parents=True)
    (tmp_path / "in" / "bag" / "a.png").write_bytes(b"nothing")
    assert expand(PLAIN, tmp_path / "in", tmp_path / "out").exit_code == 1
    assert verify(tmp_path / "out").exit_code == 1


def test_a_copy_does_not_name_the_file_of_its_source(tmp_path: Path) -> None:
    images = dataset(tmp_path, 1, extra={"path": "/home/me/0.png"})
    write("voc", tmp_path / "in", META, images)
    expand(PLAIN, tmp_path / "in", tmp_path / "out", keep_originals=True)
    paths = {each.name: each.extra.get("path") for each in open_dataset(tmp_path / "out")}
    assert paths == {"0.png": "/home/me/0.png", "0__0.png": None}


def test_a_mask_that_was_put_there_since_is_found(tmp_path: Path) -> None:
    write("voc", tmp_path / "in", META, dataset(tmp_path, 1, extra={"licence": "x"}))
    (tmp_path / "in" / "SegmentationClass").mkdir()
    Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).save(
        tmp_path / "in" / "SegmentationClass" / "0.png"
    )
    assert open_dataset(tmp_path / "in")[0].mask is not None


def test_words_that_are_ids_stay_apart_from_those_of_other_images(tmp_path: Path) -> None:
    images = [
        replace(each, id=name) for each, name in zip(dataset(tmp_path), ("a", "a__0"), strict=True)
    ]
    write("coco", tmp_path / "in", META, images)
    expand(PLAIN, tmp_path / "in", tmp_path / "out", keep_originals=True)
    ids = [each.id for each in open_dataset(tmp_path / "out")]
    assert len(set(ids)) == 4 and {"a", "a__0"} < set(ids)


def test_images_without_masks_are_left_out_of_batches_with_some(tmp_path: Path) -> None:
    write("voc", tmp_path / "in", META, dataset(tmp_path, 4))
    (tmp_path / "in" / "SegmentationClass").mkdir()
    for k in (0, 2, 3):
        Image.fromarray(np.ones((HEIGHT, WIDTH), np.uint8)).save(
            tmp_path / "in" / "SegmentationClass" / f"{k}.png"
        )
    recipe = {"version": 1, "batch": ["mixup"]}
    done = expand(recipe, tmp_path / "in", tmp_path / "out")
    assert (done.written, done.skipped) == (3, 1)
    (line,) = (tmp_path / "out" / "errors.jsonl").read_text().splitlines()
    assert json.loads(line)["source"] == "1.png"
    assert "has no mask, and others of its batch have one" in line
    assert verify(tmp_path / "out").findings == ()


def test_what_both_sections_drew_again_is_counted(tmp_path: Path) -> None:
    edge = Annotation(3, (0.0, 0.0, 14.0, 14.0))
    images = [replace(each, annotations=(edge,)) for each in dataset(tmp_path, 4)]
    write("coco", tmp_path / "in", META, images)
    recipe = {
        "version": 1, "seed": 5, "constraint": {"min_visibility": 0.9, "retries": 30},
        "sample": [{"random_crop": [30, 45]}],
        "batch": [{"translate": {"x": [-0.3, 0.3]}}, "mixup"],
    }  # fmt: skip
    done = expand(recipe, tmp_path / "in", tmp_path / "out", copies=3)
    pipe = load(recipe)
    first = 0
    for index in range(4):
        for copy in range(3):
            trace: dict[str, Any] = {}
            pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            sample = Sample(pixels, boxes=[outline(np.array([edge.box]))])
            pipe.run([sample], np.array([index]), copy, trace)
            first += int(trace["constraint"]["retries"][0])
    (words,) = [line for line in str(done).splitlines() if line.startswith("constraint: ")]
    total = int(words.split(", ")[1].split(" ")[0])
    assert first > 0 and total > first, words


@pytest.mark.parametrize("kind", [str, int])
def test_what_the_frame_cuts_is_truncated(tmp_path: Path, kind: type) -> None:
    """As VOC's own says it, in words, and as other files do, in numbers."""
    objects = tuple(
        Annotation(3, box, id=k + 1, extra={"truncated": kind(0)})
        for k, box in enumerate([(4.0, 4.0, 20.0, 20.0), (40.0, 4.0, 58.0, 20.0)])
    )
    images = [replace(each, annotations=objects) for each in dataset(tmp_path, 1)]
    write("coco" if kind is int else "voc", tmp_path / "in", META, images)
    recipe = {"version": 1, "sample": [{"center_crop": [40, 50]}]}  # of 60 columns, 5 to 55
    expand(recipe, tmp_path / "in", tmp_path / "out", keep_originals=True)
    first, second = open_dataset(tmp_path / "out")
    assert [each.extra["truncated"] for each in first.annotations] == [kind(0), kind(0)]
    assert [each.extra["truncated"] for each in second.annotations] == [kind(1), kind(1)]
    recipe = {"version": 1, "sample": [{"center_crop": [40, 58]}]}  # 1 to 59
    expand(recipe, tmp_path / "in", tmp_path / "more")
    (third,) = open_dataset(tmp_path / "more")
    assert [each.extra["truncated"] for each in third.annotations] == [kind(0), kind(0)]
