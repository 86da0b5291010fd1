"""What can go wrong, each with its place and its remedy.

Every error a user can cause derives from `AugpipeError`: the command line prints its
text as it stands (no traceback unless `--debug`) and exits with its `exit_code`.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


class AugpipeError(Exception):
    """A failure while running: what failed, where, and what was kept."""

    exit_code = 1


class DivergedError(AugpipeError):
    """A training or a fit that cannot go on: a loss or a weight became NaN or infinite."""


class UsageError(AugpipeError):
    """A wrong call or a wrong argument: nothing was done."""

    exit_code = 2


class DataError(AugpipeError):
    """An input that cannot be used.

    Args:
        where: The file or the item, as the user named it.
        reason: What is wrong with it, in one line. Left out where `where` is the whole text,
            as when torch makes a worker's exception anew from its text.
    """

    def __init__(self, where: object, reason: str = "") -> None:
        super().__init__(f"{where}: {reason}" if reason else str(where))
        self.where = str(where)
        self.reason = reason

    def __reduce__(self) -> tuple[type[DataError], tuple[str, str]]:
        return type(self), (self.where, self.reason)


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a value stands in a file. Lines and columns count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a recipe.

    Args:
        place: Where it stands, or None where there is no file (an override, a dict).
        path: The key path, such as `sample[2].rotate.degrees`.
        message: What is wrong and what is allowed.
        hint: What to write instead, or "".
    """

    place: Place | None
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        path = f"{self.path}: " if self.path else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{path}{self.message}{hint}"


class RecipeError(UsageError):
    """A recipe that does not hold, with every problem found in it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def __reduce__(self) -> tuple[type[RecipeError], tuple[tuple[Problem, ...]]]:
        return type(self), (self.problems,)


class SiteError(UsageError):
    """Techniques that find no place in a model, all of them.

    Args:
        problems: What is wrong with each, by its place in the list of techniques.
    """

    def __init__(self, problems: Mapping[int, str]) -> None:
        self.problems = dict(sorted(problems.items()))
        super().__init__("\n".join(self.problems.values()))

    def __reduce__(self) -> tuple[type[SiteError], tuple[dict[int, str]]]:
        return type(self), (self.problems,)


def reason(error: OSError) -> str:
    """Returns why the system refused, in its words: "no space left on device"."""
    return (error.strerror or str(error)).lower()


def in_a_line(error: BaseException) -> str:
    """Returns an unforeseen exception's type and the first line of its message."""
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0]}"


def printable(text: str) -> str:
    r"""Returns text in one line that moves no cursor: a control character stands as its escape."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns "did you mean 'x'?" for the nearest known words, or ""."""
    near = difflib.get_close_matches(word, list(known), n=2, cutoff=0.6)
    return f"did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def first_sentence(error: BaseException) -> str:
    """Returns the beginning of what a library says went wrong."""
    lines = str(error).strip().splitlines() or ["not available"]
    return lines[0].split(". ")[0][:160]


def check_options(cls: type, options: Iterable[str], more: Sequence[str]) -> None:
    """Refuses, with a hint, options that a class does not have."""
    own = [
        name
        for name, each in inspect.signature(cls).parameters.items()
        if each.kind is each.KEYWORD_ONLY and name not in ("seed", "keep")
    ]
    known = [*own, *more]
    for name in options:
        if name not in known:
            hint = did_you_mean(name, known) or f"known: {', '.join(known)}"
            raise UsageError(f"{cls.__name__} has no option '{name}' ({hint})")
