"""Commands about datasets on disk: expand, verify."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from augpipe.cli.console import progress
from augpipe.cli.options import Overrides, RecipePath, check_order

Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes, or cores of the cluster; by default all. The result is the same for any.",
    ),
]


class Format(StrEnum):
    """File formats of images to write."""

    png = "png"
    jpeg = "jpeg"
    webp = "webp"


class Engine(StrEnum):
    """Who does the work of an expansion."""

    local = "local"
    ray = "ray"


class DatasetFormat(StrEnum):
    """Formats of datasets."""

    coco = "coco"
    yolo = "yolo"
    voc = "voc"
    masks = "masks"
    webdataset = "webdataset"
    parquet = "parquet"
    csv = "csv"
    folder = "folder"


From = Annotated[
    DatasetFormat | None,
    typer.Option("--from", help="The dataset's format, if what it holds does not tell."),
]
Images = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Where its images are, if they do not lie beside it."),
]


def expand(
    recipe: RecipePath,
    source: Annotated[str, typer.Argument(metavar="IN", help="A dataset, or one image.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="A new folder, or one to go on in.")],
    to: Annotated[
        DatasetFormat | None, typer.Option("--to", help="The new dataset's format; else IN's.")
    ] = None,
    copies: Annotated[
        int,
        typer.Option(min=0, help="Augmented copies of each image; see also balance: in recipes."),
    ] = 1,
    workers: Workers = None,
    keep_originals: Annotated[
        bool, typer.Option("--keep-originals", help="Copy the images themselves too.")
    ] = False,
    format: Annotated[Format, typer.Option(help="File format of the copies.")] = Format.png,
    quality: Annotated[int, typer.Option(min=1, max=100, help="For jpeg and webp.")] = 95,
    split: Annotated[
        str | None, typer.Option(help="Which split folder; by default train, never validation.")
    ] = None,
    scaled_decoding: Annotated[
        bool, typer.Option("--scaled-decoding", help="Decode large JPEGs no finer than needed.")
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Images that share a batch, for ops that need one.")
    ] = 64,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first image that cannot be used.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Write report.html too: counts, examples, duplicates.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing: say how much, and how long it takes.")
    ] = False,
    source_format: From = None,
    images: Images = None,
    engine: Annotated[
        Engine, typer.Option(help="This machine, or a Ray cluster: RAY_ADDRESS, or the one here.")
    ] = Engine.local,
    overrides: Overrides = None,
) -> None:
    """Write augmented copies of a dataset; it can be resumed.

    IN is a folder of classes, or a dataset in COCO, YOLO, VOC, masks, WebDataset, Parquet or CSV,
    told by its content: boxes, outlines, masks and keypoints move with the pixels. The same command
    again goes on where the last one stopped. A manifest.jsonl beside the images has a row for
    each: its source, its draws and its hash. Folders of classes, WebDataset and Parquet may be at
    addresses such as s3://bucket/folder.
    """
    check_order(recipe, Path(source), "RECIPE IN OUT")
    from augpipe.expansion import estimate, expand, job_of

    what: dict[str, Any] = {
        "copies": copies,
        "keep_originals": keep_originals,
        "format": format.value,
        "quality": quality,
        "split": split,
        "scaled_decoding": scaled_decoding,
        "batch_size": batch_size,
        "to": to and to.value,
        "source_format": source_format and source_format.value,
        "images": images,
        "overrides": overrides or (),
    }
    if dry_run:
        print(estimate(job_of(recipe, source, **what), out, _workers(workers)))
        raise typer.Exit
    with progress("expanding") as show:
        summary = expand(
            recipe,
            source,
            out,
            **what,
            workers=workers or 0 if engine is Engine.ray else _workers(workers),
            strict=strict,
            engine=engine.value,
            progress=show,
        )
    print(summary)
    if report and (summary.written or summary.kept):
        from augpipe.report.expanded import write_report

        with progress("looking at") as show:
            page, looks = write_report(out, _workers(workers), show)
        print("\n".join(filter(None, (str(looks), f"wrote {page}"))))
    if summary.written or summary.kept:
        print(f"next: augpipe verify {_quoted(out)}")
    raise typer.Exit(summary.exit_code)


def convert(
    source: Annotated[str, typer.Argument(metavar="IN", help="A dataset.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="A new folder, or a killed one's.")],
    to: Annotated[DatasetFormat, typer.Option("--to", help="The format to write.")],
    source_format: From = None,
    images: Images = None,
    split: Annotated[str | None, typer.Option(help="One split; by default all of them.")] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first image that cannot be used.")
    ] = False,
) -> None:
    """Write a dataset in another format; nothing is lost on the way.

    Images are copied byte for byte. What the format cannot hold stands in .augpipe.jsonl beside
    it, so that converting back brings it again. Splits stay apart. OUT shows when it is whole: if
    this is killed, the same command again begins anew.
    """
    from augpipe.expansion import convert

    with progress("converting") as report:
        done = convert(
            source,
            out,
            to.value,
            source_format=source_format and source_format.value,
            images=images,
            split=split,
            strict=strict,
            progress=report,
        )
    print(done)
    raise typer.Exit(done.exit_code)


def verify(
    out: Annotated[str, typer.Argument(metavar="OUT", help="A folder that expand made.")],
    source: Annotated[
        str | None, typer.Option(metavar="DIR", help="Where the images are now, if moved.")
    ] = None,
    workers: Workers = None,
) -> None:
    """Make every image of an expansion again and compare."""
    from augpipe.expansion import verify

    with progress("verifying") as show:
        report = verify(out, source, workers=_workers(workers), progress=show)
    print(report)
    raise typer.Exit(report.exit_code)


def _workers(workers: int | None) -> int:
    return (os.cpu_count() or 1) if workers is None else workers


def _quoted(path: str) -> str:
    import shlex

    return shlex.quote(path)
