"""What measured times say, in words: where the time goes, and what would save some of it.

Each rule looks at figures that were measured, and says nothing where they do not bear it out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

_WORTH = 0.1  # of the time, below which a change is not worth its line
_SURE = 0.15  # the same for what was measured with workers, which varies more
DOMINATES = 0.4
"""The share of the time from which decoding is worth a cache."""

Kind = Literal["decode", "cache", "draw", "pass", "collate", "batch"]


@dataclass(frozen=True, slots=True)
class Part:
    """What is done and what it takes.

    Args:
        name: What, in words.
        ms: Milliseconds an image.
        kind: What it belongs to.
    """

    name: str
    ms: float
    kind: Kind


@dataclass(frozen=True, slots=True)
class Load:
    """What a training loop waits that does nothing itself.

    Args:
        workers: Of the loader.
        backend: Of the loader.
        ms: Milliseconds an image.
    """

    workers: int
    backend: str
    ms: float


@dataclass(frozen=True, slots=True)
class Move:
    """What moving lines to the batch section does.

    Args:
        lines: The lines, as `sample[2] color_jitter`.
        ms: What is left for the CPU workers to do, in ms an image.
        on_cpu: All of it where the batch section runs on the CPU too; None if not measured.
        alike: Whether they can move only because all images are of one size.
    """

    lines: tuple[str, ...]
    ms: float
    on_cpu: float | None
    alike: bool = False


@dataclass(frozen=True, slots=True)
class Keeping:
    """What a cache would do.

    Args:
        ms: Milliseconds an image, once it is kept.
        gigabytes: All of the folder's images, kept, in 10⁹ bytes.
        side: The shorter side that images are resized to first; None if nothing is added.
    """

    ms: float
    gigabytes: float
    side: int | None


@dataclass(frozen=True, slots=True)
class Room:
    """Of a recipe with a cache: what it needs and has, in 10⁹ bytes."""

    needs: float
    has: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured.

    Args:
        parts: What is done in one thread, in order.
        cores: That the program may use.
        loads: The loader as asked for, and others; none where it does not load.
        move: The best lines to move; None if there are none.
        unmoved: Why there are none.
        keeping: With a cache; None if there is one, or it was not measured.
        room: The cache's room; None if there is no cache.
        scaled: With decoding at a fraction of the size, ms an image; None if that is on.
        halved: The share of the images that were decoded at a fraction of their size.
    """

    parts: tuple[Part, ...]
    cores: int
    loads: tuple[Load, ...] = ()
    move: Move | None = None
    unmoved: str = ""
    keeping: Keeping | None = None
    room: Room | None = None
    scaled: float | None = None
    halved: float = 0.0

    @property
    def total(self) -> float:
        """Milliseconds an image, all in all."""
        return sum(part.ms for part in self.parts)

    def of(self, kind: Kind) -> float:
        """Returns milliseconds an image of one kind."""
        return sum(part.ms for part in self.parts if part.kind == kind)


Rule = Callable[[Figures], str | None]


def bottleneck(figures: Figures) -> str:
    """Says what takes most of the time."""
    own = [part for part in figures.parts if part.kind == "pass"]
    largest = max(own, key=lambda part: part.ms, default=None)
    found: dict[Kind, float] = {
        "decode": figures.of("decode"),
        "cache": figures.of("cache"),
        "draw": figures.of("draw"),
        "pass": largest.ms if largest else 0.0,
        "collate": figures.of("collate"),
        "batch": figures.of("batch"),
    }
    kind = max(found, key=lambda each: found[each])
    share = f"{_share(found[kind], figures.total)} of the time"
    rest = _ms(figures.total - found[kind])
    match kind:
        case "decode":
            at = f" ({figures.halved:.0%} of the images".replace("%", " %")
            fraction = f"{at} at a fraction of their size)" if figures.halved else ""
            return f"decoding{fraction} takes {share}: all the rest takes {rest} ms an image"
        case "cache":
            return f"reading the cache takes {share}: all the rest takes {rest} ms an image"
        case "draw":
            return (
                f"drawing and composing parameters takes {share}: it is the same work for an image "
                "of any size"
            )
        case "pass":
            assert largest is not None
            return f"the pass {largest.name} takes {share}: all the rest takes {rest} ms an image"
        case "collate":
            return (
                f"making batches takes {share}: that is copying, and Python's work for each image"
            )
        case "batch":
            return (
                f"the batch section takes {share}: it was done on the CPU, and moves to a GPU whole"
            )


