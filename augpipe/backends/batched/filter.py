"""Kernel, Median and Codec on a batch."""

from __future__ import annotations

from augpipe.backends.batched.pieces import Piece, Shape
from augpipe.ir import Codec, Kernel, Median


def lower_kernel(meaning: Kernel, shape: Shape) -> list[Piece]:
    """Makes kernels ready."""
    raise NotImplementedError


def lower_median(meaning: Median, shape: Shape) -> list[Piece]:
    """Makes a median ready."""
    raise NotImplementedError


def lower_codec(meaning: Codec, shape: Shape) -> list[Piece]:
    """Makes a codec ready."""
    raise NotImplementedError
