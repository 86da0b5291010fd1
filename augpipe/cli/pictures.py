"""Commands that run a recipe on a few images: preview, bench."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from augpipe.cli.datasets import From
from augpipe.cli.options import Overrides, RecipePath, check_order
from augpipe.errors import UsageError, printable, reason

Images = Annotated[Path, typer.Argument(metavar="PATH", help="A folder of images, or one image.")]
Shown = Annotated[
    Path, typer.Argument(metavar="PATH", help="A dataset, a folder of images, or one image.")
]


def preview(
    recipe_path: RecipePath,
    path: Shown,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="OUT", help="The file: .png, or .html.")
    ],
    samples: Annotated[int, typer.Option(min=1, max=100, help="Images to show.")] = 3,
    variants: Annotated[int, typer.Option(min=1, max=100, help="Variants of each.")] = 5,
    epoch: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="The epoch of the first variant.")
    ] = 0,
    annotations: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="What describes the images of PATH, if it does not lie there."
        ),
    ] = None,
    masks: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Masks to draw: NAME.png for NAME.*")
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Which split; by default train, never validation.")
    ] = None,
    source_format: From = None,
    overrides: Overrides = None,
) -> None:
    """Draw a contact sheet: variants, and one of them op by op.

    PATH is a folder of images, or a dataset in COCO, YOLO, VOC, masks, WebDataset, Parquet or CSV,
    told by its content: boxes, rotated ones too, outlines, masks and keypoints are drawn as they
    move with the pixels. Variant k of an image is what training sees in epoch k and what expand
    writes as copy k. Where the recipe mixes images, the images shown are the batch.
    """
    check_order(recipe_path, path, "RECIPE PATH")
    _check_out(out)
    from augpipe import recipe as recipes
    from augpipe.data.encode import write_atomic
    from augpipe.plan.explain import plural
    from augpipe.report.html import draw_html
    from augpipe.report.preview import build_preview
    from augpipe.report.sheet import draw_sheet
    from augpipe.report.sources import open_sources

    recipe = recipes.load(recipe_path, overrides or ())
    sources = open_sources(
        path,
        split,
        format=source_format and source_format.value,
        annotations=annotations,
        masks=masks,
    )
    preview, errors = build_preview(
        recipe,
        sources,
        f"{recipe_path.name} on {path}",
        samples=samples,
        variants=variants,
        epoch=epoch,
    )
    as_page = out.suffix.lower() in _PAGES
    data = draw_html(preview).encode(errors="replace") if as_page else draw_sheet(preview)
    write_atomic(out, data)
    for error in errors:
        print(printable(f"left out {error}"), file=sys.stderr)
    images = plural(len(preview.stories), "image")
    print(f"{out}: {images} of {len(sources)}, {plural(variants, 'variant')} each")
    for line in preview.missing:
        print(printable(line))
    raise typer.Exit(int(bool(errors)))


_PAGES = (".html", ".htm")


def _check_out(out: Path) -> None:
    """Refuses, before any work, a file that could not be written."""
    if out.suffix.lower() not in (".png", *_PAGES):
        raise UsageError(f"{out}: the name must end in .png or .html")
    if out.is_dir():
        raise UsageError(f"{out}: is a folder; name a file in it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot make the folder {out.parent}: {reason(error)}") from None


def bench(
    recipe_path: RecipePath,
    path: Images,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to measure.")] = 5.0,
    workers: Annotated[int, typer.Option(min=0, help="Of the loader; 0 loads in its own.")] = 2,
    scaled_decoding: Annotated[
        bool, typer.Option(help="Whether JPEGs may be decoded at a fraction of their size.")
    ] = True,
    overrides: Overrides = None,
) -> None:
    """Measure loading here: pass by pass, what a loop waits, and what would be faster."""
    check_order(recipe_path, path, "RECIPE PATH")
    from augpipe.pipeline import load
    from augpipe.report.speed import measure

    pipe = load(recipe_path, overrides or ())
    speed = measure(pipe, path, seconds, workers=workers, scaled=scaled_decoding)
    for error in speed.left_out:
        print(printable(f"left out {error}"), file=sys.stderr)
    print(speed)
    raise typer.Exit(int(bool(speed.left_out)))
