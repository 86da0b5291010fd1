"""Recipes that are near one and may be faster: what bench measures beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import takewhile

import numpy as np

from augpipe.errors import DataError
from augpipe.ir import WHOLE, Warp, size_after
from augpipe.ops import find
from augpipe.ops.base import Op
from augpipe.pipeline import Pipeline
from augpipe.plan.nodes import is_fixed, node, places, realise, steps
from augpipe.recipe import Recipe
from augpipe.rng import Draws
from augpipe.settings import CacheRule
from augpipe.types import Frame

_DRAWS = 64
_OTHER = (13, 7)  # added to a size, for another
_ENOUGH = 0.8  # of what could be saved
_ROUND = 32  # pixels: sides are suggested in steps of it
_SPARE = 8 / 7  # 256 / 224, as for measuring on ImageNet


def line(recipe: Recipe, index: int) -> str:
    """Names a line of the sample section: "sample[2] color_jitter"."""
    return f"sample[{index}] {recipe.sample[index].name()}"


def movable(
    pipe: Pipeline, size: tuple[int, int] | None, alike: bool = False
) -> tuple[list[int], str]:
    """Returns from which lines of the sample section on all may move to the batch section.

    What moves is the end of the section: lines that may stand in a batch, behind the last one
    that changes the size or is another library's. At least one whole pass must move with them: half
    of one saves nothing, since the other half has to be done.

    Args:
        pipe: The recipe.
        size: Height and width of what the section leaves; None if they differ.
        alike: Whether the images that come are all of this size too. A line that would bring
            others to it, such as a crop, then changes no size.

    Returns:
        The lines' numbers, ascending; and if there are none, why.
    """
    ops = pipe.recipe.sample
    if not ops:
        return [], "the sample section is empty"
    if size is None:
        return [], "the images it leaves differ in size, and are no batch"
    draws = Draws(pipe.recipe.seed, np.arange(_DRAWS))
    first = len(ops)
    while first and _may_move(ops[first - 1], draws, size, alike):
        first -= 1
    spans = _spans(pipe)
    kept = [last for (_, last), each in zip(spans, pipe.nodes, strict=True) if each.cached]
    first = max([first, *(last + 1 for last in kept)])
    if first == len(ops):
        return [], f"after `{line(pipe.recipe, first - 1)}`, which must stay, no line is left"
    begins = {a for a, _ in spans}
    starts = [start for start in range(first, len(ops)) if any(start <= a for a in begins)]
    if not starts:
        shared = f"shares a pass with `{line(pipe.recipe, first - 1)}`, which must stay"
        return [], f"`{line(pipe.recipe, len(ops) - 1)}` {shared}"
    return starts, ""


def _spans(pipe: Pipeline) -> list[tuple[int, int]]:
    """Returns the first and the last line of each pass."""
    at = places("sample", pipe.recipe.sample, Counter())
    numbers = {key: int(place[len("sample[") : -1]) for key, place in at.items()}
    own = [[numbers[step.key] for step in each.steps] for each in pipe.nodes]
    return [(min(each), max(each)) for each in own]


def _may_move(op: Op, draws: Draws, size: tuple[int, int], alike: bool) -> bool:
    """Tells whether an op may stand in a batch, and leaves images in their size.

    That is tried with the size and, unless all are alike, with another.
    """
    if "batch" not in op.sections:
        return False
    nodes = [node(step) for step in steps([op], Counter())]
    if any(each.kind in WHOLE for each in nodes):
        return False
    for more in ((0, 0),) if alike else ((0, 0), _OTHER):
        given = np.tile(np.add(size, more), (len(draws), 1)).astype(np.int64)
        frame = Frame(given)
        try:
            for meaning in realise(nodes, draws, frame):
                frame = size_after(meaning, frame)
                if not np.array_equal(frame.sizes, given):
                    return False
        except DataError:
            return False
    return True


def from_where(pipe: Pipeline, starts: Sequence[int], costs: Sequence[float]) -> int:
    """Returns the last line from which moving saves nearly all that could be saved.

    Args:
        pipe: The recipe.
        starts: The lines that are possible, ascending; one at least.
        costs: What each pass of the section takes.
    """
    firsts = [first for first, _ in _spans(pipe)]
    saved = {
        start: sum(cost for first, cost in zip(firsts, costs, strict=True) if first >= start)
        for start in starts
    }
    return max(start for start in starts if saved[start] >= _ENOUGH * saved[starts[0]])


def moved(recipe: Recipe, start: int) -> Recipe:
    """Returns a recipe whose sample section ends before a line, the rest at the batch's head."""
    batch = (*recipe.sample[start:], *recipe.batch)
    return recipe.model_copy(update={"sample": recipe.sample[:start], "batch": batch})


def in_memory(recipe: Recipe) -> Recipe:
    """Returns a recipe whose cache, if it has one, is in memory."""
    rule = recipe.cache
    if rule is None:
        return recipe
    return recipe.model_copy(update={"cache": CacheRule(where="memory", max_gb=rule.max_gb)})


def cached(recipe: Recipe, size: tuple[int, int] | None, short: int) -> tuple[Recipe, int | None]:
    """Returns a recipe that keeps what it always does alike, and a shorter side to resize to first.

    Such a side is given where the recipe resizes nothing itself before its first draw, and the
    images are larger than what it leaves.

    Args:
        recipe: One without a cache.
        size: Height and width of what it leaves; None if they differ.
        short: Shorter side of the images, in pixels.
    """
    rule = {"cache": CacheRule(where="memory")}
    fixed = takewhile(is_fixed, steps(recipe.sample, Counter()))
    if size is None or any(step.op.kind is Warp for step in fixed):
        return recipe.model_copy(update=rule), None
    side = -(-round(min(size) * _SPARE) // _ROUND) * _ROUND
    if side >= short:
        return recipe.model_copy(update=rule), None
    resize = find("resize")
    assert resize is not None
    first: Mapping[str, object] = {"size": side}
    sample = (resize.model_validate(first), *recipe.sample)
    return recipe.model_copy(update={**rule, "sample": sample}), side
