"""The batched backend gives what the reference gives, row by row, on any device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from augpipe.backends import batched, reference
from augpipe.ir import Flow, Meaning, Mix, Warp
from augpipe.pipeline import load
from tests.cases import CASES, Case
from tests.harness import build, grey, meanings, photo

ROWS = 4
DTYPES = {"uint8": np.uint8, "float32": np.float32}


def square(case: Case) -> np.ndarray:
    """A picture whose quarter turns have its own size: a batch has one size."""
    return photo(height=96, width=96) if case.image == "rgb" else grey(height=96, width=96)


def drawn(case: Case, image: np.ndarray) -> list[Meaning]:
    indices = range(case.index, case.index + ROWS)
    return meanings(build(case.item, section=case.section), image.shape, tuple(indices))


def stacked(image: np.ndarray, count: int = ROWS) -> torch.Tensor:
    return torch.from_numpy(np.stack([image] * count)).permute(0, 3, 1, 2).contiguous()


ALONE = [case for case in CASES if case.section == "sample"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ALONE, ids=lambda c: c.id)
def test_agrees_with_the_reference(case: Case, dtype: str) -> None:
    """Within the tolerance that the row gives the opencv backend, which has the same causes."""
    image = square(case).astype(DTYPES[dtype])
    whole = drawn(case, image)
    out = batched.render(whole, stacked(image)).permute(0, 2, 3, 1).numpy()
    for row in range(ROWS):
        want = image
        for meaning in whole:
            assert not isinstance(meaning, Mix)
            want = reference.render(meaning, row, want)
        assert out.dtype == want.dtype and out[row].shape == want.shape
        levels = 255.0 if want.dtype != np.uint8 and abs(want).max() < 20 else 1.0
        difference = abs(out[row].astype(np.float64) - want) * levels
        worst, mean = difference.max(), difference.mean()
        allowed = np.maximum(case.parity, (0.02, 0.005))  # float32 positions: 1e-4 pixels
        assert worst <= allowed[0], f"row {row}: max {worst:.3f}, mean {mean:.4f}"
        assert mean <= allowed[1], f"row {row}: max {worst:.3f}, mean {mean:.4f}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ALONE, ids=lambda c: c.id)
def test_a_row_stands_alone(case: Case, dtype: str) -> None:
    """A batch is its images one by one, bit for bit."""
    image = square(case).astype(DTYPES[dtype])
    out = batched.render(drawn(case, image), stacked(image))
    for row in range(ROWS):
        ops = build(case.item, section=case.section)
        own = meanings(ops, image.shape, (case.index + row,))
        assert torch.equal(batched.render(own, stacked(image, 1))[0], out[row]), f"row {row}"


@pytest.mark.parametrize("case", [c for c in ALONE if c.image == "rgb"], ids=lambda c: c.id)
def test_never_looks_back_from_the_device(case: Case) -> None:
    """Fake CUDA tensors: a tensor left on the CPU, or a value asked back, raises."""
    image = square(case)
    whole = drawn(case, image)
    real = batched.render(whole, stacked(image))
    with FakeTensorMode():
        for dtype in (torch.uint8, torch.float32):
            given = torch.empty(ROWS, 3, 96, 96, dtype=dtype, device="cuda")
            out = batched.render(whole, given)
            assert out.device.type == "cuda" and out.shape == real.shape


SHRUNK: dict[str, tuple[tuple[int, int], list[Any]]] = {
    "odd sizes": ((61, 83), [{"resize": [20, 22]}]),
    "odd sizes by four and more": ((61, 83), [{"resize": [13, 9]}]),
    "one axis": ((61, 83), [{"resize": [50, 20]}]),
    "a crop anywhere": ((211, 173), [{"random_resized_crop": 16}]),
    "crop, resize": ((99, 131), [{"random_crop": [61, 83]}, {"resize": [20, 22]}]),
    "crop, flip, resize": ((99, 131), [{"random_crop": [61, 83]}, "vertical_flip", {"resize": 20}]),
    "crop, exact area": (
        (99, 131),
        [{"random_crop": [61, 83]}, {"resize": {"size": [20, 22], "antialias": "full"}}],
    ),
    "exact area of a crop": (
        (211, 173),
        [{"random_resized_crop": {"size": 16, "antialias": "full"}}],
    ),
    "crop, small and turned": (
        (99, 131),
        [{"random_crop": [61, 83]}, {"affine": {"degrees": [-40, 40], "scale": [0.3, 0.4]}}],
    ),
}


@pytest.mark.parametrize("name", SHRUNK)
def test_what_shrinks_agrees_with_the_reference(name: str) -> None:
    """On noise, where a pixel more, less or further shows; float32 positions: 1e-4 pixels."""
    size, items = SHRUNK[name]
    image = np.random.default_rng(3).integers(0, 256, (*size, 3)).astype(np.float32)
    rows = 12
    whole = meanings(build(*items), image.shape, range(rows))
    assert len(whole) == 1, "the crop is no part of the warp"
    (warp,) = whole
    assert isinstance(warp, Warp)
    if "crop" in name:
        odd = warp.box[:, :2] % 2 == 1
        assert odd.any(axis=0).all() and not odd.all()
    out = batched.render(whole, stacked(image, rows)).permute(0, 2, 3, 1).numpy()
    for row in range(rows):
        want = reference.render(warp, row, image)
        assert abs(out[row] - want).max() <= 0.05, f"row {row}"


NEAREST: list[Any] = [
    {"rotate": {"degrees": [-180, 180]}},
    # By three pixels in ten: some lines read where pixels meet.
    {
        "affine": {
            "degrees": [0, 0],
            "scale": [1, 1],
            "shear_x": [np.degrees(np.arctan(0.3)).item()] * 2,
        }
    },
    {"affine": {"degrees": [-90, 90], "scale": [0.3, 2.0], "shear_x": [-30, 30]}},
    {"perspective": {"distortion": 0.5}},
]


@pytest.mark.parametrize("border", ["edge", "reflect"])
@pytest.mark.parametrize("item", NEAREST, ids=["rotate", "shear", "affine", "perspective"])
def test_the_nearest_pixel_is_the_reference_s(item: Any, border: str) -> None:
    """Everywhere: which one it is must not hang on the 24 bits of float32."""
    ((name, given),) = item.items()
    item = {name: {**given, "interpolation": "nearest", "border": border}}
    count, size = 300, (61, 95)
    image = np.random.default_rng(5).integers(0, 256, (*size, 1), np.uint8)
    pipe = load({"version": 1, "seed": 7, "batch": [item]})
    masks = stacked(image.astype(np.int64), count)[:, 0]
    images, masks = pipe.batch(stacked(image, count), masks, index=range(count))
    (warp,) = meanings(build(item), image.shape, range(count), seed=7)
    assert isinstance(warp, Warp)
    for row in range(count):
        want = reference.render(warp, row, image)[:, :, 0]
        assert np.array_equal(images[row, 0].numpy(), want), row
        assert np.array_equal(masks[row].numpy(), want), row


MOVES: list[Any] = [
    "horizontal_flip",
    {"rotate": {"degrees": [-30, 30], "mask_fill": 3}},
    {"random_resized_crop": 48},
    {"elastic": {"amplitude": [0.03, 0.03], "mask_fill": 2}},
    {"perspective": {"p": 0.5}},
    {"rotate": {"degrees": [-30, 30], "mask_interpolation": "bilinear"}},
    {"pad": {"padding": 5, "border": "reflect"}},
]


def masks() -> Iterator[np.ndarray]:
    y, x = np.mgrid[:96, :80]
    classes = (x // 9 + 7 * (y // 11)) % 250
    for name in ("uint8", "int16", "int64", "float32", "bool", "uint16"):
        yield (classes % 2 if name == "bool" else classes).astype(name)


@pytest.mark.parametrize("item", MOVES, ids=str)
@pytest.mark.parametrize("mask", list(masks()), ids=lambda m: str(m.dtype))
def test_masks_agree_with_the_reference(item: Any, mask: np.ndarray) -> None:
    """All but 2 pixels in 10,000: a centre may lie on an edge between pixels in float32."""
    whole = meanings(build(item), mask.shape, range(ROWS))
    given = torch.from_numpy(np.stack([mask] * ROWS))[:, None]
    _, moved = batched.render_all(whole, torch.zeros(ROWS, 3, 96, 80), {"m": given})
    out = moved["m"]
    assert out.dtype == given.dtype
    for row in range(ROWS):
        want = mask[:, :, None]
        for meaning in whole:
            assert isinstance(meaning, Warp | Flow)
            want = reference.render_mask(meaning, row, want)
        got = out[row, 0].numpy().astype(np.float64)
        differs = abs(got - want[:, :, 0].astype(np.float64)) > 1e-2
        limit = 5e-3 if "bilinear" in str(item) else 2e-4
        assert differs.mean() <= limit, f"{differs.mean():.5f} of row {row}"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares CUDA with CPU: no GPU here")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", ALONE, ids=lambda c: c.id)
def test_cuda_gives_what_the_cpu_gives(case: Case, dtype: str) -> None:
    """Float32 sums in another order: a level that lies between two may round the other way."""
    image = square(case).astype(DTYPES[dtype])
    whole = drawn(case, image)
    here = batched.render(whole, stacked(image))
    there = batched.render(whole, stacked(image).cuda())
    assert there.device.type == "cuda" and there.dtype == here.dtype
    difference = (there.cpu().double() - here.double()).abs()
    allowed = np.maximum(case.parity, (0.02, 0.005))
    assert difference.max() <= allowed[0] and difference.mean() <= allowed[1]
