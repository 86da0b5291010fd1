"""Oriented boxes: how they are written, moved, cut and dropped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tv

import augpipe
from augpipe.errors import DataError
from augpipe.mixing import mix
from augpipe.polygons import areas, clipped
from augpipe.targets import finish, oriented_outline
from augpipe.types import Array
from tests.mixes import LAID, batch, colours, means, name

H, W = 90, 120
IMAGE = np.zeros((H, W, 3), np.uint8)
CENTRES = np.array([[60.0, 45, 40, 20, 30], [30, 30, 10, 24, -70], [80, 60, 16, 16, 45]])


def corners(rows: Array) -> Array:
    """The corners of centre, size and degrees, by torchvision."""
    boxes = tv_tensors.BoundingBoxes(torch.tensor(rows), format="CXCYWHR", canvas_size=(H, W))
    return tv.convert_bounding_box_format(boxes, new_format="XYXYXYXY").numpy().reshape(-1, 4, 2)


def moved(item: Any, boxes: Any, index: int = 0, **top: Any) -> Any:
    pipe = augpipe.load({"version": 1, "seed": 5, "sample": [item], **top})
    return pipe({"image": IMAGE, "oriented_boxes": boxes}, index=index)["oriented_boxes"]


def alike(one: Array, other: Array, within: float = 1e-6) -> bool:
    """Whether rectangles are the same, whichever corner comes first."""
    one, other = np.asarray(one), np.asarray(other)
    turns = [abs(one - np.roll(other, k, axis=1)).max(axis=(1, 2)) for k in range(4)]
    return bool((np.min(turns, axis=0) < within).all())


@pytest.mark.parametrize("form", ["CXCYWHR", "XYWHR", "XYXYXYXY"])
@pytest.mark.parametrize("item", [{"pad": 0}, {"horizontal_flip": {"p": 1}}, {"pad": [3, 4, 5, 6]}])
def test_layouts_are_torchvisions(form: str, item: Any) -> None:
    boxes = tv_tensors.BoundingBoxes(torch.tensor(CENTRES), format="CXCYWHR", canvas_size=(H, W))
    given = tv.convert_bounding_box_format(boxes, new_format=form)
    pipe = augpipe.load({"version": 1, "sample": [item]})
    _, out = pipe((torch.from_numpy(IMAGE).permute(2, 0, 1), given), index=0)
    want = tv.horizontal_flip(given) if "horizontal_flip" in item else given
    want = tv.pad(given, [3, 4, 5, 6]) if item == {"pad": [3, 4, 5, 6]} else want
    assert isinstance(out, tv_tensors.BoundingBoxes) and out.format.name == form
    assert tuple(out.canvas_size) == tuple(want.canvas_size)
    both = [
        tv.convert_bounding_box_format(each, new_format="XYXYXYXY").numpy().reshape(-1, 4, 2)
        for each in (out, want)
    ]
    assert alike(*both, within=1e-4)  # torchvision's angles are of float32
    if form == "XYXYXYXY":
        assert np.allclose(*both, atol=1e-4)  # the same corner comes first


def test_the_same_boxes_in_every_shape() -> None:
    item = {"rotate": {"degrees": [-20, 20]}}
    want = moved(item, corners(CENTRES))
    flat = moved(item, corners(CENTRES).reshape(-1, 8))
    assert np.allclose(flat.reshape(-1, 4, 2), want)
    assert np.allclose(corners(moved(item, CENTRES)), want, atol=1e-4)
    assert moved(item, np.zeros((0, 5))).shape[0] == 0
    rows = moved(item, corners(CENTRES).reshape(-1, 8).tolist())
    assert np.allclose(rows, flat) and isinstance(rows, list)


def test_a_turn_turns_the_corners() -> None:
    for degrees in (-170, -30, 12, 90):
        out = moved({"rotate": {"degrees": [degrees, degrees]}}, corners(CENTRES[:1]))
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        middle = np.array([W, H]) / 2
        want = (corners(CENTRES[:1]) - middle) @ np.array([[c, -s], [s, c]]) + middle
        assert np.allclose(out, want, atol=1e-4)  # the same corner comes first


def test_upright_ones_end_as_boxes_do() -> None:
    boxes = np.array([[10.0, 20, 60, 50], [70, 5, 118, 88], [100, 80, 119, 89]])
    square = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    for item in ({"random_crop": 40}, "transpose", {"rotate90": [1, 1]}, {"resize": [33, 90]}):
        for index in range(4):
            pipe = augpipe.load({"version": 1, "sample": [item]})
            plain = pipe({"image": IMAGE, "boxes": boxes}, index=index)["boxes"]
            got = moved(item, square, index, seed=0)
            assert np.allclose(got.min(axis=1), plain[:, :2]), item
            assert np.allclose(got.max(axis=1), plain[:, 2:]), item


def test_a_cut_keeps_the_sides() -> None:
    """The rectangle along the box's sides round what is seen of it, no larger."""
    cut = 0
    for index in range(20):
        pipe = augpipe.load({"version": 1, "sample": [{"random_crop": 40}]})
        offset = np.round(pipe({"image": ramp(), "mask": IMAGE[:, :, 0]}, index=index)["image"])
        left, top = offset[0, 0, 0], offset[0, 0, 1]
        out = pipe(
            {"image": IMAGE, "oriented_boxes": corners(CENTRES), "labels": [0, 1, 2]}, index=index
        )
        for box, label in zip(out["oriented_boxes"], out["labels"], strict=True):
            whole = corners(CENTRES)[label] - [left, top]
            frame = np.array([[1.0, 0, 0], [-1, 0, 40], [0, 1, 0], [0, -1, 40]])
            seen = clipped(whole[None], frame)[0]
            right = (whole[1] - whole[0]) / np.linalg.norm(whole[1] - whole[0])
            down = (whole[2] - whole[1]) / np.linalg.norm(whole[2] - whole[1])
            for axis in (right, down):
                ends, want = box @ axis, seen @ axis
                assert np.allclose([ends.min(), ends.max()], [want.min(), want.max()], atol=1e-6)
            side = box[1] - box[0]
            assert abs(abs(side @ right) - np.linalg.norm(side)) < 1e-6
            cut += not np.allclose(box, whole)
    assert cut > 5


