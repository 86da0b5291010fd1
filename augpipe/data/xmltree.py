"""XML as nested elements, and nothing that could surprise: no DTD, no entities, limits on size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

from augpipe.errors import DataError

_BYTES = 16_000_000
_DEPTH = 30
_ELEMENTS = 100_000


@dataclass(slots=True)
class Element:
    """An element.

    Args:
        tag: Its name.
        line: The line it begins in.
        text: Its own text, without what its children hold and without space around it.
        children: The elements in it.
        attributes: Its attributes.
    """

    tag: str
    line: int
    text: str = ""
    children: list[Element] = field(default_factory=list)
    attributes: dict[str, str] = field(default_factory=dict)

    def find(self, tag: str) -> Element | None:
        """Returns the first child of a name."""
        return next((each for each in self.children if each.tag == tag), None)

    def plain(self) -> Any:
        """Returns the text of a leaf, else a dict; children of one name become a list."""
        if not self.children and not self.attributes:
            return self.text
        out: dict[str, Any] = {f"@{name}": value for name, value in self.attributes.items()}
        for each in self.children:
            value = each.plain()
            if each.tag not in out:
                out[each.tag] = value
            elif isinstance(out[each.tag], list):
                out[each.tag].append(value)
            else:
                out[each.tag] = [out[each.tag], value]
        if self.text:
            out["#text"] = self.text
        return out


def parse_xml(data: bytes, where: object) -> Element:
    """Returns the root element.

    Args:
        data: The file's content.
        where: What errors call the file.

    Raises:
        DataError: If it is no well-formed XML, is truncated, declares a document type (which
            entities need), or is too large or nested too deeply.
    """
    if len(data) > _BYTES:
        raise DataError(where, f"XML of {len(data) / 1e6:.0f} MB, more than the limit of 16")
    builder = _Builder(where)
    try:
        builder.parser.Parse(data, True)
    except expat.ExpatError as error:
        words = expat.ErrorString(error.code)
        cut = words in ("no element found", "unclosed token", "unclosed CDATA section")
        what = "truncated XML" if cut else f"not well-formed XML: {words}"
        raise DataError(f"{where}:{error.lineno}", what) from None
    except (ValueError, LookupError) as error:  # an encoding that there is not
        raise DataError(where, f"XML that cannot be read: {error}") from None
    assert builder.root is not None
    return builder.root


class _Builder:
    def __init__(self, where: object) -> None:
        self.root: Element | None = None
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._doctype
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._data
        self._where = where
        self._open: list[Element] = []
        self._count = 0

    def _line(self) -> str:
        return f"{self._where}:{self.parser.CurrentLineNumber}"

    def _doctype(self, *_: object) -> None:
        raise DataError(self._line(), "XML with a document type or entities is not opened")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if len(self._open) >= _DEPTH or self._count > _ELEMENTS:
            raise DataError(self._line(), "XML nested too deeply, or of too many elements")
        element = Element(tag, self.parser.CurrentLineNumber, attributes=attributes)
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def _data(self, text: str) -> None:
        self._open[-1].text += text

    def _end(self, _: str) -> None:
        done = self._open.pop()
        done.text = done.text.strip()
