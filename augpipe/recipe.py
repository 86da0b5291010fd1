"""Recipes: from YAML to ops, with every problem and its place.

version: 1                # required
extends: base.yaml        # optional: keys given here replace the base's
seed: 7                   # 0 to 2**63 - 1; 0 when left out
fuse: true                # false: no two ops share a pass
classes: 10               # optional: how many classes there are, for ops that mix labels
boxes: {min_area: 1, min_visibility: 0}
keypoints: {flip_pairs: [[0, 1]]}            # optional: what changes places in a mirror
constraint: {min_visibility: 0.3}            # optional: or all is drawn again
cache: memory             # optional: or a folder, or {where: runs/cache, max_gb: 20}
gan_generate: {balance: true}  # optional: images that `augpipe expand` adds
balance: max              # optional: `augpipe expand` brings each class to as many images
per_class: {cat: {copies: 6, strength: 0.5}}  # optional: what it does otherwise for a class
sample: [...]             # ops, one image at a time
batch: [...]              # ops, on the batch
regularize: [...]         # techniques of training, on the model
train: {model: wrn_16_1}  # optional: how `augpipe train` trains
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from augpipe.declared import Declared
from augpipe.errors import Place, Problem, RecipeError, did_you_mean
from augpipe.ops.base import Combinator, Op, Ops
from augpipe.reading import SECTIONS, fail, override, read
from augpipe.regularizers.base import Regularizer
from augpipe.settings import (
    BalanceRule,
    BoxRules,
    CacheRule,
    ClassRule,
    ConstraintRule,
    GenerateRule,
    KeypointRules,
    TrainRule,
)
from augpipe.shelves import shelf_of
from augpipe.spec import ArgumentRefused, Flag, Number, declaration
from augpipe.targets import Ending
from augpipe.yamltree import Tree, wrap

VERSION = 1
_M = TypeVar("_M", bound=BaseModel)
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
    keypoints: KeypointRules = KeypointRules()
    """What is known of keypoints."""
    constraint: ConstraintRule | None = None
    """What must hold after the geometry; nothing when left out."""
    cache: CacheRule | None = None
    """Where what is always done alike is kept; nowhere when left out."""
    gan_generate: GenerateRule | None = None
    """Images that `augpipe expand` adds; none when left out."""
    balance: BalanceRule | None = None
    """To how many images `augpipe expand` brings each class; left as they are when left out."""
    per_class: dict[str, ClassRule] = {}
    """What `augpipe expand` does otherwise, by the class's name."""
    sample: tuple[Op, ...] = ()
    """Ops on each image."""
    batch: tuple[Op, ...] = ()
    """Ops on the batch."""
    regularize: tuple[Regularizer, ...] = ()
    """Techniques of training."""
    train: TrainRule = TrainRule()
    """How to train."""

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
        if self.keypoints != KeypointRules():
            pairs = [list(pair) for pair in self.keypoints.flip_pairs]
            out["keypoints"] = {"flip_pairs": pairs}
        if self.constraint is not None:
            out["constraint"] = self.constraint.model_dump()
        if self.cache is not None:
            out["cache"] = self.cache.model_dump()
        if self.gan_generate is not None:
            out["gan_generate"] = self.gan_generate.model_dump(exclude_defaults=not defaults)
        if self.balance is not None:
            out["balance"] = self.balance.model_dump()
        if self.per_class:
            out["per_class"] = {
                name: rule.model_dump(exclude_defaults=not defaults, exclude_none=True)
                for name, rule in self.per_class.items()
            }
        for name in SECTIONS:
            if items := getattr(self, name):
                out[name] = [each.item(defaults) for each in items]
        if train := self.train.model_dump(exclude_defaults=not defaults, exclude_none=True):
            out["train"] = train
        return yaml.safe_dump(out, sort_keys=False, allow_unicode=True, default_flow_style=None)

    @property
    def ending(self) -> Ending:
        """How targets end."""
        return Ending(self.boxes.min_area, self.boxes.min_visibility, self.keypoints.flip_pairs)

    def one_by_one(self) -> tuple[Recipe, tuple[str, ...]]:
        """Returns the recipe for images that come one by one, and the ops that it leaves out.

        What stands in the batch section and works on one image follows the sample section, with
        the same draws and the same result; what needs a batch is left out.
        """
        kept = tuple(op for op in self.batch if _alone(op))
        names = tuple(op.name() for op in self.batch if op not in kept)
        return self.model_copy(update={"sample": (*self.sample, *kept), "batch": ()}), names

    def at_strength(self, strength: float) -> Recipe:
        """Returns the recipe with the ops of its sample section acting more or less.

        See `Op.at_strength`; draws stay those of this recipe.

        Raises:
            UsageError: An op does not allow as much.
        """
        made = tuple(op.at_strength(strength) for op in self.sample)
        return self.model_copy(update={"sample": made})


def _alone(op: Op) -> bool:
    """Tells whether an op, and every op inside it, works on one image."""
    inside = op.inner() if isinstance(op, Combinator) else ()
    return "sample" in op.sections and all(map(_alone, inside))


_EXPANSION = ("gan_generate", "balance", "per_class")
_RULES = ("seed", "fuse", "classes", "boxes", "keypoints", "constraint", "cache", *_EXPANSION)
_SETTINGS = (*_RULES, "train")
_KEYS = ("version", "extends", *_RULES, *SECTIONS, "train")


