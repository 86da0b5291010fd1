"""Run-length masks, against pycocotools."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from augpipe.data.annotated import Rle
from augpipe.data.rle import decode_rle, encode_rle, rle_area
from augpipe.errors import DataError


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_it_is_pycocotools(height: int, width: int, share: float, seed: int) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    theirs = coco_mask.encode(np.asfortranarray(mask))
    ours = encode_rle(mask)
    assert ours == Rle((height, width), theirs["counts"].decode())
    assert np.array_equal(decode_rle(ours, ""), mask)
    assert rle_area(ours, "") == coco_mask.area(theirs) == mask.sum()


def test_long_runs() -> None:
    mask = np.zeros((2000, 1500), np.uint8)
    mask[3, 700:] = 1
    theirs = coco_mask.encode(np.asfortranarray(mask))
    assert encode_rle(mask).counts == theirs["counts"].decode()
    assert np.array_equal(decode_rle(encode_rle(mask), ""), mask)


def test_runs_as_numbers() -> None:
    expected = np.array([[0, 1], [0, 0], [1, 0]], np.uint8)
    assert np.array_equal(decode_rle(Rle((3, 2), (2, 2, 2)), ""), expected)


@pytest.mark.parametrize(
    ("rle", "words"),
    [
        (Rle((3, 2), (2, 2)), "runs of 4 pixels for a mask of 3 x 2"),
        (Rle((3, 2), (2, -2, 6)), "negative or too long"),
        (Rle((3, 2), (2**40,)), "negative or too long"),
        (Rle((0, 0), ()), "for a mask of 0 x 0"),
        (Rle((100_000, 100_000), (10**10,)), "negative or too long"),
        (Rle((40_000, 40_000), (1_600_000_000,)), "for a mask of 40000 x 40000"),
        (Rle((-2, -3), (6,)), "for a mask of -2 x -3"),
        (Rle((3, 2), "é"), "not in COCO's run-length text"),
        (Rle((3, 2), "o" * 30), "not in COCO's run-length text"),
        (Rle((3, 2), "o"), "truncated"),
    ],
)
def test_what_is_no_mask_is_told(rle: Rle, words: str) -> None:
    with pytest.raises(DataError, match=words):
        decode_rle(rle, "x")
