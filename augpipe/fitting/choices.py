"""What a learned policy may choose among: core ops, each with a range as wide as its strength."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from augpipe import ops
from augpipe.ops.base import Op

Item = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Choice:
    """An op whose range is learned.

    Args:
        name: What plots and tables call it.
        item: The op as a recipe has it, for a strength from 0, which changes nothing or next to
            nothing, to 1.
        smooth: Whether pixels that come out follow those that go in; of the others the gradient is
            taken for that of the identity (a straight-through estimator).
        colours: Whether it is the identity on grey images.
    """

    name: str
    item: Callable[[float], Item]
    smooth: bool = True
    colours: bool = False

    def op(self, strength: float) -> Op:
        """Returns the op of a strength."""
        ((name, fields),) = self.item(strength).items()
        found = ops.find(name)
        assert found is not None
        return found.model_validate(fields)


def _factor(name: str, colours: bool = False) -> Choice:
    """Returns an op that scales about the unchanged image, by 1 - 0.9 s to 1 + 0.9 s."""
    return Choice(
        name,
        lambda s: {name: {"factor": [_short(1 - 0.9 * s), _short(1 + 0.9 * s)]}},
        colours=colours,
    )


def _sides(name: str, most: float, op: str, axis: str) -> Choice:
    """Returns an op along one axis, by `most` to either side."""

    def item(s: float) -> Item:
        own = [_short(-most * s), _short(most * s)]
        return {op: {each: own if each == axis else [0, 0] for each in ("x", "y")}}

    return Choice(name, item)


def _short(value: float) -> float:
    """Rounds a number as it is to stand in a recipe."""
    return round(value, 3)


CHOICES = (
    _sides("shear_x", 40.0, "shear", "x"),
    _sides("shear_y", 40.0, "shear", "y"),
    _sides("translate_x", 0.4, "translate", "x"),
    _sides("translate_y", 0.4, "translate", "y"),
    Choice("rotate", lambda s: {"rotate": {"degrees": [_short(-90 * s), _short(90 * s)]}}),
    Choice("scale", lambda s: {"scale": {"factor": [_short(1 / (1 + s)), _short(1 + s)]}}),
    _factor("brightness"),
    _factor("contrast"),
    _factor("saturation", colours=True),
    Choice("hue", lambda s: {"hue": {"shift": [_short(-s / 2), _short(s / 2)]}}, colours=True),
    _factor("sharpen"),
    Choice("gaussian_blur", lambda s: {"gaussian_blur": {"sigma": [0, _short(2 * s)]}}),
    Choice("posterize", lambda s: {"posterize": {"bits": [8 - round(6 * s), 8]}}, smooth=False),
    Choice("solarize", lambda s: {"solarize": {"threshold": [_short(256 * (1 - s)), 256]}}),
    Choice("autocontrast", lambda s: {"autocontrast": {"p": 1}}, smooth=False),
    Choice("equalize", lambda s: {"equalize": {"p": 1}}, smooth=False),
    Choice("cutout", lambda s: {"cutout": {"size": _short(max(0.8 * s, 0.01))}}),
)
"""RandAugment's 14 but the identity, and four more; those of colours on RGB alone."""


def choices_for(channels: int) -> tuple[Choice, ...]:
    """Returns what acts on images of so many channels."""
    return tuple(each for each in CHOICES if channels == 3 or not each.colours)
