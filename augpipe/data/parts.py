"""One batch of a loader, from the numbers of its samples to its tensors: what a worker does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from threading import Event
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from augpipe.data.dataset import named
from augpipe.data.threads import Stopped
from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.types import Array

Room = Callable[[tuple[int, ...], np.dtype[Any]], Array]
Stack = Callable[[Sequence[Any], Sequence[int], int, Room], tuple[Array, list[Any]]]
"""(items, keys, epoch, memory) to (n, C, H, W) images, and the items without them."""

Finish = Callable[..., tuple[Tensor, Any]]

_NUMERIC = int | float | np.generic | Tensor | np.ndarray


@dataclass(frozen=True, slots=True)
class Part:
    """The samples of one batch.

    Args:
        indices: Which of the dataset's.
        keys: What each is keyed by.
        epoch: Of which epoch.
    """

    indices: list[int]
    keys: list[int]
    epoch: int


@dataclass(slots=True)
class Made:
    """What became of a part.

    Args:
        images: (n, C, H, W); None if there is none.
        targets: Theirs.
        keys: What each is keyed by.
        failed: The samples that could not be loaded or transformed.
        error: Why the whole run is to end.
    """

    images: Tensor | None = None
    targets: Any = None
    keys: list[int] = field(default_factory=list)
    failed: list[DataError] = field(default_factory=list)
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Maker:
    """Makes parts into batches; picklable, for worker processes.

    Args:
        base: A map-style dataset of (image, target).
        stack: What to do to its items.
        room: Gives memory for a batch.
        on_error: What a sample that fails does: `raise` ends the run, `skip` leaves it out.
        finish: What to do to the whole batch: takes images, targets, `index` (what each sample
            is keyed by) and `epoch`.
    """

    base: Any
    stack: Stack
    room: Room
    on_error: Literal["raise", "skip"]
    finish: Finish | None = None

    def __len__(self) -> int:
        return len(self.base)

    def make(self, part: Part, stop: Event | None = None) -> Made:
        """Makes a part.

        Args:
            part: Which samples.
            stop: Once it is set nobody waits for the result.

        Raises:
            Stopped: It is set.
        """
        try:
            return self.finished(self._make(part, stop), part.epoch)
        except AugpipeError as error:  # as it is, also from another process
            return Made(error=error)

    def finished(self, made: Made, epoch: int) -> Made:
        """Does to a batch what is to be done to the whole of it."""
        if self.finish is None or made.images is None:
            return made
        images, targets = self.finish(made.images, made.targets, index=made.keys, epoch=epoch)
        return replace(made, images=images, targets=targets)

    def _make(self, part: Part, stop: Event | None) -> Made:
        items, failed = self._fetch(part, stop)
        kept = [at for at in range(len(items)) if at not in failed]
        made = None
        if kept:
            try:
                made = self._stack(part, items, kept)
            except UsageError:  # not a sample's fault
                raise
            except Exception as error:
                failed |= self._blame(part, items, kept, error)
                kept = [at for at in kept if at not in failed]
        errors = [failed[at] for at in sorted(failed)]
        if errors and self.on_error == "raise":
            raise errors[0]
        if made is None:
            made = self._stack(part, items, kept) if kept else Made()
        made.failed = errors
        return made

    def _fetch(self, part: Part, stop: Event | None) -> tuple[list[Any], dict[int, DataError]]:
        """Returns the dataset's items and, by their places, why some could not be had."""
        several = getattr(self.base, "__getitems__", None)
        if several is not None:
            try:
                items = list(several(part.indices))
                if len(items) == len(part.indices):
                    return items, {}
            except UsageError:
                raise
            except Exception:  # one by one, to find whose fault it is
                items = []
        items, failed = [], {}
        for at, index in enumerate(part.indices):
            if stop is not None and stop.is_set():
                raise Stopped
            try:
                items.append(several([index])[0] if several else self.base[index])
            except UsageError:
                raise
            except Exception as error:
                items.append(None)
                failed[at] = named(index, error)
        return items, failed

    def _stack(self, part: Part, items: Sequence[Any], kept: Sequence[int]) -> Made:
        for at in kept:
            item = items[at]
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise UsageError(
                    f"sample {part.indices[at]} is no (image, target) but {type(item).__name__}: "
                    "pipe.loader takes pairs only; use pipe.dataset and a DataLoader"
                )
        keys = [part.keys[at] for at in kept]
        images, out = self.stack([items[at] for at in kept], keys, part.epoch, self.room)
        return Made(torch.from_numpy(images), _collated([target for _, target in out]), keys)

    def _blame(
        self, part: Part, items: Sequence[Any], kept: Sequence[int], error: Exception
    ) -> dict[int, DataError]:
        """Finds the samples that fail by themselves.

        Raises:
            Exception: None does.
        """
        failed: dict[int, DataError] = {}
        shapes: dict[int, tuple[int, ...]] = {}
        for at in kept:
            try:
                images, _ = self.stack([items[at]], [part.keys[at]], part.epoch, np.empty)
                shapes[at] = images.shape[1:]
            except UsageError:
                raise
            except Exception as own:
                failed[at] = named(part.indices[at], own)
        first = next(iter(shapes), None)
        for at, shape in shapes.items():
            if first is not None and shape != shapes[first]:
                index, other = part.indices[at], part.indices[first]
                raise UnevenError(
                    f"sample {index}",
                    f"the image is {_size(shape)}, that of sample {other} is "
                    f"{_size(shapes[first])}: a batch needs one size, so end the geometry under "
                    "'sample:' with resize, random_resized_crop or center_crop (and one number of "
                    "channels)",
                )
        if not failed:
            raise error
        return failed


class UnevenError(DataError):
    """Images of several sizes, which no batch holds: not the fault of one."""


def _collated(targets: list[Any]) -> Any:
    """Makes targets one tensor, where they are numbers; else leaves a list."""
    if not all(isinstance(each, _NUMERIC) for each in targets):
        return targets
    try:
        if all(type(each) is int for each in targets):  # as default_collate, at a tenth of it
            return torch.tensor(targets, dtype=torch.int64)
        return default_collate(targets)
    # Different shapes, no numbers in them, or larger ones than there are.
    except (RuntimeError, TypeError, ValueError, OverflowError):
        return targets


def _size(shape: Sequence[int]) -> str:
    return "{1} × {2} with {0} channels".format(*shape)
