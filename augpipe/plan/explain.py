"""The plan in words: what is done in one pass, why it could join, and why not more did."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from augpipe.errors import UsageError
from augpipe.ir import Foreign, Meaning, Warp, size_after
from augpipe.plan.nodes import Node, Step, node, realise
from augpipe.plan.placement import PLACEMENTS
from augpipe.plan.rules import RULES
from augpipe.rng import Draws
from augpipe.settings import ConstraintRule
from augpipe.types import Frame, Ints

_LONGEST = 65_535  # pixels of a side that a size may have
_DRAWS = 256  # how many draws a size is said to range over
_WORDS = {
    "Foreign": "other library",
    "Generated": "generator",
    "Latent": "autoencoder",
    "Taught": "augmentation network",
    "Color": "colour matrix",
    "Curve": "curve table",
    "Flow": "flow field",
}
_CACHED = "always the same: cached"
_HEAD = ("#", "pass", "op", "when", "size after", "why")


@dataclass(frozen=True, slots=True)
class Part:
    """A section of the recipe, planned and placed.

    Args:
        name: The section's key in the recipe.
        nodes: Its plan.
        backend: Which backend does it.
        why: Why that one, in a few words.
    """

    name: str
    nodes: tuple[Node, ...]
    backend: str
    why: str


@dataclass(frozen=True, slots=True)
class Line:
    """One step of a pass.

    Args:
        key: The op's key, such as `rotate#0`.
        when: Where it acts: its probability and the combinators above it; "" for always.
        why: Why it joined the pass, or, of the first step, why it began a new one; "" at
            the head of a section.
    """

    key: str
    when: str
    why: str


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over the pixels.

    Args:
        section: The section it belongs to.
        number: Its place in the section, from 1.
        kind: What its steps mean, in words.
        lines: Its steps.
        backend: Which backend does it.
        size: The (height, width) after it in words, or "" where no size was given.
    """

    section: str
    number: int
    kind: str
    lines: tuple[Line, ...]
    backend: str
    size: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """A plan in words; `str` lays it out as a table.

    Args:
        parts: The sections that were explained.
        passes: All passes, in order.
        size: The (height, width) it was explained for, if any.
        constraint: What must hold after each section's geometry.
    """

    parts: tuple[Part, ...]
    passes: tuple[Pass, ...]
    size: tuple[int, int] | None = None
    constraint: ConstraintRule | None = None

    def __str__(self) -> str:
        blocks = [self._block(part) for part in self.parts]
        if blocks and (rule := self.constraint) is not None:
            times = plural(rule.retries, "time")
            share = f"{rule.min_visibility:g} of what was seen of every box"
            blocks.append(f"constraint: keeps {share}, or is drawn again, up to {times}")
        return "\n\n".join(blocks) or "nothing to do: the recipe has no ops"

    def _block(self, part: Part) -> str:
        own = [each for each in self.passes if each.section == part.name]
        ops, passes = count(part.nodes)
        title = f"{part.name}: {plural(ops, 'op')} in {plural(passes, 'pass')}"
        before = self.passes[: self.passes.index(own[0])]
        given = "{} × {}".format(*self.size) if self.size else ""
        begin = before[-1].size if before else given
        start = f", from {begin}" if begin and begin != "?" else ""
        rows = [_HEAD]
        for each in own:
            for i, line in enumerate(each.lines):
                first = (str(each.number), each.kind, each.size) if i == 0 else ("", "", "")
                rows.append((*first[:2], line.key, line.when, first[2], line.why))
        return f"{title}{start}, on {part.backend} ({part.why})\n\n{_table(rows)}"


def explain(
    sample: Sequence[Node],
    batch: Sequence[Node] = (),
    size: tuple[int, int] | None = None,
    constraint: ConstraintRule | None = None,
) -> Explanation:
    """Explains a plan.

    Args:
        sample: The plan of the sample section.
        batch: The plan of the batch section.
        size: The (height, width) of the images, each from 1 to 65535, to say the frame size
            after each pass; one that is drawn is given as what 256 draws span.
        constraint: What must hold after each section's geometry.

    Raises:
        UsageError: If the size is not two such numbers.
    """
    size = None if size is None else _checked(size)
    parts = [
        Part(place.section, tuple(nodes), place.backend, place.why)
        for nodes, place in zip((sample, batch), PLACEMENTS, strict=True)
        if nodes
    ]
    passes: list[Pass] = []
    frame = Frame(np.tile(np.asarray(size, np.int64), (_DRAWS, 1))) if size else None
    for part in parts:
        sizes = [""] * len(part.nodes)
        if frame is not None:
            sizes, frame = _sizes(part.nodes, frame)
        for i, each in enumerate(part.nodes):
            apart = _apart(part.nodes[i - 1], each) if i else _CACHED * each.cached
            lines = zip(each.steps, (apart, *each.reasons), strict=True)
            passes.append(
                Pass(
                    part.name,
                    i + 1,
                    kind_in_words(each.kind),
                    tuple(Line(step.key, _when(step), why) for step, why in lines),
                    part.backend,
                    sizes[i],
                )
            )
    return Explanation(tuple(parts), tuple(passes), size, constraint)


