"""How long a training loop waits for its batches, by the loader itself."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from torch import Tensor

from augpipe.batch import BatchSection
from augpipe.data.children import forks
from augpipe.errors import AugpipeError, in_a_line
from augpipe.pipeline import Pipeline
from augpipe.report.advice import Load

_MOST = 1_000_000  # images of an epoch
_SPARE = 2  # times as many images as should fit into the time
_BATCHES = 3  # at least, and more for each worker


@dataclass(frozen=True, slots=True)
class _ImagesAlone:
    """A batch section for images whose classes are not known."""

    section: BatchSection

    def __call__(self, images: Tensor, targets: Any, **keys: Any) -> tuple[Tensor, Any]:
        return self.section(images, **keys), targets


@dataclass(frozen=True, slots=True)
class Waiting:
    """A recipe's loader on a folder.

    Args:
        pipe: The recipe.
        path: The folder.
        labelled: Whether it has classes; else the batch section has no targets.
        indices: The images that are loaded, over and over.
        batch_size: Of the loader.
        scaled: Whether JPEGs may be decoded at a fraction of their size.
    """

    pipe: Pipeline
    path: Path
    labelled: bool
    indices: Sequence[int]
    batch_size: int
    scaled: bool

    def loads(
        self, workers: int, cores: int, seconds: float, ms: float
    ) -> tuple[tuple[Load, ...], str]:
        """Measures the loader as asked for, on the other backend, and with more workers.

        Args:
            workers: As asked for.
            cores: That more workers are not to exceed.
            seconds: How long to measure, about.
            ms: What an image takes in one thread.

        Returns:
            The waits, that asked for first; or none, and why.
        """
        own, other = ("processes", "threads") if forks() else ("threads", "processes")
        asked = [(workers, own)]
        if workers and forks():
            asked.append((workers, other))
        more = min(max(2 * workers, 2), cores)
        if more > workers:
            asked.append((more, own))
        try:
            return tuple(self._load(*each, seconds / len(asked), ms) for each in asked), ""
        except AugpipeError as error:
            return (), str(error)
        except Exception as error:
            return (), in_a_line(error)

    def _load(self, workers: int, backend: str, seconds: float, ms: float) -> Load:
        full = -(-len(self.indices) // self.batch_size)
        warm = 2 * workers + 1 + 2 * full  # what is in hand; and all images, for a cache
        least = _BATCHES + 2 * workers
        fits = _SPARE * seconds * 1000.0 / ms * max(workers, 1) / self.batch_size
        count = warm + least + int(min(fits, _MOST / self.batch_size))
        loader = self.pipe.loader(
            self.path,
            sampler=np.resize(self.indices, count * self.batch_size).tolist(),
            batch_size=self.batch_size,
            workers=workers,
            backend=cast(Literal["threads", "processes"], backend),
            scaled_decoding=self.scaled,
        )
        if loader.finish is not None and not self.labelled:
            loader.finish = _ImagesAlone(self.pipe.batch)
        with closing(cast(Any, iter(loader))) as batches:
            for _ in range(warm):
                next(batches)
            start = now = time.perf_counter()
            done = images = 0
            for batch, _ in batches:
                done, images, now = done + 1, images + len(batch), time.perf_counter()
                if done >= least and now - start >= seconds:
                    break
        return Load(workers, backend, (now - start) * 1000.0 / images)
