"""Drawing again until enough of every box is seen.

What an op draws does not depend on what it will do to a box. So a constraint is held from
outside: the geometry of a section is worked out before any pixel is touched, and an image of which
a box keeps too little is drawn again, from streams of the next attempt (see rng.py). The first
attempt is the one without a constraint: images that it holds for keep their pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from augpipe.ir import Flow, Meaning, Warp
from augpipe.polygons import areas
from augpipe.rng import Trace
from augpipe.settings import ConstraintRule
from augpipe.targets import Outlines, move_outlines, visible
from augpipe.types import Floats, Ints

_LEAST = 1e-6  # square pixels: of less nothing is kept
_NAME = "constraint"  # what a trace calls it


def settle(
    rule: ConstraintRule, count: int, least: Callable[[Ints, int], Floats], trace: Trace | None
) -> Ints:
    """Returns (count,): the attempt that each image takes, 0 for the first.

    That is the first one that the constraint holds for; where it holds for none, the one that
    keeps most.

    Args:
        rule: The constraint.
        count: How many images.
        least: Returns, for some images (k,) and an attempt, (k,) what is kept (see `kept`).
        trace: Filled with the attempts and what they keep, of the images that were drawn again.
    """
    attempts, most = np.zeros(count, np.int64), np.full(count, -1.0)
    rows = np.arange(count)
    for attempt in range(rule.retries + 1):
        found = least(rows, attempt)
        better = found > most[rows]
        most[rows[better]], attempts[rows[better]] = found[better], attempt
        rows = rows[found < rule.min_visibility - 1e-9]
        if not len(rows):
            break
    if trace is not None:
        held = most >= rule.min_visibility - 1e-9
        tries = np.where(held, attempts, rule.retries)
        again = {"retries": tries, "attempt": attempts, "visibility": most}
        trace[_NAME] = {"on": tries > 0, **again}
    return attempts


def kept(before: Sequence[Outlines], after: Sequence[Outlines]) -> float:
    """Returns the least share of a box that is still seen, of what was seen of it before.

    Args:
        before: An image's sets of boxes.
        after: What became of them.

    Returns:
        0 to 1; 1 where there is no box of which anything was seen.
    """
    least = 1.0
    for one, other in zip(before, after, strict=True):
        if not len(one):
            continue
        had, have = areas(one.seen), areas(other.seen)
        share = have * areas(one.whole) / np.maximum(areas(other.whole) * had, _LEAST**2)
        least = min(least, float(np.where(had > _LEAST, share, 1.0).min()))
    return least


def framed(sets: Sequence[Outlines], size: tuple[int, int]) -> list[Outlines]:
    """Returns sets of boxes of which nothing beyond an image of this (height, width) is seen."""
    return [Outlines(each.whole, visible(each, size), each.oriented) for each in sets]


def moved(sets: Sequence[Outlines], meanings: Sequence[Meaning], row: int) -> list[Outlines]:
    """Carries sets of boxes through row `row` of what moves pixels among some meanings."""
    out = list(sets)
    for meaning in meanings:
        if isinstance(meaning, Warp | Flow):
            out = [move_outlines(meaning, row, each) for each in out]
    return out
