"""What a value that stands beside an image is for: by its class, its key, what it is held in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from augpipe.kinds.convert import TV_KINDS, kind

KEYS = {
    "image": "image",
    "mask": "mask",
    "masks": "masks",
    "heatmap": "heatmap",
    "heatmaps": "heatmaps",
    "boxes": "boxes",
    "bboxes": "boxes",
    "oriented_boxes": "boxes",
    "keypoints": "keypoints",
}
ALLOWED = {  # which plain kinds a role may be held in
    "image": ("array", "tensor", "pil", "picture"),
    "mask": ("array", "tensor", "pil"),
    "masks": ("array", "tensor", "pil", "list"),
    "heatmap": ("array", "tensor"),
    "heatmaps": ("array", "tensor", "list"),
    "boxes": ("array", "tensor", "list"),
    "keypoints": ("array", "tensor", "list"),
}
FIELDS = frozenset(("labels", "scores", "area", "iscrowd", "ids", "difficult"))


@dataclass(frozen=True, slots=True)
class Entry:
    """A value with the key and the place it was found at."""

    key: Any
    value: Any
    where: str


def role_of(entry: Entry) -> str:
    """Returns what a value is for: by its class, then by its key, then by what it holds."""
    held, key = kind(entry.value), entry.key
    if held in TV_KINDS.values():
        return "masks" if held == "mask" and key == "masks" else held
    if held == "dict" or not isinstance(key, str):
        return held
    role = KEYS.get(key, "")
    if held in ALLOWED.get(role, ()):
        return role
    plain = held in ("array", "tensor", "list")
    return "field" if plain and (key in FIELDS or key.startswith("box_")) else held
