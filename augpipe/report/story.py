"""What a preview shows, as values: each image, what becomes of it, and op by op how."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from augpipe.data.decode import as_rgb, decode
from augpipe.errors import AugpipeError, DataError
from augpipe.kinds import unpack
from augpipe.ops.base import Op
from augpipe.pipeline import Pipeline
from augpipe.plan.nodes import Step, steps
from augpipe.recipe import Recipe
from augpipe.report.annotations import Marks
from augpipe.report.sources import Sources
from augpipe.rng import Trace
from augpipe.types import Array, Ints

_MOST_NUMBERS = 8  # of one draw in a note: four corners


@dataclass(frozen=True, slots=True)
class Picture:
    """One cell of a preview.

    Args:
        title: What it is.
        notes: What was drawn for it, one thing each.
        image: (H, W, C), uint8.
        marks: Boxes, mask and keypoints that belong to it.
        idle: Whether the op left the image as it was.
    """

    title: str
    notes: tuple[str, ...]
    image: Array
    marks: Marks | None = None
    idle: bool = False


@dataclass(frozen=True, slots=True)
class Story:
    """One image of a preview.

    Args:
        name: Its path within the folder.
        index: Its index there: the key of its draws.
        variants: The original and what the recipe makes of it, epoch after epoch.
        steps: The first variant, built up one op at a time.
        label: Its class, where it has one.
    """

    name: str
    index: int
    variants: tuple[Picture, ...]
    steps: tuple[Picture, ...]
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """A whole preview.

    Args:
        title: The recipe and the folder.
        facts: What to know about it, one line each.
        stories: An image each.
        names: The names of the classes of boxes and masks.
        plan: The recipe's plan in words.
        recipe: The recipe as YAML.
        missing: What of the recipe is not shown, and why: those of the facts.
    """

    title: str
    facts: tuple[str, ...]
    stories: tuple[Story, ...]
    names: dict[int, str]
    plan: str
    recipe: str
    missing: tuple[str, ...] = ()


def tell(
    recipe: Recipe,
    sources: Sources,
    index: int,
    *,
    variants: int = 5,
    epoch: int = 0,
    rgb: bool = False,
) -> Story:
    """Makes the pictures of one image, by the sample section.

    Args:
        recipe: What to do, without an op that ends in numbers.
        sources: The images, with what is known of them.
        index: Which one: the key of its draws.
        variants: How many epochs to show.
        epoch: The first of them.
        rgb: Whether to make it RGB, as images are for training, so that they can be one batch;
            else it keeps its channels.

    Raises:
        AugpipeError: If the image cannot be read, or an op cannot act on it.
    """
    source, where = sources[index], sources.where(index)
    image: Array = decode(source.content.read(), name=where)
    image = as_rgb(image) if rgb else image
    marks = sources.marks(source, image)
    original = Picture("original", (_size(image),), image, marks)
    pipe = Pipeline(recipe)
    try:
        epochs = [
            _made(pipe, original, index, each, f"epoch {each}")
            for each in range(epoch, epoch + variants)
        ]
        built = _steps(recipe, original, index, epoch)
    except AugpipeError as error:
        if source.name in str(error):
            raise
        raise DataError(where, str(error)) from error
    return Story(source.name, index, (original, *epochs), tuple(built), source.label)


def _made(
    pipe: Pipeline,
    start: Picture,
    index: int,
    epoch: int,
    title: str,
    trace: Trace | None = None,
    attempts: Ints | None = None,
) -> Picture:
    """Runs a pipeline on a picture and what belongs to it; see `Pipeline.run`."""
    packed = unpack(_item(start))
    keys = np.array([index], np.int64)
    (sample,) = pipe.run([packed.sample], keys, epoch, trace, attempts=attempts)
    out = packed.repack(sample, pipe.recipe.ending)
    notes = resized(start.image, out["image"])
    if start.marks is None:
        return Picture(title, notes, out["image"])
    turned = out["rotated"]
    labels = tuple(int(label) for label in (*out["labels"], *turned["labels"]))
    marks = Marks(out["boxes"], labels, out["keypoints"], out.get("mask"), turned["oriented_boxes"])
    return Picture(title, notes, out["image"], marks)


def _item(start: Picture) -> dict[str, Any]:
    """Returns a picture and what belongs to it as a pipeline takes them."""
    if start.marks is None:
        return {"image": start.image}
    count = len(start.marks.boxes)
    labels = np.asarray(start.marks.labels, np.int64)
    item = {
        "image": start.image,
        "boxes": start.marks.boxes,
        "labels": labels[:count],
        "keypoints": start.marks.keypoints,
        "rotated": {"oriented_boxes": start.marks.oriented, "labels": labels[count:]},
    }
    if start.marks.mask is not None:
        item["mask"] = start.marks.mask
    return item


def _steps(recipe: Recipe, original: Picture, index: int, epoch: int) -> list[Picture]:
    """Builds a variant up: the pictures after the first op, the first two, and so on.

    An op's draws are keyed by its name and occurrence, so they are the same in each prefix.
    """
    trace: Trace = {}
    _made(Pipeline(recipe), original, index, epoch, "", trace)
    settled = trace.pop("constraint", None)
    attempts = None if settled is None else settled["attempt"]
    counter: Counter[str] = Counter()
    before, out = original, []
    for i, op in enumerate(recipe.sample):
        own = {step.key: step for step in steps([op], counter)}
        acting = [step for key, step in own.items() if trace.get(key, {}).get("on", [True])[0]]
        prefix = Pipeline(recipe.model_copy(update={"sample": recipe.sample[: i + 1]}))
        title = f"{i + 1}  {op.name()}"
        made = _made(prefix, original, index, epoch, title, attempts=attempts)
        if np.array_equal(made.image, before.image):
            made = no_change(made, op)
        else:
            drawn = [drawn_words(step, trace, named=bool(step.gates)) for step in acting]
            notes = (*(note for note in drawn if note), *resized(before.image, made.image))
            made = replace(made, notes=notes)
        out.append(made)
        before = made
    return out


def no_change(picture: Picture, op: Op) -> Picture:
    """Returns the picture that an op left as it was, saying so."""
    chance = f" (p {op.p:g})" if op.p < 1 else ""
    return replace(picture, notes=(f"no change{chance}",), idle=True)


def drawn_words(step: Step, trace: Trace, named: bool, row: int = 0) -> str:
    """Words the numbers that were drawn for a step: "angle -7.3", "box 34 12 200 180".

    Args:
        step: The step.
        trace: What was drawn.
        named: Whether the step's name stands before them.
        row: Of which image.
    """
    one = {name: values[row] for name, values in trace.get(step.key, {}).items()}
    if (told := step.op.tell(one)) is not None:
        return told
    numbers = [
        f"{name.replace('_', ' ')} {' '.join(map(_number, value.flat))}"
        for name, value in one.items()
        if value.dtype.kind in "if"
        and 0 < value.size <= _MOST_NUMBERS
        and (value.ndim > 0 or value != 0)
        and name != "partner"  # an index, which says little
    ]
    words = ", ".join(numbers)
    return f"{step.op.name()}: {words}".removesuffix(": ") if named else words


def _number(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def resized(before: Array, after: Array) -> tuple[str, ...]:
    """Words the size where it is another than before."""
    return () if before.shape[:2] == after.shape[:2] else (_size(after),)


def _size(image: Array) -> str:
    return f"{image.shape[0]} × {image.shape[1]}"
