"""Recipe files: reading them, what they extend, and overrides from the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from augpipe.errors import Place, Problem, RecipeError, UsageError, did_you_mean, reason
from augpipe.yamltree import Tree, parse, wrap

SECTIONS = ("sample", "batch", "regularize")
_LIMIT = 1_000_000  # characters: no recipe is larger, and no parser need try
_DOTS = re.compile(r"(?<!\balbumentations)(?<!\btorchvision)(?<!\bkornia)\.")  # but of a name


def fail(place: Place | None, path: str, message: str, hint: str = "") -> RecipeError:
    """Returns the error of one problem."""
    return RecipeError([Problem(place, path, message, hint)])


def read(path: Path, chain: tuple[Path, ...] = (), place: Place | None = None) -> Tree:
    """Reads a recipe file and what it extends.

    Args:
        path: The file.
        chain: The files that extend it.
        place: Where it is named.

    Raises:
        RecipeError: It cannot be read.
    """
    at = "extends" if chain else ""
    try:
        resolved = path.resolve(strict=True)
        if resolved.exists() and not (resolved.is_file() or resolved.is_dir()):
            raise fail(place, at, f"{path} is not a regular file")
        with path.open(encoding="utf-8") as file:
            text = file.read(_LIMIT + 1)
    except FileNotFoundError:
        near = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, near)
        raise fail(place, at, f"there is no recipe {path}", hint) from None
    except UnicodeDecodeError:
        raise fail(place, at, f"{path} is not text in UTF-8") from None
    except IsADirectoryError:
        raise fail(place, at, f"{path} is a folder, not a recipe") from None
    except OSError as error:
        raise fail(place, at, f"cannot read {path}: {reason(error)}") from None
    except (ValueError, RuntimeError) as error:  # a NUL in the name, a loop of links
        raise fail(place, at, f"cannot read {path!r}: {error}") from None
    if resolved in chain:
        loop = " -> ".join(p.name for p in (*chain[chain.index(resolved) :], resolved))
        raise fail(place, "extends", f"recipes extend one another in a circle: {loop}")
    if len(text) > _LIMIT:
        raise fail(Place(str(path), 1, 1), "", "a recipe has at most a million characters")
    tree = parse(text, str(path))
    if not isinstance(tree.value, dict):
        what = "is empty" if tree.value is None else "is not a mapping"
        raise fail(tree.place, "", f"the recipe {what}", "begin with 'version: 1'")
    base = tree.value.pop("extends", None)
    if base is None:
        return tree
    if not isinstance(base.value, str) or not base.value:
        raise fail(base.place, "extends", "must be the path of another recipe")
    below = read(path.parent / base.value, (*chain, resolved), base.place)
    return _merge(below, tree)


def _merge(base: Tree, over: Tree) -> Tree:
    """Lays one recipe over another: mappings merge, everything else is replaced."""
    value = dict(base.value)
    for key, tree in over.value.items():
        both = key in value and isinstance(value[key].value, dict) and isinstance(tree.value, dict)
        value[key] = _merge(value[key], tree) if both else tree
    problems = [*base.problems, *over.problems]
    return Tree(value, over.place, {**base.keys, **over.keys}, problems=problems)


def override(tree: Tree, setting: str) -> None:
    """Sets one value in place.

    Args:
        tree: The recipe.
        setting: `path=value`.

    Raises:
        UsageError: There is no such path, or no such value.
    """
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
    for section in SECTIONS:
        items = tree.value[section].value if section in tree.value else None
        for i, item in enumerate(items if isinstance(items, list) else ()):
            if item.value == name or (isinstance(item.value, dict) and name in item.value):
                return f" ({name} is {section}.{i})"
    return ""


def places(path: Path, overrides: Iterable[str], section: str) -> list[Place | None]:
    """Returns where the items of a section of a recipe that holds stand."""
    tree = read(path)
    for setting in overrides:
        override(tree, setting)
    return [item.place for item in tree.value[section].value]
