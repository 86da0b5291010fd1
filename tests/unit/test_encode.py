"""What `encode` keeps, what it refuses, and that `write_atomic` leaves nothing half-written."""

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from augpipe.data.decode import decode
from augpipe.data.encode import EXTENSIONS, TEMPORARY_PREFIX, encode, write_atomic
from augpipe.errors import AugpipeError, DataError, UsageError


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def photo(channels, height=40, width=60):
    """Returns a smooth picture, which lossy formats keep well."""
    y, x = np.mgrid[:height, :width]
    ramps = [x * 4, y * 6, 255 - x * 4, 255 - y * 3]
    return np.stack(ramps[:channels], axis=2).astype(np.uint8)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_png_keeps_every_bit(channels):
    image = photo(channels)
    np.testing.assert_array_equal(decode(encode(image, "png")), image)


@pytest.mark.parametrize(
    ("format", "channels", "stored"),
    [("jpeg", 1, 1), ("jpeg", 3, 3), ("webp", 1, 3), ("webp", 3, 3), ("webp", 4, 4)],
)
def test_lossy_formats_stay_close(format, channels, stored):
    image = photo(channels)
    back = decode(encode(image, format))
    assert back.shape == (40, 60, stored)
    # WebP always halves the colour resolution, which these steep ramps show.
    assert np.abs(back.astype(int) - image).mean() < 2


def test_quality_sets_size_and_colour_resolution():
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (64, 64, 3), np.uint8)
    sizes = [len(encode(image, "jpeg", quality)) for quality in (30, 60, 89, 90, 100)]
    assert sizes == sorted(set(sizes))
    # Single red pixels keep their colour only where the colour planes are whole.
    spots = np.zeros((32, 32, 3), np.uint8)
    spots[::4, ::4, 0] = 255
    full, half = (decode(encode(spots, "jpeg", quality)) for quality in (90, 89))
    assert full[::4, ::4, 0].mean() > 2 * half[::4, ::4, 0].mean()
    assert len(encode(image, "webp", 20)) < len(encode(image, "webp", 90))


@pytest.mark.parametrize("format", EXTENSIONS)
def test_the_same_pixels_give_the_same_bytes(format):
    image = photo(3)
    first = encode(image, format)
    assert encode(image.copy(), format) == first
    turned = np.ascontiguousarray(image[:, ::-1])[:, ::-1]  # equal, but not contiguous
    assert encode(turned, format) == first


def test_extensions_are_those_of_the_formats():
    assert set(EXTENSIONS) == {"png", "jpeg", "webp"}
    registered = Image.registered_extensions()
    for format, extension in EXTENSIONS.items():
        assert registered[extension] == format.upper()


def test_what_a_format_cannot_hold_is_refused():
    with pytest.raises(DataError, match=r"cat\.jpg: jpeg has no alpha: use --format png or webp"):
        encode(photo(4), "jpeg", name="cat.jpg")
    with pytest.raises(DataError, match="16383"):
        encode(np.zeros((1, 16_384, 3), np.uint8), "webp")
    with pytest.raises(DataError, match="65500"):
        encode(np.zeros((65_501, 1, 1), np.uint8), "jpeg")
    assert decode(encode(np.zeros((65_500, 1, 1), np.uint8), "jpeg")).shape == (65_500, 1, 1)
    assert decode(encode(np.zeros((1, 16_383, 3), np.uint8), "webp")).shape == (1, 16_383, 3)


@pytest.mark.parametrize(
    ("image", "quality", "words"),
    [
        (np.zeros((4, 4, 3), np.float32), 95, "normalize"),
        (np.zeros((4, 4), np.uint8), 95, "not"),
        (np.zeros((4, 4, 2), np.uint8), 95, "not"),
        (np.zeros((0, 4, 3), np.uint8), 95, "not"),
        (np.zeros((4, 4, 3), np.uint8), 0, "1 to 100"),
        (np.zeros((4, 4, 3), np.uint8), 101, "1 to 100"),
    ],
)
def test_wrong_calls_are_refused(image, quality, words):
    with pytest.raises(UsageError, match=words):
        encode(image, "jpeg", quality)


def test_write_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "名前 é.png"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == [path.name]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/a.png", "no such file or directory.*create the folder"),
        ("folder", "is a directory.*move the folder"),
        ("file/a.png", "not a directory"),
        ("x" * 300 + ".png", "file name too long.*shorten"),
    ],
)
def test_write_says_what_where_and_what_to_do(tmp_path, name, words):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(AugpipeError, match=words) as caught:
        write_atomic(tmp_path / name, b"data")
    assert str(tmp_path / name) in str(caught.value)
    assert caught.value.exit_code == 1
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (errno.ENOSPC, "no space left on device.*free some space"),
        (errno.EROFS, "writable disk"),
        (errno.EACCES, "you may write to"),
        (errno.EIO, "input/output error"),
    ],
)
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, code, words):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")

    def fails(self, _):
        assert self.name.startswith(TEMPORARY_PREFIX)
        assert self.read_bytes() == b"new"
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(AugpipeError, match=words):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a.png"]


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "a.png", b"new")
    assert names(tmp_path) == []
