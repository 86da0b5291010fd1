"""Images of a GAN as sources of an expansion: which there are, and what they show."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from augpipe.data.folder import Listing, Source
from augpipe.errors import DataError, UsageError, reason
from augpipe.learned.weights import path_of
from augpipe.rng import Draws
from augpipe.settings import GenerateRule
from augpipe.types import Array

OP = "gan_generate"


def sources(rule: GenerateRule | None, listing: Listing) -> tuple[Source, ...]:
    """Returns what a rule adds to a listing: each class's, in the order of the classes.

    They are named as if they lay beside the class's first image.

    Raises:
        UsageError: The images have no classes, or a class has no image to lie beside.
    """
    if rule is None:
        return ()
    if not listing.classes:
        raise UsageError(f"{OP} makes images of classes: put the images into class folders")
    counts = Counter(each.label for each in listing.sources)
    first: dict[str | None, Source] = {}
    for each in listing.sources:
        first.setdefault(each.label, each)
    most = max(counts.values())
    path, found = path_of(rule.model, "gan"), []
    for label in listing.classes:
        if label not in first:
            raise UsageError(f"{OP}: class {label} has no image")
        folder = first[label].relative.rpartition("/")[0]
        count = rule.count + (most - counts[label] if rule.balance else 0)
        found += [
            Source(path, f"{folder}/generated_{k:05d}.png", label, first[label].split)
            for k in range(count)
        ]
    return tuple(found)


@dataclass(slots=True)
class Generator:
    """Makes the images.

    Args:
        rule: Whose.
        seed: The recipe's.
        classes: The names of the dataset's classes.

    Raises:
        DataError: The weights cannot be read.
        UsageError: The generator does not know one of the classes.
    """

    rule: GenerateRule
    seed: int
    classes: Sequence[str]
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        # Imported and read here, before there are threads: they would find torch half imported.
        import augpipe.learned.replacing

        known = augpipe.learned.replacing.classes(self.rule.model, "cpu")
        try:
            known.numbers(self.classes, OP)
        except DataError as error:
            raise UsageError(str(error)) from None
        path = path_of(self.rule.model, "gan")
        try:
            self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise DataError(path, reason(error)) from None

    def images(self, labels: Sequence[str], indices: Sequence[int], copies: Sequence[int]) -> Array:
        """Returns (n, H, W, C) uint8 images: copy k of index i is keyed by i and epoch k."""
        import torch

        from augpipe.learned.replacing import classes

        known = classes(self.rule.model, "cpu")
        draws = Draws(self.seed, np.asarray(indices, np.int64), np.asarray(copies), op=OP)
        numbers = torch.tensor(known.numbers(labels, OP))
        made = known.make(numbers, draws.key("field"), self.rule.scale)
        levels = (255.0 * made).round().to(torch.uint8)
        return np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())
