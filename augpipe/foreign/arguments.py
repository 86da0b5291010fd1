"""Declarations of other libraries' arguments, made from the annotations of their constructors.

A form is one thing that an annotation allows and YAML can hold: a number, a word, a list. An
argument allows one form or several. What YAML cannot hold (functions, arrays, types) is left
out of a union; an annotation of nothing else raises `Inexpressible`.
"""

from __future__ import annotations

import collections.abc
import enum
import inspect
import math
import numbers
import pathlib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from augpipe.errors import did_you_mean
from augpipe.spec import Declaration, Json, Refused

_TRIES: tuple[Any, ...] = (
    *("nonesuch", None, True, 1.5, -1, math.nan, [], [1.5], ["a"], [[1, 2], [3]], [1] * 9),
    {"nonesuch": 1},
)


class Inexpressible(TypeError):  # noqa: N818
    """An annotation that allows nothing that YAML can hold."""


class Form(Declaration):
    """One thing that an argument may be; knows the library's own form of it too."""

    def native(self, value: Any) -> Any:
        """Returns what `parse` returned as the library takes it."""
        return value

    def bad_values(self) -> Iterable[Any]:
        """Yields values that must be refused."""
        for value in _TRIES:
            try:
                self.parse(value)
            except Refused:
                yield value


@dataclass(frozen=True)
class Plain(Form):
    """A number, a truth value, a text or null."""

    kind: Literal["number", "integer", "flag", "text", "null"]

    def allowed(self) -> str:
        """Says what is allowed."""
        words = {"flag": "true or false", "null": "null", "text": "a text"}
        return words.get(self.kind) or f"{'an' if self.kind == 'integer' else 'a'} {self.kind}"

    def parse(self, value: Any) -> Any:
        """Returns the value as it is."""
        flag = isinstance(value, bool)
        match self.kind:
            case "number":
                fits = not flag and isinstance(value, (int, float)) and math.isfinite(value)
            case "integer":
                fits = not flag and isinstance(value, int) and abs(value) < 2**31
            case "flag":
                fits = flag
            case "text":
                fits = isinstance(value, str)
            case "null":
                fits = value is None
        if not fits:
            raise Refused
        return value

    def schema(self) -> Json:
        """Returns the JSON Schema."""
        return {"type": {"flag": "boolean", "text": "string"}.get(self.kind, self.kind)}


@dataclass(frozen=True)
class Words(Form):
    """One of a few words, each standing for a value of the library; that value is taken too."""

    meanings: tuple[tuple[str, Any], ...]

    def allowed(self) -> str:
        """Says what is allowed."""
        return "one of " + ", ".join(word for word, _ in self.meanings)

    def parse(self, value: Any) -> str:
        """Returns the word."""
        for word, meaning in self.meanings:
            alike = type(meaning) is type(value) and meaning == value
            if alike or (isinstance(value, str) and value.lower() == word.lower()):
                return word
        known = [word for word, _ in self.meanings]
        raise Refused(did_you_mean(value, known) if isinstance(value, str) else "")

    def native(self, value: Any) -> Any:
        """Returns what the word stands for."""
        return dict(self.meanings)[value]

    def schema(self) -> Json:
        """Returns the JSON Schema."""
        return {"enum": [word for word, _ in self.meanings]}


