"""Images that look alike: found by a hash of each, held to be so by their small pictures.

The hash is the perceptual one of discrete cosines (Zauner, "Implementation and benchmarking of
perceptual image hash functions", 2010): the image in grey at 32 x 32, its 8 x 8 lowest
frequencies, a bit for each that is above their median. Compression, another size, a little more
light or a thin frame change few bits. Images that have little in them share bits by chance: so two
are near duplicates only if their pictures at 16 x 16 are close too.

To compare each with each would take the square of their number. Hashes that differ in at most k
of 64 bits agree in all bits of one of k + 1 parts, so only those that share a part are compared.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from augpipe.types import Array, Ints

BITS = 6
"""How many bits of their hashes near duplicates differ in, at most."""
LEVELS = 10.0
"""How far apart the small pictures of near duplicates are, at most: grey levels, on average."""

_HASHED, _KEPT, _SMALL = 32, 8, 16
_AT_ONCE = 1 << 14  # pairs whose pictures are compared together
_HELD = 1 << 20  # links that are kept before they are put together


@dataclass(frozen=True, slots=True)
class Look:
    """What an image looks like, in short.

    Args:
        hash: 64 bits.
        small: (16, 16, 3), uint8.
    """

    hash: int
    small: Array


def look_at(image: Array) -> Look:
    """Returns the look of an image (H, W, C), uint8; alpha is passed over."""
    colour = np.ascontiguousarray(image[:, :, [0, 1, 2]] if image.shape[2] > 2 else image[:, :, :1])
    small = cv2.resize(colour, (_SMALL, _SMALL), interpolation=cv2.INTER_AREA)
    if small.ndim == 2:
        small = np.repeat(small[:, :, None], 3, axis=2)
    grey = cv2.resize(colour, (_HASHED, _HASHED), interpolation=cv2.INTER_AREA)
    grey = grey.reshape(_HASHED, _HASHED, -1).astype(np.float32).mean(axis=2)
    low = cv2.dct(grey)[:_KEPT, :_KEPT].reshape(-1)
    bits = low > np.median(low[1:])  # without the mean, which is far from all others
    return Look(int.from_bytes(np.packbits(bits).tobytes(), "big"), small)


def groups_of(
    hashes: np.ndarray, smalls: Array, bits: int = BITS, levels: float = LEVELS
) -> list[Ints]:
    """Returns the groups of images that are near duplicates, or are so by way of others.

    Args:
        hashes: (n,), uint64.
        smalls: (n, 16, 16, 3), uint8.
        bits: See `BITS`, from 0 to 63.
        levels: See `LEVELS`.

    Returns:
        The images of each group of two or more, in their order; by the first of each.
    """
    count = len(hashes)
    if not count:
        return []
    links = _Links(count)
    # What is the same to the bit is compared once: a thousand copies of a file are no trouble.
    flat = np.ascontiguousarray(smalls.reshape(count, -1))
    whole = np.concatenate([hashes.astype(">u8").view(np.uint8).reshape(count, 8), flat], axis=1)
    rows = np.ascontiguousarray(whole).view(np.dtype((np.void, whole.shape[1])))[:, 0]
    _, first, which = np.unique(rows, return_index=True, return_inverse=True)
    links.add(np.arange(count), first[which])
    own = hashes[first]
    edges = np.linspace(0, 64, bits + 2).round().astype(int)
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        part = (own >> np.uint64(low)) & np.uint64(2 ** (high - low) - 1)
        order = np.argsort(part, kind="stable")
        _compare(first[order], part[order], hashes, flat, bits, levels, links)
    return links.groups()


def _compare(
    which: Ints,
    part: np.ndarray,
    hashes: np.ndarray,
    flat: Array,
    bits: int,
    levels: float,
    links: _Links,
) -> None:
    """Links images, sorted by a part of their hash, to those with the same part."""
    at = np.arange(len(which))
    step = 1
    while len(at := at[at < len(which) - step]):
        at = at[part[at] == part[at + step]]
        a, b = which[at], which[at + step]
        near = np.bitwise_count(hashes[a] ^ hashes[b]) <= bits
        a, b = a[near], b[near]
        for start in range(0, len(a), _AT_ONCE):
            one, other = a[start : start + _AT_ONCE], b[start : start + _AT_ONCE]
            apart = np.abs(flat[one].astype(np.int16) - flat[other]).mean(axis=1)
            links.add(one[apart <= levels], other[apart <= levels])
        step += 1


class _Links:
    """Which images belong together, link by link."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._links: list[tuple[Ints, Ints]] = []
        self._held = 0

    def add(self, a: Ints, b: Ints) -> None:
        """Links images to others, one to one."""
        if len(a):
            self._links.append((a, b))
            self._held += len(a)
        if self._held > _HELD + self.count:
            labels = self._labels()
            _, first = np.unique(labels, return_index=True)
            self._links = [(np.arange(self.count), first[labels])]
            self._held = self.count

    def _labels(self) -> Ints:
        a, b = (np.concatenate(ends) for ends in zip(*self._links, strict=True))
        graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(self.count, self.count))
        return np.asarray(connected_components(graph, directed=False)[1])

    def groups(self) -> list[Ints]:
        """Returns the images of each group of two or more."""
        labels = self._labels()
        order = np.argsort(labels, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
        return sorted((part for part in parts if len(part) > 1), key=lambda part: int(part[0]))
