"""IDX files, against torchvision's reader of them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import mnist

from augpipe.data.idx import IdxImages, is_idx, read_idx
from augpipe.errors import DataError, UsageError
from tests.training.support import write_idx, write_idx_set

TRAIN = "train-images-idx3-ubyte"


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("split", ["train", "test"])
def test_it_reads_what_torchvision_reads(tmp_path: Path, packed: bool, split: str) -> None:
    write_idx_set(tmp_path, packed=packed)
    assert is_idx(tmp_path)
    stem = "train" if split == "train" else "t10k"
    for kind in ("images-idx3", "labels-idx1"):
        packs = tmp_path / f"{stem}-{kind}-ubyte.gz"
        if packed:  # torchvision's reader takes the unpacked file
            packs.with_suffix("").write_bytes(gzip.decompress(packs.read_bytes()))
    images = mnist.read_image_file(str(tmp_path / f"{stem}-images-idx3-ubyte"))
    labels = mnist.read_label_file(str(tmp_path / f"{stem}-labels-idx1-ubyte"))
    if packed:
        for kind in ("images-idx3", "labels-idx1"):
            (tmp_path / f"{stem}-{kind}-ubyte").unlink()
    read = IdxImages(tmp_path, split)
    assert len(read) == len(images) == (30 if split == "train" else 15)
    assert np.array_equal(read.images, images.numpy())
    assert torch.equal(torch.tensor(read.targets), labels)
    pixels, label = read[4]
    assert pixels.shape == (12, 12) and pixels.dtype == np.uint8 and label == labels[4]
    assert list(read.classes) == ["0", "1", "2"]


def test_the_unpacked_file_comes_first(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    (tmp_path / f"{TRAIN}.gz").write_bytes(b"no gzip")
    assert len(IdxImages(tmp_path)) == 30


def test_images_of_any_shape(tmp_path: Path) -> None:
    array = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
    write_idx(tmp_path / "x", array, packed=False)
    assert np.array_equal(read_idx(tmp_path / "x", 3), array)
    write_idx(tmp_path / "none", array[:0], packed=False)
    assert read_idx(tmp_path / "none", 3).shape == (0, 3, 5)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda data: data[:-7], "holds 4313 bytes for the shape [30, 12, 12]"),
        (lambda data: data + b"x", "holds more than 4320 bytes for the shape"),
        (lambda data: data[:9], "is not an IDX file of bytes in 3 dimensions"),
        (lambda data: b"", "is not an IDX file of bytes in 3 dimensions"),
        (lambda data: b"\0\0\x0d\x03" + data[4:], "is not an IDX file of bytes in 3 dimensions"),
        (lambda data: b"\0\0\x08\x01" + data[4:], "is not an IDX file of bytes in 3 dimensions"),
        # A header of 2**96 bytes, whose product overflows to 0 in 64 bits.
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "for the shape [4294967295, "),
        (lambda data: data[:4] + b"\x80\0\0\0" * 2 + b"\0\0\0\x04", "for the shape [2147483648, "),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, packed: bool, change: object, words: str) -> None:
    write_idx_set(tmp_path)
    path = tmp_path / TRAIN
    data = change(path.read_bytes())  # type: ignore[operator]
    path.unlink()
    if packed:
        path = path.with_name(f"{TRAIN}.gz")
        data = gzip.compress(data)
    path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        IdxImages(tmp_path)
    assert TRAIN in caught.value.where
    assert words in caught.value.reason


@pytest.mark.parametrize("change", [lambda data: data[:-20], lambda data: b"no gzip at all"])
def test_a_broken_archive_is_named(tmp_path: Path, change: object) -> None:
    write_idx_set(tmp_path, packed=True)
    path = tmp_path / f"{TRAIN}.gz"
    path.write_bytes(change(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz: "):
        IdxImages(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert not is_idx(tmp_path)
    write_idx_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert len(IdxImages(tmp_path, "train")) == 30
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: no such file"):
        IdxImages(tmp_path, "test")


def test_labels_must_be_as_many_as_images(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    write_idx(tmp_path / "train-labels-idx1-ubyte", [0, 1], packed=False)
    with pytest.raises(DataError, match="30 images have 2 labels"):
        IdxImages(tmp_path)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    with pytest.raises(UsageError, match="no split 'validation', it has train and test"):
        IdxImages(tmp_path, "validation")
