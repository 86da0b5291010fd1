"""Filters: the kernels themselves, and images where kernels hardly fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from augpipe.errors import DataError, RecipeError
from augpipe.ir import Kernel, Median
from augpipe.ops.filter import OddRange
from augpipe.spec import Refused
from tests.harness import BACKENDS, build, meanings, photo, run

KERNELS: list[Any] = [
    {"gaussian_blur": {"sigma": [0.0, 4.0]}},
    {"box_blur": {"size": [1, 9]}},
    {"motion_blur": {"size": [1, 15], "angle": [-360, 360], "direction": [-1, 1]}},
    {"defocus": {"radius": [0.0, 6.0]}},
    {"sharpen": {"factor": [0.0, 3.0]}},
]
OTHERS: list[Any] = [
    {"median_blur": {"size": [3, 9]}},
    "jpeg_compression",
    {"downscale": {"scale": [0.1, 1.0]}},
]
name = str


def kernels(item: Any, count: int = 200) -> list[np.ndarray]:
    (meaning,) = meanings(build(item), (40, 50, 3), range(count))
    assert isinstance(meaning, Kernel)
    return list(meaning.factors)


def images(*shape: int) -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    whole = rng.integers(0, 256, shape, dtype=np.uint8)
    return [whole, rng.uniform(0, 255, shape).astype(np.float32)]


@pytest.mark.parametrize("item", KERNELS, ids=name)
def test_weights_sum_to_one(item: Any) -> None:
    for factor in kernels(item):
        np.testing.assert_allclose(factor.sum(axis=(1, 2)), 1.0, atol=1e-12)
        assert all(side % 2 for side in factor.shape[1:])


@pytest.mark.parametrize("item", KERNELS[:4], ids=name)
def test_blurs_have_no_negative_weight_and_stay_in_place(item: Any) -> None:
    """The centre of mass is the centre; only a motion with a direction shifts the content."""
    straight = {"motion_blur": {"size": [1, 15]}} if "motion_blur" in item else item
    for factor in kernels(straight):
        assert (factor >= 0).all()
        np.testing.assert_allclose(factor, factor[:, ::-1, ::-1], atol=1e-12)


def test_kernels_do_not_depend_on_the_batch() -> None:
    for item in KERNELS:
        for many, one in zip(kernels(item, 20), kernels(item, 1), strict=True):
            assert np.array_equal(many[:1], one)


def test_gaussian_has_its_variance() -> None:
    """Cut at 3 sigma, a Gaussian keeps 0.973 of its variance or more; sigma 0 is a delta."""
    (down, across) = kernels({"gaussian_blur": {"sigma": [3.0, 3.0]}}, 1)
    x = np.arange(-9, 10)
    assert across.shape == (1, 1, 19)
    assert 0.97 < (across[0, 0] * x**2).sum() / 9.0 <= 1.0
    assert np.array_equal(down[0, :, 0], across[0, 0])
    (_, still) = kernels({"gaussian_blur": {"sigma": [0.0, 0.0]}}, 1)
    assert still.tolist() == [[[1.0]]]


def test_motion_runs_counter_clockwise() -> None:
    """At 45 degrees the line rises to the right, and a direction of 1 weighs its upper end."""
    item = {"motion_blur": {"size": [7, 7], "angle": [45, 45], "direction": [1, 1]}}
    (kernel,) = kernels(item, 1)
    y, x = np.mgrid[-3:4, -3:4]
    right, down = (kernel[0] * x).sum(), (kernel[0] * y).sum()
    assert right > 0.5 and down < -0.5
    (level,) = kernels({"motion_blur": {"size": [7, 7], "angle": [45, 45]}}, 1)
    assert level[0, 1, 5] == level[0, 5, 1] > 0.0 == level[0, 1, 1] == level[0, 5, 5]


def test_motion_has_its_length_at_any_angle() -> None:
    """The variance along the line is that of `size` taps, to a pixel's width."""
    for angle in range(0, 180, 15):
        (kernel,) = kernels({"motion_blur": {"size": [15, 15], "angle": [angle, angle]}}, 1)
        y, x = np.mgrid[-7:8, -7:8]
        radians = np.deg2rad(angle)
        along = x * np.cos(radians) - y * np.sin(radians)
        across = x * np.sin(radians) + y * np.cos(radians)
        assert abs((kernel[0] * along**2).sum() - (15**2 - 1) / 12) < 1.0
        assert (kernel[0] * across**2).sum() < 0.35


def test_odd_sizes_are_uniform() -> None:
    (meaning,) = meanings(build({"median_blur": {"size": [3, 9]}}), (8, 8, 3), range(4000))
    assert isinstance(meaning, Median)
    sizes, counts = np.unique(meaning.size, return_counts=True)
    assert sizes.tolist() == [3, 5, 7, 9]
    assert abs(counts - 1000).max() < 4 * np.sqrt(4000 * 0.25 * 0.75)


