"""The algebra of warps, and what each geometric op draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import v2

from augpipe.backends import opencv, reference
from augpipe.errors import DataError, RecipeError
from augpipe.ir import Flow, Warp, rect
from augpipe.ops import catalogue
from augpipe.rng import Draws
from augpipe.types import Array, Frame
from tests.harness import BACKENDS, build, meanings, photo, run

MANY = np.arange(4000)
ITEMS: list[Any] = [
    {"horizontal_flip": {"p": 0.5}},
    {"vertical_flip": {"p": 0.5}},
    {"transpose": {"p": 0.5}},
    "rotate90",
    {"center_crop": [5, 40]},
    {"random_crop": {"size": [20, 3], "padding": [1, 2, 3, 4], "pad_if_needed": True}},
    {"pad": {"padding": [1, 2, 3, 4], "border": "reflect"}},
    {"resize": 3},
    {"resize": {"size": [7, 50], "antialias": "full"}},
    {"resize": {"size": [70, 5], "interpolation": "bicubic"}},
    {"resize": {"size": [7, 50], "interpolation": "nearest"}},
    {"random_resized_crop": {"size": [9, 30], "p": 0.5}},
    {"box_safe_crop": {"size": [9, 30], "p": 0.5}},
    {"rotate": [-180, 180]},
    {"rotate": {"degrees": [-180, 180], "border": "reflect", "interpolation": "bicubic"}},
    "translate",
    {"shear": {"x": [-40, 40], "y": [-40, 40]}},
    {"scale": [0.2, 4]},
    {"affine": {"degrees": [-180, 180], "scale": [0.3, 3], "border": "edge"}},
    "perspective",
    {"perspective": {"distortion": 1, "border": "edge"}},
    "elastic",
    {"elastic": {"amplitude": [0.1, 0.2], "cells": 1, "border": "reflect"}},
    {"elastic": {"border": "reflect", "interpolation": "bicubic"}},
    "grid_distortion",
    {"optical_distortion": {"k2": [-0.1, 0.1], "interpolation": "nearest"}},
]
SHAPES = [(1, 1, 3), (1, 4000, 1), (4000, 1, 3), (2, 3, 3), (3, 2, 5)]


def warp(item: Any, sizes: Any, indices: Any = (0,), seed: int = 7) -> Any:
    """What one op means for images of these sizes."""
    frame = Frame(np.broadcast_to(np.asarray(sizes, np.int64), (len(indices), 2)))
    return build(item)[0].means(Draws(seed, np.asarray(indices), 0).at("op#0"), frame)


def identity(sizes: Any) -> Warp:
    frame = Frame(np.asarray(sizes, np.int64))
    eye = np.tile(np.eye(3), (len(frame), 1, 1))
    return Warp.of(eye, frame, None, build("rotate")[0].sampling)


def test_every_geometric_op_is_tested_here() -> None:
    own = {n for n, cls in catalogue().items() if cls.kind in (Warp, Flow)}
    listed = {i if isinstance(i, str) else next(iter(i)) for i in ITEMS}
    assert own == listed


SIZE = st.tuples(st.integers(1, 60), st.integers(1, 60))
WARPS = st.sampled_from([i for i in ITEMS if "elastic" not in str(i) and "distort" not in str(i)])


@settings(max_examples=60, deadline=None)
@given(st.tuples(WARPS, WARPS, WARPS), SIZE, st.integers(0, 2**40))
def test_then_is_associative(items: tuple[Any, Any, Any], size: Any, index: int) -> None:
    a = warp(items[0], size, (index,))
    b = warp(items[1], a.size, (index,))
    c = warp(items[2], b.size, (index,))
    left, right = a.then(b).then(c), a.then(b.then(c))
    assert np.allclose(left.matrix, right.matrix, rtol=1e-9, atol=1e-9 * abs(left.matrix).max())
    assert (left.size == c.size).all()
    assert (right.size == c.size).all()
    assert (left.source == np.array([size])).all()


@settings(max_examples=30, deadline=None)
@given(WARPS, SIZE, st.integers(0, 2**40))
def test_the_identity_is_neutral(item: Any, size: Any, index: int) -> None:
    own = warp(item, size, (index,))
    before = identity([size]).then(own)
    after = own.then(identity(own.size))
    assert np.array_equal(before.matrix, own.matrix)
    assert np.array_equal(after.matrix, own.matrix)


@pytest.mark.parametrize("item", ITEMS, ids=str)
def test_gate_is_the_identity_where_it_is_off(item: Any) -> None:
    image = photo(height=24, width=40)
    on = np.array([True, False, True])
    meaning = warp(item, [[24, 40]], (0, 1, 2))
    gated = meaning.gate(on)
    for backend in BACKENDS.values():
        assert np.array_equal(backend.render(gated, 1, image), image)
        for row in (0, 2):
            kept = backend.render(meaning, row, image)
            assert np.array_equal(backend.render(gated, row, image), kept)


@pytest.mark.parametrize(
    ("there", "back"),
    [
        ({"rotate": [33, 33]}, {"rotate": [-33, -33]}),
        ({"rotate90": [1, 1]}, {"rotate90": [3, 3]}),
        ({"scale": [0.7, 0.7]}, {"scale": [1 / 0.7, 1 / 0.7]}),
        ({"shear": {"x": [20, 20]}}, {"shear": {"x": [-20, -20]}}),
        ({"translate": {"x": [0.2, 0.2]}}, {"translate": {"x": [-0.2, -0.2], "y": [0, 0]}}),
        ({"transpose": {"p": 1.0}}, {"transpose": {"p": 1.0}}),
        ({"horizontal_flip": {"p": 1.0}}, {"horizontal_flip": {"p": 1.0}}),
    ],
    ids=str,
)
def test_there_and_back(there: Any, back: Any) -> None:
    if "translate" in there:
        there["translate"]["y"] = [0, 0]
    first = warp(there, [[31, 50]])
    whole = first.then(warp(back, first.size))
    assert np.allclose(whole.matrix, np.eye(3), atol=1e-12)
    assert (whole.size == (31, 50)).all()


@pytest.mark.parametrize("backend", ["opencv", "reference"])
@pytest.mark.parametrize("times", range(4))
def test_lattice_ops_move_pixels_untouched(backend: str, times: int) -> None:
    image = photo(height=31, width=50)
    assert np.array_equal(run({"rotate90": [times, times]}, image, backend), np.rot90(image, times))
    for item, want in (
        ("horizontal_flip", image[:, ::-1]),
        ("vertical_flip", image[::-1]),
        ("transpose", image.swapaxes(0, 1)),
    ):
        assert np.array_equal(run({item: {"p": 1.0}}, image, backend), want)
    mask = np.arange(31 * 50, dtype=np.int32).reshape(31, 50, 1)
    meaning = warp({"rotate90": [times, times]}, [[31, 50]])
    assert np.array_equal(BACKENDS[backend].render_mask(meaning, 0, mask), np.rot90(mask, times))


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_any_number_of_channels_is_moved(channels: int, kind: Any) -> None:
    image = (np.arange(6 * 9 * channels) % 251).reshape(6, 9, channels).astype(kind)
    turn = {"rotate90": [1, 1]}
    assert np.array_equal(run(turn, image), np.rot90(image))
    for items in ([{"resize": [4, 5]}, turn], ["affine"], ["elastic"], [{"pad": 2}, turn]):
        fast, exact = (run(items, image, backend) for backend in BACKENDS)
        assert np.allclose(fast, exact, atol=1.0), items


def test_declared_lattice_and_inside_hold() -> None:
    """Lattice ops read whole pixels' centres; inside ops read nothing beyond the frame."""
    for item in [*ITEMS, {"random_crop": 5}]:
        op = build(item)[0]
        if op.kind is not Warp:
            continue
        meaning = warp(item, [[33, 21]], range(50))
        corners = rect(meaning.size).reshape(-1, 2, 2)
        ends = np.concatenate([corners, np.ones_like(corners[..., :1])], axis=2)
        at = np.einsum("nij,nkj->nki", meaning.matrix, ends)
        at = at[..., :2] / at[..., 2:]
        whole = abs(at - np.rint(at)).max() < 1e-9 and np.allclose(
            abs(np.linalg.det(meaning.matrix)), 1
        )
        within = (at > -1e-9).all() and (at <= np.array([21, 33]) + 1e-9).all()
        assert whole or not op.lattice, item
        assert within or not op.inside, item
    assert not build({"random_crop": {"size": 5, "padding": 1}})[0].inside
    assert not build({"random_crop": {"size": 5, "pad_if_needed": True}})[0].inside


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_resizing_to_the_same_size_changes_nothing(interpolation: str) -> None:
    image = photo(height=31, width=50)
    for antialias in ("box", "full"):
        fields = {"interpolation": interpolation, "antialias": antialias}
        for backend in BACKENDS:
            same = run({"resize": {"size": [31, 50], **fields}}, image, backend)
            assert np.array_equal(same, image)
            same = run({"resize": {"size": 31, **fields}}, image, backend)
            assert np.array_equal(same, image)


