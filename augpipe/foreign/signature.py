"""The arguments of a transform: from its constructor's signature and docstring."""

from __future__ import annotations

import enum
import functools
import inspect
import re
import sys
from dataclasses import dataclass
from typing import Any

from augpipe.foreign.arguments import Form, Inexpressible, Words, form_of, resolve
from augpipe.foreign.libraries import transform_class
from augpipe.spec import Refused

_OWN = {"p", "p_batch", "same_on_batch", "keepdim", "inplace", "strict", "always_apply"}
# What the adapters do not pass on: `bbox_labels` speaks of labels, which stay with the caller;
# a key names data that stands beside the image.
_HIDDEN = {"bbox_labels", "metadata_key", "data_keys", "mask", "mask_params", "read_fn"}
# cv2's flags are bare integers; a recipe names them.
_FLAGS = re.compile(r"cv2\.(INTER|BORDER)_")
_WORDS = {
    "INTER": ("nearest", "linear", "cubic", "area", "lanczos4", "linear_exact", "nearest_exact"),
    "BORDER": ("constant", "replicate", "reflect", "wrap", "reflect_101"),
}


@dataclass(frozen=True)
class Argument:
    """One argument of a constructor.

    Args:
        name: Its name in a recipe.
        native: Its name in the library.
        form: What it may be.
        required: Whether it has no default.
        default: As a recipe holds it.
        words: What the library says of it.
    """

    name: str
    native: str
    form: Form
    required: bool
    default: Any
    words: str


@dataclass(frozen=True)
class Signature:
    """What a recipe may give a transform.

    Args:
        arguments: Its arguments.
        p: The default of the probability that it acts.
        has_p: Whether the library's own constructor has such a probability.
        words: What the library says of it, in one paragraph.
        missing: A required argument that YAML cannot hold, or "".
    """

    arguments: tuple[Argument, ...]
    p: float
    has_p: bool
    words: str
    missing: str


@functools.cache
def signature(name: str) -> Signature:
    """Reads the signature of a transform named with its library.

    Raises:
        Unavailable: There is no such transform.
    """
    cls = transform_class(name)
    parameters = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])  # type: ignore[misc]
    doc = inspect.cleandoc(cls.__doc__ or "")
    ours = "p" in parameters and not _each(cls)
    arguments, missing = [], ""
    for own, parameter in parameters.items():
        if own in _HIDDEN or (own in _OWN and not (own == "p" and not ours)):
            continue
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            missing = missing or (f"*{own}" if parameter.kind is parameter.VAR_POSITIONAL else "")
            continue
        required = parameter.default is parameter.empty
        try:
            form = _form(cls, parameter)
        except Inexpressible:
            missing = missing or (own if required else "")
            continue
        default = None if required else _plain(form, parameter.default)
        words = _argument_words(doc, own)
        arguments.append(Argument(_name(own), own, form, required, default, words))
    given: Any = parameters["p"].default if ours else 1.0
    p = 1.0 if given is inspect.Parameter.empty else float(given)
    arguments.sort(key=lambda each: not each.required)
    return Signature(tuple(arguments), p, ours, _paragraph(doc), missing)


def _each(cls: type) -> bool:
    """Returns whether its p is that of each of its parts: torchvision's gate all the others."""
    names = {base.__name__ for base in cls.__mro__}
    return cls.__module__.startswith("torchvision") and "_RandomApplyTransform" not in names


def _name(own: str) -> str:
    return "own_p" if own == "p" else own


def _form(cls: type, parameter: inspect.Parameter) -> Form:
    text = parameter.annotation if isinstance(parameter.annotation, str) else ""
    if text == "int" and parameter.name == "border_mode":
        return Words(tuple(_flags("BORDER").items()))
    kind = _FLAGS.search(text)
    space = vars(sys.modules[cls.__module__])
    return form_of(resolve(parameter.annotation, space), _flags(kind[1]) if kind else None)


def _flags(kind: str) -> dict[str, int]:
    """Returns cv2's flags of a kind by the words that a recipe has for them."""
    import cv2

    return {word: int(getattr(cv2, f"{kind}_{word.upper()}")) for word in _WORDS[kind]}


def _plain(form: Form, default: Any) -> Any:
    """Returns a default as a recipe holds it; None where it cannot."""
    if isinstance(default, enum.Enum):
        default = default.value if isinstance(default.value, str) else default.name.lower()
    if isinstance(default, list):
        default = tuple(default)
    try:
        return form.parse(default)
    except Refused:
        return None


def _paragraph(doc: str) -> str:
    """Returns the first paragraph of a docstring without its markup."""
    text = " ".join(doc.split("\n\n")[0].split())
    text = re.sub(r"^\.\. \w+::.*", "", text)
    return re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "").replace("`", "")


def _argument_words(doc: str, name: str) -> str:
    """Returns the first sentence that a docstring has on an argument."""
    start = rf"^\s*{re.escape(name)}\s*(\([^\n]*\))?\s*:\s*(?P<words>[^\n]*(\n\s{{6,}}[^\n]*)*)"
    found = re.search(start, doc, re.MULTILINE)
    if not found:
        return ""
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", " ".join(found["words"].split())).replace("`", "")
    return re.split(r"(?<=[a-z)\]])\.\s", text)[0]
