"""WebDataset shards, against the webdataset library; hostile archives."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from augpipe.data import webdataset as own
from augpipe.data.annotated import Dataset
from augpipe.data.decode import decode
from augpipe.data.formats import detect, open_dataset
from augpipe.errors import DataError
from tests.formats.conftest import write
from tests.formats.scenes import by_name

# webdataset leaves the closing of its files to the interpreter.
leaves_files_open = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning",
    "ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning",
)


@leaves_files_open
def test_webdataset_reads_what_is_written(made: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write("webdataset", out, made.meta, made)
    assert sorted(path.name for path in out.glob("*.tar")) == ["train-000000.tar", "val-000000.tar"]
    found = list(
        webdataset.WebDataset(str(out / "train-000000.tar"), shardshuffle=False).decode("rgb8")
    )
    images = [each for each in made if each.split == "train"]
    assert len(found) == len(images)
    for theirs, image in zip(found, images, strict=True):
        assert np.array_equal(theirs["png"], decode(image.content.read()))
        assert made.meta.classes[theirs["cls"]] == image.label
        assert theirs["json"]["file_name"] == image.name
        boxes = [each["category"] for each in theirs["json"].get("annotations", [])]
        assert len(boxes) == len(image.annotations)
    assert found[0]["mask.png"].shape[:2] == (20, 24)
    assert "mask.png" not in found[1]


@leaves_files_open
def test_shards_are_closed_when_they_are_full(
    made: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own, "_IMAGES", (2, 10**9))
    write("webdataset", tmp_path / "out", made.meta, made)
    names = sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
    assert names == ["train-000000.tar", "train-000001.tar", "val-000000.tar"]
    keys = [
        each["__key__"]
        for name in names[:2]
        for each in webdataset.WebDataset(str(tmp_path / "out" / name), shardshuffle=False)
    ]
    assert keys == ["00000000", "00000001", "00000002"]
    assert by_name(open_dataset(tmp_path / "out")).keys() == by_name(made).keys()


def png(seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def shard(path: Path, *members: tuple[str, bytes], **changes: Any) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in changes.items():
                setattr(info, key, value)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_shards_of_others(tmp_path: Path) -> None:
    members = (
        ("dir/0001.jpg", png(1)),
        ("dir/0001.json", json.dumps({"caption": "a cat", "url": "x"}).encode()),
        ("dir/0002.png", png(2)),
        ("dir/0002.cls", b"3"),
        ("dir/0002.txt", b"a dog\n"),
        ("dir/0003.npy", b"no image"),
    )
    shard(tmp_path / "photos-train-000000.tar", *members)
    assert detect(tmp_path) == "webdataset"
    first, second = open_dataset(tmp_path)
    assert (first.name, first.content.read()) == ("dir/0001.jpg", png(1))
    assert first.extra == {"caption": "a cat", "url": "x"}
    assert (second.label, second.extra) == ("3", {"txt": "a dog"})


@pytest.mark.parametrize(
    "name",
    [
        "../0.png",
        "/0.png",
        "a/../../0.png",
        "a\\0.png",
        b"a\xff.png".decode(errors="surrogateescape"),
    ],
)
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    shard(tmp_path / "a.tar", (name, png()))
    with pytest.raises(DataError, match=r"leads out|is absolute|not usable|not UTF-8"):
        own.read(tmp_path / "a.tar")


def test_a_name_that_leads_out_is_refused_whatever_it_names(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", ("0.png", png()), ("../0.sh", b"x"))
    with pytest.raises(DataError, match="leads out"):
        own.read(tmp_path / "a.tar")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    shard(tmp_path / "a.tar", ("0.png", b""), type=kind, linkname="/etc/passwd")
    with pytest.raises(DataError, match="a link or a device, not a file"):
        own.read(tmp_path / "a.tar")


def test_a_record_cannot_say_a_name_that_leads_out(tmp_path: Path) -> None:
    for record in (
        {"file_name": "../x.png"},
        {"file_name": "x.png", "augpipe": {"name": "../x.png"}},
        {"file_name": "x.png", "augpipe": {"name": "x.png", "split": "../.."}},
    ):
        shard(tmp_path / "a.tar", ("0.png", png()), ("0.json", json.dumps(record).encode()))
        with pytest.raises(DataError, match="leads out"):
            own.read(tmp_path / "a.tar")[0]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda data: data[:700], "truncated"),
        (lambda data: data[:-10240] + b"x" * 700, "truncated"),
        (lambda data: b"\x1f\x8b" + data, "a compressed shard"),
        (lambda data: b"garbage" * 200 + data, "not a whole tar file|has no images"),
    ],
)
def test_broken_shards_are_told(
    tmp_path: Path, spoil: Callable[[bytes], bytes], words: str
) -> None:
    path = shard(tmp_path / "a.tar", ("0.png", png()), ("1.png", png(1)))
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=words):
        own.read(path)


@pytest.mark.parametrize("data", [b"{", b"[1]", b"\xff", b"[" * 200_000])
def test_a_json_member_that_is_none_is_told(tmp_path: Path, data: bytes) -> None:
    shard(tmp_path / "a.tar", ("0.png", png()), ("0.json", data))
    with pytest.raises(DataError, match=r"0\.json: (not JSON|not a JSON object|is not text)"):
        own.read(tmp_path / "a.tar")


def test_two_members_of_one_name_are_told(tmp_path: Path) -> None:
    shard(tmp_path / "a.tar", ("0.png", png()), ("0.png", png(1)))
    with pytest.raises(DataError, match="a second member of this name"):
        own.read(tmp_path / "a.tar")
