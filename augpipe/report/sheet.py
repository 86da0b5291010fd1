"""A preview as one picture: a contact sheet."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from augpipe.report.draw import drawn, font, plain
from augpipe.report.story import Picture, Preview, Story

_INK, _PALE, _RULE, _PAPER = (28, 28, 30), (110, 110, 118), (222, 222, 226), (255, 255, 255)
_MARGIN, _GAP = 28, 14
_TITLE, _HEADING, _LABEL, _NOTE = 22, 16, 14, 12
_COLUMNS = 6
_TINY = 64  # pixels: images up to here get the smaller cell


@dataclass(frozen=True, slots=True)
class _Text:
    """One line of text at a place."""

    at: tuple[int, int]
    words: str
    size: int
    color: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class _Image:
    """One picture at a place."""

    at: tuple[int, int]
    image: Image.Image


@dataclass(frozen=True, slots=True)
class _Rule:
    """A thin line across the sheet."""

    y: int


def cell_of(stories: Sequence[Story]) -> int:
    """Returns the side of a preview's cells: 168 = 6 x 28 for tiny images, else 224."""
    longest = max(max(story.variants[0].image.shape[:2]) for story in stories)
    return 168 if longest <= _TINY else 224


def draw_sheet(preview: Preview) -> bytes:
    """Draws a preview as a PNG file.

    Args:
        preview: What to show; it has a story or more.
    """
    cell = cell_of(preview.stories)
    most = max(max(len(s.variants), len(s.steps)) for s in preview.stories)
    columns = min(_COLUMNS, max(most, 4))
    width = 2 * _MARGIN + columns * (cell + _GAP) - _GAP
    items, height = _laid(preview, cell, columns, width)
    sheet = Image.new("RGB", (width, height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for item in items:
        match item:
            case _Text(at, words, size, color):
                pen.text(at, _cut(pen, plain(words), size, width - at[0]), color, font(size))
            case _Image(at, image):
                sheet.paste(image, at)
            case _Rule(y):
                pen.line((_MARGIN, y, width - _MARGIN, y), _RULE)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()
