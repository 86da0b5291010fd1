"""Kernels, medians, JPEG, downscaling and equalization on a batch, against other libraries."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace
from typing import Any, Literal

import cv2
import kornia
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms.v2 import functional as tv

from augpipe.backends import batched, reference
from augpipe.backends.batched.jpeg import quantisation
from augpipe.backends.batched.median import middle_network
from augpipe.backends.batched.pieces import Own, Shape
from augpipe.errors import DataError
from augpipe.ir import Codec, Histogram, Kernel, Median
from tests.batches import batch, images, tensor
from tests.harness import photo

DTYPES = [np.uint8, np.float32]
SHAPES = [(1, 1, 3), (1, 7, 1), (7, 1, 3), (5, 4, 2), (13, 9, 3), (8, 10, 4), (6, 5, 5)]


def kernels(n: int, rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """Uneven kernels of sum 1, some weights negative; row k reaches less far than the array."""
    weights = np.random.default_rng(seed).uniform(-0.2, 1.0, (n, rows, columns))
    for k in range(n):
        i, j = min(k, rows // 2), min(k, columns // 2)
        inner = np.zeros((rows, columns), bool)
        inner[i : rows - i, j : columns - j] = True
        weights[k][~inner] = 0
    return weights / weights.sum(axis=(1, 2), keepdims=True)


def meanings_of(n: int, channels: int = 3) -> list[Any]:
    on, spread = np.ones(n, bool), np.linspace(0, 1, n)
    kinds: list[Literal["autocontrast", "equalize"]] = ["autocontrast", "equalize"]
    out: list[Any] = [
        Kernel(on, (kernels(n, 7, 1), kernels(n, 1, 7))),
        Kernel(on, (kernels(n, 5, 5),)),
        Kernel(on, (kernels(n, 3, 9), kernels(n, 5, 3))),
        Median(on, np.array([3, 5, 7, 17, 1] * n)[:n]),
        Codec(on, "jpeg", np.rint(10 + 85 * spread)),
        Codec(on, "downscale", 0.2 + 0.75 * spread),
        *(Histogram(on, kind, 0 * spread) for kind in kinds),
    ]
    if channels in (1, 3, 4):
        out += [Histogram(on, "clahe", 1 + 3 * spread, tiles) for tiles in (2, 3)]
    return out


def tolerance(meaning: Any, whole: bool) -> float:
    match meaning:
        case Codec(kind="jpeg") | Histogram(kind="equalize") | Median():
            return 0.0
        case Histogram(kind="clahe"):
            return 3.0  # a level of 8-bit Lab on a half, times a table's slope
        case _:
            return 1.0 if whole else 1e-3  # float32: a level on a half; last bits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_reference(shape: tuple[int, ...], dtype: Any) -> None:
    """Tiny images too: kernels, windows and tiles larger than the image."""
    many = images(4, shape, dtype)
    for meaning in meanings_of(4, shape[2]):
        out = batch(meaning, many)
        assert out.dtype == dtype
        for row in range(4):
            want = reference.render(meaning, row, many[row])
            difference = abs(out[row].astype(float) - want).max()
            assert difference <= tolerance(meaning, dtype == np.uint8), (meaning, row)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(33, 17, 3), (20, 64, 1), (6, 5, 2)], ids=str)
def test_a_row_stands_alone(shape: tuple[int, ...], dtype: Any) -> None:
    many = images(6, shape, dtype)
    for meaning in meanings_of(6, shape[2]):
        out = batch(meaning, many)
        for row in range(6):
            own = slice(row, row + 1)
            parts = {
                name: getattr(meaning, name)[own]
                for name in ("on", "amount", "size")
                if hasattr(meaning, name)
            }
            if isinstance(meaning, Kernel):
                parts["factors"] = tuple(factor[own] for factor in meaning.factors)
            assert np.array_equal(batch(replace(meaning, **parts), many[own])[0], out[row])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_are_off_stay(dtype: Any) -> None:
    many, on = images(4, (12, 14, 3), dtype), np.array([True, False, True, False])
    for meaning in meanings_of(4):
        out, every = batch(meaning.gate(on), many), batch(meaning, many)
        assert np.array_equal(out[~on], many[~on]) and np.array_equal(out[on], every[on])
        assert batched.lower(meaning.gate(on & False), Shape(4, 3, 12, 14)) == [[]]


def test_no_images_and_no_pixels() -> None:
    for meaning in meanings_of(2):
        for shape in ((0, 4, 3), (4, 0, 3)):
            assert batch(meaning, images(2, shape)).shape == (2, *shape)
    for meaning in meanings_of(0):
        assert batch(meaning, images(0, (4, 4, 3))).shape == (0, 4, 4, 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_never_looks_back_from_the_device(channels: int, dtype: torch.dtype) -> None:
    """Fake CUDA tensors: a tensor left on the CPU, or a value asked back, raises."""
    for meaning in meanings_of(4):
        (pieces,) = batched.lower(meaning, Shape(4, channels, 12, 10))
        for piece in pieces:
            count, colours = len(piece.rows), 3 if piece.colours else channels
            with FakeTensorMode():

                def there(array: np.ndarray) -> torch.Tensor:
                    name = "float32" if array.dtype == np.float64 else array.dtype.name
                    return torch.empty(array.shape, dtype=getattr(torch, name), device="cuda")

                arrays, shared = (tuple(map(there, a)) for a in (piece.arrays, piece.shared))
                given = torch.empty(count, colours, 12, 10, dtype=dtype, device="cuda")
                out = piece.do(given, Own(arrays, shared, slice(0, count)))
                assert out.device.type == "cuda"
                assert out.dtype == dtype and out.shape == given.shape


def test_alpha_stays() -> None:
    many = images(4, (16, 18, 4))
    for meaning in meanings_of(4):
        out, colours = batch(meaning, many), batch(meaning, many[..., :3].copy())
        assert np.array_equal(out[..., 3], many[..., 3])
        assert np.array_equal(out[..., :3], colours)


# Kernels.


def test_kernels_are_correlations() -> None:
    """SciPy's `mirror` is REFLECT_101; kernels of many extents in a batch."""
    many = images(4, (21, 26, 3), np.float32)
    for rows, columns in ((7, 7), (9, 1), (1, 5), (3, 11)):
        weights = kernels(4, rows, columns)
        out = batch(Kernel(np.ones(4, bool), (weights,)), many)
        for row in range(4):
            want = ndimage.correlate(
                many[row].astype(float), weights[row][..., None], mode="mirror"
            )
            assert abs(out[row] - want.clip(0, 255)).max() < 1e-4  # float32 sums


