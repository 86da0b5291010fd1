"""The batch section: a plan on the batched backend, as a torch module."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from augpipe import mixing
from augpipe.backends import batched
from augpipe.backends.batched.pieces import layout as layout_of
from augpipe.constraint import framed, kept, moved, settle
from augpipe.data.workers import CallCounter
from augpipe.errors import DataError, UsageError, first_sentence
from augpipe.ir import (
    WHOLE,
    Alone,
    Flow,
    Foreign,
    Generated,
    Latent,
    Meaning,
    Mix,
    Taught,
    Warp,
    leaves_levels,
)
from augpipe.kinds.batches import open_batch
from augpipe.learned.latent import move
from augpipe.learned.replacing import replaced
from augpipe.learned.taught import taught
from augpipe.plan.nodes import (
    Node,
    check_channels,
    check_targets,
    keys_of,
    layout,
    located,
    places,
    realise,
    realised,
    sees_boxes,
    segments,
)
from augpipe.recipe import Recipe
from augpipe.rng import Draws, Trace, stream_key
from augpipe.targets import Batch, move_outlines, move_points
from augpipe.types import Array, Floats, Frame, Ints

_EPSILON = 1e-4  # how far rounding may take a float image beyond 0..1


class BatchSection(nn.Module):
    """Does a recipe's batch section to batches, on whatever device they are.

    It holds no random state: what happens to an image depends on the recipe's seed, the
    image's index, the epoch and, where images are mixed, on which others share the batch; not
    on their order or the device. It acts in `eval()` as in `train()`: normalization may be
    part of it.

    Once moved (`.to(device)`), it takes batches that lie elsewhere to that device.

    Args:
        recipe: The recipe.
        nodes: The plan of its batch section.
        classes: The names of the dataset's classes, where they are known.
    """

    def __init__(
        self, recipe: Recipe, nodes: Sequence[Node], classes: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.nodes = tuple(nodes)
        self.classes = recipe.classes or (None if classes is None else len(classes))
        self._names = classes
        counter: Counter[str] = Counter()
        places("sample", recipe.sample, counter)
        self._places = places("batch", recipe.batch, counter)
        self._segments = segments(self.nodes)
        self._layout = layout(self.nodes)
        self._relabels = any(step.op.relabels for node in self.nodes for step in node.steps)
        self._mixes = any(node.kind is Mix for node in self.nodes)
        self._touches_labels = any(node.kind in (Generated, Mix, Taught) for node in self.nodes)
        timed = (step.key for node in self.nodes for step in node.steps if step.op.timed)
        self._timed = next(timed, "")
        self._calls = CallCounter()
        self._fits: set[int] = set()  # channel counts that every op can take
        self._sees_boxes = sees_boxes(self.nodes)
        self._looked_at: set[tuple[torch.device, bool, bool]] = set()  # floats, labels in it
        self._moved = False
        self.register_buffer("_home", torch.empty(0), persistent=False)

    def extra_repr(self) -> str:
        """Names the ops."""
        return ", ".join(op.name() for op in self.recipe.batch)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves the module; refuses a device that is not there."""
        before = self._device
        try:
            out: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as error:
            raise UsageError(f"the device cannot be used: {first_sentence(error)}") from error
        self._moved = self._moved or self._device != before
        return out

    @property
    def _device(self) -> torch.device:
        home = self._home
        assert isinstance(home, Tensor)
        return home.device

    def forward(
        self,
        images: Tensor,
        targets: Any = None,
        *,
        index: Sequence[int] | Array | Tensor | None = None,
        epoch: int | None = None,
        trace: Trace | None = None,
    ) -> Any:
        """Augments a batch.

        Args:
            images: (B, C, H, W), uint8, or floats in 0..1 of any width; any memory format,
                which is kept.
            targets: What belongs to them, see `augpipe.kinds.batches.open_batch`. Classes
                become float rows (B, K) if the recipe mixes images or weighs them.
            index: (B,) what the draws are keyed by, with the recipe's seed and the epoch. Left
                out: numbers from torch's generator, so that `torch.manual_seed` reproduces a
                run.
            epoch: The epoch, from 0 to 2**32 - 1; 0 when left out, if no op acts in some only.
            trace: Filled with the drawn parameters, by op key and name, each (B, ...).

        Returns:
            The images: uint8 if they came so, else floats in 0..1 of their dtype, or what
            `normalize` makes of them (float32 of uint8); with targets, a pair.

        Raises:
            DataError: The batch or its targets cannot be used, or an op cannot take them.
        """
        with located(self._places):
            return self._forward(images, targets, index, self._epoch(epoch), trace)

    def _epoch(self, epoch: int | None) -> int:
        if epoch is None and self._timed:
            raise UsageError(f"{self._timed} acts in some epochs only: say which it is, epoch=")
        epoch = 0 if epoch is None else epoch
        if not hasattr(epoch, "__index__") or not 0 <= epoch < 2**32:
            raise UsageError(f"epoch {epoch!r}: an epoch is from 0 to 2**32 - 1")
        return epoch

    def _forward(
        self,
        images: Tensor,
        targets: Any,
        index: Sequence[int] | Array | Tensor | None,
        epoch: int,
        trace: Trace | None,
    ) -> Any:
        if self._moved:
            device = self._device
            images, targets = _moved(images, device), _moved(targets, device)
        opened = open_batch(images, targets, self._touches_labels)
        batch = opened.batch
        batch.classes, batch.names = self.classes, self._names
        count = len(batch.images)
        seed = self.recipe.seed
        if index is None:
            worker_seed, keys = self._calls.next(count)
            seed = stream_key(seed, "worker", str(worker_seed))
        else:
            index = index.tolist() if isinstance(index, Tensor | np.ndarray) else index
            try:
                keys = keys_of(index, count)
            except TypeError:
                raise UsageError("index: needs one whole number for each image") from None
        look = self._check(batch)
        batch.images = batch.images if self.nodes else batch.images.clone()
        given = batch.images
        if self.nodes:
            attempts = self._settled(batch, seed, keys, epoch, trace)
            draws = Draws(seed, keys, epoch, trace=trace, attempt=attempts).together(self._layout)
            # Pixels are computed in float32, whatever precision a training step runs in.
            with torch.autocast(batch.images.device.type, enabled=False):
                batch = self._run(batch, draws, look)
        if not count and self.nodes:  # an image that is there shows the size and the dtype
            one = Batch(given.new_zeros((1, *given.shape[1:])))
            draws = Draws(seed, np.zeros(1, np.int64)).together(self._layout)
            batch.images = self._run(one, draws, _pass, alone=True).images[:0]
        if targets is None:
            return batch.images
        return batch.images, opened.targets(batch, self.recipe.ending)

    def _check(self, batch: Batch) -> Callable[[Tensor], None]:
        """Refuses what no op could make sense of, and returns what looks at the images.

        Values are looked at in every batch on the CPU; on another device in the first one
        only, since the answer takes a wait for the device.
        """
        channels = batch.images.shape[1]
        if batch.masks or batch.boxes or batch.points:
            check_targets(self.nodes)
        if channels not in self._fits:
            check_channels(self.nodes, channels)
            self._fits.add(channels)
        device, floats = batch.images.device, batch.images.dtype != torch.uint8
        seen = (device, floats, batch.labels is not None)
        if device.type != "cpu" and seen in self._looked_at:
            return _pass
        self._looked_at.add(seen)
        self._check_labels(batch.labels)
        return _check_floats if floats else _pass

    def _check_labels(self, labels: Tensor | None) -> None:
        """Refuses classes that are not there, where labels are mixed."""
        classes = self.classes
        if labels is None or not labels.numel() or not self._relabels:
            return
        if labels.ndim == 2 and classes is not None and labels.shape[1] != classes:
            raise DataError("labels", f"rows of {labels.shape[1]} numbers for {classes} classes")
        low, high = (each.item() for each in labels.aminmax())
        least = 0 if self._mixes else -1  # of no class
        if labels.ndim == 1 and classes is not None and not least <= low <= high < classes:
            none = ": -1 stands for no class" if low == -1 else ""
            raise DataError(
                "labels", f"classes are 0 to {classes - 1}, here are {low} to {high}{none}"
            )
        if labels.ndim == 2 and not (low >= -_EPSILON and high <= 1.0 + _EPSILON):
            raise DataError("labels", f"rows hold shares from 0 to 1, here are {low} to {high}")

    def _run(
        self,
        batch: Batch,
        draws: Draws,
        look: Callable[[Tensor], None],
        alone: bool = False,
    ) -> Batch:
        """Does the section; `alone` leaves out what mixes."""
        dtype = batch.images.dtype
        gain = 1.0 if dtype == torch.uint8 else 255.0
        last = len(self._segments) - 1
        for k, (nodes, special) in enumerate(self._segments):
            drawn = realised(nodes, draws, self._frame(batch), sparse=True)
            leaves = any(leaves_levels(meaning) for _, meaning in drawn)

            def leave(part: Tensor, leaves: bool = leaves) -> Tensor:
                if dtype == torch.uint8:
                    return part
                return (part if leaves else part / 255.0).to(dtype)

            end = leave if k == last else _same
            _do(drawn, batch, 1.0 if k else gain, end, _pass if k else look)
            if special is not None and not (alone and special.kind in (Generated, Mix)):
                # What makes rows of labels does so where it acts on no image, too.
                sparse = not any(step.op.relabels for step in special.steps)
                for meaning in realise((special,), draws, self._frame(batch), sparse=sparse):
                    batch = self._special(meaning, special, batch)
        return batch

    def _settled(
        self, batch: Batch, seed: int, keys: Ints, epoch: int, trace: Trace | None
    ) -> Ints | int:
        """Returns which attempt each image takes, so that the constraint holds.

        It is held by the geometry before the first op that takes the images themselves.
        """
        rule, boxes = self.recipe.constraint, batch.boxes
        if rule is None or boxes is None or not len(keys):
            return 0
        height, width = batch.images.shape[2:]
        before = [framed([each.outlines], (height, width)) for each in boxes]

        def least(rows: Ints, attempt: int) -> Floats:
            draws = Draws(seed, keys[rows], epoch, attempt=attempt).together(self._layout)
            sets = [[boxes[row].outlines] for row in rows.tolist()]
            frame = replace(_frame(batch.images[: len(rows)]), outlines=sets)
            meanings = realise(self._segments[0][0], draws, frame, sparse=True)
            ends = (moved(each, meanings, k) for k, each in enumerate(sets))
            return np.array([kept(before[row], end) for row, end in zip(rows, ends, strict=True)])

        return settle(rule, len(keys), least, trace)

    def _frame(self, batch: Batch) -> Frame:
        """Returns what ops may know of a batch."""
        frame = _frame(batch.images)
        if self._sees_boxes and batch.boxes is not None:
            return replace(frame, outlines=[[each.outlines] for each in batch.boxes])
        return frame

    def _special(self, meaning: Meaning, node: Node, batch: Batch) -> Batch:
        """Does what needs the images themselves, or all of them."""
        rules = self.recipe.boxes
        match meaning:
            case Mix():
                return mixing.mix(meaning, batch, (rules.min_area, rules.min_visibility))
            case Foreign():
                return _foreign(meaning, node.steps[0].key, batch)
            case Latent():
                batch.images = move(meaning, batch.images, batch.labels, node.steps[0].key)
            case Generated():
                return replaced(meaning, batch, node.steps[0].key)
            case Taught():
                return taught(meaning, batch, node.steps[0].key)
        return batch


