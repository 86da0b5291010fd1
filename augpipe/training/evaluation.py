"""What of a recipe is done to images that are not trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from augpipe.errors import AugpipeError
from augpipe.ops.base import Op
from augpipe.ops.crops import CenterCrop, RandomCrop, RandomResizedCrop
from augpipe.ops.foreign import ForeignOp
from augpipe.ops.geometry import Pad, Resize
from augpipe.ops.output import Normalize, ToFloat
from augpipe.pipeline import Pipeline
from augpipe.plan.nodes import is_fixed, steps
from augpipe.recipe import Recipe
from augpipe.rng import field_words

_SHOWN = 0.875  # the share of a side that is left, as in torchvision's presets: 224 of 256
_TRIES, _SIDE = 8, 384


def for_evaluation(recipe: Recipe) -> Recipe:
    """Returns the recipe for validation and test: the same sizes and values, no augmentation.

    An op that always does the same stays (`resize`, `normalize`, `grayscale: {p: 1}`); whether
    another library's transform does is seen by trying it. A random crop becomes the central one
    of its size, `random_resized_crop` a resize to 8/7 of it before, as torchvision's presets do:
    by the shorter side for a square, else to 8/7 of both. All else is left out.
    """
    ops = tuple(chain.from_iterable(map(_fixed, (*recipe.sample, *recipe.batch))))
    # One section would do, if all of another library's transforms took single images.
    first = next((k for k, op in enumerate(ops) if "sample" not in op.sections), len(ops))
    return recipe.model_copy(update={"sample": ops[:first], "batch": ops[first:], "regularize": ()})


def seen(recipe: Recipe, size: Sequence[int]) -> dict[str, Any]:
    """Returns what a test of the recipe makes of images, for `learned.probe` to do the same.

    Args:
        recipe: The recipe.
        size: (height, width) of the images that the network gets.

    Returns:
        `size`; `mean` and `std` that levels / 255 are normalized by; and `after`, the names of the
        other ops but resizes and central crops.
    """
    whole = for_evaluation(recipe)
    ops = (*whole.sample, *whole.batch)
    stats = next((op.statistics for op in ops if isinstance(op, Normalize)), ((0.0,), (1.0,)))
    plain = (CenterCrop, Resize, ToFloat, Normalize)
    after = [op.name() for op in ops if not isinstance(op, plain)]
    return {"size": list(size), "mean": stats[0], "std": stats[1], "after": after}


def _fixed(op: Op) -> tuple[Op, ...]:
    match op:
        case RandomCrop():
            return (CenterCrop(size=op.size, border=op.border, fill=op.fill),)
        case RandomResizedCrop():
            read = {"interpolation": op.interpolation, "antialias": op.antialias}
            return _preset(op.size, read)
        case ForeignOp() if op.foreign.endswith(".RandomCrop") and op.p >= 1.0:
            return (CenterCrop.model_validate({"size": _size_of(op)}),)
        case ForeignOp() if op.foreign.endswith(".RandomResizedCrop") and op.p >= 1.0:
            return _preset(_size_of(op), {})
        case ForeignOp():
            return (op,) if op.p >= 1.0 and _is_alike(op) else ()
    if op.last or isinstance(op, Pad) or all(map(is_fixed, steps((op,), Counter()))):
        return (op,)
    return ()


def _preset(size: Sequence[int], read: dict[str, Any]) -> tuple[Op, Op]:
    height, width = (round(each / _SHOWN) for each in size)
    side = height if height == width else [height, width]
    return Resize.model_validate({"size": side, **read}), CenterCrop.model_validate({"size": size})


def _size_of(op: ForeignOp) -> list[int]:
    """Returns (height, width) of another library's crop."""
    fields = {name: getattr(op, name) for name in type(op).model_fields}
    size = fields.get("size") or (fields.get("height"), fields.get("width"))
    sides = [size] if isinstance(size, int) else list(size)
    return [int(sides[0]), int(sides[-1])]


def _is_alike(op: ForeignOp) -> bool:
    """Tells whether a transform gives the same for every key, by trying it on noise."""
    image = field_words(0, 3 * _SIDE * _SIDE // 4).view(np.uint8).reshape(_SIDE, _SIDE, 3)
    keys = range(_TRIES)
    in_sample = "sample" in op.sections
    pipe = Pipeline(Recipe(sample=(op,)) if in_sample else Recipe(batch=(op,)))
    try:
        if in_sample:
            first, *others = pipe.apply([image] * _TRIES, keys)
        else:
            one = torch.from_numpy(image.copy()).permute(2, 0, 1).expand(_TRIES, -1, -1, -1)
            first, *others = pipe.batch(one.contiguous(), index=keys).numpy()
    except AugpipeError:
        return False
    return all(np.array_equal(first, each) for each in others)