def test_kernels_of_other_taps_share_a_batch() -> None:
    """Taps that are zero in one row and not in another, in either order."""
    line = np.eye(5) / 5
    weights = np.stack([line, line[::-1], np.full((5, 5), 0.04), line])
    many = images(4, (12, 11, 3), np.float32)
    out = batch(Kernel(np.ones(4, bool), (weights,)), many)
    for row in range(4):
        want = ndimage.correlate(many[row].astype(float), weights[row][..., None], mode="mirror")
        assert abs(out[row] - want).max() < 1e-4  # float32 sums


def test_a_kernel_is_kornias() -> None:
    many, weights = images(3, (20, 24, 3), np.float32), abs(kernels(3, 5, 5))
    weights /= weights.sum(axis=(1, 2), keepdims=True)
    want = kornia.filters.filter2d(tensor(many), torch.from_numpy(weights).float(), "reflect")
    out = batched.render([Kernel(np.ones(3, bool), (weights,))], tensor(many))
    assert (out - want).abs().max() < 1e-4  # float32 sums


def test_a_kernel_of_one_changes_nothing() -> None:
    one = np.zeros((2, 5, 5))
    one[:, 2, 2] = 1.0
    assert batched.lower(Kernel(np.ones(2, bool), (one, one)), Shape(2, 3, 8, 8)) == [[]]


def test_blurs_pass_gradients() -> None:
    given = tensor(images(2, (9, 9, 3), np.float32)).requires_grad_()
    weights = abs(kernels(2, 5, 1)), abs(kernels(2, 1, 5))
    weights = tuple(w / w.sum(axis=(1, 2), keepdims=True) for w in weights)
    out = batched.render([Kernel(np.ones(2, bool), weights)], given)
    (grad,) = torch.autograd.grad(out.sum(), given)
    assert abs(float(grad.sum()) - out.numel()) < 1e-2  # weights sum to 1, mirrored or not
    for meaning in (
        Median(np.ones(2, bool), np.array([3, 5])),
        Histogram(np.ones(2, bool), "autocontrast", np.zeros(2)),
        Codec(np.ones(2, bool), "downscale", np.array([0.5, 0.3])),
    ):
        (grad,) = torch.autograd.grad(batched.render([meaning], given).sum(), given)
        assert grad.any() and grad.isfinite().all()


