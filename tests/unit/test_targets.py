"""Boxes and keypoints against the pixels, against torchvision, and at their edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.measure import find_contours
from torchvision.transforms.v2 import functional as tv
from torchvision.tv_tensors import BoundingBoxFormat

from augpipe.backends import opencv
from augpipe.errors import DataError
from augpipe.ir import Flow, Warp, basis
from augpipe.ops import catalogue
from augpipe.rng import Draws
from augpipe.targets import (
    Outlines,
    Points,
    finish,
    move_outlines,
    move_points,
    outline,
)
from augpipe.types import Frame, Sampling

H, W = 150, 200
FRAME = Frame(np.array([[H, W]], np.int64))
BOX = (52.3, 40.6, 128.7, 97.2)
EYE = np.eye(3)
CONSTANT = Sampling()


def shift(x, y):
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def scale(x, y):
    return np.diag([x, y, 1.0])


def turn(degrees, factor=1.0, size=(H, W)):
    a = np.deg2rad(degrees)
    linear = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    x, y = size[1] / 2, size[0] / 2
    return shift(x, y) @ linear @ scale(1 / factor, 1 / factor) @ shift(-x, -y)


def warp(matrix, size=None, source=(H, W), sampling=CONSTANT):
    frame = Frame(np.array([source], np.int64))
    size = None if size is None else np.array([size], np.int64)
    return Warp.of(np.asarray(matrix, float)[None], frame, size, sampling)


def crop(x0, y0, x1, y1, size, sampling=CONSTANT):
    matrix = shift(x0, y0) @ scale((x1 - x0) / size[1], (y1 - y0) / size[0])
    return Warp(
        matrix[None], FRAME.sizes, np.array([size]), np.array([[x0, y0, x1, y1]], float),
        np.zeros((1, 0, 3)), sampling,
    )  # fmt: skip


RAMP = 6.0


def drawn(box=BOX, size=(H, W)):
    """A white rectangle on black whose edges are straight ramps, half way at the edge.

    A ramp survives linear interpolation exactly, where a hard edge on a pixel grid moves the
    50 % level by up to 0.1 pixel.
    """

    def profile(length, low, high):
        at = np.arange(length) + 0.5
        return np.clip(np.minimum(at - low, high - at) / RAMP + 0.5, 0, 1)

    across, down = profile(size[1], box[0], box[2]), profile(size[0], box[1], box[3])
    return (255.0 * down[:, None] * across)[:, :, None].astype(np.float32)


def contour(image):
    """The 50 % level as (n, 2) continuous points; the frame's edge counts as an edge."""
    padded = np.pad(image[:, :, 0].astype(np.float64), 2)
    lines = find_contours(padded, 127.5)
    assert len(lines) == 1
    return lines[0][:, ::-1] - 1.5


def distance(points, polygon):
    """Distance of each point to the polygon's outline."""
    a, b = polygon, np.roll(polygon, -1, axis=0)
    along = b - a
    length = np.maximum((along**2).sum(1), 1e-12)
    t = np.clip(((points[:, None] - a) * along).sum(2) / length, 0, 1)
    return np.linalg.norm(points[:, None] - a - t[:, :, None] * along, axis=2).min(1)


def agree(meanings, box=BOX, within=0.1, sharp=None):
    """Carries pixels and box through the meanings and compares the outlines.

    Away from the corners, which any filter rounds, the 50 % level must lie on the polygon;
    at the corners it must come near. The polygon's hull is the box.
    """
    image, outlines = drawn(box), outline(np.array([box]))
    for meaning in meanings:
        image = opencv.render(meaning, 0, image)
        outlines = move_outlines(meaning, 0, outlines)
    polygon = outlines.seen[0]
    boxes, kept = finish(outlines, image.shape[:2], 0.0, 0.0)
    assert kept.tolist() == [0]
    edge = contour(image)
    corners = polygon if sharp is None else sharp(polygon)
    x, y = outlines.whole[0].T
    area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
    ramp = RAMP * max(np.sqrt(area / np.prod(np.subtract(box[2:], box[:2]))), 0.4)
    near = np.linalg.norm(edge[:, None] - corners, axis=2).min(1) < ramp
    assert (~near).sum() > 30
    assert distance(edge[~near], polygon).max() < within
    assert distance(corners, edge).max() < ramp / 2
    hull = np.concatenate([polygon.min(0), polygon.max(0)])
    np.testing.assert_allclose(boxes[0], hull, atol=1e-5)
    return boxes[0], edge


