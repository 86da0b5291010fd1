"""Datasets at addresses of fsspec, in and out: the bytes are those of a folder on disk."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

import augpipe
from augpipe.data.address import Address, place_of
from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.expansion import convert, estimate, expand, job_of, verify
from augpipe.recipe import as_recipe
from augpipe.report.expanded import write_report
from tests.e2e.expansion import tree

OWN = ("job.json", ".augpipe.jsonl")


@pytest.fixture(autouse=True)
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def upload(folder: Path, address: str) -> str:
    for name, data in tree(folder).items():
        (place_of(address) / name).put(data)
    return address


def held(address: str) -> dict[str, bytes]:
    there = place_of(address)
    assert isinstance(there, Address)
    return {name: (there / name).read_bytes() for name in there.files()}


def without_source(files: dict[str, bytes]) -> dict[str, Any]:
    job = json.loads(files["job.json"])
    del job["source"]
    return {**files, "job.json": job}


@pytest.fixture
def packed(source: Path, tmp_path: Path) -> dict[str, Path]:
    out = {"folder": source}
    for form in ("webdataset", "parquet"):
        out[form] = tmp_path / form
        convert(source, out[form], form)
    return out


@pytest.mark.parametrize(
    ("have", "to"),
    [
        ("folder", "folder"),
        ("folder", "webdataset"),
        ("folder", "parquet"),
        ("webdataset", "folder"),
        ("webdataset", "parquet"),
        ("parquet", "webdataset"),
        ("parquet", "parquet"),
    ],
)
def test_from_memory_to_memory_as_on_disk(
    have: str, to: str, packed: dict[str, Path], recipe: Path, tmp_path: Path
) -> None:
    there = upload(packed[have], "memory://bucket/in")
    options: dict[str, Any] = {"copies": 2, "workers": 2, "to": to}
    done = expand(recipe, there, "memory://bucket/out", **options)
    assert (done.written, done.skipped) == (24, 0)
    expand(recipe, packed[have], tmp_path / "out", **options)
    on_disk = tree(tmp_path / "out")
    assert without_source(held("memory://bucket/out")) == without_source(on_disk)
    assert verify("memory://bucket/out").findings == ()
    again = expand(recipe, there, "memory://bucket/out", **options)
    assert (again.written, again.kept) == (0, 24)


def test_convert_at_addresses(packed: dict[str, Path]) -> None:
    there = upload(packed["folder"], "memory://in")
    convert(there, "memory://shards", "webdataset")
    assert held("memory://shards") == tree(packed["webdataset"])
    convert("memory://shards", "memory://back", "folder")
    images = {name: data for name, data in held("memory://back").items() if name not in OWN}
    assert images == tree(packed["folder"])


def test_a_lost_connection_is_a_line_and_the_work_goes_on_from_there(
    source: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expand(recipe, source, tmp_path / "out", copies=2)
    put, left = Address.put, [10]

    def failing(self: Address, data: bytes) -> None:
        if self.suffix == ".png":
            left[0] -= 1
            if left[0] < 0:
                raise OSError("the line is dead")
        put(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Address, "put", failing)
        with pytest.raises(AugpipeError) as caught:
            expand(recipe, source, "memory://out", copies=2)
    assert "cannot be written (the line is dead): 10 of 24 written and kept" in str(caught.value)
    assert any(name.startswith(".augpipe-rows/") for name in held("memory://out"))
    done = expand(recipe, source, "memory://out", copies=2)
    assert (done.written, done.kept) == (14, 10)
    assert held("memory://out") == tree(tmp_path / "out")


KILLED = """\
import os, signal, sys
from augpipe.data.address import Address
from augpipe.expansion import expand, spool

put, left = Address.put, [int(sys.argv[4])]
spool._ROWS = 3

def counted(self, data):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, data)

Address.put = counted
expand(sys.argv[1], sys.argv[2], sys.argv[3], copies=2)
"""


@pytest.mark.parametrize("count", [3, 17])
def test_killed_at_an_address_and_done_again(
    count: int, source: Path, recipe: Path, tmp_path: Path
) -> None:
    """`file://` is as memory://, and outlives a process."""
    expand(recipe, source, tmp_path / "whole", copies=2)
    there = (tmp_path / "there").as_uri()
    command = [sys.executable, "-c", KILLED, str(recipe), str(source), there, str(count)]
    assert subprocess.run(command).returncode == -9
    (tmp_path / "there" / "bag" / ".augpipe-0123456789abcdef").write_bytes(b"a part")
    kept = {3: 0, 17: 12}[count]
    done = expand(recipe, source, there, copies=2)
    assert (done.written, done.kept) == (24 - kept, kept)
    assert tree(tmp_path / "there") == tree(tmp_path / "whole")


