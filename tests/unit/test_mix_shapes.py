"""What rectangles and regions leave of one another, against pixels that are counted."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from augpipe.mixing.shapes import extent, meet, narrowed, stack, through, without
from augpipe.polygons import areas
from augpipe.targets import hulls, outline

SIDE = 9
whole = st.integers(0, SIDE)
between = st.floats(0.0, SIDE, allow_subnormal=False)


def boxes(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[np.ndarray]:
    pair = st.tuples(numbers, numbers).filter(lambda p: abs(p[0] - p[1]) > 1e-3).map(sorted)
    return st.tuples(pair, pair).map(
        lambda p: np.array([p[0][0], p[1][0], p[0][1], p[1][1]], np.float64)
    )


def pixels(box: np.ndarray) -> np.ndarray:
    out = np.zeros((SIDE, SIDE), bool)
    x0, y0, x1, y1 = box.astype(int)
    out[y0:y1, x0:x1] = True
    return out


def bounds(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@given(boxes(whole), boxes(whole))
def test_what_a_rectangle_leaves(box: np.ndarray, cover: np.ndarray) -> None:
    left = pixels(box) & ~pixels(cover)
    if left.any():
        assert without(box[None], cover)[0].tolist() == bounds(left)
    assert extent(meet(box[None], cover))[0] == (pixels(box) & pixels(cover)).sum()


@given(boxes(between), st.integers(0, 2**32), st.floats(0.0, 1.0))
def test_what_is_seen_through_a_region(box: np.ndarray, seed: int, share: float) -> None:
    raster = np.random.default_rng(seed).random((SIDE, SIDE)) < share
    at = np.arange(SIDE)
    across, down = (
        np.clip(np.minimum(at + 1, stop) - np.maximum(at, start), 0, None)
        for start, stop in ((box[0], box[2]), (box[1], box[3]))
    )
    got, hull = through(raster, box[None])
    assert abs(got[0] - down @ raster @ across / (down.sum() * across.sum())) < 1e-6
    seen = raster & (down > 0)[:, None] & (across > 0)
    if seen.any():
        want = np.array(bounds(seen), np.float64)
        assert np.allclose(
            hull[0], [*np.maximum(want[:2], box[:2]), *np.minimum(want[2:], box[2:])]
        )


@given(boxes(between), boxes(between))
def test_narrowing_cuts_polygons(box: np.ndarray, other: np.ndarray) -> None:
    start = outline(box[None])
    after = meet(box[None], other)
    if extent(after)[0] < 1e-3:
        return
    out = narrowed(start, hulls(start), after, (SIDE, SIDE))
    assert np.allclose(hulls(out), after, atol=1e-5)  # a corner within 1e-6 of a line stays
    assert np.isclose(areas(out.seen)[0], extent(after)[0], atol=1e-4)
    assert np.array_equal(out.whole[0], start.whole[0])
    both = stack([start, out])
    assert np.allclose(areas(both.seen), [*areas(start.seen), *areas(out.seen)])
