"""Copies of several sources, drawn together.

To draw and compose parameters in NumPy takes as long for one image as for a dozen, and for an image
of 500 × 375 pixels that is a third of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from augpipe.errors import DataError
from augpipe.expansion.manifest import Parameters, parameters
from augpipe.expansion.names import Output
from augpipe.expansion.origins import Made, Origin, named
from augpipe.pipeline import Pipeline
from augpipe.rng import Trace
from augpipe.targets import Sample

_PIXELS = 4_000_000  # held at a time: many small images, few large ones
_FIRST, _MOST = 4, 64  # copies drawn at a time: at first, and when the size they get is known


class Opened(Protocol):
    """A source that was read."""

    @property
    def origin(self) -> Origin:
        """Which one it is."""

    @property
    def pixels(self) -> int:
        """How many it has."""

    def given(self, copy: int) -> Sample:
        """Returns what the sample section is given for a copy."""

    def made(self, output: Output, sample: Sample, drawn: Parameters) -> Made:
        """Returns the output that a copy becomes.

        Raises:
            DataError: If it cannot be written.
        """


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be made of one source.

    Args:
        origin: The source.
        outputs: What of it: the original, copies.
        open: Reads it. Returns what becomes of the original, if it is asked for, and the rest.
    """

    origin: Origin
    outputs: Sequence[Output]
    open: Callable[[], tuple[list[Made], Opened]]


@dataclass(slots=True)
class Largest:
    """The pixels of the largest output so far."""

    pixels: int = 0


@dataclass(frozen=True, slots=True)
class _Piece:
    """One copy that is to be made."""

    place: int
    opened: Opened
    output: Output
    copy: int


def made_of(
    orders: Sequence[Order],
    pipeline_of: Callable[[str | None], Pipeline],
    largest: Largest,
) -> Iterator[tuple[int, Made | DataError]]:
    """Yields each output, or why a source has none, with the place of its order.

    Copy k is what the pipeline makes of the source's index in epoch k, whichever are asked for
    together. Of a source that cannot be used an error is yielded once, maybe after some outputs.

    Args:
        orders: What is to be made. Each is opened once, in order, and closed before long.
        pipeline_of: The sample section for images of a class.
        largest: Tells how many copies may be held at a time.

    Raises:
        AugpipeError: What is no fault of one source.
    """
    failed: set[int] = set()
    waiting: list[_Piece] = []
    held = 0
    for place, order in enumerate(orders):
        try:
            with named(order.origin):
                originals, opened = order.open()
        except DataError as error:
            yield from _together(waiting, pipeline_of, largest, failed)  # what came before it
            waiting, held = [], 0
            yield place, error
            continue
        yield from ((place, each) for each in originals)
        del originals
        for output in order.outputs:
            if output.copy is None:
                continue
            room = max(opened.pixels, largest.pixels, 1)
            most = _MOST if largest.pixels else _FIRST
            if waiting and (len(waiting) >= most or held + room > _PIXELS):
                yield from _together(waiting, pipeline_of, largest, failed)
                waiting, held = [], 0
            waiting.append(_Piece(place, opened, output, output.copy))
            held += room
    yield from _together(waiting, pipeline_of, largest, failed)


def _together(
    pieces: Sequence[_Piece],
    pipeline_of: Callable[[str | None], Pipeline],
    largest: Largest,
    failed: set[int],
) -> Iterator[tuple[int, Made | DataError]]:
    """Does copies that are held at a time, each class by its own pipeline."""
    groups: dict[int, tuple[Pipeline, list[_Piece]]] = {}
    for each in pieces:
        pipeline = pipeline_of(each.opened.origin.label)
        groups.setdefault(id(pipeline), (pipeline, []))[1].append(each)
    for pipeline, some in groups.values():
        yield from _drawn(some, pipeline, largest, failed)


def _drawn(
    pieces: Sequence[_Piece], pipeline: Pipeline, largest: Largest, failed: set[int]
) -> Iterator[tuple[int, Made | DataError]]:
    pieces = [each for each in pieces if each.place not in failed]
    if not pieces:
        return
    trace: Trace = {}
    try:
        with named(pieces[0].opened.origin):
            samples = pipeline.run(
                [each.opened.given(each.copy) for each in pieces],
                np.array([each.opened.origin.index for each in pieces], np.int64),
                np.array([each.copy for each in pieces], np.int64),
                trace,
            )
            drawn = parameters(trace, len(pieces))
    except DataError as error:
        places = dict.fromkeys(each.place for each in pieces)
        if len(places) == 1:
            yield from _given_up(pieces[0], error, failed)
        else:  # which of them it is shows when each is alone
            for place in places:
                own = [each for each in pieces if each.place == place]
                yield from _drawn(own, pipeline, largest, failed)
        return
    for each, sample, noted in zip(pieces, samples, drawn, strict=True):
        if each.place in failed:
            continue
        try:
            with named(each.opened.origin):
                made = each.opened.made(each.output, sample, noted)
        except DataError as error:
            yield from _given_up(each, error, failed)
            continue
        largest.pixels = max(largest.pixels, sample.image.shape[0] * sample.image.shape[1])
        yield each.place, made


def _given_up(
    piece: _Piece, error: DataError, failed: set[int]
) -> Iterator[tuple[int, Made | DataError]]:
    failed.add(piece.place)
    yield piece.place, error
