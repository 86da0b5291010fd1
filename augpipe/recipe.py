"""Recipes: from YAML to ops, with every problem and its place.

version: 1                # required
extends: base.yaml        # optional: keys given here replace the base's
seed: 7                   # 0 to 2**63 - 1; 0 when left out
fuse: true                # false: no two ops share a pass
classes: 10               # optional: how many classes there are, for ops that mix labels
boxes: {min_area: 1, min_visibility: 0}
cache: memory             # optional: or a folder, or {where: runs/cache, max_gb: 20}
sample: [...]             # ops, one image at a time
batch: [...]              # ops, on the batch
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from augpipe.errors import Place, Problem, RecipeError, UsageError, did_you_mean, reason
from augpipe.ops import catalogue, find, why_not
from augpipe.ops.base import Combinator, Op, Ops
from augpipe.settings import BoxRules, CacheRule
from augpipe.spec import ArgumentRefused, Flag, Number, declaration
from augpipe.yamltree import Tree, parse, wrap

VERSION = 1
_M = TypeVar("_M", bound=BaseModel)
_LIMIT = 1_000_000  # characters: no recipe is larger, and no parser need try
_DOTS = re.compile(r"(?<!\balbumentations)(?<!\btorchvision)(?<!\bkornia)\.")  # but of a name
_STEPS = 4096  # of a plan: shuffles take the square of their ops, and nest


class Recipe(BaseModel):
    """A recipe that holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    seed: Annotated[int, Number(0, 2**63 - 1, integer=True)] = 0
    """The seed of every draw."""
    fuse: Annotated[bool, Flag()] = True
    """Whether ops may share a pass over the pixels."""
    classes: Annotated[int | None, Number(1, 10_000_000, "classes", integer=True)] = None
    """How many classes labels have; the dataset's own number when left out."""
    boxes: BoxRules = BoxRules()
    """Which boxes are kept."""
    cache: CacheRule | None = None
    """Where what is always done alike is kept; nowhere when left out."""
    sample: tuple[Op, ...] = ()
    """Ops on each image."""
    batch: tuple[Op, ...] = ()
    """Ops on the batch."""

    def dump(self, defaults: bool = False) -> str:
        """Returns the recipe as YAML, `extends` and overrides worked in.

        Args:
            defaults: Write out what was left to its default too, for a file that must mean
                the same in a later version.
        """
        out: dict[str, Any] = {"version": VERSION, "seed": self.seed}
        if not self.fuse or defaults:
            out["fuse"] = self.fuse
        if self.classes is not None:
            out["classes"] = self.classes
        if self.boxes != BoxRules() or defaults:
            out["boxes"] = self.boxes.model_dump()
        if self.cache is not None:
            out["cache"] = self.cache.model_dump()
        for name in ("sample", "batch"):
            if ops := getattr(self, name):
                out[name] = [op.item(defaults) for op in ops]
        return yaml.safe_dump(out, sort_keys=False, allow_unicode=True, default_flow_style=None)

    def one_by_one(self) -> tuple[Recipe, tuple[str, ...]]:
        """Returns the recipe for images that come one by one, and the ops that it leaves out.

        What stands in the batch section and works on one image follows the sample section, with
        the same draws and the same result; what needs a batch is left out.
        """
        kept = tuple(op for op in self.batch if _alone(op))
        names = tuple(op.name() for op in self.batch if op not in kept)
        return self.model_copy(update={"sample": (*self.sample, *kept), "batch": ()}), names


def _alone(op: Op) -> bool:
    """Tells whether an op, and every op inside it, works on one image."""
    inside = op.inner() if isinstance(op, Combinator) else ()
    return "sample" in op.sections and all(map(_alone, inside))


_SETTINGS = ("seed", "fuse", "classes", "boxes", "cache")
_KEYS = ("version", "extends", *_SETTINGS, "sample", "batch")


