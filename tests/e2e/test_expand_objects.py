"""What is left of objects in an expansion, and what is said of it: by hand and by the pipeline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from augpipe.data.annotated import AnnotatedImage, Annotation
from augpipe.data.decode import decode
from augpipe.data.formats import open_dataset
from augpipe.expansion import expand
from augpipe.pipeline import load
from tests.e2e.expansion import tree
from tests.formats.conftest import write
from tests.formats.scenes import META, picture, scene

HEIGHT, WIDTH = 40, 60
CROP: dict[str, Any] = {"center_crop": 40}  # columns 10 to 50, and every row
BOXES = np.array(
    [
        [4.0, 4, 24, 24],  # 14 of 20 columns are seen
        [0, 4, 16, 24],  # 6 of 16: too small a share
        [20, 20, 27, 28],  # all of it: 56 pixels, too small an area
        [42, 10, 58, 30],  # half, which is just enough
        [30, 5, 38, 12.5],  # 60 pixels, which is just enough
        [0, 30, 9, 39],  # nothing
    ]
)
CORNERS = BOXES[:, [0, 1, 2, 1, 2, 3, 0, 3]]
ENOUGH = {"min_area": 60, "min_visibility": 0.5}


def written(folder: Path, *images: Sequence[Annotation]) -> Path:
    """A dataset of images with these objects, in COCO."""
    made = []
    for k, objects in enumerate(images):
        content = picture(folder / f"{k}.png", HEIGHT, WIDTH, k)
        image = AnnotatedImage(f"{k}.png", content, None, (HEIGHT, WIDTH), id=k + 1)
        made.append(replace(image, annotations=tuple(objects)))
    write("coco", folder / "in", META, made)
    return folder / "in"


@pytest.mark.parametrize("turned", [False, True], ids=["upright", "rotated"])
@pytest.mark.parametrize("before", [[], [{"rotate": [-30, 30]}]], ids=["crop", "turn and crop"])
def test_objects_of_which_too_little_is_seen_are_left_out(
    tmp_path: Path, turned: bool, before: list[Any]
) -> None:
    objects = [
        Annotation(3, oriented=tuple(CORNERS[k].tolist()), id=k + 1)
        if turned
        else Annotation(3, tuple(BOXES[k].tolist()), id=k + 1)
        for k in range(len(BOXES))
    ]
    source, recipe = written(tmp_path, objects), {"version": 1, "boxes": ENOUGH}
    recipe |= {"sample": [*before, CROP]}
    expand(recipe, source, tmp_path / "out", copies=6)
    pipe, pixels = load(recipe), decode((tmp_path / "0.png").read_bytes())
    given = {"oriented_boxes": CORNERS} if turned else {"boxes": BOXES}
    lost = 0
    for copy, child in enumerate(open_dataset(tmp_path / "out")):
        want = pipe({"image": pixels, "ids": np.arange(1, 7), **given}, index=0, epoch=copy)
        places = want["oriented_boxes" if turned else "boxes"].reshape(len(want["ids"]), -1)
        assert [each.source for each in child.annotations] == want["ids"].tolist()
        for each, place in zip(child.annotations, places, strict=True):
            assert (each.oriented if turned else each.box) == pytest.approx(place, abs=1e-4)
        if not before:
            assert want["ids"].tolist() == [1, 4, 5]
        lost += len(BOXES) - len(want["ids"])
    assert lost > 6


@pytest.mark.parametrize(
    "bend", [None, {"elastic": {"amplitude": [0.1, 0.2]}}], ids=["crop", "bend and crop"]
)
def test_keypoints_out_of_the_frame_have_no_place(tmp_path: Path, bend: Any) -> None:
    points = (20.0, 10.0, 2.0, 4.0, 12.0, 2.0, 55.0, 5.0, 1.0)
    objects = [Annotation(7, (0.0, 0.0, WIDTH, HEIGHT), keypoints=points, id=1)]
    source = written(tmp_path, objects)
    recipe = {"version": 1, "sample": [*filter(None, [bend]), CROP]}
    expand(recipe, source, tmp_path / "out", copies=8)
    pipe, pixels = load(recipe), decode((tmp_path / "0.png").read_bytes())
    hidden = 0
    for copy, child in enumerate(open_dataset(tmp_path / "out")):
        (each,) = child.annotations
        if bend is None:
            assert each.keypoints == (10.0, 10.0, 2.0, *[0.0] * 6)
        given = {"image": pixels, "keypoints": np.reshape(points, (3, 3))}
        want = pipe(given, index=0, epoch=copy)["keypoints"]
        want[want[:, 2] == 0] = 0.0
        assert each.keypoints == pytest.approx(want.ravel().tolist(), abs=1e-4)
        hidden += int((want[:, 2] == 0).sum())
    assert hidden > 8


@pytest.mark.parametrize("batch", [[], [{"mixup": {"p": 0}}]], ids=["sample", "batch"])
def test_an_area_that_is_not_its_shapes_stays_with_the_original(
    tmp_path: Path, batch: list[Any]
) -> None:
    objects = [Annotation(3, (15.0, 5.0, 45.0, 25.0), id=1, extra={"area": 9.0, "pose": "x"})]
    source = written(tmp_path, objects)
    recipe = {"version": 1, "sample": [{"horizontal_flip": {"p": 1}}], "batch": batch}
    expand(recipe, source, tmp_path / "out", keep_originals=True)
    (file,) = (tmp_path / "out" / "annotations").iterdir()
    found = json.loads(file.read_text())["annotations"]
    assert [(each["area"], each["pose"]) for each in found] == [(9.0, "x"), (600.0, "x")]


def test_a_mask_of_another_length_is_made_again(tmp_path: Path) -> None:
    dataset, out = scene(tmp_path), tmp_path / "out"
    write("coco", tmp_path / "in", dataset.meta, dataset)
    recipe = {"version": 1, "sample": ["rotate"]}
    expand(recipe, tmp_path / "in", out)
    whole = tree(out)
    (mask,) = (out / "masks").rglob("*.png")
    mask.write_bytes(mask.read_bytes()[:-1])
    assert expand(recipe, tmp_path / "in", out).written == 1
    assert tree(out) == whole


RULE = {"min_visibility": 0.3, "retries": 4}


@pytest.mark.parametrize("section", ["sample", "batch"])
def test_how_often_a_constraint_drew_again_is_told(tmp_path: Path, section: str) -> None:
    """Against pipes that may draw again less often: the first that holds says how often it took.

    The first image's box is all of it, of which a crop never has more than a quarter; the second's
    is held at times; the third has none. Both sections draw the same, a batch's before it mixes.
    """
    box = np.array([[10.0, 8.0, 34.0, 32.0]])
    objects = [[Annotation(3, (0.0, 0.0, WIDTH, HEIGHT))], [Annotation(3, tuple(box[0]))], []]
    source, recipe = written(tmp_path, *objects), {"version": 1, "sample": [{"random_crop": 20}]}
    pixels, tries = decode((tmp_path / "1.png").read_bytes()), []
    pipes = [load(recipe)]
    pipes += [load({**recipe, "constraint": {**RULE, "retries": n}}) for n in (1, 2, 3, 4)]
    for copy in range(12):
        ends = (pipe({"image": pixels, "boxes": box}, index=1, epoch=copy) for pipe in pipes)
        areas = ((end["boxes"][:, 2:] - end["boxes"][:, :2]).prod(axis=1).sum() for end in ends)
        tries.append(next((n for n, area in enumerate(areas) if area >= 0.3 * 24 * 24), 5))
    assert {0, 1, 2} <= set(tries)
    again, left = 12 + sum(n > 0 for n in tries), 12 + tries.count(5)
    times = 12 * 4 + sum(min(n, 4) for n in tries)
    want = (
        f"constraint: {again} images drawn again, {times} times in all; "
        f"in {left} a box still keeps less than 0.3"
    )
    bound: dict[str, Any] = {**recipe, "constraint": RULE}
    if section == "batch":
        bound |= {"sample": [], "batch": [*recipe["sample"], {"mixup": {"p": 0}}]}
    for _ in range(2):  # what is there already counts too
        told = expand(bound, source, tmp_path / "out", copies=12, keep_originals=True)
        assert told.notes == want and str(told).endswith(f"\n{want}")


def test_a_constraint_that_held_says_so(tmp_path: Path) -> None:
    source = written(tmp_path, [Annotation(3, (10.0, 10.0, 20.0, 20.0))])
    recipe = {"version": 1, "sample": ["horizontal_flip"]}
    assert expand(recipe, source, tmp_path / "free").notes == ""
    told = expand({**recipe, "constraint": RULE}, source, tmp_path / "bound", copies=3)
    assert told.notes == "constraint: min_visibility 0.3 held at once"
    once = {**recipe, "sample": [CROP], "constraint": {"min_visibility": 1, "retries": 1}}
    lost = written(tmp_path / "lost", [Annotation(3, (0.0, 0.0, 20.0, 20.0))])
    assert expand(once, lost, tmp_path / "once").notes == (
        "constraint: 1 image drawn again, 1 time in all; in 1 a box still keeps less than 1"
    )
