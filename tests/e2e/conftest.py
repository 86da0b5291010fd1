"""A small folder of real images, and a recipe for it."""

import shutil
from pathlib import Path

import pytest

GARMENTS = Path(__file__).parents[2] / "samples" / "garments"
CLASSES = ("bag", "coat", "sandal")
RECIPE = """\
version: 1
seed: 7
sample:
  - random_resized_crop: {size: 28, scale: [0.6, 1.0]}
  - horizontal_flip: {p: 0.5}
  - rotate: {degrees: [-20, 20]}
  - color_jitter: {brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1}
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for label in CLASSES:
        (tmp_path / "in" / label).mkdir(parents=True)
        for path in sorted((GARMENTS / label).iterdir())[:4]:
            shutil.copy(path, tmp_path / "in" / label)
    return tmp_path / "in"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"
