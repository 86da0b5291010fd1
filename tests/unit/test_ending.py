"""A curve, what is filled and normalization by one table are what they are one after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import augpipe
from augpipe.backends import opencv

NORMALIZE = {"normalize": {"mean": [0.4], "std": [0.2]}}
RECIPES: dict[str, list[Any]] = {
    "gamma": [{"gamma": [0.5, 2]}, NORMALIZE],
    "erasing": [
        {"gamma": [0.5, 2]},
        {"posterize": [3, 6]},
        {"random_erasing": {"p": 0.5}},
        NORMALIZE,
    ],
    "half": [{"solarize": {"p": 0.5}}, {"cutout": {"fill": 36.6, "p": 0.7}}, NORMALIZE],
    "mean": [{"gamma": [0.5, 2]}, {"cutout": {"fill": "mean", "p": 0.5}}, NORMALIZE],
}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", RECIPES)
def test_one_table_gives_the_same_bytes(
    name: str, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fuse = name != "gamma"  # where the plan would join the two itself
    pipe = augpipe.load({"version": 1, "fuse": fuse, "sample": RECIPES[name]})
    shape = (40, 50, channels)
    count = int(np.prod(shape))
    images = [(np.arange(count) * (k + 7) % 256).astype(np.uint8).reshape(shape) for k in range(16)]
    real, calls = opencv.ending, [0]

    def counted(*arguments: Any) -> Any:
        out = real(*arguments)
        calls[0] += out is not None
        return out

    monkeypatch.setattr(opencv, "ending", counted)
    together = [pipe(image, index=k) for k, image in enumerate(images)]
    assert (calls[0] > 0) is (channels != 4)  # alpha is left to the long way
    monkeypatch.setattr(opencv, "ending", lambda *arguments: None)
    for k, image in enumerate(images):
        np.testing.assert_array_equal(together[k], pipe(image, index=k))
