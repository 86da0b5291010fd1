"""Batches ready to train on, loaded by threads.

Which samples make which batch is settled before a thread starts, from the seed and the epoch,
and a sample's pixels depend on its index and the epoch: so the threads have no say in the
result. Each takes a whole batch, and batches are handed on in order.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from augpipe.data.dataset import (
    Apply,
    FolderImages,
    check_epoch,
    check_map_style,
    distinct_keys,
    image_tensor,
    load,
    positions,
)
from augpipe.data.threads import Stopped, ordered
from augpipe.errors import DataError, UsageError, first_sentence
from augpipe.rng import Draws

Finish = Callable[..., tuple[Tensor, Any]]
_NUMERIC = int | float | np.generic | Tensor | np.ndarray


class Loader:
    """Yields (images, targets): images (B, C, H, W), targets of B.

    Pixels are the same for any number of workers and any batch size. Each iteration is an
    epoch: the first is `epoch`, the next is one later, also where the one before was broken
    off. `state_dict` says where the iteration that was begun last stands.

    An index that a sampler gives more than once in an epoch is augmented anew each time: its
    k-th time (from 0) is keyed by index + k * len(base).

    Targets that are numbers, tensors or arrays are collated as torch's `default_collate` does
    (integers become int64); of anything else, and of what it cannot take (arrays of different
    shapes, or of objects), there is a list.

    Args:
        base: A map-style dataset of (image, target), whose items may be read from several
            threads at once; or a folder, whose images all become RGB (grey is repeated, alpha
            is dropped, as in `torchvision.datasets.ImageFolder`) and whose targets are class
            indices, -1 where there are no classes.
        apply: What to do to the items.
        seed: Of the shuffling.
        batch_size: Samples in a batch; fewer in the last.
        workers: Threads; 0 loads in the caller's. At most 2 * workers + 1 batches are in hand.
        device: Where the tensors go.
        epoch: The first epoch.
        shuffle: Whether to draw an order for each epoch; yes unless there is a sampler.
        drop_last: Leave out a last batch that is smaller.
        on_error: What to do with a sample that fails: raise, or leave it out of its batch and
            append its DataError to `skipped`, which each epoch empties.
        sampler: Gives the epoch's indices, and has a length; its `set_epoch` is called, if it
            has one. A resumed epoch needs the same indices from it again.
        split: Of a folder in splits, the one to load; see `augpipe.data.folder.scan`.

    Attributes:
        finish: What to do to each batch on its device: takes images, targets, `index` (what
            each sample is keyed by) and `epoch`.

    Raises:
        UsageError: If an argument cannot be used.
        DataError: If the folder cannot be read.
    """

    def __init__(
        self,
        base: Any,
        apply: Apply,
        *,
        seed: int,
        batch_size: int = 64,
        workers: int = 2,
        device: str | torch.device = "cpu",
        epoch: int = 0,
        shuffle: bool | None = None,
        drop_last: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        sampler: Iterable[int] | None = None,
        split: str | None = None,
    ) -> None:
        if batch_size < 1 or workers < 0:
            raise UsageError(f"batch_size {batch_size} (1 or more), workers {workers} (0 or more)")
        if on_error not in ("raise", "skip"):
            raise UsageError(f"on_error {on_error!r}: raise or skip")
        if sampler is not None and shuffle:
            raise UsageError("the order comes from the sampler or from shuffle, not from both")
        if isinstance(base, str | os.PathLike):
            base = FolderImages(Path(base), split)
        elif split is not None:
            raise UsageError(f"split {split!r}: only a folder has splits")
        self._length = check_map_style(base)
        self.base = base
        self.batch_size = batch_size
        self.skipped: list[DataError] = []
        self._apply = apply
        self.finish: Finish | None = None
        self._seed = seed
        self._workers = workers
        self._device = _usable(device)
        self._shuffle = sampler is None and shuffle is not False
        self._drop_last = drop_last
        self._on_error = on_error
        self._sampler = sampler
        self._samples = self._length if sampler is None else _length(sampler)
        self._next = self._at = (check_epoch(epoch), 0)
        self._run = object()

    def __len__(self) -> int:
        """Batches in an epoch; fewer come if all samples of one are left out."""
        full, rest = divmod(self._samples, self.batch_size)
        return full + (rest > 0 and not self._drop_last)

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration will be."""
        return self._next[0]

    def set_epoch(self, epoch: int) -> None:
        """Makes the next iteration this epoch, from its first batch."""
        self._go_to(check_epoch(epoch), 0)

    def state_dict(self) -> dict[str, int | bool]:
        """Returns where the iteration begun last stands, behind the batch yielded last."""
        epoch, samples = self._at
        return {"epoch": epoch, "samples": samples, **self._identity()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Makes the next iteration the rest of the one that was saved.

        The batch size may be another. After an epoch's last batch the rest has no batch.

        Raises:
            UsageError: If the state is of another seed, dataset or way to shuffle, or no state.
        """
        if not isinstance(state, Mapping):
            raise UsageError(f"a state is what state_dict returned, not {type(state).__name__}")
        for name in ("epoch", "samples", *self._identity()):
            if name not in state:
                raise UsageError(f"the saved state has no {name}: it is not this loader's")
        for name, here in self._identity().items():
            if state.get(name) != here:
                raise UsageError(
                    f"the saved state has {name} {state.get(name)}, this loader has {here}"
                )
        epoch, samples = state["epoch"], state["samples"]
        if not all(isinstance(each, int) for each in (epoch, samples)):
            raise UsageError(
                f"the saved state has epoch {epoch!r} and samples {samples!r}: not whole numbers"
            )
        if not 0 <= samples <= self._samples:
            raise UsageError(f"the saved state has samples {samples}: 0 to {self._samples}")
        self._go_to(check_epoch(epoch), samples)

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        epoch, start = self._next
        self._go_to(epoch, start)
        self._next = (epoch + 1, 0)
        self.skipped = []
        return self._batches(self._run, epoch, start)

    def _go_to(self, epoch: int, samples: int) -> None:
        self._next = self._at = (epoch, samples)
        # An iteration that still runs no longer says where the loader stands.
        self._run = object()

    def _identity(self) -> dict[str, int | bool]:
        return {"seed": self._seed, "length": self._samples, "shuffle": self._shuffle}

    def _batches(self, run: object, epoch: int, start: int) -> Iterator[tuple[Tensor, Any]]:
        order = self._order(epoch)
        keys = distinct_keys(order, self._length)
        stop = len(order) - len(order) % self.batch_size if self._drop_last else len(order)
        starts = range(start, stop, self.batch_size)
        parts = [slice(at, min(at + self.batch_size, stop)) for at in starts]
        stopped = Event()
        base = _Stoppable(self.base, stopped)

        def work(part: slice) -> tuple[list[DataError], tuple[Tensor, Any] | None, list[int]]:
            indices = order[part].tolist()
            rows = load(base, self._apply, indices, keys[part].tolist(), epoch)
            failed = [row for row in rows if isinstance(row, DataError)]
            if failed and self._on_error == "raise":
                raise failed[0]
            named = zip(indices, rows, strict=True)
            good = [(index, row) for index, row in named if not isinstance(row, DataError)]
            kept = [k for k, row in enumerate(rows) if not isinstance(row, DataError)]
            return failed, _collate(good) if good else None, keys[part][kept].tolist()

        yielded = start > 0
        with closing(ordered(work, parts, self._workers, stopped, ahead=2)) as batches:
            for part, (failed, batch, index) in zip(parts, batches, strict=True):
                self.skipped += failed
                if self._run is run:
                    self._at = (epoch, part.stop)
                if batch is not None:
                    yielded = True
                    images, targets = batch
                    images = images.to(self._device)
                    if isinstance(targets, Tensor):
                        targets = targets.to(self._device)
                    if self.finish is not None:
                        images, targets = self.finish(images, targets, index=index, epoch=epoch)
                    yield images, targets
        if self.skipped and not yielded:
            raise DataError("no sample could be loaded; the first", str(self.skipped[0]))
        if self._run is run:
            self._at = (epoch + 1, 0)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """Returns the epoch's indices, in order."""
        if self._sampler is not None:
            if hasattr(self._sampler, "set_epoch"):
                self._sampler.set_epoch(epoch)
            return positions(self._sampler, self._length)
        if not self._shuffle:
            return np.arange(self._length)
        draws = Draws(self._seed, np.zeros(1, np.int64), epoch, op="loader")
        return draws.permutation("shuffle", self._length)[0]


class _Stoppable:
    """A dataset that raises Stopped instead of an item once the event is set."""

    def __init__(self, base: Any, stopped: Event) -> None:
        self._base = base
        self._stopped = stopped
        self.__getitems__ = getattr(base, "__getitems__", None)

    def __getitem__(self, index: int) -> Any:
        if self._stopped.is_set():
            raise Stopped
        return self._base[index]


def _collate(samples: Sequence[tuple[int, Any]]) -> tuple[Tensor, Any]:
    """Makes a batch of (index, (image, target)) samples."""
    images: list[Tensor] = []
    targets: list[Any] = []
    for index, item in samples:
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise UsageError(
                f"sample {index} is no (image, target) but {type(item).__name__}: pipe.loader "
                "takes pairs only; use pipe.dataset and a DataLoader"
            )
        images.append(image_tensor(index, item[0]))
        targets.append(item[1])
        if images[-1].shape != images[0].shape:
            raise DataError(
                f"sample {index}",
                f"the image is {_size(images[-1])}, that of sample {samples[0][0]} is "
                f"{_size(images[0])}: a batch needs one size, so end the geometry under "
                "'sample:' with resize, random_resized_crop or center_crop (and one number of "
                "channels)",
            )
    batch = torch.stack(images)
    if not all(isinstance(each, _NUMERIC) for each in targets):
        return batch, targets
    try:
        return batch, default_collate(targets)
    except (RuntimeError, TypeError):  # different shapes, or no numbers in them
        return batch, targets


def _usable(device: str | torch.device) -> torch.device:
    """Returns a device that tensors can be put on.

    Raises:
        UsageError: If this is none.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        words = first_sentence(error)
        raise UsageError(f"device {str(device)!r} cannot be used: {words}") from error
    return found


def _length(sampler: Any) -> int:
    """Returns how many indices a sampler gives in an epoch.

    Raises:
        UsageError: If it does not say.
    """
    try:
        return len(sampler)
    except (TypeError, NotImplementedError):
        raise UsageError(
            f"the sampler {type(sampler).__name__} has no length: give a list of indices or a "
            "torch Sampler (a generator would be used up after one epoch)"
        ) from None


def _size(image: Tensor) -> str:
    return "{1} × {2} with {0} channels".format(*image.shape)