def extent(edge):
    return np.concatenate([edge.min(0), edge.max(0)])


@pytest.mark.parametrize(
    "meaning",
    [
        warp(EYE),
        warp(scale(W / 311, H / 97), (97, 311)),
        warp(scale(W / 67, H / 50), (50, 67)),  # shrinks by 3: through the box reduction
        warp([[-1, 0, W], [0, 1, 0], [0, 0, 1]]),
        warp([[1, 0, 0], [0, -1, H], [0, 0, 1]]),
        warp([[0, -1, W], [1, 0, 0], [0, 0, 1]], (W, H)),  # a quarter turn
        crop(31, 22, 171, 120, (98, 140)),
        crop(31, 22, 171, 120, (160, 222)),
        crop(80, 22, 171, 80, (117, 230)),  # cuts the rectangle
    ],
    ids=[
        "same",
        "resize",
        "shrink",
        "hflip",
        "vflip",
        "quarter",
        "crop",
        "crop-resize",
        "crop-cut",
    ],
)
def test_extent_of_the_pixels_is_the_box(meaning):
    box, edge = agree([meaning])
    np.testing.assert_allclose(extent(edge), box, atol=0.1)


PERSPECTIVE = np.array([[1.1, 0.12, -14.0], [-0.06, 0.95, 8.0], [0.0007, -0.0005, 1.0]])


@pytest.mark.parametrize(
    "meaning",
    [
        warp(turn(17)),
        warp(turn(-33, 1.4)),
        warp(turn(75, 0.6), sampling=Sampling(border="edge")),
        warp(shift(-40.3, 20.8)),
        warp(shift(90.4, 0.0)),  # part of it leaves
        warp(shift(W / 2, H / 2) @ [[1, 0.4, 0], [0.1, 1, 0], [0, 0, 1]] @ shift(-W / 2, -H / 2)),
        warp(PERSPECTIVE),
        warp(np.linalg.inv(PERSPECTIVE), (120, 180)),
    ],
    ids=[
        "rotate",
        "rotate-in",
        "rotate-out",
        "translate",
        "leaves",
        "shear",
        "perspective",
        "inverse",
    ],
)
def test_outline_of_the_pixels_is_the_polygon(meaning):
    agree([meaning])


MIRROR = warp([[-1, 0, W], [0, 1, 0], [0, 0, 1]])
CHAINS = {
    "crop, rotate": [crop(80, 30, 180, 90, (H, W)), warp(turn(20))],
    "rotate, crop": [warp(turn(35)), crop(70, 50, 150, 110, (120, 160))],
    "flip, crop, rotate": [MIRROR, crop(60, 45, 130, 80, (H, W)), warp(turn(-25, 0.7))],
    "rotate, back": [warp(turn(50, 1.6)), warp(turn(-50, 0.8))],
    "rotate, perspective": [warp(turn(40, 1.5)), warp(PERSPECTIVE)],
}


@pytest.mark.parametrize("name", CHAINS)
def test_fused_chain_cuts_what_the_image_loses(name):
    chain = CHAINS[name]
    fused = chain[0]
    for later in chain[1:]:
        fused = fused.then(later)
    box, _ = agree([fused])
    outlines = outline(np.array([BOX]))
    for meaning in chain:
        outlines = move_outlines(meaning, 0, outlines)
    eager, _ = finish(outlines, tuple(fused.size[0]), 0.0, 0.0)
    np.testing.assert_allclose(eager[0], box, atol=1e-6)


@pytest.mark.parametrize("index", range(3))
def test_ops_that_are_drawn(index):
    op, frame, means = catalogue(), FRAME, []
    chain = (
        op["horizontal_flip"](p=1.0),
        op["random_resized_crop"](size=[140, 180], scale=[0.6, 1.0]),
        op["rotate"](),
    )
    for k, each in enumerate(chain):
        meaning = each.means(Draws(5, np.array([index])).at(f"op#{k}"), frame)
        frame = Frame(meaning.size)
        means.append(meaning)
    agree(means[:1])
    agree(means[:2])
    agree([means[0].then(means[1]).then(means[2])])


