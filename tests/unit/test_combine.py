"""Which ops a combinator lets act, how often, and in what order."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import numpy as np
import pytest
from scipy import stats

from augpipe.errors import RecipeError
from augpipe.rng import Draws, Trace
from tests.harness import build, drawn, meanings, photo, run

MANY = np.arange(6000)
FLIP = {"horizontal_flip": {"p": 1.0}}
TURN = {"rotate90": [1, 1]}
SHIFT = {"translate": {"x": [0.25, 0.25], "y": [0, 0]}}
OPS = [FLIP, TURN, SHIFT]


def choose(item: Any) -> np.ndarray:
    """(n, slots, ops): what acts."""
    op = build(item)[0]
    out = op.choose(Draws(7, MANY, 0).at("combinator#0"))  # type: ignore[attr-defined]
    assert out.dtype == bool
    assert out.shape == (len(MANY), op.slots, len(op.ops))  # type: ignore[attr-defined]
    return np.asarray(out)


def agrees(counts: Any, shares: Any) -> bool:
    shares = np.asarray(shares, float)
    expected = shares / shares.sum() * np.sum(counts)
    return bool(stats.chisquare(counts, expected).pvalue > 1e-3)


def test_one_of_draws_one_in_proportion_to_its_weight() -> None:
    even = choose({"one_of": OPS})[:, 0]
    assert (even.sum(axis=1) == 1).all()
    assert agrees(even.sum(axis=0), [1, 1, 1])
    uneven = choose({"one_of": {"ops": OPS, "weights": [1, 0, 3]}})[:, 0]
    assert uneven[:, 1].sum() == 0
    assert agrees(uneven.sum(axis=0)[[0, 2]], [1, 3])


def test_some_of_draws_without_replacement() -> None:
    chosen = choose({"some_of": {"count": [1, 3], "ops": OPS}})[:, 0]
    assert agrees(np.bincount(chosen.sum(axis=1), minlength=4)[1:], [1, 1, 1])
    assert agrees(chosen[chosen.sum(axis=1) == 1].sum(axis=0), [1, 1, 1])
    assert not choose({"some_of": {"count": [0, 0], "ops": OPS}}).any()
    assert choose({"some_of": {"count": [3, 3], "ops": OPS}}).all()


def test_some_of_draws_one_after_another_by_weight() -> None:
    weights = np.array([1.0, 2.0, 5.0])
    item = {"count": [2, 2], "ops": OPS, "weights": weights.tolist()}
    left_out = np.argmin(choose({"some_of": item})[:, 0], axis=1)
    share = weights / weights.sum()
    want = np.zeros(3)
    for first, second, last in permutations(range(3)):
        want[last] += share[first] * share[second] / (1 - share[first])
    assert agrees(np.bincount(left_out, minlength=3), want)


def test_shuffle_does_each_once_in_every_order() -> None:
    chosen = choose({"shuffle": OPS})
    assert (chosen.sum(axis=1) == 1).all()
    assert (chosen.sum(axis=2) == 1).all()
    orders = np.unique(chosen.argmax(axis=2), axis=0, return_counts=True)[1]
    assert len(orders) == 6
    assert agrees(orders, np.ones(6))


def test_sequence_acts_as_a_whole() -> None:
    assert choose({"sequence": OPS}).all()
    item = {"sequence": {"ops": OPS, "p": 0.5}}
    image, whole = photo(), run(OPS, photo())
    acted = 0
    for index in range(12):
        out = run(item, image, index=index)
        same = out.shape == image.shape and np.array_equal(out, image)
        assert same or np.array_equal(out, whole)
        acted += not same
    assert 0 < acted < 12


@pytest.mark.parametrize("name", ["one_of", "sequence", "shuffle"])
def test_off_is_the_identity(name: str) -> None:
    image = photo()
    for index in range(4):
        assert np.array_equal(run({name: {"ops": OPS, "p": 0.0}}, image, index=index), image)


def test_combinators_nest() -> None:
    item = {"one_of": [{"shuffle": [FLIP, {"one_of": [TURN, SHIFT]}]}, {"sequence": OPS}]}
    image, seen = photo(), set()
    done = {"f": FLIP, "t": TURN, "s": SHIFT}
    want = {
        words: run([done[w] for w in words], image) for words in ("ft", "tf", "fs", "sf", "fts")
    }
    for index in range(40):
        out = run(item, image, index=index)
        fits = {w for w, v in want.items() if v.shape == out.shape and np.array_equal(v, out)}
        assert fits, f"sample {index} is none of them"
        seen |= fits
    assert seen == set(want)


def test_a_batch_holds_every_choice() -> None:
    """Row k of a batch is the sample alone, though the others chose otherwise."""
    ops, shape = build({"shuffle": [TURN, SHIFT, {"rotate": [-40, 40]}]}), (24, 40)
    many = meanings(ops, shape, tuple(range(9)), fused=True)
    for k in range(9):
        for whole, one in zip(many, meanings(ops, shape, (k,), fused=True), strict=True):
            assert np.array_equal(whole.matrix[k], one.matrix[0])  # type: ignore[union-attr]


def test_a_branch_moves_no_other_stream() -> None:
    turn = {"rotate": [-40, 40]}
    alone = drawn({"one_of": [turn]}, photo(), 3)["angle"]
    among = drawn({"one_of": [{"gaussian_blur": {}}, turn, FLIP]}, photo(), 3)["angle"]
    assert alone == among == drawn(turn, photo(), 3)["angle"]


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"one_of": {"ops": OPS, "weights": [1, 2]}}, "2 numbers for 3 ops"),
        ({"one_of": {"ops": OPS, "weights": [0, 0, 0]}}, "must not all be 0"),
        ({"one_of": []}, "at least one op"),
        ({"some_of": OPS}, "needs it"),
        ({"some_of": {"ops": OPS, "count": [1, 4]}}, "only 3 ops can be drawn"),
        ({"some_of": {"ops": OPS, "count": [1, 3], "weights": [1, 1, 0]}}, "only 2 ops"),
        ({"some_of": {"ops": OPS, "count": [2, 1]}}, "reversed"),
        ({"one_of": [FLIP, "rotat"]}, "rotate"),
    ],
)
def test_what_cannot_be_is_refused(item: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        build(item)


def test_the_trace_tells_of_the_walk_in_which_an_op_acted() -> None:
    """A crop that stands first or second sees other sizes; what is noted is what was done."""
    image = photo(height=100, width=100)
    item = {"shuffle": [{"random_crop": 20}, {"resize": 60}]}
    orders = set()
    for index in range(12):
        trace: Trace = {}
        (meaning,) = meanings(build(item), image.shape, (index,), trace=trace)
        first = tuple(meaning.size[0]) == (60, 60)  # the crop, then the resize
        orders.add(first)
        offset = trace["random_crop#0"]["offset"][0]
        scale = 20 / 60 if first else 100 / 60
        corner = meaning.matrix[0, [1, 0], 2]
        assert np.allclose(corner, offset if first else offset * scale), index
        assert trace["random_crop#0"]["on"][0]
    assert orders == {True, False}
