"""What every importer writes on: a recipe that grows, and the notes about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import yaml

from augpipe.errors import RecipeError, UsageError
from augpipe.foreign import facts
from augpipe.importers.args import Item, Native, tidy
from augpipe.importers.levels import Levels
from augpipe.ops import find
from augpipe.ops.base import Listed, Op
from augpipe.recipe import VERSION, load

Verdict = Literal["exact", "changed", "foreign", "dropped"]

_MOST = 2000  # notes: each is checked as a recipe of its own

NOTHING: Item = {"horizontal_flip": {"p": 0.0}}
"""An op that never acts, for a branch that does nothing."""


@dataclass(frozen=True, slots=True)
class Note:
    """What became of one thing of the source.

    Args:
        where: Its line, or its path in the JSON.
        verdict: "exact": the same meaning, up to what augpipe's op says of itself;
            "changed": carried over with the difference that is told; "foreign": done by the
            library itself; "dropped": not in the recipe.
        text: What, and how.
    """

    where: str
    verdict: Verdict
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.verdict}: {self.text}"


def refusal(item: Item) -> str:
    """Returns why a recipe cannot hold this op, in the section where it may stand, or ""."""
    try:
        load({"version": VERSION, "batch" if mixes(item) else "sample": [item]})
    except RecipeError as error:
        first = error.problems[0]
        return f"{first.message}{f' ({first.hint})' if first.hint else ''}"
    return ""


def mixes(item: Item) -> bool:
    """Tells whether an op, or one inside it, stands in `batch` only."""
    ((name, parameters),) = item.items()
    cls = find(name)
    return (cls is not None and "sample" not in cls.sections) or any(
        mixes(each) for each in parameters.get("ops", ())
    )


@dataclass
class Draft:
    """A recipe that is being written, and what there is to say about it.

    Args:
        library: "albumentations", "timm" or "torchvision".
        notes: What became of each thing.
        sample: The ops so far.
        batch: Those on the batch.
        fields: Other keys of the recipe.
        levels: What numbers mean at this point of the source.
        origin: Whose the source is, where it is not the library's whose ops it names.
        follows: Whether all that is saved beside a constructor's arguments follows from them.
        depth: How many compositions this point stands in.
    """

    library: str
    notes: list[Note] = field(default_factory=list)
    sample: list[Item] = field(default_factory=list)
    batch: list[Item] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)
    levels: Levels = field(default_factory=Levels)
    follows: bool = False
    origin: str = ""
    depth: int = 0

    def say(self, where: str, verdict: Verdict, text: str) -> None:
        """Notes what became of something.

        Raises:
            UsageError: There is too much of it.
        """
        if len(self.notes) >= _MOST:
            raise UsageError(f"{where}: more than {_MOST} transforms")
        self.notes.append(Note(_cut(where), verdict, _cut(text)))

    @contextmanager
    def inside(self) -> Iterator[int]:
        """Stands in a composition, whose numbers mean outside what they meant before.

        Yields:
            Where its own note belongs: before those of what it holds.
        """
        self.depth += 1
        before = Levels(self.levels.unit, self.levels.mean, self.levels.std)
        yield len(self.notes)
        self.depth -= 1
        self.levels = before

    def place(
        self, where: str, name: str, native: Native | None, why: str, given: Mapping[str, Any]
    ) -> list[Item]:
        """Returns the items that a transform becomes, having noted it.

        Args:
            where: Where the transform stands.
            name: Its class.
            native: What it is natively, if anything.
            why: Otherwise: why not.
            given: Its arguments, as the library's own op takes them.
        """
        if native is not None:
            refused = [words for each in native.items if (words := refusal(each))]
            if not refused:
                into = _into(native.items)
                changes = f": {'; '.join(native.changes)}" if native.changes else ""
                self.say(where, "changed" if changes else "exact", f"{name} -> {into}{changes}")
                return native.items
            why = refused[0]
        return self._foreign(where, name, f" ({why})" if why else "", given)

    def _foreign(self, where: str, name: str, why: str, given: Mapping[str, Any]) -> list[Item]:
        if self.library == "timm":
            self.say(where, "dropped", f"{name}{why}")
            return []
        full = f"{self.library}.{name}"
        cls = find(full)
        if cls is None:
            self.say(where, "dropped", f"{name}{why}: {refusal({full: {}})}")
            return []
        # The recipe's p is whether the op acts; a p of its parts has another name there.
        named = {"own_p" if k == "p" and "own_p" in cls.model_fields else k: k for k in given}
        kept = {k: given[own] for k, own in named.items() if k in cls.model_fields}
        # A null says "none given", but where something else would be given.
        default = {k: field.default for k, field in cls.model_fields.items()}
        kept = {k: v for k, v in kept.items() if v is not None or default[k] is not None}
        item = {full: kept}
        if words := refusal(item):
            # Libraries keep some of their integers as floats.
            item = {full: {k: _whole(value) for k, value in item[full].items()}}
            if refusal(item):
                self.say(where, "dropped", f"{name}{why}: {words}")
                return []
        lost = [own for k, own in named.items() if k not in kept and given[own] is not None]
        left = ""
        if lost and not self.follows:
            version = facts().versions[self.library]
            left = f"; left out, no argument of it in version {version}: {', '.join(lost)}"
        self.say(where, "foreign", f"{name} -> {full}{why}{left}")
        return [item]

    def compose(self, where: str, at: int, name: str, item: Item, *changes: str) -> list[Item]:
        """Returns a composition as an item, having noted it as note number `at`."""
        items = self.place(where, name, Native([item], changes), "", {})
        self.notes.insert(at, self.notes.pop())
        return items

    def build(self) -> str:
        """Returns the recipe as YAML.

        Raises:
            RecipeError: It is too deep or too large to be one.
        """
        end = self.levels.item()
        if end is not None and (words := refusal(end)):
            self.say("at the end", "dropped", f"{next(iter(end))}: {words}; levels leave as 0..1")
            end = {"to_float": {}}
        if end is not None:
            (self.batch or self.sample).append(end)
        given = {"sample": self.sample, "batch": self.batch}
        recipe = load({"version": VERSION, **self.fields, **given})
        content = {"version": VERSION, "seed": recipe.seed, **self.fields}
        for name, ops in (("sample", recipe.sample), ("batch", recipe.batch)):
            if ops:
                content[name] = [_written(*each) for each in zip(given[name], ops, strict=True)]
        return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, default_flow_style=None)


def _written(given: Item, op: Op) -> str | Item:
    """Returns an op as a recipe has it: with all that was given, our defaults or not."""
    ((name, parameters),) = given.items()
    whole = op.item(defaults=True)
    fields = whole[name] if isinstance(whole, dict) else {}
    kept = {key: value for key, value in fields.items() if key in parameters}
    if isinstance(op, Listed):
        kept["ops"] = [_written(*each) for each in zip(parameters["ops"], op.ops, strict=True)]
    return {name: kept} if kept else name


def _into(items: Sequence[Item]) -> str:
    """Words the ops that a transform becomes."""
    runs = [(name, len(list(run))) for name, run in groupby(next(iter(each)) for each in items)]
    return " + ".join(f"{count} x {name}" if count > 1 else name for name, count in runs)


def _whole(value: Any) -> Any:
    """Returns a value with whole floats as integers."""
    if isinstance(value, list):
        return [_whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def sequence(items: list[Item]) -> Item:
    """Returns one item that does them all; the one that never acts where there are none."""
    if len(items) == 1:
        return items[0]
    return {"sequence": {"ops": items}} if items else NOTHING


def with_p(item: Item, p: float) -> Item:
    """Returns an item under a further probability; independent of its own."""
    ((name, parameters),) = item.items()
    cls = find(name)
    assert cls is not None  # items are checked when they are made
    own = parameters.get("p", cls.model_fields["p"].default)
    return {name: {**parameters, "p": tidy(own * p)[0]}}


def _cut(text: str, limit: int = 400) -> str:
    """Shortens what a note quotes: a source may hold anything."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