def test_even_sizes_are_refused() -> None:
    declared = OddRange(1, 99, "pixels")
    assert declared.parse([3, 3]) == (3, 3)
    for bad in ([2, 5], [3, 4], [3, 5.0], 3):
        with pytest.raises(Refused):
            declared.parse(bad)
    with pytest.raises(RecipeError, match="odd integers from 1 to 99 pixels"):
        build({"box_blur": {"size": [3, 6]}})


@pytest.mark.parametrize("item", KERNELS + OTHERS, ids=name)
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 200, 1), (200, 1, 3), (4, 5, 2), (6, 7, 6)])
def test_tiny_and_odd_shapes(item: Any, shape: tuple[int, ...]) -> None:
    for image in images(*shape):
        before = image.copy()
        for index in range(3):
            fast, exact = (run(item, image, backend, index) for backend in BACKENDS)
            assert fast.shape == exact.shape == shape and fast.dtype == exact.dtype == image.dtype
            limit = 1.0 if image.dtype == np.uint8 else 1e-3
            assert abs(fast.astype(float) - exact).max() <= limit
        assert np.array_equal(image, before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("item", KERNELS + OTHERS, ids=name)
def test_an_empty_image_stays(item: Any, backend: str) -> None:
    for shape in ((0, 5, 3), (5, 0, 1)):
        assert run(item, np.zeros(shape, np.uint8), backend).shape == shape


@pytest.mark.parametrize("backend", BACKENDS)
def test_alpha_is_not_filtered(backend: str) -> None:
    image = images(20, 24, 4)[0]
    out = run({"box_blur": {"size": [5, 5]}}, image, backend)
    assert np.array_equal(out[:, :, 3], image[:, :, 3])
    assert not np.array_equal(out[:, :, :3], image[:, :, :3])


@pytest.mark.parametrize("backend", BACKENDS)
def test_nothing_to_do_changes_nothing(backend: str) -> None:
    still = [
        {"gaussian_blur": {"sigma": [0.0, 0.0]}},
        {"box_blur": {"size": [1, 1]}},
        {"motion_blur": {"size": [1, 1]}},
        {"defocus": {"radius": [0.0, 0.5]}},
        {"sharpen": {"factor": [1.0, 1.0]}},
        {"median_blur": {"size": [1, 1]}},
        {"downscale": {"scale": [1.0, 1.0]}},
    ]
    for item in still:
        assert np.array_equal(run(item, photo(), backend), photo()), item


def test_two_kernels_of_any_shape_follow_one_another() -> None:
    """Not only separable pairs: two square factors are two correlations, rounded once."""
    rng = np.random.default_rng(0)
    one, two = (w / w.sum() for w in rng.uniform(0, 1, (2, 3, 5)))
    meaning = Kernel(np.ones(1, bool), (one[None], two[None]))
    want = photo().astype(np.float64)
    for weights in (one, two):
        want = ndimage.correlate(want, weights[:, :, None], mode="mirror")
    for backend in BACKENDS.values():
        assert abs(backend.render(meaning, 0, photo()) - want).max() <= 0.5005


@pytest.mark.parametrize("backend", BACKENDS)
def test_sharpening_stays_within_the_levels(backend: str) -> None:
    for image in images(30, 40, 3):
        out = run({"sharpen": {"factor": [8.0, 8.0]}}, image, backend)
        assert out.min() == 0 and out.max() == 255


@pytest.mark.parametrize("backend", BACKENDS)
def test_jpeg_of_floats_is_jpeg_of_whole_levels(backend: str) -> None:
    """Rounded half to even."""
    for shift in (0.3, 0.5):
        shifted = np.minimum(photo().astype(np.float32) + np.float32(shift), 255)
        out = run("jpeg_compression", shifted, backend)
        assert out.dtype == np.float32
        assert np.array_equal(out, run("jpeg_compression", np.rint(shifted).astype(np.uint8)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_jpeg_loses_more_at_lower_quality(backend: str) -> None:
    losses = [
        float(
            abs(run({"jpeg_compression": [q, q]}, photo(), backend) - photo().astype(float)).mean()
        )
        for q in (5, 30, 90, 100)
    ]
    assert losses == sorted(losses, reverse=True) and losses[-1] < 2.0 < losses[0]


def test_jpeg_has_a_largest_side() -> None:
    with pytest.raises(DataError, match="65500 pixels"):
        run("jpeg_compression", np.zeros((1, 65501, 1), np.uint8))


def test_downscale_has_as_many_pixels_as_said() -> None:
    out = run({"downscale": {"scale": [0.25, 0.25]}}, photo(height=96, width=128))
    blocks = photo(height=96, width=128).reshape(24, 4, 32, 4, 3).mean(axis=(1, 3))
    assert abs(out[2::4, 2::4] - blocks).max() <= 0.5
    assert np.array_equal(out, out[2::4, 2::4].repeat(4, 0).repeat(4, 1))
