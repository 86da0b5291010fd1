"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from augpipe.errors import UsageError

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe in YAML.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one value, as in sample.2.rotate.p=0.5; may be given several times.",
    ),
]


def check_order(recipe: Path, images: Path, order: str) -> None:
    """Refuses a folder and a recipe that stand in each other's place."""
    if recipe.is_dir() and images.suffix.lower() in (".yaml", ".yml"):
        raise UsageError(f"{recipe} is a folder and {images} a recipe: the order is {order}")
