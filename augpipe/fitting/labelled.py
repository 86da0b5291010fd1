"""Images of classes, of one size, in memory: what a GAN is fitted on and judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augpipe import recipe as recipes
from augpipe.data.dataset import FolderImages
from augpipe.errors import DataError, UsageError
from augpipe.pipeline import Pipeline
from augpipe.training.data import Part, Splits, open_splits, subset

_LARGEST = 96  # pixels a side, that are taken as they are
_MOST = 2**33  # bytes of images
_HELD_OUT = 0.1
_REMEDY = "side says to which square they are shrunk and cut (--side 32)"


@dataclass(frozen=True)
class Labelled:
    """A dataset of (uint8 array (H, W, C), class).

    Args:
        images: (n, C, side, side), uint8.
        targets: (n,), int64.
        classes: The class names.
    """

    images: Tensor
    targets: Tensor
    classes: Sequence[str]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return self.images[index].permute(1, 2, 0).numpy(), int(self.targets[index])

    def part(self) -> Part:
        """Returns all of it as a part of something to train on."""
        return Part(self, None, np.arange(len(self)), self.targets.tolist())


@dataclass(frozen=True)
class Divided:
    """Images to fit on, and others to judge by.

    Args:
        train: To fit on.
        unseen: Held out of the training images, to choose by.
        test: To judge by: the test split, or `unseen` again where there is none.
        measured_on: "test" or "validation".
        identity: Names the images, by their levels and classes.
    """

    train: Labelled
    unseen: Labelled
    test: Labelled
    measured_on: str
    identity: str

    @property
    def splits(self) -> Splits:
        """The same, as something to train on."""
        test = self.test.part() if self.measured_on == "test" else None
        parts = (self.train.part(), self.unseen.part(), test)
        channels = self.train.images.shape[1]
        return Splits(*parts, list(self.train.classes), channels, self.identity)


def open_labelled(
    data: Path,
    size: int | None,
    side: int | None,
    seed: int,
    fewest: int = 2,
    tested: bool = True,
) -> Divided:
    """Reads a dataset of classes; what is not a square of `side` pixels is shrunk and cut to one.

    All images are RGB where any is, else grey.

    Args:
        data: Class folders, in splits or not, or IDX files.
        size: How many training images, in the classes' proportions; all when left out.
        side: In pixels; the images' own when left out.
        seed: Of what is held out and chosen.
        fewest: Images that a class needs, those held out among them.
        tested: Whether the test images are read, if there are any.

    Raises:
        UsageError: There is no such data, or a side is needed.
        DataError: A class has fewer images, or one cannot be read.
    """
    if side is not None and not 8 <= side <= 512:
        raise UsageError(f"side {side}: from 8 to 512 pixels")
    splits = open_splits(data, _HELD_OUT, seed)
    _check(data, splits, fewest)
    if size is not None and not 2 * len(splits.classes) <= size <= len(splits.train):
        raise UsageError(
            f"size {size}: from {2 * len(splits.classes)}, two a class, to {len(splits.train)}, all"
        )
    splits = subset(splits, size, seed)
    left = np.bincount(_classes_of(splits.train), minlength=len(splits.classes))
    if not left.all() or (size is not None and left.min() < (1 - _HELD_OUT) * fewest - 1):
        few = splits.classes[int(left.argmin())]
        have = {0: "no image", 1: "one image"}.get(int(left.min()), f"{left.min()} images")
        be = "is" if left.min() < 2 else "are"
        raise UsageError(f"size {size}: {have} of class {few} {be} among them: take more")
    test = splits.test if tested else None
    parts = [splits.train, splits.validation, *([test] if test else [])]
    images = [_read(part, side) for part in parts]
    _check_sizes(images)
    if all(_is_grey(each) for each in images):
        images = [each[:, :1].clone() for each in images]
    labelled = [
        Labelled(each, torch.tensor(part.targets)[torch.from_numpy(part.indices)], splits.classes)
        for each, part in zip(images, parts, strict=True)
    ]
    measured = "test" if test else "validation"
    return Divided(labelled[0], labelled[1], labelled[-1], measured, _identity(labelled))


def _identity(parts: Sequence[Labelled]) -> str:
    """Names images by all that they are, so that other sizes and choices have other names."""
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(part.images.numpy().tobytes())
        found.update(part.targets.numpy().tobytes())
    return found.hexdigest()


def check_apart(data: Path, folder: Path) -> None:
    """Refuses to work inside the images, where the next call would take its files for classes.

    Raises:
        UsageError: The folder lies there.
    """
    inside, around = folder.expanduser().resolve(), data.expanduser().resolve()
    if around == inside or around in inside.parents:
        raise UsageError(f"{folder}: lies inside the images {data}: name another out")


def _check(data: Path, splits: Splits, fewest: int) -> None:
    # What was held out of the training images counts: they are of one source.
    counts = np.bincount(np.asarray(splits.train.targets), minlength=len(splits.classes))
    least = int(counts.argmin())
    if counts[least] < fewest:
        have = {0: "no image", 1: "one image"}.get(int(counts[least]), f"{counts[least]} images")
        raise DataError(
            data, f"class {splits.classes[least]} has {have}: a class needs {fewest} at least"
        )
    if len(splits.validation) < 2:
        raise DataError(data, "has fewer than two images for validation, to judge by")


def _classes_of(part: Part) -> NDArray[np.int64]:
    return np.asarray(part.targets, np.int64)[part.indices]


def _read(part: Part, side: int | None) -> Tensor:
    """Returns (n, C, h, w): squares of `side`, or the images as they are, if of one size."""
    source = FolderImages(part.source, part.split) if isinstance(part.source, Path) else part.source
    square = [{"resize": {"size": side, "antialias": "full"}}, {"center_crop": side}]
    pipe = Pipeline(recipes.load({"version": 1, "sample": square if side else []}))
    found: NDArray[np.uint8] | None = None
    for place, index in enumerate(part.indices.tolist()):
        (image,) = pipe.apply([source[index][0]], [index])
        image = image if image.ndim == 3 else image[:, :, None]
        if found is None:
            found = _room(len(part), image.shape, side is not None)
        if image.shape != found.shape[1:]:
            sizes = f"{_size(found.shape[1:])}, {_size(image.shape)}"
            raise UsageError(f"images differ in size ({sizes}): {_REMEDY}")
        found[place] = image
    assert found is not None
    return torch.from_numpy(found).permute(0, 3, 1, 2)


def _room(count: int, shape: tuple[int, ...], asked: bool) -> NDArray[np.uint8]:
    """Returns memory for images of a shape, before most of them are read."""
    height, width, channels = shape
    if height != width or (height > _LARGEST and not asked):
        raise UsageError(f"images are {height} × {width}: {_REMEDY}")
    if (room := count * height * width * channels) > _MOST:
        raise UsageError(
            f"{count} images of {height} × {width} take {room / 1e9:.0f} GB: fewer (size) or "
            "smaller ones (side)"
        )
    return np.empty((count, *shape), np.uint8)


def _check_sizes(images: Sequence[Tensor]) -> None:
    """Refuses images that are no squares of one size."""
    height, width = images[0].shape[2:]
    other = next((each for each in images if each.shape[2:] != (height, width)), None)
    if other is not None:
        raise UsageError(
            f"test or validation images of {other.shape[2]} × {other.shape[3]} beside "
            f"{height} × {width}: {_REMEDY}"
        )


def _size(shape: Sequence[int]) -> str:
    return f"{shape[0]} × {shape[1]}"


def _is_grey(images: Tensor) -> bool:
    return images.shape[1] == 1 or bool((images == images[:, :1]).all())
