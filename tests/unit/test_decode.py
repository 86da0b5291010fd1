"""Every rule of `decode`, each against values worked out without Pillow, and hostile files."""

import io
import os
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from augpipe.data.decode import MAX_PIXELS, decode, read
from augpipe.errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]
ODD_IMAGES = REPOSITORY.parent / "shared" / "data" / "odd_images"
needs_odd_images = pytest.mark.skipif(
    not ODD_IMAGES.is_dir(), reason=f"the odd images are not at {ODD_IMAGES}"
)

RNG = np.random.default_rng(5)
GREY = RNG.integers(0, 256, (5, 7), np.uint8)
RGB = RNG.integers(0, 256, (5, 7, 3), np.uint8)
RGBA = RNG.integers(0, 256, (5, 7, 4), np.uint8)


# --- making files ---------------------------------------------------------------------------


def saved(pixels, format, mode=None, **options):
    """Returns the bytes of an image of the given mode."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, format, **options)
    return buffer.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, depth, colour, rows, *before, after=()):
    """Writes a PNG by hand: `rows` are the packed bytes of each row."""
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
            *(chunk(*each) for each in before),
            chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))),
            *(chunk(*each) for each in after),
            chunk(b"IEND", b""),
        ]
    )


def tiff(values, photometric, bits, order="<"):
    """Writes an uncompressed grey TIFF by hand; `values` are the packed bytes of the rows."""
    rows, width, height = values
    tags = [(256, width), (257, height), (258, bits), (259, 1), (262, photometric)]
    tags += [(273, 8 + 2 + 12 * 9 + 4), (277, 1), (278, height), (279, len(rows))]
    directory = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in tags)
    start = b"II*\0" if order == "<" else b"MM\0*"
    return b"".join([start, struct.pack(order + "IH", 8, len(tags)), directory, bytes(4), rows])


def exif(orientation, kind=3):
    """Returns an EXIF block with an orientation of the given TIFF type, and nothing else."""
    entry = struct.pack("<HHIHH", 274, kind, 1, orientation, 0)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)


def reason(data, **options):
    with pytest.raises(DataError) as caught:
        decode(data, **options)
    assert "\n" not in caught.value.reason
    return caught.value.reason


# --- the rules ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "BMP", "PPM", "TIFF"])
def test_grey_stays_grey(format):
    np.testing.assert_array_equal(decode(saved(GREY, format)), GREY[:, :, None])


@pytest.mark.parametrize("format", ["PNG", "BMP", "PPM", "TIFF", "WEBP"])
def test_rgb_is_kept_bit_for_bit(format):
    options = {"lossless": True} if format == "WEBP" else {}
    np.testing.assert_array_equal(decode(saved(RGB, format, **options)), RGB)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_rgba_is_kept_bit_for_bit(format):
    np.testing.assert_array_equal(decode(saved(RGBA, format)), RGBA)


@pytest.mark.parametrize("format", ["PNG", "BMP", "PPM", "TIFF"])
def test_one_bit_becomes_0_and_255(format):
    bits = GREY > 127
    np.testing.assert_array_equal(decode(saved(bits, format)), bits[:, :, None] * np.uint8(255))


def test_result_is_private_contiguous_and_writable():
    for data in (saved(GREY, "PNG"), saved(RGB, "BMP"), saved(RGB, "JPEG", exif=exif(6))):
        pixels = decode(data)
        assert pixels.dtype == np.uint8
        assert pixels.flags.c_contiguous
        assert pixels.flags.owndata
        assert pixels.flags.writeable


def test_palette_becomes_rgb():
    data = png(3, 1, 8, 3, [bytes([2, 0, 1])], (b"PLTE", bytes([9, 8, 7, 60, 50, 40, 1, 2, 3])))
    assert decode(data).tolist() == [[[1, 2, 3], [9, 8, 7], [60, 50, 40]]]


@pytest.mark.parametrize("alphas", [[0], [0, 255, 255], [10, 255, 128]])
def test_palette_with_transparency_becomes_rgba(alphas):
    palette = (b"PLTE", bytes([9, 8, 7, 60, 50, 40, 1, 2, 3]))
    data = png(3, 1, 8, 3, [bytes([2, 0, 1])], palette, (b"tRNS", bytes(alphas)))
    a, b, c = alphas + [255] * (3 - len(alphas))
    assert decode(data).tolist() == [[[1, 2, 3, c], [9, 8, 7, a], [60, 50, 40, b]]]


def test_transparent_gif_becomes_rgba():
    image = Image.fromarray(np.array([[0, 1], [1, 0]], np.uint8), "L").convert("P")
    image.putpalette([200, 10, 20, 30, 40, 50])
    pixels = decode(saved(image, "GIF", transparency=1))
    assert pixels[:, :, 3].tolist() == [[255, 0], [0, 255]]
    assert pixels[0, 0].tolist() == [200, 10, 20, 255]


def test_grey_with_alpha_becomes_rgba():
    pixels = decode(
        saved(
            Image.merge(
                "LA", [Image.fromarray(GREY), Image.fromarray(GREY.T.copy().reshape(5, 7))]
            ),
            "PNG",
        )
    )
    np.testing.assert_array_equal(pixels[:, :, :3], np.repeat(GREY[:, :, None], 3, 2))
    np.testing.assert_array_equal(pixels[:, :, 3], GREY.T.reshape(5, 7))


@pytest.mark.parametrize(
    ("depth", "row", "clear", "grey", "alpha"),
    [
        (1, [0b10100000], 1, [255, 0, 255], [0, 255, 0]),
        (1, [0b10100000], 0, [255, 0, 255], [255, 0, 255]),
        (2, [0b01101100], 2, [85, 170, 255], [255, 0, 255]),
        (4, [0x3F, 0x70], 15, [51, 255, 119], [255, 0, 255]),
        (8, [3, 15, 51], 3, [3, 15, 51], [0, 255, 255]),
        (16, [0, 3, 0, 4, 0xFF, 0xFF], 4, [0, 0, 255], [255, 0, 255]),
    ],
)
def test_transparent_grey_is_compared_before_scaling(depth, row, clear, grey, alpha):
    data = png(3, 1, depth, 0, [bytes(row)], (b"tRNS", struct.pack(">H", clear)))
    assert decode(data)[0].tolist() == [[g, g, g, a] for g, a in zip(grey, alpha, strict=True)]


def test_transparent_colour_becomes_alpha():
    row = bytes([1, 2, 3, 1, 2, 4, 9, 9, 9])
    data = png(3, 1, 8, 2, [row], (b"tRNS", struct.pack(">3H", 1, 2, 4)))
    assert decode(data)[0, :, 3].tolist() == [255, 0, 255]


def test_16_bit_grey_is_rounded_not_cut():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(values / 257.0).astype(np.uint8)[:, :, None]
    for data in (
        saved(values, "PNG"),
        saved(values, "TIFF"),
        saved(values, "TIFF", compression="tiff_adobe_deflate"),
        tiff((values.astype(">u2").tobytes(), 256, 256), 1, 16, ">"),
        b"P5 256 256 65535\n" + values.astype(">u2").tobytes(),
    ):
        np.testing.assert_array_equal(decode(data), expected)


def test_white_is_zero_is_turned_round():
    rows = np.array([[0, 65535]], "<u2").tobytes()
    assert decode(tiff((rows, 2, 1), 0, 16)).ravel().tolist() == [255, 0]
    assert decode(tiff((b"\x00\xff", 2, 1), 0, 8)).ravel().tolist() == [255, 0]


def test_12_bit_grey_fills_the_range():
    assert decode(tiff((bytes([0xFF, 0xF8, 0x00]), 2, 1), 1, 12)).ravel().tolist() == [255, 128]


def test_16_bit_colour_keeps_the_high_byte():
    row = struct.pack(">6H", 0x12FF, 0x3400, 0xFFFF, 0x00FF, 0x0100, 0x8080)
    data = png(2, 1, 16, 2, [row], (b"tRNS", struct.pack(">3H", 0x12FF, 0x3400, 0xFFFF)))
    assert decode(data)[0].tolist() == [[0x12, 0x34, 0xFF, 0], [0x00, 0x01, 0x80, 255]]


def test_cmyk_becomes_rgb():
    cmyk = np.array([[[0, 0, 0, 0], [255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 0, 255]]], np.uint8)
    expected = [[[255, 255, 255], [0, 255, 255], [255, 0, 255], [0, 0, 0]]]
    assert decode(saved(Image.fromarray(cmyk, "CMYK"), "TIFF")).tolist() == expected
    blocks = Image.fromarray(np.repeat(np.repeat(cmyk, 16, 0), 16, 1), "CMYK")
    pixels = decode(saved(blocks, "JPEG", quality=100, subsampling=0))[8, 8::16]
    assert np.abs(pixels.astype(int) - expected[0]).max() <= 2


def test_ycbcr_and_lab_become_rgb():
    # Red is Y 76, Cb 85, Cr 255 in JPEG's formula. Lab in a TIFF: L 0..255, a and b signed.
    ycbcr = Image.fromarray(np.array([[[76, 85, 255]]], np.uint8), "YCbCr")
    assert np.abs(decode(saved(ycbcr, "TIFF"))[0, 0] - np.array([254, 0, 0])).max() <= 1
    lab = np.array([[[255, 0, 0], [0, 0, 0], [60, 0, 0], [180, 0, 0], [138, 81, 70]]], np.uint8)
    *greys, red = decode(saved(Image.fromarray(lab, "LAB"), "TIFF"))[0].astype(int)
    # skimage.color.lab2rgb of the greys; red is at the edge of sRGB, where it is clipped.
    assert np.abs(np.array(greys) - [[255], [0], [56], [173]]).max() <= 1
    assert np.abs(red - [255, 0, 0]).max() <= 8


def test_unknown_ranges_are_refused():
    floats = Image.fromarray(np.ones((2, 2), np.float32))
    assert "float" in reason(saved(floats, "TIFF"))
    assert "float" in reason(saved(floats, "PPM"))
    assert "range" in reason(saved(Image.fromarray(np.ones((2, 2), np.int32)), "TIFF"))


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_first_frame_stands_for_an_animation(format):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("#ff0000", "#00ff00", "#0000ff")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (decode(data) == [255, 0, 0]).all()
    assert decode(data).shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"P1\n2 2 # size\n01 # row\n10\n", [[255, 0], [0, 255]]),
        (b"P2 2 2 15\n0 15 3\n1", [[0, 255], [51, 17]]),
        (b"P4 2 2\n\x40\x80", [[255, 0], [0, 255]]),
        (b"P5 2 2 15\n\x00\x0f\x03\x01", [[0, 255], [51, 17]]),
    ],
)
def test_portable_anymaps(data, expected):
    assert decode(data)[:, :, 0].tolist() == expected


def test_the_content_decides_not_the_name(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(saved(GREY, "BMP"))
    np.testing.assert_array_equal(decode(path)[:, :, 0], GREY)
    np.testing.assert_array_equal(decode(str(path)), decode(path.read_bytes()))


# --- orientation ----------------------------------------------------------------------------

STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_orientation_is_undone(format, orientation, tmp_path):
    stored = np.ascontiguousarray(STORED[orientation](RGB))
    tags = Image.Exif()
    tags[274] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    path = tmp_path / "image"
    path.write_bytes(saved(stored, format, exif=tags, **options))
    np.testing.assert_array_equal(decode(path), RGB)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "I;16"])
def test_orientation_holds_in_every_mode(mode):
    deep = Image.fromarray(np.arange(35, dtype=np.uint16).reshape(5, 7) * 1800)
    image = deep if mode == "I;16" else Image.fromarray(RGB).convert(mode)
    turned = decode(saved(image, "PNG", exif=exif(6)))
    np.testing.assert_array_equal(turned, np.rot90(decode(saved(image, "PNG")), -1))


@pytest.mark.parametrize(
    "block",
    [
        exif(0),
        exif(9),
        exif(6, kind=2),  # a string
        exif(6)[:14],
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0nonsense",
        b"Exif\0\0",
    ],
)
def test_invalid_orientation_is_ignored(block, tmp_path):
    path = tmp_path / "image.jpg"
    path.write_bytes(saved(RGB, "JPEG", exif=block))
    np.testing.assert_array_equal(decode(path), decode(saved(RGB, "JPEG")))


def test_orientation_behind_the_pixels_of_a_png(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(png(2, 1, 8, 0, [b"\1\2"], after=[(b"eXIf", exif(6)[6:])]))
    assert decode(path).tolist() == [[[1]], [[2]]]


def test_xmp_orientation_is_not_exif(tmp_path):
    xmp = b'<x:xmpmeta tiff:Orientation="6"/>'
    for name, data in (
        ("a.png", png(2, 1, 8, 0, [b"\1\2"], (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp))),
        ("a.tif", saved(np.array([[1, 2]], np.uint8), "TIFF", tiffinfo={700: xmp})),
    ):
        (tmp_path / name).write_bytes(data)
        assert decode(data).tolist() == [[[1], [2]]]


def test_pillow_remarks_on_metadata_do_not_come_through():
    resolution = struct.pack("<HHII", 282, 5, 1, 99_999)  # points behind the block's end
    entry = struct.pack("<HHIHH", 274, 3, 1, 6, 0)
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entry + resolution + bytes(4)
    data = saved(RGB, "JPEG", exif=block)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="Truncated"):
            Image.open(io.BytesIO(data))
        assert decode(data).shape == (7, 5, 3)
        # Nobody else's warnings are silenced, nor Pillow's about large images.
        with pytest.raises(UserWarning, match="ours"):
            warnings.warn("ours", UserWarning, stacklevel=1)
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(io.BytesIO(b"P4 10000 10000\n"))


# --- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty file"),
        (b"\xff", "not an image of a known kind"),
        (b"hello, I am a picture\n", "the file holds text"),
        ("schönes Bild".encode(), "the file holds text"),
        (b"BM is the beginning of this text, not of a bitmap", "the file holds text"),
        (b"<!DOCTYPE html><html>404", "an HTML page"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"%PDF-1.7", "a PDF"),
        (b"PK\x03\x04", "an archive"),
        (bytes(100), "only zero bytes"),
        (saved(RGB, "PNG")[:60], "image is truncated"),
        (saved(RGB, "JPEG")[:-40], "image is truncated"),
        (saved(RGB, "TIFF")[:-20], "image is truncated"),
        (png(3, 1, 8, 3, [b"\0\1\2"])[:-12].replace(b"IDAT", b"JDAT"), "corrupt"),
        (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", bytes(13)) + chunk(b"IEND", b""), "corrupt"),
        (b"P6 2 2 255\n123", "truncated"),
        (b"P5 0 4 255\n", "corrupt"),
    ],
)
def test_what_is_no_image_says_what_it_is(data, words):
    assert words in reason(data)


def test_errors_name_the_file_or_what_it_is_called(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"broken\.jpg: empty file"):
        decode(path)
    with pytest.raises(DataError, match="row 7: empty file"):
        decode(path, name="row 7")
    with pytest.raises(DataError, match="image: empty file"):
        decode(b"")
    with pytest.raises(DataError, match=r"broken\.jpg: empty file"):
        read(path)
    with pytest.raises(DataError, match="row 7: empty file"):
        read(path, name="row 7")


@pytest.mark.parametrize("function", [decode, read])
def test_paths_that_cannot_be_read(function, tmp_path, monkeypatch):
    def reason(path):
        with pytest.raises(DataError) as caught:
            function(path)
        assert caught.value.where == str(path)
        return caught.value.reason

    assert reason(tmp_path / "missing.jpg") == "no such file"
    assert reason(tmp_path) == "a folder, not an image"
    os.mkfifo(tmp_path / "pipe.jpg")
    assert reason(tmp_path / "pipe.jpg") == "not a regular file"  # and does not wait for it
    assert "corrupt" in reason("nul\0byte.jpg")
    (tmp_path / "secret.jpg").write_bytes(saved(RGB, "JPEG"))

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert reason(tmp_path / "secret.jpg") == "no permission to read"


def test_read_gives_the_whole_file_unless_it_is_huge(tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(saved(RGB, "PNG"))
    np.testing.assert_array_equal(decode(read(path)), decode(path))
    with path.open("r+b") as file:
        file.truncate(3_000_000_000)
    with pytest.raises(DataError, match=r"image\.png: too large: 3\.0 GB"):
        read(path)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_file_cut_anywhere_is_whole_or_refused(format):
    data = saved(Image.fromarray(np.kron(RGB, np.ones((3, 3, 1), np.uint8))), format)
    whole = decode(data)
    for length in range(len(data)):
        try:
            pixels = decode(data[:length])
        except DataError:
            continue
        # Only what stands behind the pixels may be missing.
        np.testing.assert_array_equal(pixels, whole)
        assert length > len(data) - 16, f"{length} of {len(data)} bytes"


def test_changed_png_pixels_are_noticed():
    data = bytearray(png(64, 1, 8, 0, [bytes(range(64))]))
    place = data.index(b"IDAT") + 4 + 30
    data[place] ^= 1
    assert "checksum" in reason(bytes(data))


def test_tiff_with_missing_strips_is_truncated():
    data = tiff((bytes(6), 2, 3), 1, 8)
    assert decode(data).shape == (3, 2, 1)
    entry = struct.pack("<HHII", 278, 4, 1, 3)
    assert "truncated" in reason(data.replace(entry, struct.pack("<HHII", 278, 4, 1, 2)))


@settings(max_examples=400, deadline=5000, derandomize=True)
@given(
    st.sampled_from(
        [
            saved(RGB, "JPEG", exif=exif(6)),
            saved(RGB, "JPEG", progressive=True),
            saved(RGBA, "PNG"),
            saved(RGB, "GIF"),
            saved(RGB, "BMP"),
            saved(RGB, "TIFF"),
            saved(RGB, "TIFF", compression="tiff_lzw"),
            saved(RGBA, "WEBP"),
            saved(GREY, "PPM"),
        ]
    ),
    st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=0, max_size=4)), max_size=4),
)
def test_damage_gives_an_image_or_a_data_error(data, changes):
    for place, new in changes:
        data = data[:place] + new + data[place + 4 :]
    try:
        pixels = decode(data, max_pixels=1_000_000)
    except DataError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3
    assert pixels.shape[2] in (1, 3, 4)


# --- hostile files --------------------------------------------------------------------------


def test_large_images_are_refused_by_their_header():
    # There are no pixels in it at all: only the header can have said so.
    data = b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBBBBB", 30_000, 20_000, 1, 0, 0, 0, 0)
    )
    data += chunk(b"IDAT", b"")
    assert reason(data) == (
        "too large: 30000 x 20000 is 600.0 megapixels, more than the limit of 100"
    )
    ok = saved(GREY, "PNG")
    assert decode(ok, max_pixels=35).shape == (5, 7, 1)
    assert "more than the limit of 3.4e-05" in reason(ok, max_pixels=34)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_every_format_keeps_the_limit(format):
    assert "too large" in reason(saved(RGB, format), max_pixels=30)


def test_gif_frame_beyond_its_canvas_counts():
    data = saved(GREY, "GIF")
    place = data.index(b",") + 5
    grown = data[:place] + struct.pack("<HH", 9600, 9600) + data[place + 4 :]
    assert "92.2 megapixels" in reason(grown)  # more than Pillow's own limit, less than ours


def test_between_pillows_limit_and_ours_there_is_no_warning():
    size = 9_500
    assert Image.MAX_IMAGE_PIXELS < size * size < MAX_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = decode(saved(Image.new("1", (size, size)), "PNG"))
    assert pixels.shape == (size, size, 1)


def test_text_bombs_are_refused():
    deflated = zlib.compress(bytes(50_000_000), 9)
    for kind, content in (
        (b"zTXt", b"k\0\0" + deflated),
        (b"iTXt", b"k\0\1\0\0\0" + deflated),
        (b"iCCP", b"k\0\0" + deflated),
    ):
        assert "corrupt" in reason(png(1, 1, 8, 0, [b"\0"], (kind, content)))
        if kind != b"iCCP":
            assert "corrupt" in reason(png(1, 1, 8, 0, [b"\0"], after=[(kind, content)]))


def test_endless_scans_are_refused():
    data = saved(Image.new("L", (3000, 3000)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") :][:10]
    bomb = data[:-2] + scan * 20_000 + data[-2:]
    assert "scans" in reason(bomb)
    # What follows the image is not part of it, whatever bytes it holds.
    assert decode(data + scan * 20_000).shape == (3000, 3000, 1)


def test_many_comments_take_linear_time():
    data = b"P2 2 1 9\n" + b"#\n" * 2_000_000 + b"9 0"
    start = time.process_time()
    assert decode(data).ravel().tolist() == [255, 0]
    assert time.process_time() - start < 5  # about 0.3 s; Pillow alone takes about 20 s


def test_a_chunk_that_claims_gigabytes_gets_none(tmp_path):
    data = png(2, 1, 8, 0, [b"\1\2"])
    place = data.index(b"IDAT") - 4
    path = tmp_path / "claims.png"
    path.write_bytes(data[:place] + b"\x7f\xff\xff\xff" + data[place + 4 :])
    assert reason(path) == "image is truncated"


# --- the collection of odd images -----------------------------------------------------------


def odd(folder):
    return sorted((ODD_IMAGES / folder).glob("*.*")) if ODD_IMAGES.is_dir() else []


def by_cv2(path, ours):
    """Decodes with OpenCV, which shares no code with Pillow's PNG, to our rules."""
    theirs = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    theirs = theirs[:, :, None] if theirs.ndim == 2 else theirs
    if theirs.dtype == np.uint16:
        theirs = np.rint(theirs / 257.0) if theirs.shape[2] == 1 else theirs >> 8
    if theirs.shape[2] == 1 and ours.shape[2] == 4:
        # OpenCV leaves out grey's transparent value; in both such files it is white.
        return np.concatenate([theirs] * 3 + [np.where(theirs == 255, 0, 255)], axis=2)
    return theirs[:, :, [2, 1, 0, 3][: theirs.shape[2]]] if theirs.shape[2] > 1 else theirs


