"""Philox, noise and occlusion on a batch, against rng.py, SciPy and torchvision."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms.v2 import functional as tv

from augpipe import rng
from augpipe.backends import batched, reference
from augpipe.backends.batched import noise, philox
from augpipe.backends.batched.noise import half_even
from augpipe.backends.batched.pieces import Own, Shape
from augpipe.backends.tables import poisson_table
from augpipe.ir import Noise, NoiseKind, Regions
from augpipe.rng import stream_key
from tests.batches import batch, images, tensor

KEYS = np.array([0, 1, 2**32, 2**63 + 12345, 2**64 - 1, stream_key(7, "a", "b")], np.uint64)
KINDS: tuple[NoiseKind, ...] = get_args(NoiseKind)
AMOUNT = {"gaussian": 40.0, "multiplicative": 0.4, "poisson": 30.0}
DTYPES = [np.uint8, np.float32]
SHAPES = [(1, 1, 3), (1, 7, 1), (5, 4, 2), (9, 6, 3), (7, 8, 4), (6, 5, 5)]


def field(kind: NoiseKind, n: int, per_channel: bool = True) -> Noise:
    amount = AMOUNT.get(kind, 0.4) * np.linspace(0.5, 1.0, n)
    return Noise(np.ones(n, bool), kind, amount, KEYS[:n], per_channel)


def rectangles(n: int, fill: Any, shape: tuple[int, ...], count: int = 3) -> Regions:
    drawn = np.random.default_rng(5)
    x0 = drawn.integers(0, shape[1], (n, count))
    y0 = drawn.integers(0, shape[0], (n, count))
    x1, y1 = x0 + drawn.integers(0, 4, (n, count)), y0 + drawn.integers(0, 4, (n, count))
    boxes = np.stack([x0, y0, np.minimum(x1, shape[1]), np.minimum(y1, shape[0])], axis=2)
    boxes[0, 0] = (0, 0, 1, 1)
    return Regions(np.ones(n, bool), boxes, fill, KEYS[:n])


def meanings_of(n: int, shape: tuple[int, ...]) -> list[Any]:
    fills: list[Any] = [7.5, "mean", "noise"]
    return [
        *(field(kind, n, per_channel) for kind in KINDS for per_channel in (True, False)),
        *(rectangles(n, fill, shape, count) for fill in fills for count in (1, 3)),
    ]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 9, 1001, 4096])
@pytest.mark.parametrize("first", [0, 1, 3, 4, 7, 130])
def test_words_are_those_of_numpy(count: int, first: int) -> None:
    keys = torch.from_numpy(philox.round_keys(KEYS))
    words = philox.field_words(keys, count, first).numpy()
    levels = philox.level_field(keys, count, first).numpy()
    for row, key in enumerate(KEYS.tolist()):
        assert np.array_equal(words[row], rng.field_words(key, first + count)[first:])
        assert np.array_equal(levels[row], rng.level_field(key, first + count)[first:])


@pytest.mark.parametrize("count", [1, 6, 333])
def test_normals_are_those_of_numpy(count: int) -> None:
    keys, table = torch.from_numpy(philox.round_keys(KEYS)), torch.from_numpy(rng.normal_table())
    got = philox.normal_field(keys, count, table).numpy()
    assert np.array_equal(got, np.stack([rng.normal_field(key, count) for key in KEYS.tolist()]))


def test_words_are_those_of_the_paper() -> None:
    """The known answer of Random123 (kat_vectors) for key 0 and counter 0."""
    keys = torch.from_numpy(philox.round_keys(np.array([0], np.uint64)))
    got = philox.field_words(keys, 4)[0].tolist()
    assert got == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_agrees_with_the_reference(shape: tuple[int, ...], dtype: Any) -> None:
    many = images(3, shape, dtype)
    for meaning in meanings_of(3, shape):
        out = batch(meaning, many)
        assert out.dtype == dtype
        for row in range(3):
            want = reference.render(meaning, row, many[row])
            difference = abs(out[row].astype(float) - want).max()
            # Whole levels: float32 rounds what lies on a half. Floats: their last bits.
            assert difference <= (1.0 if dtype == np.uint8 else 1e-4), meaning
            if dtype == np.uint8 and getattr(meaning, "kind", "dropout") in (
                "salt_and_pepper",
                "dropout",
            ):
                assert difference == 0, meaning


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_stands_alone(dtype: Any) -> None:
    shape = (33, 17, 3)
    many = images(5, shape, dtype)
    for meaning in meanings_of(5, shape):
        out = batch(meaning, many)
        for row in range(5):
            own = slice(row, row + 1)
            parts = {
                name: getattr(meaning, name)[own]
                for name in ("on", "amount", "key", "boxes")
                if hasattr(meaning, name)
            }
            assert np.array_equal(batch(replace(meaning, **parts), many[own])[0], out[row])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_are_off_stay(dtype: Any) -> None:
    shape = (6, 7, 3)
    many, on = images(4, shape, dtype), np.array([True, False, True, False])
    for meaning in meanings_of(4, shape):
        out, every = batch(meaning.gate(on), many), batch(meaning, many)
        assert np.array_equal(out[~on], many[~on]) and np.array_equal(out[on], every[on])
        assert np.array_equal(batch(meaning.gate(on & False), many), many)
        assert batched.lower(meaning.gate(on & False), Shape(4, 3, 6, 7)) == [[]]


def test_no_images_and_no_pixels() -> None:
    for shape in ((0, 4, 3), (4, 0, 3)):
        for kind in KINDS:
            many = images(2, shape)
            assert batch(field(kind, 2), many).shape == many.shape
    for kind in KINDS:
        assert batch(field(kind, 0), images(0, (4, 4, 3))).shape == (0, 4, 4, 3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("channels", [1, 3, 4, 5])
def test_never_looks_back_from_the_device(channels: int, dtype: torch.dtype) -> None:
    """Fake CUDA tensors: a tensor left on the CPU, or a value asked back, raises."""
    shape = (6, 7, channels)
    for meaning in meanings_of(3, shape):
        ((piece,),) = batched.lower(meaning, Shape(3, channels, 6, 7))
        colours = 3 if piece.colours else channels
        with FakeTensorMode():

            def there(array: np.ndarray) -> torch.Tensor:
                narrow = np.float32 if array.dtype == np.float64 else array.dtype
                like = torch.empty(0, dtype=getattr(torch, np.dtype(narrow).name))
                return torch.empty(array.shape, dtype=like.dtype, device="cuda")

            own = Own(tuple(map(there, piece.arrays)), tuple(map(there, piece.shared)), slice(0, 3))
            given = torch.empty(3, colours, 6, 7, dtype=dtype, device="cuda")
            out = piece.do(given, own)
            assert out.device.type == "cuda" and out.dtype == dtype and out.shape == given.shape


@pytest.mark.parametrize("photons", [1e-3, 1.0, 57.3, 900.0, 100_000.0])
def test_poisson_counts_are_the_quantiles(photons: float) -> None:
    """Word for word what scipy.stats.poisson.ppf gives, at every level."""
    many = np.arange(256, dtype=np.float32).repeat(9).reshape(1, 48, 48, 1)
    meaning = Noise(np.ones(1, bool), "poisson", np.array([photons]), KEYS[3:4], True)
    words = rng.field_words(int(KEYS[3]), many.size).reshape(many.shape)
    counts = stats.poisson.ppf((words + 0.5) / 2**32, many * np.float64(photons / 255))
    want = (counts * (255.0 / photons)).clip(0, 255)
    assert abs(batch(meaning, many) - want).max() < 1e-4  # a count is 2.5e-3 levels at the least


def test_a_word_on_an_edge_counts_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """P(count <= k) 2^32 = word: k is too few for word + 1/2; the word before it is not."""
    _, edges = poisson_table(40.0)
    words = np.stack([edges[:, 3:40], edges[:, 3:40] - 1]).clip(0, 2**32 - 1)
    many = np.broadcast_to(np.arange(256.0, dtype=np.float32)[:, None], words.shape).copy()
    monkeypatch.setattr(
        noise, "field_words", lambda keys, count: torch.from_numpy(words.reshape(1, count))
    )
    meaning = Noise(np.ones(1, bool), "poisson", np.array([40.0]), KEYS[:1], True)
    out = batch(meaning, many.reshape(1, -1, 37, 1)).reshape(words.shape)
    first, _ = poisson_table(40.0)
    below = (edges[None, :, None] <= words[..., None]).sum(axis=3)
    want = ((first[:, None] + below) * (255 / 40.0)).clip(0, 255)
    assert abs(out - want).max() < 1e-4  # float32


def test_poisson_tables_share_a_batch() -> None:
    """Rows of few and of many photons: tables of 19 and of 5,000 counts side by side."""
    many = images(2, (16, 16, 3))
    both = Noise(np.ones(2, bool), "poisson", np.array([0.01, 90_000.0]), KEYS[:2], True)
    for row in range(2):
        want = reference.render(both, row, many[row]).astype(int)
        assert abs(batch(both, many)[row] - want).max() <= 1  # a half in float32


def test_gaussian_noise_is_its_quantiles() -> None:
    many = np.full((1, 32, 20, 3), 128, np.float32)
    words = rng.field_words(int(KEYS[0]), many.size // 2).astype(np.int64)
    levels = np.stack([words % 65536, words // 65536], axis=1).reshape(many.shape)
    every = stats.norm.ppf((np.arange(65536) + 0.5) / 65536)
    z = stats.norm.ppf((levels + 0.5) / 65536) / every.std()
    meaning = Noise(np.ones(1, bool), "gaussian", np.array([9.0]), KEYS[:1], True)
    assert abs(batch(meaning, many) - (128 + 9 * z)).max() < 3e-5  # float32 of levels near 128


def test_float_levels_stay_within_range() -> None:
    many = images(3, (40, 40, 3), np.float32)
    for kind in KINDS:
        out = batch(replace(field(kind, 3), amount=np.array([0.9, 0.5, 0.9])), many)
        assert out.min() >= 0 and out.max() <= 255


def test_fill_is_torchvision_erase() -> None:
    shape, fill = (24, 31, 3), (255.0, 0.0, 10.0)
    many, meaning = images(4, shape), rectangles(4, fill, shape)
    out = batch(meaning, many)
    for row in range(4):
        want = tensor(many)[row]
        for x0, y0, x1, y1 in meaning.boxes[row].tolist():
            if x1 > x0 and y1 > y0:
                value = torch.tensor(fill).to(torch.uint8).reshape(-1, 1, 1)
                want = tv.erase(want, y0, x0, y1 - y0, x1 - x0, value)
        assert np.array_equal(out[row], want.permute(1, 2, 0).numpy())


def test_regions_beyond_the_frame_are_cut() -> None:
    many = images(2, (5, 6, 3))
    boxes = np.array([[[-3, -2, 2, 2]], [[4, 3, 99, 2**40]]])
    out = batch(Regions(np.ones(2, bool), boxes, 9.0, KEYS[:2]), many)
    want = many.copy()
    want[0, :2, :2], want[1, 3:, 4:] = 9, 9
    assert np.array_equal(out, want)


def test_the_mean_is_rounded_half_to_even() -> None:
    boxes = np.array([[[0, 0, 1, 1]]] * 2)
    many = np.array([[[0, 1]], [[1, 2]]], np.uint8)[..., None]  # means 0.5 and 1.5
    out = batch(Regions(np.ones(2, bool), boxes, "mean", KEYS[:2]), many)
    assert out[:, 0, 0, 0].tolist() == [0, 2]
    totals = torch.arange(3000)
    for count in (1, 2, 7, 8, 255):
        want = np.rint(totals.numpy() / count)
        assert np.array_equal(half_even(totals, count).numpy(), want)


def test_alpha_is_neither_noisy_nor_hidden() -> None:
    shape = (8, 9, 4)
    many = images(3, shape)
    for meaning in meanings_of(3, shape):
        out, colours = batch(meaning, many), batch(meaning, many[..., :3].copy())
        assert np.array_equal(out[..., 3], many[..., 3])
        assert np.array_equal(out[..., :3], colours)


def test_gradients_flow() -> None:
    given = tensor(images(2, (8, 8, 3), np.float32)).requires_grad_()
    for meaning in meanings_of(2, (8, 8, 3)):
        (grad,) = torch.autograd.grad(batched.render([meaning], given).sum(), given)
        assert grad.isfinite().all() and grad.any()
