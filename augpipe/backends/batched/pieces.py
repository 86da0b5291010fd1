"""How a batch is worked through: what the host prepares, what is sent, what the device does.

A meaning of n images becomes pieces: rows that are all done by the same torch calls. All that
depends on the draws is computed in NumPy beforehand and sent in one copy; what a piece does
then is torch alone, and waits for nothing: no value comes back from the device. A row is done
the same way whichever rows stand beside it, so that a batch equals its images one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augpipe.types import Array, Ints

Do = Callable[[Tensor, "Own"], Tensor]

_CHUNK = 1 << 21  # bytes of levels as float32: on the CPU, what a few passes keep in the cache
_ALIGNED = 16  # bytes: every array of a parcel may be viewed as any type


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of a batch before it is touched.

    Args:
        count: Images.
        channels: Channels.
        height: Pixels down.
        width: Pixels across.
        whole: Whether its levels are whole, uint8.
    """

    count: int
    channels: int
    height: int
    width: int
    whole: bool = True

    @classmethod
    def of(cls, images: Tensor) -> Shape:
        """Returns the shape of a batch (B, C, H, W)."""
        count, channels, height, width = images.shape
        return cls(count, channels, height, width, images.dtype == torch.uint8)


@dataclass(frozen=True, slots=True)
class Own:
    """What belongs to the k images that a piece is given.

    Args:
        arrays: The piece's arrays for these images, each (k, ...), on the images' device.
        shared: The piece's arrays for all images, on the images' device.
        at: Where the images stand among the piece's rows, to index what the host kept.
        inner: What the piece is made of, sent.
        gain: What takes the images to grey levels, where the piece is `linear`: else they are.
    """

    arrays: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]
    at: slice
    inner: Sequence[Sequence[Sequence[Sent]]] = ()
    gain: float = 1.0


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a batch that one function does.

    Rows of which no piece of a meaning speaks stay as they are.

    Args:
        rows: (m,) ascending row numbers.
        do: Takes images (k, C, H, W), uint8 or float32 levels, and what belongs to them.
        arrays: What the function needs of each row, each (m, ...).
        shared: What it needs once for all rows.
        colours: Whether alpha, a fourth channel, stays out of it.
        linear: Whether it takes images in any unit, and scales what it makes by `Own.gain`: of
            a large image that is cut to a small one, the small one is scaled.
        inner: Programs of pieces that the function does to rows of the batch, by `apply`.
    """

    rows: Ints
    do: Do
    arrays: tuple[Array, ...] = ()
    shared: tuple[Array, ...] = ()
    colours: bool = False
    linear: bool = False
    inner: Sequence[Sequence[Sequence[Piece]]] = ()


Pieces = Sequence[Piece]


@dataclass(frozen=True, slots=True)
class Sent:
    """A piece whose arrays are on the device.

    Args:
        piece: The piece.
        index: (m,) its rows, as int64.
        arrays: Its arrays.
        shared: Its shared arrays.
        inner: What it is made of.
    """

    piece: Piece
    index: Tensor
    arrays: tuple[Tensor, ...]
    shared: tuple[Tensor, ...]
    inner: Sequence[Sequence[Sequence[Sent]]] = ()


def send(programs: Sequence[Pieces], device: torch.device) -> list[list[Sent]]:
    """Sends all arrays of all pieces to the device, in one copy.

    float64 arrays travel as float32; integers as they are.
    """
    flat: list[Array] = []
    for piece in _all(programs):
        for each in (piece.rows, *piece.arrays, *piece.shared):
            narrow = each.astype(np.float32) if each.dtype == np.float64 else each
            flat.append(np.require(narrow, requirements=["C", "W"]))
    return _arrived(programs, iter(parcel(flat, device)))


def _all(programs: Sequence[Pieces]) -> Iterator[Piece]:
    """Yields every piece, each before those it is made of."""
    for piece in (piece for pieces in programs for piece in pieces):
        yield piece
        for program in piece.inner:
            yield from _all(program)


def _arrived(programs: Sequence[Pieces], arrays: Iterator[Tensor]) -> list[list[Sent]]:
    """Puts what came out of a parcel back where it belongs, in the order of `_all`."""
    return [
        [
            Sent(
                piece,
                next(arrays),
                tuple(next(arrays) for _ in piece.arrays),
                tuple(next(arrays) for _ in piece.shared),
                [_arrived(program, arrays) for program in piece.inner],
            )
            for piece in pieces
        ]
        for pieces in programs
    ]


def parcel(arrays: Sequence[Array], device: torch.device) -> list[Tensor]:
    """Sends arrays to a device in one copy that nothing waits for."""
    if device.type == "cpu":
        return [torch.from_numpy(each) for each in arrays]
    if not arrays:
        return []
    ends = np.cumsum([0, *(-(-each.nbytes // _ALIGNED) * _ALIGNED for each in arrays)]).tolist()
    whole = np.empty(ends[-1], np.uint8)
    for each, start in zip(arrays, ends, strict=False):
        whole[start : start + each.nbytes] = each.reshape(-1).view(np.uint8)
    pinned = torch.from_numpy(whole)
    if device.type == "cuda":
        pinned = torch.empty(len(whole), dtype=torch.uint8, pin_memory=True).copy_(pinned)
    there = pinned.to(device, non_blocking=True)
    return [
        there[start : start + each.nbytes].view(_TORCH[each.dtype.name]).view(each.shape)
        for each, start in zip(arrays, ends, strict=False)
    ]


_TORCH: dict[str, Any] = {
    name: getattr(torch, name)
    for name in ("float32", "int64", "int32", "int16", "uint8", "bool", "uint16", "uint32")
}


def chunks(shape: Shape, device: torch.device) -> Iterator[tuple[int, int]]:
    """Yields the rows, from and to, that are worked through together.

    On the CPU few at a time: what one pass writes is still in the cache for the next, and no
    memory is asked of the system anew. Anywhere else all at once.
    """
    size = 4 * shape.channels * shape.height * shape.width
    step = max(1, _CHUNK // max(size, 1)) if device.type == "cpu" else max(shape.count, 1)
    for start in range(0, shape.count, step):
        yield start, min(start + step, shape.count)


def apply(sent: Sequence[Sent], images: Tensor, start: int, stop: int, gain: float = 1.0) -> Tensor:
    """Does one meaning to rows start..stop of a batch.

    Args:
        sent: The meaning's pieces.
        images: Those rows.
        start: The first of them.
        stop: The row after the last.
        gain: What takes the images to grey levels.
    """
    out: Tensor | None = None
    for each in sent:
        rows = each.piece.rows
        low, high = np.searchsorted(rows, (start, stop)).tolist()
        if low == high:
            continue
        rest = gain if each.piece.linear else 1.0
        arrays = tuple(a[low:high] for a in each.arrays)
        own = Own(arrays, each.shared, slice(low, high), each.inner, rest)
        if high - low == stop - start:
            return _done(each.piece, _scaled(images, gain / rest), own)
        index = each.index[low:high] - start
        part = _scaled(images.index_select(0, index), gain / rest)
        part = _done(each.piece, part, own)
        if out is None:
            out = _beside(images, part, gain)
        out = out.index_copy(0, index, part.to(out.dtype))
    return _scaled(images, gain) if out is None else out


def _scaled(images: Tensor, gain: float) -> Tensor:
    return images if gain == 1.0 else images * gain


def _beside(images: Tensor, part: Tensor, gain: float) -> Tensor:
    """Returns room for a whole chunk of which `part` is some rows."""
    if part.shape[1:] == images.shape[1:]:
        return _scaled(images, gain).to(part.dtype)
    return part.new_empty((len(images), *part.shape[1:]))


def _done(piece: Piece, images: Tensor, own: Own) -> Tensor:
    if not (piece.colours and images.shape[1] == 4):
        return piece.do(images, own)
    colours = piece.do(images[:, :3], own)
    return torch.cat([colours, images[:, 3:].to(colours.dtype)], dim=1)


def run(
    sent: Sequence[Sequence[Sent]],
    images: Tensor,
    gain: float = 1.0,
    leave: Callable[[Tensor], Tensor] = lambda part: part,
    look: Callable[[Tensor], None] = lambda part: None,
) -> Tensor:
    """Does meanings one after another to a batch (B, C, H, W), a chunk at a time.

    Args:
        sent: The meanings' pieces.
        images: The batch, which is not written to: uint8, or floats of any width.
        gain: What takes the images to grey levels.
        leave: Takes what becomes of them to what is handed out.
        look: May refuse rows of the batch, just before they are read: they are in the cache then.
    """
    shape = Shape.of(images)
    traced = images.requires_grad and torch.is_grad_enabled()
    whole: Tensor | None = None
    parts: list[Tensor] = []
    for start, stop in chunks(shape, images.device):
        given = images[start:stop]
        look(given)
        part = given if gain == 1.0 else given.float()
        for k, each in enumerate(sent):
            part = apply(each, part, start, stop, 1.0 if k else gain)
        part = leave(part if sent else _scaled(part, gain))
        if stop - start == shape.count:
            # Nothing that is handed out shares memory with what came in.
            part = part.clone() if part is given else part
            return part.contiguous(memory_format=layout(images))
        if traced:
            parts.append(part)
            continue
        if whole is None:
            whole = part.new_empty((shape.count, *part.shape[1:])).contiguous(
                memory_format=layout(images)
            )
        whole[start:stop] = part
    if whole is not None:
        return whole
    if not parts:
        return leave(images.clone())
    return torch.cat(parts).contiguous(memory_format=layout(images))


def layout(images: Tensor) -> torch.memory_format:
    """Returns how a batch lies in memory."""
    last = images.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not images.is_contiguous() else torch.contiguous_format
