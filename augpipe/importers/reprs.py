"""Reads what `print(transform)` shows: calls, lists and words, not always valid Python.

call := NAME "(" {[","] argument} ")" ["(" arguments ")"], with RandomChoice's weights behind.
argument := [NAME "=" | "(" NUMBER ")" ":"] value; a value is a number, a quoted string, a
dotted word, a call, a list, a tuple, a dict, or something in angle brackets. Nothing is
evaluated.
"""

from __future__ import annotations

import bisect
import re
from dataclasses import dataclass, field
from typing import Any, NoReturn

from augpipe.errors import Place, Problem, RecipeError

_TOKEN = re.compile(
    r"""(?P<space>\s+|,)
    |(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    |(?P<string>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
    |(?P<angle><[^<>\n]*(?:<[^<>\n]*>[^<>\n]*)*>)
    |(?P<word>-?[^\W\d][\w.]*)
    |(?P<mark>[()\[\]{}=:])""",
    re.VERBOSE,
)
_CLOSES = {"(": ")", "[": "]", "{": "}"}
_DEPTH = 40
_WORDS = {"True": True, "False": False, "None": None}


@dataclass(frozen=True)
class Call:
    """A name with its arguments.

    Args:
        name: Without the modules before its last dot.
        line: Where it begins, from 1.
        named: Arguments with a name.
        plain: Arguments without one, in their order.
    """

    name: str
    line: int
    named: dict[str, Any] = field(default_factory=dict)
    plain: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Unnamed:
    """What a repr shows in angle brackets: an object that it does not describe."""

    text: str
    line: int


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


class Reader:
    """Reads one repr.

    Args:
        text: The whole of it.
        source: What to call it in errors.
    """

    def __init__(self, text: str, source: str) -> None:
        self.text, self.source = text, source
        self.breaks = [at for at, letter in enumerate(text) if letter == "\n"]
        self.tokens = self._tokens()
        self.next = 0
        self.depth = 0

    def read(self) -> Call:
        """Returns the call that the text is.

        Raises:
            RecipeError: It is none, with the place where that shows.
        """
        value = self._value()
        if not isinstance(value, Call):
            self._fail(0, "begins with no transform, such as Compose(")
        if self.next < len(self.tokens):
            token = self.tokens[self.next]
            what = "a ')' too many" if token.text == ")" else f"'{token.text}' after the end"
            self._fail(token.at, what)
        return value

    def line(self, at: int) -> int:
        """Returns the line of a position, from 1."""
        return bisect.bisect_left(self.breaks, at) + 1

    def _fail(self, at: int, message: str) -> NoReturn:
        column = at - self.text.rfind("\n", 0, at)
        place = Place(self.source, self.line(at), column)
        raise RecipeError([Problem(place, "", f"not a repr of transforms: {message}")])

    def _tokens(self) -> list[_Token]:
        out, at = [], 0
        while at < len(self.text):
            found = _TOKEN.match(self.text, at)
            if found is None:
                self._fail(at, f"cannot read {self.text[at]!r} here")
            kind = found.lastgroup or ""
            if kind != "space":
                out.append(_Token(kind, found.group(), at))
            at = found.end()
        return out

    def _peek(self, ahead: int = 0) -> str:
        at = self.next + ahead
        token = self.tokens[at] if at < len(self.tokens) else None
        return token.text if token and token.kind == "mark" else ""

    def _take(self) -> _Token:
        token = self.tokens[self.next]
        self.next += 1
        return token

    def _value(self) -> Any:
        token = self._take()
        match token.kind:
            case "number":
                whole = token.text.lstrip("+-").isdigit() and len(token.text) < 32
                return int(token.text) if whole else float(token.text)
            case "string":
                return token.text[1:-1]
            case "angle":
                return self._angle(token)
            case "word" if self._peek() == "(":
                return self._call(token)
            case "word":
                return _WORDS.get(token.text, token.text)
        if token.text not in _CLOSES:
            self._fail(token.at, f"'{token.text}' stands where a value should")
        named, plain = self._arguments(token)
        return named if token.text == "{" else plain

    def _angle(self, token: _Token) -> Any:
        # <InterpolationMode.BICUBIC: 'bicubic'>
        if found := re.fullmatch(r"<[\w.]+: '(\w+)'>", token.text):
            return found.group(1)
        return Unnamed(token.text, self.line(token.at))

    def _call(self, name: _Token) -> Call:
        named, plain = self._arguments(self._take())
        while self._peek() == "(" and not self._is_numbered():  # )(p=[0.2, 0.8])
            more, rest = self._arguments(self._take())
            named |= more
            plain += rest
        return Call(name.text.rpartition(".")[2], self.line(name.at), named, plain)

    def _is_numbered(self) -> bool:
        """Tells whether "(0): " stands here, as in the repr of a Sequential."""
        return self._peek(2) == ")" and self._peek(3) == ":"

    def _arguments(self, opened: _Token) -> tuple[dict[str, Any], list[Any]]:
        """Reads up to the bracket that closes this one."""
        closing = _CLOSES[opened.text]
        named: dict[str, Any] = {}
        plain: list[Any] = []
        self.depth += 1
        if self.depth > _DEPTH:
            self._fail(opened.at, "nested too deeply")
        while self._peek() != closing:
            if self.next >= len(self.tokens):
                self._fail(opened.at, f"this '{opened.text}' is never closed")
            if self._peek() in (")", "]", "}"):
                token = self.tokens[self.next]
                line = self.line(opened.at)
                self._fail(token.at, f"'{token.text}' closes the '{opened.text}' of line {line}")
            if self._peek() == "(" and self._is_numbered():
                self.next += 4
                continue
            key = self.tokens[self.next]
            if key.kind in ("word", "string", "number") and self._peek(1) in ("=", ":"):
                self.next += 2
                if self.next >= len(self.tokens):
                    self._fail(opened.at, f"this '{opened.text}' is never closed")
                named[key.text] = self._value()
            else:
                plain.append(self._value())
        self.next += 1
        self.depth -= 1
        return named, plain