@pytest.mark.parametrize("size", [(100, 150), (333, 500), (7, 4001), (500, 375)])
def test_the_shorter_side_is_torchvisions(size: tuple[int, int]) -> None:
    want = v2.Resize(37)(torch.zeros(1, *size)).shape[1:]
    assert tuple(warp({"resize": 37}, [size]).size[0]) == tuple(want)


@pytest.mark.parametrize("size", [(375, 500), (40, 1000), (300, 90)])
def test_resized_crops_are_drawn_as_torchvision_draws_them(size: tuple[int, int]) -> None:
    scale, ratio = (0.2, 0.9), (0.6, 1.2)
    boxes = warp(
        {"random_resized_crop": {"size": 9, "scale": scale, "ratio": ratio}}, size, MANY
    ).box
    sides = boxes[:, 2:] - boxes[:, :2]
    assert np.array_equal(boxes, np.rint(boxes))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= size[::-1]).all()
    if size == (375, 500):
        share = sides.prod(axis=1) / math.prod(size)
        assert share.min() > scale[0] - 0.01
        assert share.max() < scale[1] + 0.01
        aspect = sides[:, 0] / sides[:, 1]
        assert aspect.min() > ratio[0] - 0.02
        assert aspect.max() < ratio[1] + 0.02
    torch.manual_seed(0)
    theirs = v2.RandomResizedCrop(9, scale, ratio)
    image = torch.zeros(1, *size)
    drawn = [theirs.make_params([image]) for _ in range(1500)]
    names = ("left", "top", "width", "height")
    for own, name in zip((boxes[:, 0], boxes[:, 1], *sides.T), names, strict=True):
        other = [d[name] for d in drawn]
        assert stats.ks_2samp(own, other).pvalue > 1e-3, name


