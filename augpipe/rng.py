"""Keyed randomness: every number is a pure function of what it is for.

A draw is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC 2011) evaluated at

    key     = BLAKE2b-64(seed, op key, draw name)
    counter = (block + 2**24 attempt, epoch, index mod 2**32, index div 2**32)

so it depends on the seed, the epoch, the sample's index and the draw's name (and, where a
constraint has things drawn again, on the attempt, which is 0 at first), and on
nothing else: not on the worker, the batch, the order or what other ops draw. There is no
generator object to seed, share, fork or save. Draws are vectorised over the samples;
row k of a batch equals the same sample drawn alone, bit for bit.

Fields (noise, one number a pixel) are Philox too, in integer arithmetic only, so that
another array library gives the same field.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from augpipe.types import Floats, Words

Trace = dict[str, dict[str, NDArray[Any]]]

_MULTIPLIERS = np.array([0xD2511F53, 0xCD9E8D57], np.uint64)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ATTEMPTS = np.uint64(24)  # no draw takes 2**24 blocks
_ROUNDS = 10
# What is added to the key in each round: multiples of the two Weyl constants.
_BUMPS = np.arange(_ROUNDS, dtype=np.uint64)[:, None] * np.array(
    [0x9E3779B9, 0xBB67AE85], np.uint64
)


def philox(counter: Sequence[ArrayLike], key: Sequence[ArrayLike]) -> tuple[Words, ...]:
    """Evaluates Philox4x32-10.

    Args:
        counter: Four arrays of 32-bit words (as uint64), broadcast together.
        key: Two arrays of 32-bit words (as uint64), broadcast with them.

    Returns:
        Four arrays of 32-bit words, as uint64.
    """
    # Words 0 and 2 go one way and words 1 and 3 the other, so each pair is one array.
    shape = np.broadcast_shapes(*(np.shape(word) for word in (*counter, *key)))
    even, odd = np.empty((2, *shape), np.uint64), np.empty((2, *shape), np.uint64)
    even[0], odd[0], even[1], odd[1] = counter
    own = np.broadcast_shapes(*(np.shape(word) for word in key))
    keys = np.empty((2, *[1] * (len(shape) - len(own)), *own), np.uint64)
    keys[0], keys[1] = key
    lanes = (2, *[1] * len(shape))
    schedule = (keys + _BUMPS.reshape(_ROUNDS, *lanes)) & _LOW
    multipliers = _MULTIPLIERS.reshape(lanes)
    product = np.empty_like(even)
    crossed = product[::-1]
    for round_key in schedule:
        np.multiply(even, multipliers, out=product)
        np.right_shift(crossed, _HALF, out=even)
        even ^= odd
        even ^= round_key
        np.bitwise_and(crossed, _LOW, out=odd)
    return even[0], odd[0], even[1], odd[1]


@functools.lru_cache(maxsize=4096)
def stream_key(seed: int, op: str, name: str) -> int:
    """Hashes what a draw is for to its 64-bit Philox key."""
    text = f"{seed}\x1f{op}\x1f{name}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


@functools.lru_cache(maxsize=64)
def _addresses(
    seed: int, layout: tuple[tuple[tuple[str, str], int], ...]
) -> tuple[Words, Words, list[int]]:
    """Returns the key and the number of each block of a layout, and where each draw's words end."""
    keys = [stream_key(seed, *draw) for draw, blocks in layout for _ in range(blocks)]
    at = np.concatenate([np.arange(blocks, dtype=np.uint64) for _, blocks in layout])
    ends = np.cumsum([0, *(4 * blocks for _, blocks in layout)])
    return np.array(keys, np.uint64), at, ends.tolist()


