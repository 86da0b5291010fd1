"""The plan as a value: steps (one op each) grouped into nodes (one pass over the pixels each)."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np

from augpipe.errors import DataError, UsageError
from augpipe.ir import (
    NETWORKS,
    WHOLE,
    Blend,
    Color,
    Curve,
    Flow,
    Meaning,
    Normalize,
    Regions,
    Warp,
    size_after,
)
from augpipe.ops.base import Combinator, Op
from augpipe.rng import Draws
from augpipe.targets import move_outlines
from augpipe.types import Array, Bools, Frame, Sampling


@dataclass(frozen=True, slots=True)
class Gate:
    """A combinator's say over a step: it acts where the combinator chose it.

    Args:
        key: The combinator's key.
        combinator: The combinator.
        slot: Which walk of its list this is.
        branch: The step's position in that list.
    """

    key: str
    combinator: Combinator
    slot: int
    branch: int


@dataclass(frozen=True, slots=True)
class Step:
    """One op at one place of the pipeline, with the combinators above it."""

    key: str
    op: Op
    gates: tuple[Gate, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """Steps that are done in one pass.

    Args:
        kind: The meaning they share.
        steps: In the recipe's order.
        sampling: How pixels are read (of warps and flows).
        inside: Whether no step looks beyond the edge of what it is given.
        lattice: Whether every step maps pixels onto pixels.
        reasons: Why each step after the first could join.
        cached: Whether its result is always the same, and kept.
    """

    kind: type[Meaning]
    steps: tuple[Step, ...]
    sampling: Sampling
    inside: bool = False
    lattice: bool = False
    reasons: tuple[str, ...] = ()
    cached: bool = False

    def __str__(self) -> str:
        """Names its ops."""
        return " + ".join(dict.fromkeys(step.key for step in self.steps))


def steps(ops: Sequence[Op], counter: Counter[str]) -> tuple[Step, ...]:
    """Lays ops out as steps; a combinator's ops stand once a slot, gated.

    A step's key is its op's name and how many of that name stand before it in the recipe,
    in reading order: `rotate#0`.

    Args:
        ops: A section of the recipe.
        counter: How many of each name stood before; it is counted on.
    """
    out: list[Step] = []
    for op in ops:
        name = op.name()
        key = f"{name}#{counter[name]}"
        counter[name] += 1
        if not isinstance(op, Combinator):
            out.append(Step(key, op))
            continue
        inner = [
            (Step(key, child),) if op.private else steps([child], counter) for child in op.inner()
        ]
        out.extend(
            replace(step, gates=(Gate(key, op, slot, branch), *step.gates))
            for slot in range(op.slots)
            for branch, own in enumerate(inner)
            for step in own
        )
    return tuple(out)


def places(section: str, ops: Sequence[Op], counter: Counter[str]) -> dict[str, str]:
    """Returns where in the recipe each step's op stands, by the step's key: `batch[1]`.

    Args:
        section: The section's name.
        ops: Its ops.
        counter: See `steps`.
    """
    return {
        step.key: f"{section}[{i}]" for i, op in enumerate(ops) for step in steps([op], counter)
    }


@contextmanager
def located(places: Mapping[str, str]) -> Iterator[None]:
    """Adds to the errors of ops where these stand in the recipe."""
    try:
        yield
    except DataError as error:
        found = [places[key] for key in error.where.split(" + ") if key in places]
        if not found:
            raise
        where = ", ".join(dict.fromkeys(found))
        raise DataError(error.where, f"{error.reason} (at {where})") from error.__cause__


def node(step: Step) -> Node:
    """Returns the node that does one step alone."""
    op = step.op
    assert op.kind is not None
    return Node(op.kind, (step,), op.sampling, op.inside, op.lattice)


def is_fixed(step: Step) -> bool:
    """Tells whether a step draws nothing and leaves grey levels: it gives the same each time."""
    one = node(step)
    alike = not step.gates and step.op.p >= 1.0 and not step.op.last
    return alike and one.kind not in (*WHOLE, Normalize) and not layout((one,))


def segments(nodes: Sequence[Node]) -> tuple[tuple[tuple[Node, ...], Node | None], ...]:
    """Cuts a plan where the images themselves are needed to go on.

    Returns:
        Pairs: nodes that one drawing serves, and a node that follows them which takes the
        images themselves, after which sizes are known again; None at the end.
    """
    out: list[tuple[tuple[Node, ...], Node | None]] = []
    first = 0
    for k, each in enumerate(nodes):
        if each.kind in WHOLE:
            out.append((tuple(nodes[first:k]), each))
            first = k + 1
    return (*out, (tuple(nodes[first:]), None))


def realise(
    nodes: Sequence[Node], draws: Draws, frame: Frame, sparse: bool = False
) -> list[Meaning]:
    """Returns what each node means for n images; see `realised`."""
    return [meaning for _, meaning in realised(nodes, draws, frame, sparse)]


def realised(
    nodes: Sequence[Node], draws: Draws, frame: Frame, sparse: bool = False
) -> list[tuple[Node, Meaning]]:
    """Draws every op's parameters for n images and composes each node's meaning.

    Where the draws keep a trace, it gets for each op the parameters of the walk in which it
    acted, and "on", (n,): whether it acted at all.

    Args:
        nodes: The plan.
        draws: Of the n images.
        frame: The n images.
        sparse: Leave out the steps that act on none of them, and nodes of such steps only;
            without a trace. Else there are as many meanings as nodes.

    Raises:
        DataError: An op acts on an image that it cannot take.
    """
    chosen: dict[str, Bools] = {}
    out: list[tuple[Node, Meaning]] = []
    for each in nodes:
        whole: Meaning | None = None
        for step in each.steps:
            on = _acts(step, draws, chosen)
            if sparse and on is not None and draws.trace is None and not on.any():
                continue
            own = draws.at(step.key)
            own = own if draws.trace is None else replace(own, trace={})
            meaning = step.op.means(own, frame)
            _check_fit(step, frame, on)
            if own.trace is not None and draws.trace is not None:
                _note(draws.trace.setdefault(step.key, {}), own.trace.get(step.key, {}), on)
            if on is not None:
                meaning = meaning.gate(on)
            frame = _after(meaning, frame)
            whole = meaning if whole is None else _compose(whole, meaning)
        if whole is None:
            continue
        if isinstance(whole, Warp) and whole.sampling != each.sampling:
            whole = replace(whole, sampling=each.sampling)
        out.append((each, whole))
    return out


def _after(meaning: Meaning, frame: Frame) -> Frame:
    """Returns the frame that the next op will see, with its boxes where they are asked for."""
    out = size_after(meaning, frame)
    if frame.outlines is None or not isinstance(meaning, Warp | Flow):
        return replace(out, outlines=frame.outlines)
    moved = [
        [move_outlines(meaning, row, each) for each in sets]
        for row, sets in enumerate(frame.outlines)
    ]
    return replace(out, outlines=moved)


def layout(nodes: Sequence[Node]) -> tuple[tuple[tuple[str, str], int], ...]:
    """Returns what a plan draws: op key and name, and how many blocks (see Draws.together).

    It is the same for any images, so no image at all shows it.
    """
    asked: dict[tuple[str, str], int] = {}
    nothing = np.zeros(0, np.int64)
    realise(nodes, Draws(0, nothing, asked=asked), Frame(nothing.reshape(0, 2)))
    return tuple(asked.items())


def _acts(step: Step, draws: Draws, chosen: dict[str, Bools]) -> Bools | None:
    """Returns (n,): where the step acts; None for everywhere."""
    on: Bools | None = None
    if not step.gates and step.op.p >= 1.0:
        return None
    silent = replace(draws, trace=None) if draws.trace is not None else draws  # "on" says it all
    for gate in step.gates:
        if gate.key not in chosen:
            own = draws.at(gate.key)
            acts = silent.at(gate.key).chance("p", gate.combinator.p)
            own.note("on", acts)
            chosen[gate.key] = gate.combinator.choose(own) & acts[:, None, None]
        branch = chosen[gate.key][:, gate.slot, gate.branch]
        on = branch if on is None else on & branch
    if step.op.p < 1.0:
        own_on = silent.at(step.key).chance("p", step.op.p)
        on = own_on if on is None else on & own_on
    return on


def _check_fit(step: Step, frame: Frame, on: Bools | None) -> None:
    unfit = step.op.unfit(frame)
    if unfit is None:
        return
    rows = np.flatnonzero(unfit if on is None else unfit & on)
    if len(rows):
        height, width = frame.sizes[rows[0]]
        raise DataError(step.key, f"{step.op.needs()}; the image has {height} × {width}")


def _note(noted: dict[str, Array], drawn: dict[str, Array], on: Bools | None) -> None:
    """Notes what a step drew, over what its other walks drew where it did not act then."""
    for name, values in drawn.items():
        if on is not None and name in noted:
            values = np.where(on.reshape(-1, *[1] * (values.ndim - 1)), values, noted[name])
        noted[name] = values
    if on is not None:
        noted["on"] = on | noted["on"] if "on" in noted else on


def _compose(first: Meaning, second: Meaning) -> Meaning:
    match first, second:
        case (Warp(), Warp()):
            return first.then(second)
        case (Color(), Color() | Normalize()):
            return first.then(second)
        case (Curve(), Curve() | Normalize()):
            return first.then(second)
    raise TypeError(f"{type(first).__name__} does not compose with {type(second).__name__}")


def check_channels(nodes: Sequence[Node], channels: int) -> None:
    """Refuses, by the op's key, images of a channel count that an op cannot take.

    Raises:
        DataError: There is such an op.
    """
    have = f"the image has {channels} channel{'s' * (channels != 1)}"
    for step in (step for each in nodes for step in each.steps):
        op = step.op
        if op.rgb_only and channels not in (3, 4):
            raise DataError(step.key, f"needs RGB; {have}")
        coloured = op.kind in (Color, Blend, *NETWORKS) or op.name() == "clahe"
        if coloured and channels not in (1, 3, 4):
            raise DataError(step.key, f"needs grey or RGB; {have}")
        levels = getattr(op, "fill", None)
        if isinstance(levels, tuple) and op.kind is not Color:
            spared = op.kind is Regions and channels == 4  # alpha is not filled
            if len(levels) not in (1, channels - spared):
                raise DataError(step.key, f"its fill has {len(levels)} levels; {have}")


def check_targets(nodes: Sequence[Node]) -> None:
    """Refuses, by the op's key, masks, boxes and keypoints that would fit nothing.

    Raises:
        DataError: There is such an op.
    """
    for step in (step for each in nodes for step in each.steps):
        if step.op.misplaced:
            raise DataError(step.key, step.op.misplaced)


def sees_boxes(nodes: Sequence[Node]) -> bool:
    """Tells whether what an op draws depends on the boxes."""
    return any(step.op.sees_boxes for each in nodes for step in each.steps)


def keys_of(indices: Sequence[int] | Array, count: int) -> Array:
    """Returns (count,) indices as integers; refuses others, which would be keyed alike."""
    keys = [operator.index(index) for index in indices]
    if len(keys) != count:
        raise UsageError(f"{len(keys)} indices for {count} items")
    for key in keys:
        if not 0 <= key < 2**63:
            raise UsageError(f"index {key}: an index is from 0 to 2**63 - 1")
    return np.array(keys, np.int64)
