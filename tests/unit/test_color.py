"""Colour and tone: their algebra, their identities, and what rounding may cost."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from skimage import color as skimage
from torchvision.transforms.v2 import functional as tv

from augpipe.backends import opencv, reference
from augpipe.errors import DataError, RecipeError
from augpipe.ir import Color, Curve
from augpipe.ops.color import brighten, contrast, rotate_hue, saturate
from augpipe.ops.output import STATISTICS, Normalize
from augpipe.types import Array, Floats
from tests.harness import BACKENDS, build, drawn, grey, meanings, photo, run

BOTH = pytest.mark.parametrize("backend", ["opencv", "reference"])
GREYS = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2)


def map_colours(meaning: Color, image: Floats) -> Floats:
    """What a colour map says, unclipped: the definition in ir.Color, row 0."""
    mean = image.reshape(-1, 3).mean(axis=0)
    return image @ meaning.matrix[0].T + meaning.mean[0] @ mean + meaning.offset[0]


numbers = st.floats(-2, 2, allow_subnormal=False)


@st.composite
def colors(draw: st.DrawFn) -> Color:
    values = np.array(draw(st.lists(numbers, min_size=21, max_size=21)))
    matrix, mean = values[:9].reshape(1, 3, 3), values[9:18].reshape(1, 3, 3)
    return Color.of(matrix, mean=mean, offset=values[18:].reshape(1, 3) * 100)


@given(colors(), colors(), colors())
@settings(deadline=None)
def test_composed_colours_are_the_colours_one_after_another(a: Color, b: Color, c: Color) -> None:
    image = photo(height=5, width=7).astype(np.float64)
    step_by_step = map_colours(c, map_colours(b, map_colours(a, image)))
    for whole in (a.then(b).then(c), a.then(b.then(c))):
        np.testing.assert_allclose(map_colours(whole, image), step_by_step, atol=1e-8)


@given(colors(), colors())
@settings(deadline=None)
def test_a_colour_gated_off_is_the_identity(a: Color, b: Color) -> None:
    image = photo(height=5, width=7).astype(np.float64)
    off, on = a.gate(np.array([False])), a.gate(np.array([True]))
    np.testing.assert_array_equal(map_colours(off, image), image)
    np.testing.assert_array_equal(map_colours(on, image), map_colours(a, image))
    np.testing.assert_allclose(map_colours(off.then(b), image), map_colours(b, image), atol=1e-9)


def gamma(amount: float) -> Curve:
    return Curve((("gamma", np.array([amount])),))


@BOTH
def test_curves_compose_without_rounding_between(backend: str) -> None:
    image = GREYS
    render = BACKENDS[backend].render
    np.testing.assert_array_equal(render(gamma(3.0).then(gamma(1 / 3)), 0, image), image)
    rounded = render(gamma(1 / 3), 0, render(gamma(3.0), 0, image))
    assert abs(rounded.astype(int) - image).max() > 20  # the test can fail
    once = render(gamma(1.7).then(gamma(0.9)), 0, image)
    exact = 255.0 * (image / 255.0) ** (1.7 * 0.9)
    assert abs(once - exact).max() <= 0.5


@BOTH
def test_a_curve_gated_off_is_the_identity(backend: str) -> None:
    image = photo()
    steps = gamma(2.0).then(Curve((("solarize", np.array([100.0])),)))
    for given_image in (image, image.astype(np.float32) * 0.9):
        off = BACKENDS[backend].render(steps.gate(np.array([False])), 0, given_image)
        np.testing.assert_array_equal(off, given_image)
    half = steps.gate(np.array([False])).then(gamma(0.5))
    alone = BACKENDS[backend].render(gamma(0.5), 0, image)
    np.testing.assert_array_equal(BACKENDS[backend].render(half, 0, image), alone)


JITTER = {"color_jitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}}


@pytest.mark.parametrize("index", range(4))
def test_jitter_is_torchvision_in_any_order(index: int) -> None:
    """On floats within a range in which nothing is clipped."""
    image = (photo().astype(np.float64) * 0.3 + 90.0).astype(np.float32)
    values, got = drawn(JITTER, image, index), run(JITTER, image, index=index)
    for order in itertools.permutations(("brightness", "contrast", "saturation")):
        out = torch.from_numpy(image.astype(np.float64) / 255.0).permute(2, 0, 1)
        for name in order:
            out = getattr(tv, f"adjust_{name}")(out, float(values[name]))
        # torchvision's luma weights sum to 0.9999: 0.02 levels, a fifth of that for each blend.
        assert abs(got - out.permute(1, 2, 0).numpy() * 255.0).max() < 0.015


@given(st.tuples(*[st.floats(0, 2)] * 3), st.floats(-0.5, 0.5))
@settings(deadline=None, max_examples=20)
def test_the_parts_of_jitter_commute(factors: tuple[float, ...], turns: float) -> None:
    """Which is why no order is drawn; to the four digits of YIQ's constants."""
    image = photo(height=9, width=11).astype(np.float64)
    parts = [
        make(np.array([f])) for make, f in zip((brighten, contrast, saturate), factors, strict=True)
    ]
    ends = []
    for order in itertools.permutations([*parts, rotate_hue(np.array([turns]))]):
        whole = functools.reduce(Color.then, order)
        ends.append(map_colours(whole, image))
    assert np.ptp(ends, axis=0).max() < 0.1