def flows():
    rng = np.random.default_rng(3)
    spline, hat = rng.normal(0, 6, (1, 7, 9, 2)), rng.normal(0, 2, (1, 4, 5, 2))
    lens = np.zeros((1, 4, 4, 2))
    lens[0, 0, 3, 0] = lens[0, 2, 1, 0] = 14.0
    lens[0, 3, 0, 1] = lens[0, 1, 2, 1] = 11.0
    return [("spline", spline), ("hat", hat), ("polynomial", lens)]


BENT = Flow(flows()[0][1], "spline", FRAME.sizes, CONSTANT)


@pytest.mark.parametrize(("kind", "control"), flows())
@pytest.mark.parametrize("box", [BOX, (20.2, 30.4, 240.0, 190.0)], ids=["inside", "leaves"])
def test_flow_outline(kind, control, box):
    meaning = Flow(control, kind, FRAME.sizes, CONSTANT)
    corners = outline(np.array([box])).whole[0]

    def sharp(polygon):
        x, y = move_points(meaning, 0, Points.of(corners)).at.T
        return np.stack([np.clip(x, 0, W), np.clip(y, 0, H)], 1)

    if box == BOX:
        agree([meaning], box, 0.15, sharp)
        return
    outlines = move_outlines(meaning, 0, outline(np.array([box])))
    hull, _ = finish(outlines, (H, W), 0, 0)
    image = opencv.render(meaning, 0, drawn(box))
    np.testing.assert_allclose(extent(contour(image)), hull[0], atol=0.25)


@pytest.mark.parametrize(("kind", "control"), flows())
def test_flow_inverse_returns_where_it_came_from(kind, control):
    p = np.random.default_rng(0).uniform(30, [W - 30, H - 30], (50, 2))
    down = basis(kind, p[:, 1], control.shape[1], H)
    across = basis(kind, p[:, 0], control.shape[2], W)
    u = np.einsum("ni,ijc,nj->nc", down, control[0], across)
    meaning = Flow(control, kind, FRAME.sizes, CONSTANT)
    moved = move_points(meaning, 0, Points.of(p + u))
    np.testing.assert_allclose(moved.at, p, atol=0.005)
    assert moved.seen.all()


def test_a_lens_has_a_value_beyond_the_frame():
    kind, control = flows()[2]
    p = np.array([[-20.0, 30.0], [W + 20.0, 90.0], [90.0, H + 15.0]])
    down = basis(kind, p[:, 1], control.shape[1], H)
    across = basis(kind, p[:, 0], control.shape[2], W)
    u = np.einsum("ni,ijc,nj->nc", down, control[0], across)
    moved = move_points(
        Flow(control, kind, FRAME.sizes, CONSTANT),
        0,
        Points(p + u, p[:, 0] > 0, np.zeros(len(p), bool)),
    )
    np.testing.assert_allclose(moved.at, p, atol=0.01)
    assert not moved.seen.any()


STRONG = {
    "grid_distortion": [{"cells": 3, "limit": [-0.8, 0.8]}, {"cells": 12, "limit": [-0.9, 0.9]}],
    "elastic": [{"amplitude": [0.06, 0.06], "cells": 4}],
    "optical_distortion": [{"k1": [0.2, 0.2]}, {"k1": [-0.2, -0.2]}],
}


def strong(name, options, index):
    """One draw of a flow that is strong."""
    op = catalogue()[name](**options)
    return op.means(Draws(5, np.array([index])).at("x#0"), FRAME)


def read_at(meaning, p):
    """What p reads, p + u(p), for p within the frame, by `ir.basis`."""
    control, (height, width) = meaning.control[0], meaning.size[0]
    down = basis(meaning.basis, p[:, 1], control.shape[0], height)
    across = basis(meaning.basis, p[:, 0], control.shape[1], width)
    return p + np.einsum("ni,ijc,nj->nc", down, control, across, optimize=True)


