"""What a file claims to be, read before a pixel of it is decoded.

Pillow's plugins are called directly rather than through `Image.open`: that one warns about
large images through process-wide state, tries formats nobody asked for (one of them starts
Ghostscript), and reports a broken file as "cannot identify".
"""

from __future__ import annotations

import io
import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import IO

from PIL import (
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

HEAD_BYTES = 512
"""How much of a file `parse` looks at to say what it is."""

MAX_SCANS = 500
"""Scans allowed in one JPEG. Encoders write about 10; each costs a pass over the image, so a
few megabytes of empty scans would take minutes."""

_KINDS: tuple[tuple[re.Pattern[bytes], type[ImageFile.ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), WebPImagePlugin.WebPImageFile),
    (re.compile(rb"GIF8[79]a"), GifImagePlugin.GifImageFile),
    # The size of the header that follows tells a bitmap from a text that begins with "BM".
    (re.compile(rb"BM.{12}[\x0c(48@l|]\0\0\0", re.DOTALL), BmpImagePlugin.BmpImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImagePlugin.TiffImageFile),
    (re.compile(rb"P[1-6f]\s"), PpmImagePlugin.PpmImageFile),
)

_STRANGERS = (
    (re.compile(rb"\s*(<!doctype html|<html|<head|<body)", re.IGNORECASE), "an HTML page"),
    (re.compile(rb"\s*(<\?xml|<svg)", re.IGNORECASE), "XML or SVG"),
    (re.compile(rb"version https://git-lfs"), "a Git LFS pointer; git lfs pull brings the image"),
    (re.compile(rb".{4}ftyp", re.DOTALL), "HEIC, AVIF or video"),
    (re.compile(rb"%PDF"), "a PDF"),
    (re.compile(rb"PK\x03\x04|\x1f\x8b|7z\xbc\xaf"), "an archive"),
    (re.compile(rb"\0+$"), "only zero bytes"),
    (re.compile(rb"(?:[\t\n\f\r\x20-\x7e]|[\xc2-\xf4][\x80-\xbf]+)+.?$", re.DOTALL), "text"),
)

_JPEG_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd9-\xfe]")
_PILLOW_REMARKS = re.compile(r"PIL\.")


class Refused(Exception):  # noqa: N818 - never leaves augpipe.data: a DataError without a name
    """A file that cannot be used, and why, in one line."""


def parse(stream: IO[bytes], max_pixels: int) -> ImageFile.ImageFile:
    """Reads an image's header, and refuses what is no image or too large an image.

    Args:
        stream: The file, at its start.
        max_pixels: The most pixels that may be decoded. For GIF and TIFF, Pillow's own limit
            (`PIL.Image.MAX_IMAGE_PIXELS`) holds as well.

    Returns:
        The opened image, of which no pixel has been decoded.

    Raises:
        Refused: If it is empty, not an image, or too large.
        Exception: Whatever Pillow raises on a broken header.
    """
    head = stream.read(HEAD_BYTES)
    plugin = next((plugin for pattern, plugin in _KINDS if pattern.match(head)), None)
    if plugin is None:
        raise Refused(_not_an_image(head))
    _mute_remarks()
    stream.seek(0)
    if re.match(rb"P[123]", head):
        # Pillow takes a time that grows with the square of the number of comments.
        stream = io.BytesIO(re.sub(rb"#[^\r\n]*", b"", stream.read()))
    if plugin in (GifImagePlugin.GifImageFile, TiffImagePlugin.TiffImageFile):
        # Above its own limit Pillow warns while it decodes these two, and then refuses.
        max_pixels = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    if plugin is GifImagePlugin.GifImageFile:
        _check_pixels(_gif_size(stream), max_pixels)
        stream.seek(0)
    image = plugin(stream)
    _check_pixels(image.size, max_pixels)
    return image


def check_data(image: ImageFile.ImageFile, stream: IO[bytes]) -> None:
    """Refuses compressed data that Pillow would accept, or not end with in reasonable time.

    This and `orientation` move the stream; Pillow goes to the pixels before it reads them.

    Raises:
        Refused: If a PNG's pixel data fail their checksum, a JPEG has endless scans, or a
            TIFF lacks its last rows.
    """
    match image.format:
        case "JPEG":
            if count_scans(stream.read()) > MAX_SCANS:
                raise Refused(f"corrupt image: more than {MAX_SCANS} scans")
        case "PNG":
            _check_sums(stream)
        case "TIFF":
            _check_rows(image)


