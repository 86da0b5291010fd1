"""Images to fit on: folders, files and IDX sets, as endless batches of crops of one size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from augpipe import recipe as recipes
from augpipe.data.dataset import FolderImages
from augpipe.data.decode import as_rgb, decode
from augpipe.data.idx import IdxImages, is_idx
from augpipe.data.loader import Loader
from augpipe.errors import DataError, UsageError
from augpipe.pipeline import Pipeline
from augpipe.rng import Draws

_LOOKED_AT = 32  # images, for the usual size
_SMALL = 48  # pixels: images with a shorter side than this are not made smaller
_MOST = 192
_MEASURED_ON = ("test", "testing", "val", "valid", "validation")


class Files:
    """Image files as a dataset: (uint8 RGB array (H, W, 3), -1).

    Args:
        paths: The files.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return as_rgb(decode(self.paths[index])), -1


@dataclass(frozen=True)
class Source:
    """Images of one origin.

    Args:
        name: What a table calls it.
        images: A dataset of (image, class).
        short: The shorter side that is usual among them, in pixels.
    """

    name: str
    images: Any
    short: int

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_small(self) -> bool:
        """Whether its images are taken as they are."""
        return self.short < _SMALL


def open_sources(data: Sequence[str | Path], measure: bool = False) -> list[Source]:
    """Opens folders of images, with or without classes, IDX sets, and single files together.

    Args:
        data: Their paths.
        measure: Whether they are measured on: then a folder may be a test split, and IDX files
            are those of the test.

    Raises:
        UsageError: There is no such thing, or nothing is named.
        DataError: One has no images.
    """
    paths = [Path(each).expanduser() for each in data]
    if not paths:
        raise UsageError("name a folder of images")
    missing = next((path for path in paths if not path.exists()), None)
    if missing is not None:
        raise UsageError(f"{missing}: no such file or folder")
    found = [_source(_named(path), _opened(path, measure)) for path in paths if path.is_dir()]
    files = [path for path in paths if path.is_file()]
    if files:
        parents = sorted({_named(path.parent) for path in files})
        found.append(_source(f"{len(files)} files of {', '.join(parents)}", Files(files)))
    return found


def _named(path: Path) -> str:
    """Returns the end of a path: what is told of a fit goes with its weights to other machines."""
    return "/".join(path.resolve().parts[-2:])


def _opened(path: Path, measure: bool) -> FolderImages | IdxImages:
    if is_idx(path):
        return IdxImages(path, "test" if measure else "train")
    # A test split is left alone unless it is named: to measure on, it is.
    measured = measure and path.name.lower() in _MEASURED_ON
    return FolderImages(path, path.name if measured else None)


def _source(name: str, images: Any) -> Source:
    if not len(images):
        raise DataError(name, "has no images")
    looked = np.unique(np.linspace(0, len(images) - 1, _LOOKED_AT).astype(int))
    sides = [min(np.asarray(images[int(k)][0]).shape[:2]) for k in looked]
    return Source(name, images, int(np.median(sides)))


def divided(source: Source, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Returns the indices to fit on and those held out, a `share` of all, drawn by the seed."""
    order = Draws(seed, np.zeros(1, np.int64), op=f"hold out {source.name}")
    drawn = order.permutation("order", len(source))[0]
    count = max(1, round(share * len(source))) if share else 0
    return sorted(drawn[count:].tolist()), sorted(drawn[:count].tolist())


def crops(source: Source, indices: Sequence[int], side: int, count: int, seed: int) -> Loader:
    """Returns batches of `count` crops of side x side, at scales from the whole image up.

    Args:
        source: The images.
        indices: Which of them.
        side: Of the crops, in pixels.
        count: Crops in a batch.
        seed: Of all draws.
    """
    scales = [round(side * 2 ** (k / 2)) for k in range(12)]
    scales = [each for each in scales if each <= min(source.short, _MOST)]
    border = {"padding": max(0, -(-(side - source.short) // 2)) + 2, "border": "reflect"}
    sample: list[Any] = [{"random_crop": {"size": side, **border}}, "horizontal_flip"]
    if not source.is_small and scales:
        sizes = [{"resize": {"size": each, "antialias": "full"}} for each in scales]
        sample = [{"one_of": sizes} if len(sizes) > 1 else sizes[0], *sample]
    content = {"version": 1, "seed": seed, "sample": [*sample, "to_float"]}
    pipe = Pipeline(recipes.load(content))
    kept = list(indices)
    if len(kept) < count:  # a small set is given several times
        kept_images = Repeated(source.images, kept, -(-count // len(kept)))
        return pipe.loader(kept_images, batch_size=count, workers=1, drop_last=True)
    return pipe.loader(source.images, batch_size=count, workers=1, drop_last=True, indices=kept)


class Repeated:
    """Some images of a dataset, several times.

    Args:
        images: The dataset.
        indices: Which.
        times: How often.
    """

    def __init__(self, images: Any, indices: Sequence[int], times: int) -> None:
        self._images, self._indices = images, list(indices) * times

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Any:
        return self._images[self._indices[index]]


class Stream:
    """Endless batches (n, 3, side, side) in 0..1, an equal share of each source; it can go on.

    Args:
        loaders: One for each source.
    """

    def __init__(self, loaders: Sequence[Loader]) -> None:
        self._loaders = list(loaders)
        self._iterators = [_endless(each) for each in self._loaders]

    def __next__(self) -> Tensor:
        parts = [next(each)[0] for each in self._iterators]
        return torch.cat([each.expand(-1, 3, -1, -1) for each in parts])

    def state(self) -> list[dict[str, Any]]:
        """Returns where it stands."""
        return [dict(each.state_dict()) for each in self._loaders]

    def go_to(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Goes on where another stood."""
        for loader, each in zip(self._loaders, state, strict=True):
            loader.load_state_dict(each)
        self._iterators = [_endless(each) for each in self._loaders]


def _endless(loader: Loader) -> Iterator[tuple[Tensor, Any]]:
    while True:
        yield from loader


def whole(source: Source, indices: Sequence[int], side: int | None) -> Tensor:
    """Returns images (n, C, side, side) in 0..1: the middle square, shrunk; as they are if None.

    Raises:
        DataError: They are to be taken as they are, and differ in size.
    """
    sample: list[Any] = ["to_float"]
    if side is not None:
        sample = [{"resize": {"size": side, "antialias": "full"}}, {"center_crop": side}, *sample]
    pipe = Pipeline(recipes.load({"version": 1, "sample": sample}))
    batches = pipe.loader(source.images, sampler=list(indices), workers=0, batch_size=64)
    return torch.cat([images for images, _ in batches])
