"""JSON files larger than memory: where the elements of their arrays lie.

A COCO file is one object that holds arrays of a million small objects. Here the file is gone
through once, in pieces, and only places are kept; an element is read again when it is needed.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from augpipe.errors import DataError, reason

_PIECE = 1 << 20
_LONGEST = 1 << 28  # bytes of one element: one that does not end must not fill the memory
_DEEPEST = 100  # lists and objects within one another: what is read can be written too
_SPACE = " \t\n\r"
_NUMBER = "+-.0123456789Ee"


@dataclass(frozen=True, slots=True)
class Element:
    """One element of an array of the file, or the value of another key.

    Args:
        key: The key in the object at the top.
        value: The value. The texts in an array's elements are not decoded: their UTF-8 bytes
            stand as letters.
        start: Where it begins in the file, in bytes.
        size: Its length in bytes.
    """

    key: str
    value: Any
    start: int
    size: int


def scan(path: Path, arrays: Collection[str]) -> Iterator[Element]:
    """Yields the elements of some arrays of the object in a file, and its other values whole.

    Args:
        path: The file.
        arrays: The keys whose arrays are gone through element by element.

    Raises:
        DataError: If the file cannot be read, is no JSON object, is truncated, nested too deeply,
            or an element is longer than 256 MB.
    """
    try:
        with path.open("rb") as file:
            yield from _Scanner(path, file).elements(arrays)
    except OSError as error:
        raise DataError(path, f"cannot be read ({reason(error)})") from error
    except RecursionError:
        raise DataError(path, "not usable JSON: nested too deeply") from None


def loads(data: str | bytes) -> Any:
    """Returns the value of a JSON text.

    Raises:
        ValueError: If it is none.
        RecursionError: If lists and objects lie more than 100 deep within one another.
    """
    return _shallow(json.loads(data))


def _shallow(value: Any) -> Any:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEEPEST):
        inner = [each.values() if isinstance(each, dict) else each for each in level]
        level = [each for some in inner for each in some if isinstance(each, dict | list)]
    if not level:
        return value
    raise RecursionError


def first_keys(path: Path, most: int = 65536) -> set[str]:
    """Returns the texts in quotation marks near a file's beginning; none if it is no object."""
    try:
        with path.open("rb") as file:
            head = file.read(most).decode("utf-8-sig", errors="replace")
    except OSError:
        return set()
    return set(head.split('"')[1::2]) if head.lstrip().startswith("{") else set()


class _Scanner:
    """Holds a window on the file as Latin-1, in which a letter is a byte."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        self._text = ""
        self._at = 0
        self._before = 0  # bytes of the file before the window
        self._ended = False
        self._decoder = json.JSONDecoder()

    def elements(self, arrays: Collection[str]) -> Iterator[Element]:
        if self._file.read(3) == b"\xef\xbb\xbf":
            self._before = 3
        else:
            self._file.seek(0)
        self._expect("{")
        more = self._next() != "}"
        seen: set[str] = set()
        while more:
            found = self._value()
            key = self._whole(found)
            if not isinstance(key, str):
                raise self._wrong("a key must be text")
            if key in seen:
                raise self._wrong(f"a second {key!r}")
            seen.add(key)
            self._expect(":")
            if key in arrays and self._next() == "[":
                yield from self._array(key)
            else:
                found = self._value()
                yield Element(key, self._whole(found), found.start, found.size)
            more = self._comma("}")
        self._expect("}")
        if self._next():
            raise self._wrong("text behind the object")

    def _array(self, key: str) -> Iterator[Element]:
        self._expect("[")
        more = self._next() != "]"
        while more:
            found = self._value()
            yield Element(key, found.value, found.start, found.size)
            more = self._comma("]")
        self._expect("]")

    def _value(self) -> Element:
        """Decodes the value that stands next."""
        self._next()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                place = self._before + error.pos
                short = f"{error.msg[:1].lower()}{error.msg[1:]}"
                at_end = error.pos >= len(self._text.rstrip()) or "nterminated" in short
                if self._more():
                    continue
                if at_end:
                    raise DataError(
                        self._path, f"truncated JSON: it ends at byte {place}"
                    ) from None
                raise DataError(self._path, f"not JSON at byte {place}: {short}") from None
            except ValueError:  # Python refuses to read what takes the square of its length
                raise self._wrong("a number of thousands of digits") from None
            cut = isinstance(value, int | float) and not self._text[end:].strip(_NUMBER)
            if cut and self._more():
                continue  # the number may go on
            if (
                self._text.count("[", self._at, end) + self._text.count("{", self._at, end)
                > _DEEPEST
            ):
                _shallow(value)
            start = self._before + self._at
            size, self._at = end - self._at, end
            return Element("", value, start, size)

    def _whole(self, found: Element) -> Any:
        """Decodes once more what was decoded last, its texts as well."""
        data = self._text[self._at - found.size : self._at].encode("latin-1")
        try:
            return json.loads(data.decode())
        except UnicodeDecodeError:
            raise self._wrong("text that is not UTF-8") from None

    def _next(self) -> str:
        """Moves to the next letter that is no space, and returns it; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _expect(self, mark: str) -> None:
        found = self._next()
        if found != mark:
            if not found:
                raise DataError(self._path, f"truncated JSON: it ends before a {mark!r}")
            raise self._wrong(f"expected {mark!r}, not {found!r}")
        self._at += 1

    def _comma(self, end: str) -> bool:
        """Goes over a comma; tells whether there was one, else the end stands next."""
        if self._next() == ",":
            self._at += 1
            return True
        if self._next() not in ("", end):
            raise self._wrong(f"expected ',' or {end!r}")
        return False

    def _more(self) -> bool:
        """Reads on, and forgets what lies behind; tells whether there was more."""
        if self._ended:
            return False
        kept = self._text[self._at :]
        if len(kept) > _LONGEST:
            raise self._wrong("a value of more than 256 MB")
        piece = self._file.read(max(_PIECE, len(kept)))
        if not piece:
            self._ended = True
            return False
        self._before += self._at
        self._text, self._at = kept + piece.decode("latin-1"), 0
        return True

    def _wrong(self, what: str) -> DataError:
        return DataError(self._path, f"not usable JSON at byte {self._before + self._at}: {what}")
