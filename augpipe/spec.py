"""Parameter declarations: one place says what a parameter may be.

A declaration stands in an annotation, `degrees: Annotated[Pair, Range(-360, 360, "degrees")]`,
and from it come the check, the words of the error, the JSON Schema, the row in the docs
and the bad values that the tests feed in. Pydantic collects them into models and reports
every error of a model at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticCustomError, core_schema

Pair = tuple[float, float]
IntPair = tuple[int, int]
Json = dict[str, Any]


class Refused(ValueError):  # noqa: N818 - reads as a verdict, not as a failure of ours
    """A value that a declaration does not allow."""


class ArgumentRefused(Refused):
    """A verdict on a whole model that one of its fields earned.

    Args:
        reason: Why.
        field: Which field, "" where that is not known.
    """

    def __init__(self, reason: str, field: str = "") -> None:
        super().__init__(reason)
        self.field = field


class Declaration:
    """What one parameter may be.

    A subclass words itself in `allowed`, checks and normalises a value in `parse` (raising
    `Refused`, with a reason or without), and gives its JSON Schema and its bad values.

    Attributes:
        neutral: The value with which an op changes nothing, where there is one.
    """

    neutral: float | None = None

    def allowed(self) -> str:
        """Says what is allowed, such as "a number from 0 to 1"."""
        raise NotImplementedError

    def parse(self, value: Any) -> Any:
        """Returns the value in its normal form, or raises `Refused`."""
        raise NotImplementedError

    def schema(self) -> Json:
        """Returns the JSON Schema of what `parse` takes."""
        raise NotImplementedError

    def bad_values(self) -> Iterable[Any]:
        """Yields values that must be refused."""
        raise NotImplementedError

    def plain(self, value: Any, defaults: bool = False) -> Any:
        """Returns a value in its normal form as YAML holds it: what `parse` takes.

        Args:
            value: What `parse` returned.
            defaults: Write every field of what stands inside, not only what differs.
        """
        return [self.plain(each) for each in value] if isinstance(value, tuple) else value

    def check(self, value: Any) -> Any:
        """Returns `parse(value)`; words the refusal for pydantic."""
        try:
            return self.parse(value)
        except Refused as refused:
            reason = f" ({refused})" if str(refused) else ""
            text = f"must be {self.allowed()}; got {shorten(value)}{reason}"
            raise PydanticCustomError("refused", "{text}", {"text": text}) from None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: Callable[[Any], core_schema.CoreSchema]
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.check)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> Json:
        return self.schema()


def shorten(value: Any, limit: int = 60) -> str:
    """Shows a value as YAML users write it, cut to `limit` characters."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = repr(list(value)) if isinstance(value, tuple) else repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _say(number: float) -> str:
    """Shows a number, a whole one without its point."""
    return str(int(number)) if number == int(number) else f"{number:g}"


def _is_number(value: Any, integer: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if integer else (int, float)):
        return False
    try:
        return math.isfinite(float(value))
    except OverflowError:  # an integer beyond all floats
        return False


@dataclass(frozen=True)
class Number(Declaration):
    """A finite number in [low, high], or in (low, high] with `above`."""

    low: float | None = None
    high: float | None = None
    unit: str = ""
    integer: bool = False
    above: bool = False
    odd: bool = False
    neutral: float | None = None

    def bounds(self) -> str:
        """Words the interval: "from 0 to 1 pixels"."""
        low = None if self.low is None else f"{'above' if self.above else 'from'} {_say(self.low)}"
        if self.high is None:
            words = low.replace("from", "at least") if low else ""
        else:
            words = f"{low or ''} {'and at most' if self.above else 'to'} {_say(self.high)}"
        return " ".join(filter(None, (words, self.unit)))

    def allowed(self) -> str:
        kind = "an integer" if self.integer else "a number"
        kind = "an odd integer" if self.odd else kind
        return f"{kind} {self.bounds()}".strip()

    def parse(self, value: Any) -> float | int:
        if not _is_number(value, self.integer):
            raise Refused
        if self.low is not None and (value < self.low or (self.above and value == self.low)):
            raise Refused
        if self.high is not None and value > self.high:
            raise Refused
        if self.odd and value % 2 == 0:
            raise Refused
        return int(value) if self.integer else float(value)

    def schema(self) -> Json:
        out: Json = {"type": "integer" if self.integer else "number"}
        if self.low is not None:
            out["exclusiveMinimum" if self.above else "minimum"] = self.low
        if self.high is not None:
            out["maximum"] = self.high
        return out

    def bad_values(self) -> Iterable[Any]:
        yield from ("many", None, True, [], math.nan, math.inf)
        if self.low is not None:
            yield self.low if self.above else self.low - 1
        if self.high is not None:
            yield self.high + 1
        if self.integer:
            yield 1.5