def folds(meaning):
    """Whether the Jacobian determinant is 0 or less somewhere, by differences over 0.01 px."""
    x, y = np.meshgrid(np.linspace(0.1, W - 0.1, 60), np.linspace(0.1, H - 0.1, 45))
    p, step = np.stack([x.ravel(), y.ravel()], 1), 0.005
    by = [read_at(meaning, p + d) - read_at(meaning, p - d) for d in step * np.eye(2)]
    return bool((by[0][:, 0] * by[1][:, 1] - by[0][:, 1] * by[1][:, 0] <= 0).any())


# A hundredth of a pixel is a tenth of what the contract allows between a box and the pixels,
# and a hundred times what the solver stops at.
RESIDUAL = 1e-2


@pytest.mark.parametrize(
    ("name", "options"), [(name, each) for name, all_ in STRONG.items() for each in all_]
)
def test_strong_flows_are_inverted(name, options):
    folded = missed = 0
    for index in range(200):
        meaning = strong(name, options, index)
        p = np.random.default_rng(index).uniform(0, [W, H], (150, 2))
        p[:4, 0], p[4:8, 1] = 0.0, H  # on two edges
        goal = read_at(meaning, p)
        moved = move_points(meaning, 0, Points.of(goal))
        if folds(meaning):
            folded += 1
            near = ((moved.at > -0.1) & (moved.at < [W + 0.1, H + 0.1])).all(1)
            off = np.linalg.norm(read_at(meaning, moved.at) - goal, axis=1)
            home = ((goal >= 0) & (goal <= [W, H])).all(1)
            missed += int((home & ~(near & (off < RESIDUAL))).sum())
            assert (off[moved.seen] < RESIDUAL).all()
            continue
        assert np.linalg.norm(read_at(meaning, moved.at) - goal, axis=1).max() < RESIDUAL
        np.testing.assert_allclose(moved.at, p, atol=0.05)  # it is the only solution
        inner = ((goal >= 0) & (goal <= [W, H]) & (p > 0.1) & (p < [W - 0.1, H - 0.1])).all(1)
        assert moved.seen[inner].all()
    print(f"{name} {options}: {folded} of 200 draws fold; {missed} points in those not found")
    assert folded < 60 if name == "elastic" else folded == 0
    assert missed <= folded


@pytest.mark.parametrize("name", ["grid_distortion", "elastic"])
def test_a_box_through_a_strong_flow_holds_its_pixels(name):
    """By outlines for what bends; a grid keeps corners square, so there the hulls are alike."""
    options, tried = STRONG[name][0], 0
    corners = Points.of(outline(np.array([BOX])).whole[0])
    for index in range(24):
        meaning = strong(name, options, index)
        moved = move_outlines(meaning, 0, outline(np.array([BOX])))
        if folds(meaning) or moved.whole.min() < 2 or (moved.whole.max(1) > [W - 2, H - 2]).any():
            continue
        tried += 1
        if name == "elastic":
            sharp = move_points(meaning, 0, corners).at
            edge = contour(opencv.render(meaning, 0, drawn(BOX)))
            plain = np.linalg.norm(edge[:, None] - sharp, axis=2).min(1) > 2 * RAMP
            assert plain.sum() > 30
            assert distance(edge[plain], moved.seen[0]).max() < 0.3
            continue
        got, kept = finish(moved, (H, W), 0, 0)
        assert kept.tolist() == [0]
        image = opencv.render(meaning, 0, drawn(BOX))
        np.testing.assert_allclose(extent(contour(image)), got[0], atol=0.25)
    assert tried >= 8


def test_where_a_flow_folds_a_point_is_found_or_not_seen():
    """A stretch of the output reads the input backwards: three places for some points."""
    control = np.zeros((1, 2, 5, 2))
    control[0, :, 1, 0], control[0, :, 3, 0] = 80.0, -80.0
    meaning = Flow(control, "hat", FRAME.sizes, CONSTANT)
    assert folds(meaning)
    goal = np.stack([np.linspace(0, W, 41), np.full(41, 70.0)], 1)
    moved = move_points(meaning, 0, Points.of(goal))
    assert moved.seen.all()
    np.testing.assert_allclose(read_at(meaning, moved.at), goal, atol=RESIDUAL)