def load(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        source: A YAML file, or its content as a mapping.
        overrides: Settings such as `sample.0.rotate.degrees=[-5, 5]`.

    Raises:
        RecipeError: With every problem found, each at its place.
    """
    tree = wrap(dict(source)) if isinstance(source, Mapping) else _read(Path(source), ())
    for override in overrides:
        _override(tree, override)
    if (base := tree.value.pop("extends", None)) is not None:
        raise _fail(base.place, "extends", "stands in recipe files only")
    return _Builder(tree.problems).recipe(tree)


def _fail(place: Place | None, path: str, message: str, hint: str = "") -> RecipeError:
    return RecipeError([Problem(place, path, message, hint)])


def _read(path: Path, chain: tuple[Path, ...], place: Place | None = None) -> Tree:
    """Reads a file and what it extends."""
    at = "extends" if chain else ""
    try:
        resolved = path.resolve(strict=True)
        if resolved.exists() and not (resolved.is_file() or resolved.is_dir()):
            raise _fail(place, at, f"{path} is not a regular file")
        with path.open(encoding="utf-8") as file:
            text = file.read(_LIMIT + 1)
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, near)
        raise _fail(place, at, f"there is no recipe {path}", hint) from None
    except UnicodeDecodeError:
        raise _fail(place, at, f"{path} is not text in UTF-8") from None
    except IsADirectoryError:
        raise _fail(place, at, f"{path} is a folder, not a recipe") from None
    except OSError as error:
        raise _fail(place, at, f"cannot read {path}: {reason(error)}") from None
    except (ValueError, RuntimeError) as error:  # a NUL in the name, a loop of links
        raise _fail(place, at, f"cannot read {path!r}: {error}") from None
    if resolved in chain:
        loop = " -> ".join(p.name for p in (*chain[chain.index(resolved) :], resolved))
        raise _fail(place, "extends", f"recipes extend one another in a circle: {loop}")
    if len(text) > _LIMIT:
        raise _fail(Place(str(path), 1, 1), "", "a recipe has at most a million characters")
    tree = parse(text, str(path))
    if not isinstance(tree.value, dict):
        what = "is empty" if tree.value is None else "is not a mapping"
        raise _fail(tree.place, "", f"the recipe {what}", "begin with 'version: 1'")
    base = tree.value.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base.value, str) or not base.value:
        raise _fail(base.place, "extends", "must be the path of another recipe")
    below = _read(path.parent / base.value, (*chain, resolved), base.place)
    return _merge(below, tree)


def _merge(base: Tree, over: Tree) -> Tree:
    """Lays one recipe over another: mappings merge, everything else is replaced."""
    value = dict(base.value)
    for key, tree in over.value.items():
        both = key in value and isinstance(value[key].value, dict) and isinstance(tree.value, dict)
        value[key] = _merge(value[key], tree) if both else tree
    problems = [*base.problems, *over.problems]
    return Tree(value, over.place, {**base.keys, **over.keys}, problems=problems)


def _override(tree: Tree, setting: str) -> None:
    """Sets one value, `path=value`, in place."""
    path, equals, text = setting.partition("=")
    where = f"--set {setting}"
    if not equals or not path:
        raise UsageError(f"{where}: write --set path=value, as in sample.2.rotate.p=0.5")
    try:
        value = parse(text, "")
    except RecipeError as error:
        raise UsageError(f"{where}: {error.problems[0].message}") from None
    if value.problems:
        raise UsageError(f"{where}: {value.problems[0].message}")
    value = wrap(value.plain())  # what comes from the command line stands in no file
    at, keys = tree, _DOTS.split(path)
    for depth, key in enumerate(keys):
        done = ".".join(keys[:depth]) or "the recipe"
        if isinstance(at.value, str) and at.value == key:
            at.value = {key: Tree({}, at.place)}  # an op by its bare name gets parameters
        if at.value is None:
            at.value = {}
        last = depth == len(keys) - 1
        if isinstance(at.value, list):
            if not (key.isascii() and key.isdigit()) or int(key) >= len(at.value):
                raise UsageError(f"{where}: {done} has the items 0 to {len(at.value) - 1}")
            if last:
                at.value[int(key)] = value
            at = at.value[int(key)]
        elif isinstance(at.value, dict):
            if last:
                at.value[key] = value
            elif key not in at.value:
                holds = ", ".join(at.value)
                raise UsageError(
                    f"{where}: {done} has no '{key}', it holds {holds}{_found(tree, key)}"
                )
            at = at.value[key]
        else:
            raise UsageError(f"{where}: {done} is a value, it has no '{key}'")


def _found(tree: Tree, name: str) -> str:
    """Says where an op of this name stands, for who miscounted."""
    for section in ("sample", "batch"):
        items = tree.value[section].value if section in tree.value else None
        for i, item in enumerate(items if isinstance(items, list) else ()):
            if item.value == name or (isinstance(item.value, dict) and name in item.value):
                return f" ({name} is {section}.{i})"
    return ""


class _Builder:
    """Turns a tree into a recipe and collects what is wrong on the way."""

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self.problems = list(problems)

    def add(self, place: Place | None, path: str, message: str, hint: str = "") -> None:
        """Notes a problem."""
        self.problems.append(Problem(place, path, message, hint))

    def recipe(self, tree: Tree) -> Recipe:
        """Builds the whole recipe.

        Raises:
            RecipeError: With every problem.
        """
        top: dict[str, Tree] = tree.value
        version = top.get("version")
        if version is None or version.value != VERSION or isinstance(version.value, bool):
            place = version.place if version else tree.place
            got = f"version {version.value!r} is not known here" if version else "is missing"
            self.add(place, "version", f"{got}: this augpipe reads version {VERSION}")
            raise RecipeError(sorted(self.problems, key=_order))
        for key in top:
            if key not in _KEYS:
                hint = did_you_mean(key, _KEYS) or f"known: {', '.join(_KEYS)}"
                self.add(tree.keys.get(key), key, f"a recipe has no key '{key}'", hint)
        fields: dict[str, Any] = {
            key: top[key].plain()
            for key in ("seed", "fuse", "classes", "boxes", "cache")
            if key in top
        }
        for section in ("sample", "batch"):
            fields[section] = self.section(section, top.get(section))
        self.check_end(fields, top)
        built = self.model(Recipe, fields, tree, "", skip=("sample", "batch"))
        if self.problems or built is None:
            raise RecipeError(sorted(self.problems, key=_order))
        return built

    def section(self, name: str, tree: Tree | None) -> tuple[Op, ...]:
        """Builds the ops of a section."""
        if tree is None or tree.value is None:
            return ()
        if not isinstance(tree.value, list):
            self.add(tree.place, name, "must be a list of ops", "begin each with '- '")
            return ()
        return self.ops(name, tree.value)

    def ops(self, path: str, items: Sequence[Tree]) -> tuple[Op, ...]:
        """Builds a list of ops; those with problems are left out."""
        built = (self.op(f"{path}[{i}]", item) for i, item in enumerate(items))
        return tuple(op for op in built if op is not None)

    def op(self, path: str, item: Tree) -> Op | None:
        """Builds one op from a name or a mapping with one key."""
        match item.value:
            case str(name):
                value, place = Tree(None, item.place), item.place
            case dict() if len(item.value) == 1:
                ((name, value),) = item.value.items()
                place = item.keys.get(name, item.place)
            case dict():
                keys = ", ".join(item.value) or "none"
                known = [key for key in item.value if key in catalogue()]
                hint = "begin each op with '- '"
                if len(known) == 1:
                    hint = f"indent the parameters below '{known[0]}:'"
                self.add(item.place, path, f"an op is one key, here are {keys}", hint)
                return None
            case _:
                if not item.broken:
                    self.add(item.place, path, "an op is a name, or a name with its parameters")
                return None
        cls = find(name)
        if cls is None:
            message, hint = why_not(name)
            self.add(place, path, message, hint)
            return None
        section = path.partition("[")[0]
        if section not in cls.sections:
            message = f"{name} cannot stand in '{section}:', only in '{cls.sections[0]}:'"
            self.add(place, path, message, f"move it to '{cls.sections[0]}:'")
            return None
        return self.build(cls, f"{path}.{name}", value, place)

    def build(self, cls: type[Op], path: str, value: Tree, place: Place | None) -> Op | None:
        """Builds an op of a known class from its parameters."""
        if value.value is None:
            value = Tree({}, place)
        elif not isinstance(value.value, dict):
            if not cls.main:
                message = f"{cls.name()}'s parameters are a mapping, name: value"
                self.add(value.place, path, message, _known(cls))
                return None
            value = Tree({cls.main: value}, value.place)
        fields, before = {}, len(self.problems)
        for key, tree in value.value.items():
            declared = cls.declared().get(key)
            if isinstance(declared, Ops) and isinstance(tree.value, list):
                fields[key] = self.ops(f"{path}.{key}", tree.value)
                if len(fields[key]) < len(tree.value):
                    return None
            else:
                fields[key] = tree.plain()
        built = self.model(cls, fields, value, path)
        if isinstance(built, Combinator) and built.steps > _STEPS:
            self.add(
                place, path, f"makes {built.steps} steps of a plan; at most {_STEPS} are allowed"
            )
        return built if len(self.problems) == before else None

    def model(
        self, cls: type[_M], fields: dict[str, Any], tree: Tree, path: str, skip: Sequence[str] = ()
    ) -> _M | None:
        """Validates a model; words its errors and finds their places."""
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                location = [str(part) for part in detail["loc"]]
                if not location or location[0] not in skip:
                    self.refuse(cls, detail, location, tree, path)
            return None

    def refuse(
        self, cls: type[BaseModel], detail: Any, location: list[str], tree: Tree, path: str
    ) -> None:
        """Notes one of pydantic's errors."""
        error = detail.get("ctx", {}).get("error")
        if isinstance(error, ArgumentRefused) and error.field:
            location = [*location, error.field]
        place, inside = tree.place, ".".join(filter(None, (path, *location)))
        at = tree
        for part in location:
            if not isinstance(at.value, dict) or part not in at.value:
                break
            place = at.keys.get(part) if detail["type"] == "extra_forbidden" else None
            at = at.value[part]
            place = place or at.place
        if at is not tree and at.is_broken():
            return  # said already, where it stands
        name = cls.name() if issubclass(cls, Op) else "/".join(location[:-1]) or "a recipe"
        within = _within(cls, location)
        match detail["type"]:
            case "extra_forbidden":
                hint = did_you_mean(location[-1], within.model_fields) or _known(within)
                self.add(place, inside, f"{name} has no parameter '{location[-1]}'", hint)
            case "missing":
                declared = declaration(within.model_fields[location[-1]].metadata)
                self.add(place, inside, f"{name} needs it: {declared.allowed()}")
            case "value_error":
                self.add(place, inside, str(detail["ctx"]["error"]))
            case "model_type":
                self.add(place, inside, f"must be a mapping of {', '.join(within.model_fields)}")
            case _:
                self.add(place, inside, detail["msg"])

    def check_end(self, fields: Mapping[str, Any], top: Mapping[str, Tree]) -> None:
        """Checks that nothing follows an op that must be last."""
        ops = [(name, i, op) for name in ("sample", "batch") for i, op in enumerate(fields[name])]
        if self.problems:
            return  # ops with problems are missing here: what follows what is not known
        for (name, i, op), (_, _, after) in pairwise(ops):
            if op.last:
                items = top[name].value
                place = items[i].place if i < len(items) else None
                message = f"{op.name()} ends the pipeline, but {after.name()} follows it"
                self.add(place, f"{name}[{i}]", message, f"move {op.name()} to the end")


def _order(problem: Problem) -> tuple[str, int, int]:
    place = problem.place
    return (place.file, place.line, place.column) if place else ("", 0, 0)


def _within(cls: type[BaseModel], location: Sequence[str]) -> type[BaseModel]:
    inner: dict[str, type[BaseModel]] = {"boxes": BoxRules, "cache": CacheRule}
    return inner.get(location[0], cls) if cls is Recipe else cls


def _known(cls: type[BaseModel]) -> str:
    return "known: " + ", ".join(cls.model_fields)