@needs_odd_images
@pytest.mark.parametrize("path", odd("pngsuite"), ids=lambda path: path.stem)
def test_png_suite(path):
    if path.suffix != ".png":
        assert "text" in reason(path)
    elif path.name.startswith("x"):
        assert reason(path)
    else:
        ours = decode(path)
        np.testing.assert_array_equal(ours, by_cv2(path, ours))


REFUSED = {
    "bomb_30000x30000_1bit.png": "900.0 megapixels",
    "bomb_warn_12000x12000_1bit.png": "144.0 megapixels",
    "empty.jpg": "empty file",
    "empty.png": "empty file",
    "html_error_page.png": "HTML",
    "just_text.jpg": "text",
    **{f"photo_truncated_{part:02}pct.jpg": "truncated" for part in (2, 25, 50, 90, 99)},
}


@needs_odd_images
@pytest.mark.parametrize("path", odd("made"), ids=lambda path: path.name)
def test_odd_images(path):
    if path.name in REFUSED:
        assert REFUSED[path.name] in reason(path)
        return
    ours = decode(path)
    theirs = cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1]  # turns by EXIF as we do
    assert ours.shape == (*theirs.shape[:2], 1 if "gray" in path.name or "1bit" in path.name else 3)
    # Both use libjpeg-turbo; the CMYK formulas differ in rounding.
    limit = 4 if "cmyk" in path.name else 0
    assert np.abs(ours.astype(int) - theirs).max() <= limit


@needs_odd_images
def test_bombs_stay_within_little_memory():
    program = """
import resource, sys
from augpipe.data.decode import decode
from augpipe.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        decode(path)
    except DataError:
        continue
    raise SystemExit("a bomb was decoded")
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
raise SystemExit(0 if grown < 20_000 else f"{grown} kB more memory")
"""
    bombs = [str(path) for path in odd("made") if path.name.startswith("bomb")]
    assert len(bombs) == 2
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *bombs],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
