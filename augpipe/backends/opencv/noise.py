"""Regions, Noise: being written."""

from __future__ import annotations

from augpipe.ir import Noise, Regions
from augpipe.types import Array


def regions(meaning: Regions, row: int, image: Array) -> Array:
    """To be written."""
    raise NotImplementedError


def noise(meaning: Noise, row: int, image: Array) -> Array:
    """To be written."""
    raise NotImplementedError
