"""Batches ready to train on, loaded by processes or threads.

Which samples make which batch is settled before a worker starts, from the seed and the epoch,
and a sample's pixels depend on its index and the epoch: so the workers have no say in the
result. Each takes a whole batch, draws all its parameters together, and writes what it decodes
and transforms where the batch lies; batches are handed on in order.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, Literal

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from augpipe.data.address import Address, place_of
from augpipe.data.cache import Cache
from augpipe.data.cached import CachedPictures, Keep
from augpipe.data.children import forks
from augpipe.data.dataset import (
    FolderPictures,
    check_epoch,
    check_map_style,
    distinct_keys,
    positions,
)
from augpipe.data.memory import Pool, pinned
from augpipe.data.parts import Finish, Made, Maker, Part, Stack
from augpipe.data.processes import AHEAD, Processes
from augpipe.data.shards import open_images
from augpipe.data.threads import ordered
from augpipe.errors import DataError, UsageError, first_sentence
from augpipe.rng import Draws


class Loader:
    """Yields (images, targets): images (B, C, H, W), targets of B.

    Pixels are the same for any number of workers and any batch size. Each iteration is an
    epoch: the first is `epoch`, the next is one later, also where the one before was broken
    off. `state_dict` says where the iteration that was begun last stands.

    A batch stays valid for as long as anything holds it: its memory is used again for a later
    one only when the last tensor on it is gone.

    An index that a sampler gives more than once in an epoch is augmented anew each time: its
    k-th time (from 0) is keyed by index + k * len(base).

    Targets that are numbers, tensors or arrays are collated as torch's `default_collate` does
    (integers become int64); of anything else, and of what it cannot take (arrays of different
    shapes, or of objects), there is a list.

    Args:
        base: A map-style dataset of (image, target), whose items may be read from several
            threads at once (if not: `backend="processes"`); or a folder of class folders, of
            WebDataset shards or of Parquet files, or its address. All images of a folder
            become RGB (grey is repeated, alpha is dropped, as in
            `torchvision.datasets.ImageFolder`), and its targets are class indices, -1 where
            there are no classes.
        stack: What to do to the items.
        seed: Of the shuffling.
        batch_size: Samples in a batch; fewer in the last.
        workers: Threads or processes; 0 loads in the caller's. At most 2 * workers + 1 batches
            are in hand.
        backend: `threads`; or `processes`, those of torch's DataLoader, for datasets that are
            not safe in threads, and faster where they can be forked, since threads wait for
            each other at Python's lock; or `auto`, processes where Python forks them (Linux).
        device: Where the tensors go; to a GPU from pinned memory, while the program goes on.
        epoch: The first epoch.
        shuffle: Whether to draw an order for each epoch; yes unless there is a sampler.
        drop_last: Leave out a last batch that is smaller.
        on_error: What to do with a sample that fails: raise, or leave it out of its batch and
            append its DataError to `skipped`, which each epoch empties.
        sampler: Gives the epoch's indices, and has a length; its `set_epoch` is called, if it
            has one. A resumed epoch needs the same indices from it again.
        indices: Which samples of the dataset there are, each once, as of a split; all when left
            out. They keep the keys of their own indices.
        rank: Which of the `world_size` processes this is.
        world_size: Among how many processes an epoch is divided, as by torch's
            DistributedSampler: every rank gets as many samples, for which the epoch's first
            are given again, or its last left out where `drop_last` is set. Where neither is
            given, and there is no sampler, they are those of `torch.distributed` if it is
            initialized; 0 and 1 have each process see everything.
        split: Of a folder in splits, the one to load; see `augpipe.data.folder.scan`.
        scaled_decoding: Of a folder, whether a JPEG of which 2, 4 or 8 pixels make one is
            decoded at 1/2, 1/4 or 1/8 of its size: faster for large photos, and about a grey
            level from decoding it whole, or 2 where little is left of it.
        keep: What of the work on a folder is kept; the recipe's `cache`.

    Attributes:
        cache: What the recipe's `cache` keeps (`entries`, `nbytes`, and whether it is `full`);
            None where it keeps nothing.
        finish: What to do to each batch on its device: takes images, targets, `index` (what
            each sample is keyed by) and `epoch`.

    Raises:
        UsageError: If an argument cannot be used.
        DataError: If the folder cannot be read.
    """

    def __init__(
        self,
        base: Any,
        stack: Stack,
        *,
        seed: int,
        batch_size: int = 64,
        workers: int = 2,
        backend: Literal["auto", "threads", "processes"] = "auto",
        device: str | torch.device = "cpu",
        epoch: int = 0,
        shuffle: bool | None = None,
        drop_last: bool = False,
        on_error: Literal["raise", "skip"] = "raise",
        sampler: Iterable[int] | None = None,
        indices: Sequence[int] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        split: str | None = None,
        scaled_decoding: bool = True,
        keep: Keep | None = None,
    ) -> None:
        if batch_size < 1 or workers < 0:
            raise UsageError(f"batch_size {batch_size} (1 or more), workers {workers} (0 or more)")
        if on_error not in ("raise", "skip"):
            raise UsageError(f"on_error {on_error!r}: raise or skip")
        if backend not in ("auto", "threads", "processes"):
            raise UsageError(f"backend {backend!r}: auto, threads or processes")
        if sampler is not None and shuffle:
            raise UsageError("the order comes from the sampler or from shuffle, not from both")
        if sampler is not None and indices is not None:
            raise UsageError("the samples come from the sampler or from indices, not from both")
        rank, world_size = _share(rank, world_size, sampler is None)
        if sampler is not None and world_size > 1:
            raise UsageError("the ranks' shares come from the sampler or from rank, not from both")
        automatic = "processes" if forks() else "threads"
        self._backend = automatic if backend == "auto" else backend
        items: Any = base
        self.cache: Cache | None = None
        if isinstance(base, str | os.PathLike):
            place = place_of(base if isinstance(base, str) else Path(base))
            base, items = open_images(place, split, scaled_decoding)
            if keep is not None:
                if isinstance(place, Address) or not isinstance(items, FolderPictures):
                    raise UsageError(
                        f"{place}: the recipe says cache: that is for image files on disk, which "
                        "tell when they change; load it with the override cache=null"
                    )
                self.cache = keep.open(
                    scaled_decoding, self._backend == "processes" and workers > 0 and forks()
                )
                items = CachedPictures(items, keep, self.cache)
        elif keep is not None:
            raise UsageError(
                "the recipe says cache: that is for a folder of images, whose files tell when "
                "they change; for a dataset load it with the override cache=null"
            )
        elif split is not None:
            raise UsageError(f"split {split!r}: only a folder has splits")
        self._length = check_map_style(base)
        self.base = base
        self.batch_size = batch_size
        self.skipped: list[DataError] = []
        self.finish: Finish | None = None
        self._seed = seed
        self._workers = workers
        self._device = _usable(device)
        self._shuffle = sampler is None and shuffle is not False
        self._drop_last = drop_last
        self._on_error = on_error
        self._sampler = sampler
        self._share = (rank, world_size)
        self._indices = np.arange(self._length)
        if indices is not None:
            self._indices = positions(indices, self._length)
            if len(np.unique(self._indices)) < len(self._indices):
                raise UsageError("indices name a sample more than once")
        whole = len(self._indices) if sampler is None else _length(sampler)
        self._samples = whole // world_size if drop_last else -(-whole // world_size)
        self._gpu = self._device.type != "cpu"
        room = pinned if self._device.type == "cuda" else Pool((AHEAD + 1) * workers + 2)
        self._maker = Maker(items, stack, room, on_error)
        self._processes: Processes | None = None
        self._warned = False
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
        return {
            "seed": self._seed,
            "length": self._samples,
            "shuffle": self._shuffle,
            "rank": self._share[0],
            "world_size": self._share[1],
        }

    def _batches(self, run: object, epoch: int, start: int) -> Iterator[tuple[Tensor, Any]]:
        order, keys = self._order(epoch)
        stop = len(order) - len(order) % self.batch_size if self._drop_last else len(order)
        ends = [min(at + self.batch_size, stop) for at in range(start, stop, self.batch_size)]
        parts = [
            Part(order[first:end].tolist(), keys[first:end].tolist(), epoch)
            for first, end in zip([start, *ends], ends, strict=False)
        ]
        yielded = start > 0
        with closing(self._made(parts)) as batches:
            for end in ends:
                made = next(batches)
                if made.error is not None:
                    try:
                        raise made.error
                    finally:  # else its traceback and this frame hold one another
                        del made
                self.skipped += made.failed
                if self._run is run:
                    self._at = (epoch, end)
                if made.images is not None:
                    yielded = True
                    batch = self._sent(made, epoch)
                    del made  # or it would be held until the next is due
                    yield batch
                    del batch
        if self.cache is not None and self.cache.full and not self._warned:
            self._warned = True
            warnings.warn(
                f"the cache is full after {self.cache.entries} images: the others are decoded "
                "anew in each epoch; raise the recipe's cache.max_gb",
                stacklevel=2,
            )
        if self.skipped and not yielded:
            raise DataError("no sample could be loaded; the first", str(self.skipped[0]))
        if self._run is run:
            self._at = (epoch + 1, 0)

    def _made(self, parts: Sequence[Part]) -> Generator[Made]:
        """Yields what becomes of the parts, in order; close it when it is given up."""
        # On the CPU the batch section is work like the rest; a GPU does it in its one queue.
        maker = self._maker if self._gpu else replace(self._maker, finish=self.finish)
        if self._backend == "processes" and self._workers:
            if self._processes is None:
                self._processes = Processes(maker, self._workers)
            return self._processes.made(parts)
        stop = Event()
        return ordered(lambda part: maker.make(part, stop), parts, self._workers, stop, ahead=AHEAD)

    def _sent(self, made: Made, epoch: int) -> tuple[Tensor, Any]:
        """Takes a batch to the device, and does there what is left to do."""
        assert made.images is not None
        if not self._gpu:
            return made.images, made.targets
        images, targets = made.images, made.targets
        if self._device.type == "cuda" and not images.is_pinned():
            images = images.pin_memory()  # or the copy would hold the program up
        made.images = images.to(self._device, non_blocking=True)
        made.targets = targets.to(self._device) if isinstance(targets, Tensor) else targets
        made = replace(self._maker, finish=self.finish).finished(made, epoch)
        assert made.images is not None
        return made.images, made.targets

    def _order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns the epoch's indices in order, and what each is keyed by."""
        if self._sampler is not None:
            if hasattr(self._sampler, "set_epoch"):
                self._sampler.set_epoch(epoch)
            order = positions(self._sampler, self._length)
        elif self._shuffle:
            draws = Draws(self._seed, np.zeros(1, np.int64), epoch, op="loader")
            order = self._indices[draws.permutation("shuffle", len(self._indices))[0]]
        else:
            order = self._indices
        rank, world_size = self._share
        if world_size > 1 and len(order):
            order = np.resize(order, self._samples * world_size)  # from its start again
        keys = distinct_keys(order, self._length)
        return order[rank::world_size], keys[rank::world_size]


def _share(rank: int | None, world_size: int | None, ask: bool) -> tuple[int, int]:
    """Returns which of how many processes this is.

    Args:
        rank: As the caller said.
        world_size: As the caller said.
        ask: Whether to ask torch if the caller said neither.

    Raises:
        UsageError: If one is said without the other, or there is no such rank.
    """
    if (rank is None) != (world_size is None):
        raise UsageError(f"rank {rank} of world_size {world_size}: give both or neither")
    if rank is None or world_size is None:
        if ask and dist.is_available() and dist.is_initialized():
            return dist.get_rank(), dist.get_world_size()
        return 0, 1
    if not 0 <= rank < world_size:
        raise UsageError(f"rank {rank} of world_size {world_size}: from 0 to one less")
    return rank, world_size


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
