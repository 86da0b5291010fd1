"""`regularize`: from a recipe to a model with its regularizers on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from augpipe import recipe as recipes
from augpipe.errors import Place, Problem, RecipeError, SiteError, UsageError
from augpipe.losses import soft_cross_entropy
from augpipe.reading import places
from augpipe.recipe import Recipe
from augpipe.regularizers.base import Regularizer
from augpipe.regularizers.wrapper import Regularized


@runtime_checkable
class HasRecipe(Protocol):
    """What was made from a recipe: a pipeline."""

    recipe: Recipe


def regularize(
    model: nn.Module,
    recipe: str | Path | Mapping[str, Any] | Recipe | HasRecipe | Regularizer | Sequence[Any],
    criterion: Callable[[Any, Any], Tensor] = soft_cross_entropy,
    *,
    overrides: Iterable[str] = (),
) -> Regularized:
    """Puts the regularizers of a recipe on a model, for any training loop.

    Args:
        model: Any module. It is changed by hooks, for some techniques by ties or a module's
            setting; `remove()` undoes all of it.
        recipe: A recipe file, its content, a pipeline of it, or the items of its `regularize:`
            section, as in [{"dropout": {"p": 0.1}}, "label_smoothing"] or as objects.
        criterion: loss(output, target).
        overrides: Settings such as `regularize.0.dropout.p=0.2`.

    Raises:
        RecipeError: The recipe does not hold, or some of its techniques find no site in the
            model; every problem with its place.
        UsageError: It names no regularizers, or the model cannot be wrapped.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model must be a torch.nn.Module; got {type(model).__name__}")
    overrides = tuple(overrides)
    read = _read(recipe, overrides)
    if not read.regularize:
        raise UsageError("the recipe has no regularizers: name some under 'regularize:'")
    with placed(recipe, overrides):
        return Regularized(model, read.regularize, criterion)


@contextmanager
def placed(source: Any, overrides: Iterable[str] = ()) -> Iterator[None]:
    """Says of techniques that find no site where the recipe names them.

    Args:
        source: What the recipe was read from.
        overrides: The settings it was read with.

    Raises:
        RecipeError: For a SiteError inside.
    """
    try:
        yield
    except SiteError as error:
        found: dict[int, Place | None] = {}
        if isinstance(source, str | Path):
            found = dict(enumerate(places(Path(source), overrides, "regularize")))
        raise RecipeError(
            Problem(found.get(k), f"regularize[{k}]" if found else "", message)
            for k, message in error.problems.items()
        ) from None


def _read(recipe: Any, overrides: Iterable[str]) -> Recipe:
    match recipe:
        case HasRecipe():
            return recipes.as_recipe(recipe.recipe, overrides)
        case Recipe() | str() | Path() | Mapping():
            return recipes.as_recipe(recipe, overrides)
        case Regularizer():
            return _read([recipe], overrides)
        case Sequence():
            items = [each.item() if isinstance(each, Regularizer) else each for each in recipe]
            return recipes.load({"version": recipes.VERSION, "regularize": items}, overrides)
    raise UsageError(
        "recipe must be a file, its content, a pipeline or a list of regularizers; "
        f"got {type(recipe).__name__}"
    )
