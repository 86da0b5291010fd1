"""Occlusion against torchvision's erase and masks made pixel by pixel."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torchvision.transforms.v2 import functional as tv

from augpipe.rng import field_words
from augpipe.types import Array
from tests.cases import Case

_EXACT: dict[str, Any] = {"parity": (0.0, 0.0), "parity_cause": "exact"}


def _erase(image: Array, top: int, left: int, height: int, width: int, value: Any) -> Array:
    planes = torch.from_numpy(image.transpose(2, 0, 1).copy())
    fill = torch.as_tensor(value, dtype=torch.uint8).reshape(-1, 1, 1)
    return tv.erase(planes, top, left, height, width, fill).numpy().transpose(1, 2, 0)


def _cutout(size: float, value: Any) -> Any:
    """The paper's code: clip each edge of the square about the drawn centre, then erase."""

    def oracle(image: Array, drawn: dict[str, Any]) -> Array:
        height, width = image.shape[:2]
        side = round(size * min(height, width))
        assert side % 2 == 0
        for x, y in zip(drawn["x"], drawn["y"], strict=True):
            x1, x2 = np.clip([int(x) - side // 2, int(x) + side // 2], 0, width)
            y1, y2 = np.clip([int(y) - side // 2, int(y) + side // 2], 0, height)
            image = _erase(image, y1, x1, y2 - y1, x2 - x1, value)
        return image

    return oracle


def _erasing(value: Any) -> Any:
    def oracle(image: Array, drawn: dict[str, Any]) -> Array:
        height, width = (int(v) for v in drawn["size"])
        return _erase(image, int(drawn["y"][0]), int(drawn["x"][0]), height, width, value)

    return oracle


def _erasing_noise(image: Array, drawn: dict[str, Any]) -> Array:
    """Levels are the high bytes of the 16-bit halves of the field's words."""
    (top,), (left,) = drawn["y"].astype(int), drawn["x"].astype(int)
    height, width = drawn["size"].astype(int)
    data = field_words(int(drawn["field"]), -(-image.size // 2)).astype("<u4").tobytes()
    out = image.copy()
    for row in range(top, top + height):
        for column in range(left, left + width):
            for channel in range(image.shape[2]):
                at = (row * image.shape[1] + column) * image.shape[2] + channel
                out[row, column, channel] = data[2 * at + 1]
    return out


def _grid_mask(ratio: float, fill: str) -> Any:
    """A pixel is hidden where its place within the unit is within the square, both ways."""

    def oracle(image: Array, drawn: dict[str, Any]) -> Array:
        height, width = image.shape[:2]
        unit = int(np.ceil(float(drawn["unit"]) * max(height, width)))
        side = round((1 - ratio) * unit)
        x = (np.arange(width) - int(drawn["x"][0])) % unit < side
        y = (np.arange(height) - int(drawn["y"][0])) % unit < side
        value = np.rint(image.reshape(-1, image.shape[2]).mean(0)) if fill == "mean" else 0
        return np.where((y[:, None] & x)[:, :, None], value, image)

    return oracle


def _hide_and_seek(most: int) -> Any:
    def oracle(image: Array, drawn: dict[str, Any]) -> Array:
        count = int(drawn["grid"])
        hidden = drawn["hidden"].reshape(most, most)[:count, :count]
        blocks = np.ones((image.shape[0] // count, image.shape[1] // count), bool)
        mean = np.rint(image.mean(axis=(0, 1)))
        return np.where(np.kron(hidden, blocks)[:, :, None], mean, image)

    return oracle


ROWS = [
    Case(
        {"cutout": {"holes": 3, "size": 0.25, "fill": [255, 0, 10]}},
        _cutout(0.25, [255, 0, 10]),
        "torchvision.transforms.v2.functional.erase",
        **_EXACT,
    ),
    Case(
        {"cutout": {"size": 0.5}},
        _cutout(0.5, 0),
        "torchvision.transforms.v2.functional.erase",
        image="grey",
        **_EXACT,
    ),
    Case(
        {"random_erasing": {"fill": 77, "p": 1.0}},
        _erasing(77),
        "torchvision.transforms.v2.functional.erase",
        **_EXACT,
    ),
    Case(
        {"random_erasing": {"fill": "noise", "p": 1.0}},
        _erasing_noise,
        "closed form",
        **_EXACT,
    ),
    Case(
        {"random_erasing": {"p": 1.0}},
        _erasing(0),
        "torchvision.transforms.v2.functional.erase",
        image="grey",
        **_EXACT,
    ),
    Case({"grid_mask": {"unit": [0.1, 0.3]}}, _grid_mask(0.6, "0"), "closed form", **_EXACT),
    Case(
        {"grid_mask": {"ratio": 0.3, "fill": "mean"}},
        _grid_mask(0.3, "mean"),
        "closed form",
        image="grey",
        **_EXACT,
    ),
    Case({"hide_and_seek": {"grid": [8, 8]}}, _hide_and_seek(8), "numpy.kron", **_EXACT),
    Case(
        {"hide_and_seek": {"grid": [4, 4]}}, _hide_and_seek(4), "numpy.kron", image="grey", **_EXACT
    ),
]
