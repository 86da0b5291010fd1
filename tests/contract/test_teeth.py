"""The contract bites: an op sabotaged in one way fails the clause that speaks of it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import pytest

from augpipe import ops, rendering, targets
from augpipe.backends import opencv
from augpipe.ir import Color, Curve, Warp
from augpipe.ops.affine import Rotate
from augpipe.ops.base import Op
from augpipe.ops.color import Brightness
from augpipe.ops.distortion import Elastic
from augpipe.ops.geometry import HorizontalFlip
from augpipe.rng import Draws
from augpipe.spec import Number, Pair, Range
from augpipe.types import Frame
from tests.contract import clauses

TURN = Rotate(degrees=(20.0, 20.0))


def _scale(factor: Any) -> Color:
    return Color.of(np.asarray(factor)[:, None, None] * np.eye(3))


class GlobalRandom(Brightness):
    """Draws from NumPy's global generator."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        return _scale(np.random.uniform(0.5, 1.5, len(draw)))


class MovesGlobal(Brightness):
    """Gives the right answer, and moves the global generator."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        np.random.uniform()
        return super().means(draw, frame)


class LooksAtNeighbours(Brightness):
    """Depends on the other images of the batch."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        return _scale(draw.uniform("factor", 0.5, 1.5) + 0.001 * len(draw))


class CountsCalls(Brightness):
    """Keeps state between calls."""

    calls: ClassVar[list[int]] = [0]

    def means(self, draw: Draws, frame: Frame) -> Color:
        self.calls[0] += 1
        return _scale(np.full(len(draw), 1.0 + 0.01 * self.calls[0]))


class TakesAnything(Brightness):
    """Declares a check that never refuses."""

    class _Lax(Number):
        def parse(self, value: Any) -> Any:
            return value

    extra: Annotated[float, _Lax(0, 1)] = 0.5
    """Anything."""


class FailsOnNothing(Brightness):
    """Cannot stand an empty batch."""

    def means(self, draw: Draws, frame: Frame) -> Color:
        return _scale(np.full(len(draw), draw.uniform("factor")[0]))


class IgnoresGate(HorizontalFlip):
    """A meaning that acts where it was told not to."""

    def means(self, draw: Draws, frame: Frame) -> Warp:
        class Deaf(Warp):
            def gate(self, on: Any) -> Warp:
                return self

        warp = super().means(draw, frame)
        fields = (warp.matrix, warp.source, warp.size, warp.box, warp.lines, warp.sampling)
        return Deaf(*fields)


class MeansSomethingElse(Brightness):
    """Declares a colour map and means a curve."""

    def means(self, draw: Draws, frame: Frame) -> Any:
        return Curve((("gamma", np.full(len(draw), 0.5)),))


class AimsElsewhere(Brightness):
    """Declares a neutral value that is none."""

    factor: Annotated[Pair, Range(0, 1000, "times", neutral=0)] = (0.8, 1.2)
    """Brightness factor."""


class HoldsALambda(Brightness):
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("holds a lambda")


class ForgetsAField(Brightness):
    """Dumps something else than what it is."""

    def item(self) -> Any:
        return "brightness"


@pytest.mark.parametrize(
    ("clause", "op"),
    [
        (clauses.is_pure, GlobalRandom()),
        (clauses.is_pure, MovesGlobal()),
        (clauses.is_pure, CountsCalls()),
        (clauses.rows_stand_alone, LooksAtNeighbours()),
        (clauses.p_zero_is_identity, IgnoresGate()),
        (clauses.strength_leads_to_nothing, AimsElsewhere()),
        (clauses.kind_is_declared, MeansSomethingElse()),
        (clauses.empty_batch, FailsOnNothing()),
        (clauses.pickles, HoldsALambda()),
        (clauses.round_trips, ForgetsAField(factor=(0.2, 0.3))),
        (clauses.refuses_bad_values, TakesAnything()),
    ],
    ids=lambda v: getattr(v, "__name__", type(v).__name__),
)
def test_a_sabotaged_op_is_caught(clause: Any, op: Op, monkeypatch: Any) -> None:
    known = {**ops.catalogue(), op.name(): type(op)}
    monkeypatch.setattr("augpipe.ops.catalogue", lambda: known)
    with pytest.raises((AssertionError, IndexError, TypeError)):
        clause(op)


def _in_place(real: Any) -> Any:
    def render(meaning: Any, row: int, image: Any, into: Any = None) -> Any:
        image[0, 0] = 0
        return real(meaning, row, image)

    return render


def test_an_in_place_write_is_caught(monkeypatch: Any) -> None:
    clauses.input_is_untouched(TURN)
    monkeypatch.setattr(opencv, "render", _in_place(opencv.render))
    with pytest.raises(AssertionError, match="written to"):
        clauses.input_is_untouched(TURN)


def test_a_changed_dtype_is_caught(monkeypatch: Any) -> None:
    clauses.kind_is_kept(TURN)
    real = opencv.render
    monkeypatch.setattr(opencv, "render", lambda m, r, i, into: real(m, r, i).astype(np.float64))
    with pytest.raises(AssertionError, match="became"):
        clauses.kind_is_kept(TURN)


@pytest.mark.parametrize("shift", [0.5, -0.5])
def test_half_a_pixel_is_caught(monkeypatch: Any, shift: float) -> None:
    clauses.targets_agree_with_pixels(TURN)
    moved = np.array([[1.0, 0.0, -0.5 + shift], [0.0, 1.0, -0.5], [0.0, 0.0, 1.0]])
    monkeypatch.setattr(opencv.warp, "_UNHALF", moved)
    with pytest.raises(AssertionError, match="centre at"):
        clauses.targets_agree_with_pixels(TURN)


def test_a_wrong_box_is_caught(monkeypatch: Any) -> None:
    real = targets.move_outlines

    def turned_the_other_way(meaning: Warp, row: int, outlines: Any) -> Any:
        wrong = np.linalg.inv(meaning.matrix)
        fields = (wrong, meaning.source, meaning.size, meaning.box, meaning.lines)
        return real(Warp(*fields, meaning.sampling), row, outlines)

    monkeypatch.setattr(rendering, "move_outlines", turned_the_other_way)
    with pytest.raises(AssertionError):
        clauses.targets_agree_with_pixels(TURN)


STAYS = {
    "move_outlines": lambda meaning, row, outlines: outlines,
    "move_points": lambda meaning, row, points: points,
}


@pytest.mark.parametrize("op", [TURN, Elastic(amplitude=(0.03, 0.03))], ids=["warp", "flow"])
@pytest.mark.parametrize("name", STAYS)
def test_a_target_that_stays_behind_is_caught(monkeypatch: Any, name: str, op: Op) -> None:
    clauses.targets_agree_with_pixels(op)
    monkeypatch.setattr(rendering, name, STAYS[name])
    with pytest.raises(AssertionError):
        clauses.targets_agree_with_pixels(op)


@pytest.mark.parametrize("op", [TURN, Elastic(amplitude=(0.03, 0.03))], ids=["warp", "flow"])
def test_a_mask_that_stays_behind_is_caught(monkeypatch: Any, op: Op) -> None:
    monkeypatch.setattr(opencv, "render_mask", lambda meaning, row, mask: mask)
    with pytest.raises(AssertionError, match="mask"):
        clauses.targets_agree_with_pixels(op)
