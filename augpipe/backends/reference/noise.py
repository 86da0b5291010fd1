"""Regions, Noise: being written."""

from __future__ import annotations

from augpipe.ir import Noise, Regions
from augpipe.types import Floats


def regions(meaning: Regions, row: int, image: Floats) -> Floats:
    """To be written."""
    raise NotImplementedError


def noise(meaning: Noise, row: int, image: Floats) -> Floats:
    """To be written."""
    raise NotImplementedError