TEN = [
    *({"saturation": {"factor": [0.8, 1.3]}}, {"brightness": {"factor": [0.7, 1.1]}}),
    *({"hue": {"shift": [-0.2, 0.2]}}, {"contrast": {"factor": [0.6, 1.2]}}),
    *({"color_temperature": {"kelvin": [5000, 9000]}}, {"invert": {"p": 1}}),
    *({"rgb_shift": {"red": [-9, 9]}}, "channel_shuffle", JITTER),
    {"saturation": {"factor": [0.5, 1.0]}},
]


@pytest.mark.parametrize("index", range(8))
def test_ten_linear_ops_fuse_to_within_a_level(index: int) -> None:
    # A narrow range of levels: clipping in between would be a true difference.
    image = (photo() * 0.4 + 70).astype(np.uint8)
    (whole,) = meanings(build(*TEN), image.shape, (index,))
    exact = image.astype(np.float64)
    for step in meanings(build(*TEN), image.shape, (index,), fused=False):
        assert isinstance(step, Color)
        exact = map_colours(step, exact)
    assert exact.min() > 0 and exact.max() < 255
    for backend in (opencv, reference):
        got = backend.render(whole, 0, image).astype(np.float64)
        assert abs(got - exact).max() < 0.53


KEEPS_GREY = [
    *({"saturation": {"factor": [0, 3]}}, {"hue": {"shift": [-0.5, 0.5]}}, {"grayscale": {"p": 1}}),
]
MOVES_GREY = [
    *({"brightness": {"factor": [0.5, 0.5]}}, {"contrast": {"factor": [0.3, 2.0]}}),
    {"invert": {"p": 1}},
]


@BOTH
@pytest.mark.parametrize("index", range(6))
def test_grey_keeps_its_level(backend: str, index: int) -> None:
    for item in KEEPS_GREY:
        for image in (GREYS, grey()):
            np.testing.assert_array_equal(run(item, image, backend, index), image)
        floats = GREYS.astype(np.float32)
        np.testing.assert_allclose(run(item, floats, backend, index), floats, atol=1e-3)


@BOTH
@pytest.mark.parametrize("index", range(20))
def test_grey_stays_grey_exactly(backend: str, index: int) -> None:
    """Also where levels lie on a half, which brightness 0.5 sees to."""
    for items in ([*KEEPS_GREY, *MOVES_GREY], [MOVES_GREY[0], *KEEPS_GREY[:2]]):
        out = run(items, GREYS, backend, index)
        np.testing.assert_array_equal(out, out[:, :, :1].repeat(3, axis=2))
        if items[0] is MOVES_GREY[0]:
            np.testing.assert_array_equal(out, np.rint(GREYS / 2))
        alone = run(items, np.ascontiguousarray(GREYS[:, :, :1]), backend, index)
        assert abs(alone.astype(int) - out[:, :, :1]).max() <= 1  # the grid: a level near a half


