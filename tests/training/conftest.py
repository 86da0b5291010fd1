"""A few garments, and a recipe that trains on them in a second."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.training.support import CLASSES, GARMENTS


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Sums then do not depend on the machine, and small nets are as fast."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def garments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of ten images, without splits."""
    root = tmp_path_factory.mktemp("garments")
    for name in CLASSES:
        (root / name).mkdir()
        for path in sorted((GARMENTS / name).iterdir())[:10]:
            shutil.copy(path, root / name)
    return root


@pytest.fixture
def splits_folder(garments: Path, tmp_path: Path) -> Path:
    """The same with train, val and test folders of 5, 3 and 2 a class."""
    for split, part in (("train", slice(0, 5)), ("val", slice(5, 8)), ("test", slice(8, 10))):
        for name in CLASSES:
            folder = tmp_path / "splits" / split / name
            folder.mkdir(parents=True)
            for path in sorted((garments / name).iterdir())[part]:
                shutil.copy(path, folder)
    return tmp_path / "splits"
