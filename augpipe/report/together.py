"""The batch section done to the images of a preview."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from augpipe.batch import BatchSection
from augpipe.expansion.objects import around
from augpipe.ir import NETWORKS, Foreign, Mix, size_after
from augpipe.ops.base import Op
from augpipe.pipeline import Pipeline
from augpipe.plan.nodes import Step, node, realise, steps
from augpipe.recipe import Recipe
from augpipe.report.annotations import Marks
from augpipe.report.story import Picture, Story, drawn_words, no_change, resized
from augpipe.rng import Draws, Trace
from augpipe.types import Array, Bools, Frame


def finish(
    recipe: Recipe, stories: Sequence[Story], epoch: int = 0, classes: Sequence[str] = ()
) -> tuple[Story, ...]:
    """Does a recipe's batch section to what its sample section made of some images.

    The images of an epoch are one batch, each at its own index: `pipe.batch(images, targets,
    index=..., epoch=...)`. Captions have the classes' shares where images are mixed, and the
    ops that acted.

    Args:
        recipe: What to do, without an op that ends in numbers.
        stories: Of images that have one size and one number of channels in each epoch.
        epoch: The first of their epochs.
        classes: The names of the classes, where all images have one.

    Raises:
        DataError: The batch section cannot take the images.
    """
    variants = []
    for k in range(1, len(stories[0].variants)):
        told = _Batch(recipe, stories, [s.variants[k] for s in stories], epoch + k - 1, classes)
        variants.append(told.whole())
        if k == 1:
            built = told.op_by_op()
    return tuple(
        replace(
            story,
            variants=(story.variants[0], *(each[row] for each in variants)),
            steps=(*story.steps, *(each[row] for each in built)),
        )
        for row, story in enumerate(stories)
    )


@dataclass(frozen=True, slots=True)
class _Acts:
    """What an op of the batch section drew for a batch.

    Args:
        op: The op.
        steps: What it is made of, and of each step the rows (n,) on which it acts.
        partners: Of each row, the rows that it is mixed with.
        trace: The draws.
    """

    op: Op
    steps: tuple[tuple[Step, Bools], ...]
    partners: tuple[tuple[int, ...], ...]
    trace: Trace

    def acting(self, row: int) -> list[Step]:
        """Returns the steps that act on a row."""
        return [step for step, on in self.steps if on[row]]

    def notes(self, row: int, names: Sequence[str]) -> tuple[str, ...]:
        """Words what was drawn for a row."""
        acting = {step.key: step for step in self.acting(row)}.values()  # a policy's share one
        drawn = [drawn_words(step, self.trace, bool(step.gates), row) for step in acting]
        others = [names[partner] for partner in self.partners[row]]
        return (*(each for each in drawn if each), *([f"with {', '.join(others)}"] * bool(others)))


@dataclass(frozen=True, slots=True)
class _Batch:
    """One epoch's images, as the sample section left them."""

    recipe: Recipe
    stories: Sequence[Story]
    pictures: Sequence[Picture]
    epoch: int
    classes: Sequence[str]

    @property
    def keys(self) -> list[int]:
        """Returns the images' indices."""
        return [story.index for story in self.stories]

    def whole(self) -> list[Picture]:
        """Returns the pictures that the whole batch section makes."""
        made = self.run(len(self.recipe.batch))
        ops = list(self.acts(lambda count: self.run(count)[0].image))
        out = []
        for row, (story, picture) in enumerate(zip(self.stories, made, strict=True)):
            acting = [step for each in ops for step in each.acting(row)]
            names = dict.fromkeys(step.key.partition("#")[0] for step in acting)
            size = resized(story.variants[0].image, picture.image)
            out.append(replace(picture, notes=(*picture.notes, *names, *size)))
        return out

    def op_by_op(self) -> list[list[Picture]]:
        """Returns the pictures after the first op of the section, the first two, and so on."""
        done = [list(self.pictures)]
        first = len(self.recipe.sample) + 1
        names = [story.name.rpartition("/")[2] for story in self.stories]
        for i, acts in enumerate(self.acts(lambda count: done[count][0].image)):
            made = self.run(i + 1)
            for row, (before, after) in enumerate(zip(done[i], made, strict=True)):
                title, size = f"{first + i}  {acts.op.name()}", resized(before.image, after.image)
                if np.array_equal(before.image, after.image):
                    made[row] = no_change(replace(after, title=title), acts.op)
                    continue
                shares = after.notes if acts.partners[row] else ()
                notes = (*shares, *acts.notes(row, names), *size)
                made[row] = replace(after, title=title, notes=notes)
            done.append(made)
        return done[1:]

    def acts(self, after: Callable[[int], Array]) -> Iterator[_Acts]:
        """Yields what each op of the section draws.

        Args:
            after: Returns an image as so many ops leave it; asked for after ops of other
                libraries, of which the size is known in no other way.
        """
        counter: Counter[str] = Counter()
        steps(self.recipe.sample, counter)
        count = len(self.pictures)
        frame = Frame(np.tile(self.pictures[0].image.shape[:2], (count, 1)))
        for i, op in enumerate(self.recipe.batch, 1):
            own, trace = steps([op], counter), Trace()
            draws = Draws(self.recipe.seed, np.array(self.keys), self.epoch, trace=trace)
            meanings = realise([node(step) for step in own], draws, frame)
            acting: list[tuple[Step, Bools]] = []
            partners: list[set[int]] = [set() for _ in range(count)]
            foreign = False
            for step, meaning in zip(own, meanings, strict=True):
                frame, on = size_after(meaning, frame), trace.get(step.key, {}).get("on")
                rows: Bools = np.ones(count, bool) if on is None else on
                match meaning:
                    case Mix():
                        laid = meaning.opacity > 0
                        rows = np.asarray(laid.any(axis=1))
                        for row, layer in np.argwhere(laid).tolist():
                            partners[row].add(int(meaning.partner[row, layer]))
                    case Foreign():
                        foreign = True
                acting.append((step, rows))
            others = tuple(tuple(sorted(each - {row})) for row, each in enumerate(partners))
            yield _Acts(op, tuple(acting), others, trace)
            if foreign:
                frame = Frame(np.tile(after(i).shape[:2], (count, 1)))

    def run(self, count: int) -> list[Picture]:
        """Returns what the section's first `count` ops make; notes are the classes' shares."""
        recipe = self.recipe.model_copy(update={"batch": self.recipe.batch[:count]})
        nodes = Pipeline(recipe).batch_nodes
        section = BatchSection(recipe, nodes, self.classes or None)
        mixes = any(step.op.relabels for each in nodes for step in each.steps)
        stacked = np.stack([picture.image for picture in self.pictures])
        images, targets = section(
            torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))),
            self.targets(any(each.kind in (*NETWORKS, Mix) for each in nodes)),
            index=self.keys,
            epoch=self.epoch,
        )
        pixels = np.ascontiguousarray(images.numpy().transpose(0, 2, 3, 1))
        size = (pixels.shape[1], pixels.shape[2])
        labels = targets["label"].numpy() if "label" in targets and mixes else None
        return [
            Picture(
                before.title,
                () if labels is None else (_shares(labels[row], self.classes),),
                pixels[row],
                _marks(targets, row, size, before.marks) if before.marks or mixes else None,
            )
            for row, before in enumerate(self.pictures)
        ]

    def targets(self, company: bool) -> dict[str, Any]:
        """Returns what belongs to the images: classes where ops take them, and annotations."""
        out: dict[str, Any] = {}
        labels = [story.label for story in self.stories]
        if company and self.classes and set(labels) <= set(self.classes):
            out["label"] = torch.tensor([self.classes.index(str(each)) for each in labels])
        if all(picture.marks is None for picture in self.pictures):
            return out
        marks = [picture.marks or Marks() for picture in self.pictures]
        if any(len(each.oriented) for each in marks):  # one set moves: upright boxes turn too
            out["oriented_boxes"] = [each.corners() for each in marks]
        else:
            out["boxes"] = [each.boxes for each in marks]
        out["labels"] = [np.asarray(each.labels, np.int64) for each in marks]
        out["box_turned"] = [np.arange(len(m.labels)) >= len(m.boxes) for m in marks]
        out["keypoints"] = [each.keypoints for each in marks]
        if any(each.mask is not None for each in marks):
            size = self.pictures[0].image.shape[:2]
            masks = [np.zeros(size) if each.mask is None else each.mask for each in marks]
            out["mask"] = torch.from_numpy(np.stack(masks).astype(np.int32))
        return out


