"""Commands that train: train, compare."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from augpipe.cli.options import Overrides, RecipePath, check_order
from augpipe.errors import UsageError

Data = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="Class folders, with or without train/validation/test; or IDX files."
    ),
]
Workers = Annotated[int, typer.Option(min=0, help="Of the loader; 0 loads in the loop's own.")]


def train(
    recipe_path: RecipePath,
    data: Data,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="Where to; runs/RECIPE when left out."),
    ] = None,
    workers: Workers = 2,
    accelerator: Annotated[str, typer.Option(help="auto, cpu, gpu, mps, ...")] = "auto",
    devices: Annotated[str, typer.Option(help="How many devices, or auto.")] = "auto",
    strategy: Annotated[str, typer.Option(help="auto, ddp, fsdp, ...")] = "auto",
    overrides: Overrides = None,
) -> None:
    """Train the recipe's network with its augmentation and its regularizers.

    Validation and test see no augmentation. What is written: weights and checkpoints
    (safetensors), metrics.csv, TensorBoard's events and curve.png. The same command goes on where
    an interrupted one stopped.
    """
    check_order(recipe_path, data, "RECIPE DATA")
    running = _training()
    folder = out or Path("runs") / recipe_path.stem
    result = running.train(
        recipe_path,
        data,
        folder,
        overrides=overrides or (),
        workers=workers,
        accelerator=accelerator,
        devices=int(devices) if devices.isdigit() else devices,
        strategy=strategy,
        progress=sys.stderr.isatty(),
        say=print,
    )
    if not running.is_first():
        return
    print(result)
    print(f"{folder}: model.safetensors, curve.png, metrics.csv")


def _training() -> ModuleType:
    """Returns the module that trains.

    Raises:
        UsageError: Lightning is not installed.
    """
    try:
        from augpipe.training import running
    except ModuleNotFoundError as error:
        raise UsageError(
            f"training needs {error.name}, which is not installed: pip install 'augpipe[train]'"
        ) from None
    return running


def compare(
    recipe_paths: Annotated[
        list[Path], typer.Argument(metavar="RECIPE...", help="Recipes; the first is to beat.")
    ],
    data: Annotated[Path, typer.Option(metavar="DIR", help="As for train.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Where the runs are kept.")
    ] = Path("runs/compare"),
    seeds: Annotated[int, typer.Option(min=1, help="Paired runs of each recipe.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each run.")] = 2000,
    size: Annotated[
        int | None, typer.Option(min=1, help="Training images; all if not set.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; one a core.")] = None,
    on: Annotated[str, typer.Option(help="test, or validation to choose settings by.")] = "test",
    overrides: Overrides = None,
) -> None:
    """Say which recipe helps on this data: paired seeds, intervals, table and plot.

    Every run is kept: the same command goes on where it stopped, and more seeds are added to
    those that are there.
    """
    _training()
    from augpipe.training.comparing import compare
    from augpipe.training.results import Result

    def tell(name: str, seed: int, result: Result) -> None:
        print(f"{name}, seed {seed}: {result}", flush=True)

    comparison = compare(
        recipe_paths,
        data,
        out,
        seeds=seeds,
        steps=steps,
        size=size,
        jobs=jobs,
        on=on,
        overrides=overrides or (),
        tell=tell,
    )
    print(comparison)
    print(f"{out}: comparison.json, comparison.txt, comparison.png")
