"""A transform's arguments, and the native ops that it becomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Item = dict[str, dict[str, Any]]


MISFITS = (TypeError, ValueError, KeyError, OverflowError)
"""What comes of an argument that is not of its kind, where no `Unlike` says it better."""


class Unlike(ValueError):  # noqa: N818 - reads as a verdict, not as a failure of ours
    """A transform that no native op can say, with the reason."""


def misfit(error: Exception) -> str:
    """Says why a transform is not native."""
    return str(error) if isinstance(error, Unlike) else "an argument of another kind than usual"


@dataclass
class Args:
    """A transform's arguments; what nobody reads cannot be lost unnoticed."""

    values: Mapping[str, Any]
    read: set[str] = field(default_factory=set)

    def take(self, name: str, default: Any = None) -> Any:
        """Returns an argument as it stands; the default where there is none."""
        self.read.add(name)
        return self.values.get(name, default)

    def skip(self, *names: str) -> None:
        """Passes over arguments that change no pixel here."""
        self.read.update(names)

    def expect(self, name: str, *usual: Any) -> None:
        """Passes over an argument that has its usual value.

        Raises:
            Unlike: It has another.
        """
        if self.take(name, usual[0]) not in usual:
            raise Unlike(f"{name}={self.values[name]} has no native counterpart")

    def number(self, name: str, default: float) -> float:
        """Returns a number."""
        value = self.take(name, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise Unlike(f"{name}={value} is not a number")
        return value

    def numbers(self, name: str, default: Sequence[float], count: int = 2) -> list[float]:
        """Returns a list of so many numbers; one number stands for all of them."""
        value = self.take(name, default)
        value = list(value) if isinstance(value, (list, tuple)) else [value] * count
        if len(value) != count or not all(is_number(each) for each in value):
            raise Unlike(f"{name}={self.values.get(name)} is not {count} numbers")
        return value

    def unread(self) -> list[str]:
        """Returns the arguments that nobody asked for."""
        return [name for name in self.values if name not in self.read]


def is_number(value: Any) -> bool:
    """Tells whether a value is a number and not true or false."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def tidy(*values: float) -> list[float]:
    """Returns numbers without the dust of their arithmetic."""
    return [round(value, 10) for value in values]


@dataclass(frozen=True)
class Native:
    """What a transform is natively.

    Args:
        items: Its ops, in their order.
        changes: Each difference in meaning, in words.
    """

    items: list[Item]
    changes: tuple[str, ...] = ()


def one(name: str, *changes: str, **parameters: Any) -> Native:
    """Returns a transform that is one native op."""
    return Native([{name: parameters}], changes)


def jitter(ranges: Mapping[str, Sequence[float]]) -> Native:
    """Returns a colour jitter as one op where its ranges allow it, or as one each.

    Args:
        ranges: The factors' and the hue shift's, by "brightness", "contrast", "saturation" and
            "hue"; what is missing stays.
    """
    how = ["levels are clipped once at the end, there after each of four steps in random order"]
    if "hue" in ranges:
        how.append("hue turns in YIQ, there in HSV")
    strengths = {}
    for name, (low, high) in ranges.items():
        (strength,) = tidy(high if name == "hue" else high - 1.0)
        fits = -low == high if name == "hue" else [low] == tidy(max(0.0, 1.0 - strength))
        if strength >= 0 and fits:
            strengths[name] = strength
    if len(strengths) == len(ranges):
        return one("color_jitter", *how, **strengths)
    order = [name for name in ("hue", "saturation", "contrast", "brightness") if name in ranges]
    field_names = {name: "shift" if name == "hue" else "factor" for name in order}
    items: list[Item] = [{name: {field_names[name]: list(ranges[name])}} for name in order]
    return Native([{"sequence": {"ops": items}}], tuple(how))
