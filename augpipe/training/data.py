"""Data to train on: a dataset, its splits, and Lightning's DataModule over them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from torch import Tensor

from augpipe.data.dataset import FolderImages
from augpipe.data.folder import scan
from augpipe.data.idx import IdxImages, is_idx
from augpipe.errors import DataError, UsageError
from augpipe.pipeline import Pipeline
from augpipe.recipe import Recipe, as_recipe
from augpipe.rng import Draws
from augpipe.training.evaluation import for_evaluation

_VALIDATION = ("validation", "val", "valid")


@dataclass(frozen=True)
class Part:
    """Some images of a dataset.

    Args:
        source: What `pipe.loader` reads: a folder, or a dataset.
        split: The split folder, of a folder.
        indices: Which of them.
        targets: The class of every image of the source.
    """

    source: Any
    split: str | None
    indices: NDArray[np.int64]
    targets: Sequence[int]

    def __len__(self) -> int:
        return len(self.indices)


@dataclass(frozen=True)
class Splits:
    """What there is to train on, to validate on and to test on.

    Args:
        train: Images for training.
        validation: Images for choosing; may be empty.
        test: Images to judge by; None where there are none.
        classes: The class names.
        channels: Of the images.
        identity: Names the files that they were read from, to tell changed data by.
    """

    train: Part
    validation: Part
    test: Part | None
    classes: Sequence[str]
    channels: int
    identity: str = ""

    @property
    def named(self) -> str:
        """The data in words, other words for other data."""
        counts = (len(self.train), len(self.validation), len(self.test or ()))
        said = f"{' + '.join(map(str, counts))} images of {', '.join(self.classes)}"
        return f"{said} ({self.identity})" if self.identity else said


def open_splits(path: Path, held_out: float, seed: int) -> Splits:
    """Finds the splits of a dataset on disk.

    Args:
        path: A folder of class folders; one with train, validation and test folders; or a folder
            of IDX files.
        held_out: Where there is no validation split, which share of each class's training
            images becomes one.
        seed: Of the choice.

    Raises:
        UsageError: There is no such data.
        DataError: It has no classes, or one only.
    """
    path = Path(path).expanduser()
    read: Callable[[str | None], FolderImages | IdxImages]
    split: str | None
    if idx := is_idx(path):
        read, split = functools.partial(IdxImages, path), "train"
        channels, others = 1, {"test": "test"}
    else:
        read, channels = functools.partial(FolderImages, path), 3
        names = {each.name.lower() for each in path.iterdir()} if path.is_dir() else set()
        listing = scan(path)
        split = listing.sources[0].split
        others = {k: n for k in ("validation", "test") for n in _kin(k) if n in names and split}
    base = read(split)
    _check(path, base)
    every = np.arange(len(base))
    parts = {}
    opened = {kind: read(name) for kind, name in others.items()}
    for kind, other in opened.items():
        name = others[kind]
        # IDX files hold no names: the highest class may have no image here.
        if list(other.classes) != list(base.classes)[: len(other.classes) if idx else None]:
            odd = sorted(set(other.classes) ^ set(base.classes))
            raise DataError(
                path, f"the classes of {name} are not those of training: {odd[0]} is in one alone"
            )
        if len(other):
            parts[kind] = Part(_source(path, other), name, np.arange(len(other)), other.targets)
    train = Part(_source(path, base), split, every, base.targets)
    if "validation" not in parts:
        kept, out = hold_out(base.targets, held_out, seed)
        parts["validation"] = Part(train.source, split, out, base.targets)
        train = Part(train.source, split, kept, base.targets)
    identity = _identity(path, [base, *opened.values()])
    return Splits(train, parts["validation"], parts.get("test"), base.classes, channels, identity)


def _identity(path: Path, images: Sequence[FolderImages | IdxImages]) -> str:
    """Names data by their files' names, sizes and times, or by the bytes of IDX files."""
    found = hashlib.blake2b(digest_size=8)
    for each in images:
        found.update(np.asarray(each.targets, np.int64).tobytes())
        if isinstance(each, IdxImages):
            found.update(each.images.tobytes())
            continue
        for file in each.paths:
            about = file.stat()
            found.update(f"{file.relative_to(path)} {about.st_size} {about.st_mtime_ns}".encode())
    return found.hexdigest()


def _kin(kind: str) -> tuple[str, ...]:
    return _VALIDATION if kind == "validation" else ("test", "testing")


def _source(path: Path, base: Any) -> Any:
    return path if isinstance(base, FolderImages) else base


def _check(path: Path, base: Any) -> None:
    if len(base.classes) < 2 or min(base.targets) < 0:
        have = f"one class, '{base.classes[0]}'" if base.classes else "no class folders"
        raise DataError(
            path, f"has {have}: training needs a folder for each of two classes or more"
        )