def test_a_point_that_a_flow_carries_out_of_the_frame_is_not_seen():
    """Output p reads p + (20, -15): a point moves by (-20, 15), and is seen from frame to frame."""
    control = np.broadcast_to([20.0, -15.0], (1, 2, 2, 2))
    at = np.array([[10.0, 50], [60, 140], [60, 50], [205, 50], [60, -5], [20.5, 134.5]])
    moved = move_points(Flow(control, "hat", FRAME.sizes, CONSTANT), 0, Points.of(at))
    np.testing.assert_allclose(moved.at, at + np.array([-20, 15]), atol=1e-3)
    assert moved.seen.tolist() == [False, False, True, False, False, True]


def test_flow_takes_empty_far_and_missing_points():
    at = np.array([[np.nan, 3.0], [1e7, -1e7], [60.0, 60.0], [60.0, 60.0]])
    moved = move_points(BENT, 0, Points.of(at))
    assert np.isnan(moved.at[0]).any() and np.isfinite(moved.at[1:]).all()
    assert moved.seen.tolist() == [False, False, True, True]
    np.testing.assert_array_equal(moved.at[2], moved.at[3])
    assert len(move_outlines(BENT, 0, outline(np.zeros((0, 4))))) == 0


def test_a_side_is_divided_where_the_flow_bends():
    """Against sides of 400 points: the hull is right to a tenth of a pixel."""
    boxes = boxes_of(60)
    boxes = boxes[(boxes > 0).all(1) & (boxes[:, 2:] < [W, H]).all(1)]
    t = np.arange(400)[:, None] / 400
    for index in range(10):
        meaning = strong("elastic", {}, index)
        moved = move_outlines(meaning, 0, outline(boxes)).whole
        corners = outline(boxes).whole
        fine = corners[:, :, None] * (1 - t) + np.roll(corners, -1, 1)[:, :, None] * t
        points = Points.of(fine.reshape(-1, 2))
        want = move_points(meaning, 0, points).at.reshape(len(boxes), -1, 2)
        np.testing.assert_allclose(moved.min(1), want.min(1), atol=0.1)
        np.testing.assert_allclose(moved.max(1), want.max(1), atol=0.1)