@dataclass(frozen=True, slots=True)
class Draws:
    """The draws of one op for n samples.

    Args:
        seed: The recipe's seed.
        indices: Sample indices, shape (n,), from 0 to 2**63 - 1.
        epoch: One epoch for all samples, or one each, shape (n,); from 0 to 2**32 - 1.
        op: The op's key, such as `rotate#0`.
        trace: Where drawn parameters are noted, by op and name; None to note nothing.
        asked: Where it is noted how many blocks each draw takes; None to note nothing.
        bank: Words that `together` made ahead.
        attempt: How often all this was drawn before: for all samples, or (n,); below 256.
    """

    seed: int
    indices: NDArray[np.int64]
    epoch: int | NDArray[np.int64] = 0
    op: str = ""
    trace: Trace | None = None
    asked: dict[tuple[str, str], int] | None = None
    bank: dict[tuple[str, str], Words] = field(default_factory=dict)
    attempt: int | NDArray[np.int64] = 0

    def __len__(self) -> int:
        return len(self.indices)

    def at(self, op: str) -> Draws:
        """Returns the same samples' draws for another op key."""
        return Draws(
            self.seed,
            self.indices,
            self.epoch,
            op,
            self.trace,
            self.asked,
            self.bank,
            self.attempt,
        )  # `replace` takes ten times as long, for every op of every image

    def note(self, name: str, values: NDArray[Any]) -> NDArray[Any]:
        """Notes (n, ...) drawn parameters for whoever keeps a trace; returns them."""
        if self.trace is not None:
            self.trace.setdefault(self.op, {})[name] = values
        return values

    def words(self, name: str, blocks: int = 1) -> Words:
        """Returns (n, 4 * blocks) uniform 32-bit words."""
        ready = self.bank.get((self.op, name))
        if ready is not None and ready.shape[1] >= 4 * blocks:
            return ready[:, : 4 * blocks]
        if self.asked is not None:
            self.asked[self.op, name] = blocks
        key = np.uint64(stream_key(self.seed, self.op, name))
        return self._evaluate(np.full(blocks, key), np.arange(blocks, dtype=np.uint64))

    def together(self, layout: Sequence[tuple[tuple[str, str], int]]) -> Draws:
        """Returns the same draws, those of a layout made in one evaluation.

        Philox in NumPy costs as much for one number as for a thousand, and a plan always
        draws the same things. The numbers are the same.

        Args:
            layout: Pairs of (op key, draw name) and a number of blocks, as `asked` has them.
        """
        if not layout or not len(self):
            return self
        keys, at, ends = _addresses(self.seed, tuple(layout))
        words = self._evaluate(keys, at)
        bank = {draw: words[:, ends[k] : ends[k + 1]] for k, (draw, _) in enumerate(layout)}
        return replace(self, bank=bank)

    def _evaluate(self, keys: Words, blocks: Words) -> Words:
        """Returns (n, 4 * len(keys)) words: one block a key, at the block number beside it."""
        index = self.indices.astype(np.uint64)[:, None]
        epoch = np.broadcast_to(np.asarray(self.epoch, np.uint64), index.shape[:1])[:, None]
        if np.any(self.attempt):
            blocks = blocks + (np.asarray(self.attempt, np.uint64)[..., None] << _ATTEMPTS)
        counter = (blocks, epoch, index & _LOW, index >> _HALF)
        out = philox(counter, (keys & _LOW, keys >> _HALF))
        return np.stack(out, axis=-1).reshape(len(self), 4 * len(keys))

    def uniform(self, name: str, low: float | Floats = 0.0, high: float | Floats = 1.0) -> Floats:
        """Returns (n,) numbers uniform in [low, high); `low` where the two are equal."""
        values = np.asarray(low + (np.asarray(high) - low) * self.uniforms(name, 1)[:, 0])
        return self.note(name, values)

    def uniforms(self, name: str, count: int) -> Floats:
        """Returns (n, count) numbers uniform in [0, 1), of 53 random bits each."""
        words = self.words(name, -(-count // 2))[:, : 2 * count]
        high, low = words[:, 0::2] >> np.uint64(5), words[:, 1::2] >> np.uint64(6)
        return (high * 67108864.0 + low) * 2.0**-53

    def integers(self, name: str, low: float | Floats, high: float | Floats) -> NDArray[np.int64]:
        """Returns (n,) integers uniform in low..high, both included."""
        span = np.asarray(high) - low + 1
        values = low + np.floor(self.uniforms(name, 1)[:, 0] * span)
        return self.note(name, np.asarray(values, np.int64))

    def normals(self, name: str, count: int) -> Floats:
        """Returns (n, count) standard normal numbers (Box and Muller, 1958)."""
        u = self.uniforms(name, 2 * count)
        radius = np.sqrt(-2.0 * np.log1p(-u[:, :count]))
        return np.asarray(radius * np.cos(2.0 * np.pi * u[:, count:]))

    def chance(self, name: str, p: float) -> NDArray[np.bool_]:
        """Returns (n,) coin tosses that are true with probability p."""
        if p in (0.0, 1.0):
            return np.full(len(self), bool(p))
        return self.note(name, np.asarray(self.uniforms(name, 1)[:, 0] < p))

    def permutation(self, name: str, count: int) -> NDArray[np.int64]:
        """Returns (n, count): a uniform random order of 0..count-1 in each row."""
        return self.note(name, np.argsort(self.uniforms(name, count), axis=1, kind="stable"))

    def choice(self, name: str, weights: Sequence[float]) -> NDArray[np.int64]:
        """Returns (n,) positions in `weights`, drawn in proportion to them."""
        edges = np.cumsum(np.asarray(weights, np.float64))
        drawn = np.searchsorted(edges, self.uniforms(name, 1)[:, 0] * edges[-1], side="right")
        return self.note(name, np.minimum(drawn, len(weights) - 1))

    def key(self, name: str) -> Words:
        """Returns (n,) 64-bit keys, one a sample, for `field_words` and its like."""
        words = self.words(name)
        return np.asarray(words[:, 0] | (words[:, 1] << _HALF), np.uint64)


def field_words(key: int, count: int) -> NDArray[np.uint32]:
    """Returns `count` uniform 32-bit words of the field with this 64-bit key."""
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    zero = np.uint64(0)
    halves = (np.uint64(int(key) & 0xFFFFFFFF), np.uint64(int(key) >> 32))
    out = np.empty((len(blocks), 4), np.uint32)
    for lane, words in enumerate(philox((blocks, zero, zero, zero), halves)):
        out[:, lane] = words
    return out.reshape(-1)[:count]


def level_field(key: int, count: int) -> NDArray[np.uint16]:
    """Returns `count` uniform 16-bit integers: two from each word, the low half first."""
    return field_words(key, -(-count // 2)).astype("<u4").view("<u2")[:count]


@functools.cache
def normal_table() -> NDArray[np.float32]:
    """Returns the 65,536 normal quantiles that `normal_field` looks up.

    Entry i is the standard normal quantile of (i + 1/2) / 65536, scaled to unit variance;
    the largest is 4.33. A table instead of Box-Muller makes the field a matter of integers
    and one lookup: the same in NumPy and torch, and two numbers from each random word.
    """
    from scipy.special import ndtri

    quantiles = ndtri((np.arange(65536) + 0.5) / 65536)
    return np.asarray(quantiles / quantiles.std(), np.float32)


def normal_field(key: int, count: int) -> NDArray[np.float32]:
    """Returns `count` standard normal numbers, by `normal_table` on `level_field`."""
    return normal_table()[level_field(key, count)]
