"""A recipe's plan on a backend: what users hold in their hands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from augpipe.backends import opencv
from augpipe.ir import Flow, Warp
from augpipe.plan.nodes import Node, node, realise, steps
from augpipe.plan.rules import fuse
from augpipe.recipe import Recipe
from augpipe.rng import Draws, Trace
from augpipe.targets import Sample
from augpipe.types import Array, Frame


class Pipeline:
    """A recipe that is ready to run.

    Args:
        recipe: What to do.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        counter: Counter[str] = Counter()
        self.nodes = self._plan(steps(recipe.sample, counter))

    def _plan(self, program: Sequence[Any]) -> tuple[Node, ...]:
        nodes = tuple(node(step) for step in program)
        return fuse(nodes) if self.recipe.fuse else nodes

    def run(
        self,
        samples: Sequence[Sample],
        indices: Array,
        epochs: int | Array = 0,
        trace: Trace | None = None,
    ) -> list[Sample]:
        """Does the sample section to n samples; their arrays are not changed."""
        sizes = np.array([s.image.shape[:2] for s in samples], np.int64).reshape(-1, 2)
        draws = Draws(self.recipe.seed, np.asarray(indices, np.int64), epochs, trace=trace)
        meanings = realise(self.nodes, draws, Frame(sizes))
        out = []
        for row, sample in enumerate(samples):
            image, masks = sample.image, list(sample.masks)
            for meaning in meanings:
                image = opencv.render(meaning, row, image)
                if isinstance(meaning, (Warp, Flow)):
                    masks = [opencv.render_mask(meaning, row, mask) for mask in masks]
            out.append(Sample(image, masks, sample.points))
        return out
