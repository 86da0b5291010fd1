"""A recipe's plan on a backend: what users hold in their hands."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from augpipe import recipe as recipes
from augpipe.backends import opencv
from augpipe.data.workers import CallCounter, calm_cv2
from augpipe.errors import DataError, UsageError
from augpipe.ir import Color, Flow, Meaning, Regions, Warp, leaves_levels
from augpipe.kinds import unpack
from augpipe.plan.nodes import layout, realise
from augpipe.plan.rules import plan
from augpipe.recipe import Recipe
from augpipe.rng import Draws, Trace, stream_key
from augpipe.targets import Sample, move_outlines, move_points
from augpipe.types import Array, Frame

if TYPE_CHECKING:
    from augpipe.data.dataset import AugmentedDataset
    from augpipe.data.loader import Loader
    from augpipe.plan.explain import Explanation


_INDICES, _EPOCHS = 2**63, 2**32


def load(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Pipeline:
    """Reads a recipe and makes it ready to run.

    Args:
        source: A YAML file, or its content as a mapping.
        overrides: Settings such as `sample.0.rotate.degrees=[-5, 5]`.

    Raises:
        RecipeError: With every problem found, each at its place.
    """
    return Pipeline(recipes.load(source, overrides))


class Pipeline:
    """A recipe that is ready to run.

    It holds no random state: what happens to an image depends on the recipe's seed, the
    image's index, the epoch, and nothing else.

    Args:
        recipe: What to do.

    Attributes:
        nodes: The plan of the sample section.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        counter: Counter[str] = Counter()
        self.nodes = plan(recipe.sample, counter, recipe.fuse)
        self._batch_nodes = plan(recipe.batch, counter, recipe.fuse)
        self._layout = layout(self.nodes)
        self._calls = CallCounter()
        self._fits: set[int] = set()  # channel counts that every op can take

    def __repr__(self) -> str:
        return f"Pipeline({len(self.recipe.sample)} sample ops, {len(self.recipe.batch)} batch ops)"

    def __call__(self, item: Any, index: int | None = None, epoch: int = 0) -> Any:
        """Augments one item; the same kind comes out.

        Args:
            item: A PIL image, an array (H, W) or (H, W, C), a tensor (C, H, W), a tv_tensor,
                a tuple or a dict of targets (see augpipe/kinds).
            index: What the draws are keyed by, with the recipe's seed and the epoch. Left
                out: torch's seed of this worker and a number from torch's generator, so that
                workers do not repeat one another and `torch.manual_seed` reproduces a run.
            epoch: The epoch.

        Raises:
            DataError: The item is not one of these kinds, or an op cannot take it.
        """
        if index is None:
            (out,) = self.apply([item], *self._next_call())
        else:
            (out,) = self.apply([item], [index], epoch)
        return out

    def _next_call(self) -> tuple[Array, int, int]:
        worker_seed, indices = self._calls.next(1)
        return indices, 0, stream_key(self.recipe.seed, "worker", str(worker_seed))

    def apply(
        self,
        items: Sequence[Any],
        indices: Sequence[int] | Array,
        epoch: int = 0,
        seed: int | None = None,
        names: Sequence[str] | None = None,
    ) -> list[Any]:
        """Augments n items at once; the draws are vectorised over them.

        Args:
            items: As in `__call__`.
            indices: (n,), each from 0 to 2**63 - 1.
            epoch: The epoch, from 0 to 2**32 - 1.
            seed: Instead of the recipe's.
            names: What the positions of a tuple hold: ("image", "mask").
        """
        self._refuse_batch()
        packed = [unpack(item, names) for item in items]
        keys = _keys(indices, len(packed))
        if not 0 <= operator.index(epoch) < _EPOCHS:
            raise UsageError(f"epoch {epoch}: an epoch is from 0 to 2**32 - 1")
        samples = self.run([each.sample for each in packed], keys, epoch, seed=seed)
        rules = self.recipe.boxes
        return [
            each.repack(sample, rules.min_area, rules.min_visibility)
            for each, sample in zip(packed, samples, strict=True)
        ]

    def run(
        self,
        samples: Sequence[Sample],
        indices: Array,
        epochs: int | Array = 0,
        trace: Trace | None = None,
        seed: int | None = None,
    ) -> list[Sample]:
        """Does the sample section to n samples; their arrays are not changed.

        Args:
            samples: What `kinds.unpack` or a reader made.
            indices: (n,).
            epochs: One for all, or (n,).
            trace: Filled with the drawn parameters, by op key and name, each (n, ...).
            seed: Instead of the recipe's.
        """
        calm_cv2()
        for channels in {sample.image.shape[2] for sample in samples} - self._fits:
            self._check_channels(channels)
            self._fits.add(channels)
        sizes = [sample.image.shape[:2] for sample in samples]
        meanings = self.realise(sizes, indices, epochs, trace, seed)
        return [_render(meanings, row, sample) for row, sample in enumerate(samples)]

    def _refuse_batch(self) -> None:
        """Refuses a recipe of which only a part would be done."""
        if self.recipe.batch:
            text = "this version runs the sample section: move what stands under 'batch:' there"
            raise UsageError(text)

    def realise(
        self,
        sizes: Sequence[tuple[int, ...]],
        indices: Array,
        epochs: int | Array = 0,
        trace: Trace | None = None,
        seed: int | None = None,
    ) -> list[Meaning]:
        """Draws all parameters for n images of these (height, width); see `run`."""
        seed = self.recipe.seed if seed is None else seed
        draws = Draws(seed, np.asarray(indices, np.int64), epochs, trace=trace)
        frame = Frame(np.array(sizes, np.int64).reshape(-1, 2))
        return realise(self.nodes, draws.together(self._layout), frame)

    def _check_channels(self, channels: int) -> None:
        """Refuses, by the op's key, an image of a channel count that an op cannot take."""
        have = f"the image has {channels} channel{'s' * (channels != 1)}"
        for step in (step for each in self.nodes for step in each.steps):
            op = step.op
            if op.rgb_only and channels not in (3, 4):
                raise DataError(step.key, f"needs RGB; {have}")
            if (op.kind is Color or op.name() == "clahe") and channels not in (1, 3, 4):
                raise DataError(step.key, f"needs grey or RGB; {have}")
            levels = getattr(op, "fill", None)
            if isinstance(levels, tuple) and op.kind is not Color:
                spared = op.kind is Regions and channels == 4  # alpha is not filled
                if len(levels) not in (1, channels - spared):
                    raise DataError(step.key, f"its fill has {len(levels)} levels; {have}")

    def explain(self, size: tuple[int, int] | None = None) -> Explanation:
        """Returns the plan in words: `print(pipe.explain(size=(375, 500)))`.

        Args:
            size: (height, width) of an image to follow through the plan.
        """
        from augpipe.plan.explain import explain

        return explain(self.nodes, self._batch_nodes, size)

    def dataset(self, base: Any, **options: Any) -> AugmentedDataset:
        """Wraps any map-style dataset for a plain DataLoader; see `AugmentedDataset`."""
        from augpipe.data.dataset import AugmentedDataset

        return AugmentedDataset(base, self._applier(options), **options)

    def loader(self, source: Any, **options: Any) -> Loader:
        """Loads a dataset or a folder in threads, ready to train on; see `Loader`."""
        from augpipe.data.loader import Loader

        return Loader(source, self._applier(options), seed=self.recipe.seed, **options)

    def _applier(self, options: dict[str, Any]) -> Any:
        self._refuse_batch()
        names = options.pop("names", None)
        return functools.partial(self.apply, names=names) if names else self.apply


def _keys(indices: Sequence[int] | Array, count: int) -> Array:
    """Returns (count,) indices as integers; refuses others, which would be keyed alike."""
    keys = [operator.index(index) for index in indices]
    if len(keys) != count:
        raise UsageError(f"{len(keys)} indices for {count} items")
    for key in keys:
        if not 0 <= key < _INDICES:
            raise UsageError(f"index {key}: an index is from 0 to 2**63 - 1")
    return np.array(keys, np.int64)


def _render(meanings: Sequence[Meaning], row: int, sample: Sample) -> Sample:
    """Does row `row` of each meaning to a sample and to all that belongs to it."""
    image, masks, points, boxes = sample.image, sample.masks, sample.points, sample.boxes
    for meaning in meanings:
        image = opencv.render(meaning, row, image)
        if isinstance(meaning, (Warp, Flow)):
            masks = [opencv.render_mask(meaning, row, mask) for mask in masks]
            points = [move_points(meaning, row, each) for each in points]
            boxes = [move_outlines(meaning, row, each) for each in boxes]
    normalized = sample.normalized or any(map(leaves_levels, meanings))
    return Sample(image, masks, points, boxes, normalized)
