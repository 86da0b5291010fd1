"""Where what stands in a section of a recipe is found: ops, or regularizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from augpipe import ops
from augpipe.declared import Declared


class Shelf(NamedTuple):
    """Where the classes of a section are found."""

    a: str
    what: str
    catalogue: Callable[[], Mapping[str, type[Declared]]]
    find: Callable[[str], type[Declared] | None]
    why_not: Callable[[str], tuple[str, str]]


def shelf_of(section: str) -> Shelf:
    """Returns what stands in a section. Regularizers load torch: only who names one needs it."""
    if section == "regularize":
        from augpipe import regularizers as r

        return Shelf("a regularizer", "regularizer", r.catalogue, r.find, r.why_not)
    return Shelf("an op", "op", ops.catalogue, ops.find, ops.why_not)
