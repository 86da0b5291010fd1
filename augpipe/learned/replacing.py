"""The meaning `Generated` done to a batch: images give way to generated ones of their class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from augpipe.errors import DataError
from augpipe.ir import Generated
from augpipe.learned.generator import Generator
from augpipe.learned.noise import normals
from augpipe.learned.probe import Probe, matched
from augpipe.learned.weights import held, load_net
from augpipe.targets import Batch
from augpipe.types import Words


class ClassGenerator:
    """A generator with the names of its classes, on a device.

    Args:
        model: "bundled", or a file of `augpipe fit gan`.
        device: Where to compute.

    Raises:
        DataError: The file holds no generator.
    """

    def __init__(self, model: str, device: str) -> None:
        self.net, about = load_net(model, "gan", Generator)
        names = about.get("classes")
        if not isinstance(names, list) or len(set(map(str, names))) != self.net.classes:
            raise DataError(model, "does not say what each of its classes is called")
        if self.net.channels not in (1, 3):
            raise DataError(model, f"makes images of {self.net.channels} channels, not grey or RGB")
        self.names: list[str] = [str(each) for each in names]
        self.net.to(device)
        self._device = device
        self._tables: dict[tuple[str, ...], Tensor] = {}

    def numbers(self, names: Sequence[str], key: str) -> Tensor:
        """Returns (K,): the generator's number of each of a dataset's classes, on the device.

        Raises:
            DataError: It was not fitted on one of them.
        """
        own = tuple(names)
        if own not in self._tables:
            missing = [name for name in own if name not in self.names]
            if missing:
                raise DataError(
                    key,
                    f"the generator knows no class {missing[0]!r}, it knows "
                    f"{', '.join(self.names)}: fit one to this dataset (augpipe fit gan)",
                )
            found = [self.names.index(name) for name in own]
            self._tables[own] = torch.tensor(found, device=self._device)
        return self._tables[own]

    @torch.no_grad()
    def make(self, classes: Tensor, keys: Words, truncation: float) -> Tensor:
        """Returns (n, C, side, side) images in 0..1 of (n,) classes, in the generator's numbers."""
        noise = normals(keys, self.net.last.weight, (self.net.latents,))
        images: Tensor = self.net(truncation * noise, classes)
        return images


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
    labels, images = batch.labels, batch.images
    if labels is None:
        raise DataError(key, "needs the images' classes: give them as targets")
    device = images.device
    generator = held(ClassGenerator, meaning.model, str(device))
    names = _names(generator, batch, labels, key)
    numbers = generator.numbers(names, key)
    own = labels if labels.ndim == 1 else labels.argmax(dim=1)
    there = (own >= 0) & (own < len(numbers))
    if labels.ndim == 2:
        there = there & (labels.amax(dim=1) > 0)
    _check(own, len(numbers), key)
    count = batch.classes or len(numbers)
    weighed = _rows(labels, count) if meaning.weight < 1 or labels.ndim == 2 else labels
    rows = np.flatnonzero(meaning.on)
    if not len(rows) or not images[0].numel():
        return replace(batch, labels=weighed)
    at = torch.from_numpy(rows).to(device)
    given, there, own = images.index_select(0, at), there[at], own[at].clamp(0, len(numbers) - 1)
    known = numbers[own]
    made = generator.make(known, meaning.key[rows], meaning.truncation)
    height, width = given.shape[2:]
    levels = 255.0 * matched(made, min(given.shape[1], 3), (height, width)).clamp(0, 1)
    levels = levels.round() if given.dtype == torch.uint8 else levels
    if meaning.probe:
        judge = held(Probe, meaning.probe, str(device))
        shown, sure = judge(levels / 255.0)
        there = there & (shown == judge.numbers(names)[own]) & (sure >= meaning.confidence)
    if given.shape[1] == 4:
        levels = torch.cat([levels, torch.full_like(levels[:, :1], 255.0)], dim=1)
    done = torch.where(there[:, None, None, None], levels.to(given.dtype), given)
    if weighed.ndim == 2:
        pure = torch.zeros_like(weighed[at]).scatter_(1, own[:, None], meaning.weight)
        weighed = weighed.index_copy(0, at, torch.where(there[:, None], pure, weighed[at]))
    return replace(batch, images=images.index_copy(0, at, done), labels=weighed)


def _names(generator: ClassGenerator, batch: Batch, labels: Tensor, key: str) -> Sequence[str]:
    """Returns the names of the batch's classes; the generator's where nobody knows any."""
    if batch.names is not None:
        return batch.names
    known = len(generator.names)
    count = labels.shape[1] if labels.ndim == 2 else batch.classes
    if count is not None and count != known:
        raise DataError(key, f"the generator knows {known} classes, the labels have {count}")
    return generator.names


def _check(own: Tensor, count: int, key: str) -> None:
    """Refuses classes that are not there; on a GPU that would wait, and they stay as they are."""
    if own.device.type != "cpu" or not own.numel():
        return
    high = int(own.max())
    if high >= count:
        raise DataError(key, f"classes are 0 to {count - 1}, here is class {high}")


def _rows(labels: Tensor, count: int) -> Tensor:
    """Returns labels as float rows (n, K), one-hot where they are classes."""
    if labels.ndim == 2:
        return labels if labels.is_floating_point() else labels.float()
    return (labels[:, None] == torch.arange(count, device=labels.device)).float()