def test_a_bad_file_is_listed(source: Path, recipe: Path) -> None:
    (source / "bag" / "bag_01.png").write_bytes(b"not an image")
    there = upload(source, "memory://in")
    done = expand(recipe, there, "memory://out", workers=2)
    assert (done.written, done.skipped, done.exit_code) == (11, 1, 1)
    (line,) = held("memory://out")["errors.jsonl"].splitlines()
    assert json.loads(line)["source"] == "bag/bag_01.png"
    (place_of("memory://in") / "bag/bag_01.png").put((source / "bag/bag_02.png").read_bytes())


def test_what_was_altered_is_found(source: Path, recipe: Path) -> None:
    expand(recipe, source, "memory://out")
    (place_of("memory://out") / "bag/bag_00__0.png").put(b"other")
    (place_of("memory://out") / "bag/new.png").put(b"other")
    kinds = [each.kind for each in verify("memory://out").findings]
    assert kinds == ["altered", "extra"]


def refusal(*args: Any, **options: Any) -> str:
    with pytest.raises(UsageError) as caught:
        expand(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_addresses_that_cannot_be_used(
    source: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Protocol not known: nowhere" in refusal(recipe, "nowhere://in", tmp_path / "out")
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert "s3 needs a package: Install s3fs" in refusal(recipe, source, "s3://bucket/out")
    assert "without empty parts" in refusal(recipe, "memory://a//b", tmp_path / "out")
    assert "::" in refusal(recipe, "zip://x::memory://a", tmp_path / "out")
    assert "no such file or folder" in refusal(recipe, "memory://nothing", tmp_path / "out")
    assert "coco is read and written on disks only; at an address: webdataset" in refusal(
        recipe, source, "memory://out", to="coco"
    )
    (place_of("memory://coco") / "a.json").put(b'{"images": [], "categories": []}')
    assert "memory://coco: coco is read and written on disks only" in refusal(
        recipe, "memory://coco", tmp_path / "out"
    )
    assert "lies inside the input" in refusal(
        recipe, upload(source, "memory://in"), "memory://in/out"
    )
    assert not (tmp_path / "out").exists()


def test_no_permission_is_a_line(
    source: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*args: Any, **options: Any) -> Any:
        raise PermissionError("Access Denied")

    there = upload(source, "memory://in")
    system = type(fsspec.filesystem("memory"))
    with monkeypatch.context() as patch:
        patch.setattr(system, "info", denied)
        with pytest.raises(DataError, match="access denied"):
            expand(recipe, there, tmp_path / "out")

    class CredentialsError(Exception):
        pass

    def unknown(*args: Any, **options: Any) -> Any:
        raise CredentialsError("no credentials")

    with monkeypatch.context() as patch:
        patch.setattr(system, "pipe_file", unknown)
        with pytest.raises(AugpipeError, match="no credentials"):
            expand(recipe, source, "memory://out")


@pytest.mark.parametrize("form", ["folder", "webdataset", "parquet"])
@pytest.mark.parametrize("far", [False, True])
def test_a_loader_of_shards_is_that_of_the_folder(
    form: str, far: bool, packed: dict[str, Path], recipe: Path
) -> None:
    pipe = augpipe.load(recipe)
    where = upload(packed[form], "memory://in") if far else packed[form]
    loader = pipe.loader(where, batch_size=5, workers=2, backend="threads")
    expected = pipe.loader(packed["folder"], batch_size=5, workers=0)
    assert loader.base.classes == expected.base.classes == ("bag", "coat", "sandal")
    for (images, labels), (others, theirs) in zip(loader, expected, strict=True):
        np.testing.assert_array_equal(images, others)
        assert labels.tolist() == theirs.tolist()


def test_what_is_said_before_and_after_reaches_addresses_too(source: Path) -> None:
    here = upload(source, "memory://photos")
    recipe = {"version": 1, "sample": [{"resize": 16}]}
    job = job_of(as_recipe(recipe), here)
    before = estimate(job, "memory://more")
    assert before.kept == 0 and before.outputs == before.measured
    expand(as_recipe(recipe), here, "memory://more")
    assert estimate(job, "memory://more").kept == before.outputs
    page, looks = write_report("memory://more")
    assert b"</html>" in page.read_bytes() and str(page) == "memory://more/report.html"
    assert looks.images == looks.copies == before.outputs
    assert not verify("memory://more").findings
