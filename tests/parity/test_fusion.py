"""A fused run is what its ops give one after another; figures with `pytest -s`.

All in float64 through the reference backend, so that what differs is fusion alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.ndimage import minimum_filter

from augpipe.backends import opencv, reference
from augpipe.pipeline import Pipeline
from augpipe.recipe import load
from augpipe.types import Array
from tests.harness import build, meanings, photo, ramp, run

FLIP = {"horizontal_flip": {"p": 1.0}}
TURN = {"rotate90": [1, 1]}
CROP = {"random_crop": {"size": [60, 80]}}
EDGE = {"border": "edge"}


def done(items: list[Any], image: Array, index: int = 0, *, fused: bool, mask: bool = False) -> Any:
    """The run in float64, without rounding."""
    out = image.astype(np.float64)
    for meaning in meanings(build(*items), image.shape, (index,), fused=fused):
        step = reference.render_mask if mask else reference.exact
        out = step(meaning, 0, out)  # type: ignore[operator]
    return out


def both(items: list[Any], image: Array, index: int = 0, *, mask: bool = False) -> tuple[Any, Any]:
    together = done(items, image, index, fused=True, mask=mask)
    return together, done(items, image, index, fused=False, mask=mask)


def count(items: list[Any]) -> int:
    return len(meanings(build(*items), (96, 128, 3)))


# One op between pixels, the others on pixels: nothing may differ.
ONE_READING: dict[str, list[Any]] = {
    "crop, flip, resize": [CROP, FLIP, {"resize": 100}],
    "crop, turn, resize by half and less": [CROP, TURN, {"resize": 23}],
    "resize, flip, turn, crop": [{"resize": 130}, FLIP, TURN, {"center_crop": 90}],
    "resized crop, flip": [{"random_resized_crop": 50}, FLIP],
    "small resized crop, flip": [{"random_resized_crop": 16}, FLIP],
    "flip, resized crop": [FLIP, {"random_resized_crop": 160}],
    "turn, resized crop": [TURN, {"random_resized_crop": 160}],
    "crop, rotate": [CROP, {"rotate": [-60, 60]}],
    "crop, rotate, mirrored": [CROP, {"rotate": {"degrees": [-60, 60], "border": "reflect"}}],
    "flip, rotate, edge": [FLIP, {"rotate": {"degrees": [-60, 60], **EDGE}}],
    "rotate, flip, turn, crop": [{"rotate": [-60, 60]}, FLIP, TURN, CROP],
    "transpose, affine, crop": [{"transpose": {"p": 1.0}}, "affine", {"center_crop": 70}],
    "flip, exact area, flip": [
        FLIP,
        {"random_resized_crop": {"size": 16, "antialias": "full"}},
        FLIP,
    ],
}
LABELS = np.mgrid[:96, :128].sum(axis=0)[:, :, None] // 9 % 16  # diagonal stripes


@pytest.mark.parametrize("name", ONE_READING)
def test_one_reading_among_moves_is_exact(name: str) -> None:
    items = ONE_READING[name]
    assert count(items) == 1
    for index in range(4):
        together, apart = both(items, photo(), index)
        worst = abs(together - apart).max()
        assert worst < 1e-6, f"sample {index}: {worst} grey levels"
        masks = both(items, LABELS, index, mask=True)
        on_edges = np.mean(np.not_equal(*masks))
        # Of LABELS' stripes, 9 pixels wide, a tie may move an edge: half a pixel on each side.
        assert on_edges < (0.06 if name in TIES else 1e-9), f"sample {index}: {on_edges:.2%}"


# Masks: which of two pixels is read at the exact middle between them changes with a flip.
TIES = {"crop, flip, resize", "crop, turn, resize by half and less"}

# An edge between image and fill, then a reading: fill is blended by the distance from the
# edge, where one op after another blends it by the taps of the interpolation.
FILL_READ: dict[str, list[Any]] = {
    "pad, rotate, pad": [{"pad": [9, 0, 3, 20]}, {"rotate": [-60, 60]}, {"pad": 5}],
    "translate, perspective": [{"translate": {"x": [-0.4, 0.4]}}, "perspective"],
    "pad, resize": [{"pad": [9, 0, 3, 20]}, {"resize": 90}],
    "pad, exact area": [
        {"pad": [12, 0, 4, 24]},
        {"resize": {"size": [30, 36], "antialias": "full"}},
    ],
}


@pytest.mark.parametrize("name", FILL_READ)
def test_fill_that_is_read_again_differs_at_its_edge_only(name: str) -> None:
    items = FILL_READ[name]
    assert count(items) == 1
    for index in range(4):
        together, apart = both(items, photo(), index)
        seen = both(items, np.full(photo().shape, 255.0), index)
        clear = np.all([(s < 1e-9) | (s > 255 - 1e-9) for s in seen], axis=0)
        difference = abs(together - apart)
        print(name, index, figures("edge", difference[~clear]), figures("whole", difference))
        assert difference[clear].max() < 1e-6
        # Where two edges meet, taps see a quarter of what the distance sees half of.
        assert difference[~clear].max(initial=0) < 255 / 4 + 0.25
        assert clear.mean() > 0.9
        # Masks have no blend: a label differs where an edge passes a pixel's very middle.
        assert np.mean(np.not_equal(*both(items, LABELS, index, mask=True))) < 0.01


# Several readings: exact on a linear ramp, where bilinear interpolation is.
LINEAR: dict[str, list[Any]] = {
    "crop, flip, rotate, scale": [CROP, FLIP, {"rotate": [-40, 40]}, {"scale": [0.6, 1.6]}],
    "rotate, rotate": [{"rotate": [-60, 60]}, {"rotate": [-60, 60]}],
    "resized crop, perspective, turn, translate": [
        {"random_resized_crop": {"size": [60, 72], "scale": [0.5, 1.0]}},
        {"perspective": 0.3},
        TURN,
        "translate",
    ],
    "resize, pad, rotate": [{"resize": [50, 101]}, {"pad": [7, 0, 12, 3]}, {"rotate": [-60, 60]}],
    "resize by a third, rotate": [{"resize": [23, 31]}, {"rotate": [-30, 30]}],
    "rotate, resized crop": [{"rotate": [-30, 30]}, {"random_resized_crop": 70}],
    "ten": [
        FLIP,
        {"rotate": [-20, 20]},
        {"shear": {"x": [-10, 10], "y": [-10, 10]}},
        TURN,
        {"scale": [0.8, 1.2]},
        "translate",
        {"affine": {"degrees": [-10, 10]}},
        {"pad": 6},
        {"center_crop": [70, 60]},
        {"perspective": 0.2},
    ],
}


def plain(items: list[Any], shape: tuple[int, ...], index: int, reach: int) -> Array:
    """Where no fill and no edge of any frame is within `reach` pixels, run op by op."""
    seen = np.ones((*shape[:2], 1))
    for meaning in meanings(build(*items), shape, (index,), fused=False):
        seen = (reference.exact(meaning, 0, np.rint(seen) * 255.0) > 254.999).astype(float)
        seen = minimum_filter(seen, (2 * reach + 1, 2 * reach + 1, 1), mode="constant")
    return seen[:, :, 0] > 0


def figures(what: str, difference: Array) -> str:
    if not difference.size:
        return f"{what}: none"
    return f"{what}: max {difference.max():.2e}, mean {difference.mean():.2e}"


@pytest.mark.parametrize("name", LINEAR)
def test_readings_multiply_exactly_on_a_ramp(name: str) -> None:
    items, image = LINEAR[name], ramp()
    assert count(items) == 1
    compared = 0
    for index in range(6):
        together, apart = both(items, image, index)
        inner = plain(items, image.shape, index, reach=2)
        difference = abs(together - apart)
        print(name, index, figures("inner", difference[inner]), figures("whole", difference))
        assert difference[inner].max(initial=0) < 1e-9
        compared += inner.sum()
    assert compared > 300


# Blocks that show a shift in any direction; LABELS' stripes do not show one along them.
BLOCKS = ((np.mgrid[:96, :128] // 9 % 4) * [[[4]], [[1]]]).sum(axis=0)[:, :, None]


def nearest_shift(one: Array, other: Array) -> tuple[int, int]:
    """Returns by how many pixels, of -1, 0 and 1, one image lies best on another."""
    inner = other[2:-2, 2:-2]
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    height, width = one.shape[:2]

    def apart(shift: tuple[int, int]) -> float:
        y, x = shift
        return float(abs(one[2 + y : height - 2 + y, 2 + x : width - 2 + x] - inner).mean())

    return min(shifts, key=apart)


@pytest.mark.parametrize("name", LINEAR)
def test_photos_differ_by_sharpness_only(name: str) -> None:
    """Reading once keeps detail that reading k times blurs: small on average, not shifted."""
    items, image = LINEAR[name], photo()
    for index in range(3):
        together, apart = both(items, image, index)
        difference = abs(together - apart)
        masks = both(items, BLOCKS, index, mask=True)
        moved = (masks[0] != masks[1]).mean()
        print(name, index, figures("photo", difference), f"mask: {moved:.2%} of pixels")
        # How much sharper is not ours to say; a shift by a pixel would make them less alike.
        assert nearest_shift(together, apart) == (0, 0)
        assert nearest_shift(*(mask.astype(float) for mask in masks)) == (0, 0)
        assert set(np.unique(masks[0])) <= set(range(16))


@pytest.mark.parametrize("name", [*ONE_READING, *FILL_READ, *LINEAR])
def test_opencv_fuses_as_the_reference(name: str) -> None:
    items = {**ONE_READING, **FILL_READ, **LINEAR}[name]
    labels = np.ascontiguousarray(photo()[:, :, :1] // 16)
    for index in range(4):
        fast = run(items, photo(), "opencv", index).astype(float)
        exact = run(items, photo(), "reference", index)
        difference = abs(fast - exact)
        print(name, index, figures("opencv", difference))
        assert difference.max() <= 1.0
        assert difference.mean() < 0.3
        (meaning,) = meanings(build(*items), photo().shape, (index,))
        masks = (backend.render_mask(meaning, 0, labels) for backend in (opencv, reference))
        # cv2's nearest rounds positions to 1/1024: a label in a thousand is the neighbour's.
        assert np.mean(np.not_equal(*masks)) < 1e-3


@pytest.mark.parametrize("backend", ["opencv", "reference"])
def test_corners_that_were_cut_off_stay_filled(backend: str) -> None:
    white = np.full((96, 128, 3), 255, np.uint8)
    there_and_back = [{"rotate": [30, 30]}, {"rotate": [-30, -30]}]
    out = run(there_and_back, white, backend)
    assert (out[0, 0] == 0).all()
    assert (out[-1, -1] == 0).all()
    assert (out[48, 64] == 255).all()
    apart = done(there_and_back, white, fused=False)
    assert abs(out - apart).max() <= 255 / 2 + 1
    assert ((out > 127) != (apart > 127)).mean() < 0.01, "fill of another shape"


@pytest.mark.parametrize("backend", ["opencv", "reference"])
def test_what_was_cropped_away_stays_unseen(backend: str) -> None:
    image = np.zeros((96, 128, 3), np.uint8)
    image[24:72, 32:96] = 200  # exactly the crop; red all around it
    image[(image == 0).all(axis=2)] = (255, 0, 0)
    for last in ({"rotate": [35, 35]}, {"scale": [0.5, 0.5]}, {"translate": {"x": [0.3, 0.3]}}):
        out = run([{"center_crop": [48, 64]}, last], image, backend)
        assert (out[:, :, 0] == out[:, :, 1]).all(), f"red is seen after {last}"
        assert (out == 0).any(), "nothing is filled"


@pytest.mark.parametrize(
    ("items", "nodes"),
    [
        ([{"rotate": {"fill": 0}}, {"rotate": {"fill": 9}}], 2),
        ([{"rotate": {"mask_fill": 0}}, {"rotate": {"mask_fill": 255}}], 2),
        ([{"rotate": EDGE}, "rotate"], 2),
        ([{"rotate": EDGE}, {"rotate": EDGE}], 2),
        ([{"rotate": {"border": "reflect"}}, {"rotate": {"border": "reflect"}}], 2),
        ([{"rotate": {"interpolation": "nearest"}}, "rotate"], 2),
        ([{"rotate": {"mask_interpolation": "bilinear"}}, "rotate"], 2),
        ([{"resize": {"size": 50, "antialias": "full"}}, "rotate"], 2),
        ([{"resize": 50}, {"rotate": EDGE}], 2),
        ([{"pad": {"padding": 3, **EDGE}}, {"rotate": EDGE}], 2),
        ([{"pad": {"padding": 3, "border": "reflect"}}, "rotate"], 2),
        (["rotate", "elastic", "rotate"], 3),
        (["rotate", "brightness", "rotate"], 3),
        (["rotate", "rotate"], 1),
        ([{"rotate": EDGE}, FLIP, {"random_crop": 20}, {"resize": 12}], 1),
        ([FLIP, CROP, {"rotate": EDGE}], 1),
        ([{"random_crop": {"size": 20, "pad_if_needed": True}}, {"rotate": EDGE}], 2),
        ([FLIP, {"resize": {"size": 50, "antialias": "full"}}, TURN], 1),
        (["random_resized_crop: 20", "rotate", "perspective", TURN, "affine", "translate"], 1),
    ],
)
def test_what_fuses(items: list[Any], nodes: int) -> None:
    items = [{"random_resized_crop": 20} if i == "random_resized_crop: 20" else i for i in items]
    assert count(items) == nodes


def test_fuse_false_keeps_every_op_apart() -> None:
    items = [CROP, FLIP, {"rotate": [-40, 40]}, "brightness", "contrast"]
    recipe = {"version": 1, "sample": items}
    image = photo()
    fused, apart = (Pipeline(load({**recipe, "fuse": fuse})) for fuse in (True, False))
    one, other = fused(image, index=3), apart(image, index=3)
    assert one.shape == other.shape
    assert nearest_shift(one.astype(float), other.astype(float)) == (0, 0)
    assert len(meanings(build(*items), image.shape, fused=True)) == 2
    assert len(meanings(build(*items), image.shape, fused=False)) == 5
    assert str(fused.explain(size=(96, 128))) != str(apart.explain(size=(96, 128)))
