"""Fusion rules: two adjacent nodes that are one, and why. None: they are not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import takewhile

from augpipe.ir import Color, Curve, Normalize, Warp
from augpipe.ops.base import Op
from augpipe.plan.nodes import Node, is_fixed, node, steps
from augpipe.types import Sampling

Rule = Callable[[Node, Node], Node | None]


def _joined(first: Node, second: Node, sampling: Sampling, reason: str) -> Node:
    return replace(
        first,
        steps=first.steps + second.steps,
        sampling=sampling,
        inside=first.inside and second.inside,
        lattice=first.lattice and second.lattice,
        reasons=(*first.reasons, reason),
    )


def warps(first: Node, second: Node) -> Node | None:
    """Projective maps multiply, if one way of reading pixels serves both.

    Interpolation and antialiasing are those of the one that interpolates; the border is
    that of the one that looks beyond the edge. A mirrored or repeated edge is that of the
    first input only: nothing before it may have moved pixels off the grid, and nothing
    after it may look beyond the edge again.
    """
    if first.kind is not Warp or second.kind is not Warp:
        return None
    a, b = first.sampling, second.sampling
    reads, other = (b, a) if first.lattice else (a, b)
    same = (
        reads.interpolation == other.interpolation
        and reads.mask_interpolation == other.mask_interpolation
        and reads.antialias == other.antialias
    )
    if not (first.lattice or second.lattice or same):
        return None
    if second.inside:
        borders = a
    elif first.inside:
        if b.border != "constant" and not first.lattice:
            return None
        borders = b
    elif a.border == b.border == "constant" and (a.fill, a.mask_fill) == (b.fill, b.mask_fill):
        borders = a
    else:
        return None
    sampling = replace(reads, border=borders.border, fill=borders.fill, mask_fill=borders.mask_fill)
    return _joined(first, second, sampling, "projective maps multiply: pixels are read once")


def colors(first: Node, second: Node) -> Node | None:
    """Linear colour maps multiply; contrast's mean is known from the input's mean."""
    if first.kind is not Color or second.kind is not Color:
        return None
    return _joined(first, second, first.sampling, "linear colour multiplies: clipped once")


def curves(first: Node, second: Node) -> Node | None:
    """Curves compose into one table."""
    if first.kind is not Curve or second.kind is not Curve:
        return None
    return _joined(first, second, first.sampling, "curves compose into one table")


def normalizing(first: Node, second: Node) -> Node | None:
    """Normalization is done in the pass that last touched the levels, before they are rounded."""
    if first.kind not in (Color, Curve) or second.kind is not Normalize:
        return None
    return _joined(first, second, first.sampling, "normalized before rounding, in the same pass")


RULES: tuple[Rule, ...] = (warps, colors, curves, normalizing)


def fuse(nodes: Sequence[Node], rules: Sequence[Rule] = RULES) -> tuple[Node, ...]:
    """Joins each node to the one before it where a rule allows."""
    out: list[Node] = []
    for each in nodes:
        joined = None
        if out and out[-1].cached == each.cached:
            joined = next((j for rule in rules if (j := rule(out[-1], each))), None)
        if joined is None:
            out.append(each)
        else:
            out[-1] = joined
    return tuple(out)


def plan(
    ops: Sequence[Op], counter: Counter[str], fused: bool = True, cached: bool = False
) -> tuple[Node, ...]:
    """Returns the plan of a section.

    Args:
        ops: The section's ops.
        counter: How many ops of each name stood before; it is counted on (see nodes.steps).
        fused: Whether ops may share a pass.
        cached: Whether what the first ops always do alike is kept. What follows shares no pass
            with them.
    """
    laid = steps(ops, counter)
    fixed = sum(1 for _ in takewhile(is_fixed, laid)) if cached else 0
    nodes = tuple(replace(node(step), cached=k < fixed) for k, step in enumerate(laid))
    return fuse(nodes) if fused else nodes