def test_resized_crops_stand_at_every_place_equally_often() -> None:
    item = {"random_resized_crop": {"size": 9, "scale": [0.45, 0.45], "ratio": [1, 1]}}
    boxes = warp(item, (6, 7), MANY).box
    assert (boxes[:, 2:] - boxes[:, :2] == 4).all()
    for axis, places in ((0, 4), (1, 3)):
        counts = np.unique(boxes[:, axis], return_counts=True)[1]
        assert len(counts) == places
        assert stats.chisquare(counts).pvalue > 1e-3


def test_random_crops_are_uniform_and_padded() -> None:
    op = {"random_crop": {"size": [8, 10], "padding": [1, 2, 3, 4]}}
    meaning = warp(op, (12, 16), MANY)
    x, y = meaning.matrix[:, 0, 2], meaning.matrix[:, 1, 2]
    assert set(x) == set(range(-1, 16 + 3 - 10 + 1))
    assert set(y) == set(range(-2, 12 + 4 - 8 + 1))
    for at in (x, y):
        assert stats.chisquare(np.unique(at, return_counts=True)[1]).pvalue > 1e-3
    needy = {"random_crop": {"size": 20, "padding": 1, "pad_if_needed": True}}
    assert set(warp(needy, (12, 30), MANY).matrix[:, 1, 2]) == set(range(-7, 0))
    small = photo(height=12, width=30)
    with pytest.raises(DataError, match=r"random_crop#0: .* pad_if_needed.*12 × 30"):
        run({"random_crop": 20}, small)
    spared = [{"random_crop": {"size": 20, "p": 0}}]
    spared += [{"one_of": {"ops": [{"random_crop": 20}, "invert"], "weights": [0, 1]}}]
    for item in spared:
        assert run(item, small).shape == small.shape
    with pytest.raises(RecipeError, match="padding"):
        build({"random_crop": {"size": 20, "padding": [1, 2]}})


