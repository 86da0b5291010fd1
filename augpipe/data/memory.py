"""Memory for batches, used again as soon as nobody holds what was made in it."""

from __future__ import annotations

import math
import weakref
from collections import deque
from typing import Any

import numpy as np

from augpipe.types import Array


class Pool:
    """Gives arrays whose memory comes back when the last tensor on it is gone.

    Memory that is new to a process is cleared page by page when it is first written to: for a
    batch of 64 float images of 224 x 224 that takes as long as all their colours. What came
    back is written over instead. A batch stays valid for as long as it, or any view of it, is
    held: what is held is not in the pool.

    Args:
        size: How many pieces that came back are kept.
    """

    def __init__(self, size: int) -> None:
        self._free: deque[Array] = deque(maxlen=size)

    def __reduce__(self) -> tuple[type[Pool], tuple[int]]:
        return type(self), (self._free.maxlen or 0,)

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Returns an array with whatever numbers the memory holds."""
        length = math.prod(shape) * dtype.itemsize
        memory = self._take(length)
        # A tensor made of this array keeps this very object, which tells of the last one's end.
        array = memory[:length].view(dtype).reshape(shape)
        weakref.finalize(array, self._free.append, memory).atexit = False
        return array

    def _take(self, length: int) -> Array:
        for _ in range(len(self._free)):
            try:
                memory = self._free.popleft()
            except IndexError:  # another thread took it
                break
            if length <= len(memory) <= 2 * length:
                return memory
            self._free.append(memory)
        return np.empty(length, np.uint8)


def pinned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Returns an array in page-locked memory, from which a GPU copies by itself.

    torch keeps and reuses this memory, and waits for copies that still read it.
    """
    import torch

    kind = getattr(torch, dtype.name)
    return torch.empty(shape, dtype=kind, pin_memory=True).numpy()
