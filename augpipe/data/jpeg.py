"""JPEG files that are decoded as far as they are looked at.

What takes the time in a JPEG is undoing its entropy coding, from the first row on. So the rows
below a crop are never decoded: to the decoder the file is said to be lower than it is. And
where a crop is shrunk by 2 or more, the decoder gives each 2, 4 or 8 pixels' mean at once.

Decoding is simplejpeg's (libjpeg-turbo, as in Pillow and OpenCV: the same bytes). It takes
plain files only: what is odd or damaged is left to `decode`, whose rules hold for all.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

from augpipe.data.decode import MAX_PIXELS, as_rgb, decode
from augpipe.data.header import MAX_SCANS, count_scans, exif_orientation
from augpipe.types import Array, Floats, Picture

if TYPE_CHECKING:
    from collections.abc import Iterator

_CONTEXT = 16  # rows below the last one looked at, on which smooth chroma may depend
_SMOOTHED = 4  # and of rows of blocks, where blocks are smoothed that came without all scans
_FRAMES = (0xC0, 0xC1, 0xC2)  # baseline, extended and progressive, entropy-coded by Huffman
_PROGRESSIVE = 0xC2
_ALONE = (0x01, *range(0xD0, 0xD9))  # markers without a length
_UNWRITTEN = 7, 251
_SCAN, _END, _EXIF = 0xDA, b"\xff\xd9", b"Exif\0\0"


@dataclass(frozen=True)
class Jpeg(Picture):
    """The pixels of a JPEG file, upright, uint8 (H, W, C); see `types.Picture`.

    Args:
        data: The file.
        size: Height and width as stored.
        place: Where in `data` the height stands.
        context: Rows below a row that its pixels may depend on.
        channels: 1 or 3; grey is repeated.
        turn: Its EXIF orientation, 1 (upright) to 8.
        scaled: Whether `reduced` may be used.
        name: What errors call it.
    """

    data: bytes
    size: tuple[int, int]
    place: int
    context: int
    channels: int
    turn: int
    scaled: bool
    name: str

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the upright image."""
        height, width = self.size[::-1] if self.turn > 4 else self.size
        return height, width, self.channels

    def part(self, top: int, bottom: int, left: int, right: int) -> Array:
        """Returns the rows from `top` to `bottom` and the columns from `left` to `right`.

        Raises:
            DataError: It cannot be decoded.
        """
        height, width, _ = self.shape
        swaps, flips_down, flips_across = _TURNS[self.turn]
        rows = (height - bottom, height - top) if flips_down else (top, bottom)
        columns = (width - right, width - left) if flips_across else (left, right)
        if swaps:
            rows, columns = columns, rows
        stored = self._rows(rows[1])
        if stored is None:
            return self._checked()[top:bottom, left:right]
        stored = stored[slice(*rows), slice(*columns)]
        if self.turn == 1:
            return stored
        turned = stored.transpose(1, 0, 2) if swaps else stored
        turned = turned[:: -1 if flips_down else 1, :: -1 if flips_across else 1]
        return np.ascontiguousarray(turned)

    def reduced(
        self, halvings: int, box: tuple[float, float, float, float]
    ) -> tuple[Array, Floats]:
        """Returns the stored pixels at 1/2, 1/4 or 1/8 of their size, down to a box's last row.

        Args:
            halvings: 1 to 3.
            box: x0, y0, x1, y1 of what is looked at, in the upright image.

        Returns:
            The array, from the stored image's corner on, and the (3, 3) matrix that takes
            upright positions to positions in it.

        Raises:
            DataError: It cannot be decoded.
        """
        height, width, _ = self.shape
        swaps, flips_down, flips_across = _TURNS[self.turn]
        matrix = np.eye(3)
        if flips_across:
            matrix[0] = -1.0, 0.0, width
        if flips_down:
            matrix[1] = 0.0, -1.0, height
        if swaps:
            matrix = matrix[[1, 0, 2]]
        x0, y0, x1, y1 = box
        last = max(float(matrix[1] @ (x, y, 1.0)) for x, y in ((x0, y0), (x1, y1)))
        # simplejpeg is told the size, not the scale: of so few pixels another scale has it too.
        stored = None if max(self.size) < 8 else self._rows(math.ceil(last), halvings)
        if stored is None:
            return self._checked(), np.eye(3)
        scale = 2.0**-halvings
        return stored, np.diag([scale, scale, 1.0]) @ matrix

    def _rows(self, stop: int, halvings: int = 0) -> Array | None:
        """Decodes the stored rows before `stop`, and perhaps some more; None if it fails."""
        height, width = self.size
        kept = min(height, -(-(stop + self.context) // 8) * 8)
        data: bytes | bytearray = self.data
        if kept < height:
            data = bytearray(data)
            struct.pack_into(">H", data, self.place, kept)
        shape = (-(-kept // 2**halvings), -(-width // 2**halvings), self.channels)
        try:
            out = np.empty(shape, np.uint8)
            last = out[-1].reshape(-1)
            last[0::2], last[1::2] = _UNWRITTEN
            unwritten = last.tobytes()
            out = simplejpeg.decode_jpeg(
                data,
                "RGB" if self.channels == 3 else "GRAY",
                min_height=shape[0],
                min_width=shape[1],
                buffer=out,
                # What follows the rows that are asked for is a fault by the letter.
                strict=kept == height,
            )
        except (ValueError, MemoryError):
            return None
        # An error that follows a fault is reported as one, and leaves the rows it was to write.
        return None if last.tobytes() == unwritten else out

    def _checked(self) -> Array:
        """Decodes all of it by the rules for odd and damaged files."""
        pixels = decode(self.data, name=self.name)
        return as_rgb(pixels) if self.channels == 3 else pixels


_TURNS = {
    1: (False, False, False),
    2: (False, False, True),
    3: (False, True, True),
    4: (False, True, False),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
"""By EXIF orientation: transposes, and then flips rows, flips columns."""


def open_jpeg(data: bytes, name: str, *, rgb: bool = False, scaled: bool = False) -> Jpeg | None:
    """Reads the header of a JPEG file; None if it is none, or not a plain one.

    Args:
        data: The file.
        name: What errors call it.
        rgb: Whether grey becomes RGB.
        scaled: See `Jpeg`.
    """
    if not data.startswith(b"\xff\xd8\xff") or not data.endswith(_END):
        return None
    try:
        return _plain(data, name, rgb, scaled)
    except (IndexError, struct.error):
        return None


def _plain(data: bytes, name: str, rgb: bool, scaled: bool) -> Jpeg | None:
    frame: tuple[int, int, int, int, bool] | None = None
    turn, context = 0, _CONTEXT
    for code, place, length in _segments(data):
        if code in _FRAMES and frame is None:
            bits, height, width, count = struct.unpack_from(">BHHB", data, place)
            if bits != 8 or count not in (1, 3) or not 0 < height * width <= MAX_PIXELS:
                return None
            if code == _PROGRESSIVE:
                tallest = max(data[place + 7 + 3 * each] & 15 for each in range(count))
                context = _SMOOTHED * 8 * tallest
            frame = height, width, count, place + 1, code == _PROGRESSIVE
        elif code == 0xE1 and data.startswith(_EXIF, place):
            if turn:  # a second block: which of them counts is not for here to say
                return None
            turn = exif_orientation(data[place : place + length])
        elif code == _SCAN and frame is not None:
            height, width, count, at, progressive = frame
            if (progressive or data[place] != count) and count_scans(data) > MAX_SCANS:
                return None
            channels = 3 if rgb else count
            return Jpeg(data, (height, width), at, context, channels, turn or 1, scaled, name)
        elif code == _SCAN or (0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC)):
            return None
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yields each marker's code, and the place and length of what belongs to it."""
    place = 2
    while True:
        if data[place] != 0xFF:
            return
        while data[place] == 0xFF:  # any number of them may fill
            place += 1
        code = data[place]
        place += 1
        if code in _ALONE:
            continue
        (length,) = struct.unpack_from(">H", data, place)
        yield code, place + 2, length - 2
        place += length
