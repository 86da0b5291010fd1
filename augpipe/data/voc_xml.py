"""Pascal VOC's annotation files: XML to records, and back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from augpipe.data.annotated import AnnotatedImage, Annotation, Meta, box_of, number
from augpipe.data.content import Content, FileContent, bytes_of
from augpipe.data.shapes import hull
from augpipe.data.sidecar import Found
from augpipe.data.xmltree import Element, parse_xml
from augpipe.errors import DataError, printable

_TOP = ("filename", "size", "object")
_OBJECT = ("name", "bndbox")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_TAG = re.compile(r"[A-Za-z_][\w.-]*")
UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_DEFAULTS = {"pose": "Unspecified", "truncated": "0", "difficult": "0"}


def parse_file(path: Path) -> Element:
    """Reads an annotation file.

    Raises:
        DataError: If it cannot be read, or is no annotation.
    """
    tree = parse_xml(bytes_of(path, 16), path)
    if tree.tag != "annotation":
        raise DataError(path, f"its root is <{printable(tree.tag[:60])}>, not <annotation>")
    return tree


def said_by(tree: Element) -> str:
    """Returns what an annotation file says, whatever its form."""
    return repr(tree.plain())


def image_of(
    tree: Element,
    where: object,
    content: Content,
    found: Found,
    ids: Mapping[str, int],
    mask: FileContent | None,
) -> AnnotatedImage:
    """Returns the image that an annotation file tells of.

    Args:
        tree: The file.
        where: What errors call it.
        content: Where the image is.
        found: Its name and split.
        ids: The id of each class.
        mask: Its mask, or None.

    Raises:
        DataError: If a number or a class in it cannot be used.
    """
    size, extra = None, {}
    for each in tree.children:
        if each.tag == "size":
            sides = [_number(each, side, where) for side in ("height", "width")]
            size = (int(sides[0]), int(sides[1])) if min(sides) >= 1 else None
            rest = {k: v for k, v in each.plain().items() if k not in ("height", "width")}
            if rest:
                extra["size"] = rest
    plain = tree.plain()
    others = plain.items() if isinstance(plain, dict) else ()
    extra |= {name: value for name, value in others if name not in _TOP}
    objects = tuple(_object(o, where, ids) for o in tree.children if o.tag == "object")
    entry = found.entry
    return AnnotatedImage(
        entry.name, content, entry.split, size, annotations=objects, mask=mask, extra=extra
    )


def _object(element: Element, where: object, ids: Mapping[str, int]) -> Annotation:
    name = text_in(element, "name", where)
    place = f"{where}:{element.line}"
    if name not in ids:
        raise DataError(place, f"unknown class {printable(name[:60])!r}")
    corners = element.find("bndbox")
    box = None
    extra = {each: value for each, value in element.plain().items() if each not in _OBJECT}
    if corners is not None:
        x0, y0, x1, y1 = (_number(corners, each, where) for each in _CORNERS)
        box = box_of(x0, y0, x1, y1, f"{where}:{corners.line}")
    return Annotation(ids[name], box, extra=extra)


def text_in(element: Element, tag: str, where: object) -> str:
    """Returns the text of an element's child.

    Raises:
        DataError: If there is none.
    """
    found = element.find(tag)
    if found is None:
        raise DataError(f"{where}:{element.line}", f"<{element.tag}> has no <{tag}>")
    return found.text


def _number(element: Element, tag: str, where: object) -> float:
    text = text_in(element, tag, where)
    place = f"{where}:{element.line}"
    try:
        return number(float(text), place, tag)
    except ValueError:
        raise DataError(place, f"{tag} is not a number: {printable(text[:60])!r}") from None


def dump_xml(image: AnnotatedImage, name: str, meta: Meta) -> str:
    """Returns the content of an image's annotation file, in which the image has this name."""
    names = {each.id: each.name for each in meta.categories}
    extra = {k: v for k, v in image.extra.items() if k[:1] != "@"}
    lines = [f"<annotation{_attributes(image.extra)}>"]
    size = extra.pop("size", {})
    first = {"folder": extra.pop("folder")} if "folder" in extra else {}
    lines += _elements({**first, "filename": name}, 1)
    sides = {}
    if image.size is not None:
        sides = {"width": image.size[1], "height": image.size[0]}
    segmented = {"segmented": extra.pop("segmented", None)}
    lines += _elements(extra, 1)
    if sides:
        depth = size if isinstance(size, dict) and size else {"depth": 3}
        lines += _elements({"size": {**sides, **depth}}, 1)
    lines += _elements(segmented, 1)
    for each in image.annotations:
        box = hull(each, image.name)
        if box is None:
            continue
        own: dict[str, Any] = {"name": names.get(each.category, str(each.category))}
        own |= {name: each.extra.get(name, default) for name, default in _DEFAULTS.items()}
        own |= {k: v for k, v in each.extra.items() if k not in (*_DEFAULTS, *_OBJECT)}
        own["bndbox"] = dict(zip(_CORNERS, map(_short, box), strict=True))
        lines += _elements({"object": own}, 1)
    return "\n".join([*lines, "</annotation>", ""])


def _short(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _elements(values: Mapping[str, Any], depth: int) -> list[str]:
    """Returns the lines of elements; what XML cannot hold is left out."""
    out: list[str] = []
    for tag, value in values.items():
        for each in value if isinstance(value, list) else [value]:
            if not _TAG.fullmatch(tag) or each is None:
                continue
            indent, own = "\t" * depth, ""
            if isinstance(each, dict):
                own, text = _attributes(each), each.get("#text")
                inner = {k: v for k, v in each.items() if k[:1] not in ("@", "#")}
                if inner or text is None:
                    lines = _elements(inner, depth + 1)
                    out += [f"{indent}<{tag}{own}>", *lines, f"{indent}</{tag}>"]
                    continue
                each = text
            out.append(f"{indent}<{tag}{own}>{escape(UNFIT.sub('', str(each)))}</{tag}>")
    return out


def _attributes(values: Mapping[str, Any]) -> str:
    """Returns what of an element stands in its tag: the keys that begin with "@"."""
    return "".join(
        f" {name[1:]}={quoteattr(UNFIT.sub('', str(value)))}"
        for name, value in values.items()
        if name[:1] == "@" and _TAG.fullmatch(name[1:])
    )
