"""A dataset that changes between the moment it is listed and the moment an image is read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from augpipe.data.formats import FORMATS, open_dataset
from augpipe.errors import AugpipeError
from augpipe.expansion import conversion, convert, expand, sources
from augpipe.recipe import load
from tests.harness import SAMPLES
from tests.safety.cases import Job, tree

ROTATE = load({"version": 1, "seed": 3, "sample": ["rotate"]})


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _rubbish(path: Path) -> None:
    path.write_bytes(bytes(k % 251 for k in range(path.stat().st_size)))


CHANGES: dict[str, Callable[[Path], None]] = {
    "cut": _cut,
    "rubbish": _rubbish,
    "emptied": lambda path: path.write_bytes(b"") and None,
    "gone": Path.unlink,
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("format", FORMATS)
def test_input_that_changes_while_it_is_read(
    known: dict[str, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, what: str
) -> None:
    """The rest is made, or refused; and all of it when the files are back."""
    to = FORMATS[FORMATS.index(format) - 1]
    source = known[f"convert to {to}"][1]["source"].parent / format
    home = tmp_path / "in"
    shutil.copytree(source, home)
    files = sorted(path for path in home.rglob("*") if path.is_file())
    convert(home, tmp_path / "whole", to, source_format=format)
    options: dict[str, Any] = {"source_format": format, "to": to, "split": "none"}
    expand(ROTATE, home, tmp_path / "expanded", **options)
    for k, chosen in enumerate(([files[len(CHANGES) * len(files) // 7]], files)):

        def late(*args: Any, chosen: list[Path] = chosen) -> Any:
            made = open_dataset(*args)
            for path in chosen:
                CHANGES[what](path)
            return made

        with monkeypatch.context() as patch:
            patch.setattr(conversion, "open_dataset", late)
            try:
                done = convert(home, tmp_path / f"out{k}", to, source_format=format)
            except AugpipeError as error:
                assert "\n" not in str(error)  # noqa: PT017
            else:
                assert done.written + done.skipped == 4
        _bring_back(home, source)
        out = tmp_path / f"expanded{k}"
        with monkeypatch.context() as patch:
            patch.setattr(sources, "open_dataset", late)
            try:
                summary = expand(ROTATE, home, out, **options)
            except AugpipeError as error:
                assert "\n" not in str(error)  # noqa: PT017
            else:
                assert summary.written + summary.skipped == 4
        _bring_back(home, source)
        expand(ROTATE, home, out, **options)
        assert tree(out) == tree(tmp_path / "expanded"), chosen
    shutil.rmtree(tmp_path / "out0", ignore_errors=True)
    convert(home, tmp_path / "out0", to, source_format=format)
    assert tree(tmp_path / "out0") == tree(tmp_path / "whole")


@pytest.mark.parametrize("to", ["webdataset", "parquet"])
def test_an_image_that_is_mended_joins_the_archives(tmp_path: Path, to: str) -> None:
    """Those that are packed already have no files of their own any more."""
    home = tmp_path / "in"
    for label in ("bag", "coat"):
        shutil.copytree(SAMPLES / "garments" / label, home / label)
    expand(ROTATE, home, tmp_path / "whole", to=to)
    broken = min((home / "bag").iterdir())
    kept = broken.read_bytes()
    broken.write_bytes(bytes(len(kept)))
    assert expand(ROTATE, home, tmp_path / "out", to=to).skipped == 1
    broken.write_bytes(kept)
    done = expand(ROTATE, home, tmp_path / "out", to=to)
    assert (done.written, done.skipped) == (1, 0)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def _bring_back(home: Path, source: Path) -> None:
    shutil.rmtree(home)
    shutil.copytree(source, home)