def move_lines(figures: Figures) -> str | None:
    """Which lines to move to the batch section, or that none is worth it."""
    before = figures.total - figures.of("batch")
    none = "nothing is to be gained by moving lines to `batch:`"
    if figures.move is None:
        return f"{none}: {figures.unmoved}" if figures.unmoved else None
    move = figures.move
    first, *others = (f"`{each}`" for each in move.lines)
    saved = before - move.ms
    if saved < _WORTH * before:
        which = f"from {first} on they" if others else f"{first}"
        little = f"take {_ms(max(saved, 0.0))}" if others else f"takes {_ms(max(saved, 0.0))}"
        return f"{none}: {which} {little} of the workers' {_ms(before)} ms an image"
    more = f" and what follows it ({', '.join(others)})" if others else ""
    text = (
        f"move {first}{more} to the head of `batch:`: the CPU workers then take {_ms(move.ms)} ms "
        f"an image instead of {_ms(before)} ({_share(saved, before)} less). "
    )
    if move.alike:
        text += "(They can move because all images measured are of one size.) "
    if move.on_cpu is None:
        return f"{text}It pays where `batch:` runs on a GPU, or on tiny images"
    whole = f"{_ms(move.on_cpu)} ms an image in all instead of {_ms(figures.total)}"
    if move.on_cpu <= (1 - _WORTH) * figures.total:
        return f"{text}It pays without a GPU too: on this CPU {whole}"
    if move.on_cpu < (1 + _WORTH) * figures.total:
        return f"{text}It pays where `batch:` runs on a GPU; on this CPU it makes no odds: {whole}"
    return f"{text}It pays where `batch:` runs on a GPU, not on this CPU: {whole}"


def keep(figures: Figures) -> str | None:
    """Whether to keep decoded images."""
    keeping = figures.keeping
    if keeping is None or figures.of("decode") < DOMINATES * figures.total:
        return None
    if keeping.ms > (1 - _WORTH) * figures.total:
        return None
    rule = "`cache: memory`"
    if keeping.gigabytes > 10:  # the rule's own max_gb
        rule = f"`cache: {{where: memory, max_gb: {_up(keeping.gigabytes)}}}`"
    text = (
        f"from the second epoch on an image takes {_ms(keeping.ms)} ms instead of "
        f"{_ms(figures.total)}; all images take about {_room(keeping.gigabytes)} in memory, or on "
        "disk where a folder stands in place of `memory`"
    )
    if keeping.side is None:
        return f"add {rule}: {text}"
    return (
        f"add {rule}, and `- resize: {keeping.side}` as the first line of `sample:`: {text}. It "
        "changes the pixels: crops are then taken of smaller images"
    )


def make_room(figures: Figures) -> str | None:
    """Whether the cache is too small."""
    room = figures.room
    if room is None or room.needs <= room.has:
        return None
    return (
        f"raise `cache.max_gb` to {_up(room.needs)}: all images take about {_room(room.needs)}, "
        f"and what is over {_room(room.has)} is decoded anew each epoch, and slower than measured"
    )


def scale(figures: Figures) -> str | None:
    """Whether to decode at a fraction of the size."""
    if figures.scaled is None or figures.scaled > (1 - _WORTH) * figures.total:
        return None
    return (
        f"load with `scaled_decoding=True`: an image takes {_ms(figures.scaled)} ms instead of "
        f"{_ms(figures.total)}"
    )


def choose_backend(figures: Figures) -> str | None:
    """Whether the other backend loads faster."""
    asked, *others = figures.loads or (None,)
    same = [each for each in others if asked and each.workers == asked.workers]
    if asked is None or not same or same[0].ms > (1 - _SURE) * asked.ms:
        return None
    return (
        f'load with `backend="{same[0].backend}"`: {_ms(same[0].ms)} ms an image instead of '
        f"{_ms(asked.ms)}"
    )


def add_workers(figures: Figures) -> str | None:
    """Whether more workers load faster, as long as there are cores."""
    asked, *others = figures.loads or (None,)
    more = [each for each in others if asked and asked.workers < each.workers <= figures.cores]
    if asked is None or not more:
        return None
    best = min(more, key=lambda each: each.ms)
    if best.ms > (1 - _SURE) * asked.ms:
        return None
    cores = f"{figures.cores} core{'s' * (figures.cores != 1)}"
    return (
        f"load with `workers={best.workers}`: {_ms(best.ms)} ms an image instead of "
        f"{_ms(asked.ms)} with {asked.workers}; there are {cores}"
    )


RULES: tuple[Rule, ...] = (move_lines, keep, make_room, scale, choose_backend, add_workers)


def advise(figures: Figures) -> tuple[str, ...]:
    """Returns what the figures say to do, a sentence or more each."""
    return tuple(text for rule in RULES if (text := rule(figures)) is not None)


def _ms(value: float) -> str:
    """Words milliseconds to three digits."""
    digits = 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:.{digits}f}"


def _share(part: float, whole: float) -> str:
    return f"{100.0 * part / whole:.0f} %"


def _room(gigabytes: float) -> str:
    """Words a size: "64 MB", "1.2 GB"."""
    if gigabytes >= 1:
        return f"{gigabytes:.{int(gigabytes < 10)}f} GB"
    return f"{gigabytes * 1000:.{int(gigabytes < 0.01)}f} MB"


def _up(gigabytes: float) -> int:
    """Returns whole gigabytes that hold it, with a tenth to spare."""
    return int(gigabytes * 1.1) + 1