@dataclass(frozen=True)
class Range(Declaration):
    """A closed range [low, high] of numbers, each within [low, high] of the declaration."""

    low: float | None = None
    high: float | None = None
    unit: str = ""
    integer: bool = False
    above: bool = False
    neutral: float | None = None

    @property
    def number(self) -> Number:
        """The declaration of each end."""
        return Number(self.low, self.high, self.unit, self.integer, self.above)

    def allowed(self) -> str:
        kind = "a range [low, high] of " + ("integers" if self.integer else "numbers")
        return f"{kind} {self.number.bounds()}".strip()

    def parse(self, value: Any) -> tuple[float, float]:
        if _is_number(value, integer=False):
            raise Refused(self._instead(value))
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise Refused
        low, high = (self.number.parse(end) for end in value)
        if low > high:
            raise Refused(f"the ends are reversed: write [{high:g}, {low:g}]")
        return low, high

    def _instead(self, value: float) -> str:
        """Says what a lone number may have meant: that value, or as much to both sides."""
        fixed = f"[{value}, {value}] for one fixed value"
        if self.low is not None and self.low < 0 < value:
            return f"write [-{value}, {value}], or {fixed}"
        return f"write {fixed}"

    def schema(self) -> Json:
        return {"type": "array", "items": self.number.schema(), "minItems": 2, "maxItems": 2}

    def bad_values(self) -> Iterable[Any]:
        good = self.low if self.low is not None else self.high if self.high is not None else 0
        good = good + 1 if self.above else good
        yield from ("wide", None, True, good, [good], [good, good, good], {"low": good})
        yield [good + 0.5 if not self.integer else good + 1, good]
        for bad in self.number.bad_values():
            yield [good, bad]


@dataclass(frozen=True)
class Choice(Declaration):
    """One of a few words."""

    words: tuple[str, ...]

    def allowed(self) -> str:
        return "one of " + ", ".join(self.words)

    def parse(self, value: Any) -> str:
        if value not in self.words or not isinstance(value, str):
            from augpipe.errors import did_you_mean

            raise Refused(did_you_mean(value, self.words) if isinstance(value, str) else "")
        return value

    def schema(self) -> Json:
        return {"enum": list(self.words)}

    def bad_values(self) -> Iterable[Any]:
        yield from ("nonesuch", 1, None, [self.words[0]])


@dataclass(frozen=True)
class Flag(Declaration):
    """true or false."""

    def allowed(self) -> str:
        return "true or false"

    def parse(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise Refused
        return value

    def schema(self) -> Json:
        return {"type": "boolean"}

    def bad_values(self) -> Iterable[Any]:
        yield from ("yes", 1, None)


@dataclass(frozen=True)
class Text(Declaration):
    """A text that is not empty."""

    what: str

    def allowed(self) -> str:
        return self.what

    def parse(self, value: Any) -> str:
        if not isinstance(value, str) or not value or "\0" in value:
            raise Refused
        return value

    def schema(self) -> Json:
        return {"type": "string", "minLength": 1}

    def bad_values(self) -> Iterable[Any]:
        yield from ("", 1, None, ["x"], "a\0b")


@dataclass(frozen=True)
class Size(Declaration):
    """A size in pixels: one integer for both sides, or [height, width].

    With `short_side`, one integer stays as it is: the op reads it as the shorter side.
    """

    short_side: bool = False

    def allowed(self) -> str:
        one = "the shorter side" if self.short_side else "a square's side"
        return f"{one} or [height, width], in pixels, integers from 1 to 65535"

    def parse(self, value: Any) -> int | IntPair:
        side = Number(1, 65535, integer=True)
        if isinstance(value, (list, tuple)):
            if len(value) != 2:
                raise Refused
            height, width = (int(side.parse(each)) for each in value)
            return height, width
        one = int(side.parse(value))
        return one if self.short_side else (one, one)

    def schema(self) -> Json:
        side = {"type": "integer", "minimum": 1, "maximum": 65535}
        return {"anyOf": [side, {"type": "array", "items": side, "minItems": 2, "maxItems": 2}]}

    def bad_values(self) -> Iterable[Any]:
        yield from (0, -3, 1.5, "big", None, [4], [4, 0], [1, 2, 3], 65536, True)


@dataclass(frozen=True)
class Numbers(Declaration):
    """A list of numbers of a fixed or a free length; with `scalar`, one number alone too."""

    low: float | None = None
    high: float | None = None
    unit: str = ""
    count: int | None = None
    scalar: bool = False
    above: bool = False
    words: tuple[str, ...] = ()

    @property
    def number(self) -> Number:
        """The declaration of each number."""
        return Number(self.low, self.high, self.unit, above=self.above)

    def allowed(self) -> str:
        many = f"{self.count} numbers" if self.count else "numbers"
        either = "a number or " if self.scalar else ""
        words = "".join(f"'{word}', " for word in self.words)
        words = f"{words}or " if words else ""
        return f"{words}{either}a list of {many} {self.number.bounds()}".strip()

    def parse(self, value: Any) -> Any:
        if isinstance(value, str) and value in self.words:
            return value
        if self.scalar and not isinstance(value, (list, tuple)):
            return self.number.parse(value)
        if not isinstance(value, (list, tuple)) or len(value) not in (self.count or len(value),):
            raise Refused
        if not value:
            raise Refused
        return tuple(self.number.parse(each) for each in value)

    def schema(self) -> Json:
        many: Json = {"type": "array", "items": self.number.schema(), "minItems": self.count or 1}
        if self.count:
            many["maxItems"] = self.count
        forms: list[Json] = [many]
        if self.scalar:
            forms.insert(0, self.number.schema())
        if self.words:
            forms.append({"enum": list(self.words)})
        return forms[0] if len(forms) == 1 else {"anyOf": forms}

    def bad_values(self) -> Iterable[Any]:
        good = (self.low or 0.0) + 0.5
        yield from ("nonesuch", None, [], ["a"], {"r": 1})
        if self.count:
            yield [good] * (self.count + 1)
        for bad in self.number.bad_values():
            if not (isinstance(bad, list)):
                yield [bad] * (self.count or 1)


def declaration(metadata: Iterable[Any]) -> Declaration:
    """Returns the declaration among a field's annotations.

    Raises:
        TypeError: There is none: the field was not declared.
    """
    for each in metadata:
        if isinstance(each, Declaration):
            return each
    raise TypeError("a field without a declaration")
