"""The regularizers: every class found in this folder, read on first use."""

from __future__ import annotations

import functools

from augpipe.declared import classes_in
from augpipe.errors import did_you_mean
from augpipe.regularizers.base import Regularizer

_NOT_REGULARIZERS = {"base", "blocks", "effect", "logits", "rate", "select", "state", "wrapper"}


@functools.cache
def catalogue() -> dict[str, type[Regularizer]]:
    """Returns every regularizer by its name, in the order of the files and the classes in them."""
    return classes_in(__name__, __path__, Regularizer, _NOT_REGULARIZERS)


def find(name: str) -> type[Regularizer] | None:
    """Returns the regularizer of a name."""
    return catalogue().get(name)


def why_not(name: str) -> tuple[str, str]:
    """Says of a name that `find` does not know why that is, and what may have been meant."""
    hint = did_you_mean(name, catalogue()) or f"known: {', '.join(catalogue())}"
    return f"there is no regularizer '{name}'", hint
