"""Histogram on a batch."""

from __future__ import annotations

from augpipe.backends.batched.pieces import Piece, Shape
from augpipe.ir import Histogram


def lower_histogram(meaning: Histogram, shape: Shape) -> list[Piece]:
    """Makes an equalization ready."""
    raise NotImplementedError
