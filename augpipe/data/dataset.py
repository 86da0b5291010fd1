"""Any map-style dataset, augmented, for a plain DataLoader.

A sample's augmentation depends on its index and the epoch, and a DataLoader tells its workers
no epoch. Forgetting it would repeat the same augmentations in every epoch, in silence. So the
epoch stands in memory that all workers share, beside a mark for each index that was served
in it, and an index that comes a second time is an error with its remedy.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# A DataLoader's workers seed it, and would each import it after the fork.
import numpy.random  # noqa: TID251
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from augpipe.data.decode import as_rgb, decode, read
from augpipe.data.folder import scan
from augpipe.data.jpeg import open_jpeg
from augpipe.data.workers import calm_cv2
from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.types import Picture

Apply = Callable[[Sequence[Any], Sequence[int], int], list[Any]]
"""(items, sample indices, epoch) to the transformed items, of the same kind."""

_EPOCHS = 2**32


class RepeatedIndexError(AugpipeError):
    """An index was asked for twice in one epoch: its augmentation would be the same."""


class AugmentedDataset(Dataset[Any]):
    """A map-style dataset whose items come augmented, the same whatever worker loads them.

    Call `set_epoch(e)` before each epoch's `for batch in DataLoader(...)`; it reaches workers
    that are already running (`persistent_workers=True`), forked or spawned. Until the first
    call it is epoch 0. A call begins the epoch anew, even where the number stays the same.

    An index that comes twice in an epoch raises `RepeatedIndexError`. The marks are without a
    lock: of two workers that are given one index at the same instant, neither may notice.

    Args:
        base: Has `__len__` and `__getitem__`, and may have `__getitems__`. Its length is read
            once.
        apply: What to do to its items; picklable, if workers are to be spawned.
        allow_repeats: Serve an index as often as it is asked for, for samplers that draw with
            replacement: within an epoch it has the same pixels each time.

    Raises:
        UsageError: If `base` is not a map-style dataset.
    """

    def __init__(self, base: Any, apply: Apply, *, allow_repeats: bool = False) -> None:
        self._length = check_map_style(base)
        self.base = base
        self.allow_repeats = allow_repeats
        self._apply = apply
        # One word, (round, epoch), so that both are read and written in one instant. A round
        # is what a call of `set_epoch` begins.
        self._now = torch.tensor([_EPOCHS], dtype=torch.int64, device="cpu")
        marks = 0 if allow_repeats else self._length
        # For each index 2 * round, or 2 * round + 1 if it may come once more in that round.
        self._marks = torch.zeros(marks, dtype=torch.int32, device="cpu")
        self._born = (0, 0)
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share()

    def _share(self) -> None:
        # A tensor that a worker process was given is shared already, and stays as it is.
        self._now.share_memory_()  # type: ignore[no-untyped-call]
        self._marks.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        return self._length

    @property
    def epoch(self) -> int:
        """The epoch whose augmentations are served."""
        return int(self._now.numpy()[0]) % _EPOCHS

    def set_epoch(self, epoch: int) -> None:
        """Begins an epoch, in all workers.

        Args:
            epoch: From 0 to 2**32 - 1.
        """
        begun = int(self._now.numpy()[0]) // _EPOCHS
        self._now.numpy()[0] = (begun + 1) * _EPOCHS + check_epoch(epoch)

    def __getitem__(self, index: int) -> Any:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Returns several items; their parameters are drawn in one go.

        Raises:
            IndexError: If an index is out of range.
            RepeatedIndexError: If an index was served before in this epoch.
            DataError: If a sample cannot be loaded or transformed. It names the index.
        """
        places = positions(indices, self._length)
        current, epoch = divmod(int(self._now.numpy()[0]), _EPOCHS)
        if not self.allow_repeats:
            self._mark(places, current, epoch)
        calm_cv2()  # the base may use it too, before the pipeline does
        rows = load(self.base, self._apply, places.tolist(), places.tolist(), epoch)
        for row in rows:
            if isinstance(row, DataError):
                raise row
        return rows

    def _mark(self, places: NDArray[np.int64], current: int, epoch: int) -> None:
        """Marks indices as served in the current round.

        A loop that breaks off leaves tasks with persistent workers, which do them later, in
        the next round, for nobody. What such a worker serves is therefore not held against
        the index, unless the round before served it too.
        """
        if self._born[0] != os.getpid():
            self._born = (os.getpid(), current)
        older = get_worker_info() is not None and self._born[1] != current
        marks = self._marks.numpy()
        before = marks[places]
        once_more = older & (before // 2 != current) & (before // 2 != current - 1)
        marks[places] = 2 * current + once_more
        again = before == 2 * current
        # Of an index that stands here twice, all but the first.
        again |= ~np.isin(np.arange(len(places)), np.unique(places, return_index=True)[1])
        if again.any():
            raise RepeatedIndexError(
                f"sample {places[again][0]} was asked for twice in epoch {epoch}, and would be "
                "augmented in the same way: call set_epoch(epoch) on the augmented dataset before "
                "each epoch, or make it with allow_repeats=True if the sampler draws with "
                "replacement"
            )


class FolderImages:
    """A folder's images, decoded: (uint8 RGB array (H, W, 3), class index or -1).

    Args:
        root: A folder of class folders, or a flat one.
        split: See `augpipe.data.folder.scan`.
    """

    def __init__(self, root: Path, split: str | None = None) -> None:
        listing = scan(root, split)
        self.classes = listing.classes
        self.paths = [source.path for source in listing.sources]
        numbers = {name: number for number, name in enumerate(listing.classes)}
        self.targets = [numbers.get(source.label or "", -1) for source in listing.sources]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return as_rgb(decode(self.paths[index])), self.targets[index]


@dataclass(frozen=True, slots=True)
class FolderPictures:
    """A folder's images, decoded as far as they are looked at: (Picture or array, class index).

    Args:
        images: The folder.
        scaled: Whether JPEGs may be decoded at a fraction of their size.
    """

    images: FolderImages
    scaled: bool

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Picture | NDArray[np.uint8], int]:
        path = self.images.paths[index]
        return self.open(read(path), str(path)), self.images.targets[index]

    def open(self, data: bytes, name: str) -> Picture | NDArray[np.uint8]:
        """Returns the image of a file's content, RGB.

        Args:
            data: The content.
            name: What errors call it.
        """
        picture = open_jpeg(data, name, rgb=True, scaled=self.scaled)
        return picture or as_rgb(decode(data, name=name))


