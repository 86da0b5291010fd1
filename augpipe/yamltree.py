"""YAML as plain values with their places, and nothing that surprises.

Scalars follow YAML 1.2's core schema (`on`, `yes` and `off` are words; `5e-4` is a number).
Refused, each with its place: duplicate keys, anchors and aliases (and with them merge
bombs), tags, infinities and NaN, several documents, nesting deeper than 40.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from augpipe.errors import Place, Problem, RecipeError

_DEPTH = 40
_MOST = 100  # problems
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


@dataclass(slots=True)
class Tree:
    """A value of a YAML file and where it stands.

    Args:
        value: A scalar, a list of trees, or a dict of trees.
        place: Where it begins; None if it came from no file.
        keys: Where each key of a dict stands.
        broken: Whether a scalar stood here that is refused; its value is None.
        problems: What was refused in the whole document; at its root.
    """

    value: Any
    place: Place | None
    keys: dict[str, Place] = field(default_factory=dict)
    broken: bool = False
    problems: list[Problem] = field(default_factory=list)

    def is_broken(self) -> bool:
        """Returns whether this or what it holds was refused."""
        match self.value:
            case dict():
                return any(tree.is_broken() for tree in self.value.values())
            case list():
                return any(tree.is_broken() for tree in self.value)
        return self.broken

    def plain(self) -> Any:
        """Returns the value without places."""
        match self.value:
            case dict():
                return {key: tree.plain() for key, tree in self.value.items()}
            case list():
                return [tree.plain() for tree in self.value]
        return self.value


def wrap(value: Any, depth: int = 0) -> Tree:
    """Returns the tree of a value that stands in no file.

    Raises:
        RecipeError: It is nested too deeply.
    """
    if depth > _DEPTH:
        raise RecipeError([Problem(None, "", "nested too deeply")])
    match value:
        case dict():
            return Tree({str(key): wrap(each, depth + 1) for key, each in value.items()}, None)
        case list() | tuple():
            return Tree([wrap(each, depth + 1) for each in value], None)
    return Tree(value, None)


def scalar(text: str) -> Any:
    """Reads a plain scalar by YAML 1.2's core schema.

    Raises:
        ValueError: It is an infinity or NaN.
    """
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text) and len(text) < 32:
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"{text} is too large")
        return number
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    return text


def parse(text: str, file: str) -> Tree:
    """Parses one YAML document; what is refused in it is noted in the root's `problems`.

    Args:
        text: The document.
        file: What to call it in places.

    Raises:
        RecipeError: The text is not YAML, or is so full of problems that there is no point.
    """
    reader = _Reader(file)
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            reader.take(event)
            if len(reader.problems) >= _MOST:
                raise RecipeError(reader.problems)
    except (ValueError, OverflowError):  # "\U00110000" is no letter; the parser does not say where
        raise RecipeError(
            [*reader.problems, Problem(Place(file, 1, 1), "", "not valid YAML: an unknown escape")]
        ) from None
    except yaml.MarkedYAMLError as error:
        raise RecipeError([*reader.problems, _syntax(error, file)]) from None
    except yaml.YAMLError as error:
        line = text.count("\n", 0, getattr(error, "position", 0)) + 1
        what = f"not readable as YAML: {str(error).splitlines()[0]}"
        raise RecipeError([*reader.problems, Problem(Place(file, line, 1), "", what)]) from None
    root = reader.root or Tree(None, Place(file, 1, 1))
    root.problems = reader.problems
    return root


def _syntax(error: yaml.MarkedYAMLError, file: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
    what = " ".join(filter(None, (error.context, error.problem)))
    hint = "indent with spaces" if "'\\t'" in what else ""
    return Problem(place, "", f"not valid YAML: {what}", hint)


@dataclass
class _Reader:
    """Builds the tree from the parser's events."""

    file: str
    problems: list[Problem] = field(default_factory=list)
    root: Tree | None = None
    open: list[Tree] = field(default_factory=list)
    pending: list[tuple[str, Place] | None] = field(default_factory=list)
    documents: int = 0

    def take(self, event: yaml.Event) -> None:
        """Takes one event."""
        mark = event.start_mark
        assert mark is not None  # events of a text have marks
        place = Place(self.file, mark.line + 1, mark.column + 1)
        match event:
            case yaml.DocumentStartEvent():
                self.documents += 1
                if self.documents == 2:
                    self._refuse(place, "a recipe is one document", "remove the second '---'")
            case yaml.AliasEvent():
                self._refuse(place, "aliases (*name) are not allowed", "write the value out")
                self._put(Tree(None, place, broken=True))
            case yaml.ScalarEvent():
                self._check_node(event, place)
                before = len(self.problems)
                value = self._scalar(event, place)
                self._put(Tree(value, place, broken=len(self.problems) > before))
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                self._check_node(event, place)
                if len(self.open) >= _DEPTH:
                    raise RecipeError([*self.problems, Problem(place, "", "nested too deeply")])
                empty: Any = [] if isinstance(event, yaml.SequenceStartEvent) else {}
                self.open.append(Tree(empty, place))
                self.pending.append(None)
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                self.pending.pop()
                self._put(self.open.pop())

    def _refuse(self, place: Place, message: str, hint: str = "") -> None:
        self.problems.append(Problem(place, "", message, hint))

    def _check_node(self, event: Any, place: Place) -> None:
        if event.anchor is not None:
            self._refuse(place, f"anchors (&{event.anchor}) are not allowed", "write values out")
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(place, f"tags ({tag}) are not allowed", "a recipe is plain data")

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> Any:
        if event.style is not None:
            return event.value
        try:
            return scalar(event.value)
        except ValueError as error:
            self._refuse(place, str(error))
            return None

    def _put(self, tree: Tree) -> None:
        if not self.open:
            self.root = self.root or tree
            return
        parent = self.open[-1]
        if isinstance(parent.value, list):
            parent.value.append(tree)
            return
        key = self.pending[-1]
        if key is None:
            self.pending[-1] = self._key(tree, parent)
            return
        parent.value[key[0]] = tree
        parent.keys[key[0]] = key[1]
        self.pending[-1] = None

    def _key(self, tree: Tree, parent: Tree) -> tuple[str, Place]:
        place = tree.place
        assert place is not None
        if isinstance(tree.value, (dict, list)) or tree.value is None:
            self._refuse(place, "a key must be a word")
            return f"?{place}", place
        name = str(tree.value)
        if name in parent.value:
            first = parent.keys[name]
            self._refuse(place, f"'{name}' stands here twice", f"first on line {first.line}")
        return name, place
