"""Regions and Noise on a batch."""

from __future__ import annotations

from augpipe.backends.batched.pieces import Piece, Shape
from augpipe.ir import Noise, Regions


def lower_regions(meaning: Regions, shape: Shape) -> list[Piece]:
    """Makes rectangles ready."""
    raise NotImplementedError


def lower_noise(meaning: Noise, shape: Shape) -> list[Piece]:
    """Makes a random field ready."""
    raise NotImplementedError
