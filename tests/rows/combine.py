"""Combinators: what was chosen is done, in order; NumPy does the same to the array."""

from __future__ import annotations

from typing import Any

import numpy as np

from augpipe.types import Array
from tests.cases import Case

Draw = dict[str, Any]
MIRROR = {"horizontal_flip": {"p": 1.0}}
UPSIDE_DOWN = {"vertical_flip": {"p": 1.0}}
TURN = {"rotate90": [1, 1]}
SHIFT = {"translate": {"x": [0.25, 0.25], "y": [0, 0], "border": "edge"}}
OPS = [MIRROR, TURN, SHIFT]


def shift(image: Array) -> Array:
    by = round(image.shape[1] / 4)
    return np.pad(image, ((0, 0), (by, 0), (0, 0)), mode="edge")[:, : image.shape[1]]


DONE = [lambda i: i[:, ::-1], np.rot90, shift]


def do(image: Array, positions: Any) -> Array:
    for position in positions:
        image = DONE[position](image)
    return image


def row(item: Any, oracle: Any, index: int, image: str = "rgb") -> Case:
    cause = "no arithmetic"
    return Case(item, oracle, "numpy", image=image, parity=(0, 0), parity_cause=cause, index=index)


def nested(image: Array, drawn: Draw) -> Array:
    """one_of: [a sequence of the first two, the third]."""
    return do(image, [(0, 1), (2,)][drawn["branch"]])


ROWS = [
    *(row({"one_of": OPS}, lambda i, d: do(i, [d["branch"]]), k) for k in (0, 1, 2)),
    row(
        {"some_of": {"count": [1, 3], "ops": OPS}},
        lambda i, d: do(i, np.flatnonzero(d["chosen"])),
        5,
    ),
    row(
        {"some_of": {"count": [2, 2], "ops": OPS, "weights": [1, 0, 3]}},
        lambda i, d: do(i, [0, 2]),
        6,
        "grey",
    ),
    row({"sequence": OPS}, lambda i, d: do(i, [0, 1, 2]), 0),
    row({"sequence": {"ops": OPS, "p": 0.5}}, lambda i, d: do(i, [0, 1, 2] if d["on"] else []), 8),
    *(row({"shuffle": OPS}, lambda i, d: do(i, d["order"]), k) for k in (0, 1, 3)),
    *(row({"one_of": [{"sequence": OPS[:2]}, SHIFT]}, nested, k) for k in (0, 1, 2)),
]
