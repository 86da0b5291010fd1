"""Recipes from what other libraries save, print or are called by."""

from __future__ import annotations

import re
from dataclasses import dataclass

from augpipe.errors import UsageError, did_you_mean
from augpipe.importers.draft import Draft, Note

__all__ = ["Imported", "Note", "import_recipe", "looks_known"]

KNOWN = (
    "known: what albumentations' A.save writes (JSON or YAML), a timm string such as "
    "rand-m9-mstd0.5-inc1, what print(torchvision.transforms.Compose(...)) shows"
)
LIMIT = 1_000_000
"""Characters; no recipe may be larger either."""
_REPR = re.compile(r"\s*[\w.]+\s*\(")


@dataclass(frozen=True)
class Imported:
    """A recipe that was something else before.

    Args:
        library: Whose it was: "albumentations", "timm" or "torchvision".
        recipe_yaml: The recipe; it passes `augpipe check`.
        notes: What became of each thing, in the order of the source.
        empty: Whether the recipe does nothing: it has no op and no rule for boxes.
    """

    library: str
    recipe_yaml: str
    notes: tuple[Note, ...]
    empty: bool = False

    @property
    def complete(self) -> bool:
        """Returns whether nothing was dropped."""
        return all(note.verdict != "dropped" for note in self.notes)


def import_recipe(text: str, source: str = "the text", target: str = "recipe.yaml") -> Imported:
    """Turns another library's pipeline into a recipe.

    Args:
        text: What albumentations saved (JSON or YAML), one of timm's auto-augment strings, or
            what a torchvision Compose prints, v1 or v2.
        source: What to call it in notes and errors.
        target: The file that the recipe will stand in, for the command in its first line.

    Raises:
        UsageError: It is none of these; a RecipeError has the line and the column.
    """
    if not text.strip():
        raise UsageError(f"{source}: is empty; {KNOWN}")
    if len(text) > LIMIT:
        raise UsageError(f"{source}: has more than a million characters; {KNOWN}")
    draft = _read(text, source)
    recipe = draft.build()
    library = draft.origin or draft.library
    head = f"# augpipe explain {target}\n# imported from {library}\n"
    if len(head) + len(recipe) > LIMIT:
        raise UsageError(f"{source}: its recipe would have more than a million characters")
    empty = not (draft.sample or draft.batch or draft.fields)
    return Imported(library, head + recipe, tuple(draft.notes), empty)


def looks_known(text: str) -> bool:
    """Tells whether a text can be a pipeline itself and not the name of a file."""
    from augpipe.importers.timm import is_timm

    return is_timm(text) or _REPR.match(text) is not None or text.lstrip().startswith("{")


def _read(text: str, source: str) -> Draft:
    from augpipe.importers.timm import import_timm, is_timm

    text = text.removeprefix("\ufeff")
    if is_timm(text):
        return import_timm(text, source)
    if text.lstrip().startswith("{") or "__class_fullname__" in text:
        from augpipe.importers.albumentations import import_albumentations

        return import_albumentations(text, source)
    if _REPR.match(text):
        from augpipe.importers.torchvision import import_torchvision

        return import_torchvision(text, source)
    first = text.strip().split("-")[0][:40]
    hint = did_you_mean(first, ("rand", "augmix", "original")) if len(text) < 80 else ""
    raise UsageError(
        f"{source}: is nothing that is known here; {hint + ' ' if hint else ''}{KNOWN}"
    )
