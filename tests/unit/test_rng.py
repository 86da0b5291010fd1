"""The draws: known answers, distributions, and what they do not depend on."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from augpipe.rng import (
    Draws,
    field_words,
    level_field,
    normal_field,
    normal_table,
    philox,
)

ALL = 0xFFFFFFFF


# Known answers of Random123 (kat_vectors, philox4x32 with 10 rounds).
@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ALL] * 4, [ALL] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_answers(
    counter: list[int], key: list[int], want: list[int]
) -> None:
    assert [int(word) for word in philox(counter, key)] == want


def draws(indices: object = (0,), epoch: int = 0, seed: int = 1, op: str = "op#0") -> Draws:
    return Draws(seed, np.asarray(indices, np.int64), epoch, op)


def every_kind(draw: Draws) -> dict[str, np.ndarray]:
    return {
        "uniform": draw.uniform("a", -2, 5),
        "uniforms": draw.uniforms("b", 5),
        "integers": draw.integers("d", -3, 9),
        "normals": draw.normals("e", 3),
        "chance": draw.chance("f", 0.3),
        "permutation": draw.permutation("g", 4),
        "choice": draw.choice("h", [1, 0, 2.5]),
        "key": draw.key("i"),
    }


@given(st.integers(0, 2**62), st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_a_row_of_many_is_the_one_alone(first: int, epoch: int, count: int) -> None:
    indices = first + np.arange(count)
    many = every_kind(draws(indices, epoch))
    for row in (0, count - 1, count // 2):
        alone = every_kind(draws([indices[row]], epoch))
        for kind in many:
            assert np.array_equal(many[kind][row], alone[kind][0]), kind


@pytest.mark.parametrize("other", ["seed", "epoch", "index", "op", "name"])
def test_every_part_of_the_key_matters(other: str) -> None:
    base = draws(np.arange(64)).uniform("x")
    changed = {
        "seed": draws(np.arange(64), seed=2).uniform("x"),
        "epoch": draws(np.arange(64), epoch=1).uniform("x"),
        "index": draws(np.arange(64) + 2**40).uniform("x"),
        "op": draws(np.arange(64), op="op#1").uniform("x"),
        "name": draws(np.arange(64)).uniform("y"),
    }[other]
    assert not np.isclose(base, changed).any()
    assert abs(np.corrcoef(base, changed)[0, 1]) < 4 / np.sqrt(64)


def test_epochs_may_differ_by_row() -> None:
    both = Draws(1, np.array([5, 5]), np.array([0, 3]), "op#0").uniform("x")
    assert both[0] == draws([5], 0).uniform("x")[0]
    assert both[1] == draws([5], 3).uniform("x")[0]


def by_definition(counter: list[int], key: int) -> list[int]:
    """Philox4x32-10 of one block, on Python's integers, as the paper has it."""
    x0, x1, x2, x3 = counter
    k0, k1 = key % 2**32, key >> 32
    for _ in range(10):
        a, b = 0xD2511F53 * x0, 0xCD9E8D57 * x2
        x0, x1, x2, x3 = (b >> 32) ^ x1 ^ k0, b % 2**32, (a >> 32) ^ x3 ^ k1, a % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [x0, x1, x2, x3]


@pytest.mark.parametrize("attempt", [0, 1, 2, 255])
def test_words_are_philox_at_their_address(attempt: int) -> None:
    index, epoch = 5 * 2**32 + 7, 11
    draw = Draws(3, np.array([index]), epoch, "op#0", attempt=attempt)
    digest = hashlib.blake2b(b"3\x1fop#0\x1fx", digest_size=8).digest()
    key = int.from_bytes(digest, "little")
    want = [by_definition([block + 2**24 * attempt, epoch, 7, 5], key) for block in range(3)]
    assert draw.words("x", 3).reshape(3, 4).tolist() == want


