"""JPEGs decoded as far as they are looked at, against `decode`, which reads all of a file."""

import io
import struct
from math import ceil
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from augpipe.data.decode import as_rgb, decode
from augpipe.data.jpeg import open_jpeg
from augpipe.errors import DataError
from augpipe.rng import Draws, field_words

REPOSITORY = Path(__file__).resolve().parents[2]
PHOTOS = REPOSITORY / "samples" / "photos"
ODD_IMAGES = REPOSITORY.parent / "shared" / "data" / "odd_images" / "made"

FACTORS = {
    "4:4:4": [(1, 1), (1, 1), (1, 1)],
    "4:2:2": [(2, 1), (1, 1), (1, 1)],
    "4:2:0": [(2, 2), (1, 1), (1, 1)],
    "4:4:0": [(1, 2), (1, 1), (1, 1)],
    "4:1:1": [(4, 1), (1, 1), (1, 1)],
    "4:4:1": [(1, 4), (1, 1), (1, 1)],
    "4:1:0": [(4, 2), (1, 1), (1, 1)],
    "4:2:2 in fours": [(2, 2), (1, 2), (1, 2)],
    "4:2:0 and 4:2:2": [(2, 2), (1, 1), (1, 2)],
    "thirds": [(3, 1), (1, 1), (1, 1)],
    "chroma finer": [(1, 1), (2, 2), (1, 1)],
    "grey": [(1, 1)],
    "grey in fours": [(2, 2)],
}
CV2_FACTORS = {
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}


# --- making files ---------------------------------------------------------------------------


