"""Which backend does which section."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a section runs.

    Args:
        section: Its key in the recipe.
        backend: The name of the backend.
        why: Why that one, in a few words.
    """

    section: str
    backend: str
    why: str


PLACEMENTS = (
    Placement("sample", "opencv", "uint8, one image at a time on the CPU"),
    Placement("batch", "batched", "the whole batch at once, on its device"),
)
