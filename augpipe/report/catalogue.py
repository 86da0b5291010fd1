"""The catalogue of ops in words: for the command line and the docs."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic_core import PydanticUndefined

from augpipe import regularizers
from augpipe.declared import Declared
from augpipe.errors import UsageError
from augpipe.foreign import LIBRARIES, facts
from augpipe.ir import Mix
from augpipe.ops import catalogue, find, why_not
from augpipe.ops.base import Combinator, Op, Ops
from augpipe.plan.explain import kind_in_words
from augpipe.report.foreign import list_libraries, list_library
from augpipe.spec import Choice, Declaration, Number, Refused, Size


def list_ops(width: int = 100) -> str:
    """Returns the catalogue: name, kind of meaning, one line and parameters of each op."""
    rows = {
        name: (cls, f"{_kind(cls)}: {_summary(cls)}", _parameters(cls))
        for name, cls in catalogue().items()
    }
    return _by_family(rows, width) + "\n\n" + list_libraries(width)


def list_regularizers(width: int = 100) -> str:
    """Returns the regularizers by family: name, one line and parameters of each."""
    rows = {
        name: (cls, _summary(cls), list(cls.model_fields))
        for name, cls in regularizers.catalogue().items()
    }
    return _by_family(rows, width)


def describe_op(name: str, width: int = 100) -> str:
    """Returns everything about one op, its docstring, its parameters and an example; or a library.

    Raises:
        UsageError: If there is no such op.
    """
    if name in LIBRARIES:
        return list_library(name, width, reasons=True)
    cls = find(name)
    if cls is None:
        raise UsageError(": ".join(filter(None, why_not(name))))
    lines = [f"{name}  ({_kind(cls)})", "", _body(cls), ""]
    if cls.kind is Mix:  # what all of them have in common stands in their module
        lines += [
            inspect.cleandoc(sys.modules[cls.__module__].__doc__ or "").partition("\n\n")[2],
            "",
        ]
    lines += _explained(cls, _parameters(cls), width)
    fields = _yaml(example_item(cls)[name])
    lines += ["", "Example", "", "  version: 1", f"  {cls.sections[0]}:", f"    - {name}: {fields}"]
    return "\n".join(lines)


def describe_regularizer(name: str, width: int = 100) -> str:
    """Returns a regularizer's method card and its parameters.

    Raises:
        UsageError: If there is no such regularizer.
    """
    cls = regularizers.find(name)
    if cls is None:
        raise UsageError(": ".join(filter(None, regularizers.why_not(name))))
    lines = [name, "", _body(cls), "", *_explained(cls, list(cls.model_fields), width)]
    return "\n".join(lines)


def _by_family(rows: Mapping[str, tuple[type[Declared], str, Sequence[str]]], width: int) -> str:
    """Returns names with what they do and their parameters, under the files they stand in."""
    blocks: list[str] = []
    family = ""
    names = max(map(len, rows))
    indent = " " * (names + 4)
    for name, (cls, words, parameters) in rows.items():
        own = cls.__module__.rpartition(".")[2]
        if own != family:
            blocks.append(("\n" if family else "") + own)
            family = own
        blocks.append(_filled(f"  {name.ljust(names)}  {words}", indent, width))
        blocks.append(_filled(indent + ", ".join(parameters), indent, width))
    return "\n".join(blocks)


def _explained(cls: type[Declared], parameters: Sequence[str], width: int) -> list[str]:
    """Returns lines that tell of parameters: default, what it is, what it may be."""
    lines = ["Parameters", ""]
    for name in parameters:
        field, declared = cls.model_fields[name], cls.declared()[name]
        default = "(required)" if field.is_required() else _yaml(_plain(field.default))
        lines.append(f"  {name}: {default}")
        text = f"      {_sentence(field.description or '')} {_sentence(declared.allowed())}"
        lines.append(_filled(text, " " * 6, width))
    return lines


def example_item(cls: type[Op]) -> dict[str, Any]:
    """Returns a recipe item that shows an op's parameters: it holds as it stands."""
    fields: dict[str, Any] = dict(facts().examples.get(cls.name(), {}))
    for name in (name for name in _own(cls) if name not in fields):
        field, declared = cls.model_fields[name], cls.declared()[name]
        if field.is_required() or (name == cls.main and field.default is None):
            fields[name] = _sample_value(declared)
        elif field.default == 0 and isinstance(declared, Number):
            fields[name] = declared.high / 5 if declared.high and declared.high <= 1 else 0.4
        elif name == cls.main or (len(fields) < 3 and field.default is not None):
            fields[name] = _plain(field.default)
    needs = any(cls.model_fields[name].is_required() for name in fields)
    return {cls.name(): fields if needs or cls.last else {**fields, "p": 0.5}}


def _sample_value(declared: Declaration) -> Any:
    """Returns a value that a declaration allows."""
    match declared:
        case Size():
            return 224
        case Ops():
            return ["horizontal_flip", {"rotate": {"degrees": [-15, 15]}}]
        case Choice():
            return declared.words[0]
    # The smallest of a few usual values that holds.
    for value in (0.5, 8, 1, 3, [0, 1], [1, 2], [0.5, 1.0], [1, 1, 1], [1, 1, 1, 1], [3, 7]):
        try:
            declared.parse(value)
        except Refused:
            continue
        return value
    raise TypeError(f"no sample value for {type(declared).__name__}")


def _own(cls: type[Op]) -> list[str]:
    """Returns the parameters that an op itself declares or needs, without `p`."""
    needed = [name for name, field in cls.model_fields.items() if field.is_required()]
    own = [name for name in cls.__annotations__ if name in cls.model_fields and name != "p"]
    return list(dict.fromkeys([*own, *needed]))


def _parameters(cls: type[Op]) -> list[str]:
    """Returns an op's parameters: its own first, `p` last."""
    order = dict.fromkeys([*_own(cls), *cls.model_fields])
    return [name for name in order if name != "p"] + ["p"]


def _kind(cls: type[Op]) -> str:
    if issubclass(cls, Combinator):
        return "policy" if cls.private else "combinator"
    return kind_in_words(cls.kind) if cls.kind else "op"


def _summary(cls: type[Declared]) -> str:
    return _body(cls).split("\n\n")[0].replace("\n", " ")


def _body(cls: type[Declared]) -> str:
    return inspect.cleandoc(cls.__doc__ or "")


def _sentence(text: str) -> str:
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if not text or text.endswith(".") else f"{text}."


def _plain(value: Any) -> Any:
    """Returns a default as YAML holds it."""
    if value is PydanticUndefined:
        return None
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return int(value) if value.is_integer() else float(f"{value:.4g}")
    return value


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")


def _filled(text: str, indent: str, width: int) -> str:
    return textwrap.fill(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
