"""What decoding a JPEG costs, by each decoder among the dependencies.

    python benchmarks/decoding.py [--rounds 7] [--photos 12] [--data DIR]

Every decoder decodes the same files, held in memory, on one thread; within a round they take
turns, and the medians of the rounds are printed in ms an image. "same" is how many of the
files come out with the bytes of `augpipe.data.decode.decode`; of the others the mean
difference follows. The last rows are decoders at 1/2, 1/4 and 1/8 of the size, and augpipe's
own reader at full size, for all of an image and for its upper half.
"""

from __future__ import annotations

import argparse
import io
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from augpipe.data.decode import as_rgb, decode
from augpipe.data.jpeg import open_jpeg
from augpipe.types import Array

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("photos_500x375", "photos_1024x768", "photos_12mp")
PACKAGES = ("augpipe", "opencv-python-headless", "torchvision", "pillow", "simplejpeg", "numpy")
Decoder = Callable[[bytes], Array]


def by_cv2(data: bytes, flag: int = cv2.IMREAD_COLOR) -> Array:
    encoded = np.frombuffer(data, np.uint8)
    return cv2.cvtColor(cv2.imdecode(encoded, flag), cv2.COLOR_BGR2RGB)


def by_torchvision(data: bytes) -> Array:
    encoded = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # its codec is to move
        tensor = decode_jpeg(encoded, ImageReadMode.RGB, apply_exif_orientation=True)
    return tensor.permute(1, 2, 0).contiguous().numpy()


def by_pillow(data: bytes, factor: int = 1) -> Array:
    image = Image.open(io.BytesIO(data))
    if factor > 1:  # the least scale that is no smaller than asked for
        image.draft("RGB", (image.width // factor, image.height // factor))
    return np.asarray(image.convert("RGB"))


def by_simplejpeg(data: bytes, factor: int = 1) -> Array:
    if factor == 1:
        return simplejpeg.decode_jpeg(data, "RGB")
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    sides = {"min_height": -(-height // factor), "min_width": -(-width // factor)}
    return simplejpeg.decode_jpeg(data, "RGB", **sides)


def by_augpipe(data: bytes, share: float = 1.0) -> Array:
    picture = open_jpeg(data, "photo", rgb=True)
    if picture is None:
        return as_rgb(decode(data))
    height, width, _ = picture.shape
    return picture.part(0, round(height * share), 0, width)


def decoders() -> dict[str, Decoder]:
    """Returns each by its name; the full ones first."""
    found: dict[str, Decoder] = {
        "cv2": by_cv2,
        "torchvision": by_torchvision,
        "Pillow": by_pillow,
        "simplejpeg": by_simplejpeg,
        "augpipe": by_augpipe,
        "augpipe, upper half": lambda data: by_augpipe(data, 0.5),
    }
    for factor in (2, 4, 8):
        flag = getattr(cv2, f"IMREAD_REDUCED_COLOR_{factor}")
        found[f"cv2, 1/{factor}"] = lambda data, flag=flag: by_cv2(data, flag)
        found[f"Pillow draft, 1/{factor}"] = lambda data, factor=factor: by_pillow(data, factor)
        found[f"simplejpeg, 1/{factor}"] = lambda data, factor=factor: by_simplejpeg(data, factor)
    return found


def agreement(decoder: Decoder, files: list[bytes], expected: list[Array]) -> str:
    """Says for how many files the bytes are `decode`'s, and by how much the others differ."""
    off = []
    for data, pixels in zip(files, expected, strict=True):
        found = decoder(data)
        if found.shape != pixels.shape:
            return "of another size"
        if (found != pixels).any():
            off.append(float(np.abs(found.astype(np.float32) - pixels).mean()))
    same = f"same in {len(files) - len(off)} of {len(files)}"
    return f"{same}; the others differ by {np.mean(off):.3f} levels" if off else same


def measure(files: list[bytes], rounds: int) -> None:
    """Prints a line for each decoder."""
    seconds: dict[str, list[float]] = {name: [] for name in decoders()}
    for turn in range(rounds + 1):
        for name, decoder in decoders().items():
            start = time.perf_counter()
            for data in files:
                decoder(data)
            if turn:  # the first round warms up
                seconds[name].append((time.perf_counter() - start) / len(files) * 1e3)
    expected = [as_rgb(decode(data)) for data in files]
    reference = statistics.median(seconds["cv2"])
    for name, decoder in decoders().items():
        median = statistics.median(seconds[name])
        words = "" if "," in name else agreement(decoder, files, expected)
        print(f"  {name:22} {median:8.2f} ms  {reference / median:5.2f} × cv2  {words}".rstrip())


def main() -> None:
    """Runs the benchmark and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--photos", type=int, default=12, help="of each size")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(f"{platform.machine()}, Python {platform.python_version()}, one thread, ", end="")
    print(", ".join(f"{name} {version(name)}" for name in PACKAGES))
    folders = [options.data / name for name in FOLDERS if (options.data / name).is_dir()]
    for folder in folders or [ROOT / "samples" / "photos"]:
        paths = sorted(folder.glob("*.jpg"))
        paths = paths[:: max(len(paths) // options.photos, 1)][: options.photos]
        print(f"{folder.name}: {len(paths)} files, {options.rounds} rounds")
        measure([path.read_bytes() for path in paths], options.rounds)


if __name__ == "__main__":
    main()
