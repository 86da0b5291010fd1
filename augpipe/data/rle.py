"""COCO's run-length form of masks.

A mask is read down its columns; the runs of 0 and of 1 follow one another, the first (which may be
empty) of 0. COCO's text of the runs writes each as its difference to the run two before it (from
the fourth on), in groups of 5 bits from the lowest, each with 32 added while more follow, as a
letter from "0" on. Reference: maskApi.c of pycocotools, whose bytes these are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from augpipe.data.annotated import Rle
from augpipe.data.decode import MAX_PIXELS
from augpipe.errors import DataError

_LARGEST = 2**31


def decode_rle(rle: Rle, where: object) -> NDArray[np.uint8]:
    """Returns the mask, (H, W) of 0 and 1.

    Args:
        rle: The runs.
        where: What errors call it.

    Raises:
        DataError: If the runs do not fill the mask, or are no runs, or it is too large.
    """
    height, width = rle.size
    counts = runs(rle, where)
    fits = min(height, width) > 0 and height * width <= MAX_PIXELS
    if not fits or int(counts.sum()) != height * width:
        raise DataError(
            where, f"runs of {int(counts.sum())} pixels for a mask of {height} x {width}"
        )
    values = np.arange(len(counts)) % 2
    flat = np.repeat(values.astype(np.uint8), counts)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def encode_rle(mask: NDArray[np.uint8]) -> Rle:
    """Returns a mask's runs as COCO's text.

    Args:
        mask: (H, W), 0 and another number.
    """
    flat = (mask != 0).T.reshape(-1)
    edges = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
    counts = np.diff(edges).tolist()
    height, width = mask.shape
    return Rle((height, width), _text([0, *counts] if flat.size and flat[0] else counts))


def rle_area(rle: Rle, where: object) -> int:
    """Returns how many pixels are 1."""
    return int(runs(rle, where)[1::2].sum())


def runs(rle: Rle, where: object) -> NDArray[np.int64]:
    """Returns the lengths of the runs.

    Raises:
        DataError: If the text is not COCO's, or a run is negative.
    """
    counts = _numbers(rle.counts, where) if isinstance(rle.counts, str) else list(rle.counts)
    if any(not 0 <= each < _LARGEST for each in counts):
        raise DataError(where, "a run of its mask is negative or too long")
    return np.array(counts, np.int64)


def _text(counts: list[int]) -> str:
    out = []
    for k, count in enumerate(counts):
        value = count - counts[k - 2] if k > 2 else count
        more = True
        while more:
            group = value & 31
            value >>= 5
            more = value != (-1 if group & 16 else 0)
            out.append(chr(group + 48 + (32 if more else 0)))
    return "".join(out)


def _numbers(text: str, where: object) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        group = ord(letter) - 48
        if not 0 <= group < 64 or shift > 35:
            raise DataError(where, "its mask is not in COCO's run-length text")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:
            if group & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise DataError(where, "its mask's run-length text is truncated")
    return counts
