"""The catalogue: every op class found in this folder, read on first use."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from augpipe.declared import classes_in
from augpipe.ops.base import Op

_ALL = "augpipe ops lists them all"
_NOT_OPS = {"base", "foreign", "policy_tables"}


@functools.cache
def catalogue() -> dict[str, type[Op]]:
    """Returns every op by its name, in the order of the files and of the classes in them."""
    return classes_in(__name__, __path__, Op, _NOT_OPS)


def find(name: str) -> type[Op] | None:
    """Returns the op of a name: of the catalogue, or of another library ("kornia.X")."""
    if "." not in name:
        return catalogue().get(name)
    from augpipe.ops.foreign import NotOffered, foreign_op

    try:
        return foreign_op(name)
    except NotOffered:
        return None


def names_like(name: str) -> Iterable[str]:
    """Returns the names that a mistyped one may have meant."""
    if "." not in name:
        return catalogue()
    from augpipe.foreign import LIBRARIES
    from augpipe.ops.foreign import all_names, names_of

    library = name.partition(".")[0]
    return names_of(library) if library in LIBRARIES else all_names()


def why_not(name: str) -> tuple[str, str]:
    """Says of a name that `find` does not know why that is, and what may have been meant."""
    from augpipe.errors import did_you_mean

    if "." in name:
        from augpipe.ops.foreign import NotOffered, foreign_op

        try:
            foreign_op(name)
        except NotOffered as no:
            return str(no), no.hint
    return f"there is no op '{name}'", did_you_mean(name, catalogue()) or _ALL
