"""One picture made ready to be looked at: enlarged or shrunk, its marks drawn on it."""

from __future__ import annotations

import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from augpipe.report.annotations import Marks
from augpipe.report.story import Picture
from augpipe.types import Array

# Okabe and Ito's palette, told apart by colour-blind readers too; black is left out.
_COLORS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_TINT = 0.3  # how much of a mask's colour lies over the image
_TAG = 14  # pixels: height of a class name
_CHECK = 8  # pixels: squares that show through transparent parts


def color_of(label: int) -> tuple[int, int, int]:
    """Returns the colour of a class number from 1."""
    return _COLORS[(label - 1) % len(_COLORS)]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns Pillow's own font, the same on every machine."""
    return ImageFont.load_default(size=size)


def plain(text: str) -> str:
    """Returns text in the characters that Pillow's font has."""
    text = unicodedata.normalize("NFKD", text.replace("×", "x"))
    bare = "".join(letter for letter in text if not unicodedata.combining(letter))
    return bare.encode("ascii", "replace").decode()


def scale_to(height: int, width: int, cell: int) -> float:
    """Returns the factor that fits an image into a square: a whole one where it enlarges."""
    fit = cell / max(height, width)
    return float(int(fit)) if fit >= 1 else fit


def drawn(picture: Picture, cell: int, names: dict[int, str], unit: int = 1) -> Image.Image:
    """Returns a picture that fits into `cell` x `cell` pixels, its marks drawn.

    Args:
        picture: What to draw.
        cell: Longest side of the result.
        names: The names of the classes.
        unit: Pixels of the result for what is one pixel on the screen: marks grow with it.
    """
    height, width = picture.image.shape[:2]
    scale = scale_to(height, width, cell)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    image = Image.fromarray(_opaque(picture.image)).resize(size, how)
    if picture.marks is not None:
        image = _marked(image, picture.marks, scale, names, unit)
    return image


def _opaque(image: Array) -> Array:
    """Returns RGB; transparent parts show a chequered ground."""
    if image.shape[2] == 1:
        return np.repeat(image, 3, axis=2)
    if image.shape[2] != 4:
        return image[:, :, :3]
    rows, columns = np.indices(image.shape[:2]) // _CHECK
    ground = np.where((rows + columns) % 2, 205, 245)[:, :, None]
    alpha = image[:, :, 3:] / 255.0
    return np.rint(image[:, :, :3] * alpha + ground * (1.0 - alpha)).astype(np.uint8)


def _marked(
    image: Image.Image, marks: Marks, scale: float, names: dict[int, str], unit: int
) -> Image.Image:
    if marks.mask is not None:
        image = _tinted(image, marks.mask)
    pen = ImageDraw.Draw(image)
    boxes = np.rint(marks.boxes * scale).astype(np.int64).tolist()
    count = len(boxes)
    for (x0, y0, x1, y1), label in zip(boxes, marks.labels[:count], strict=True):
        # Around the outermost pixels of the box: dark, then coloured, to be seen on anything.
        right, low = max(x0, min(x1, image.width) - 1), max(y0, min(y1, image.height) - 1)
        around = (x0 - unit, y0 - unit, right + unit, low + unit)
        pen.rectangle(around, outline=(0, 0, 0), width=unit)
        pen.rectangle((x0, y0, right, low), outline=color_of(label), width=2 * unit)
    turned = np.rint(marks.oriented * scale - 0.5).astype(np.int64).tolist()
    for corners, label in zip(turned, marks.labels[count:], strict=True):
        line = [tuple(each) for each in (*corners, corners[0], corners[1])]
        pen.line(line, (0, 0, 0), 4 * unit, "curve")
        pen.line(line, color_of(label), 2 * unit, "curve")
    tags = _Tags(pen, image.size, unit)
    places = [(x0, y0) for x0, y0, _, _ in boxes] + [tuple(min(each, key=sum)) for each in turned]
    for place, label in zip(places, marks.labels, strict=True):
        tags.add(place, plain(names.get(label, str(label))), color_of(label))
    for x, y, visibility in marks.keypoints:
        if visibility > 0:
            _dot(pen, (x + 0.5) * scale, (y + 0.5) * scale, visibility > 1, unit)
    return image


def _tinted(image: Image.Image, mask: Array) -> Image.Image:
    """Lays each class's colour over its pixels, with an edge."""
    resized = Image.fromarray(mask).resize(image.size, Image.Resampling.NEAREST)
    classes, out = np.asarray(resized), np.asarray(image).astype(np.float64)
    edge = np.zeros(classes.shape, bool)
    edge[:, 1:] |= classes[:, 1:] != classes[:, :-1]
    edge[1:] |= classes[1:] != classes[:-1]
    for label in np.unique(classes[classes > 0]):
        share = np.where(edge, 1.0, _TINT)[classes == label][:, None]
        own = np.array(color_of(int(label)), np.float64)
        out[classes == label] = out[classes == label] * (1 - share) + own * share
    return Image.fromarray(np.rint(out).astype(np.uint8))


class _Tags:
    """Class names in the corners of their boxes, inside the picture, not over one another."""

    def __init__(self, pen: ImageDraw.ImageDraw, limit: tuple[int, int], unit: int) -> None:
        self.pen = pen
        self.limit = limit
        self.unit = unit
        self.height = _TAG * unit
        self.taken: list[tuple[int, int, int]] = []

    def add(self, at: tuple[int, int], text: str, color: tuple[int, int, int]) -> None:
        """Writes a name at a corner, or below the names that are there already."""
        letters, high = font(11 * self.unit), self.height
        width = int(self.pen.textlength(text, letters)) + 6 * self.unit
        x = max(0, min(at[0], self.limit[0] - width))
        y = max(0, min(at[1], self.limit[1] - high))
        while any(x < x1 and x + width > x0 and abs(y - own) < high for x0, x1, own in self.taken):
            y += high
        self.taken.append((x, x + width, y))
        self.pen.rectangle((x, y, x + width - 1, y + high - 1), fill=color)
        ink = (0, 0, 0) if sum(color) > 300 else (255, 255, 255)
        self.pen.text((x + 3 * self.unit, y), text, ink, letters)


def _dot(pen: ImageDraw.ImageDraw, x: float, y: float, seen: bool, unit: int) -> None:
    """Draws a keypoint: filled where it is seen, a ring where it is hidden."""
    rings = [(4, (0, 0, 0)), (3, (255, 255, 255)), (2, (220, 0, 90) if seen else (255, 255, 255))]
    for radius, color in rings:
        r = radius * unit
        pen.ellipse((x - r, y - r, x + r, y + r), fill=color)