def load(source: str | Path | Mapping[str, Any], overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        source: A YAML file, or its content as a mapping.
        overrides: Settings such as `sample.0.rotate.degrees=[-5, 5]`.

    Raises:
        RecipeError: With every problem found, each at its place.
    """
    tree = wrap(dict(source)) if isinstance(source, Mapping) else read(Path(source))
    for setting in overrides:
        override(tree, setting)
    if (base := tree.value.pop("extends", None)) is not None:
        raise fail(base.place, "extends", "stands in recipe files only")
    return _Builder(tree.problems).recipe(tree)


def as_recipe(
    recipe: Recipe | str | Path | Mapping[str, Any], overrides: Iterable[str] = ()
) -> Recipe:
    """Returns a recipe, read if it is a file or its content, with the overrides applied.

    Raises:
        RecipeError: It does not hold.
    """
    if not isinstance(recipe, Recipe):
        return load(recipe, overrides)
    overrides = tuple(overrides)
    return load(yaml.safe_load(recipe.dump()), overrides) if overrides else recipe


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
        fields: dict[str, Any] = {key: top[key].plain() for key in _SETTINGS if key in top}
        for section in SECTIONS:
            fields[section] = self.section(section, top.get(section))
        self.check_end(fields, top)
        built = self.model(Recipe, fields, tree, "", skip=SECTIONS)
        if self.problems or built is None:
            raise RecipeError(sorted(self.problems, key=_order))
        return built

    def section(self, name: str, tree: Tree | None) -> tuple[Declared, ...]:
        """Builds the items of a section."""
        if tree is None or tree.value is None:
            return ()
        if not isinstance(tree.value, list):
            what = "regularizers" if name == "regularize" else "ops"
            self.add(tree.place, name, f"must be a list of {what}", "begin each with '- '")
            return ()
        return self.items(name, tree.value)

    def items(self, path: str, items: Sequence[Tree]) -> tuple[Declared, ...]:
        """Builds a list of items; those with problems are left out."""
        built = (self.item(f"{path}[{i}]", item) for i, item in enumerate(items))
        return tuple(each for each in built if each is not None)

    def item(self, path: str, item: Tree) -> Declared | None:
        """Builds an op or a regularizer from a name or a mapping with one key."""
        section = path.partition("[")[0]
        shelf = shelf_of(section)
        match item.value:
            case str(name):
                value, place = Tree(None, item.place), item.place
            case dict() if len(item.value) == 1:
                ((name, value),) = item.value.items()
                place = item.keys.get(name, item.place)
            case dict():
                keys = ", ".join(item.value) or "none"
                known = [key for key in item.value if key in shelf.catalogue()]
                hint = f"begin each {shelf.what} with '- '"
                if len(known) == 1:
                    hint = f"indent the parameters below '{known[0]}:'"
                self.add(item.place, path, f"{shelf.a} is one key, here are {keys}", hint)
                return None
            case _:
                if not item.broken:
                    message = f"{shelf.a} is a name, or a name with its parameters"
                    self.add(item.place, path, message)
                return None
        cls = shelf.find(name)
        if cls is None:
            message, hint = shelf.why_not(name)
            self.add(place, path, message, hint)
            return None
        if issubclass(cls, Op) and section not in cls.sections:
            message = f"{name} cannot stand in '{section}:', only in '{cls.sections[0]}:'"
            self.add(place, path, message, f"move it to '{cls.sections[0]}:'")
            return None
        return self.build(cls, f"{path}.{name}", value, place)

    def build(
        self, cls: type[Declared], path: str, value: Tree, place: Place | None
    ) -> Declared | None:
        """Builds an item of a known class from its parameters."""
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
                fields[key] = self.items(f"{path}.{key}", tree.value)
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
        name = cls.name() if issubclass(cls, Declared) else "/".join(location[:-1]) or "a recipe"
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
            case "dict_type":
                self.add(place, inside, "must be a mapping of classes, name: copies")
            case _:
                self.add(place, inside, detail["msg"])

    def check_end(self, fields: Mapping[str, Any], top: Mapping[str, Tree]) -> None:
        """Checks that nothing follows an op that must be last."""
        placed = [
            (name, i, op) for name in ("sample", "batch") for i, op in enumerate(fields[name])
        ]
        if self.problems:
            return  # ops with problems are missing here: what follows what is not known
        for (name, i, op), (_, _, after) in pairwise(placed):
            if op.last:
                items = top[name].value
                place = items[i].place if i < len(items) else None
                message = f"{op.name()} ends the pipeline, but {after.name()} follows it"
                self.add(place, f"{name}[{i}]", message, f"move {op.name()} to the end")


def _order(problem: Problem) -> tuple[str, int, int]:
    place = problem.place
    return (place.file, place.line, place.column) if place else ("", 0, 0)


def _within(cls: type[BaseModel], location: Sequence[str]) -> type[BaseModel]:
    inner: dict[str, type[BaseModel]] = {
        "boxes": BoxRules,
        "keypoints": KeypointRules,
        "constraint": ConstraintRule,
        "cache": CacheRule,
        "gan_generate": GenerateRule,
        "balance": BalanceRule,
        "train": TrainRule,
    }
    if cls is Recipe and location[0] == "per_class" and len(location) > 1:
        return ClassRule
    return inner.get(location[0], cls) if cls is Recipe else cls


def _known(cls: type[BaseModel]) -> str:
    return "known: " + ", ".join(cls.model_fields)
