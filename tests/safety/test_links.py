"""Links that lead elsewhere, and what has a file's name and is none."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from augpipe.data.formats import FORMATS, open_dataset
from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.expansion import convert, expand
from tests.formats.conftest import write
from tests.formats.scenes import picture
from tests.safety.cases import tree
from tests.safety.test_names import FLIP, META, image, inside


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        picture(tmp_path / "in" / label / "a.png", 12, 14, 0)
    return tmp_path / "in"


def test_links_in_the_output_are_not_followed(tmp_path: Path, classes: Path) -> None:
    """Nothing is made, changed or removed at their end, whatever becomes of the image."""
    out, victim = tmp_path / "work" / "out", tmp_path / "victim"
    victim.mkdir()
    (victim / "a__0.png").write_bytes(b"mine")
    (victim / "manifest.jsonl").write_bytes(b"mine")
    expand(FLIP, classes, out)
    broken = classes / "cat" / "a.png"
    rows = (out / "manifest.jsonl").read_bytes()
    whole = tree(out)
    for link, change in (
        ("cat", lambda: None),
        ("cat", lambda: broken.write_bytes(bytes(broken.stat().st_size))),
        ("manifest.jsonl", lambda: None),
        ("errors.jsonl", lambda: None),
        ("job.json", lambda: None),
    ):
        kept = (classes / "cat" / "a.png").read_bytes()
        place = out / link
        moved = tmp_path / "moved"
        if place.exists():
            place.rename(moved)
        place.symlink_to(victim if link == "cat" else victim / "manifest.jsonl")
        change()
        with inside(tmp_path), pytest.raises(AugpipeError, match=r"leads out of|is a link"):
            expand(FLIP, classes, out)
        (classes / "cat" / "a.png").write_bytes(kept)
        place.unlink()
        if moved.exists():
            moved.rename(place)
        (out / "manifest.jsonl").write_bytes(rows)
    expand(FLIP, classes, out)
    assert tree(out) == whole


def test_no_folder_is_made_behind_a_link(tmp_path: Path) -> None:
    picture(tmp_path / "in" / "cat" / "deep" / "a.png", 12, 14, 0)
    out, victim = tmp_path / "work" / "out", tmp_path / "victim"
    victim.mkdir()
    expand(FLIP, tmp_path / "in", out)
    (out / "cat" / "deep" / "a__0.png").unlink()
    (out / "cat" / "deep").rmdir()
    (out / "cat").rmdir()
    (out / "cat").symlink_to(victim)
    with inside(tmp_path), pytest.raises(AugpipeError, match="leads out of the output folder"):
        expand(FLIP, tmp_path / "in", out)


@pytest.mark.parametrize("format", [*FORMATS, "idx"])
def test_pipes_and_endless_links_in_the_input(tmp_path: Path, format: str) -> None:
    """Nothing waits for a pipe, reads a device without end, or follows a link for ever."""
    home = tmp_path / "home"
    if format == "idx":
        home = tmp_path / "in"
        picture(home / "cat" / "a.png", 12, 14, 0)
    else:
        images = [image(tmp_path, f"{k}.png", k, "train") for k in range(2)]
        write(format, home, META, images)
    folders = sorted(path for path in home.rglob("*") if path.is_dir())
    for folder in [home, *folders]:
        for ending in ("png", "json", "yaml", "txt", "xml", "tar", "parquet", "csv", "jsonl"):
            os.mkfifo(folder / f"0pipe.{ending}")
            (folder / f"0zero.{ending}").symlink_to("/dev/zero")
    found: list[str] = []
    try:
        made = open_dataset(home, None if format == "idx" else format)
        found = [made.entries[k].name for k in range(len(made))]
        for k in range(len(made)):
            with suppress(DataError):
                made[k].content.read()
        done = convert(home, tmp_path / "out", "coco", source_format=made.format)
        assert done.written > 0
    except (DataError, UsageError) as error:
        found = [str(error)]
    assert found