def _checked(size: Sequence[int]) -> tuple[int, int]:
    try:
        height, width = (operator.index(side) for side in size)
    except (TypeError, ValueError):
        height, width = 0, 0
    if not (1 <= height <= _LONGEST and 1 <= width <= _LONGEST):
        raise UsageError(
            f"size {size!r}: needs two whole numbers, height and width, from 1 to {_LONGEST}"
        )
    return height, width


def count(nodes: Sequence[Node]) -> tuple[int, int]:
    """Returns how many ops and how many passes there are."""
    return len({step.key for each in nodes for step in each.steps}), len(nodes)


def plural(number: int, noun: str) -> str:
    """Returns "1 op", "2 ops", "3 passes"."""
    ending = "" if number == 1 else "es" if noun.endswith("s") else "s"
    return f"{number} {noun}{ending}"


def kind_in_words(kind: type[Meaning]) -> str:
    """Names a meaning for people: "warp", "colour matrix"."""
    return _WORDS.get(kind.__name__, kind.__name__.lower())


def _when(step: Step) -> str:
    """Says where a step acts."""
    words = []
    for gate in step.gates:
        own = gate.key == step.key  # a policy's: its name stands beside this
        words.append(f"{'' if own else gate.key} {gate.combinator.role(gate.slot, gate.branch)}")
    words = [each.strip() for each in words]
    words += [f"p {step.op.p:g}"] if step.op.p < 1 else []
    return ", ".join(words)


def _sizes(nodes: Sequence[Node], frame: Frame) -> tuple[list[str], Frame | None]:
    """Says the size after each node over the draws, and returns the last frame.

    What another library's transform leaves is not known before it is called: "?" and None.
    """
    out: list[str] = []
    draws = Draws(0, np.arange(len(frame)))
    known = list(itertools.takewhile(lambda each: each.kind is not Foreign, nodes))
    for meaning in realise(known, draws, frame):
        frame = size_after(meaning, frame)
        out.append(_span(frame.sizes))
    if len(known) == len(nodes):
        return out, frame
    return [*out, *["?"] * (len(nodes) - len(known))], None


def _span(sizes: Ints) -> str:
    """Words the sizes (n, 2) that n draws gave."""
    low, high = sizes.min(axis=0), sizes.max(axis=0)
    sides = [str(a) if a == b else f"{a}..{b}" for a, b in zip(low, high, strict=True)]
    return " × ".join(sides) + ("" if (low == high).all() else " drawn")


def _apart(first: Node, second: Node) -> str:
    """Says why a node could not join the one before it."""
    if first.cached and not second.cached:
        return "own pass: what stands before it is cached"
    alone = node(second.steps[0])  # what fusion tried to join
    if any(rule(first, alone) for rule in RULES):
        return "own pass: the recipe says fuse: false"
    return f"own pass: {_difference(first, alone)}"


def _difference(first: Node, second: Node) -> str:
    before, after = kind_in_words(first.kind), kind_in_words(second.kind)
    if first.kind is not second.kind:
        return f"different kind ({before}, then {after})"
    if first.kind is not Warp:
        return f"two of this kind ({after}) do not compose"
    a, b = first.sampling, second.sampling
    for name in ("interpolation", "mask_interpolation", "antialias", "border", "fill", "mask_fill"):
        own, other = getattr(a, name), getattr(b, name)
        matters = name in ("border", "fill", "mask_fill") or not (first.lattice or second.lattice)
        if own != other and matters:
            return f"different {name} ({_plain(own)}, then {_plain(other)})"
    return f"border {a.border} is known of the first input only"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Aligns rows in columns; columns that only the head fills are left out."""
    kept = [i for i in range(len(_HEAD)) if any(row[i] for row in rows[1:])]
    widths = [max(len(row[i]) for row in rows) for i in kept]
    lines = ("  ".join(row[i].ljust(w) for i, w in zip(kept, widths, strict=True)) for row in rows)
    return "\n".join(f"  {line}".rstrip() for line in lines)