def noise(height, width, channels=3, key=1):
    """Returns blocks of 3 × 3 pixels of random colours, so that chroma and edges matter."""
    words = field_words(key, -(-height // 3) * -(-width // 3) * channels) & 255
    blocks = words.astype(np.uint8).reshape(-(-height // 3), -(-width // 3), channels)
    pixels = np.kron(blocks, np.ones((3, 3, 1), np.uint8))[:height, :width]
    return pixels if channels > 1 else pixels[:, :, 0]


def saved(pixels, **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, options.pop("format", "JPEG"), **options)
    return buffer.getvalue()


def saved_by_cv2(pixels, factors, **options):
    flags = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, CV2_FACTORS[factors]]
    flags += [item for name, value in options.items() for item in (getattr(cv2, name), value)]
    return cv2.imencode(".jpg", pixels, flags)[1].tobytes()


def exif(orientation):
    entry = struct.pack("<HHIHH", 274, 3, 1, orientation, 0)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)


def segment(code, data):
    return struct.pack(">BBH", 0xFF, code, len(data) + 2) + data


def inserted(data, *segments):
    """Puts segments right behind the start of a file."""
    return data[:2] + b"".join(segments) + data[2:]


_SYMBOLS = (0, 1, 2, 3, 4, 5, 6, 7), (0x00, 0x01, 0x02, 0x11, 0x31, 0x51, 0xF0, 0x03)


def written(height, width, factors, *, apart=False, restart=0, key=1):
    """Writes a baseline JPEG of random coefficients, with any sampling factors.

    Each Huffman code is a symbol's place in `_SYMBOLS`, as four bits.

    Args:
        factors: Horizontal and vertical, of each component.
        apart: Whether each component has a scan of its own.
        restart: After how many units there is a restart marker.
    """
    choices = iter(field_words(key, 400_000).tolist())

    def block():
        size = next(choices) % 6
        bits = [(size, 4), (next(choices) & ((1 << size) - 1), size)]
        at = 1
        for _ in range(next(choices) % 4):
            code = 1 + next(choices) % 7
            run, size = divmod(_SYMBOLS[1][code], 16)
            at += run + 1
            if at > 60:
                break
            bits += [(code, 4), (next(choices) & ((1 << size) - 1), size)]
        return [*bits, (0, 4)]

    def coded(units, blocks):
        out, text = b"", ""
        for unit in range(units):
            if restart and unit and unit % restart == 0:
                out += flushed(text) + bytes([0xFF, 0xD0 + (unit // restart - 1) % 8])
                text = ""
            for _ in range(blocks):
                text += "".join(f"{value:0{size}b}" for value, size in block() if size)
        return out + flushed(text)

    def flushed(text):
        text += "1" * (-len(text) % 8)
        raw = bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))
        return raw.replace(b"\xff", b"\xff\0")

    across, down = (max(column) for column in zip(*factors, strict=True))
    tables = b"".join(
        bytes([kind, 0, 0, 0, 8, *[0] * 12, *symbols])
        for kind, symbols in zip((0x00, 0x10), _SYMBOLS, strict=True)
    )
    parts = [
        b"\xff\xd8",
        segment(0xDB, bytes([0, *[6] * 64])),
        segment(0xC4, tables),
        segment(
            0xC0,
            struct.pack(">BHHB", 8, height, width, len(factors))
            + b"".join(bytes([k + 1, 16 * h + v, 0]) for k, (h, v) in enumerate(factors)),
        ),
        segment(0xDD, struct.pack(">H", restart)),
    ]

    def scan(components):
        chosen = b"".join(bytes([k + 1, 0]) for k in components)
        return segment(0xDA, bytes([len(components)]) + chosen + b"\0\x3f\0")

    if apart or len(factors) == 1:
        for k, (h, v) in enumerate(factors):
            columns = ceil(ceil(width * h / across) / 8)
            rows = ceil(ceil(height * v / down) / 8)
            parts += [scan([k]), coded(columns * rows, 1)]
    else:
        units = -(-width // (8 * across)) * -(-height // (8 * down))
        blocks = sum(h * v for h, v in factors)
        parts += [scan(range(len(factors))), coded(units, blocks)]
    return b"".join([*parts, b"\xff\xd9"])


def scans(data):
    """Returns where each scan of a file ends."""
    ends, place = [], 2
    while data[place + 1] != 0xD9:
        code = data[place + 1]
        place += 2 + int.from_bytes(data[place + 2 : place + 4])
        while code == 0xDA and (data[place] != 0xFF or data[place + 1] in (0, *range(0xD0, 0xD8))):
            place += 1
        if code == 0xDA:
            ends.append(place)
    return ends


# --- comparing ------------------------------------------------------------------------------


def outcome(function, *arguments):
    """Returns the array, or None for a DataError; nothing else may escape."""
    try:
        return function(*arguments)
    except DataError:
        return None


def crops(height, width):
    """Returns crops of every kind: all, edges, single rows and columns, empty ones."""
    y, x = height // 2, width // 2
    return [
        (0, height, 0, width),
        (0, y, 0, x),
        (y, height, x, width),
        (0, 1, 0, width),
        (height - 1, height, 0, width),
        (0, height, width - 1, width),
        (y, y + 1, x, x + 1),
        (height // 3, height - height // 3, width // 4, width - width // 4),
        (y, y, 0, width),
        (0, height, x, x),
        (0, 0, 0, 0),
        (height, height, width, width),
    ]


def assert_parts_are_slices(data, boxes=None, rgb=False):
    whole = as_rgb(decode(data)) if rgb else decode(data)
    picture = open_jpeg(data, "x", rgb=rgb)
    assert picture is not None
    assert picture.shape == whole.shape
    for box in boxes or crops(*whole.shape[:2]):
        top, bottom, left, right = box
        part = picture.part(*box)
        assert part.dtype == np.uint8
        np.testing.assert_array_equal(part, whole[top:bottom, left:right], err_msg=str(box))


def every_stop(data):
    """Returns crops that end at each of an image's rows."""
    height, width = decode(data).shape[:2]
    return [(max(stop - 2, 0), stop, 0, width) for stop in range(height + 1)]


def is_fast(data, monkeypatch):
    """Says whether a part is had without `decode`."""

    def refused(*_, **__):
        raise AssertionError("decode was called")

    with monkeypatch.context() as patch:
        patch.setattr("augpipe.data.jpeg.decode", refused)
        picture = open_jpeg(data, "x")
        if picture is None:
            return False
        try:
            picture.part(0, 1, 0, 1)
        except AssertionError:
            return False
        return True


# --- parts ----------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("rgb", [False, True])
def test_parts_of_every_orientation(orientation, channels, rgb):
    data = saved(noise(70, 53, channels), exif=exif(orientation))
    assert_parts_are_slices(data, rgb=rgb)
    picture = open_jpeg(data, "x", rgb=rgb)
    np.testing.assert_array_equal(
        picture.pixels(), picture.part(0, *picture.shape[:1], 0, picture.shape[1])
    )


@pytest.mark.parametrize("factors", FACTORS)
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("restart", [0, 1, 3])
def test_parts_of_every_sampling(factors, apart, restart):
    data = written(100, 45, FACTORS[factors], apart=apart, restart=restart)
    assert decode(data)[-4:].std() > 2  # a picture, and not the grey of one that broke off
    assert_parts_are_slices(data, every_stop(data))


@pytest.mark.parametrize("factors", CV2_FACTORS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"IMWRITE_JPEG_PROGRESSIVE": 1},
        {"IMWRITE_JPEG_OPTIMIZE": 1},
        {"IMWRITE_JPEG_RST_INTERVAL": 2},
        {"IMWRITE_JPEG_PROGRESSIVE": 1, "IMWRITE_JPEG_RST_INTERVAL": 1},
    ],
    ids=str,
)
def test_parts_of_every_encoding(factors, options, monkeypatch):
    data = saved_by_cv2(noise(150, 37), factors, **options)
    assert is_fast(data, monkeypatch)
    assert_parts_are_slices(data, every_stop(data))


@pytest.mark.parametrize("factors", CV2_FACTORS)
@pytest.mark.parametrize("kept", [1, 2, 5, -1])
def test_parts_of_a_progressive_file_without_its_last_scans(factors, kept):
    # Its blocks are smoothed by the two below them, and chroma's blocks are taller.
    data = saved_by_cv2(noise(300, 37), factors, IMWRITE_JPEG_PROGRESSIVE=1)
    data = data[: scans(data)[:kept][-1]] + b"\xff\xd9"
    assert_parts_are_slices(data, every_stop(data))


@settings(max_examples=150, derandomize=True)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(list(FACTORS)),
    st.integers(1, 8),
    st.booleans(),
    st.integers(0, 4),
    st.data(),
)
def test_parts_of_every_size(height, width, factors, orientation, apart, restart, data):
    file = written(height, width, FACTORS[factors], apart=apart, restart=restart)
    file = inserted(file, segment(0xE1, exif(orientation)))
    down, across = decode(file).shape[:2]
    rows = sorted((data.draw(st.integers(0, down)), data.draw(st.integers(0, down))))
    columns = sorted((data.draw(st.integers(0, across)), data.draw(st.integers(0, across))))
    assert_parts_are_slices(file, [(*rows, *columns), (0, down, 0, across)])


def test_parts_of_adobe_rgb(monkeypatch):
    data = saved(noise(70, 53), keep_rgb=True)
    assert b"Adobe" in data
    assert is_fast(data, monkeypatch)
    assert_parts_are_slices(data)
    for transform in (0, 1, 2):  # what three components mean is for this block to say
        marked = b"Adobe" + struct.pack(">HHHB", 100, 0, 0, transform)
        plain = written(70, 53, FACTORS["4:4:4"])
        assert_parts_are_slices(inserted(plain, segment(0xEE, marked)))


def test_parts_of_a_multi_picture_file(monkeypatch):
    images = [Image.fromarray(noise(70, 53, key=key)) for key in (1, 2)]
    data = saved(images[0], format="MPO", save_all=True, append_images=images[1:])
    assert data.count(b"\xff\xd8\xff") == 2
    assert is_fast(data, monkeypatch)
    assert_parts_are_slices(data)


def test_parts_behind_fill_bytes_and_unknown_segments(monkeypatch):
    data = saved(noise(70, 53), exif=exif(6))
    place = data.index(b"\xff\xdb")
    filled = data[:place] + b"\xff" * 5 + segment(0xFE, b"\xff\xc0\xff\xda" * 9) + data[place:]
    assert is_fast(filled, monkeypatch)
    assert_parts_are_slices(filled)
    np.testing.assert_array_equal(decode(filled), decode(data))


def test_what_is_looked_at_is_all_that_is_decoded(monkeypatch):
    asked = []
    decoder = simplejpeg.decode_jpeg

    def noted(*arguments, **options):
        out = decoder(*arguments, **options)
        asked.append(out.shape[0])
        return out

    monkeypatch.setattr(simplejpeg, "decode_jpeg", noted)
    picture = open_jpeg(saved(noise(4000, 16)), "x", scaled=True)
    picture.part(90, 100, 0, 16)
    picture.reduced(3, (0.0, 90.0, 16.0, 100.0))
    assert asked[0] <= 128 and asked[1] <= 128 // 8


def test_what_is_not_plain_is_left_to_decode():
    rgb, grey = noise(40, 30), noise(40, 30, 1)
    plain = saved(rgb)
    frame = plain.index(b"\xff\xc0")
    scan = plain.index(b"\xff\xda")

    def coded(code):
        return plain[: frame + 1] + bytes([code]) + plain[frame + 2 :]

    for name, data in {
        "CMYK": saved(Image.fromarray(np.dstack([rgb, grey]), "CMYK")),
        "lossless": coded(0xC3),
        "arithmetic": coded(0xC9),
        "progressive arithmetic": coded(0xCA),
        "two EXIF blocks": inserted(plain, segment(0xE1, exif(6)), segment(0xE1, exif(8))),
        "trailing garbage": plain + b"\0" * 64,
        "no height, and a DNL": (
            plain[: frame + 5]
            + b"\0\0"
            + plain[frame + 7 : -2]
            + segment(0xDC, b"\0\x28")
            + b"\xff\xd9"
        ),
        "12 bits": plain[: frame + 4] + b"\x0c" + plain[frame + 5 :],
        "two frames": plain[:scan] + plain[frame : frame + 19] + plain[scan:],
        "PNG": saved(rgb, format="PNG"),
        "nothing": b"",
        "the start alone": b"\xff\xd8\xff\xd9",
    }.items():
        assert open_jpeg(data, "x") is None, name
    # A DNL beside a height changes nothing.
    assert_parts_are_slices(plain[:-2] + segment(0xDC, b"\0\x28") + b"\xff\xd9")


@pytest.mark.parametrize("channels", [1, 3])
def test_endless_scans_are_refused(channels):
    data = saved(noise(64, 64, channels), progressive=True)
    ends = scans(data)
    last = data[data.rindex(b"\xff\xda") : ends[-1]]
    bomb = data[:-2] + last * 600 + data[-2:]
    assert open_jpeg(bomb, "x") is None
    with pytest.raises(DataError, match="scans"):
        decode(bomb)
    assert open_jpeg(data[:-2] + last * 300 + data[-2:], "x") is not None


@pytest.mark.skipif(not ODD_IMAGES.is_dir(), reason=f"the odd images are not at {ODD_IMAGES}")
def test_the_odd_images():
    for path in sorted(ODD_IMAGES.iterdir()):
        data = path.read_bytes()
        picture = open_jpeg(data, path.name)
        if picture is not None:
            assert_parts_are_slices(data)


# --- damage ---------------------------------------------------------------------------------

SMALL = {
    "baseline": saved(noise(40, 21), quality=60),
    "progressive": saved(noise(40, 21), quality=60, progressive=True, exif=exif(6)),
    "restarts": saved(noise(40, 21), quality=60, restart_marker_blocks=1),
    "apart": written(40, 21, FACTORS["4:2:0"], apart=True, restart=2),
    "grey": saved(noise(40, 21, 1), quality=60, exif=exif(3)),
}


def assert_alike(data):
    """Holds all of a file, and its first rows, against what `decode` makes of it.

    What lies below the rows that are looked at is not seen: so where `decode` refuses, the
    first rows may be had. Where it does not, they are its own.
    """
    picture = open_jpeg(data, "x")
    if picture is None:
        return
    if picture.shape[0] * picture.shape[1] > 1_000_000:  # a size that the damage made
        return
    whole = outcome(decode, data)
    all_of_it = outcome(picture.pixels)
    assert (all_of_it is None) == (whole is None)
    if whole is not None:
        np.testing.assert_array_equal(all_of_it, whole)
        height, width = whole.shape[:2]
        for top, bottom, left, right in ((0, 1, 0, width), (0, height // 3, 2, width)):
            part = picture.part(top, bottom, left, right)
            np.testing.assert_array_equal(part, whole[top:bottom, left:right])
    else:
        height, width = picture.shape[:2]
        outcome(picture.part, 0, 1, 0, width)
    for halvings in (1, 2, 3):
        outcome(picture.reduced, halvings, (0.0, 0.0, width, height / 2))


def test_damage_below_the_rows_that_are_looked_at_is_not_seen():
    data = saved(noise(400, 30))
    whole = decode(data)
    place = len(data) * 9 // 10
    broken = data[:place] + b"\xff\xd8" + data[place:]  # a second start, which no file has
    with pytest.raises(DataError):
        decode(broken)
    picture = open_jpeg(broken, "photo.jpg")
    np.testing.assert_array_equal(picture.part(0, 10, 0, 30), whole[:10])
    with pytest.raises(DataError, match=r"photo\.jpg"):
        picture.pixels()
    for damaged in (data[:place] + b"\xff\xd9", data[:place] + bytes(40) + data[place + 40 :]):
        picture = open_jpeg(damaged, "x")
        assert (picture.pixels() != whole).any()
        np.testing.assert_array_equal(picture.pixels(), decode(damaged))
        np.testing.assert_array_equal(picture.part(0, 200, 0, 30), whole[:200])


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_error_behind_a_fault_is_not_taken_for_pixels(orientation):
    # To the cut file each scan is too long, which is but a fault: and of a fault and an error
    # behind it TurboJPEG reports the fault, having written no row.
    data = saved(noise(400, 300), progressive=True, exif=exif(orientation))
    place = data.rindex(b"\xff\xda")
    broken = data[: place + 5] + b"\x77" + data[place + 6 :]  # a scan of no component
    with pytest.raises(DataError):
        decode(broken)
    picture = open_jpeg(broken, "x", scaled=True)
    with pytest.raises(DataError):
        picture.part(0, 8, 0, 8)
    with pytest.raises(DataError):
        picture.reduced(1, (0.0, 0.0, 8.0, 8.0))


def test_no_memory_is_a_data_error(monkeypatch):
    def refused(*_, **__):
        raise MemoryError

    picture = open_jpeg(saved(noise(40, 30)), "x")
    monkeypatch.setattr(simplejpeg, "decode_jpeg", refused)
    assert picture.pixels().shape == (40, 30, 3)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refused)
    with pytest.raises(DataError, match="memory"):
        picture.pixels()


@pytest.mark.parametrize("kind", SMALL)
def test_files_cut_anywhere(kind, capfd):
    data = SMALL[kind]
    for length in range(len(data)):
        assert_alike(data[:length])
        assert_alike(data[:length] + b"\xff\xd9")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", SMALL)
def test_files_with_changed_bytes(kind, capfd):
    draws = Draws(11, np.arange(400), op=kind)
    places = draws.integers("place", 2, len(SMALL[kind]) - 3)
    values = draws.integers("value", 0, 255)
    for place, value in zip(places, values, strict=True):
        data = bytearray(SMALL[kind])
        data[place] = value
        assert_alike(bytes(data))
    assert capfd.readouterr() == ("", "")


# --- at a fraction of the size --------------------------------------------------------------

PHOTO_NAMES = ("chelsea", "china", "rocket", "coffee", "retina", "camera")  # odd sides among them


def box_mean(pixels, factor):
    """Returns float64 means of blocks, the last of which are completed with edge pixels."""
    bottom, right = (-side % factor for side in pixels.shape[:2])
    padded = np.pad(pixels.astype(np.float64), ((0, bottom), (0, right), (0, 0)), mode="edge")
    height, width, channels = padded.shape
    blocks = padded.reshape(height // factor, factor, width // factor, factor, channels)
    return blocks.mean(axis=(1, 3))


def shift(before, after):
    """Returns by how many pixels the image moved, x and y: least squares on its gradient."""
    before, after = (np.asarray(each, np.float64).mean(axis=2) for each in (before, after))
    inner = np.s_[1:-1, 1:-1]
    down, across = (each[inner].ravel() for each in np.gradient((before + after) / 2))
    moved = (before - after)[inner].ravel()
    return np.linalg.lstsq(np.stack([across, down], axis=1), moved, rcond=None)[0]


def test_the_shift_is_measured():
    pixels = decode(PHOTOS / "chelsea.jpg")
    smooth = cv2.GaussianBlur(pixels, (0, 0), 4)
    for x, y in ((0.0, 0.0), (0.5, 0.0), (-0.25, 0.125)):
        moved = cv2.warpAffine(smooth, np.array([[1, 0, x], [0, 1, y]]), smooth.shape[1::-1])
        np.testing.assert_allclose(shift(smooth[9:-9, 9:-9], moved[9:-9, 9:-9]), (x, y), atol=0.02)


@pytest.mark.parametrize("halvings", [1, 2, 3])
@pytest.mark.parametrize("name", PHOTO_NAMES)
def test_reduced_pixels_are_the_means_of_blocks(name, halvings):
    data = (PHOTOS / f"{name}.jpg").read_bytes()
    whole = decode(data)
    height, width = whole.shape[:2]
    reduced, matrix = open_jpeg(data, name, scaled=True).reduced(halvings, (0, 0, width, height))
    expected = box_mean(whole, 2**halvings)
    assert reduced.shape == expected.shape
    # The inverse DCT of fewer coefficients is no exact mean, except at 1/8.
    assert np.abs(reduced - expected).mean() < 1.0
    assert np.abs(shift(expected, reduced)).max() < 0.01
    np.testing.assert_array_equal(matrix, np.diag([0.5**halvings, 0.5**halvings, 1.0]))


@pytest.mark.parametrize("halvings", [1, 2, 3])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_matrix_leads_from_upright_to_stored_positions(orientation, halvings):
    # A bright square on dark ground, found again where the matrix says: at every corner.
    for top, left in ((0, 0), (0, 88), (160, 0), (160, 88), (72, 40)):
        stored = np.zeros((173, 99, 3), np.uint8)
        stored[top : top + 8, left : left + 8] = 255
        data = saved(stored, quality=95, subsampling=0, exif=exif(orientation))
        upright = decode(data)
        rows, columns = np.nonzero(upright[:, :, 1] > 127)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        reduced, matrix = open_jpeg(data, "x", scaled=True).reduced(halvings, box)
        ends = matrix @ np.array([[box[0], box[2]], [box[1], box[3]], [1, 1]])
        (x0, y0), (x1, y1) = ends[:2].min(axis=1), ends[:2].max(axis=1)
        side = 8 >> halvings
        assert (x1 - x0, y1 - y0) == (side, side)
        assert x0 % 1 == 0 == y0 % 1
        inside = reduced[int(y0) : int(y1), int(x0) : int(x1)]
        assert inside.shape[:2] == (side, side)
        assert inside.min() > 230
        assert (reduced.astype(np.int64).sum() - inside.sum()) / reduced.size < 3


@settings(max_examples=150, derandomize=True)
@given(st.integers(1, 24), st.integers(1, 24), st.integers(1, 3), st.integers(1, 8))
def test_reduced_pictures_of_every_size(height, width, halvings, orientation):
    # Smooth, for the blocks that are completed are the encoder's, which may ring.
    ramp = np.add.outer(np.arange(height) * 3, np.arange(width) * 4).astype(np.uint8)
    data = saved(np.dstack([ramp] * 3), quality=100, subsampling=0, exif=exif(orientation))
    picture = open_jpeg(data, "x", scaled=True)
    across, down = picture.shape[1], picture.shape[0]
    reduced, matrix = picture.reduced(halvings, (0.0, 0.0, across, down))
    assert reduced.shape[2] == 3
    whole = decode(data)
    # Each reduced pixel that lies within the image, against the upright pixels it stands for.
    back = np.linalg.inv(matrix)
    side = round(abs(np.linalg.det(back)) ** 0.5)
    assert side in (1, 2**halvings)
    for row in range(reduced.shape[0]):
        for column in range(reduced.shape[1]):
            corners = back @ np.array([[column, column + 1], [row, row + 1], [1, 1]])
            x0, x1 = np.sort(np.rint(corners[0])).astype(int)
            y0, y1 = np.sort(np.rint(corners[1])).astype(int)
            if x0 >= 0 and x1 <= across and y0 >= 0 and y1 <= down:
                mean = whole[y0:y1, x0:x1].mean()
                assert abs(reduced[row, column].mean() - mean) <= 2.5


@pytest.mark.parametrize(("side", "halvings"), [(2, 1), (3, 1), (4, 1), (4, 2), (5, 2), (9, 2)])
def test_tiny_pictures_are_reduced_by_what_is_asked_for(side, halvings):
    # To as many pixels, rounded up, 5/8 bring 3 as 1/2 does, and 3/8 bring 5 as 1/4 does: and
    # simplejpeg, which is told how many there are to be, then takes 5/8 and 3/8.
    factor = 2**halvings
    grey = np.full((side, side), 255, np.uint8)
    grey[: factor - 1, : factor - 1] = 0
    picture = open_jpeg(saved(grey, quality=100), "x", scaled=True)
    reduced, matrix = picture.reduced(halvings, (0.0, 0.0, side, side))
    covered = round(1 / matrix[0, 0])
    expected = grey[:covered, :covered].mean()
    assert abs(reduced[0, 0, 0] - expected) < 20  # fewer coefficients are no exact mean
