"""Images of a GAN as sources of an expansion: which there are, and what they show."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from augpipe.data.folder import Listing, Source
from augpipe.errors import DataError, UsageError
from augpipe.learned.files import digest_of, path_of
from augpipe.rng import Draws
from augpipe.settings import GenerateRule
from augpipe.types import Array

if TYPE_CHECKING:
    from augpipe.learned.replacing import ClassGenerator

OP = "gan_generate"


def sources(rule: GenerateRule | None, listing: Listing) -> tuple[Source, ...]:
    """Returns what a rule adds to a listing: each class's, in the order of the classes.

    They are named as if they lay beside the class's first image, or in its folder.

    Raises:
        UsageError: The images have no classes.
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
    root = listing.sources[0].relative.rpartition("/")[0].rpartition("/")[0]
    path, found = path_of(rule.model, "gan"), []
    for label in listing.classes:
        known = first.get(label)  # an empty class is filled beside the others
        folder = known.relative.rpartition("/")[0] if known else f"{root}/{label}".lstrip("/")
        split = listing.sources[0].split
        count = rule.count + (most - counts[label] if rule.balance else 0)
        found += [
            Source(path, f"{folder}/generated_{k:05d}.png", label, split) for k in range(count)
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
    _held: Callable[[], ClassGenerator] = field(init=False)

    def __post_init__(self) -> None:
        # Imported and read here, before there are threads: they would find torch half imported.
        from augpipe.learned.replacing import ClassGenerator
        from augpipe.learned.weights import held

        self.digest = digest_of(self.rule.model, "gan")
        self._held = functools.partial(held, ClassGenerator, self.rule.model, "cpu")
        try:
            self._held().numbers(self.classes, OP)
        except DataError as error:
            if error.where == OP:
                raise UsageError(str(error)) from None
            raise

    def image(self, label: str, index: int, copy: int) -> Array:
        """Returns (H, W, C) uint8: what is keyed by the index and, as epoch, the copy."""
        import torch

        known = self._held()
        draws = Draws(self.seed, np.array([index], np.int64), copy, op=OP)
        number = known.numbers(self.classes, OP)[[self.classes.index(label)]]
        (made,) = known.make(number, draws.key("field"), self.rule.truncation)
        levels = (255.0 * made).round().to(torch.uint8)
        return np.ascontiguousarray(levels.permute(1, 2, 0).numpy())