def load(
    base: Any, apply: Apply, indices: Sequence[int], keys: Sequence[int], epoch: int
) -> list[Any]:
    """Returns transformed items; a DataError that names it stands for one that failed.

    Args:
        base: A map-style dataset.
        apply: What to do to its items.
        indices: Which items, from 0 to len(base) - 1.
        keys: The sample indices that `apply` is given for them.
        epoch: The epoch that it is given.
    """
    try:
        rows = apply(_items(base, indices), keys, epoch)
        if len(rows) != len(indices):
            raise ValueError(f"{len(indices)} items became {len(rows)}")
        return rows
    except UsageError:  # not the sample's fault
        raise
    except Exception as error:
        if len(indices) == 1:
            return [named(indices[0], error)]
        # One by one, to find whose fault it is.
        rows = [
            load(base, apply, [index], [key], epoch)[0]
            for index, key in zip(indices, keys, strict=True)
        ]
        if not any(isinstance(row, DataError) for row in rows):
            raise
        return rows


def check_map_style(base: Any) -> int:
    """Returns the length of a map-style dataset.

    Raises:
        UsageError: If it is none.
    """
    kind = type(base).__name__
    if isinstance(base, str | bytes | os.PathLike | Mapping):
        raise UsageError(
            f"a map-style dataset is needed, not a {kind}: make one, such as "
            "torchvision.datasets.ImageFolder(path), or give the folder to pipe.loader"
        )
    for method in ("__len__", "__getitem__"):
        if isinstance(base, IterableDataset) or not hasattr(base, method):
            raise UsageError(
                f"a map-style dataset (with __len__ and __getitem__) is needed, and {kind} is "
                "none: where items only come one after another, call pipe(item) on each"
            )
    try:
        return len(base)
    except (TypeError, NotImplementedError) as error:
        raise UsageError(f"the dataset {kind} does not know its length: {error}") from error


