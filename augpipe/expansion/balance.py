"""How many copies each image gets: as many as all, or by its class where the recipe says so."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from augpipe.errors import UsageError, did_you_mean
from augpipe.expansion.record import Settings
from augpipe.recipe import Recipe
from augpipe.rng import Draws
from augpipe.types import Ints

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Copies:
    """How many copies each image gets.

    Args:
        counts: (n,), by the image's index.
        notes: What of `balance` could not be, in words.
    """

    counts: Ints
    notes: tuple[str, ...] = ()


def differs(recipe: Recipe) -> bool:
    """Tells whether images of different classes are treated differently."""
    return recipe.balance is not None or bool(recipe.per_class)


def count_copies(
    recipe: Recipe, settings: Settings, labels: Sequence[str | None], classes: Sequence[str]
) -> Copies:
    """Returns how many copies each image gets.

    Without `balance` that is its class's `copies` of `per_class`, or else those of the settings.
    With it, each class gets as many more as bring what it has in the new dataset to the target:
    of its images some, drawn by the seed, get one copy more than the others. What has the target,
    or more, gets no more.

    Args:
        recipe: `balance` and `per_class` count.
        settings: `copies` and `keep_originals` count.
        labels: The class of each image, or None where it has none: those get the settings' copies.
        classes: The names of the classes.

    Raises:
        UsageError: The recipe names a class that is not there, or goes by classes where there are
            none; or nothing is to be written.
    """
    counts = np.full(len(labels), settings.copies, np.int64)
    notes: tuple[str, ...] = ()
    if differs(recipe):
        if not any(label is not None for label in labels):
            raise UsageError(
                "balance and per_class go by the class of an image, and these images have none: "
                "leave them out, or put the images into class folders"
            )
        at = {name: k for k, name in enumerate(classes)}
        for name in recipe.per_class:
            if name not in at:
                hint = did_you_mean(name, classes) or f"there are {_listed(classes)}"
                raise UsageError(f"per_class.{name}: the images have no such class ({hint})")
        of = np.array([-1 if label is None else at[label] for label in labels], np.int64)
        for name, rule in recipe.per_class.items():
            if rule.copies is not None:
                counts[of == at[name]] = rule.copies
        if recipe.balance is not None:
            members = {name: np.flatnonzero(of == k) for name, k in at.items()}
            notes = _balance(recipe, settings.keep_originals, members, counts)
    if not settings.keep_originals and not counts.any():
        raise UsageError("nothing to write: no image gets a copy, and originals are not kept")
    return Copies(counts, notes)


def _balance(
    recipe: Recipe, originals: bool, members: dict[str, Ints], counts: Ints
) -> tuple[str, ...]:
    """Adds copies, in place, to classes that come to less than the target; returns notes."""
    assert recipe.balance is not None
    come = {name: int((counts[own] + originals).sum()) for name, own in members.items() if len(own)}
    target = recipe.balance.target
    match target:
        case "max":
            most = max(come.values())
        case "median":
            most = int(statistics.median(come.values()))
        case _:
            most = int(target)
    for name, total in come.items():
        own = members[name]
        if total < most:
            each, more = divmod(most - originals * len(own), len(own))
            order = np.argsort(Draws(recipe.seed, own, op="balance").uniforms("more", 1)[:, 0])
            counts[own] = each
            counts[own[order[:more]]] += 1
    notes = []
    if above := [f"{name} ({total})" for name, total in come.items() if total > most]:
        notes.append(f"more than the {most} of balance, and left as they are: {_listed(above)}")
    if empty := [name for name, own in members.items() if not len(own)]:
        notes.append(f"no image to make copies of: {_listed(empty)}")
    return tuple(notes)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
