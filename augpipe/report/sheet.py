"""A preview as one picture: a contact sheet."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence

from PIL import Image, ImageDraw

from augpipe.report.draw import color_of, drawn, font, plain
from augpipe.report.story import Picture, Preview, Story

_INK, _PALE, _RULE, _PAPER = (28, 28, 30), (105, 105, 112), (216, 216, 220), (255, 255, 255)
_TITLE, _HEADING, _LABEL, _NOTE = 24, 17, 14, 12
_MARGIN, _GAP, _LEADING = 28, 16, 1.35
_COLUMNS = 6
_NOTES = 3  # lines under a picture
_TINY = 64  # pixels: images up to here get the smaller cell


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
    page = _Page(cell, min(_COLUMNS, max(most, 4)))
    page.text(preview.title, _TITLE)
    for fact in preview.facts:
        page.text(fact, _LABEL, _PALE)
    page.y += 6
    page.legend(preview.names)
    for story in preview.stories:
        page.rule()
        page.text(story.name, _HEADING)
        page.row(story.variants, preview.names)
        if story.steps:
            page.text(f"op by op, as in {story.variants[1].title}", _LABEL, _PALE)
            page.row(story.steps, preview.names)
    return page.png()


class _Page:
    """A sheet that grows downwards; pixels are drawn when its height is known."""

    def __init__(self, cell: int, columns: int) -> None:
        self.cell = cell
        self.columns = columns
        self.width = 2 * _MARGIN + columns * (cell + _GAP) - _GAP
        self.y = _MARGIN
        self.texts: list[tuple[int, int, str, int, tuple[int, int, int]]] = []
        self.images: list[tuple[int, int, Image.Image]] = []
        self.rules: list[int] = []
        self.chips: list[tuple[int, int, tuple[int, int, int]]] = []
        self.pen = ImageDraw.Draw(Image.new("RGB", (1, 1)))  # for measuring

    def text(self, words: str, size: int, color: tuple[int, int, int] = _INK) -> None:
        """Adds a line across the sheet, wrapped where it is longer."""
        for line in self.wrapped(words, size, self.width - 2 * _MARGIN, 3):
            self.texts.append((_MARGIN, self.y, line, size, color))
            self.y += int(size * _LEADING)

    def rule(self) -> None:
        """Adds a thin line across the sheet."""
        self.rules.append(self.y + _GAP // 2)
        self.y += _GAP + 4

    def legend(self, names: dict[int, str]) -> None:
        """Adds the colours of the classes."""
        x = _MARGIN
        for label, name in names.items():
            wide = int(self.length(plain(name), _LABEL)) + 40
            if x + wide > self.width - _MARGIN:
                x, self.y = _MARGIN, self.y + 20
            self.chips.append((x, self.y + 3, color_of(label)))
            self.texts.append((x + 18, self.y, plain(name), _LABEL, _INK))
            x += wide
        self.y += 22 if names else 0

    def row(self, pictures: Sequence[Picture], names: dict[int, str]) -> None:
        """Adds pictures side by side with their captions, in as many rows as they need."""
        self.y += 6
        rows = -(-len(pictures) // self.columns)
        starts = [-(-i * len(pictures) // rows) for i in range(rows + 1)]  # 7 as 4 and 3
        for start, stop in itertools.pairwise(starts):
            part = pictures[start:stop]
            images = [drawn(picture, self.cell, names) for picture in part]
            below = self.y + max(image.height for image in images)
            deepest = below
            for column, (picture, image) in enumerate(zip(part, images, strict=True)):
                x = _MARGIN + column * (self.cell + _GAP)
                self.images.append((x, below - image.height, image))
                deepest = max(deepest, self.caption(picture, x, below + 5))
            self.y = deepest + 10

    def caption(self, picture: Picture, x: int, y: int) -> int:
        """Adds what stands under a picture; returns where it ends."""
        for line in self.wrapped(picture.title, _LABEL, self.cell, 2):
            self.texts.append((x, y, line, _LABEL, _PALE if picture.idle else _INK))
            y += int(_LABEL * _LEADING)
        for line in self.wrapped(", ".join(picture.notes), _NOTE, self.cell, _NOTES):
            self.texts.append((x, y, line, _NOTE, _PALE))
            y += int(_NOTE * _LEADING)
        return y

    def length(self, words: str, size: int) -> float:
        """Measures a line of text in pixels."""
        return self.pen.textlength(words, font(size))

    def wrapped(self, words: str, size: int, width: int, most: int) -> list[str]:
        """Breaks a text into at most so many lines, the last one cut where it must be."""
        lines: list[str] = []
        for word in plain(words).split(" "):
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self.length(longer, size) <= width:
                lines[-1] = longer
            elif len(lines) < most:
                lines.append(word)
            else:
                lines[-1] += " ..."
                break
        return [self.cut(line, size, width) for line in lines if line]

    def cut(self, line: str, size: int, width: int) -> str:
        """Shortens a line that is too long."""
        if self.length(line, size) <= width:
            return line
        while line and self.length(f"{line}...", size) > width:
            line = line[:-1]
        return f"{line}..."

    def png(self) -> bytes:
        """Draws everything and returns the PNG file."""
        sheet = Image.new("RGB", (self.width, self.y + _MARGIN - 10), _PAPER)
        pen = ImageDraw.Draw(sheet)
        for y in self.rules:
            pen.line((_MARGIN, y, self.width - _MARGIN, y), _RULE)
        for x, y, image in self.images:
            sheet.paste(image, (x, y))
            pen.rectangle((x - 1, y - 1, x + image.width, y + image.height), outline=_RULE)
        for x, y, color in self.chips:
            pen.rectangle((x, y, x + 11, y + 11), fill=color)
        for x, y, words, size, color in self.texts:
            pen.text((x, y), words, color, font(size))
        buffer = io.BytesIO()
        sheet.save(buffer, "PNG", compress_level=6)
        return buffer.getvalue()
