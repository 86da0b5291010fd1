"""What a worker process sends: packed where it is made, so that a failure has a name there."""

from __future__ import annotations

import io
import pickle
from multiprocessing.reduction import ForkingPickler
from typing import Any

import numpy as np
import torch
from torch import Tensor

_SMALL = 2**18  # bytes of a tensor that are copied sooner than memory for them is shared


class Packed:
    """What a worker sends: it arrives as what was packed."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return pickle.loads, (self._data,)


class _Pickler(ForkingPickler):
    """Copies small tensors: shared memory takes longer, and an open file for each."""

    def reducer_override(self, value: Any) -> Any:
        """Takes a tensor to pieces."""
        if type(value) is not Tensor:
            return NotImplemented
        try:
            if value.requires_grad or value.nbytes > _SMALL:
                return NotImplemented
            return torch.from_numpy, (np.array(value.numpy()),)
        except (TypeError, RuntimeError):  # NumPy has no such dtype or layout
            return NotImplemented


def dumps(value: Any) -> bytes:
    """Packs a value.

    Raises:
        Exception: Something in it cannot be.
    """
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()
