"""How cost grows: with the number of ops, with image size, with workers; and peak memory."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from benchmarks.jobs import Job
from benchmarks.measuring import ROOT, Place, in_fresh_process
from benchmarks.peers import batches

if TYPE_CHECKING:
    from benchmarks.loading import Run

OPS = (1, 2, 4, 8, 16)
SIDES = ((125, 94), (250, 188), (500, 375), (1000, 750), (2000, 1500), (4000, 3000))
WORKERS = (0, 1, 2, 4)
COMPARED = ("albumentations", "augpipe", "torchvision, PIL")

GEOMETRY: list[Any] = [
    {"rotate": {"degrees": [-10, 10]}},
    {"translate": {"x": [-0.05, 0.05], "y": [-0.05, 0.05]}},
    {"shear": {"x": [-5, 5], "y": [-5, 5]}},
    {"scale": {"factor": [0.9, 1.1]}},
    "horizontal_flip",
    {"affine": {"degrees": [-5, 5]}},
    "vertical_flip",
    {"rotate": {"degrees": [-5, 5]}},
]
COLOR: list[Any] = [
    "brightness",
    {"color_jitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}},
    "contrast",
    "rgb_shift",
    "saturation",
    "hue",
    {"grayscale": {"p": 0.2}},
    {"invert": {"p": 0.2}},
]


def halves(count: int) -> tuple[int, int]:
    """Returns how many of `count` ops are geometric, and how many are of colour."""
    return (count + 1) // 2, count // 2


def albumentations_ops(count: int) -> Any:
    """Returns albumentations' Compose of the same ops."""
    import albumentations as A

    def affine(**options: Any) -> Any:
        return A.Affine(**options, p=1)

    def jitter(**options: float) -> Any:
        strengths = {"brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, **options}
        return A.ColorJitter(**strengths, p=1)

    geometry = [
        A.Rotate((-10, 10), p=1),
        affine(translate_percent=(-0.05, 0.05)),
        affine(shear={"x": (-5, 5), "y": (-5, 5)}),
        affine(scale=(0.9, 1.1), keep_ratio=True),
        A.HorizontalFlip(p=0.5),
        affine(
            rotate=(-5, 5),
            translate_percent=(-0.1, 0.1),
            scale=(0.9, 1.1),
            shear={"x": (-5, 5), "y": (0, 0)},
            keep_ratio=True,
        ),
        A.VerticalFlip(p=0.5),
        A.Rotate((-5, 5), p=1),
    ]
    color = [
        jitter(brightness=0.2),
        jitter(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.05),
        jitter(contrast=0.2),
        A.RGBShift(p=1),
        jitter(saturation=0.2),
        jitter(hue=0.05),
        A.ToGray(p=0.2),
        A.InvertImg(p=0.2),
    ]
    geometric, coloured = halves(count)
    return A.Compose([*geometry[:geometric], *color[:coloured]])


def milliseconds(way: str, count: int, images: list[Any]) -> float:
    """Returns what `count` ops take an image, in one thread; run in a process of its own."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    run = _calls(way, count, images)
    run(0)
    start = time.perf_counter()
    run(1)
    run(2)
    return (time.perf_counter() - start) / (2 * len(images)) * 1e3


def _calls(way: str, count: int, images: list[Any]) -> Callable[[int], Any]:
    """Returns a function of the epoch that does the ops to each image."""
    import augpipe

    if way == "albumentations":
        compose = albumentations_ops(count)
        return lambda _: [compose(image=image) for image in images]
    geometric, coloured = halves(count)
    ops = GEOMETRY[:geometric] + COLOR[:coloured]
    pipe = augpipe.load({"version": 1, "fuse": way == "augpipe", "sample": ops})
    return lambda e: [pipe(image, index=i, epoch=e) for i, image in enumerate(images)]


def make_photos(folder: Path, width: int, height: int) -> None:
    """Writes the colour photos of samples/photos at a size, as JPEGs."""
    folder.mkdir(parents=True)
    for path in sorted((ROOT / "samples" / "photos").glob("*.jpg")):
        photo = Image.open(path)
        if photo.mode == "RGB":
            resized = photo.resize((width, height), Image.Resampling.BICUBIC)
            resized.save(folder / path.name, quality=90)


def _rounds(run: Run) -> int:
    return min(3, run.options.rounds)


def ops(run: Run) -> None:
    """Milliseconds an image against the number of ops, on one decoded photo after another."""
    folder = run.folder / "ops"
    make_photos(folder, 500, 375)
    images = [np.array(Image.open(path)) for path in sorted(folder.iterdir())] * 4
    measures = {
        (way, count): partial(in_fresh_process, milliseconds, way, count, images)
        for count in OPS
        for way in ("albumentations", "augpipe", "augpipe, fuse: false")
    }
    run.measure("growth with ops", "ms", measures, _rounds(run))


def _compared(run: Run) -> tuple[str, ...]:
    return tuple(peer for peer in COMPARED if peer in run.peers)


def sizes(run: Run) -> None:
    """Images per second against image size: decode, crop to 224, flip, normalize."""
    jobs: dict[Place, tuple[str, Job]] = {}
    for width, height in SIDES[1::2] if run.options.quick else SIDES:
        folder = run.folder / f"side_{width}"
        make_photos(folder, width, height)
        batch = run.batch(max(8, min(64, 64 * 500 // width)))
        job = Job("crop", folder, batch, run.warm + (60 if width < 1000 else 30))
        jobs |= {(peer, width * height): (peer, job) for peer in _compared(run)}
    run.throughput("growth with size", jobs, _rounds(run))


def workers(run: Run) -> None:
    """Images per second against the number of workers, recipe imagenet."""
    folder = run.photos("500x375")
    jobs: dict[Place, tuple[str, Job]] = {}
    for count in (0, 2) if run.options.quick else WORKERS:
        job = Job("imagenet", folder, run.batch(64), run.warm + 24, count)
        jobs |= {(peer, count): (peer, job) for peer in _compared(run)}
    run.throughput("growth with workers", jobs, _rounds(run))


def memory(run: Run) -> None:
    """Peak memory of the whole process tree, each library in an interpreter of its own."""
    for size, words, batch, count in (
        ("500x375", "500 × 375", 64, 16),
        ("12mp", "12 megapixels", 8, 8),
    ):
        if run.options.quick and size == "12mp":
            continue
        measures = {
            (peer, None): partial(
                peak, [peer, str(run.photos(size)), str(run.batch(batch)), str(count)]
            )
            for peer in ("albumentations", "augpipe")
        }
        run.measure(f"peak memory, imagenet, {words}", "MB", measures, _rounds(run))


def peak(arguments: list[str]) -> float:
    """Returns the largest sum of proportional set sizes, in MB, while a loader runs.

    Memory that several processes share, batches handed over among it, is counted once.

    Args:
        arguments: Peer, folder, images in a batch, batches.
    """
    command = [sys.executable, "-m", "benchmarks.growth", *arguments]
    process = subprocess.Popen(command, cwd=ROOT)
    most = 0.0
    while process.poll() is None:
        most = max(most, sum(_proportional(pid) for pid in _tree(process.pid)))
        time.sleep(0.02)
    if process.returncode:
        raise RuntimeError(f"{command} failed")
    return most


def _tree(pid: int) -> list[int]:
    """Returns a process and all that come from it."""
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = path.read_text().split()
        except OSError:  # it ended meanwhile
            continue
        for child in children:
            found += _tree(int(child))
    return found


def _proportional(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


def _load(peer: str, folder: str, batch: str, count: str) -> None:
    """Loads as `memory` measures it."""
    for _ in batches(peer, Job("imagenet", Path(folder), int(batch), int(count))):
        pass


if __name__ == "__main__":
    _load(*sys.argv[1:])
