"""Files that a pipeline decodes as far as it looks at them, against their decoded pixels."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import augpipe
from augpipe.data.dataset import FolderImages
from augpipe.data.decode import as_rgb, decode
from augpipe.data.jpeg import Jpeg, open_jpeg
from augpipe.rng import field_words
from augpipe.targets import Sample

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = REPOSITORY.parent / "shared" / "data"
FOLDERS = {
    "samples": (REPOSITORY / "samples" / "photos", 1),
    "1024x768": (SHARED / "photos_1024x768", 8),
    "12 megapixels": (SHARED / "photos_12mp", 4),
}
"""Where photos are, and every how-many-th serves."""


def photos(folder):
    path, step = FOLDERS[folder]
    found = sorted(path.glob("*.jpg"))[::step] if path.is_dir() else []
    if not found:
        pytest.skip(f"there are no photos at {path}")
    return found


def turned(data, orientation):
    """Returns a file with an EXIF block of this orientation."""
    entry = struct.pack("<HHIHH", 274, 3, 1, orientation, 0)
    block = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    assert b"Exif" not in data
    return data[:2] + struct.pack(">BBH", 0xFF, 0xE1, len(block) + 2) + block + data[2:]


def piped(pipe, image, index=0):
    """Returns (H, W, C): what the loader's path makes of an image or a picture."""
    stacked, _ = pipe.stack([(image, 0)], [index])
    return stacked[0].transpose(1, 2, 0)


def loaded(*ops, **settings):
    return augpipe.load({"version": 1, "seed": 5, "sample": list(ops), **settings})


def difference(one, other):
    return np.abs(one.astype(np.float64) - other).mean()


def shifts(pairs):
    """Returns by how many pixels images moved, x and y: least squares on their gradients."""
    slopes, moved = [], []
    for pair in pairs:
        before, after = (each.astype(np.float64).mean(axis=2) for each in pair)
        inner = np.s_[1:-1, 1:-1]
        down, across = (each[inner].ravel() for each in np.gradient((before + after) / 2))
        slopes.append(np.stack([across, down], axis=1))
        moved.append((before - after)[inner].ravel())
    return np.linalg.lstsq(np.concatenate(slopes), np.concatenate(moved), rcond=None)[0]


# --- scaled decoding ------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 3, 4, 5.5, 8, 11])
@pytest.mark.parametrize("folder", FOLDERS)
def test_shrunk_photos_are_those_of_full_decoding(folder, factor):
    by_area, by_plain, beyond, pairs, plain_pairs = [], [], [], [], []
    for path in photos(folder):
        data = path.read_bytes()
        whole = as_rgb(decode(data))
        size = [int(side / factor) for side in whole.shape[:2]]
        pipe = loaded({"resize": {"size": size}})
        scaled = piped(pipe, open_jpeg(data, path.name, rgb=True, scaled=True))
        area = cv2.resize(whole, size[::-1], interpolation=cv2.INTER_AREA)
        plain = piped(pipe, whole)
        assert (scaled != plain).any()
        by_area.append(difference(scaled, area))
        by_plain.append(difference(scaled, plain))
        pairs.append((area, scaled))
        plain_pairs.append((plain, scaled))
        beyond.append(by_area[-1] - difference(plain, area))
    assert np.mean(by_area) < 2.0
    assert np.mean(by_plain) < 1.0
    # Where the factor is no power of 2, the plain path's last step is bilinear: it differs from
    # the area filter itself, and scaled decoding adds little. At a power of 2 it does not.
    assert np.mean(beyond) < (1.0 if factor in (2, 4, 8) else 0.3)
    assert np.abs(shifts(pairs)).max() < 0.05
    assert np.abs(shifts(plain_pairs)).max() < 0.01


@pytest.mark.parametrize("size", [32, 64, 112, 224])
@pytest.mark.parametrize("folder", FOLDERS)
def test_shrunk_crops_are_those_of_full_decoding(folder, size):
    by_area, beyond, pairs, plain_pairs = [], [], [], []
    pipe = loaded({"random_resized_crop": {"size": size}})
    for number, path in enumerate(photos(folder)):
        data = path.read_bytes()
        picture = open_jpeg(data, path.name, rgb=True, scaled=True)
        whole = as_rgb(decode(data))
        for index in range(4 * number, 4 * number + 4):
            trace = {}
            (done,) = pipe.run([Sample(whole)], np.array([index]), trace=trace)
            x0, y0, x1, y1 = trace["random_resized_crop#0"]["box"][0].astype(int)
            if min(x1 - x0, y1 - y0) < 2 * size:
                continue
            crop = np.ascontiguousarray(whole[y0:y1, x0:x1])
            area = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
            scaled = piped(pipe, picture, index)
            by_area.append(difference(scaled, area))
            beyond.append(by_area[-1] - difference(done.image, area))
            pairs.append((area, scaled))
            plain_pairs.append((done.image, scaled))
    # At 32 pixels a side the plain path differs by 2.05 itself: its last step is bilinear.
    assert np.mean(by_area) < (2.5 if size == 32 else 2.0)
    assert np.mean(beyond) < 0.3
    assert np.abs(shifts(pairs)).max() < 0.05
    assert np.abs(shifts(plain_pairs)).max() < 0.05


