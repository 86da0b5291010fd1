"""The plan in words."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from augpipe.errors import UsageError
from augpipe.pipeline import Pipeline
from augpipe.plan.explain import Explanation, explain
from augpipe.plan.nodes import node, steps
from augpipe.plan.rules import fuse
from augpipe.recipe import load


def explained(*ops: Any, size: tuple[int, int] | None = None, fused: bool = True) -> Explanation:
    recipe = load({"version": 1, "sample": list(ops)})
    nodes = tuple(node(step) for step in steps(recipe.sample, Counter()))
    return explain(fuse(nodes) if fused else nodes, size=size)


def test_a_pass_lists_its_ops_and_why_each_joined() -> None:
    plan = explained("horizontal_flip", "rotate", "color_jitter")
    assert [(p.kind, [line.key for line in p.lines]) for p in plan.passes] == [
        ("warp", ["horizontal_flip#0", "rotate#0"]),
        ("colour matrix", ["color_jitter#0"]),
    ]
    assert "multiply" in plan.passes[0].lines[1].why
    assert plan.passes[1].lines[0].why == "own pass: different kind (warp, then colour matrix)"


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ({"border": "reflect"}, {}, "different border (reflect, then constant)"),
        ({"fill": 7}, {}, "different fill (7, then 0)"),
        ({}, {"interpolation": "nearest"}, "different interpolation (bilinear, then nearest)"),
        ({"border": "edge"}, {"border": "edge"}, "border edge is known of the first input only"),
    ],
)
def test_the_reason_that_two_warps_stay_apart(first: Any, second: Any, reason: str) -> None:
    plan = explained({"rotate": first}, {"rotate": second})
    assert plan.passes[1].lines[0].why == f"own pass: {reason}"


def test_fuse_false_is_the_reason_only_where_fusion_was_possible() -> None:
    plan = explained("rotate", "rotate", "color_jitter", fused=False)
    whys = [p.lines[0].why for p in plan.passes]
    assert "fuse: false" in whys[1]
    assert "different kind" in whys[2]


def test_sizes_are_followed_and_a_drawn_size_is_a_span() -> None:
    fixed = explained({"random_resized_crop": {"size": [20, 30]}}, size=(375, 500))
    assert fixed.passes[0].size == "20 × 30"
    drawn = explained({"random_resized_crop": {"size": 20, "p": 0.5}}, size=(37, 50))
    assert drawn.passes[0].size == "20..37 × 20..50 drawn"
    assert explained("rotate").passes[0].size == ""


def test_the_table_is_aligned_plain_text() -> None:
    text = str(explained("horizontal_flip", {"rotate": {"p": 0.25}}, "color_jitter", size=(8, 9)))
    assert text.startswith("sample: 3 ops in 2 passes, from 8 × 9, on opencv (")
    head, *rows = text.splitlines()[2:]
    assert all(row[head.index("why") - 1] == " " for row in rows if len(row) > head.index("why"))
    assert rows[1][head.index("when") :].startswith("p 0.25")
    assert "\x1b" not in text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_an_empty_recipe_has_nothing_to_do() -> None:
    assert str(explained()) == "nothing to do: the recipe has no ops"


def test_equal_plans_explain_equally() -> None:
    assert explained("rotate", size=(8, 8)) == explained("rotate", size=(8, 8))


@pytest.mark.parametrize("size", [(0, 5), (5, 65536), (5,), (5, 5, 3), (5.0, 5), "ab", 7, ()])
def test_a_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(UsageError, match="height and width, from 1 to 65535"):
        explained("rotate", size=size)
    with pytest.raises(UsageError, match="height and width"):
        Pipeline(load({"version": 1})).explain(size=size)
