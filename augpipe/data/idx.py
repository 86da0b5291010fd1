"""Folders of IDX files, as MNIST and its successors are given away."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from augpipe.errors import DataError, UsageError, reason

_NAMES = {"train": "train", "test": "t10k", "t10k": "t10k"}
_MOST = 2**33  # bytes: what a header may promise


def is_idx(root: Path) -> bool:
    """Tells whether a folder holds the training images of such a dataset."""
    return any((root / f"train-images-idx3-ubyte{end}").is_file() for end in ("", ".gz"))


class IdxImages:
    """A split's images: (uint8 array (H, W), class index).

    Args:
        root: The folder.
        split: "train" or "test".

    Attributes:
        classes: The names of the classes: their numbers, since the files hold no others.
        targets: The class of each image.

    Raises:
        UsageError: There is no such split.
        DataError: A file is missing or is not what it should be.
    """

    def __init__(self, root: Path, split: str | None = None) -> None:
        name = _NAMES.get(split or "train")
        if name is None:
            raise UsageError(f"{root}: has no split {split!r}, it has train and test")
        self.images = read_idx(root / f"{name}-images-idx3-ubyte", 3)
        labels = read_idx(root / f"{name}-labels-idx1-ubyte", 1)
        if len(labels) != len(self.images):
            raise DataError(root, f"{len(self.images)} images have {len(labels)} labels ({name})")
        self.targets: list[int] = labels.tolist()
        self.classes: Sequence[str] = [str(k) for k in range(int(labels.max(initial=0)) + 1)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return self.images[index], self.targets[index]


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Reads an IDX file of bytes, compressed or not.

    Args:
        path: The file's path without ".gz".
        dimensions: How many it must have.

    Raises:
        DataError: There is none, or its header and its length do not agree.
    """
    packed = path.with_name(f"{path.name}.gz")
    own = path if path.is_file() else packed
    start = 4 + 4 * dimensions
    try:
        with path.open("rb") if own is path else gzip.open(packed) as file:
            header = file.read(start)
            shape = np.frombuffer(header[4:], ">u4").tolist() if len(header) == start else None
            if shape is None or header[:4] != bytes([0, 0, 8, dimensions]):
                raise DataError(own, f"is not an IDX file of bytes in {dimensions} dimensions")
            size = math.prod(shape)  # Python's integers do not overflow
            # What is compressed may be larger than it says, by far.
            data = file.read(min(size, _MOST) + 1)
    except OSError as error:
        raise DataError(own, reason(error)) from None
    except (EOFError, zlib.error) as error:
        raise DataError(own, f"is not whole: {error}") from None
    if len(data) != size:
        held = f"more than {size}" if len(data) > size else len(data)
        raise DataError(own, f"holds {held} bytes for the shape {shape}")
    return np.frombuffer(data, np.uint8).reshape(shape)