@dataclass(frozen=True)
class Listed(Form):
    """A list: of as many items as there are in `items`, or of any number of one kind."""

    items: tuple[Form, ...]
    free: bool = False
    tensor: bool = False

    def allowed(self) -> str:
        """Says what is allowed."""
        words = [item.allowed() for item in self.items]
        if self.free or len(set(words)) == 1:
            many = "" if self.free else f"{len(words)} "
            return f"a list of {many}{_plural(words[0])}"
        return f"a list of {len(words)}: {'; '.join(words)}"

    def parse(self, value: Any) -> tuple[Any, ...]:
        """Returns the items in their normal form."""
        if not isinstance(value, (list, tuple)) or not value:
            raise Refused
        if not self.free and len(value) != len(self.items):
            raise Refused
        return tuple(item.parse(each) for item, each in self._pairs(value))

    def native(self, value: Any) -> Any:
        """Returns a tuple, or a tensor."""
        out = tuple(item.native(each) for item, each in self._pairs(value))
        if not self.tensor:
            return out
        import torch

        return torch.tensor(out)

    def schema(self) -> Json:
        """Returns the JSON Schema."""
        if self.free:
            return {"type": "array", "items": self.items[0].schema(), "minItems": 1}
        many = [item.schema() for item in self.items]
        return {"type": "array", "prefixItems": many, "items": False, "minItems": len(many)}

    def _pairs(self, value: Iterable[Any]) -> Iterable[tuple[Form, Any]]:
        if self.free:
            return ((self.items[0], each) for each in value)
        return zip(self.items, value, strict=True)


@dataclass(frozen=True)
class Mapped(Form):
    """A mapping from a few words, or from any, to values of one kind."""

    keys: tuple[str, ...]
    values: Form

    def allowed(self) -> str:
        """Says what is allowed."""
        keys = f" with the keys {', '.join(self.keys)}" if self.keys else ""
        return f"a mapping{keys} to {self.values.allowed()}"

    def parse(self, value: Any) -> dict[str, Any]:
        """Returns the mapping with its values in their normal form."""
        if not isinstance(value, Mapping) or not value:
            raise Refused
        for key in value:
            if not isinstance(key, str) or (self.keys and key not in self.keys):
                raise Refused(did_you_mean(str(key), self.keys))
        return {key: self.values.parse(each) for key, each in value.items()}

    def native(self, value: Any) -> Any:
        """Returns the mapping with the library's values."""
        return {key: self.values.native(each) for key, each in value.items()}

    def schema(self) -> Json:
        """Returns the JSON Schema."""
        out: Json = {"type": "object", "additionalProperties": self.values.schema()}
        return {**out, "propertyNames": {"enum": list(self.keys)}} if self.keys else out


@dataclass(frozen=True)
class Anything(Form):
    """Whatever YAML holds, where the library does not say more."""

    def allowed(self) -> str:
        """Says what is allowed."""
        return "what the library takes"

    def parse(self, value: Any) -> Any:
        """Returns the value, lists as tuples."""
        if isinstance(value, (list, tuple)):
            return tuple(self.parse(each) for each in value)
        if isinstance(value, Mapping):
            return {str(key): self.parse(each) for key, each in value.items()}
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        raise Refused

    def schema(self) -> Json:
        """Returns the JSON Schema."""
        return {}


@dataclass(frozen=True)
class Either(Form):
    """One of several forms, the first that takes the value."""

    forms: tuple[Form, ...]

    def allowed(self) -> str:
        """Says what is allowed."""
        return ", or ".join(dict.fromkeys(form.allowed() for form in self.forms))

    def parse(self, value: Any) -> Any:
        """Returns what the first fitting form makes of the value."""
        why = ""
        for form in self.forms:
            try:
                return form.parse(value)
            except Refused as refused:
                why = why or str(refused)
        raise Refused(why)

    def native(self, value: Any) -> Any:
        """Returns what the fitting form makes of the value."""
        for form in self.forms:
            try:
                form.parse(value)
            except Refused:
                continue
            return form.native(value)
        raise Refused

    def schema(self) -> Json:
        """Returns the JSON Schema."""
        return {"anyOf": [form.schema() for form in self.forms]}


def _plural(words: str) -> str:
    head, space, rest = words.partition(" ")
    if head in ("a", "an") and space:
        noun, _, tail = rest.partition(" ")
        return f"{noun}s{' ' + tail if tail else ''}"
    return f"({words})"