IDENTITIES = [
    *({"brightness": {"factor": [1, 1]}}, {"contrast": {"factor": [1, 1]}}),
    *({"saturation": {"factor": [1, 1]}}, {"hue": {"shift": [0, 0]}}, "color_jitter"),
    *({"gamma": {"gamma": [1, 1]}}, {"posterize": {"bits": [8, 8]}}),
    *({"solarize": {"threshold": [256, 256]}}, {"color_temperature": {"kelvin": [6500, 6500]}}),
    {"rgb_shift": {"red": [0, 0], "green": [0, 0], "blue": [0, 0]}},
]


@BOTH
@pytest.mark.parametrize("item", IDENTITIES, ids=str)
def test_what_changes_nothing_changes_no_bit(item: object, backend: str) -> None:
    np.testing.assert_array_equal(run(item, photo(), backend), photo())


@BOTH
def test_a_full_turn_of_hue_is_the_identity(backend: str) -> None:
    turned = BACKENDS[backend].render(rotate_hue(np.array([1.0])), 0, photo())
    np.testing.assert_array_equal(turned, photo())
    half = rotate_hue(np.array([0.5]))
    back = BACKENDS[backend].render(half.then(half), 0, photo())
    np.testing.assert_array_equal(back, photo())


def test_a_positive_hue_shift_goes_from_red_to_yellow() -> None:
    red = np.full((1, 1, 3), (200, 40, 40), np.uint8)
    r, g, b = opencv.render(rotate_hue(np.array([0.1])), 0, red)[0, 0].tolist()
    assert g > 60 and g > b and r > g


def test_contrast_is_about_the_mean_of_what_came_before() -> None:
    image = photo().astype(np.float64)
    whole = brighten(np.array([0.5])).then(contrast(np.array([0.25])))
    got = reference.exact(whole, 0, image)
    half = image * 0.5
    level = (half @ [0.299, 0.587, 0.114]).mean()
    assert abs(got - (0.25 * half + 0.75 * level)).max() < 0.02
    lone = saturate(np.array([0.0]))
    assert abs(reference.exact(lone, 0, image)[..., 0] - skimage.rgb2gray(image)).max() > 1


@BOTH
def test_autocontrast_stretches_a_dim_photo(backend: str) -> None:
    """As torchvision on floats; Pillow rounds down, so it is within a level."""
    dim = (photo() * [0.5, 0.6, 0.2] + [40, 3, 99]).astype(np.uint8)
    got = run({"autocontrast": {"p": 1}}, dim, backend)
    want = tv.autocontrast(torch.from_numpy(dim / 255.0).permute(2, 0, 1)).permute(1, 2, 0)
    assert abs(got - want.numpy() * 255).max() <= 0.5 + 1e-9
    fall = got.astype(int) - np.asarray(ImageOps.autocontrast(Image.fromarray(dim)))
    assert fall.min() >= 0 and fall.max() <= 1
    floats = run({"autocontrast": {"p": 1}}, dim.astype(np.float32), backend)
    np.testing.assert_allclose(floats, want.numpy() * 255, atol=1e-3)


@BOTH
@pytest.mark.parametrize("item", ["autocontrast", "equalize"])
def test_a_constant_channel_stays(item: str, backend: str) -> None:
    flat = photo().copy()
    flat[:, :, 1] = 77
    assert (run({item: {"p": 1}}, flat, backend)[:, :, 1] == 77).all()


@BOTH
@pytest.mark.parametrize("shape", [(3, 5), (40, 7), (64, 64), (1, 1)])
def test_equalize_is_pillows_on_any_size(shape: tuple[int, int], backend: str) -> None:
    image = photo(height=64, width=64)[: shape[0], : shape[1]]
    want = np.asarray(ImageOps.equalize(Image.fromarray(image)))
    np.testing.assert_array_equal(run({"equalize": {"p": 1}}, image, backend), want)


def test_float_levels_are_equalized_through_whole_ones() -> None:
    image = photo().astype(np.float32)
    for item in ({"equalize": {"p": 1}}, {"clahe": {"clip_limit": [2, 2]}}):
        whole = run(item, photo())
        for nudge in (0.0, 0.4, -0.4):
            got = run(item, np.clip(image + nudge, 0, 255).astype(np.float32))
            np.testing.assert_array_equal(got, whole.astype(np.float32))


CLAHE = {"clahe": {"clip_limit": [3, 3], "tiles": 8}}