def test_fill_and_padding_values() -> None:
    image = photo(height=12, width=20)
    for backend in BACKENDS:
        out = run({"pad": {"padding": 2, "fill": [1, 2, 3]}}, image, backend)
        assert (out[0] == (1, 2, 3)).all()
        assert np.array_equal(out[2:-2, 2:-2], image)
        out = run({"rotate": {"degrees": [45, 45], "fill": 77}}, image, backend)
        assert (out[0, 0] == 77).all()
    mask = np.zeros((12, 20, 1), np.uint8)
    meaning = warp({"translate": {"x": [0.5, 0.5], "y": [0, 0], "mask_fill": 255}}, (12, 20))
    assert (opencv.render_mask(meaning, 0, mask)[:, :10] == 255).all()


@pytest.mark.parametrize("distortion", [0.0, 0.5, 1.0])
def test_perspective_takes_the_corners_where_it_drew_them(distortion: float) -> None:
    size = (30, 50)
    trace: dict[str, dict[str, Array]] = {}
    draw = Draws(7, MANY[:500], 0, "op#0", trace)
    frame = Frame(np.tile(size, (500, 1)))
    meaning = build({"perspective": distortion})[0].means(draw, frame)
    corners = trace["op#0"]["corners"] * size[::-1]
    ends = np.concatenate([corners, np.ones((500, 4, 1))], axis=2)
    at = np.einsum("nij,nkj->nki", meaning.matrix, ends)
    assert (at[..., 2] > 0).all(), "beyond the horizon"
    want = np.array([[0, 0], [50, 0], [50, 30], [0, 30]])
    assert np.allclose(at[..., :2] / at[..., 2:], want, atol=1e-8)
    inwards = abs(corners - want) / size[::-1]
    assert inwards.max() <= distortion / 2
    assert distortion == 0 or inwards.max() > distortion * 0.48


def test_ranges_are_drawn_uniformly() -> None:
    for item, read, low, high in (
        ({"rotate": [-30, 60]}, lambda m: np.rad2deg(np.arctan2(m[:, 1, 0], m[:, 0, 0])), -30, 60),
        ({"scale": [0.5, 2]}, lambda m: 1 / m[:, 0, 0], 0.5, 2),
        ({"shear": {"x": [-30, 30]}}, lambda m: np.rad2deg(np.arctan(-m[:, 0, 1])), -30, 30),
    ):
        values = read(warp(item, (40, 40), MANY).matrix)
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3, item
    times = np.unique(warp("rotate90", (40, 40), MANY).matrix, axis=0, return_counts=True)[1]
    assert len(times) == 4
    assert stats.chisquare(times).pvalue > 1e-3


@pytest.mark.parametrize("item", ITEMS, ids=str)
def test_a_row_is_the_row_alone(item: Any) -> None:
    sizes = np.array([[24, 40], [33, 17], [8, 9], [50, 51], [1, 1]] * 13)
    indices = np.arange(1000, 1000 + len(sizes))
    many = warp(item, sizes, indices)
    name = "control" if isinstance(many, Flow) else "matrix"
    for k in range(0, len(sizes), 4):
        alone = warp(item, sizes[k : k + 1], indices[k : k + 1])
        assert np.array_equal(getattr(many, name)[k], getattr(alone, name)[0])
        assert np.array_equal(many.size[k], alone.size[0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("item", ITEMS, ids=str)
def test_degenerate_images(item: Any, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for index in range(2):
        (meaning,) = meanings(build(item), shape, (index,))
        fast, exact = (b.render(meaning, 0, image) for b in (opencv, reference))
        assert fast.shape == exact.shape == (*meaning.size[0], shape[2])
        ties = 1e-3 if "nearest" in str(item) else 0.0  # positions are float32 in OpenCV
        assert np.mean(abs(fast.astype(int) - exact) > 1) <= ties
        masks = [b.render_mask(meaning, 0, image[:, :, :1]) for b in (opencv, reference)]
        assert np.mean(np.not_equal(*masks)) < 1e-3


@pytest.mark.parametrize("item", [{"rotate": [20, 20]}, "elastic", {"resize": 30}], ids=str)
@pytest.mark.parametrize("channels", [2, 6])
def test_each_channel_is_read_as_it_is_alone(item: object, channels: int) -> None:
    """But for a rounding of resize's, which sums in other units for other channel counts."""
    image = np.concatenate([photo()] * 2, axis=2)[:, :, :channels]
    whole = run(item, image).astype(np.int64)
    for k in range(channels):
        alone = run(item, image[:, :, k : k + 1])
        assert abs(whole[:, :, k : k + 1] - alone).max() <= ("resize" in str(item))
