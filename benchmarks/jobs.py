"""What is to be loaded: recipes, images, and how many of them at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.measuring import ROOT

SMALL = [
    {"random_crop": {"size": 28, "padding": 2}},
    "horizontal_flip",
    {"rotate": {"degrees": [-10, 10]}},
    {"cutout": {"size": 0.3, "p": 0.5}},
    {"normalize": "fashion_mnist"},
]


@cache
def recipe(name: str) -> dict[str, Any]:
    """Returns augpipe's recipe of that name, as a mapping.

    "small, sample" and "small, batch" differ in the section; "..., cached" asks for the cache.
    """
    name, _, how = name.partition(", ")
    policy: dict[str, list[Any]] = {
        "randaugment": [{"rand_augment": {"num_ops": 2, "magnitude": 9}}],
        "trivialaugment": ["trivial_augment"],
        "crop": [],
    }
    if name == "small":
        return {"version": 1, how or "sample": SMALL}
    if name in policy:
        first: list[Any] = [{"random_resized_crop": 224}, "horizontal_flip"]
        return {"version": 1, "sample": [*first, *policy[name], {"normalize": "imagenet"}]}
    found = yaml.safe_load((ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
    return {**found, "cache": "memory"} if how == "cached" else found


@dataclass(frozen=True)
class Arrays:
    """Images in memory, as a list-like dataset of (uint8 image, class)."""

    images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], int]:
        return self.images[index], index % 10


@dataclass(frozen=True)
class Job:
    """What is to be loaded.

    Args:
        recipe: "imagenet", "strong", "randaugment", "trivialaugment", "small", "crop" (crop,
            flip and normalize), with augpipe's ", sample", ", batch", ", cached".
        source: A flat folder of JPEGs, or images in memory.
        batch: Images in a batch.
        batches: How many are asked for.
        workers: Processes or threads.
    """

    recipe: str
    source: Path | Arrays
    batch: int
    batches: int
    workers: int = 2

    @property
    def work(self) -> str:
        """The recipe's name for the peers."""
        return self.recipe.partition(",")[0]

    @property
    def items(self) -> Sequence[Any]:
        """The files in order, or the images."""
        if isinstance(self.source, Arrays):
            return self.source.images
        return sorted(self.source.glob("*.jpg"))

    @property
    def step(self) -> int:
        """After a multiple of how many batches the clock may stop.

        Each worker has delivered as many. And where a few batches hold each image equally
        often, they all count: 12 photos of 8 to 25 megapixels do not cost the same.
        """
        whole = len(self.items) // math.gcd(len(self.items), self.batch)
        turn = max(1, self.workers)
        return math.lcm(whole, turn) if whole * self.batch <= 64 else turn

    def order(self) -> list[int]:
        """Returns the indices to load: shuffled, over and over, in one long epoch.

        A folder of some hundred images would end an epoch every few batches, and let each
        loader run dry there; the folders that people train on are longer.
        """
        length, count = len(self.items), self.batch * self.batches
        stride = next(
            n for n in range(int(length * 0.618) + 1, 2 * length) if math.gcd(n, length) == 1
        )
        return [k * stride % length for k in range(count)]
