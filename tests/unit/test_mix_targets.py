"""Masks, boxes and keypoints under mixing: each holds what is seen in the image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from augpipe.ir import Mix
from augpipe.mixing import mix
from augpipe.ops import mix as ops
from augpipe.pipeline import load
from augpipe.rng import Trace
from augpipe.targets import Batch, Boxes, outline
from tests.mixes import (
    LAID,
    RECTANGLES,
    H,
    W,
    batch,
    colours,
    draws,
    hull,
    means,
    name,
    noise,
)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "int16", "uint16", "int64"])
def test_integer_masks_take_the_stronger_side(dtype: str) -> None:
    values = torch.tensor([0, 1]).view(2, 1, 1, 1).expand(2, 1, H, W).to(getattr(torch, dtype))
    for seed in range(6):
        meaning = means(ops.Mixup(alpha=1.0, mode="element"), [0, 1], seed=seed)
        out = mix(meaning, Batch(noise(2), masks={"m": values})).masks["m"]
        assert out.dtype == values.dtype
        strong = meaning.opacity[:, 0] > 0.5
        want = [1 - k if strong[k] else k for k in range(2)]
        assert [int(each.flatten()[0]) for each in out] == want


@pytest.mark.parametrize(("opacity", "taken"), [(0.5, 4), (np.nextafter(0.5, 1), 4), (0.501, 9)])
def test_a_class_stays_where_both_sides_are_as_strong(opacity: float, taken: int) -> None:
    """Opacities are compared in float32, as the pixels are mixed."""
    masks = {"m": torch.tensor([4, 9]).view(2, 1, 1, 1).expand(2, 1, H, W)}
    out = mix(rectangle((0, 0, W, H), opacity), Batch(noise(2), masks=masks)).masks["m"]
    assert (out[0] == taken).all() and (out[1] == 9).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_float_masks_are_averaged(dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, 3.0]).view(2, 1, 1, 1).expand(2, 1, H, W).to(dtype)
    meaning = means(ops.Mixup(alpha=1.0), [0, 1])
    out = mix(meaning, Batch(noise(2), masks={"m": values})).masks["m"]
    share = meaning.opacity[0, 0]
    assert out.dtype == dtype
    at = 1e-2 if dtype == torch.float16 else 1e-6
    assert abs(float(out[0, 0, 0, 0]) - (1 + 2 * share)) < at


def test_what_is_not_seen_of_a_mask_does_not_count() -> None:
    """NaN stands for unknown in depth maps."""
    values = torch.zeros(2, 1, H, W)
    values[1] = torch.nan
    meaning = means(ops.Cutmix(), [0, 1])
    out = mix(meaning, Batch(noise(2), masks={"m": values})).masks["m"]
    x0, y0, x1, y1 = meaning.box[0, 0].tolist()
    unknown = torch.zeros(H, W, dtype=torch.bool)
    unknown[y0:y1, x0:x1] = True
    assert torch.equal(out[0, 0].isnan(), unknown) and torch.equal(out[1, 0].isnan(), ~unknown)


def bounds(mask: Tensor) -> list[int]:
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    return [int(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)]


@pytest.mark.parametrize("op", LAID, ids=name)
def test_boxes_hold_their_masks(op: Any) -> None:
    """Every box is the hull of its instance mask; its weight is the share of it that is seen."""
    seen = 0
    for seed in range(12):
        meaning = means(op, range(5), seed=seed)
        out = mix(meaning, batch(colours(5)))
        assert out.boxes is not None
        for row, boxes in enumerate(out.boxes):
            hulls = hull(out, row)
            assert out.instances["objects"][row] == len(hulls)
            masks = out.masks["objects"][row]
            assert not masks[len(hulls) :].any()
            for mask, box, weight, (image, k) in zip(
                masks[: len(hulls)], hulls, boxes.weight, boxes.origin[:, :2], strict=True
            ):
                exact = isinstance(op, ops.Cutmix | ops.Fmix)
                if not mask.any():  # a sliver that holds no pixel's centre
                    assert not exact and min(box[2] - box[0], box[3] - box[1]) < 1.0
                    continue
                # Scaled masks are read at pixel centres: half a pixel at each side.
                assert abs(np.array(bounds(mask)) - box).max() <= (1e-6 if exact else 0.5 + 1e-6)
                x0, y0, x1, y1 = RECTANGLES[k]
                laid = meaning.opacity[row] > 0
                layer = np.flatnonzero(laid & (meaning.partner[row] == image))
                own = image == row and not len(layer)
                matrix = np.eye(3) if own else meaning.matrix[row, layer[0]]
                scale = 1.0 / matrix[1, 1]
                area = (x1 - x0) * (y1 - y0) * scale**2
                # Where it is scaled, the count may be half a pixel out at every side.
                slack = 0 if exact or own else (x1 - x0 + y1 - y0) * scale + 1
                assert abs(int(mask.sum()) - weight * area) <= slack + 1e-6
                seen += 1
    assert seen > 100


def test_mixup_keeps_all_boxes_with_their_shares() -> None:
    meaning = means(ops.Mixup(alpha=1.0, mode="element"), range(3))
    out = mix(meaning, batch(noise(3)))
    assert out.boxes is not None
    for row, boxes in enumerate(out.boxes):
        share = meaning.opacity[row, 0]
        assert np.allclose(boxes.weight, [1 - share, 1 - share, share, share])
        assert np.array_equal(hull(out, row), np.array(RECTANGLES * 2))
        assert boxes.origin[:, 0].tolist() == [row, row, *[meaning.partner[row, 0]] * 2]
        assert bool(out.masks["objects"][row].any(dim=(1, 2)).all())


def rectangle(box: Sequence[int], opacity: float = 1.0) -> Mix:
    """Two images, of which the first gets a rectangle of the second."""
    one = np.array([[opacity], [0.0]])
    return Mix(
        "cutmix#0",
        np.array([[1], [0]]),
        np.tile(np.eye(3), (2, 1, 1, 1)),
        np.tile(np.array(box), (2, 1, 1)),
        one,
    )


def test_a_covered_box_shrinks_where_one_side_is_gone() -> None:
    out = mix(rectangle((0, 0, 15, H)), batch(noise(2)))
    assert out.boxes is not None
    # Of the first box the right half is left; the second stays; of the partner's, the left half.
    assert np.allclose(hull(out, 0), [(15, 4, 25, 20), RECTANGLES[1], (5, 4, 15, 20)])
    assert np.allclose(out.boxes[0].weight, [0.5, 1.0, 0.5])
    corner = mix(rectangle((0, 0, 15, 10)), batch(noise(2)))
    assert corner.boxes is not None
    assert np.allclose(hull(corner, 0)[0], RECTANGLES[0])  # a corner is gone: the hull stays
    assert np.isclose(corner.boxes[0].weight[0], 1 - 10 * 6 / 320)


@pytest.mark.parametrize(("rules", "left"), [((0, 0.51), 1), ((0, 0.49), 3), ((161, 0), 1)])
def test_boxes_are_dropped_by_the_rules(rules: tuple[float, float], left: int) -> None:
    out = mix(rectangle((0, 0, 15, H)), batch(noise(2)), rules)
    assert out.boxes is not None
    assert len(out.boxes[0].weight) == left == out.instances["objects"][0]
    assert len(out.boxes[1].weight) == 2, "an image that nothing is done to keeps all"


def test_weights_multiply() -> None:
    first = mix(rectangle((0, 0, W, H), 0.25), batch(noise(2)))
    second = mix(rectangle((0, 0, W, H), 0.5), first)
    assert second.boxes is not None
    assert np.allclose(second.boxes[0].weight, [0.375, 0.375, 0.125, 0.125, 0.5, 0.5])


def test_weights_of_what_the_partner_got_before_multiply() -> None:
    """The partner holds boxes of both images already, thin ones: they come thinner still."""
    turned = replace(rectangle((0, 0, W, H), 0.25), opacity=np.array([[0.0], [0.25]]))
    first = mix(turned, batch(noise(2)))
    assert first.boxes is not None
    assert np.allclose(first.boxes[1].weight, [0.75, 0.75, 0.25, 0.25])
    second = mix(rectangle((0, 0, W, H), 0.5), first)
    assert second.boxes is not None
    assert np.allclose(second.boxes[0].weight, [0.5, 0.5, 0.375, 0.375, 0.125, 0.125])
    half = mix(rectangle((0, 0, 15, H)), first)  # of the boxes at x = 5 to 25 the left half
    assert half.boxes is not None
    assert np.allclose(half.boxes[0].weight, [0.5, 1.0, 0.5 * 0.75, 0.5 * 0.25])


def test_points_are_seen_where_their_image_is() -> None:
    out = mix(rectangle((0, 0, 20, H)), batch(noise(2)))
    assert out.points is not None
    marks = out.points[0]
    assert marks.origin.tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 1], [1, 1, 1]]
    assert marks.points.seen.tolist() == [False, True, True, False]
    assert np.allclose(marks.points.at[2], (15, 12))
    gone = mix(rectangle((0, 0, W, H)), batch(noise(2)))
    assert gone.points is not None
    assert gone.points[0].origin.tolist() == [[1, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize("op", [ops.Fmix(mode="element"), ops.CopyPaste(objects=1.0)], ids=name)
def test_points_under_regions(op: Any) -> None:
    for seed in range(6):
        out = mix(means(op, range(4), seed=seed), batch(colours(4)))
        assert out.points is not None
        for row, marks in enumerate(out.points):
            for (x, y), seen, (image, _) in zip(
                marks.points.at, marks.points.seen, marks.origin[:, :2], strict=True
            ):
                inside = 0 <= x < W and 0 <= y < H
                shown = inside and int(out.images[row, 0, int(y), int(x)]) == 30 * image
                assert seen == shown


def test_pasted_objects_hide_what_lies_under_them() -> None:
    given = batch(colours(2))
    out = mix(means(ops.CopyPaste(objects=1.0, flip=0.0), [0, 1]), given)
    assert out.boxes is not None
    # The partner's objects lie exactly over the image's own, of which nothing is left.
    assert out.boxes[0].origin.tolist() == [[1, 0, 1], [1, 1, 1]]
    assert out.instances["objects"].tolist() == [2, 2]
    assert torch.equal(out.masks["objects"], given.masks["objects"])
    drawn = (given.masks["objects"] != 0).any(dim=1, keepdim=True)
    want = torch.where(drawn, colours(2).flip(0), colours(2))
    assert torch.equal(out.images, want)


def test_a_pasted_box_holds_the_pixels_whose_centres_it_holds() -> None:
    table = np.array([[2.4, 3.6, 10.6, 9.4]])
    boxes = [Boxes.of(outline(table), i) for i in (0, 1)]
    given = replace(batch(colours(2), instances=False), boxes=boxes)
    out = mix(means(ops.CopyPaste(objects=1.0, flip=0.0), [0, 1]), given)
    want = torch.zeros(H, W, dtype=torch.bool)
    want[4:9, 2:11] = True
    assert torch.equal(out.images[0, 0] == 30, want)


def test_copy_paste_mirrors_and_scales() -> None:
    trace: Trace = {}
    op = ops.CopyPaste(objects=1.0, flip=1.0, scale=(0.5, 0.5))
    meaning = means(op, range(2), trace=trace)
    out = mix(meaning, batch(colours(2), instances=False))
    assert out.boxes is not None
    size = (W, H)
    start = np.rint(draws(op, range(2)).uniforms("place", 2) * 0.5 * size)
    for row in range(2):
        mine = out.boxes[row].origin[:, 0] == 1 - row
        table = np.array(RECTANGLES, float)
        table[:, [0, 2]] = W - table[:, [2, 0]]
        want = table / 2 + np.tile(start[row], 2)
        assert np.allclose(hull(out, row)[mine], want)


@pytest.mark.parametrize("op", [ops.CopyPaste(objects=0.5), ops.Mosaic(), ops.Cutmix()], ids=name)
def test_instances_without_boxes(op: Any) -> None:
    given = batch(colours(4), boxes=False)
    out = mix(means(op, range(4)), given)
    assert out.boxes is None
    for row in range(4):
        count = int(out.instances["objects"][row])
        assert not out.masks["objects"][row, count:].any()
    assert (out.instances["objects"] >= 2).all()


def test_masks_that_are_not_the_boxes_are_kept_beside_them() -> None:
    given = batch(colours(3))
    given.instances["objects"] = np.array([1, 2, 2])  # the first image has fewer
    out = mix(means(ops.CopyPaste(objects=1.0), range(3)), given)
    assert out.instances["objects"].tolist() == [1, 2, 2]
    out = mix(means(ops.Mosaic(), range(3)), given)
    assert out.instances["objects"].min() > 2


def test_keypoints_stay_with_their_box_when_an_object_comes_twice() -> None:
    """By one mix after another. Its keypoints are its corners: they and the box stay together."""
    batch: list[Any] = ["resizemix", {"mixup": {"alpha": 1.0}}]
    pipe = load({"version": 1, "batch": batch})
    boxes = [torch.tensor([RECTANGLES[k]], dtype=torch.float64) for k in (0, 1)]
    boxes.append(torch.zeros(0, 4, dtype=torch.float64))
    corners = [each.reshape(-1, 2, 2) - 0.5 for each in boxes]
    origin = [torch.arange(len(each)) + k for k, each in enumerate(boxes)]
    given = {"boxes": boxes, "keypoints": corners, "box_image": origin}
    twice = 0
    for epoch in range(20):
        _, out = pipe.batch(noise(3), given, index=[0, 1, 2], epoch=epoch)
        for found, marks, image in zip(
            out["boxes"], out["keypoints"], out["box_image"], strict=True
        ):
            around = np.asarray(marks).reshape(-1, 4) + 0.5
            own = np.asarray(found, np.float64)
            places = {tuple(each) for each in np.round(around, 6).tolist()}
            twice += len(places) > len(set(image.tolist()))
            # What is cut off a box is not cut off its corners' rectangle.
            assert (own[:, :2] >= around[:, :2] - 1e-6).all()
            assert (own[:, 2:] <= around[:, 2:] + 1e-6).all()
    assert twice > 5