def test_attempts_share_no_number() -> None:
    """Not even at another place: 64 of one attempt's are none of the first 4,000 of another's."""
    indices = np.arange(5)
    first = Draws(1, indices, 2, "op#0").uniforms("x", 4000)
    each = np.array([0, 1, 2, 254, 255])
    again = Draws(1, indices, 2, "op#0", attempt=each).uniforms("x", 64)
    assert np.array_equal(again[0], first[0, :64])
    for row in range(1, 5):
        assert not np.isin(again[row], first[row]).any()
        alone = Draws(1, indices[row : row + 1], 2, "op#0", attempt=int(each[row]))
        assert np.array_equal(alone.uniforms("x", 64)[0], again[row])


# At n = 20,000 a p-value under 1e-4 has one chance in 10,000 on these fixed keys.
def test_distributions() -> None:
    many = draws(np.arange(20_000))
    uniform = many.uniform("u", -1, 3)
    assert uniform.min() >= -1 and uniform.max() < 3
    assert stats.kstest(uniform, stats.uniform(-1, 4).cdf).pvalue > 1e-4
    assert stats.kstest(many.normals("n", 2).ravel(), "norm").pvalue > 1e-4
    counts = np.bincount(many.integers("i", 0, 6), minlength=7)
    assert len(counts) == 7 and stats.chisquare(counts).pvalue > 1e-4
    share = many.chance("c", 0.3).mean()
    assert abs(share - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 20_000)
    picked = np.bincount(many.choice("w", [1, 0, 3]), minlength=3)
    assert picked[1] == 0
    assert stats.chisquare(picked[[0, 2]], np.array([0.25, 0.75]) * 20_000).pvalue > 1e-4
    orders = many.permutation("p", 3) @ [9, 3, 1]
    counts = np.unique(orders, return_counts=True)[1]
    assert len(counts) == 6 and stats.chisquare(counts).pvalue > 1e-4


def test_degenerate_ranges_are_exact() -> None:
    draw = draws(np.arange(9))
    assert (draw.uniform("x", 0.3, 0.3) == 0.3).all()
    assert (draw.integers("x", 4, 4) == 4).all()
    assert draw.chance("x", 1).all() and not draw.chance("x", 0).any()


def test_fields() -> None:
    words = field_words(123, 100_001)
    assert np.array_equal(words[:17], field_words(123, 17)), "a field does not depend on its size"
    assert stats.kstest(field_words(5, 50_000) * 2.0**-32, "uniform").pvalue > 1e-4
    levels = level_field(7, 9)
    assert levels[0] == field_words(7, 1)[0] & 0xFFFF and levels[1] == field_words(7, 1)[0] >> 16
    normal = normal_field(9, 200_000)
    assert normal.dtype == np.float32
    assert stats.kstest(normal[:50_000], "norm").pvalue > 1e-4
    assert abs(normal_table().std() - 1) < 1e-6 and abs(normal_table().mean()) < 1e-6
    assert abs(np.corrcoef(normal[:-1], normal[1:])[0, 1]) < 4 / np.sqrt(200_000)


def test_made_together_they_are_the_same() -> None:
    asked: dict = {}
    alone = every_kind(Draws(1, np.arange(5), 2, "op#0", asked=asked))
    assert len(asked) == 8
    ready = Draws(1, np.arange(5), 2, "op#0").together(tuple(asked.items()))
    assert set(ready.bank) == set(asked)
    together = every_kind(ready)
    assert all(np.array_equal(alone[kind], together[kind]) for kind in alone)
    more = ready.uniforms("b", 50)  # more than was asked for: made anew
    assert np.array_equal(more[:, :5], alone["uniforms"])


def test_a_trace_notes_what_was_drawn() -> None:
    trace: dict = {}
    draw = Draws(1, np.arange(3), 0, trace=trace).at("rotate#0")
    angle = draw.uniform("angle", -5, 5)
    assert list(trace) == ["rotate#0"]
    assert np.array_equal(trace["rotate#0"]["angle"], angle)
