"""Two classes of small images to fit to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of grey images of 12 × 12."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("dark", "light")):
        (tmp_path / "in" / name).mkdir(parents=True)
        for j in range(20):
            pixels = rng.integers(0, 100, (12, 12)) + 150 * k
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(tmp_path / "in" / name / f"{j}.png")
    return tmp_path / "in"
