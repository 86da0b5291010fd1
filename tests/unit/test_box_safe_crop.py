"""`box_safe_crop`: the boxes decide what may be cut away."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import augpipe
from augpipe.kinds import unpack
from augpipe.rng import Trace
from tests.harness import photo

H, W = 96, 128
IMAGE = photo(height=H, width=W)
BOXES = np.array([[20.0, 30, 60, 70], [50, 10, 110.5, 50]])
MANY = 400


def drawn(boxes: Any, before: Any = (), **fields: Any) -> np.ndarray:
    """(MANY, 4): the rectangles that are cut out."""
    pipe = augpipe.load(
        {"version": 1, "sample": [*before, {"box_safe_crop": {"size": 32, **fields}}]}
    )
    trace: Trace = {}
    sample = unpack({"image": IMAGE, "boxes": np.asarray(boxes).reshape(-1, 4)}).sample
    pipe.run([sample] * MANY, np.arange(MANY), 0, trace)
    return trace["box_safe_crop#0"]["box"]


def test_every_box_stays_whole_and_edges_are_uniform() -> None:
    """Each edge is a whole pixel, uniform from the image's edge to the hull of all boxes."""
    box = drawn(BOXES)
    hull = np.array([20, 10, 111, 70])
    ends = [(0, hull[0]), (0, hull[1]), (hull[2], W), (hull[3], H)]
    for edge, (low, high) in zip(box.T, ends, strict=True):
        assert (edge == np.floor(edge)).all() and edge.min() == low and edge.max() == high
        counts = np.bincount((edge - low).astype(int), minlength=high - low + 1)
        assert stats.chisquare(counts).pvalue > 1e-4


def test_no_edge_tells_of_another() -> None:
    """Quarters of any two edges' ranges are met together as often as chance has it: 25 each."""
    box = drawn(BOXES)
    quarters = [np.digitize(edge, np.quantile(edge, [0.25, 0.5, 0.75])) for edge in box.T]
    for one, other in itertools.combinations(quarters, 2):
        counts = np.zeros((4, 4))
        np.add.at(counts, (one, other), 1)
        assert stats.chi2_contingency(counts).pvalue > 1e-4


def test_boxes_that_were_turned_before() -> None:
    """What counts is where the boxes are then: all of what is seen of them is kept."""
    items = [{"rotate": {"degrees": [-40, 40]}}, {"box_safe_crop": 32}]
    for fuse in (True, False):
        safe = augpipe.load({"version": 1, "fuse": fuse, "sample": items})
        free = augpipe.load({"version": 1, "fuse": fuse, "sample": items[:1]})
        for index in range(30):
            given = {"image": IMAGE, "boxes": BOXES}
            trace: Trace = {}
            safe.run([unpack(given).sample], np.array([index]), 0, trace)
            x0, y0, x1, y1 = trace["box_safe_crop#0"]["box"][0]
            before = free(given, index=index)["boxes"]
            after = safe(given, index=index)["boxes"]
            scale = np.array([32 / (x1 - x0), 32 / (y1 - y0)] * 2)
            assert np.allclose(after, (before - [x0, y0, x0, y0]) * scale, atol=1e-6)


def test_erosion_lets_so_much_be_cut() -> None:
    box = drawn(BOXES[:1], erosion=0.5)
    assert (box[:, :2] <= [30, 40]).all() and (box[:, 2:] >= [50, 60]).all()
    assert (box[:, :2].max(axis=0) > [26, 36]).all() and (box[:, 2:].min(axis=0) < [54, 64]).all()
    box = drawn(BOXES[:1], erosion=1.0)  # the centre, a pixel of it at least
    assert (box[:, 0] <= 40).all() and (box[:, 2] >= 41).all()


@pytest.mark.parametrize("boxes", [[], [[-30.0, 5, -2, 20]], [[200.0, 5, 220, 20]]])
def test_without_boxes_a_pixel_is_kept(boxes: Any) -> None:
    box = drawn(boxes)
    assert (box[:, 2:] > box[:, :2]).all()
    assert (box[:, :2] >= 0).all() and (box[:, 2:] <= [W, H]).all()
    assert len(np.unique(box, axis=0)) > MANY * 0.9


def test_boxes_beyond_the_edge_count_as_far_as_they_are_seen() -> None:
    box = drawn([[-30.0, -30, 10, 10], [120, 90, 300, 300]])
    assert (box == [0, 0, W, H]).all()


def test_both_sections_and_every_row_alone() -> None:
    items = [{"rotate": {"degrees": [-30, 30]}}, {"box_safe_crop": 32}]
    one = augpipe.load({"version": 1, "sample": items})
    many = augpipe.load({"version": 1, "batch": items})
    images = torch.from_numpy(np.stack([IMAGE] * 5)).permute(0, 3, 1, 2)
    sets = [BOXES[: k % 3] for k in range(5)]
    targets = {"boxes": [torch.tensor(each) for each in sets]}
    out, moved = many.batch(images, targets, index=range(5), epoch=0)
    together = one.apply([{"image": IMAGE, "boxes": each} for each in sets], range(5))
    for k, boxes in enumerate(sets):
        alone = one({"image": IMAGE, "boxes": boxes}, index=k)
        assert np.array_equal(alone["image"], together[k]["image"])
        assert np.allclose(moved["boxes"][k], alone["boxes"], atol=1e-6)
        difference = abs(out[k].permute(1, 2, 0).numpy().astype(int) - alone["image"].astype(int))
        assert difference.max() <= 2 and difference.mean() < 0.5  # rounding; cv2's 11 bits


def test_oriented_boxes_are_kept_too() -> None:
    corners = np.array([[[30.0, 40], [60, 20], [70, 35], [40, 55]]])
    pipe = augpipe.load(
        {"version": 1, "boxes": {"min_visibility": 1.0}, "sample": [{"box_safe_crop": 32}]}
    )
    for index in range(20):
        out = pipe({"image": IMAGE, "oriented_boxes": corners}, index=index)
        assert len(out["oriented_boxes"]) == 1
