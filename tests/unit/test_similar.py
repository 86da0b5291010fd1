"""Near duplicates: the index against comparing each with each, and what counts as alike."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from augpipe.data.decode import decode
from augpipe.report.similar import groups_of, look_at
from tests.harness import photo


def brute(hashes: list[int], smalls: np.ndarray, bits: int, levels: float) -> list[list[int]]:
    """The groups by comparing each with each, in plain Python."""
    group = list(range(len(hashes)))
    for i, j in itertools.combinations(range(len(hashes)), 2):
        apart = float(np.abs(smalls[i].astype(float) - smalls[j].astype(float)).mean())
        if (hashes[i] ^ hashes[j]).bit_count() <= bits and apart <= levels:
            old, new = group[j], group[i]
            group = [new if each == old else each for each in group]
    found: dict[int, list[int]] = {}
    for index, each in enumerate(group):
        found.setdefault(each, []).append(index)
    return sorted(own for own in found.values() if len(own) > 1)


def found(hashes: list[int], smalls: np.ndarray, bits: int, levels: float) -> list[list[int]]:
    made = groups_of(np.array(hashes, np.uint64), smalls, bits, levels)
    return [part.tolist() for part in made]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 3), st.sets(st.integers(0, 63), max_size=7), st.sampled_from([0, 4, 9])
        ),
        max_size=30,
    ),
    st.sampled_from([0, 1, 3, 6, 12]),
)
def test_the_index_finds_what_comparing_each_with_each_finds(
    images: list[tuple[int, set[int], int]], bits: int
) -> None:
    seeds = (0, 2**64 - 1, 0x0123456789ABCDEF, 0xF0F0F0F0F0F0F0F0)
    hashes = [seeds[which] ^ sum(1 << k for k in flipped) for which, flipped, _ in images]
    smalls = np.array([np.full((16, 16, 3), level) for *_, level in images], np.uint8)
    smalls = smalls.reshape(-1, 16, 16, 3)
    assert found(hashes, smalls, bits, 5.0) == brute(hashes, smalls, bits, 5.0)


def test_many_random_hashes_and_many_copies_of_one() -> None:
    random = np.random.default_rng(3)
    base = random.integers(0, 2**63, 300, dtype=np.uint64)
    near = base[:60] ^ np.uint64(1) << random.integers(0, 64, 60).astype(np.uint64)
    hashes = np.concatenate([base, near, near[:5].repeat(40)])
    smalls = np.zeros((len(hashes), 16, 16, 3), np.uint8)
    plain = [int(each) for each in hashes]
    assert found(plain, smalls, 4, 1.0) == brute(plain, smalls, 4, 1.0)


def test_links_that_are_put_together_on_the_way_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(4)
    hashes = [int(each) for each in random.integers(0, 8, 200)]
    smalls = random.integers(0, 3, (200, 16, 16, 3)).astype(np.uint8)
    whole = found(hashes, smalls, 1, 1.0)
    monkeypatch.setattr("augpipe.report.similar._HELD", 10)
    assert found(hashes, smalls, 1, 1.0) == whole == brute(hashes, smalls, 1, 1.0)


def written(image: Image.Image, format: str, **options: int) -> np.ndarray:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return decode(buffer.getvalue())


def test_another_file_of_the_same_picture_is_alike_and_another_picture_is_not() -> None:
    whole = Image.fromarray(photo(height=300, width=400))
    width, height = whole.size
    like = [
        np.asarray(whole),
        written(whole, "JPEG", quality=40),
        written(whole.resize((width // 3, height // 3)), "PNG"),
        written(whole.crop((2, 2, width - 2, height - 2)), "WEBP", quality=70),
        np.rint(np.asarray(whole) * 0.97).astype(np.uint8),
        np.dstack([np.asarray(whole), np.full((height, width), 255, np.uint8)]),
    ]
    unlike = [
        np.asarray(whole)[:, ::-1],
        np.asarray(whole)[: height // 2],
        np.full((30, 30, 1), 128, np.uint8),
        np.full((30, 30, 1), 250, np.uint8),  # as flat, and far from it
    ]
    looks = [look_at(np.ascontiguousarray(each)) for each in (*like, *unlike)]
    hashes = np.array([each.hash for each in looks], np.uint64)
    (only,) = groups_of(hashes, np.stack([each.small for each in looks]))
    assert only.tolist() == list(range(len(like)))


def test_nothing_and_one_have_no_groups() -> None:
    assert groups_of(np.zeros(0, np.uint64), np.zeros((0, 16, 16, 3), np.uint8)) == []
    assert groups_of(np.zeros(1, np.uint64), np.zeros((1, 16, 16, 3), np.uint8)) == []
