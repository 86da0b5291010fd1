"""Noise: what the drawn parameters and the field's words must give, by other formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special, stats

from augpipe.rng import field_words
from augpipe.types import Array
from tests.cases import Case

_HALF = (0.5005, 0.3)
_WHOLE = "the closed form is not rounded to whole levels"
_SUMS: dict[str, Any] = {"parity": (1.0, 0.005), "parity_cause": "float32 levels: ties at 1/2"}
_SAME: dict[str, Any] = {"parity": (0.0, 0.0), "parity_cause": "exact"}


def _shape(image: Array, per_channel: bool) -> tuple[int, ...]:
    return image.shape if per_channel else (*image.shape[:2], 1)


def _words(shape: tuple[int, ...], drawn: dict[str, Any]) -> Array:
    return field_words(int(drawn["field"]), int(np.prod(shape))).reshape(shape).astype(np.int64)


def _normals(shape: tuple[int, ...], drawn: dict[str, Any]) -> Array:
    """The normal quantile of each 16-bit half of a word, the low half first."""
    count = int(np.prod(shape))
    words = field_words(int(drawn["field"]), -(-count // 2)).astype(np.int64)
    levels = np.stack([words % 65536, words // 65536], axis=1).reshape(-1)[:count]
    every = stats.norm.ppf((np.arange(65536) + 0.5) / 65536)
    return stats.norm.ppf((levels + 0.5) / 65536).reshape(shape) / every.std()


def _gaussian(per_channel: bool) -> Any:
    def oracle(image: Array, drawn: dict[str, Any]) -> Array:
        z = _normals(_shape(image, per_channel), drawn)
        return np.clip(image + float(drawn["sigma"]) * z, 0, 255)

    return oracle


def _multiplicative(image: Array, drawn: dict[str, Any]) -> Array:
    return np.clip(image + image * float(drawn["sigma"]) * _normals(image.shape, drawn), 0, 255)


def _poisson(image: Array, drawn: dict[str, Any]) -> Array:
    """Counts the k whose P(count <= k), an incomplete gamma function, is below the uniform."""
    photons = float(drawn["photons"])
    u = (_words(image.shape, drawn) + 0.5) / 2**32
    count = np.zeros(image.shape)
    below = u > 0
    while below.any():
        below = u > special.gammaincc(count + 1, image * photons / 255)
        count += below
    return np.clip(count * 255 / photons, 0, 255)


def _salt_and_pepper(image: Array, drawn: dict[str, Any]) -> Array:
    at = _words(_shape(image, False), drawn) / 2**32 / float(drawn["amount"])
    return np.select([at < 0.5, at < 1.0], [np.zeros_like(image), np.full_like(image, 255)], image)


def _dropout(per_channel: bool) -> Any:
    def oracle(image: Array, drawn: dict[str, Any]) -> Array:
        kept = _words(_shape(image, per_channel), drawn) / 2**32 >= float(drawn["amount"])
        return image * kept

    return oracle


ROWS = [
    Case(
        {"gaussian_noise": {"sigma": [5.0, 30.0]}},
        _gaussian(True),
        "closed form",
        _HALF,
        _WHOLE,
        **_SUMS,
    ),
    Case(
        {"gaussian_noise": {"sigma": [20.0, 20.0], "per_channel": False}},
        _gaussian(False),
        "closed form",
        _HALF,
        _WHOLE,
        **_SUMS,
    ),
    Case("gaussian_noise", _gaussian(True), "closed form", _HALF, _WHOLE, image="grey", **_SUMS),
    Case(
        {"multiplicative_noise": [0.2, 0.4]}, _multiplicative, "closed form", _HALF, _WHOLE, **_SUMS
    ),
    Case(
        "multiplicative_noise", _multiplicative, "closed form", _HALF, _WHOLE, image="grey", **_SUMS
    ),
    Case({"poisson_noise": [20.0, 60.0]}, _poisson, "closed form", _HALF, _WHOLE, **_SUMS),
    Case("poisson_noise", _poisson, "closed form", _HALF, _WHOLE, image="grey", **_SUMS),
    Case(
        {"salt_and_pepper": [0.1, 0.3]},
        _salt_and_pepper,
        "closed form",
        **_SAME,
    ),
    Case(
        "salt_and_pepper",
        _salt_and_pepper,
        "closed form",
        image="grey",
        **_SAME,
    ),
    Case(
        {"pixel_dropout": {"amount": [0.2, 0.4], "per_channel": True}},
        _dropout(True),
        "closed form",
        **_SAME,
    ),
    Case(
        "pixel_dropout",
        _dropout(False),
        "closed form",
        image="grey",
        **_SAME,
    ),
]