def ramp() -> Array:
    """Where each pixel was: x in red, y in green."""
    y, x = np.mgrid[:H, :W].astype(np.uint8)
    return np.stack([x, y, x], axis=2)


def test_a_shear_ends_in_the_smallest_rectangle() -> None:
    """OpenCV's minAreaRect of the parallelogram."""
    for index in range(12):  # of which the first side is now the longer, now the shorter one
        box = corners(CENTRES[index % 2][None])
        item = {"shear": {"x": [-25, 25], "y": [-15, 15]}}
        pipe = augpipe.load({"version": 1, "seed": 5, "sample": [item]})
        points = pipe({"image": IMAGE, "keypoints": box - 0.5}, index=index)["keypoints"] + 0.5
        out = moved(item, box, index)
        want = cv2.boxPoints(cv2.minAreaRect(points[0].astype(np.float32)))
        assert abs(areas(out)[0] - areas(want[None].astype(float))[0]) < 0.05  # float32 there
        assert alike(out, want[None], 0.02) or alike(out, want[None, ::-1], 0.02)


def test_a_flow_is_followed() -> None:
    item = "grid_distortion"
    box = corners(CENTRES[:1])
    out = moved(item, box, 3)
    pipe = augpipe.load({"version": 1, "seed": 5, "sample": [item]})
    at = pipe({"image": IMAGE, "keypoints": box - 0.5}, index=3)["keypoints"] + 0.5
    middle = out.mean(axis=1)
    assert abs(middle - at.mean(axis=1)).max() < 2.0
    assert not np.allclose(out, box)


def test_the_batch_section_does_the_same() -> None:
    items = [{"horizontal_flip": {"p": 1}}, {"rotate": {"degrees": [-60, 60]}}, {"center_crop": 60}]
    one = augpipe.load({"version": 1, "seed": 2, "sample": items})
    many = augpipe.load({"version": 1, "seed": 2, "batch": items})
    images = torch.zeros((3, 3, H, W), dtype=torch.uint8)
    stacks = {
        "oriented_boxes": torch.tensor(np.stack([corners(CENTRES)] * 3)),
        "labels": torch.arange(9).reshape(3, 3),
    }
    for given in (stacks, {k: list(v) for k, v in stacks.items()}):
        _, out = many.batch(images, given, index=[4, 5, 6], epoch=0)
        for k, index in enumerate((4, 5, 6)):
            own = {"image": IMAGE, "oriented_boxes": corners(CENTRES)}
            want = one({**own, "labels": np.arange(3 * k, 3 * k + 3)}, index=index)
            assert np.allclose(out["oriented_boxes"][k], want["oriented_boxes"])
            assert out["labels"][k].tolist() == want["labels"].tolist()