def boxes_of(count, seed=0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(-20, [W - 10, H - 10], (count, 2))
    return np.concatenate([low, low + rng.uniform(3, 90, (count, 2))], axis=1)


def hulls(meaning, boxes):
    moved = move_outlines(meaning, 0, outline(boxes))
    return finish(moved, tuple(meaning.size[0]), 0, 0)


def inside(boxes, margin=45):
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    size = (boxes[:, 2:] - boxes[:, :2]).max(1) / 2
    return (
        (middle.min(1) > size + margin)
        & (middle < [W, H]).all(1)
        & ((middle + size[:, None] + margin) < [W, H]).all(1)
    )


def test_torchvision_flip_resize_and_crop():
    boxes = boxes_of(40)
    form = {"format": BoundingBoxFormat.XYXY, "canvas_size": (H, W)}
    tensor = torch.from_numpy(boxes)
    flipped = tv.horizontal_flip_bounding_boxes(tensor, **form)
    resized, _ = tv.resize_bounding_boxes(tensor, canvas_size=(H, W), size=[90, 333])
    cropped, _ = tv.crop_bounding_boxes(tensor, BoundingBoxFormat.XYXY, 20, 30, 100, 120)
    for meaning, want in (
        (MIRROR, flipped),
        (warp(scale(W / 333, H / 90), (90, 333)), resized),
        (crop(30, 20, 150, 120, (100, 120)), cropped),
    ):
        height, width = meaning.size[0]
        want = np.clip(want.numpy(), 0, [width, height, width, height])
        got, kept = hulls(meaning, boxes)
        lively = ((want[:, 2:] - want[:, :2]) > 0).all(1)
        assert kept.tolist() == np.flatnonzero(lively).tolist()
        np.testing.assert_allclose(got, want[kept], atol=1e-4)


@pytest.mark.parametrize("angle", [10.0, -37.0, 90.0, 180.0])
def test_torchvision_rotate_where_nothing_is_cut(angle):
    boxes = boxes_of(400, 1)
    boxes = boxes[inside(boxes, 20)]
    assert len(boxes) > 5
    want = tv.rotate_bounding_boxes(
        torch.from_numpy(boxes), BoundingBoxFormat.XYXY, (H, W), angle, clamping_mode=None
    )[0].numpy()
    moved = move_outlines(warp(turn(angle)), 0, outline(boxes))
    hull = np.concatenate([moved.whole.min(1), moved.whole.max(1)], axis=1)
    np.testing.assert_allclose(hull, want, atol=1e-4)


def test_torchvision_keypoints():
    pixels = np.random.default_rng(2).uniform(0, H, (30, 2))
    here = Points.of(pixels + 0.5)
    want = tv.horizontal_flip_keypoints(torch.from_numpy(pixels), (H, W)).numpy()
    np.testing.assert_allclose(move_points(MIRROR, 0, here).at - 0.5, want, atol=1e-9)
    # torchvision turns keypoints about (W / 2, H / 2) as if they were continuous.
    want = tv.rotate_keypoints(torch.from_numpy(pixels + 0.5), (H, W), 25.0)[0].numpy()
    np.testing.assert_allclose(move_points(warp(turn(25)), 0, here).at, want, atol=1e-9)


def test_rotating_five_times_widens_once():
    box = np.array([BOX])
    moved = outline(box)
    for _ in range(6):
        moved = move_outlines(warp(turn(15)), 0, moved)
    got, _ = finish(moved, (H, W), 0, 0)
    want = tv.rotate_bounding_boxes(
        torch.from_numpy(box), BoundingBoxFormat.XYXY, (H, W), 90.0, clamping_mode=None
    )[0].numpy()
    np.testing.assert_allclose(got, np.clip(want, 0, [W, H, W, H]), atol=1e-4)


def test_what_is_cut_stays_cut():
    there, back = warp(shift(150, 0)), warp(shift(-150, 0))
    boxes = np.array([[120.0, 10, 180, 60], [10, 10, 50, 60], [155, 10, 190, 60]])
    got, kept = finish(
        move_outlines(back, 0, move_outlines(there, 0, outline(boxes))), (H, W), 0, 0
    )
    assert kept.tolist() == [0, 2]
    np.testing.assert_allclose(got, [[150, 10, 180, 60], [155, 10, 190, 60]], atol=1e-9)
    got, kept = finish(move_outlines(there.then(back), 0, outline(boxes)), (H, W), 0, 0)
    np.testing.assert_allclose(got, [[150, 10, 180, 60], [155, 10, 190, 60]], atol=1e-9)


@pytest.mark.parametrize("border", ["edge", "reflect"])
def test_mirrored_copies_are_no_objects(border):
    meaning = warp(shift(-50, 0), sampling=Sampling(border=border))
    got, _ = hulls(meaning, np.array([[0.0, 10, 20, 30]]))
    np.testing.assert_allclose(got, [[50, 10, 70, 30]])


def test_min_area_and_min_visibility():
    boxes = np.array([[0.0, 0, 40, 40], [-10, 0, 10, 20], [-30, 0, 10, 20], [5, 5, 9, 9]])
    start = outline(boxes)

    def kept(area, visibility):
        return finish(move_outlines(warp(EYE), 0, start), (H, W), area, visibility)[1].tolist()

    assert kept(0, 0) == [0, 1, 2, 3]
    assert kept(16, 0) == [0, 1, 2, 3]
    assert kept(16.5, 0) == [0, 1, 2]
    assert kept(0, 0.25) == [0, 1, 2, 3]
    assert kept(0, 0.3) == [0, 1, 3]
    assert kept(0, 1.0) == [0, 3]
    assert kept(300, 0.5) == [0]


def test_visibility_is_a_share_of_the_polygon_not_of_its_hull():
    moved = move_outlines(warp(turn(45)), 0, outline(np.array([[75.0, 50, 125, 100]])))
    assert finish(moved, (H, W), 0, 1.0)[1].tolist() == [0]
    assert finish(moved, (H, W), 2499, 0)[1].tolist() == [0]
    assert finish(moved, (H, W), 2501, 0)[1].tolist() == []


def test_empty_zero_area_and_refused():
    none = outline(np.zeros((0, 4)))
    assert isinstance(move_outlines(warp(turn(3)), 0, none), Outlines)
    assert finish(none, (H, W), 0, 0)[0].shape == (0, 4)
    flat = np.array([[3.0, 4, 3, 9], [5, 5, 5, 5], [1, 1, 2, 2]])
    for meaning in (warp(turn(3)), warp(PERSPECTIVE), BENT):
        moved = move_outlines(meaning, 0, outline(flat))
        assert finish(moved, (H, W), 0, 0)[1].tolist() in ([2], [])
    assert finish(outline(flat), (H, W), 0, 0)[1].tolist() == [2]
    for bad in ([0, 0, np.nan, 1], [0, 0, np.inf, 1], [5, 0, 4, 1], [0, 5, 1, 4]):
        with pytest.raises(DataError, match=r"thing\[1\]"):
            outline(np.array([[0, 0, 1, 1], bad], float), "thing")


def test_no_inverse_sees_nothing():
    for matrix in (np.diag([0.0, 1, 1]), np.zeros((3, 3))):
        got, kept = hulls(warp(matrix), np.array([[1.0, 2, 30, 40]]))
        assert got.shape == (0, 4)
        assert kept.tolist() == []
        points = Points.of(np.array([[3.0, 4.0]]))
        assert not move_points(warp(matrix), 0, points).seen.any()


def test_behind_the_horizon():
    """At x = 100 of the output w is 0; the source's points there lie at infinity."""
    matrix = np.array([[1, 0, 0], [0, 1, 0], [-1 / 100, 0, 1]])
    inverse = np.linalg.inv(matrix)
    points = np.array([[30.0, 20.0], [-300.0, 20.0]])
    w = points @ inverse[2, :2] + inverse[2, 2]
    assert w[0] > 0 > w[1]
    moved = move_points(warp(matrix), 0, Points.of(points))
    assert moved.seen.tolist() == [True, False]
    assert np.isfinite(moved.at).all()
    boxes = np.array([[10.0, 10, 60, 40], [-400, 10, -300, 40], [-250, 10, 20, 40]])
    got, kept = hulls(warp(matrix), boxes)
    assert kept.tolist() == [0, 2]
    corners = move_points(warp(matrix), 0, Points.of(np.array([[10.0, 10], [60, 40]])))
    assert got[0, 2] == pytest.approx(corners.at[1, 0])
    moved = move_outlines(warp(matrix), 0, outline(boxes))
    assert finish(moved, (H, W), 0, 0.01)[1].tolist() == [0]


def test_keypoints_are_marked_not_dropped():
    at = np.array([[10.5, 10.5], [199.5, 20.5], [np.nan, 3.0], [60.5, 60.5]])
    start = Points.of(at)
    moved = move_points(warp(shift(50, 0)), 0, start)
    np.testing.assert_allclose(moved.at[[0, 1, 3]], (at - [50, 0])[[0, 1, 3]])
    assert np.isnan(moved.at[2, 0])
    assert moved.seen.tolist() == [False, True, False, True]
    again = move_points(warp(shift(-50, 0)), 0, moved)
    assert again.seen.tolist() == [False, True, False, True]
    cut = move_points(crop(50, 40, 100, 70, (30, 50)), 0, start)
    assert cut.seen.tolist() == [False, False, False, True]
    fused = warp(turn(180)).then(warp(shift(60, 0))).then(warp(turn(180)))
    lost = move_points(fused, 0, start)
    assert lost.seen.tolist() == [True, False, False, True]
    hidden = move_points(warp(shift(100, 0)).then(warp(shift(-100, 0))), 0, start)
    np.testing.assert_allclose(hidden.at[3], at[3])
    assert hidden.seen.tolist() == [False, True, False, False]
    assert move_points(warp(EYE), 0, hidden).seen.tolist() == [False, True, False, False]
    assert start.seen.all()


def test_inputs_are_not_changed():
    boxes = boxes_of(20)
    start = outline(boxes)
    before = start.whole.copy()
    for meaning in (warp(turn(30)), BENT):
        finish(move_outlines(meaning, 0, start), (H, W), 0, 0)
    np.testing.assert_array_equal(start.whole, before)
