"""The catalogue: every op class found in this folder, read on first use."""

from __future__ import annotations

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Iterable

from augpipe.ops.base import Op

_NOT_OPS = {"base", "foreign", "policy_tables"}


@functools.cache
def catalogue() -> dict[str, type[Op]]:
    """Returns every op by its name, in the order of the files and of the classes in them."""
    found: dict[str, type[Op]] = {}
    for module_info in pkgutil.iter_modules(__path__):
        if module_info.name in _NOT_OPS:
            continue
        module = importlib.import_module(f"{__name__}.{module_info.name}")
        for cls in vars(module).values():
            if not (inspect.isclass(cls) and issubclass(cls, Op)):
                continue
            if cls.__module__ == module.__name__ and not cls.__name__.startswith("_"):
                found[cls.name()] = cls
    return found


def find(name: str) -> type[Op] | None:
    """Returns the op of a name: of the catalogue, or of another library ("kornia.X")."""
    return catalogue().get(name)


def names_like(name: str) -> Iterable[str]:
    """Returns the names that a mistyped one may have meant."""
    return catalogue()
