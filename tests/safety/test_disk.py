"""A disk that is full, that cannot be written, that limits a file's size; and what is left then."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import augpipe.expansion
from augpipe.data.claim import claimed
from augpipe.errors import AugpipeError, UsageError
from tests.safety.cases import Job, tree
from tests.safety.disk import Disk
from tests.safety.killing import Forge

WORDS = {"full": "no space left on device", "read-only": "read-only file system"}


def run(job: Job, out: Path, disk: Disk | None = None) -> None:
    call, arguments = job
    with (disk or Disk()).watched():
        getattr(augpipe.expansion, call)(**arguments, out=out)


NAMES = ("classes", "classes in processes", "expand to coco", "expand to yolo", "expand to voc")
NAMES += ("expand to webdataset", "expand to parquet", "expand to csv", "expand to masks")
NAMES += ("convert to coco", "convert to yolo", "convert to voc", "convert to webdataset")
NAMES += ("convert to csv", "convert to masks", "convert to folder", "batches")


@pytest.mark.parametrize("name", NAMES)
def test_a_disk_that_gets_full_or_read_only(
    known: dict[str, Job], tmp_path: Path, name: str
) -> None:
    whole = Disk()
    run(known[name], tmp_path / "whole", whole)
    left = tree(tmp_path / "whole")
    drawn = random.Random(name)
    for k, (what, last) in enumerate((("full", whole.grown), ("read-only", whole.count))):
        moment = drawn.randrange(1, last + 1)
        out = tmp_path / str(k)
        with pytest.raises(AugpipeError, match=WORDS[what]) as caught:
            run(known[name], out, Disk(moment, what))
        assert caught.value.exit_code == 1, (moment, what)
        assert "\n" not in str(caught.value)
        if what == "full":  # nothing is left of what was being written
            assert not [path for path in out.rglob("*") if path.name.startswith(".augpipe-0")]
            assert not [path for path in out.rglob(".augpipe-*") if path.suffix == ".parquet"]
        run(known[name], out)
        assert tree(out) == left, (moment, what)


def test_files_that_may_not_grow(forge: Forge, known: dict[str, Job], tmp_path: Path) -> None:
    """What is written from C, where no shim is, fails here too."""
    for name in ("expand to parquet", "convert to parquet", "convert to webdataset"):
        call, arguments = known[name]
        assert not forge(call, **arguments, out=tmp_path / name / "whole")["error"]
        out = tmp_path / name / "out"
        for size in (700, 4500, 9000):
            said = forge(call, size, "file size", **arguments, out=out)["error"]
            assert said.startswith("AugpipeError: "), (name, size, said)
            assert "file too large)" in said
        assert not forge(call, **arguments, out=out)["error"]
        assert tree(out) == tree(tmp_path / name / "whole")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"a small disk cannot be made: {error}")
    if done.returncode:
        pytest.skip(f"a small disk cannot be made: {done.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("name", ["classes", "expand to parquet", "convert to webdataset"])
def test_a_disk_that_is_full(
    known: dict[str, Job], small_disk: Path, tmp_path: Path, name: str
) -> None:
    run(known[name], tmp_path / "whole")
    filler = small_disk / "filler"
    filler.write_bytes(bytes(256_000 - 5 * 4096))
    with pytest.raises(AugpipeError, match="no space left on device"):
        run(known[name], small_disk / "out")
    filler.unlink()
    run(known[name], small_disk / "out")
    assert tree(small_disk / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("name", ["classes", "convert to coco"])
def test_a_second_process_is_refused(
    forge: Forge, known: dict[str, Job], tmp_path: Path, name: str
) -> None:
    call, arguments = known[name]
    with claimed(tmp_path / "out"):
        said = forge(call, **arguments, out=tmp_path / "out")
    assert said["error"].startswith("UsageError: ")
    assert said["error"].endswith("another process is at work in this folder")
    assert tree(tmp_path / "out") == {}


def test_only_the_same_conversion_goes_on(known: dict[str, Job], tmp_path: Path) -> None:
    whole, out = Disk(), tmp_path / "out"
    run(known["convert to yolo"], tmp_path / "whole", whole)
    with pytest.raises(AugpipeError, match="read-only"):  # when all but the last move is done
        run(known["convert to yolo"], out, Disk(whole.count - 2, "read-only"))
    assert (out / "images").is_dir()
    with pytest.raises(UsageError, match=r"holds the end of another conversion \(of .*to yolo"):
        run(known["convert to csv"], out)
    (out / "labels").mkdir(exist_ok=True)
    run(known["convert to yolo"], out)
    assert tree(out) == tree(tmp_path / "whole")
    with pytest.raises(UsageError, match="not empty"):
        run(known["convert to yolo"], out)


def test_what_is_in_the_way_is_not_overwritten(known: dict[str, Job], tmp_path: Path) -> None:
    whole, out = Disk(), tmp_path / "out"
    run(known["convert to yolo"], tmp_path / "whole", whole)
    with pytest.raises(AugpipeError, match="read-only"):
        run(known["convert to yolo"], out, Disk(whole.count - 6, "read-only"))
    mine = out / "labels"
    mine.write_text("mine")
    with pytest.raises(
        AugpipeError, match=r"labels: is in the way.*move it away, and run the same"
    ):
        run(known["convert to yolo"], out)
    assert mine.read_text() == "mine"
    mine.unlink()
    run(known["convert to yolo"], out)
    assert tree(out) == tree(tmp_path / "whole")


def test_a_conversion_leaves_what_it_did_not_make(known: dict[str, Job], tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".augpipe-making").mkdir(parents=True)
    (out / ".augpipe-making" / "part").touch()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"):
        run(known["convert to coco"], out)
    assert (out / ".augpipe-making" / "part").exists()
    (out / "thesis.txt").rename(tmp_path / "thesis.txt")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (out / ".augpipe-making" / "part").unlink()
    (out / ".augpipe-making").rmdir()
    (out / ".augpipe-making").symlink_to(elsewhere)
    with pytest.raises(AugpipeError, match="cannot be written"):
        run(known["convert to coco"], out)
    assert (elsewhere / "kept").exists()


def test_a_clock_that_goes_back(known: dict[str, Job], tmp_path: Path) -> None:
    """What is there is told by its content: dates of the past, or the future, change nothing."""
    for name in ("classes", "expand to yolo"):
        out = tmp_path / name
        with pytest.raises(AugpipeError):
            run(known[name], out, Disk(25, "full"))
        for k, path in enumerate(sorted(out.rglob("*"))):
            os.utime(path, (k % 3 * 2e9, k % 3 * 2e9))
        run(known[name], out)
        run(known[name], tmp_path / f"{name} whole")
        assert tree(out) == tree(tmp_path / f"{name} whole")


@pytest.mark.parametrize("name", ["classes", "expand to yolo", "expand to parquet"])
def test_a_manifest_cut_anywhere(known: dict[str, Job], tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    run(known[name], out)
    whole = tree(out)
    data = whole["manifest.jsonl"]
    assert data is not None
    drawn = random.Random(name)
    cuts: list[Any] = [drawn.randrange(len(data)) for _ in range(3)]
    for cut in (0, len(data) - 1, *cuts):
        (out / "manifest.jsonl").write_bytes(data[:cut])
        run(known[name], out)
        assert tree(out) == whole, cut
    (out / "manifest.jsonl").write_bytes(data[:-40] + bytes(40))  # as after a power cut
    run(known[name], out)
    assert tree(out) == whole
