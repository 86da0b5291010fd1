"""The jobs that are killed, starved and misled: each format in, and each format out."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from augpipe.data.formats import FORMATS
from tests.formats.conftest import write
from tests.formats.scenes import scene
from tests.harness import SAMPLES

Job = tuple[str, dict[str, Any]]
"""`expand` or `convert`, and its arguments but for `out`."""

RECIPE = (
    "version: 1\nseed: 7\nsample:\n  - rotate: {degrees: [-9, 9]}\n  - horizontal_flip: {p: 0.5}\n"
)
BATCH = "version: 1\nseed: 7\nsample:\n  - resize: [24, 24]\nbatch:\n  - mixup: {alpha: 0.4}\n"


def jobs(folder: Path) -> dict[str, Job]:
    """Makes the sources in a folder, and returns the jobs by their names."""
    made = scene(folder)
    (folder / "recipe.yaml").write_text(RECIPE)
    (folder / "batch.yaml").write_text(BATCH)
    sources = {}
    for name in FORMATS:
        sources[name] = folder / "sources" / name
        write(name, sources[name], made.meta, made)
    classes = folder / "garments"
    for label in ("bag", "coat"):
        (classes / label).mkdir(parents=True)
        for path in sorted((SAMPLES / "garments" / label).iterdir())[:3]:
            shutil.copy(path, classes / label)
    (classes / "coat" / "broken.png").write_bytes(b"no image")
    plain: dict[str, Any] = {"recipe": folder / "recipe.yaml", "copies": 2}
    out: dict[str, Job] = {
        "classes": ("expand", {**plain, "source": classes, "keep_originals": True}),
        "classes in processes": ("expand", {**plain, "source": classes, "workers": 2}),
        "batches": ("expand", {**plain, "recipe": folder / "batch.yaml", "source": classes}),
    }
    for k, name in enumerate(FORMATS):
        source = sources[FORMATS[k - 1]]
        own = {"source": source, "to": name, "split": "none", "keep_originals": k % 2 == 0}
        out[f"expand to {name}"] = ("expand", {**plain, **own})
        out[f"convert to {name}"] = ("convert", {"source": source, "to": name})
    return out


def tree(out: Path) -> dict[str, bytes | None]:
    """Returns what is in a folder: each file's bytes, and None for each folder."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(out.rglob("*"))
    }
