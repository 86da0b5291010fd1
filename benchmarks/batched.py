"""The batch section against Kornia's AugmentationSequential, on the CPU, one thread each.

    python benchmarks/batched.py [--rounds 7] [--batch 64] [--size 375 500]

The same recipes (random resized crop to 224 x 224, flip, colour jitter, normalize; the strong
one also affine, gamma, posterize, solarize, erasing), on the same float batch, rounds of the
two alternating in one run; medians in milliseconds an image, and their ratios. Kornia's
intermediate results of 64 images ask the system for fresh memory again and again: it is measured
as it is called, and also in parts of 8 images, which spare it that. Beside them the batch as
uint8, which Kornia does not take, and in channels_last memory.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import kornia.augmentation as K
import numpy as np
import torch
from PIL import Image

import augpipe

PHOTOS = Path(__file__).resolve().parents[1] / "samples" / "photos"

JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
CROP, END = [{"random_resized_crop": 224}, "horizontal_flip"], [{"normalize": "imagenet"}]
RECIPES: dict[str, list[Any]] = {
    "imagenet": [*CROP, {"color_jitter": JITTER}, *END],
    "strong": [
        *CROP,
        {"affine": {"degrees": [-15, 15], "translate_x": [0, 0], "translate_y": [0, 0],
                    "scale": [0.9, 1.1], "shear_x": [-10, 10]}},
        {"color_jitter": JITTER},
        {"gamma": {"gamma": [0.8, 1.2], "p": 0.5}},
        {"posterize": {"bits": [4, 4], "p": 0.5}},
        {"solarize": {"threshold": [128, 128], "p": 0.5}},
        {"random_erasing": {"p": 0.5}},
        *END,
    ],
}  # fmt: skip


def peer(strong: bool) -> torch.nn.Module:
    """Kornia's transforms for the same recipe."""
    mean, std = (torch.tensor(v) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    own: list[Any] = [
        K.RandomResizedCrop((224, 224)),
        K.RandomHorizontalFlip(p=0.5),
    ]
    if strong:
        own += [K.RandomAffine(15.0, scale=(0.9, 1.1), shear=10.0, p=1.0)]
    own += [K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=1.0)]
    if strong:
        own += [
            K.RandomGamma((0.8, 1.2), p=0.5),
            K.RandomPosterize((4.0, 4.0), p=0.5),
            K.RandomSolarize(thresholds=(0.5, 0.5), additions=(0.0, 0.0), p=0.5),
            K.RandomErasing(p=0.5),
        ]
    return K.AugmentationSequential(*own, K.Normalize(mean, std), data_keys=["input"])


def photos(count: int, size: tuple[int, int]) -> torch.Tensor:
    """Returns (count, 3, height, width) uint8: the sample photos, over and over."""
    files = sorted(p for p in PHOTOS.iterdir() if p.suffix in (".jpg", ".png"))
    images = [np.array(Image.open(f).convert("RGB").resize(size[::-1])) for f in files]
    return torch.from_numpy(np.stack([images[k % len(images)] for k in range(count)])).permute(
        0, 3, 1, 2
    )


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500))
    args = parser.parse_args()
    torch.set_num_threads(1)
    whole = photos(args.batch, tuple(args.size))
    last = whole / 255.0
    floats, levels = last.contiguous(), whole.contiguous()
    index = range(args.batch)
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "kornia", "numpy"))
    print(f"{platform.processor() or platform.machine()}, one thread; {packages}")
    print(f"batch {args.batch} of {args.size[0]} x {args.size[1]}; milliseconds an image")
    head = ("recipe", "kornia", "in eights", "augpipe", "channels_last", "uint8", "ratios")
    print("{:10} {:>10} {:>10} {:>10} {:>14} {:>8} {:>14}".format(*head))
    for name, recipe in RECIPES.items():
        ours = augpipe.load({"version": 1, "batch": recipe}).batch
        theirs = peer(name == "strong")
        calls: list[Callable[[int], Any]] = [
            lambda _, theirs=theirs: theirs(floats),
            lambda _, theirs=theirs: [theirs(part) for part in floats.split(8)],
            lambda k, ours=ours: ours(floats, index=index, epoch=k),
            lambda k, ours=ours: ours(last, index=index, epoch=k),
            lambda k, ours=ours: ours(levels, index=index, epoch=k),
        ]
        times: list[list[float]] = [[] for _ in calls]
        with torch.no_grad():
            for k in range(args.rounds + 1):
                for call, own in zip(calls, times, strict=True):
                    start = time.perf_counter()
                    call(k)
                    own.append(time.perf_counter() - start)
        row = [1e3 * statistics.median(own[1:]) / args.batch for own in times]
        ratios = f"{row[0] / row[2]:.1f}x {row[1] / row[2]:.1f}x"
        print("{:10} {:10.2f} {:10.2f} {:10.2f} {:14.2f} {:8.2f} {:>14}".format(name, *row, ratios))


if __name__ == "__main__":
    main()
