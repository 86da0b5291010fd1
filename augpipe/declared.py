"""What a recipe line becomes: a frozen model of declared fields, found by its class's name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Collection, Iterable
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict

from augpipe.spec import Declaration, declaration

_D = TypeVar("_D", bound="Declared")


class Declared(BaseModel):
    """Fields with their declarations, compared by value; its name is its class's in snake case.

    A subclass declares its fields: annotations from spec.py, a docstring under each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    main: ClassVar[str] = ""
    """The field that a bare value fills: `normalize: imagenet`."""

    def __repr__(self) -> str:
        return repr(self.item())

    @classmethod
    def name(cls) -> str:
        """Returns the name in a recipe."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def declared(cls) -> dict[str, Declaration]:
        """Returns the declaration of each field, in their order."""
        return {name: declaration(f.metadata) for name, f in cls.model_fields.items()}

    def item(self, defaults: bool = False) -> str | dict[str, Any]:
        """Returns the recipe item that builds this.

        Args:
            defaults: Write every field, not only what differs from its default.
        """
        declared = self.declared()
        fields = {
            name: declared[name].plain(getattr(self, name), defaults)
            for name, field in type(self).model_fields.items()
            if defaults or getattr(self, name) != field.default
        }
        # A parameter that says "none given" is given by leaving it out.
        fields = {name: value for name, value in fields.items() if value is not None}
        return {self.name(): fields} if fields else self.name()

    @classmethod
    def required(cls) -> list[str]:
        """Returns the fields that have no default."""
        return [name for name, field in cls.model_fields.items() if field.is_required()]


def classes_in(
    package: str, path: Iterable[str], base: type[_D], skip: Collection[str]
) -> dict[str, type[_D]]:
    """Returns every public class of a package's modules, by its name in a recipe.

    Args:
        package: The package's name.
        path: Its `__path__`.
        base: What the classes derive from.
        skip: Modules to leave out.

    Returns:
        In the order of the files and of the classes in them.
    """
    found: dict[str, type[_D]] = {}
    for info in pkgutil.iter_modules(path):
        if info.name in skip:
            continue
        module = importlib.import_module(f"{package}.{info.name}")
        for cls in vars(module).values():
            if not (inspect.isclass(cls) and issubclass(cls, base)):
                continue
            if cls.__module__ == module.__name__ and not cls.__name__.startswith("_"):
                found[cls.name()] = cls
    return found
