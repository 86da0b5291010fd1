"""What the walk over all transforms found (tests/foreign): which there are, and their limits.

facts.json is written by `pytest tests/foreign --update-foreign` and held to the libraries by
the same test, so that nobody keeps it by hand. Reading it imports no library.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

LIMITS = (
    "not deterministic",
    "no masks",
    "no boxes",
    "no keypoints",
    "needs a mask",
    "needs boxes",
    "RGB only",
    "grey only",
    "uint8 only",
    "float only",
    "row by row",
)
"""What may be said against a transform; "row by row": a batch is done one image at a time."""


@dataclass(frozen=True)
class Facts:
    """What is known of the libraries' transforms.

    Args:
        versions: The version of each library that was walked.
        limits: By library and transform, what it cannot (see LIMITS).
        still: By library, the transforms that leave pixels where they are.
        examples: By a transform's full name, the arguments that it cannot do without.
        left_out: By library and name, why a recipe cannot have it.
    """

    versions: dict[str, str]
    limits: dict[str, dict[str, list[str]]]
    still: dict[str, list[str]]
    examples: dict[str, dict[str, Any]]
    left_out: dict[str, dict[str, str]]

    def limited(self, name: str, limit: str) -> bool:
        """Returns whether a transform, named with its library, has this limit."""
        library, _, own = name.partition(".")
        return limit in self.limits[library].get(own, ())

    def moves(self, name: str) -> bool:
        """Returns whether a transform, named with its library, moves pixels."""
        library, _, own = name.partition(".")
        return own not in self.still[library]

    def names(self) -> list[str]:
        """Returns every name that a recipe may have, with its library."""
        return [f"{library}.{own}" for library, known in self.limits.items() for own in known]


@functools.cache
def facts() -> Facts:
    """Returns the facts in the package."""
    text = files("augpipe.foreign").joinpath("facts.json").read_text(encoding="utf-8")
    return Facts(**json.loads(text))
