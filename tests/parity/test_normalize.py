"""Normalization folded into the last colour pass, against doing it afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from augpipe.errors import DataError
from tests.harness import build, grey, meanings, photo, run

JITTER = {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}}
CHAINS = [
    [JITTER],
    ["brightness"],
    [{"gamma": {"gamma": [0.5, 2]}}, {"solarize": {"p": 0.5}}],
    [{"rotate": {"degrees": [5, 5]}}, JITTER],
    [{"brightness": {"factor": [1, 1]}}],
]
STATS = {"normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}}


@pytest.mark.parametrize("chain", CHAINS, ids=str)
def test_folded_is_normalized_before_rounding(chain: list) -> None:
    image = photo()
    whole = [*chain, STATS]
    assert len(meanings(build(*whole), image.shape)) == len(meanings(build(*chain), image.shape))
    std = np.array([0.229, 0.224, 0.225])
    for index in range(4):
        folded = run(whole, image, index=index)
        apart = run(whole, image, index=index, fused=False)
        exact = run(whole, image, "reference", index=index)
        assert folded.dtype == exact.dtype == np.float32
        # Apart, levels were rounded to whole ones first: half a level at each unfused step.
        steps = len(chain)
        assert abs((folded - apart) * 255 * std).max() < 0.5 * steps + 0.6
        # Against float64: coefficients on a float32 grid (0.023 levels); after a warp, whose
        # pixels may be a whole level apart, that level times the colour matrix's gain.
        gain = abs(meanings(build(JITTER), image.shape, (index,))[0].matrix).sum(axis=2).max()
        limit = gain if len(chain) > 1 and "rotate" in chain[0] else 0.03
        assert abs((folded - exact) * 255 * std).max() < limit + 0.03


def test_a_grey_image_takes_one_number() -> None:
    whole = ["brightness", {"normalize": {"mean": [0.5], "std": [0.5]}}]
    folded, exact = run(whole, grey()), run(whole, grey(), "reference")
    assert folded.shape == grey().shape and abs(folded - exact).max() < 1e-6
    with pytest.raises(DataError, match="1 channel"):
        run(["brightness", STATS], grey())


def test_alpha_is_normalized_with_the_rest_or_refused() -> None:
    image = np.concatenate([photo(), np.full_like(grey(), 51)], axis=2)
    out = run(["brightness", "to_float"], image)
    assert out.shape == image.shape and abs(out[:, :, 3] - 0.2).max() < 1e-6
    with pytest.raises(DataError, match="4 channels"):
        run(["brightness", STATS], image)