def orientation(image: ImageFile.ImageFile, stream: IO[bytes]) -> int:
    """Returns the EXIF orientation that is still to be applied: 1 (upright) to 8.

    An absent, damaged or undefined orientation is 1, and so is every TIFF's: Pillow turns
    those itself, in `size` at once and in the pixels while it decodes.
    """
    if image.format == "TIFF":
        # Pillow would turn the pixels by an XMP orientation too, but not `size`.
        image.info.pop("xmp", None)
        return 1
    block = image.info.get("exif")
    if block is None and image.format == "PNG":
        block = _late_exif(stream)
    return exif_orientation(block) if block else 1


def exif_orientation(block: bytes) -> int:
    """Returns the orientation that an EXIF block says: 1 (upright) to 8."""
    exif = Image.Exif()
    try:
        exif.load(block)
        value = exif.get(ExifTags.Base.Orientation, 1)
    except Exception:  # any damage in this optional block means: no orientation
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _not_an_image(head: bytes) -> str:
    if not head:
        return "empty file"
    for pattern, content in _STRANGERS:
        if pattern.match(head):
            return f"not an image (the file holds {content})"
    return "not an image of a known kind (JPEG, PNG, WebP, GIF, BMP, TIFF, PPM)"


def _mute_remarks() -> None:
    """Silences what Pillow has to say about metadata, which is none of a pixel's concern.

    The filter stays: `warnings.catch_warnings` around each image is not safe in threads, and
    makes every once-only warning of the program come again. Pillow's warning about large
    images is of another category and is left as it is.
    """
    if not any(item[3] == _PILLOW_REMARKS for item in warnings.filters):
        warnings.filterwarnings("ignore", category=UserWarning, module=_PILLOW_REMARKS.pattern)


def _check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise Refused(
            f"too large: {width} x {height} is {width * height / 1e6:.1f} megapixels, "
            f"more than the limit of {max_pixels / 1e6:.4g}"
        )


def _gif_size(stream: IO[bytes]) -> tuple[int, int]:
    """Returns the canvas, grown by the first frame as Pillow grows it."""
    width, height, flags = struct.unpack("<6xHHB2x", stream.read(13))
    if flags & 0x80:
        stream.seek(3 << (flags & 7) + 1, io.SEEK_CUR)
    while (mark := stream.read(1)) not in (b"", b";"):
        if mark == b",":
            x, y, w, h = struct.unpack("<4H", stream.read(8))
            return max(width, x + w), max(height, y + h)
        if mark == b"!":
            stream.seek(1, io.SEEK_CUR)
            while length := int.from_bytes(stream.read(1)):
                stream.seek(length, io.SEEK_CUR)
    return width, height


def count_scans(data: bytes) -> int:
    """Returns how many scans a JPEG has, or one more than `MAX_SCANS`."""
    scans = place = 0
    while scans <= MAX_SCANS and (marker := _JPEG_MARKER.search(data, place)):
        code = data[marker.end() - 1]
        if code == 0xD9:  # end of image: what follows is not decoded
            break
        scans += code == 0xDA
        place = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2])
    return scans


def _check_rows(image: ImageFile.ImageFile) -> None:
    # Pillow leaves rows black that no strip or tile covers.
    covered = max((tile.extents[3] for tile in image.tile if tile.extents), default=0)
    if covered < getattr(image, "tag_v2", {}).get(ExifTags.Base.ImageLength, 0):
        raise Refused("image is truncated")


def _png_chunks(stream: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    """Yields each chunk's type and length, with the stream at the chunk's data.

    Raises:
        Refused: If a chunk goes beyond the end of the file; to read it would first take as
            much memory as it claims to need.
    """
    end = stream.seek(0, io.SEEK_END)
    place, kind = 8, b""
    while place + 12 <= end and kind != b"IEND":
        stream.seek(place)
        length, kind = struct.unpack(">I4s", stream.read(8))
        if place + 12 + length > end:
            raise Refused("image is truncated")
        yield kind, length
        place += 12 + length


def _check_sums(stream: IO[bytes]) -> None:
    # Pillow checks the sums of all chunks but these.
    for kind, length in _png_chunks(stream):
        if kind == b"IDAT":
            data, stated = stream.read(length), int.from_bytes(stream.read(4))
            if zlib.crc32(data, zlib.crc32(kind)) != stated:
                raise Refused("corrupt image: wrong checksum of the pixel data")


def _late_exif(stream: IO[bytes]) -> bytes | None:
    """Returns a PNG's EXIF block from behind the pixels, where exiftool puts it."""
    for kind, length in _png_chunks(stream):
        if kind == b"eXIf":
            return stream.read(length)
    return None
