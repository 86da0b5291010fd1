"""Occlusion: which rectangles are drawn, and what fills them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torchvision.transforms import v2

from augpipe.ir import Regions
from augpipe.types import Ints
from tests.harness import BACKENDS, build, meanings, photo, run

HEIGHT, WIDTH = 120, 160
ITEMS: list[Any] = [
    {"cutout": {"holes": 3}},
    {"random_erasing": {"p": 1.0}},
    {"grid_mask": {"unit": [0.1, 0.5]}},
    "hide_and_seek",
]


def boxes(item: Any, count: int = 400, height: int = HEIGHT, width: int = WIDTH) -> Ints:
    (meaning,) = meanings(build(item), (height, width, 3), range(count))
    assert isinstance(meaning, Regions)
    return meaning.boxes


def hidden(item: Any, index: int = 0, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """Which pixels of an image are hidden."""
    white = np.full((height, width, 1), 255, np.uint8)
    full = {item: {"fill": 0}} if isinstance(item, str) else item
    return run(full, white, "opencv", index)[:, :, 0] == 0


@pytest.mark.parametrize("item", ITEMS, ids=str)
@pytest.mark.parametrize(("height", "width"), [(120, 160), (1, 300), (33, 7), (1, 1)])
def test_rectangles_lie_in_the_image(item: Any, height: int, width: int) -> None:
    x0, y0, x1, y1 = np.moveaxis(boxes(item, 50, height, width), -1, 0)
    assert min(x0.min(), y0.min()) >= 0 and x1.max() <= width and y1.max() <= height
    assert ((x1 >= x0) & (y1 >= y0)).all()


def test_cutout_has_its_holes_sides_and_centres() -> None:
    """Whole squares have the side asked for; centres are uniform over the image's pixels."""
    (op,) = build({"cutout": {"holes": 2, "size": 0.25}})
    drawn = boxes({"cutout": {"holes": 2, "size": 0.25}}, 2000)
    assert drawn.shape == (2000, 2, 4) and op.p == 1.0
    x0, y0, x1, y1 = np.moveaxis(drawn, -1, 0)
    side = 30
    cut = (x0 == 0) | (y0 == 0) | (x1 == WIDTH) | (y1 == HEIGHT)
    assert ((x1 - x0 == side) & (y1 - y0 == side))[~cut].all()
    assert (x1 - x0)[cut].max() <= side and (x1 - x0).min() >= side // 2
    # The right edge of a square cut at the left is its centre's column plus half its side.
    center = np.where(x0 > 0, x0 + side // 2, x1 - side // 2).ravel()
    assert center.min() == 0 and center.max() == WIDTH - 1
    assert stats.kstest((center + 0.5) / WIDTH, "uniform").pvalue > 1e-3
    pairs = stats.pearsonr(x0[:, 0], x0[:, 1])
    assert pairs.pvalue > 1e-3


def test_cutout_of_an_odd_side() -> None:
    for x0, y0, x1, y1 in boxes({"cutout": {"size": 0.0251}}, 50)[:, 0]:
        assert max(x1 - x0, y1 - y0) == 3


def test_erasing_stays_within_scale_and_ratio() -> None:
    """To the rounding of the sides; positions are uniform."""
    item = {"random_erasing": {"scale": [0.1, 0.2], "ratio": [0.5, 2.0], "p": 1.0}}
    x0, y0, x1, y1 = boxes(item, 3000)[:, 0].T
    h, w = y1 - y0, x1 - x0
    area = h * w / (HEIGHT * WIDTH)
    assert 0.098 < area.min() < 0.102 and 0.198 < area.max() < 0.203
    assert 0.48 < (h / w).min() < 0.52 and 1.92 < (h / w).max() < 2.08
    assert (x1 <= WIDTH).all() and (y1 <= HEIGHT).all()
    place = (x0 + 0.5) / (WIDTH - w + 1)
    assert stats.kstest(place, "uniform").pvalue > 1e-3


def test_erasing_draws_as_torchvision_does() -> None:
    """Area, ratio and position have the distributions of torchvision's RandomErasing."""
    torch.manual_seed(0)
    theirs = []
    erasing = v2.RandomErasing(p=1.0)
    image = torch.zeros(1, HEIGHT, WIDTH)
    for _ in range(1500):
        got = erasing.make_params([image])
        theirs.append([got["i"], got["j"], got["h"], got["w"]])
    i, j, h, w = np.array(theirs).T
    x0, y0, x1, y1 = boxes({"random_erasing": {"p": 1.0}}, 3000)[:, 0].T
    for mine, other in (
        (x0, j),
        (y0, i),
        ((x1 - x0) * (y1 - y0), h * w),
        ((y1 - y0) / (x1 - x0), h / w),
    ):
        assert stats.ks_2samp(mine, other).pvalue > 1e-3


def test_erasing_acts_on_half_of_the_images_and_gives_up() -> None:
    (meaning,) = meanings(build("random_erasing"), (HEIGHT, WIDTH, 3), range(2000))
    assert isinstance(meaning, Regions)
    assert abs(meaning.on.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(2000)
    # A rectangle as large as the image does not fit: nothing is erased.
    never = boxes({"random_erasing": {"scale": [1.0, 1.0], "ratio": [1.0, 1.0]}}, 50, 90, 90)
    assert np.array_equal(never[:, :, :2], never[:, :, 2:])


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_grid_mask_hides_its_share(ratio: float) -> None:
    """Over whole units: (1 - ratio)^2 of the image, squares of one size at one distance."""
    item = {"grid_mask": {"unit": [0.125, 0.125], "ratio": ratio}}
    for index in range(5):
        mask = hidden(item, index, 120, 160)
        assert mask.mean() == round((1 - ratio) * 20) ** 2 / 20**2
        assert np.array_equal(mask[20:], mask[:-20]) and np.array_equal(mask[:, 20:], mask[:, :-20])
    shifts = {tuple(hidden(item, k, 20, 160)[:, :20].any(axis=1)) for k in range(60)}
    assert len(shifts) > 15


def test_grid_mask_shows_something_at_every_ratio() -> None:
    for ratio in (0.0, 1.0):
        mask = hidden({"grid_mask": {"unit": [0.1, 0.1], "ratio": ratio}}, 0, 32, 32)
        assert 0 < mask.mean() < 1


def test_hide_and_seek_hides_its_share_of_patches() -> None:
    (meaning,) = meanings(build({"hide_and_seek": {"grid": [3, 6]}}), (60, 60, 3), range(3000))
    assert isinstance(meaning, Regions)
    x0, y0, x1, y1 = np.moveaxis(meaning.boxes, -1, 0)
    share = ((x1 - x0) * (y1 - y0)).sum(axis=1) / 3600
    # The share's variance is (1/4) / S^2, on average over the four S.
    error = np.sqrt(np.mean([0.25 / s**2 for s in (3, 4, 5, 6)]) / 3000)
    assert abs(share.mean() - 0.5) < 4.5 * error
    assert set(np.unique((x1 - x0)[x1 > x0])) == {10, 12, 15, 20}


def test_hide_and_seek_cuts_an_uneven_image_at_rounded_down_edges() -> None:
    drawn = boxes({"hide_and_seek": {"grid": [5, 5], "hide": 1}}, 1, 53, 37)
    for x0, y0, x1, y1 in drawn.reshape(-1, 4):
        assert (y0, y1) in [(0, 10), (10, 21), (21, 31), (31, 42), (42, 53)]
        assert (x0, x1) in [(0, 7), (7, 14), (14, 22), (22, 29), (29, 37)]


def test_hide_and_seek_hides_none_or_all() -> None:
    for size in ((37, 53), (3, 200)):
        assert hidden({"hide_and_seek": {"hide": 1, "fill": 0}}, 0, *size).all()
        assert not hidden({"hide_and_seek": {"hide": 0, "fill": 0}}, 0, *size).any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_fills(backend: str, dtype: Any) -> None:
    image = photo().astype(dtype)
    hide = {"grid": [1, 1], "hide": 1}

    def filled(fill: Any) -> np.ndarray:
        return run({"hide_and_seek": {**hide, "fill": fill}}, image, backend)

    assert (filled(7) == 7).all()
    assert (filled([1, 20, 30]) == [1, 20, 30]).all()
    mean = photo().reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(filled("mean")[5, 5], mean, atol=0.5 if dtype == np.uint8 else 1e-3)
    noise = filled("noise")
    assert noise.dtype == dtype and len(np.unique(noise)) == 256
    assert stats.chisquare(np.bincount(noise.astype(int).ravel())).pvalue > 1e-3
    for a, b in ((0, 1), (0, 2), (1, 2)):
        r = np.corrcoef(noise[:, :, a].ravel(), noise[:, :, b].ravel())[0, 1]
        assert abs(r) < 4.5 / np.sqrt(noise[:, :, 0].size)


@pytest.mark.parametrize("item", [*ITEMS, {"cutout": {"fill": "noise"}}], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 90, 1), (5, 4, 2), (9, 8, 6), (0, 4, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_any_shape(item: Any, shape: tuple[int, ...], dtype: Any) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape).astype(dtype)
    before = image.copy()
    for index in range(3):
        fast, exact = (run(item, image, backend, index) for backend in BACKENDS)
        assert fast.shape == exact.shape == shape and fast.dtype == exact.dtype == dtype
        np.testing.assert_allclose(fast, exact, atol=1e-4)
    assert np.array_equal(image, before)


@pytest.mark.parametrize("backend", BACKENDS)
def test_alpha_stays(backend: str) -> None:
    image = np.full((20, 30, 4), 90, np.uint8)
    out = run({"hide_and_seek": {"hide": 1, "fill": [1, 2, 3]}}, image, backend)
    assert (out == [1, 2, 3, 90]).all()


def test_the_design_example_holds() -> None:
    cutout, blur = build(
        {"cutout": {"holes": 1, "size": 0.25, "p": 0.5}}, {"gaussian_blur": {"sigma": [0.1, 2.0]}}
    )
    assert cutout.p == 0.5 and blur.name() == "gaussian_blur"
