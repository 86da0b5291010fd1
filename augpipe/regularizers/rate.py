"""Rates that change during training: a number, or where it goes, how, and in how many steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from augpipe.errors import did_you_mean
from augpipe.spec import Declaration, Json, Number, Refused

SHAPES = ("linear", "cosine", "step")


@dataclass(frozen=True, slots=True)
class Schedule:
    """A rate over the steps of training.

    rate(t) = start + (end - start) s(u), u = clip((t - after) / steps, 0, 1), where s(u) is u for
    linear, (1 - cos(pi u)) / 2 for cosine, and 0 until u = 1 for step.

    Args:
        start: The rate at first.
        end: The rate at last.
        steps: Over how many optimizer steps it changes.
        after: How many steps it waits first.
        shape: linear, cosine or step.
    """

    start: float
    end: float
    steps: int
    after: int = 0
    shape: str = "linear"

    def at(self, step: int) -> float:
        """Returns the rate after this many optimizer steps."""
        share = min(max((step - self.after) / self.steps, 0.0), 1.0)
        match self.shape:
            case "cosine":
                share = (1 - math.cos(math.pi * share)) / 2
            case "step":
                share = float(share >= 1.0)
        return self.start + (self.end - self.start) * share

    def __str__(self) -> str:
        wait = f" after {self.after}" if self.after else ""
        return f"{self.start:g} to {self.end:g} over {self.steps} steps{wait} ({self.shape})"


@dataclass(frozen=True)
class Rate(Declaration):
    """A number in [low, high], or a schedule between two of them.

    A schedule is a mapping: {start: 0, end: 0.1, steps: 5000, after: 0, shape: linear}.
    """

    low: float | None = None
    high: float | None = None
    unit: str = ""
    above: bool = False

    @property
    def number(self) -> Number:
        """The declaration of each end."""
        return Number(self.low, self.high, self.unit, above=self.above)

    def allowed(self) -> str:
        schedule = "{start, end, steps, after: 0, shape: linear|cosine|step}"
        return f"{self.number.allowed()}, or a schedule {schedule}"

    def parse(self, value: Any) -> float | Schedule:
        if isinstance(value, Schedule):
            value = self.plain(value, defaults=True)
        if not isinstance(value, Mapping):
            return self.number.parse(value)
        known = ("start", "end", "steps", "after", "shape")
        for key in value:
            if key not in known:
                hint = did_you_mean(str(key), known) or f"known: {', '.join(known)}"
                raise Refused(f"a schedule has no '{key}', {hint}")
        for key in known[:3]:
            if key not in value:
                raise Refused(f"a schedule needs '{key}'")
        shape = value.get("shape", "linear")
        if shape not in SHAPES:
            raise Refused(f"shape is one of {', '.join(SHAPES)}")
        count = Number(0, 2**53, integer=True)
        try:
            steps = Number(1, 2**53, integer=True).parse(value["steps"])
            after = count.parse(value.get("after", 0))
        except Refused:
            raise Refused("steps is an integer of at least 1, after one of at least 0") from None
        start, end = (self.number.parse(value[key]) for key in ("start", "end"))
        return Schedule(start, end, int(steps), int(after), shape)

    def plain(self, value: Any, defaults: bool = False) -> Any:
        if not isinstance(value, Schedule):
            return value
        out: dict[str, Any] = {"start": value.start, "end": value.end, "steps": value.steps}
        if value.after or defaults:
            out["after"] = value.after
        if value.shape != "linear" or defaults:
            out["shape"] = value.shape
        return out

    def schema(self) -> Json:
        number = self.number.schema()
        count: Json = {"type": "integer", "minimum": 0}
        schedule: Json = {
            "type": "object",
            "properties": {
                "start": number,
                "end": number,
                "steps": {"type": "integer", "minimum": 1},
                "after": count,
                "shape": {"enum": list(SHAPES)},
            },
            "required": ["start", "end", "steps"],
            "additionalProperties": False,
        }
        return {"anyOf": [number, schedule]}

    def bad_values(self) -> Iterable[Any]:
        yield from self.number.bad_values()
        good = self.high if self.high is not None else (self.low or 0.0) + 1.0
        yield {"start": good}
        yield {"start": good, "end": good, "steps": 0}
        yield {"start": good, "end": good, "steps": 5, "shape": "wavy"}
        yield {"start": good, "end": good, "steps": 5, "stop": 1}
        for bad in self.number.bad_values():
            yield {"start": good, "end": bad, "steps": 5}