def form_of(annotation: Any, names: Mapping[str, Any] | None = None) -> Form:
    """Returns what an annotation allows.

    Args:
        annotation: A type.
        names: Words that stand for integers, where the annotation is one of flags (cv2's).

    Raises:
        Inexpressible: YAML can hold nothing of it.
    """
    if annotation is inspect.Parameter.empty or annotation is Any:
        return Anything()
    for kind, word in _PLAIN:
        if annotation is kind:
            return Plain(word)  # type: ignore[arg-type]
    if inspect.isclass(annotation):
        if issubclass(annotation, enum.Enum):
            return _enum(annotation)
        if issubclass(annotation, pathlib.PurePath):
            return Plain("text")
        if annotation.__module__ == "torch" and annotation.__name__ == "Tensor":
            return Listed((Plain("number"),), free=True, tensor=True)
    origin, inner = get_origin(annotation) or annotation, get_args(annotation)
    if origin is Literal:
        return _literal(inner, names)
    if origin in (Union, types.UnionType):
        return _union(inner, names)
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        free = len(inner) == 1  # Tuple[float] is written where any number is meant
        return Listed(tuple(form_of(each, names) for each in inner), free=free)
    if origin in (tuple, list, collections.abc.Sequence):
        return Listed((form_of(inner[0], names) if inner else Plain("number"),), free=True)
    if origin is dict and inner:
        keys = inner[0]
        words = get_args(keys) if get_origin(keys) is Literal else ()
        if words or keys is str:
            return Mapped(tuple(words), form_of(inner[1], names))
    raise Inexpressible(f"{annotation}")


_PLAIN = (
    *((bool, "flag"), (int, "integer"), (float, "number"), (numbers.Number, "number")),
    *((str, "text"), (None, "null"), (types.NoneType, "null")),
)


def _enum(kind: type[enum.Enum]) -> Form:
    """Returns the words of an enumeration: its values if those are words, else its names."""
    return Words(
        tuple(
            (str(member.value if isinstance(member.value, str) else name).lower(), member)
            for name, member in kind.__members__.items()
            if (kind.__name__, name) not in _PIL_ONLY
        )
    )


# torchvision takes these of PIL images alone, which it is never given here.
_PIL_ONLY = {("InterpolationMode", name) for name in ("BOX", "HAMMING", "LANCZOS")}


def _literal(values: tuple[Any, ...], names: Mapping[str, Any] | None) -> Form:
    words: list[tuple[str, Any]] = []
    null = False
    for value in values:
        if value is None:
            null = True
        elif isinstance(value, str):
            words.append((value, value))
        else:
            known = [word for word, each in (names or {}).items() if each == value]
            words += [(known[0], value)] if known else [(str(value), value)]
    form = Words(tuple(dict.fromkeys(words)))
    return Either((form, Plain("null"))) if null else form


def _union(members: tuple[Any, ...], names: Mapping[str, Any] | None) -> Form:
    forms: list[Form] = []
    enums = [m for m in members if inspect.isclass(m) and issubclass(m, enum.Enum)]
    for member in members:
        if enums and member in (str, int):
            continue  # another way to name a member
        try:
            form = form_of(member, names)
        except Inexpressible:
            continue
        if isinstance(form, Listed) and form.tensor and len(members) > 1:
            continue  # a list or a number does
        forms += form.forms if isinstance(form, Either) else [form]
    forms = list(dict.fromkeys(forms))
    if not forms or forms == [Plain("null")]:
        raise Inexpressible(f"{members}")
    return forms[0] if len(forms) == 1 else Either(tuple(forms))


def resolve(annotation: Any, space: Mapping[str, Any]) -> Any:
    """Returns the type that an annotation written as text stands for."""
    if not isinstance(annotation, str):
        return annotation
    known = {**vars(typing), **vars(collections.abc), "Path": pathlib.Path, **space}
    try:
        return eval(annotation, known)
    except NameError as error:
        raise Inexpressible(annotation) from error
