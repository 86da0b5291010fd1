"""Commands that fit learned augmenters: fit autoencoder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from augpipe.cli.console import progress


class Precision(StrEnum):
    """Numbers to compute in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def autoencoder(
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA...",
            help="Folders of images or of IDX files, or images; a folder is an equal share.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="Weights, as safetensors.")
    ],
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
