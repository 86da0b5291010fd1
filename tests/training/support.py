"""What these tests share: a tiny recipe, data that breaks off, IDX files."""

from __future__ import annotations

import gzip
import os
import signal
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from augpipe.data.dataset import FolderImages
from augpipe.training.data import Splits, open_splits

ROOT = Path(__file__).resolve().parents[2]
GARMENTS = ROOT / "samples" / "garments"
CLASSES = ("bag", "coat", "sandal")


def recipe(*regularize: Any, batch: Any = (), sample: Any = (), **train: Any) -> dict[str, Any]:
    """A recipe for 8 x 8 pixels; wrn_10_1, 4 epochs of 3 steps on the fixture `garments`."""
    return {
        "version": 1,
        "seed": 3,
        "sample": [{"resize": 8}, "horizontal_flip", {"brightness": [0.8, 1.2]}, *sample],
        "batch": [*batch, {"normalize": "half"}],
        "regularize": list(regularize),
        "train": {"model": "wrn_10_1", "epochs": 4, "batch_size": 8, **train},
    }


NOISY = recipe(
    {"label_smoothing": 0.1},
    {"dropout": {"p": 0.3}},
    {"ema": {"decay": 0.9}},
    {"isda": 0.5},
    batch=[{"mixup": {"alpha": 0.4, "p": 0.7}}],
)
"""Everything that has a state of its own: noise, averages, statistics."""


class Broken:
    """A folder's images that do something instead of giving the n-th of them, counted by reads.

    Args:
        images: The images.
        after: How many are given before.
        what: An exception to raise, or "SIGKILL".
    """

    def __init__(self, images: Any, after: int, what: BaseException | str) -> None:
        self.images, self.left, self.what = images, after, what
        self.classes = images.classes

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        self.left -= 1
        if self.left < 0:
            if isinstance(self.what, BaseException):
                raise self.what
            os.kill(os.getpid(), signal.SIGKILL)
        return self.images[index]


class Never:
    """A dataset that must not be read."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.classes = CLASSES

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        raise AssertionError("this was to be read no more")


def whole(path: Path, seed: int = 3) -> Splits:
    """The splits of a folder without splits, its images read one by one."""
    return sourced(open_splits(path, 0.2, seed), FolderImages(path))


def sourced(splits: Splits, train: Any) -> Splits:
    """The splits, with the training images read from elsewhere; validation stays as it is."""
    part = replace(splits.train, source=train, split=None)
    plain = FolderImages(splits.validation.source) if _is_path(splits) else splits.validation.source
    validation = replace(splits.validation, source=plain, split=None)
    return replace(splits, train=part, validation=validation)


def _is_path(splits: Splits) -> bool:
    return isinstance(splits.validation.source, Path)


def write_idx(path: Path, array: Any, packed: bool) -> None:
    """Writes an IDX file of bytes, as its specification says."""
    array = np.asarray(array, np.uint8)
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    data = head + array.tobytes()
    if packed:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(data))
    else:
        path.write_bytes(data)


def write_idx_set(
    root: Path, count: int = 30, classes: int = 3, packed: bool = False, side: int = 12
) -> Path:
    """Writes grey images whose brightness tells their class: train and half as many to test."""
    generator = np.random.default_rng(5)
    root.mkdir(parents=True, exist_ok=True)
    for name, n in (("train", count), ("t10k", count // 2)):
        labels = np.arange(n) % classes
        noise = generator.integers(0, 60, (n, side, side))
        images = noise + labels[:, None, None] * (190 // classes)
        write_idx(root / f"{name}-images-idx3-ubyte", images, packed)
        write_idx(root / f"{name}-labels-idx1-ubyte", labels, packed)
    return root