@pytest.mark.parametrize("shape", [(96, 128), (97, 128), (50, 33), (5, 60), (3, 3), (1, 1)])
def test_clahe_from_its_definition_is_opencvs(shape: tuple[int, int]) -> None:
    """Sizes that tiles divide, in both, one or no direction, and fewer pixels than tiles."""
    image = np.ascontiguousarray(grey(height=97)[: shape[0], : shape[1]])
    difference = abs(run(CLAHE, image).astype(int) - run(CLAHE, image, "reference"))
    assert difference.max(initial=0) <= 1 and difference.mean() < 0.01


def test_colour_clahe_is_opencvs_table_on_scikit_images_lab() -> None:
    """The reference, against an independent Lab: only a level next to a half may differ."""
    scale, shift = np.array([2.55, 1, 1]), np.array([0, 128, 128])
    lab = np.rint(skimage.rgb2lab(photo()) * scale + shift).astype(np.uint8)
    lab[..., 0] = cv2.createCLAHE(3.0, (8, 8)).apply(np.ascontiguousarray(lab[..., 0]))
    want = skimage.lab2rgb((lab - shift) / scale) * 255
    difference = abs(run(CLAHE, photo(), "reference") - want)
    assert difference.mean() < 0.35 and (difference > 1.5).mean() < 0.03


@pytest.mark.parametrize("name", STATISTICS)
def test_published_statistics_normalize(name: str) -> None:
    mean, std = STATISTICS[name]
    got = run({"normalize": {"stats": name}}, photo())
    pixels = torch.from_numpy(photo() / 255.0).permute(2, 0, 1)
    want = tv.normalize(pixels, list(mean), list(std)).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(got, want, atol=2e-6)
    floats = run({"normalize": {"stats": name}}, photo().astype(np.float32))
    np.testing.assert_allclose(floats, want, atol=2e-6)


@BOTH
def test_statistics_of_other_channels_are_refused_with_the_remedy(backend: str) -> None:
    with pytest.raises(DataError, match=r"1 channel, .* 3 numbers: give one number"):
        run({"normalize": "imagenet"}, grey(), backend)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"mean": 0.5}, "together"),
        ({"stats": "clip", "mean": 0.5, "std": 0.5}, "give either stats"),
        ({"mean": [0.5, 0.5], "std": [0.1, 0.2, 0.3]}, "different numbers"),
        ({"mean": [123.7, 116.3, 103.5], "std": 0.5}, "from 0 to 1"),
        ({"p": 0.5}, "must be 1"),
        ({"stats": "imagnet"}, "imagenet"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(fields: dict[str, object], says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        build({"normalize": fields})


def test_one_number_serves_all_channels() -> None:
    (op,) = build({"normalize": {"mean": 0.5, "std": [0.1, 0.2, 0.4]}})
    assert isinstance(op, Normalize)
    assert op.statistics == ((0.5,), (0.1, 0.2, 0.4))
    out = run({"normalize": {"mean": 0.5, "std": [0.1, 0.2, 0.4]}}, GREYS)
    np.testing.assert_allclose(out[..., 0], 4 * out[..., 2], rtol=1e-6)


def test_alpha_is_not_coloured() -> None:
    alpha = np.full((*photo().shape[:2], 1), 99, np.uint8)
    image: Array = np.concatenate([photo(), alpha], axis=2)
    for item in ({"invert": {"p": 1}}, {"gamma": {"gamma": [2, 2]}}, {"equalize": {"p": 1}}):
        out = run(item, image)
        np.testing.assert_array_equal(out[:, :, 3], 99)
        np.testing.assert_array_equal(out[:, :, :3], run(item, photo()))


@pytest.mark.parametrize(
    "item",
    [
        "brightness",
        "contrast",
        {"saturation": {"factor": [0, 2]}},
        {"hue": {"shift": [-0.5, 0.5]}},
        {"color_jitter": {"brightness": 0.4}},
        {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}},
        {"grayscale": {"p": 1}},
        {"invert": {"p": 1}},
    ],
    ids=str,
)
def test_a_grey_image_is_a_colour_image_of_equal_channels(item: Any) -> None:
    image = grey()
    for index in range(20):
        alone = run(item, image, index=index)
        assert np.array_equal(run(item, np.repeat(image, 3, axis=2), index=index)[:, :, :1], alone)
