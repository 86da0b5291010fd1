"""Commands about recipes and ops: check, explain, ops, regularizers, schema."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from augpipe.cli.options import Overrides, RecipePath
from augpipe.errors import Problem, RecipeError, UsageError

if TYPE_CHECKING:
    from augpipe.recipe import Recipe


def check(
    paths: Annotated[list[Path], typer.Argument(metavar="RECIPE...", help="Recipes in YAML.")],
    overrides: Overrides = None,
) -> None:
    """Report every problem of a recipe, with place and hint."""
    from augpipe.pipeline import load
    from augpipe.plan.explain import count, plural

    problems: list[Problem] = []
    for path in paths:
        try:
            pipe = load(path, overrides or ())
        except RecipeError as error:
            problems += error.problems
        else:
            parts = []
            for name, nodes in (("sample", pipe.nodes), ("batch", pipe.batch_nodes)):
                ops, passes = count(nodes)
                if ops or name == "sample":
                    start = "" if name == "sample" else f"{name}: "
                    parts.append(f"{start}{plural(ops, 'op')} in {plural(passes, 'pass')}")
            if pipe.recipe.regularize:
                parts.append(plural(len(pipe.recipe.regularize), "regularizer"))
                try:
                    parts[-1] += _tried(path, overrides or (), pipe.recipe)
                except RecipeError as error:
                    problems += error.problems
                    continue
            print(f"{path}: fine: {'; '.join(parts)}")
    if problems:
        raise RecipeError(problems)


def _tried(path: Path, overrides: list[str] | tuple[()], recipe: Recipe) -> str:
    """Puts the regularizers on the network that the recipe names, if it does.

    Raises:
        RecipeError: There is no such network, or some find no site in it.
    """
    if "model" not in recipe.train.model_fields_set:
        return ""
    from augpipe.networks.building import build
    from augpipe.regularizers.wrapper import Regularized
    from augpipe.wrapping import placed

    try:
        net = build(recipe.train.model, recipe.classes or 10)
    except UsageError as error:
        raise RecipeError([Problem(None, f"{path}: train.model", str(error))]) from None
    with placed(path, overrides):
        Regularized(net, recipe.regularize)
    return f" on {recipe.train.model}"


def explain(
    path: RecipePath,
    size: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="Follow an image of this size, 1 to 65535 a side."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Print the plan: what fuses, on which backend, and why."""
    from augpipe.pipeline import load

    print(load(path, overrides or ()).explain(size=size))


def ops(
    name: Annotated[str, typer.Argument(help="An op, to read all about it.")] = "",
) -> None:
    """List the ops, or describe one."""
    from augpipe.report.catalogue import describe_op, list_ops

    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    print(describe_op(name, width) if name else list_ops(width))


def regularizers(
    name: Annotated[str, typer.Argument(help="A regularizer, to read its method card.")] = "",
) -> None:
    """List the regularizers, or describe one."""
    from augpipe.report.catalogue import describe_regularizer, list_regularizers

    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    print(describe_regularizer(name, width) if name else list_regularizers(width))


def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    import json

    from augpipe.schema import schema

    print(json.dumps(schema(), indent=2, ensure_ascii=False))