RECIPES = {
    "resize": [{"resize": {"size": [60, 83]}}],
    "crop and resize": [{"random_resized_crop": {"size": 64}}],
    "flipped": [{"resize": {"size": 70}}, {"horizontal_flip": {"p": 1.0}}],
    "rotated": [{"resize": {"size": [60, 83]}}, {"rotate": {"degrees": [20, 20]}}],
    "centre": [{"center_crop": {"size": [263, 255]}}, {"resize": {"size": [64, 64]}}],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("recipe", RECIPES)
def test_shrunk_photos_of_every_orientation(recipe, orientation):
    # Their sides are no multiples of 8: a grid of means that is mirrored begins elsewhere.
    pipe = loaded(*RECIPES[recipe])
    pairs = []
    for name in ("chelsea", "china", "rocket"):
        data = turned((REPOSITORY / "samples" / "photos" / f"{name}.jpg").read_bytes(), orientation)
        picture = open_jpeg(data, name, rgb=True, scaled=True)
        assert picture.turn == orientation
        for index in range(4):
            pairs.append((piped(pipe, decode(data), index), piped(pipe, picture, index)))
    assert all((one != other).any() for one, other in pairs[::4])
    # Of a crop by more than of a whole photo: it begins between the means, and in the plain path
    # with one. By so much a sharp photo differs whose pixels are read halfway between.
    assert np.mean([difference(*pair) for pair in pairs]) < 3.0
    assert np.abs(shifts(pairs)).max() < 0.05


def test_scaled_pictures_are_decoded_at_a_fraction_only_where_they_shrink(monkeypatch):
    data = (REPOSITORY / "samples" / "photos" / "china.jpg").read_bytes()
    asked = []
    reduced = Jpeg.reduced

    def noted(self, halvings, box):
        asked.append(halvings)
        return reduced(self, halvings, box)

    monkeypatch.setattr(Jpeg, "reduced", noted)
    height, width = decode(data).shape[:2]
    for factor, halvings in ((1.9, []), (2, [1]), (3.9, [1]), (4, [2]), (8, [3]), (17, [3])):
        asked.clear()
        size = [int(height / factor), int(width / factor)]
        picture = open_jpeg(data, "x", scaled=True)
        piped(loaded({"resize": {"size": size}}), picture)
        assert asked == halvings
    asked.clear()
    for op in ({"antialias": "full"}, {"interpolation": "nearest"}):
        piped(loaded({"resize": {"size": [100, 150], **op}}), open_jpeg(data, "x", scaled=True))
    piped(loaded({"resize": {"size": [height, 40]}}), open_jpeg(data, "x", scaled=True))
    piped(loaded({"resize": {"size": [100, 150]}}), open_jpeg(data, "x"))
    assert asked == []


# --- folders of all kinds -------------------------------------------------------------------


def noise(height, width, channels, key):
    words = field_words(key, -(-height // 5) * -(-width // 5) * channels) & 255
    blocks = words.astype(np.uint8).reshape(-(-height // 5), -(-width // 5), channels)
    return np.kron(blocks, np.ones((5, 5, 1), np.uint8))[:height, :width]


def jpeg(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder of 16 images, whose sizes and kinds differ."""
    folder = tmp_path_factory.mktemp("mixed")
    for turn in range(1, 9):
        data = turned(jpeg(noise(230 + turn, 301, 3, turn)), turn)
        (folder / f"turned{turn}.jpg").write_bytes(data)
    (folder / "grey.jpg").write_bytes(jpeg(noise(200, 333, 1, 11)))
    (folder / "progressive.jpg").write_bytes(jpeg(noise(211, 300, 3, 12), progressive=True))
    inks = Image.frombytes("CMYK", (288, 222), noise(222, 288, 4, 17).tobytes())
    inks.save(folder / "cmyk.jpg")
    (folder / "garbage.jpg").write_bytes(jpeg(noise(199, 301, 3, 18)) + bytes(99))
    Image.fromarray(noise(190, 260, 3, 13)).save(folder / "colour.png")
    Image.fromarray(noise(190, 263, 4, 14)).save(folder / "alpha.png")
    Image.fromarray(noise(192, 250, 3, 15)).save(folder / "colour.webp", lossless=True)
    deep = noise(180, 240, 1, 16).astype(np.uint16)[:, :, 0] * 257
    Image.fromarray(deep).save(folder / "deep.png")
    return folder


PLANS = {
    "short side": [{"resize": {"size": 100}}, {"center_crop": {"size": 90}}],
    "random_resized_crop": [{"random_resized_crop": {"size": 48}}, "horizontal_flip"],
    "affine first": [
        {"affine": {"degrees": [-30, 30], "scale": [0.6, 1.4]}},
        {"random_resized_crop": {"size": [50, 70]}},
    ],
    "rotate first": [
        {"rotate": {"degrees": [-90, 90], "fill": 99}},
        {"center_crop": {"size": 120}},
    ],
    "padding": [{"center_crop": {"size": [400, 420], "border": "reflect"}}],
    "padding with fill": [
        {"center_crop": {"size": [400, 250], "fill": [1, 2, 3]}},
        "vertical_flip",
    ],
    "integer crop": [{"random_crop": {"size": [150, 160]}}],
    "small crop": [{"random_crop": {"size": 20}}, {"resize": {"size": 40}}],
    "colour first": ["color_jitter", {"random_resized_crop": {"size": 40}}],
    "nearest": [{"resize": {"size": [60, 60], "interpolation": "nearest"}}],
    "full": [{"resize": {"size": [60, 60], "antialias": "full"}}],
    "perspective": [{"perspective": {"distortion": 0.4}}, {"resize": {"size": [70, 50]}}],
    "flow": ["elastic", {"resize": {"size": [64, 64]}}],
    "flips": ["horizontal_flip", {"vertical_flip": {"p": 0.7}}, {"center_crop": {"size": 100}}],
}
FLOATS = {"uint8": [], "float": [{"normalize": "imagenet"}]}


def batches(pipe, folder, **options):
    options = {"batch_size": 4, "workers": 2, "backend": "threads", "shuffle": False, **options}
    return [images.numpy() for images, _ in pipe.loader(folder, **options)]


def decoded(pipe, folder):
    """Returns (C, H, W) of each image of a folder, decoded first."""
    images = FolderImages(folder)
    out = []
    for index, path in enumerate(images.paths):
        done = np.asarray(pipe(as_rgb(decode(path)), index=index))
        out.append(done.transpose(2, 0, 1))
    return out, [path.name for path in images.paths]


@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("plan", PLANS)
def test_folders_as_decoded_images_to_the_bit(mixed, plan, kind):
    pipe = loaded(*PLANS[plan], *FLOATS[kind])
    expected, names = decoded(pipe, mixed)
    assert len(names) == 16
    got = np.concatenate(batches(pipe, mixed, scaled_decoding=False))
    assert got.dtype == expected[0].dtype == (np.float32 if kind == "float" else np.uint8)
    for name, one, other in zip(names, got, expected, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=name)


@pytest.mark.parametrize("ops", [[], [{"normalize": "imagenet"}], ["color_jitter"]], ids=str)
def test_no_geometry_at_all(mixed, ops):
    pipe = loaded(*ops)
    expected, _ = decoded(pipe, mixed)
    for scaled in (False, True):
        got = batches(pipe, mixed, scaled_decoding=scaled, batch_size=1)
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one[0], other)


SHRINKING = ("grey.jpg", "progressive.jpg", *(f"turned{turn}.jpg" for turn in range(1, 9)))
"""The plain JPEGs of the folder. What is CMYK or has garbage behind it is left to `decode`."""


@pytest.mark.parametrize("side", [40, 60, 90, 110, 220])
def test_scaled_decoding_differs_only_where_a_jpeg_is_shrunk(mixed, side):
    pipe = loaded({"resize": {"size": side}}, {"center_crop": {"size": [side, side]}})
    expected, names = decoded(pipe, mixed)
    got = np.concatenate(batches(pipe, mixed, scaled_decoding=True))
    sizes = [decode(mixed / name).shape[:2] for name in names]
    for name, size, one, other in zip(names, sizes, got, expected, strict=True):
        shrunk = name in SHRINKING and min(size) >= 2 * side
        assert (one != other).any() == shrunk, name


def test_scaled_decoding_is_on_in_the_loader_unless_asked_otherwise(mixed):
    pipe = loaded({"resize": {"size": [50, 50]}})
    default, on, off = (
        np.concatenate(batches(pipe, mixed, **options))
        for options in ({}, {"scaled_decoding": True}, {"scaled_decoding": False})
    )
    np.testing.assert_array_equal(default, on)
    assert (on != off).any()
