"""What the tests of the importers share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

import augpipe
from augpipe.importers import Imported

ROOT = Path(__file__).resolve().parents[1]


def content(imported: Imported) -> dict[str, Any]:
    return yaml.safe_load(imported.recipe_yaml)


def sample(imported: Imported) -> list[Any]:
    return content(imported).get("sample", [])


def names(imported: Imported) -> list[str]:
    """Returns the names of the recipe's ops; one without parameters stands as its name."""
    return [op if isinstance(op, str) else next(iter(op)) for op in sample(imported)]


def verdicts(imported: Imported) -> list[str]:
    return [note.verdict for note in imported.notes]


def run(imported: Imported, image: np.ndarray, index: int = 0) -> np.ndarray:
    return augpipe.load(content(imported))(image, index=index)


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    assert a.shape == b.shape
    assert a.dtype == b.dtype
    return abs(a.astype(np.float64) - b.astype(np.float64))


def photo() -> np.ndarray:
    """Returns a photo of 240 x 320."""
    whole = Image.open(ROOT / "samples" / "photos" / "chelsea.jpg")
    return np.asarray(whole)[:240, :320].copy()