# Medians.


def test_the_network_finds_the_middle() -> None:
    """By the 0-1 principle: all 512 inputs of 9 zeros and ones; 25 numbers in random orders."""

    def middle(wires: np.ndarray) -> np.ndarray:
        wires = wires.copy()
        for i, j, low, high in middle_network(len(wires)):
            a, b = wires[i].copy(), wires[j].copy()
            wires[i] = np.minimum(a, b) if low else -1
            wires[j] = np.maximum(a, b) if high else -1
        return wires[len(wires) // 2]

    every = np.array(list(itertools.product((0, 1), repeat=9))).T
    assert np.array_equal(middle(every), np.median(every, axis=0))
    bits = np.random.default_rng(0).random((25, 20_000)) < np.linspace(0.3, 0.7, 20_000)
    assert np.array_equal(middle(bits.astype(int)), np.median(bits, axis=0))


@pytest.mark.parametrize("size", [3, 5, 7, 9, 15, 17, 31, 99])
def test_medians_are_scipys(size: int) -> None:
    many = images(1, (24, 29, 1))
    want = ndimage.median_filter(many[0], (size, size, 1), mode="nearest")
    assert np.array_equal(batch(Median(np.ones(1, bool), np.array([size])), many)[0], want)


def test_small_medians_of_floats_are_exact() -> None:
    many = images(2, (12, 13, 3), np.float32)
    for size in (3, 5):
        want = ndimage.median_filter(many, (1, size, size, 1), mode="nearest")
        assert np.array_equal(batch(Median(np.ones(2, bool), np.array([size] * 2)), many), want)


# Codecs.


def stored(image: np.ndarray, quality: int) -> np.ndarray:
    data = io.BytesIO()
    picture = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
    picture.save(data, "JPEG", quality=quality, subsampling="4:2:0")
    return np.asarray(Image.open(data)).reshape(image.shape)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_libjpegs_at_every_quality(channels: int) -> None:
    image = photo("china.jpg", 70, 93)[:, :, :channels]
    qualities = np.arange(1.0, 101.0)
    many = np.broadcast_to(image, (100, *image.shape)).copy()
    out = batch(Codec(np.ones(100, bool), "jpeg", qualities), many)
    for row, quality in enumerate(qualities):
        assert np.array_equal(out[row], stored(image, int(quality))), quality


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("black_and_white", [False, True])
def test_jpeg_is_libjpegs_at_every_size(channels: int, black_and_white: bool) -> None:
    """Blocks that the image does not fill, and chroma too narrow to be smoothed."""
    drawn = np.random.default_rng(1)
    for height, width in itertools.product((1, 2, 7, 8, 15, 16, 17, 33), (*range(1, 10), 17, 34)):
        image = drawn.integers(0, 256, (height, width, channels), np.uint8)
        image = np.where(image < 128, 0, 255).astype(np.uint8) if black_and_white else image
        quality = int(drawn.integers(1, 101))
        out = batch(Codec(np.ones(1, bool), "jpeg", np.array([float(quality)])), image[None])
        assert np.array_equal(out[0], stored(image, quality)), (height, width, quality)


def test_quantisation_is_what_pillow_writes() -> None:
    for quality in (1, 2, 25, 49, 50, 51, 75, 99, 100):
        data = io.BytesIO()
        Image.fromarray(photo()).save(data, "JPEG", quality=quality)
        written = Image.open(data).quantization  # type: ignore[attr-defined]
        ours = quantisation(np.array([quality]))[0].reshape(2, 64)
        assert [written[0], written[1]] == ours.tolist()


def test_jpeg_has_its_limit() -> None:
    with pytest.raises(DataError, match="65500"):
        batched.lower(Codec(np.ones(1, bool), "jpeg", np.array([50.0])), Shape(1, 3, 2, 65501))


@pytest.mark.parametrize("size", [(8, 8), (30, 41), (17, 5)], ids=str)
def test_downscaling_averages_areas(size: tuple[int, int]) -> None:
    """Means as differences of the running sum, read between pixels, in float64."""
    scales = np.array([0.01, 0.25, 0.37, 0.5, 0.8, 0.99])
    many = images(6, (*size, 3), np.float32)
    out = batch(Codec(np.ones(6, bool), "downscale", scales), many)
    for row, scale in enumerate(scales):
        want = many[row].astype(float)
        for axis, length in enumerate(size):
            edges = np.linspace(0, length, max(1, round(scale * length)) + 1)
            total = np.concatenate([np.zeros_like(want.take([0], axis)), want.cumsum(axis)], axis)
            read = np.apply_along_axis(
                lambda t, e=edges: np.interp(e, np.arange(len(t)), t), axis, total
            )
            cell = np.searchsorted(edges, np.arange(length) + 0.5, side="right") - 1
            shape = [-1 if each == axis else 1 for each in range(3)]
            want = (np.diff(read, axis=axis) / np.diff(edges).reshape(shape)).take(cell, axis)
        assert abs(out[row] - want).max() < 1e-3  # float32 sums


def test_downscaling_rounds_half_to_even() -> None:
    image = np.array([[0, 1], [0, 1]], np.uint8)[None, :, :, None]  # mean 1/2
    meaning = Codec(np.ones(1, bool), "downscale", np.array([0.5]))
    assert not batch(meaning, image).any()
    assert (batch(meaning, image + 1) == 2).all()


# Histograms.


@pytest.mark.parametrize("kind", ["equalize", "autocontrast"])
def test_histograms_are_torchvisions(kind: Any) -> None:
    many = np.stack([photo(name) for name in ("astronaut.jpg", "china.jpg", "coffee.jpg")])
    many[1] //= 4
    out = batch(Histogram(np.ones(3, bool), kind, np.zeros(3)), many)
    want = getattr(tv, kind)(tensor(many)).permute(0, 2, 3, 1).numpy()
    # Torchvision's autocontrast rounds down.
    assert abs(out.astype(int) - want).max() <= (1 if kind == "autocontrast" else 0)


def test_a_constant_channel_stays() -> None:
    for dtype, level in ((np.uint8, 77), (np.float32, 77.3)):
        many = images(2, (32, 32, 3), dtype) // 2
        many[:, :, :, 1] = level
        for kind in ("autocontrast", "equalize"):
            out = batch(Histogram(np.ones(2, bool), kind, np.zeros(2)), many)  # type: ignore[arg-type]
            want = np.rint(level) if kind == "equalize" else many[0, 0, 0, 1]
            assert (out[..., 1] == want).all() and not np.array_equal(out, many)


def test_autocontrast_rounds_exactly() -> None:
    """Every pair of ends, every level between them, in whole numbers."""
    for low, high in ((0, 1), (3, 250), (100, 202), (7, 17), (0, 254), (5, 175)):
        levels = np.arange(low, high + 1, dtype=np.uint8)
        out = batch(
            Histogram(np.ones(1, bool), "autocontrast", np.zeros(1)), levels[None, None, :, None]
        )
        twice = 2 * 255 * (levels.astype(int) - low)
        floor, rest = np.divmod(twice + (high - low), 2 * (high - low))
        want = floor - ((rest == 0) & (floor % 2 == 1))
        assert np.array_equal(out.ravel(), want)


@pytest.mark.parametrize("tiles", [1, 4, 5, 8])
def test_clahe_is_opencvs(tiles: int) -> None:
    many = np.stack([photo("china.jpg")[:, :, :1], photo("coffee.jpg")[:, :, :1]])
    limits = np.array([1.0, 3.7])
    out = batch(Histogram(np.ones(2, bool), "clahe", limits, tiles), many)
    for row in range(2):
        want = cv2.createCLAHE(float(limits[row]), (tiles, tiles)).apply(many[row])
        difference = abs(out[row, :, :, 0].astype(int) - want.reshape(want.shape[:2]))
        assert difference.max() <= 1 and difference.mean() < 0.01  # float32 interpolation


def test_clahe_keeps_grey_grey() -> None:
    ramp = np.arange(64 * 64).reshape(1, 64, 64, 1) // 16
    many = np.broadcast_to(ramp.astype(np.uint8), (1, 64, 64, 3)).copy()
    out = batch(Histogram(np.ones(1, bool), "clahe", np.array([3.0])), many)
    assert np.ptp(out.astype(int), axis=3).max() == 0


def test_clahe_wants_grey_or_colour() -> None:
    with pytest.raises(DataError, match="2 channels"):
        batched.lower(Histogram(np.ones(1, bool), "clahe", np.ones(1)), Shape(1, 2, 8, 8))
