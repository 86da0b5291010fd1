"""Image files to arrays, by one written rule per kind of file.

Correct first: everything goes through Pillow. No file, however broken or hostile, makes
`decode` raise anything but `DataError`, hang, or take memory out of proportion.
"""

from __future__ import annotations

import errno
import io
import re
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile

from augpipe.data.address import Address
from augpipe.data.header import Refused, check_data, orientation, parse
from augpipe.errors import DataError, reason

MAX_PIXELS = 100_000_000
"""The largest image decoded unless told otherwise, in pixels."""

_MAX_BYTES = 2_000_000_000  # what as many pixels take while they are decoded

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(
    source: Path | str | bytes, *, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Decodes an image to height × width × channels, with 1, 3 or 4 channels.

    The content decides the format, never the file's name: JPEG, PNG, WebP, GIF, BMP, TIFF or
    PPM. Colour profiles and gamma are not applied. The rules:

    - EXIF orientation is applied; an invalid one is ignored.
    - Grey stays grey (1 channel); 1-bit becomes grey 0 and 255.
    - Palette becomes RGB, or RGBA if it has transparency. In a BMP or GIF the palette that
      is the plain ramp from black to white counts as grey.
    - Grey with alpha becomes RGBA, and so does grey or RGB with one transparent colour (PNG's
      tRNS, GIF's transparent index). Alpha is straight, not premultiplied.
    - CMYK and YCCK become RGB without a profile, YCbCr by the JPEG formula, Lab by sRGB.
    - 16-bit grey becomes round(v / 257), 12-bit grey round(v · 255 / 4095).
    - 16-bit colour (and 16-bit grey with alpha) is cut to its high byte, v // 256, by Pillow,
      and its one transparent colour is compared in that byte.
    - The first frame or page stands for an animation or a document.
    - Floats and 32-bit or signed integers are refused: their range is unknown.

    Args:
        source: A path, or the bytes of a file.
        name: What errors call it; the path unless given.
        max_pixels: The most pixels allowed. Checked in the header, before decoding.

    Returns:
        An array of dtype uint8 and shape (H, W, C) with C in {1, 3, 4}: C-contiguous,
        writable, and sharing memory with nothing.

    Raises:
        DataError: If it cannot be read, is not an image, is truncated, corrupt or too large.
    """
    where = name or ("image" if isinstance(source, bytes) else str(source))
    with _named(where), _stream(source) as stream:
        image = parse(stream, max_pixels)
        check_data(image, stream)
        turn = orientation(image, stream)
        depth = _png_depth(image, stream)
        image.load()
        upright = image.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else image
        return _pixels(upright, image, depth)


def as_rgb(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Returns (H, W, 3): grey is repeated, alpha is dropped."""
    channels = [0, 0, 0] if pixels.shape[2] == 1 else [0, 1, 2]
    return pixels if pixels.shape[2] == 3 else np.ascontiguousarray(pixels[:, :, channels])


def read(path: Path, *, name: str | None = None) -> bytes:
    """Returns a file's content, for what needs the very bytes that `decode` is then given.

    Args:
        path: The file.
        name: What errors call it; the path unless given.

    Raises:
        DataError: If it cannot be read, is empty, no regular file, or of more than 2 GB.
    """
    with _named(name or str(path)), _stream(path) as stream:
        size = stream.seek(0, io.SEEK_END)
        if size > _MAX_BYTES:
            raise Refused(f"too large: {size / 1e9:.1f} GB, more than the limit of 2 GB")
        stream.seek(0)
        data = stream.read()
        if not data:
            raise Refused("empty file")
        return data


_PILLOW_SAYS = {
    "not identified by this driver": "invalid header",
    "cannot load this image": "no pixel data",
    "checksum": "wrong checksum",
    "broken png file": "invalid chunk",
    "unpack": "invalid header",
    "invalid literal": "invalid header",
    "decoder error": "broken data stream",
}


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Makes every failure in the block a DataError."""
    try:
        yield
    except Refused as refusal:
        raise DataError(where, str(refusal)) from None
    except Exception as error:  # Pillow raises a dozen types on broken files
        raise DataError(where, _words(error)) from error


def _stream(source: Path | str | bytes) -> IO[bytes]:
    if isinstance(source, bytes):
        return io.BytesIO(source)
    if isinstance(source, Address):
        return io.BytesIO(source.read_bytes())
    path = Path(source)
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise Refused("a folder, not an image")
    if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer
        raise Refused("not a regular file")
    return path.open("rb")


def _words(error: Exception) -> str:
    """Returns the one line a user reads for an exception."""
    message = " ".join(str(error).lower().split())[:100]
    for words, meaning in _PILLOW_SAYS.items():
        if words in message:
            message = meaning
    match error:
        case FileNotFoundError():
            return "no such file"
        case PermissionError():
            return "no permission to read"
        case OSError(errno=int(code)) if code != errno.EINVAL:  # a place before the file
            return f"cannot be read ({reason(error)})"
        case MemoryError():
            return "not enough memory to decode it"
        case EOFError() | IndexError() | struct.error():
            return "image is truncated"
        case Image.DecompressionBombError():
            return f"too large: {message}"
        case OSError() | SyntaxError() | ValueError() if "truncated" in message:
            return "image is truncated"
        case OSError() | SyntaxError() | ValueError() if re.match("[a-z]{4}", message):
            return f"corrupt image: {message}"
        case _:
            return "corrupt image"


def _png_depth(image: ImageFile.ImageFile, stream: IO[bytes]) -> int:
    """Returns a PNG's bits per sample, and 8 for other formats."""
    if image.format != "PNG":
        return 8
    stream.seek(24)
    return stream.read(1)[0]


def _pixels(image: Image.Image, file: ImageFile.ImageFile, depth: int) -> npt.NDArray[np.uint8]:
    """Applies the rule of the image's mode.

    Args:
        image: The upright image.
        file: The file it came from, which carries the format and the tags.
        depth: Bits per sample in the file.
    """
    clear = image.info.get("transparency")
    match image.mode:
        case "L" | "1":
            # Pillow scales the pixels of 2 and 4 bits to 8, but not their transparent value.
            scale = {2: 85, 4: 17}.get(depth, 1)
            return _with_alpha(_array(image.convert("L")), clear, scale)
        case "RGB":
            if depth == 16 and clear is not None:
                clear = tuple(value >> 8 for value in clear)
            return _with_alpha(_array(image), clear)
        case "RGBA":
            return _array(image)
        case "P":
            return _array(image.convert("RGB" if clear is None else "RGBA"))
        case "LA" | "PA" | "RGBa":
            return _array(image.convert("RGBA"))
        case "RGBX" | "CMYK" | "YCbCr" | "LAB":
            return _array(image.convert("RGB"))
        case "I;16" | "I;16B" | "I;16L" | "I;16N":
            return _from_deep_grey(image, file, clear)
        case "I" if file.format == "PPM":  # of 9 to 16 bits, which Pillow scales to 16
            return _from_deep_grey(image, file, clear)
        case "I":
            raise Refused(
                "32-bit or signed integer pixels have no known range: save as 8 or 16 bit"
            )
        case "F":
            raise Refused("float pixels have no known range: save as 8 or 16 bit")
        case mode:
            raise Refused(f"pixels of an unknown kind ({mode})")


def _array(image: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, -1).copy()


def _from_deep_grey(
    image: Image.Image, file: ImageFile.ImageFile, clear: int | None
) -> npt.NDArray[np.uint8]:
    values = np.asarray(image)[:, :, None]
    tags = getattr(file, "tag_v2", {})
    pixels = _to_8_bits(4095 if tags.get(ExifTags.Base.BitsPerSample) == (12,) else 65535)[values]
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:
        pixels = 255 - pixels  # white is zero; Pillow inverts 8 bits and fewer, but not 16
    return pixels if clear is None else _joined(pixels, values == clear)


@cache
def _to_8_bits(top: int) -> npt.NDArray[np.uint8]:
    """Returns the table from 0..top to 0..255, rounded."""
    return ((np.arange(top + 1) * 255 + top // 2) // top).astype(np.uint8)


def _with_alpha(
    pixels: npt.NDArray[np.uint8], clear: int | tuple[int, ...] | None, scale: int = 1
) -> npt.NDArray[np.uint8]:
    if clear is None:
        return pixels
    colour = np.asarray(clear) * scale
    return _joined(pixels, (pixels == colour).all(axis=2, keepdims=True))


def _joined(pixels: npt.NDArray[np.uint8], clear: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Returns RGBA with alpha 0 where `clear` (H, W, 1) holds, else 255."""
    rgba = np.empty((*pixels.shape[:2], 4), np.uint8)
    rgba[:, :, :3] = pixels
    rgba[:, :, 3:] = np.where(clear, 0, 255)
    return rgba
