"""The scene, and how it is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from augpipe.data.annotated import AnnotatedImage, Dataset, Entry, Meta
from augpipe.data.content import FileContent
from augpipe.data.formats import layout_for
from augpipe.data.shapes import Notes
from tests.formats.scenes import scene

Written = Callable[..., Notes]


@pytest.fixture
def made(tmp_path: Path) -> Dataset:
    return scene(tmp_path)


def write(format: str, out: Path, meta: Meta, images: list[AnnotatedImage] | Dataset) -> Notes:
    """Writes a dataset, the images' bytes first."""
    entries = [Entry(each.name, each.split) for each in images]
    target, notes, placed = layout_for(format, entries), Notes(), []
    for image in images:
        if not target.PACKED:
            content = out / target.place(image)
            content.parent.mkdir(parents=True, exist_ok=True)
            content.write_bytes(image.content.read())
            mask = image.mask
            if mask is not None:
                path = out / target.place_mask(image)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(mask.read())
                mask = FileContent(path)
            image = replace(image, content=FileContent(content), mask=mask)
        placed.append(image)
    out.mkdir(parents=True, exist_ok=True)
    target.write(out, meta, iter(placed), notes)
    return notes