def check_epoch(epoch: int) -> int:
    """Returns an epoch's number.

    Raises:
        UsageError: If it is not between 0 and 2**32 - 1.
    """
    number = operator.index(epoch)
    if not 0 <= number < _EPOCHS:
        raise UsageError(f"epoch {number}: an epoch is from 0 to 2**32 - 1")
    return number


def positions(indices: Iterable[int], length: int) -> NDArray[np.int64]:
    """Returns indices as numbers from 0 to length - 1; negative ones count from the end.

    Args:
        indices: Integers of Python, NumPy or torch.
        length: The dataset's.

    Raises:
        IndexError: If one is out of range.
    """
    numbers = [operator.index(index) for index in indices]
    for number in numbers:
        if not -length <= number < length:
            raise IndexError(f"index {number} is out of range: the dataset has {length} samples")
    return np.array([number % length for number in numbers], np.int64)


def distinct_keys(places: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Returns the sample indices to key an epoch's items by, each of them once.

    An index is its own key the first time, and index + k * length the k-th time after it.
    """
    by_index = np.argsort(places, kind="stable")
    _, starts, counts = np.unique(places[by_index], return_index=True, return_counts=True)
    before = np.empty_like(places)
    before[by_index] = np.arange(len(places)) - np.repeat(starts, counts)
    return places + length * before


def _items(base: Any, indices: Sequence[int]) -> list[Any]:
    if getattr(base, "__getitems__", None):
        return list(base.__getitems__(list(indices)))
    return [base[index] for index in indices]


def named(index: int, error: Exception) -> DataError:
    """Returns an error that names the sample."""
    match error:
        case DataError():
            named = DataError(f"sample {index} ({error.where})", error.reason)
        case AugpipeError():
            named = DataError(f"sample {index}", str(error))
        case _:
            named = DataError(f"sample {index}", f"{type(error).__name__}: {error}")
    named.__cause__ = error
    return named


def image_tensor(index: int, image: Any) -> Tensor:
    """Returns a (C, H, W) tensor of the image's own dtype."""
    if isinstance(image, Tensor):
        tensor = image.as_subclass(Tensor)
        return tensor if tensor.ndim == 3 else tensor[None]
    if not isinstance(image, np.ndarray | Image.Image):
        raise UsageError(f"sample {index}: {type(image).__name__} is not an image")
    pixels = np.asarray(image)
    pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(np.array(pixels.transpose(2, 0, 1), order="C"))


@dataclass(frozen=True, slots=True)
class Collatable:
    """What to do to items, so that torch's `default_collate` makes batches of them.

    Args:
        apply: What to do to them first.
        with_index: Whether to add the index that an item is keyed by, as its last element.
    """

    apply: Apply
    with_index: bool = False

    def __call__(self, items: Sequence[Any], indices: Sequence[int], epoch: int) -> list[Any]:
        """Returns the items with their images as tensors (C, H, W)."""
        done = self.apply(items, indices, epoch)
        return [self._one(item, index) for item, index in zip(done, indices, strict=True)]

    def _one(self, item: Any, index: int) -> Any:
        if isinstance(item, Mapping):
            out = dict(item)
            if "image" in out:
                out["image"] = image_tensor(index, out["image"])
            return out | {"index": index} if self.with_index else out
        if not isinstance(item, tuple | list):
            image = image_tensor(index, item)
            return (image, index) if self.with_index else image
        parts = [image_tensor(index, item[0]), *item[1:]]
        return (*parts, index) if self.with_index else tuple(parts)
