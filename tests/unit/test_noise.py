"""Noise: its distribution, measured against scipy.stats; limits are 4.5 standard errors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from augpipe.backends.opencv.noise import poisson_cells
from augpipe.backends.tables import poisson_table
from augpipe.ir import Noise
from augpipe.rng import field_words
from tests.harness import BACKENDS, build, meanings, run

SIDE = 200
ERRORS = 4.5  # about 1 false alarm in 150,000 statistics; seeds are fixed


def flat(level: float, dtype: Any = np.float32, channels: int = 3) -> np.ndarray:
    return np.full((SIDE, SIDE, channels), level, dtype)


def near(got: float, want: float, error: float) -> None:
    assert abs(got - want) < ERRORS * error, f"{got} against {want}, standard error {error}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_gaussian_noise_is_normal(backend: str) -> None:
    """Mean, deviation and the whole distribution; a float image shows it unrounded."""
    z = (run({"gaussian_noise": [10.0, 10.0]}, flat(128), backend) - 128.0).ravel() / 10.0
    near(z.mean(), 0.0, 1 / np.sqrt(z.size))
    near(z.std(), 1.0, 1 / np.sqrt(2 * z.size))
    assert stats.kstest(z, "norm").pvalue > 1e-4


@pytest.mark.parametrize("item", ["gaussian_noise", "multiplicative_noise"])
def test_channels_are_independent_or_the_same(item: str) -> None:
    fields = {"gaussian_noise": [20.0, 20.0], "multiplicative_noise": [0.2, 0.2]}
    own = run({item: {"sigma": fields[item]}}, flat(128)).reshape(-1, 3)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        near(np.corrcoef(own[:, a], own[:, b])[0, 1], 0.0, 1 / SIDE)
    shared = run({item: {"sigma": fields[item], "per_channel": False}}, flat(128))
    assert np.array_equal(shared[:, :, 0], shared[:, :, 1]) and shared.std() > 1
    assert np.array_equal(shared[:, :, 0], shared[:, :, 2])


def test_neighbours_are_independent() -> None:
    z = run({"gaussian_noise": [20.0, 20.0]}, flat(128))[:, :, 0]
    for a, b in ((z[1:], z[:-1]), (z[:, 1:], z[:, :-1])):
        near(np.corrcoef(a.ravel(), b.ravel())[0, 1], 0.0, 1 / SIDE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_multiplicative_noise_scales_with_the_level(backend: str) -> None:
    item = {"multiplicative_noise": [0.1, 0.1]}
    for level in (20.0, 100.0):
        gain = run(item, flat(level), backend).ravel() / level
        near(gain.mean(), 1.0, 0.1 / np.sqrt(gain.size))
        near(gain.std(), 0.1, 0.1 / np.sqrt(2 * gain.size))
    assert not run(item, flat(0), backend).any()


@pytest.mark.parametrize("level", [1, 40, 128, 255])
@pytest.mark.parametrize("photons", [3.0, 120.0, 4000.0])
def test_poisson_counts_have_their_distribution(level: int, photons: float) -> None:
    """Chi-squared of the counts, pooled to expect at least 10 a cell."""
    size = 40_000
    rate = level * photons / 255
    cells, levels = poisson_cells(np.full(size, level, np.uint8), field_words(level, size), photons)
    counts = np.rint(levels[cells] * photons / 255).astype(int)
    near(counts.mean(), rate, np.sqrt(rate / size))
    near(counts.var(), rate, np.sqrt((rate + 2 * rate**2) / size))
    edges = [k for k in range(int(rate + 10 * np.sqrt(rate) + 10))]
    expected = size * stats.poisson.pmf(edges, rate)
    seen = np.bincount(counts, minlength=len(edges)).astype(float)
    pool = np.floor(expected.cumsum() / 10).astype(int)
    pool = np.minimum(pool, pool.max() - 1) if pool.max() else pool
    expected, seen = (np.bincount(pool, v) for v in (expected, seen))
    expected, seen = expected[expected > 0], seen[expected > 0]
    statistic = ((seen - expected) ** 2 / expected).sum()
    assert stats.chi2.sf(statistic, max(len(seen) - 1, 1)) > 1e-4


@pytest.mark.parametrize("photons", [1e-6, 0.01, 1.0, 57.3, 900.0, 100_000.0])
def test_poisson_counts_are_the_quantiles(photons: float) -> None:
    """Word for word what scipy.stats.poisson.ppf gives, at every level and both extremes."""
    image = np.repeat(np.arange(256, dtype=np.uint8), 12)
    words = field_words(9, image.size)
    words[0::12], words[1::12] = 0, 2**32 - 1
    cells, levels = poisson_cells(image, words, photons)
    want = stats.poisson.ppf((words + 0.5) / 2**32, image * (photons / 255.0))
    assert np.array_equal(np.rint(levels[cells] * photons / 255.0), want)


def test_poisson_table_is_a_distribution_function() -> None:
    for photons in (0.5, 80.0, 5000.0):
        _, edges = poisson_table(photons)
        assert (np.diff(edges, axis=1) >= 0).all()
        assert (edges[:, -1] == 2**32).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_poisson_noise_keeps_the_mean_of_float_levels(backend: str) -> None:
    """The nearest whole level counts; the remainder is kept."""
    out = run({"poisson_noise": [100.0, 100.0]}, flat(100.375), backend).astype(np.float64)
    near(out.mean(), 100.375, np.sqrt(100 * 2.55 / out.size))
    counts = (out - 0.375) * 100 / 255
    assert abs(counts - np.rint(counts)).max() < 1e-3


def test_poisson_noise_is_black_on_black() -> None:
    for backend in BACKENDS:
        assert not run("poisson_noise", flat(0, np.uint8), backend).any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_salt_and_pepper_turns_its_share(backend: str, per_channel: bool) -> None:
    item = {"salt_and_pepper": {"amount": [0.1, 0.1], "per_channel": per_channel}}
    out = run(item, flat(128, np.uint8), backend)
    trials = out.size if per_channel else out.size // 3
    for level in (0, 255):
        near(float((out == level).mean()), 0.05, np.sqrt(0.05 * 0.95 / trials))
    assert set(np.unique(out)) == {0, 128, 255}
    whole = (out == out[:, :, :1]).all(axis=2)
    assert whole.all() != per_channel


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("per_channel", [False, True])
def test_pixel_dropout_drops_its_share(backend: str, per_channel: bool) -> None:
    item = {"pixel_dropout": {"amount": [0.3, 0.3], "per_channel": per_channel}}
    out = run(item, flat(128, np.uint8), backend)
    trials = out.size if per_channel else out.size // 3
    near(float((out == 0).mean()), 0.3, np.sqrt(0.3 * 0.7 / trials))
    assert set(np.unique(out)) == {0, 128}
    assert (out == out[:, :, :1]).all() != per_channel


@pytest.mark.parametrize("backend", BACKENDS)
def test_shares_of_none_and_all_are_exact(backend: str) -> None:
    image = flat(128, np.uint8)
    for name in ("pixel_dropout", "salt_and_pepper"):
        assert np.array_equal(run({name: [0.0, 0.0]}, image, backend), image)
    assert not run({"pixel_dropout": [1.0, 1.0]}, image, backend).any()
    assert set(np.unique(run({"salt_and_pepper": [1.0, 1.0]}, image, backend))) == {0, 255}


def test_every_image_has_its_own_field() -> None:
    for item in ("gaussian_noise", "poisson_noise", "salt_and_pepper", "pixel_dropout"):
        (meaning,) = meanings(build(item), (8, 8, 3), range(500))
        assert isinstance(meaning, Noise)
        assert len(np.unique(meaning.key)) == 500


ITEMS: list[Any] = [
    {"gaussian_noise": {"sigma": [30.0, 60.0]}},
    {"gaussian_noise": {"sigma": [30.0, 60.0], "per_channel": False}},
    {"multiplicative_noise": [0.5, 0.9]},
    {"poisson_noise": [5.0, 50.0]},
    {"salt_and_pepper": [0.2, 0.4]},
    {"pixel_dropout": [0.2, 0.4]},
]


@pytest.mark.parametrize("item", ITEMS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 90, 1), (5, 4, 2), (7, 6, 6), (0, 4, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_any_shape(item: Any, shape: tuple[int, ...], dtype: Any) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape).astype(dtype)
    before = image.copy()
    for index in range(3):
        fast, exact = (run(item, image, backend, index) for backend in BACKENDS)
        assert fast.shape == exact.shape == shape and fast.dtype == exact.dtype == dtype
        difference = abs(fast.astype(float) - exact).max(initial=0)
        assert difference <= (1.0 if dtype == np.uint8 else 1e-3)
        assert fast.min(initial=0) >= 0 and fast.max(initial=0) <= 255
    assert np.array_equal(image, before)