def hold_out(
    targets: Sequence[int], share: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Divides indices in two, class by class: those kept, and a `share` of each class.

    A class gives ceil(share x n) of its n images, but never its last one.
    """
    labels = np.asarray(targets)
    order = Draws(seed, np.zeros(1, np.int64), op="hold out").permutation("order", len(labels))[0]
    out: list[int] = []
    for label in np.unique(labels):
        own = order[labels[order] == label]
        count = min(int(np.ceil(share * len(own))), len(own) - 1)
        out += own[:count].tolist()
    chosen = np.zeros(len(labels), bool)
    chosen[out] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def subset(splits: Splits, size: int | None, seed: int) -> Splits:
    """Returns the splits with `size` training images drawn by the seed, each class by its share."""
    part = splits.train
    if size is None or size >= len(part):
        return splits
    labels = np.asarray(part.targets)[part.indices]
    rest, chosen = hold_out(labels.tolist(), size / len(part), seed)
    # A class never gives its last image: close to all of them, some of the rest are needed.
    more = _trimmed(part.indices[rest], max(size - len(chosen), 0), seed)
    indices = np.sort(np.concatenate([_trimmed(part.indices[chosen], size, seed), more]))
    return replace(splits, train=replace(part, indices=indices))


def with_validation(splits: Splits, share: float, seed: int) -> Splits:
    """Returns the splits with a share of the training images held out, if there is no other."""
    if len(splits.validation):
        return splits
    part = splits.train
    kept, out = hold_out(np.asarray(part.targets)[part.indices].tolist(), share, seed)
    train, validation = (replace(part, indices=part.indices[each]) for each in (kept, out))
    return replace(splits, train=train, validation=validation)


def _trimmed(indices: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Leaves out, at random, what rounding up class by class gave too many."""
    order = np.argsort([hashlib.blake2b(f"{seed} {k}".encode()).digest() for k in indices.tolist()])
    return np.sort(indices[order[:size]])


def unvalidated(splits: Splits) -> Splits:
    """Returns the splits without validation images: nobody looks at them."""
    return replace(splits, validation=replace(splits.validation, indices=np.zeros(0, np.int64)))


class AugmentedData(pl.LightningDataModule):
    """Lightning's data: a recipe's `sample` and `batch` for training, no augmentation elsewhere.

        trainer.fit(my_module, AugmentedData("recipe.yaml", "data"))

    Batches are (images (n, C, H, W), targets), images in float32: what the recipe does not
    normalize comes from 0 to 1. Across devices, training divides an epoch among them, and
    validation and test divide the images without giving one twice.

    Args:
        recipe: The recipe, or its file.
        data: The dataset's folder, or the splits of one.
        workers: Of each loader.
    """

    def __init__(
        self, recipe: Recipe | str | Path, data: Splits | str | Path, workers: int = 2
    ) -> None:
        super().__init__()
        self.recipe = as_recipe(recipe)
        rule = self.recipe.train
        if not isinstance(data, Splits):
            data = open_splits(Path(data), rule.validation, self.recipe.seed)
        self.splits = data
        self._workers = workers
        self.size: Sequence[int] = ()  # of the images that are measured on, once some were shown
        self._pipe = Pipeline(_floating(self.recipe))
        self._plain = Pipeline(_floating(for_evaluation(self.recipe)))
        if len(data.train) < rule.batch_size:
            raise UsageError(
                f"train.batch_size {rule.batch_size} is more than the {len(data.train)} training "
                "images: make it smaller"
            )

    def train_dataloader(self) -> Any:
        """Returns the training batches; a last one that is smaller is left out."""
        part = self.splits.train
        share = {"rank": self._rank, "world_size": self._world}
        # Epochs done; in a run that goes on `current_epoch` is one less until it has begun.
        done: Any = self.trainer.fit_loop.epoch_progress.current if self.trainer else None
        epoch = done.processed if done else 0
        more = {"indices": part.indices.tolist(), "drop_last": True, "epoch": epoch, **share}
        return self._loader(self._pipe, part, **more)

    def val_dataloader(self) -> Any:
        """Returns the validation batches."""
        return self._measured(self.splits.validation)

    def test_dataloader(self) -> Any:
        """Returns the test batches; the validation's where there is no test split."""
        return self._measured(self.splits.test or self.splits.validation)

    def fitted_dataloader(self) -> Any:
        """Returns training images as a test sees them, for the generalization gap."""
        return self._measured(self.splits.train)

    def first_images(self) -> tuple[Tensor, Tensor]:
        """Returns the first two images (2, C, H, W) as training sees them and as a test does."""
        part = self.splits.train
        options = {"sampler": part.indices[:2].tolist(), "workers": 0}
        pair = [next(iter(self._loader(p, part, **options)))[0] for p in (self._pipe, self._plain)]
        self.size = pair[1].shape[2:]
        return pair[0].cpu(), pair[1].cpu()

    def _measured(self, part: Part) -> Any:
        own = part.indices[self._rank :: self._world].tolist()
        return self._loader(self._plain, part, sampler=own)

    def _loader(self, pipe: Pipeline, part: Part, **options: Any) -> Any:
        if isinstance(part.source, Path):
            options["split"] = part.split
        known = {"batch_size": self.recipe.train.batch_size, "workers": self._workers}
        return pipe.loader(part.source, **{**known, "device": self._device, **options})

    @property
    def _device(self) -> Any:
        return self.trainer.strategy.root_device if self.trainer else "cpu"

    @property
    def _rank(self) -> int:
        return self.trainer.global_rank if self.trainer else 0

    @property
    def _world(self) -> int:
        return self.trainer.world_size if self.trainer else 1


def _floating(recipe: Recipe) -> Recipe:
    """Ends the recipe in floats: with `to_float` where nothing normalizes."""
    from augpipe.ops.output import ToFloat

    ops = (*recipe.sample, *recipe.batch)
    if any(op.last for op in ops):
        return recipe
    name = "batch" if recipe.batch else "sample"
    return recipe.model_copy(update={name: (*getattr(recipe, name), ToFloat())})