def test_mixing_takes_them_along() -> None:
    pipe = augpipe.load({"version": 1, "classes": 3, "batch": [{"mixup": {"alpha": 1.0, "p": 1}}]})
    images = torch.zeros((2, 3, H, W), dtype=torch.uint8)
    boxes = [torch.tensor(corners(CENTRES[:1])), torch.tensor(corners(CENTRES[1:]))]
    _, out = pipe.batch(
        images,
        {"oriented_boxes": boxes, "labels": [torch.tensor([0]), torch.tensor([1, 2])]},
        index=[0, 1],
        epoch=0,
    )
    assert [len(each) for each in out["oriented_boxes"]] == [3, 3]
    assert alike(np.asarray(out["oriented_boxes"][0]), corners(CENTRES))
    assert out["box_weights"][0].shape == (3,)


def test_what_is_not_seen_is_dropped() -> None:
    outlines = oriented_outline(corners(np.array([[0.0, 45, 40, 20, 0], [-40, 45, 40, 20, 30]])))
    boxes, kept = finish(outlines, (H, W), 1.0, 0.0)
    assert kept.tolist() == [0] and boxes.shape == (1, 4, 2)
    assert np.allclose(boxes[0], [[0, 35], [20, 35], [20, 55], [0, 55]])
    assert finish(outlines, (H, W), 1.0, 0.51)[1].tolist() == []
    assert finish(outlines, (H, W), 1.0, 0.49)[1].tolist() == [0]


@pytest.mark.parametrize(
    ("boxes", "said"),
    [
        (np.zeros((2, 4)), "oriented boxes of shape (2, 4)"),
        (np.zeros((2, 3, 2)), "oriented boxes of shape (2, 3, 2)"),
        (np.full((1, 5), np.nan), "oriented_boxes[0]: coordinates must be finite"),
        (np.full((1, 8), np.inf), "oriented_boxes[0]: coordinates must be finite"),
        ([[1, 2, 3]], "oriented boxes of shape (1, 3)"),
        ([["a"] * 5], "expected rows of numbers"),
    ],
)
def test_what_is_none_is_refused(boxes: Any, said: str) -> None:
    with pytest.raises(DataError) as caught:
        moved({"pad": 0}, boxes)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "item",
    [{"albumentations.HorizontalFlip": {"p": 1}}, {"torchvision.RandomRotation": {"degrees": 30}}],
)
def test_libraries_that_know_upright_boxes_refuse_them(item: Any) -> None:
    with pytest.raises(DataError, match="knows upright boxes only"):
        moved(item, corners(CENTRES))


def test_libraries_that_move_nothing_let_them_pass() -> None:
    out = moved("albumentations.GaussNoise", corners(CENTRES))
    assert np.allclose(out, corners(CENTRES))


@pytest.mark.parametrize("op", LAID, ids=name)
def test_mixes_leave_of_them_what_they_leave_of_upright_ones(op: Any) -> None:
    """Upright rectangles written as oriented ones, under every mix: the same boxes and weights."""
    seen = 0
    for seed in range(4):
        meaning = means(op, range(5), seed=seed)
        plain = mix(meaning, batch(colours(5)))
        given = batch(colours(5))
        assert given.boxes is not None and plain.boxes is not None
        given.boxes = [
            replace(each, outlines=replace(each.outlines, oriented=True)) for each in given.boxes
        ]
        out = mix(meaning, given)
        assert out.boxes is not None
        for one, other in zip(plain.boxes, out.boxes, strict=True):
            want, rows = finish(one.outlines, out.images.shape[2:], 0.0, 0.0)
            got, same = finish(other.outlines, out.images.shape[2:], 0.0, 0.0)
            assert rows.tolist() == same.tolist() and np.array_equal(one.weight, other.weight)
            assert np.allclose(got.min(axis=1), want[:, :2])
            assert np.allclose(got.max(axis=1), want[:, 2:])
            seen += len(got)
    assert seen > 30


@pytest.mark.parametrize("row", [(5,), (8,), (4, 2)])
def test_none_of_them_keep_the_shape_they_came_in(row: tuple[int, ...]) -> None:
    """Also in a batch, where others may be mixed into an image that has none."""
    assert moved({"pad": 0}, np.zeros((0, *row))).shape == (0, *row)
    pipe = augpipe.load({"version": 1, "classes": 3, "batch": [{"mixup": {"alpha": 1.0, "p": 1}}]})
    given = CENTRES if row == (5,) else corners(CENTRES).reshape(-1, *row)
    for none in (torch.zeros(0), torch.zeros(0, *row)):
        boxes = [none, torch.tensor(given)]
        images = torch.zeros((2, 3, H, W), dtype=torch.uint8)
        _, out = pipe.batch(images, {"oriented_boxes": boxes}, index=[0, 1], epoch=0)
        assert [tuple(each.shape) for each in out["oriented_boxes"]] == [(3, *row)] * 2
