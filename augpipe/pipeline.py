"""A recipe's plan on a backend: what users hold in their hands."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from augpipe import recipe as recipes
from augpipe.ahead import Ahead, Foresee, Group, ascending, generated
from augpipe.backends import opencv
from augpipe.constraint import framed, kept, moved, settle
from augpipe.data.workers import CallCounter, calm_cv2
from augpipe.errors import DataError, UsageError, check_options
from augpipe.ir import Meaning
from augpipe.kinds import Packed, unpack
from augpipe.kinds.convert import unlevelled
from augpipe.plan.nodes import (
    Node,
    check_channels,
    check_targets,
    keys_of,
    layout,
    located,
    places,
    realise,
    sees_boxes,
    segments,
)
from augpipe.plan.rules import plan
from augpipe.recipe import Recipe
from augpipe.rendering import plain_planes, ready, render, render_row
from augpipe.rng import Draws, Trace, stream_key
from augpipe.targets import Sample
from augpipe.types import Array, Floats, Frame, Ints, Picture

if TYPE_CHECKING:
    from augpipe.batch import BatchSection
    from augpipe.data.dataset import AugmentedDataset
    from augpipe.data.loader import Loader
    from augpipe.plan.explain import Explanation


Segments = tuple[tuple[tuple[Node, ...], Node | None], ...]
Room = Callable[[tuple[int, ...], np.dtype[Any]], Array]

_EPOCHS = 2**32
_NOTHING: Segments = (((), None),)


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
        batch_nodes: The plan of the batch section.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._places = places("sample", recipe.sample, Counter())
        counter: Counter[str] = Counter()
        self.nodes = plan(recipe.sample, counter, recipe.fuse, recipe.cache is not None)
        self.batch_nodes = plan(recipe.batch, counter, recipe.fuse)
        ready(self.nodes)
        self._segments = segments(self.nodes)
        self._kept = tuple(takewhile(lambda node: node.cached, self.nodes))
        self._rest = segments(self.nodes[len(self._kept) :])
        self._layout = layout(self.nodes)
        self._classes: Sequence[str] | None = None
        self._calls = CallCounter()
        self._ahead = Ahead(self.nodes, self._layout)
        self._fits: set[int] = set()  # channel counts that every op can take
        self._ending = recipe.ending
        self._sees_boxes = sees_boxes(self.nodes)

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
        if index is not None:
            (out,) = self.apply([item], [index], epoch)
            return out
        worker_seed, indices = self._calls.next(1)
        seed = stream_key(self.recipe.seed, "worker", str(worker_seed))
        return self._alone(unpack(item), int(indices[0]), 0, seed, generated)

    def _alone(
        self, packed: Packed, index: int, epoch: int, seed: int | None, foresee: Foresee
    ) -> Any:
        """Augments one item; with those that should follow it, its parameters are drawn ahead."""
        sample = packed.sample
        bound = self._sees_boxes or self.recipe.constraint is not None
        if len(self._segments) > 1 or (bound and sample.boxes):
            (sample,) = self.run([sample], np.array([index], np.int64), epoch, seed=seed)
        else:
            calm_cv2()
            with located(self._places):
                self._check([sample])
                own = self.recipe.seed if seed is None else seed
                group = Group(own, epoch, sample.image.shape[:2])
                meanings, row = self._ahead.find(group, index, foresee)
                sample = render_row(meanings, None, row, sample)
        return packed.repack(sample, self._ending)

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
        packed = [unpack(item, names) for item in items]
        keys = keys_of(indices, len(packed))
        if not 0 <= operator.index(epoch) < _EPOCHS:
            raise UsageError(f"epoch {epoch}: an epoch is from 0 to 2**32 - 1")
        if len(packed) == 1:
            return [self._alone(packed[0], int(keys[0]), operator.index(epoch), seed, ascending)]
        samples = self.run([each.sample for each in packed], keys, epoch, seed=seed)
        return [
            each.repack(sample, self._ending) for each, sample in zip(packed, samples, strict=True)
        ]

    def run(
        self,
        samples: Sequence[Sample],
        indices: Array,
        epochs: int | Array = 0,
        trace: Trace | None = None,
        seed: int | None = None,
        attempts: Ints | None = None,
    ) -> list[Sample]:
        """Does the sample section to n samples; their arrays are not changed.

        Args:
            samples: What `kinds.unpack` or a reader made.
            indices: (n,).
            epochs: One for all, or (n,).
            trace: Filled with the drawn parameters, by op key and name, each (n, ...).
            seed: Instead of the recipe's.
            attempts: (n,), instead of those that the constraint settles.
        """
        calm_cv2()
        with located(self._places):
            done, meanings = self._prepare(
                samples, indices, epochs, trace, seed, self._segments, attempts
            )
            return render(meanings, None, done)

    def stack(
        self,
        items: Sequence[Any],
        indices: Sequence[int] | Array,
        epoch: int = 0,
        room: Room = np.empty,
        *,
        names: Sequence[str] | None = None,
        fixed: bool = False,
    ) -> tuple[Array, list[Any]]:
        """Augments n items whose images become one array, as `pipe.loader` needs them.

        Args:
            items: As in `__call__`, and images may be `types.Picture`s; one at least.
            indices: (n,), each from 0 to 2**63 - 1.
            epoch: The epoch, from 0 to 2**32 - 1.
            room: Gives the memory for an array of this shape and dtype.
            names: See `apply`.
            fixed: Whether the images come from `fix`.

        Returns:
            (n, C, H, W): of the items' dtype, or float32 where they are normalized; and the
            items, None in place of their images.

        Raises:
            DataError: The images that come out are not of one size, or as in `__call__`.
        """
        parts = self._rest if fixed else self._segments
        if parts == _NOTHING and (plain := plain_planes(items)):
            images = room((len(items), *plain[0].shape), plain[0].dtype)
            return np.stack(plain, out=images), [(None, target) for _, target in items]
        packed = [unpack(item, names) for item in items]
        keys = keys_of(indices, len(packed))
        calm_cv2()
        stacked: Array | None = None
        out: list[Any] = []
        with located(self._places):
            samples = [each.sample for each in packed]
            done, meanings = self._prepare(samples, keys, epoch, None, None, parts)
            for row, (each, sample) in enumerate(zip(packed, done, strict=True)):
                lies = None if stacked is None or stacked.dtype != np.float32 else stacked[row]
                sample = render_row(meanings, None, row, sample, lies)
                image = sample.image
                if not sample.normalized and each.dtype != image.dtype:
                    image = unlevelled(image, each.dtype)
                height, width, channels = image.shape
                if stacked is None:
                    stacked = room((len(packed), channels, height, width), image.dtype)
                if stacked.shape[1:] != (channels, height, width) or stacked.dtype != image.dtype:
                    raise DataError("images", "differ in size, channels or dtype")
                opencv.store(image, stacked[row])
                out.append(each.repack(sample, self._ending, elsewhere=True))
        assert stacked is not None
        return stacked, out

    def fix(self, image: Array | Picture) -> Array:
        """Does what the recipe always does alike, before its first draw, for `stack` to go on.

        Raises:
            DataError: An op cannot take the image.
        """
        sample = Sample(cast(Array, image))
        check_channels(self._kept, image.shape[2])
        draws = Draws(self.recipe.seed, np.zeros(1, np.int64))
        with located(self._places):
            return render(realise(self._kept, draws, self._frame([sample])), None, [sample])[
                0
            ].image

    def _prepare(
        self,
        samples: Sequence[Sample],
        indices: Array,
        epochs: int | Array,
        trace: Trace | None,
        seed: int | None,
        parts: Segments,
        attempts: Ints | None = None,
    ) -> tuple[list[Sample], list[Meaning]]:
        """Does all segments but the last; returns that one's meanings, which no other follows.

        What the constraint does not hold for is drawn again until it does.
        """
        self._check(samples)
        rule = self.recipe.constraint
        if attempts is not None or rule is None or not any(each.boxes for each in samples):
            own = self.draws(indices, epochs, trace, seed, 0 if attempts is None else attempts)
            return self._drawn(samples, own, parts)
        sets = [framed(each.boxes, each.image.shape[:2]) for each in samples]
        epochs = np.broadcast_to(epochs, len(samples))

        def least(rows: Ints, attempt: int) -> Floats:
            some = [samples[row] for row in rows.tolist()]
            own = self.draws(indices[rows], epochs[rows], None, seed, attempt)
            done, meanings = self._drawn(some, own, parts)
            ends = (moved(each.boxes, meanings, k) for k, each in enumerate(done))
            return np.array([kept(sets[row], end) for row, end in zip(rows, ends, strict=True)])

        attempts = settle(rule, len(samples), least, trace)
        return self._drawn(samples, self.draws(indices, epochs, trace, seed, attempts), parts)

    def _drawn(
        self, samples: Sequence[Sample], draws: Draws, parts: Segments
    ) -> tuple[list[Sample], list[Meaning]]:
        """Does `_prepare` with draws that are settled."""
        done = list(samples)
        for nodes, foreign in parts[:-1]:
            done = render(realise(nodes, draws, self._frame(done), sparse=True), None, done)
            assert foreign is not None
            done = render(realise((foreign,), draws, self._frame(done)), foreign, done)
        return done, realise(parts[-1][0], draws, self._frame(done), sparse=True)

    def _frame(self, samples: Sequence[Sample]) -> Frame:
        """Returns what ops may know of samples."""
        sizes = np.array([each.image.shape[:2] for each in samples], np.int64).reshape(-1, 2)
        return Frame(sizes, [each.boxes for each in samples] if self._sees_boxes else None)

    def _check(self, samples: Sequence[Sample]) -> None:
        """Refuses what an op cannot take, whatever it draws."""
        for channels in {sample.image.shape[2] for sample in samples} - self._fits:
            check_channels(self.nodes, channels)
            self._fits.add(channels)
        if any(each.masks or each.points or each.boxes for each in samples):
            check_targets(self.nodes)

    def draws(
        self,
        indices: Array,
        epochs: int | Array = 0,
        trace: Trace | None = None,
        seed: int | None = None,
        attempt: int | Array = 0,
    ) -> Draws:
        """Returns the draws of the sample section for n images; see `run` and `rng.Draws`."""
        seed = self.recipe.seed if seed is None else seed
        draws = Draws(seed, np.asarray(indices, np.int64), epochs, trace=trace, attempt=attempt)
        return draws.together(self._layout)

    @functools.cached_property
    def batch(self) -> BatchSection:
        """The batch section, a `torch.nn.Module`: `x, y = pipe.batch(x, y, index=i, epoch=e)`.

        How many classes labels have is what the recipe says (`classes:`), or what the dataset
        that `dataset` or `loader` was given says (`.classes`).
        """
        from augpipe.batch import BatchSection

        return BatchSection(self.recipe, self.batch_nodes, self._classes)

    def _learn(self, base: Any) -> None:
        """Notes which classes a dataset has.

        Raises:
            UsageError: The recipe says that there are fewer.
        """
        classes = getattr(base, "classes", None)
        if not isinstance(classes, Sequence) or isinstance(classes, str) or not classes:
            return
        said = self.recipe.classes
        if said is not None and said < len(classes):
            raise UsageError(f"the recipe says classes: {said}, the dataset has {len(classes)}")
        self._classes = tuple(classes)
        vars(self).pop("batch", None)  # what was handed out keeps the number it had

    def explain(self, size: tuple[int, int] | None = None) -> Explanation:
        """Returns the plan in words: `print(pipe.explain(size=(375, 500)))`.

        Args:
            size: (height, width) of an image to follow through the plan.
        """
        from augpipe.plan.explain import explain

        return explain(self.nodes, self.batch_nodes, size, self.recipe.constraint)

    def dataset(self, base: Any, **options: Any) -> AugmentedDataset:
        """Wraps any map-style dataset for a plain DataLoader; see `AugmentedDataset`.

        Its items have the sample section behind them; the batch section is for the batches
        that a DataLoader makes of them, `pipe.batch(images, targets, index=..., epoch=...)`: so
        where there is one, images come as tensors (C, H, W).

        Args:
            base: The dataset.
            options: See `AugmentedDataset`; `names`, see `apply`; and `with_index=True` adds
                the index to each item, (image, target, index), to key the batch section by.
        """
        from augpipe.data.dataset import AugmentedDataset, Collatable

        self._learn(base)
        check_options(AugmentedDataset, options, ("names", "with_index"))
        with_index = options.pop("with_index", False)
        apply = self._applier(options)
        if self.recipe.batch or with_index:
            apply = Collatable(apply, with_index)
        return AugmentedDataset(base, apply, **options)

    def loader(self, source: Any, **options: Any) -> Loader:
        """Loads a dataset or a folder in workers, ready to train on; see `Loader`.

        The batch section is done to every batch, on the loader's device.
        """
        from augpipe.data.loader import Loader

        check_options(Loader, options, ("names",))
        names = options.pop("names", None)
        stack = functools.partial(self.stack, names=names) if names else self.stack
        rule = self.recipe.cache
        keep = None
        if rule is not None:
            from augpipe.data.cached import Keep

            stack = functools.partial(stack, fixed=True)
            keep = Keep(self.fix, repr(self._kept), rule.where, rule.max_gb)
        loader = Loader(source, stack, seed=self.recipe.seed, keep=keep, **options)
        self._learn(loader.base)
        loader.finish = self.batch if self.recipe.batch else None
        return loader

    def _applier(self, options: dict[str, Any]) -> Any:
        names = options.pop("names", None)
        return functools.partial(self.apply, names=names) if names else self.apply
