"""How far the backends are from the reference, op by op: writes docs/parity.md.

    python -m tests.parity.report

uint8 photos of 96 x 96, four draws of every row of tests/rows; grey levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import numpy as np
import torch

from augpipe.backends import batched, opencv, reference
from augpipe.ir import Meaning, Mix
from augpipe.ops import catalogue
from augpipe.types import Array
from tests.cases import CASES, Case
from tests.harness import ROOT, build, grey, meanings, photo

PAGE = ROOT / "docs" / "parity.md"
_DRAWS = 4
_PACKAGES = ("torch", "opencv-python-headless", "numpy")
_HEAD = """# Parity of the backends

Differences from the reference backend (NumPy float64, rounded once a pass) in grey levels, over
all settings of the op in `tests/rows`: uint8 photos of 96 × 96, four draws each. Passes are
not fused. `make parity` writes this page; a test keeps it fresh.

Each figure is that of the worst draw. What stands behind them: rounding the other way where a
level lies between two (1), and what a gain makes of it later in the same op (clahe); OpenCV reads
between pixels at 32nds of a pixel, and of two pixels that are equally near it may take the other
one (trivial_augment and augmix, whose rows read nearest pixels: a few pixels of 9,216). Of
normalized images the difference is given times 255. Ops that mix images have no row: they have
one backend.

| op | opencv mean | opencv max | batched mean | batched max |
|---|---|---|---|---|
"""


def measure() -> dict[str, Array]:
    """Returns, by op, the mean and max difference of opencv and of batched: four numbers."""
    found: dict[str, list[Array]] = {}
    for case in CASES:
        if case.section == "sample":
            found.setdefault(case.op, []).append(_of(case))
    return {name: np.max(found[name], axis=0) for name in catalogue() if name in found}


def _of(case: Case) -> Array:
    image = photo(height=96, width=96) if case.image == "rgb" else grey(height=96, width=96)
    drawn = meanings(build(case.item), image.shape, range(case.index, case.index + _DRAWS))
    stack = torch.from_numpy(np.stack([image] * _DRAWS)).permute(0, 3, 1, 2)
    together = batched.render(_alone(drawn), stack).permute(0, 2, 3, 1).numpy()
    worst = np.zeros(4)
    for row in range(_DRAWS):
        fast = exact = image
        for meaning in _alone(drawn):
            fast, exact = (
                b.render(meaning, row, v) for b, v in ((opencv, fast), (reference, exact))
            )
        scale = 1.0 if exact.dtype == np.uint8 else 255.0
        for k, got in enumerate((fast, together[row])):
            difference = abs(got.astype(np.float64) - exact) * scale
            own = [difference.mean(), difference.max()]
            worst[2 * k : 2 * k + 2] = np.maximum(worst[2 * k : 2 * k + 2], own)
    return worst


def _alone(drawn: Sequence[Meaning]) -> list:
    assert not any(isinstance(each, Mix) for each in drawn)
    return list(drawn)


def page(measured: dict[str, Array]) -> str:
    """Returns docs/parity.md."""
    rows = [
        f"| {name} | {a:.3f} | {b:.1f} | {c:.3f} | {d:.1f} |"
        for name, (a, b, c, d) in measured.items()
    ]
    packages = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return f"{_HEAD}{chr(10).join(rows)}\n\nMeasured with {packages}.\n"


def read(text: str) -> dict[str, Array]:
    """Returns the figures of a page."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {name: np.array(rest, np.float64) for name, *rest in lines if name != "op"}


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(measure()), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
