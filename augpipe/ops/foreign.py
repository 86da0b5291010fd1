"""Ops of other libraries: `albumentations.X`, `torchvision.X`, `kornia.X`.

An op class is made of a transform's signature the first time its name is looked up; nothing
else is imported. Which names there are is read from the facts (augpipe/foreign/facts.json).
"""

from __future__ import annotations

import functools
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, PrivateAttr, create_model

from augpipe.errors import did_you_mean
from augpipe.foreign import (
    LIBRARIES,
    SECTIONS,
    Adapter,
    adapter_of,
    facts,
    library_of,
)
from augpipe.foreign.libraries import Unavailable
from augpipe.foreign.signature import signature
from augpipe.ir import Foreign
from augpipe.ops.base import Op, Probability
from augpipe.rng import Draws
from augpipe.types import Frame


class ForeignOp(Op):
    """A transform of another library, seeded by our key before each call.

    `p` is ours: where it does not act, the library is not called; it is built to act always.
    """

    kind = Foreign
    foreign: ClassVar[str] = ""
    """The transform's name with its library's."""

    _adapter: Adapter = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Builds the transform once, so that the library refuses here what it does not take."""
        given = {
            name: getattr(self, name)
            for name, field in type(self).model_fields.items()
            if name != "p" and (field.is_required() or getattr(self, name) != field.default)
        }
        self._adapter = adapter_of(self.foreign, given)
        self._adapter.check()

    def means(self, draw: Draws, frame: Frame) -> Foreign:
        return Foreign(np.ones(len(frame), bool), self._adapter, draw.key("seed"))

    @property
    def sizes(self) -> bool:
        return self.p >= 1.0 and facts().moves(self.foreign)

    def item(self, defaults: bool = False) -> str | dict[str, Any]:
        """Returns the recipe item; a null stands in it where it is not the default."""
        fields = {
            name: _plain(getattr(self, name))
            for name, field in type(self).model_fields.items()
            if defaults or getattr(self, name) != field.default
        }
        for name, field in type(self).model_fields.items():
            if fields.get(name, 0) is None and field.default is None:
                del fields[name]
        return {self.name(): fields} if fields else self.name()

    @classmethod
    def name(cls) -> str:
        """Returns the op's name in a recipe, with its library's."""
        return cls.foreign

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        return _again, (self.foreign, fields)


def _plain(value: Any) -> Any:
    """Returns a field's value as YAML holds it."""
    match value:
        case tuple():
            return [_plain(each) for each in value]
        case dict():
            return {key: _plain(each) for key, each in value.items()}
    return value


def _again(name: str, fields: dict[str, Any]) -> ForeignOp:
    """Makes an op anew where it was pickled to: its class is made there too."""
    return foreign_op(name)(**fields)


class NotOffered(LookupError):  # noqa: N818
    """A name of another library that a recipe cannot have.

    Args:
        reason: Why.
        hint: What to write instead, or "".
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


@functools.cache
def foreign_op(name: str) -> type[ForeignOp]:
    """Returns the op class of a name with its library's.

    Raises:
        NotOffered: With the reason.
    """
    library = library_of(name)
    if library is None:
        hint = did_you_mean(name, all_names()) or "augpipe ops lists them all"
        raise NotOffered(f"there is no op '{name}'", hint)
    own = name.partition(".")[2]
    known = facts()
    if own in known.left_out[library]:
        raise NotOffered(f"{name} is not offered: {known.left_out[library][own]}")
    if own not in known.limits[library]:
        near = did_you_mean(own, known.limits[library])
        tested = f"{library} {known.versions[library]}"
        hint = near or f"augpipe ops {library} lists them all"
        raise NotOffered(f"{tested} has no transform '{own}'", hint)
    try:
        return _made(name, library)
    except Unavailable as error:
        raise NotOffered(f"{name}: {error}") from error


def names_of(library: str) -> list[str]:
    """Returns the names that a recipe may have of a library, without importing it."""
    return [f"{library}.{own}" for own in facts().limits[library]]


def all_names() -> list[str]:
    """Returns the names that a recipe may have of all libraries, without importing them."""
    return [name for library in LIBRARIES for name in names_of(library)]


def limits_of(name: str) -> list[str]:
    """Returns what a transform cannot (see augpipe/foreign/facts.py)."""
    library, _, own = name.partition(".")
    return facts().limits[library][own]


def _made(name: str, library: str) -> type[ForeignOp]:
    """Makes the class: a field an argument, its declaration from the annotation."""
    made = signature(name)
    fields: dict[str, tuple[Any, Any]] = {}
    for each in made.arguments:
        declared = Annotated[Any, each.form]
        words = each.words or "As the library has it."
        if each.required:
            fields[each.name] = (declared, Field(description=words))
        else:
            fields[each.name] = (declared, Field(each.default, description=words))
    says = "Probability that the op acts on an image."
    fields["p"] = (Probability, Field(made.p, description=says))
    limits = ", ".join(limits_of(name))
    text = made.words + (f"\n\nLimits found: {limits}." if limits else "")
    cls: type[ForeignOp] = create_model(  # type: ignore[call-overload]
        name.replace(".", "_"), __base__=ForeignOp, __module__=__name__, __doc__=text, **fields
    )
    cls.foreign = name
    cls.sections = SECTIONS[library]
    return cls


__all__ = [
    "ForeignOp",
    "NotOffered",
    "all_names",
    "foreign_op",
    "limits_of",
    "names_of",
]
