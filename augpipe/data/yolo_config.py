"""YOLO's data.yaml: where the splits are, and what the classes are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from augpipe.data.annotated import Category, Meta
from augpipe.data.content import text_of
from augpipe.data.places import kind_of, visible
from augpipe.data.splitfiles import dumped
from augpipe.data.yolo_lines import Labels, Task
from augpipe.errors import DataError, RecipeError
from augpipe.yamltree import parse

_YAML = ("data.yaml", "data.yml", "dataset.yaml")
_KNOWN = ("path", "train", "val", "test", "names", "nc", "kpt_shape", "flip_idx", "task")
_BYTES = 4_000_000


def read_config(path: Path) -> dict[str, Any]:
    """Reads a data.yaml: safe YAML, without tags and anchors.

    Raises:
        DataError: If it is no mapping, with the line.
    """
    text = text_of(path)
    try:
        tree = parse(text, str(path))
        problems = tree.problems
    except RecipeError as error:
        problems = [*error.problems]
    if problems:
        raise DataError(path, str(problems[0]).removeprefix(f"{path}:"))
    given = tree.plain()
    if not isinstance(given, dict):
        raise DataError(path, "must be a mapping with names and train")
    return given


def names_of(path: Path, given: Mapping[str, Any]) -> list[str]:
    """Returns the names of the classes, in the order of their numbers.

    Raises:
        DataError: If they are missing, or are not as many as it says.
    """
    names = given.get("names")
    if isinstance(names, dict):
        if sorted(names, key=lambda k: (len(k), k)) != [str(k) for k in range(len(names))]:
            raise DataError(path, "names must be numbered from 0 without a gap")
        names = [names[str(k)] for k in range(len(names))]
    nothing = given.get("names") != {} and not names  # what has no objects says names: {}
    if not isinstance(names, list) or nothing or any(each is None for each in names):
        raise DataError(path, "class names are missing: say names: [first, second, ...]")
    count = given.get("nc")
    if count is not None and count != len(names):
        raise DataError(path, f"nc is {count}, and there are {len(names)} names")
    return [str(each) for each in names]


def keypoints_of(
    path: Path, given: Mapping[str, Any]
) -> tuple[tuple[int, int], tuple[int, ...], Task | None]:
    """Returns how many keypoints there are and how wide, their mirror, and the task, if said.

    Raises:
        DataError: If they do not fit.
    """
    shape, flip, task = given.get("kpt_shape"), given.get("flip_idx", []), given.get("task")
    if task not in (None, "detect", "segment", "obb", "pose"):
        raise DataError(path, f"task is {task!r}: detect, segment, obb or pose")
    if shape is None:
        return (0, 3), (), task
    if not (
        isinstance(shape, list)
        and len(shape) == 2
        and all(isinstance(each, int) for each in shape)
        and 0 < shape[0] < 10_000
        and shape[1] in (2, 3)
    ):
        raise DataError(path, "kpt_shape must be [number of keypoints, 2 or 3]")
    if not isinstance(flip, list) or (
        flip
        and not (all(isinstance(each, int) for each in flip) and sorted(flip) == [*range(shape[0])])
    ):
        raise DataError(path, "flip_idx must name each keypoint once")
    return (shape[0], shape[1]), tuple(flip), task


def others_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keys that are not the format's own."""
    own = {name for name in given if kind_of(name)}
    return {k: v for k, v in given.items() if k not in _KNOWN and k not in own}


def native_meta(meta: Meta, labels: Labels) -> Meta:
    """Returns what data.yaml will say of a dataset."""
    flips = {each.flip for each in meta.categories if each.flip}
    flip = next(iter(flips)) if len(flips) == 1 else ()
    points = tuple(f"{k}" for k in range(labels.points))
    kept = {"yolo": dict(meta.extra["yolo"])} if "yolo" in meta.extra else {}
    return Meta(
        tuple(
            Category(k, each.name, None, points, (), flip if points else ())
            for k, each in enumerate(meta.categories)
        ),
        (),
        kept,
    )


def dump_config(meta: Meta, labels: Labels, splits: Sequence[str | None]) -> str:
    """Returns data.yaml. Texts are quoted as JSON does, which is YAML too."""
    lines = ["# Ultralytics data.yaml; folders count from where this file is.\n"]
    if splits == [None]:
        lines.append("# There are no splits, and Ultralytics wants both keys: say what val is.\n")
        lines += ["train: images\n", "val: images\n"]
    taken: set[str] = set()
    for split in splits:
        if split is not None:
            kind = {"validation": "val"}.get(kind_of(split) or "", kind_of(split) or split)
            key = split if kind in taken else kind
            taken.add(key)
            lines.append(f"{_key(key)}: {dumped(f'images/{split}')}\n")
    if labels.task == "obb":
        lines.append("task: obb\n")
    native = native_meta(meta, labels)
    if labels.points:
        lines.append(f"kpt_shape: [{labels.points}, {labels.width}]\n")
        if native.categories and native.categories[0].flip:
            lines.append(f"flip_idx: {dumped(list(native.categories[0].flip))}\n")
    lines += [
        f"{_key(key)}: {dumped(each)}\n" for key, each in native.extra.get("yolo", {}).items()
    ]
    lines.append("names:\n" if meta.categories else "names: {}\n")
    lines += [f"  {k}: {dumped(each.name)}\n" for k, each in enumerate(meta.categories)]
    return "".join(lines)


def _key(key: str) -> str:
    return key if key.isidentifier() else dumped(key)


def is_config(path: Path) -> bool:
    """Tells whether a file is a data.yaml, by its keys."""
    try:
        with path.open("rb") as file:
            lines = file.read(_BYTES).decode(errors="replace").splitlines()
    except OSError:
        return False
    keys = {line.partition(":")[0].strip() for line in lines if line[:1].strip()}
    return bool(keys & {"train", "val", "test"}) and bool(keys & {"names", "nc"})


def config_in(folder: Path) -> Path | None:
    """Returns a folder's data.yaml, if it has one."""
    names = [name for name in visible(folder)[1] if name.lower().endswith((".yaml", ".yml"))]
    names.sort(key=lambda name: (name not in _YAML, name))
    return next((folder / name for name in names if is_config(folder / name)), None)
