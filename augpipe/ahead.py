"""Drawing for the calls that are still to come.

NumPy takes as long over the parameters of one image as over those of dozens. Calls one at a
time come mostly in an order that can be foreseen: indices ascend, or are what torch's
generator will give next. So where the last call was foreseen, this one is drawn with those
that should follow it, as a file system reads ahead. What was drawn is found by what it is
keyed by, and draws are a pure function of that: a wrong guess costs a little time, never
another pixel.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from augpipe.errors import DataError
from augpipe.ir import Meaning
from augpipe.plan.nodes import Node, realise
from augpipe.rng import Draws
from augpipe.types import Frame

Layout = tuple[tuple[tuple[str, str], int], ...]
Foresee = Callable[[int, int], list[int]]

_GROWTH = 8
_MOST = 64  # images that are drawn together
_END = 2**63


def ascending(index: int, count: int) -> list[int]:
    """Returns the indices after one, as far as there are so many."""
    return list(range(index + 1, min(index + 1 + count, _END)))


def generated(index: int, count: int) -> list[int]:
    """Returns what the next calls without an index will be keyed by (see `CallCounter`).

    The generator is not moved. Another who draws from it proves this wrong.
    """
    if "torch" not in sys.modules:
        return ascending(index, count)
    import torch

    copy = torch.Generator()
    copy.set_state(torch.default_generator.get_state())
    return torch.randint(2**63 - 1, (count,), generator=copy, device="cpu").tolist()


class Group(NamedTuple):
    """What images must have in common to be drawn together.

    Args:
        seed: Of the draws.
        epoch: The epoch.
        size: (height, width).
    """

    seed: int
    epoch: int
    size: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Window:
    """What was drawn together.

    Args:
        group: What it was drawn for.
        rows: The row of each index.
        after: The index that should come after them.
        meanings: Of these images.
    """

    group: Group | None
    rows: dict[int, int]
    after: int | None
    meanings: Sequence[Meaning]


class Ahead:
    """The meanings of one image at a time, some of them drawn before they are asked for.

    Threads may share it: it holds one value, which is exchanged as a whole. A pickled one has
    drawn nothing.

    Args:
        nodes: A plan that one drawing serves.
        layout: What it draws (see plan.nodes.layout).
    """

    def __init__(self, nodes: Sequence[Node], layout: Layout) -> None:
        self._nodes, self._layout = nodes, layout
        self._window = _Window(None, {}, None, ())

    def __reduce__(self) -> tuple[type[Ahead], tuple[Sequence[Node], Layout]]:
        return type(self), (self._nodes, self._layout)

    def find(self, group: Group, index: int, foresee: Foresee) -> tuple[Sequence[Meaning], int]:
        """Returns meanings, and which row of them is an image's.

        Args:
            group: What the meanings depend on beside the index.
            index: The image's.
            foresee: Returns the indices that should follow one, at most so many.

        Raises:
            DataError: An op cannot take this image.
        """
        last, count = self._window, 1
        if last.group == group:
            row = last.rows.get(index)
            if row is not None:
                return last.meanings, row
            if index == last.after:
                count = min(_GROWTH * len(last.rows), _MOST)
        coming = [index, *foresee(index, count)]
        drawn = coming[:count]
        try:
            meanings = self._draw(group, drawn)
        except DataError:
            if len(drawn) == 1:
                raise
            drawn = [index]  # an op may be unable to take what follows, and this image not be it
            meanings = self._draw(group, drawn)
        after = coming[len(drawn)] if len(coming) > len(drawn) else None
        rows = {each: row for row, each in enumerate(drawn)}
        self._window = _Window(group, rows, after, meanings)
        return meanings, 0

    def _draw(self, group: Group, indices: Sequence[int]) -> Sequence[Meaning]:
        draws = Draws(group.seed, np.array(indices, np.int64), group.epoch)
        frame = Frame(np.full((len(indices), 2), group.size, np.int64))
        return realise(self._nodes, draws.together(self._layout), frame, sparse=True)