def _same(part: Tensor) -> Tensor:
    return part


def _pass(part: Tensor) -> None:
    """Looks at nothing."""


def _check_floats(part: Tensor) -> None:
    """Refuses images that do not lie in 0..1."""
    if not part.numel():
        return
    # In the order they lie in memory, or aminmax copies them first.
    lying = part.detach().permute(0, 2, 3, 1)
    flat = lying if lying.is_contiguous() else part.detach()
    low, high = (each.item() for each in flat.aminmax())
    if math.isnan(low + high):
        raise DataError("images", "floats must lie in 0..1, here is NaN")
    if not (low >= -_EPSILON and high <= 1.0 + _EPSILON):
        raise DataError(
            "images",
            f"floats must lie in 0..1, here are {low:.4g} to {high:.4g}: "
            "let the recipe's normalize come last, and give levels / 255 or uint8",
        )


def _frame(images: Tensor) -> Frame:
    sizes = np.array([images.shape[2:]], np.int64)
    return Frame(np.broadcast_to(sizes, (len(images), 2)))


def _do(
    drawn: Sequence[tuple[Node, Meaning]],
    batch: Batch,
    gain: float,
    leave: Callable[[Tensor], Tensor],
    look: Callable[[Tensor], None],
) -> None:
    """Does meanings to a batch and to all that belongs to it, in place; one upload serves all."""
    alone: list[Alone] = []
    moves: list[Warp | Flow] = []
    for _, meaning in drawn:
        assert not isinstance(meaning, WHOLE)
        alone.append(meaning)
        if isinstance(meaning, Warp | Flow):
            moves.append(meaning)
    names = [str(node) for node, _ in drawn]
    batch.images, batch.masks = batched.render_all(
        alone, batch.images, batch.masks, gain, leave, look, names, batch.heatmaps
    )
    for meaning in moves:
        for row, each in enumerate(batch.boxes or ()):
            assert batch.boxes is not None
            moved = move_outlines(meaning, row, each.outlines)
            batch.boxes[row] = type(each)(moved, each.origin, each.weight)
        for row, marks in enumerate(batch.points or ()):
            assert batch.points is not None
            points = move_points(meaning, row, marks.points)
            batch.points[row] = type(marks)(points, marks.origin)


def _foreign(meaning: Foreign, key: str, batch: Batch) -> Batch:
    """Does another library's transform to the rows it acts on."""
    rows: Ints = np.flatnonzero(meaning.on)
    if not len(rows):
        return batch
    done: Batch = meaning.transform.on_batch(batch, rows, meaning.key[rows], key)
    done.images = done.images.contiguous(memory_format=layout_of(batch.images))
    return done


def _moved(value: Any, device: torch.device) -> Any:
    """Takes tensors to a device, wherever they stand; boxes and keypoints need not be there."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        stay = ("boxes", "bboxes", "keypoints")
        return {k: v if k in stay else _moved(v, device) for k, v in value.items()}
    if isinstance(value, list | tuple):
        moved = (_moved(each, device) for each in value)
        return tuple(moved) if isinstance(value, tuple) else list(moved)
    return value
