"""Philox fields on any torch device, bit for bit those of rng.py.

torch has no unsigned 64-bit arithmetic. A 32-bit word is an int64 from 0 to 2^32 - 1; the
product of two wraps to the same 64 bits that it has unsigned, and the mask after `>> 32`
takes off the sign that the shift copies. All rounds' keys are made on the host.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from augpipe.types import Ints, Words

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = np.array([0x9E3779B9, 0xBB67AE85], np.int64)
_LOW = 0xFFFFFFFF
_ROUNDS = 10


def round_keys(keys: Words) -> Ints:
    """Returns (n, 10, 2): the two key words of each round, of (n,) 64-bit keys."""
    halves = np.stack([keys & np.uint64(_LOW), keys >> np.uint64(32)], axis=-1).astype(np.int64)
    return (halves[:, None] + np.arange(_ROUNDS)[:, None] * _WEYL) & _LOW


def field_words(keys: Tensor, count: int, first: int = 0) -> Tensor:
    """Returns (k, count) words of the fields of k keys, from number `first` on.

    Args:
        keys: (k, 10, 2), as `round_keys` returns them.
        count: How many words of each field.
        first: How many are passed over.
    """
    start, stop = first // 4, -(-(first + count) // 4)
    c0 = torch.arange(start, stop, device=keys.device)[None]
    c1 = c2 = c3 = torch.zeros((1, 1), dtype=torch.int64, device=keys.device)
    for step in range(_ROUNDS):
        k0, k1 = keys[:, step, :1], keys[:, step, 1:]
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c2 = ((p1 >> 32) & _LOW) ^ c1 ^ k0, ((p0 >> 32) & _LOW) ^ c3 ^ k1
        c1, c3 = p1 & _LOW, p0 & _LOW
    words = torch.stack([c0, c1, c2, c3], dim=-1).flatten(1)
    return words[:, first - 4 * start :][:, :count]


def level_field(keys: Tensor, count: int, first: int = 0) -> Tensor:
    """Returns (k, count) 16-bit integers, as int64: two from each word, the low half first."""
    start = first // 2
    words = field_words(keys, -(-(first + count) // 2) - start, start)
    levels = torch.stack([words & 0xFFFF, words >> 16], dim=-1).flatten(1)
    return levels[:, first - 2 * start :][:, :count]


def normal_field(keys: Tensor, count: int, table: Tensor) -> Tensor:
    """Returns (k, count) standard normal numbers, float32, looked up in rng.py's table."""
    levels = level_field(keys, count)
    return table.index_select(0, levels.reshape(-1)).view(levels.shape)
