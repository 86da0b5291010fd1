"""Every op against its independent oracle, and one backend against the other."""

from __future__ import annotations

import numpy as np
import pytest

from tests.cases import CASES, Case
from tests.harness import drawn, grey, photo, run


def _image(case: Case) -> np.ndarray:
    return photo() if case.image == "rgb" else grey()


def _inside(image: np.ndarray, margin: int) -> np.ndarray:
    return image[margin : len(image) - margin, margin : image.shape[1] - margin]


def _check(got: np.ndarray, want: np.ndarray, limits: tuple[float, float], what: str) -> None:
    assert got.shape == want.shape, f"{what}: {got.shape} against {want.shape}"
    difference = abs(got.astype(np.float64) - want.astype(np.float64))
    known = ~np.isnan(difference)  # NaN: the oracle has no say there
    assert known.mean() > 0.85 or not known.size, f"{what}: compared {known.mean():.0%} only"
    difference = difference[known]
    worst, mean = float(difference.max(initial=0)), float(difference.mean())
    assert worst <= limits[0] and mean <= limits[1], (
        f"{what}: max {worst:.3f}, mean {mean:.4f} grey levels; allowed {limits}"
    )


@pytest.mark.parametrize("case", [c for c in CASES if c.oracle], ids=lambda c: c.id)
def test_agrees_with_its_oracle(case: Case) -> None:
    image = _image(case)
    assert case.oracle is not None and case.oracle_name and case.cause
    got = run(case.item, image, "opencv", case.index)
    want = case.oracle(image, drawn(case.item, image, case.index))
    inside = (_inside(np.asarray(v), case.margin) for v in (got, want))
    _check(*inside, case.tolerance, f"{case.op} against {case.oracle_name}")


@pytest.mark.parametrize("case", [c for c in CASES if c.section == "sample"], ids=lambda c: c.id)
def test_backends_agree(case: Case) -> None:
    assert case.parity_cause
    image = _image(case)
    for index in range(case.index, case.index + 4):
        fast = run(case.item, image, "opencv", index)
        exact = run(case.item, image, "reference", index)
        assert fast.dtype == exact.dtype
        scale = 1.0 if fast.dtype == np.uint8 else 255.0
        _check(fast * scale, exact * scale, case.parity, f"{case.op}, sample {index}")
