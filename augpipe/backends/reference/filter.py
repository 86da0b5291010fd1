"""Kernel, Median, Codec: being written."""

from __future__ import annotations

from augpipe.ir import Codec, Kernel, Median
from augpipe.types import Floats


def kernel(meaning: Kernel, row: int, image: Floats) -> Floats:
    """To be written."""
    raise NotImplementedError


def median(meaning: Median, row: int, image: Floats) -> Floats:
    """To be written."""
    raise NotImplementedError


def codec(meaning: Codec, row: int, image: Floats) -> Floats:
    """To be written."""
    raise NotImplementedError