def _marks(
    targets: dict[str, Any], row: int, size: tuple[int, int], before: Marks | None
) -> Marks | None:
    """Returns what belongs to one image of a batch; a mask of the values that it had."""
    if "labels" not in targets:
        return None
    mask = targets["mask"][row].numpy() if "mask" in targets else None
    if mask is not None and before is not None and before.mask is not None:
        mask = mask.astype(before.mask.dtype)
    labels, points = np.asarray(targets["labels"][row]), targets["keypoints"][row]
    if "boxes" in targets:
        return Marks(targets["boxes"][row], tuple(labels.tolist()), points, mask)
    corners, turned = targets["oriented_boxes"][row], np.asarray(targets["box_turned"][row], bool)
    upright = [around(each, size) for each in corners[~turned]]
    ordered = (*labels[~turned].tolist(), *labels[turned].tolist())
    boxes = np.array(upright, np.float64).reshape(-1, 4)
    return Marks(boxes, ordered, points, mask, corners[turned])


def _shares(row: Array, classes: Sequence[str]) -> str:
    """Words the shares of the classes: "coat 70% + bag 30%"."""
    order = [k for k in np.argsort(-row, kind="stable").tolist() if row[k] >= 0.005]
    if len(order) == 1:
        return classes[order[0]]
    return " + ".join(f"{classes[k]} {row[k]:.0%}" for k in order)
