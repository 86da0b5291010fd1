"""What of a recipe is done to images that are not trained on."""

from __future__ import annotations

from collections import Counter
from itertools import chain

from augpipe.ops.base import Op
from augpipe.ops.geometry import CenterCrop, Pad, RandomCrop, RandomResizedCrop, Resize
from augpipe.plan.nodes import is_fixed, steps
from augpipe.recipe import Recipe

_SHOWN = 0.875  # the share of a side that is left, as in torchvision's presets: 224 of 256


def for_evaluation(recipe: Recipe) -> Recipe:
    """Returns the recipe for validation and test: the same sizes and values, no augmentation.

    An op that always does the same stays (`resize`, `normalize`, `grayscale: {p: 1}`). A random
    crop becomes the central one of its size, `random_resized_crop` a resize to 8/7 of it before,
    as torchvision's presets do. All else is left out.
    """
    ops = tuple(chain.from_iterable(map(_fixed, (*recipe.sample, *recipe.batch))))
    return recipe.model_copy(update={"sample": ops, "batch": (), "regularize": ()})


def _fixed(op: Op) -> tuple[Op, ...]:
    match op:
        case RandomCrop():
            return (CenterCrop(size=op.size, border=op.border, fill=op.fill),)
        case RandomResizedCrop():
            read = {"interpolation": op.interpolation, "antialias": op.antialias}
            side = round(min(op.size) / _SHOWN)
            return (Resize.model_validate({"size": side, **read}), CenterCrop(size=op.size))
    if op.last or isinstance(op, Pad) or all(map(is_fixed, steps((op,), Counter()))):
        return (op,)
    return ()
