"""Commands that fit learned augmenters: fit autoencoder, gan, policy, meta."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from augpipe.cli.console import progress
from augpipe.errors import UsageError


class Precision(StrEnum):
    """Numbers to compute in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


Classes = Annotated[
    Path,
    typer.Argument(
        metavar="DATA", help="Class folders, with or without splits; or a folder of IDX files."
    ),
]
Weights = Annotated[
    Path, typer.Option("--out", "-o", metavar="FILE", help="Weights, as safetensors.")
]
Size = Annotated[int | None, typer.Option(min=2, help="Training images; all if not set.")]
Side = Annotated[int | None, typer.Option(min=8, help="Pixels a side; the images' own if not set.")]
Base = Annotated[
    Path | None,
    typer.Option(metavar="RECIPE", help="Ops that stand before; flip and crop if not set."),
]
TeachingSteps = Annotated[int, typer.Option(min=1, help="Of the classifier that teaches.")]
Rate = Annotated[float, typer.Option(help="That classifier's highest learning rate.")]
Seed = Annotated[int, typer.Option(min=0, help="Of weights, order and draws.")]
Seeds = Annotated[int, typer.Option(min=1, help="Of each row of the table.")]
ControlSteps = Annotated[int, typer.Option(min=1, help="Of each of its trainings.")]
Controls = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Keeps these, for other fits too; beside FILE if not set."),
]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Trainings at a time; one a core if not set.")
]


def autoencoder(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...",
            help="Folders of images or of IDX files, or images; a folder is an equal share.",
        ),
    ],
    out: Weights,
    test: Annotated[
        list[Path] | None,
        typer.Option(metavar="PATH", help="Images to measure on; a twentieth if not set."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps.")] = 20_000,
    batch_size: Annotated[int, typer.Option(min=1, help="Crops in a step.")] = 64,
    lr: Annotated[float, typer.Option(help="The highest learning rate.")] = 1.5e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, crops and noise.")] = 0,
    precision: Annotated[
        Precision, typer.Option(help="bfloat16 is faster where the processor has it.")
    ] = Precision.float32,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Fit the autoencoder of the latent ops to images.

    Ends with a table: PSNR and SSIM on images that it was not fitted on, beside as many principal
    components. The same command goes on where an interrupted one stopped.
    """
    from augpipe.fitting.autoencoder import fit_autoencoder

    with progress("fitting", "steps/s") as report:
        result = fit_autoencoder(
            data,
            out,
            test=test or (),
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            precision=precision.value,
            device=device,
            tick=lambda step, last, loss: report(step, last, 0),
        )
    print(result)
    print(out)


class Preset(StrEnum):
    """What sizes are made for."""

    cpu = "cpu"
    gpu = "gpu"


def gan(
    data: Classes,
    out: Weights,
    size: Size = None,
    side: Side = None,
    preset: Annotated[
        Preset, typer.Option(help="Network, batch and steps for a CPU or a GPU.")
    ] = Preset.cpu,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images in a step.")] = None,
    lr: Annotated[float, typer.Option(help="The highest learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, help="Of weights, batches and noise.")] = 0,
    precision: Annotated[
        Precision | None, typer.Option(help="What is fast on the device if not set.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; the preset's.")] = None,
) -> None:
    """Fit a class-conditional GAN to classes of images.

    Ends with a report: what a classifier learns from generated images alone, class by class,
    beside what it learns from as many real ones; how near they lie to real images, and whether
    they are copies. The same command goes on where an interrupted one stopped.
    """
    fit_gan = _training("gan", "fit_gan")
    with progress("fitting", "steps/s") as report:
        result = fit_gan(
            data,
            out,
            size=size,
            side=side,
            preset=preset.value,
            steps=steps,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            precision=precision and precision.value,
            device=device,
            tick=lambda step, last, loss: report(step, last, 0),
            say=lambda line: print(line, flush=True),
        )
    print(result)
    print(out)


def policy(
    data: Classes,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The recipe, as YAML.")],
    base: Base = None,
    size: Size = None,
    side: Side = None,
    slots: Annotated[int, typer.Option(min=1, max=4, help="Ops one after another.")] = 2,
    steps: TeachingSteps = 1000,
    lr: Rate = 0.1,
    seed: Seed = 0,
    seeds: Seeds = 3,
    control_steps: ControlSteps = 1000,
    controls: Controls = None,
    jobs: Jobs = None,
) -> None:
    """Learn which ops help, and how wide their ranges may be; write them as a plain recipe.

    Ends with a table on images held out: no augmentation, flip and crop, TrivialAugment, a policy
    that has learned nothing, the learned one. The same command goes on where an interrupted one
    stopped.
    """
    fit_policy = _training("policy", "fit_policy")
    with progress("fitting", "steps/s") as report:
        result = fit_policy(
            data,
            out,
            base=base,
            size=size,
            side=side,
            slots=slots,
            steps=steps,
            lr=lr,
            seed=seed,
            seeds=seeds,
            control_steps=control_steps,
            controls=controls,
            jobs=jobs,
            tick=lambda step, last, loss: report(step, last, 0),
            say=lambda line: print(line, flush=True),
        )
    print(result)
    print(out)


def meta(
    data: Classes,
    out: Weights,
    base: Base = None,
    size: Size = None,
    side: Side = None,
    steps: TeachingSteps = 1500,
    lr: Rate = 0.1,
    seed: Seed = 0,
    seeds: Seeds = 3,
    control_steps: ControlSteps = 1000,
    controls: Controls = None,
    jobs: Jobs = None,
) -> None:
    """Fit the augmentation network of the op meta: hard for a classifier, fair to its teacher.

    Ends with the table of fit policy, the network in every other image for the learned row. The
    same command goes on where an interrupted one stopped.
    """
    fit_meta = _training("meta", "fit_meta")
    with progress("fitting", "steps/s") as report:
        result = fit_meta(
            data,
            out,
            base=base,
            size=size,
            side=side,
            steps=steps,
            lr=lr,
            seed=seed,
            seeds=seeds,
            control_steps=control_steps,
            controls=controls,
            jobs=jobs,
            tick=lambda step, last, loss: report(step, last, 0),
            say=lambda line: print(line, flush=True),
        )
    print(result)
    print(out)


def _training(module: str, name: str) -> Any:
    """Returns a function of `augpipe.fitting` that trains.

    Raises:
        UsageError: What it needs is not installed.
    """
    try:
        return getattr(import_module(f"augpipe.fitting.{module}"), name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"fit {module} needs {error.name}, which is not installed: pip install 'augpipe[train]'"
        ) from None
