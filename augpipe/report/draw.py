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
_TINT = 0.4  # how much of a mask's colour lies over the image
_CHECK = 8  # pixels: squares that show through transparent parts


def color_of(label: int) -> tuple[int, int, int]:
    """Returns the colour of a class number from 1."""
    return _COLORS[(label - 1) % len(_COLORS)]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns Pillow's own font, the same on every machine."""
    return ImageFont.load_default(size=size)


def plain(text: str) -> str:
    """Returns text in the characters that Pillow's font has."""
    text = unicodedata.normalize("NFKD", text.replace("×", "x").replace("…", "..."))
    return text.encode("ascii", "ignore" if text.isascii() else "replace").decode()


def scale_to(height: int, width: int, cell: int) -> float:
    """Returns the factor that fits an image into a square: a whole one where it enlarges."""
    fit = cell / max(height, width)
    return float(int(fit)) if fit >= 1 else fit


def drawn(picture: Picture, cell: int, names: dict[int, str]) -> Image.Image:
    """Returns a picture that fits into `cell` x `cell` pixels, its marks drawn.

    Args:
        picture: What to draw.
        cell: Longest side of the result.
        names: The names of the classes.
    """
    height, width = picture.image.shape[:2]
    scale = scale_to(height, width, cell)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    image = Image.fromarray(_opaque(picture.image)).resize(size, how)
    if picture.marks is not None:
        image = _marked(image, picture.marks, scale, names)
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


def _marked(image: Image.Image, marks: Marks, scale: float, names: dict[int, str]) -> Image.Image:
    if marks.mask is not None:
        image = _tinted(image, marks.mask)
    pen = ImageDraw.Draw(image)
    for box, label in zip(marks.boxes * scale, marks.labels, strict=True):
        # A line around the pixels of the box: dark, then coloured, to be seen on anything.
        x0, y0, x1, y1 = (int(round(float(v))) for v in box)
        x1, y1 = max(x0, min(x1, image.width) - 1), max(y0, min(y1, image.height) - 1)
        pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0))
        pen.rectangle((x0, y0, x1, y1), outline=color_of(label), width=2)
        _tag(pen, (x0, y0), plain(names.get(label, str(label))), color_of(label), image.size)
    for x, y, visibility in marks.keypoints:
        if visibility > 0:
            _dot(pen, (x + 0.5) * scale, (y + 0.5) * scale, visibility > 1)
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


def _tag(
    pen: ImageDraw.ImageDraw,
    at: tuple[int, int],
    text: str,
    color: tuple[int, int, int],
    limit: tuple[int, int],
) -> None:
    """Writes a class name in the corner of its box, inside the picture."""
    letters = font(11)
    width = int(pen.textlength(text, letters)) + 6
    x = max(0, min(at[0], limit[0] - width))
    y = max(0, min(at[1], limit[1] - 14))
    pen.rectangle((x, y, x + width - 1, y + 13), fill=color)
    pen.text((x + 3, y), text, (0, 0, 0) if sum(color) > 300 else (255, 255, 255), letters)


def _dot(pen: ImageDraw.ImageDraw, x: float, y: float, seen: bool) -> None:
    """Draws a keypoint: filled where it is seen, a ring where it is hidden."""
    pen.ellipse((x - 4, y - 4, x + 4, y + 4), fill=(0, 0, 0))
    pen.ellipse((x - 3, y - 3, x + 3, y + 3), fill=(255, 255, 255))
    if seen:
        pen.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(220, 0, 90))
