"""The meaning `Generated` done to a batch: images give way to generated ones of their class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from augpipe.errors import DataError
from augpipe.ir import Generated
from augpipe.learned.generator import Generator
from augpipe.learned.noise import normals
from augpipe.learned.probe import matched, probe
from augpipe.learned.weights import load_net, stamp
from augpipe.targets import Batch
from augpipe.types import Words


class Classes:
    """A generator's weights, and how a dataset's classes are numbered in them.

    Args:
        model: "bundled", or a file of `augpipe fit gan`.
        device: Where to compute.

    Raises:
        DataError: The file holds no generator.
    """

    def __init__(self, model: str, device: str) -> None:
        self.net, about = load_net(model, "gan", Generator)
        names = about.get("classes")
        if not isinstance(names, list) or len(names) != self.net.classes:
            raise DataError(model, "does not say what its classes are called")
        self.names: list[str] = [str(each) for each in names]
        self.net.to(device)

    def numbers(self, names: Sequence[str], key: str) -> list[int]:
        """Returns the generator's number of each of a dataset's classes.

        Raises:
            DataError: It was not fitted on one of them.
        """
        missing = [name for name in names if name not in self.names]
        if missing:
            raise DataError(
                key,
                f"the generator knows no class {missing[0]!r}, it knows {', '.join(self.names)}: "
                "fit one to this dataset (augpipe fit gan)",
            )
        return [self.names.index(name) for name in names]

    def make(self, classes: Tensor, keys: Words, scale: float) -> Tensor:
        """Returns (n, C, side, side) images in 0..1 of (n,) classes, in the generator's numbers."""
        like = self.net.last.weight
        noise = normals(keys, like, (self.net.latents,))
        return self.net(scale * noise, classes)


def classes(model: str, device: str) -> Classes:
    """Returns the generator of a file, read anew where the file was written anew."""
    return _classes(model, stamp(model), device)


@lru_cache(4)
def _classes(model: str, written: tuple[int, int], device: str) -> Classes:
    return Classes(model, device)


@torch.no_grad()
def replaced(meaning: Generated, batch: Batch, key: str) -> Batch:
    """Puts generated images in the place of those on which the meaning acts.

    Args:
        meaning: Of n images.
        batch: Its images uint8, or floats of grey levels 0..255, C 1, 3 or 4; not changed.
        key: What errors call the op.

    Raises:
        DataError: The weights cannot be read; there are no classes, or others than the
            generator's.
    """
    labels = batch.labels
    if labels is None:
        raise DataError(key, "needs the images' classes: give them as targets")
    images, device = batch.images, batch.images.device
    own = labels if labels.ndim == 1 else labels.argmax(dim=1)
    generator = classes(meaning.model, str(device))
    numbers = _numbers(generator, batch, labels, key)
    rows = np.flatnonzero(meaning.on)
    weighed = _rows(labels, len(numbers)) if meaning.weight < 1 else labels
    if not len(rows) or not images[0].numel():
        return replace(batch, labels=weighed)
    at = torch.from_numpy(rows).to(device)
    shown = own[at].clamp_min(0)
    known = torch.tensor(numbers, device=device)[shown]
    made = generator.make(known, meaning.key[rows], meaning.scale)
    given = images.index_select(0, at)
    height, width = given.shape[2:]
    levels = matched(made, min(given.shape[1], 3), (height, width)).clamp(0, 1)
    levels = (255.0 * levels).round() if given.dtype == torch.uint8 else 255.0 * levels
    there = own[at] >= 0
    if meaning.probe:
        judge = probe(meaning.probe, str(device))
        places = [_place(judge.classes, name, meaning.probe) for name in generator.names]
        goal = torch.tensor(places, device=device)
        there &= judge(levels / 255.0) == goal[known]
    if given.shape[1] == 4:
        levels = torch.cat([levels, torch.full_like(levels[:, :1], 255.0)], dim=1)
    done = torch.where(there[:, None, None, None], levels.to(given.dtype), given)
    if meaning.weight < 1 or labels.ndim == 2:
        pure = torch.zeros_like(weighed[at]).scatter_(1, shown[:, None], meaning.weight)
        weighed = weighed.index_copy(0, at, torch.where(there[:, None], pure, weighed[at]))
    return replace(batch, images=images.index_copy(0, at, done), labels=weighed)


def _numbers(generator: Classes, batch: Batch, labels: Tensor, key: str) -> list[int]:
    """Returns the generator's number of each class of the batch's dataset."""
    if batch.names is not None:
        return generator.numbers(batch.names, key)
    count = labels.shape[1] if labels.ndim == 2 else batch.classes
    if count is not None and count != len(generator.names):
        raise DataError(
            key, f"the generator knows {len(generator.names)} classes, the labels have {count}"
        )
    if labels.ndim == 1 and labels.device.type == "cpu" and labels.numel():
        high = int(labels.max())
        if high >= len(generator.names):
            raise DataError(
                key, f"the generator knows {len(generator.names)} classes, here is class {high}"
            )
    return list(range(len(generator.names)))


def _rows(labels: Tensor, count: int) -> Tensor:
    """Returns labels as float rows (n, K), one-hot where they are classes."""
    if labels.ndim == 2:
        return labels if labels.is_floating_point() else labels.float()
    return (labels[:, None] == torch.arange(count, device=labels.device)).float()


def _place(names: Sequence[str], name: str, path: str) -> int:
    if name not in names:
        raise DataError(path, f"a probe that knows no class {name!r}: it knows {', '.join(names)}")
    return list(names).index(name)
