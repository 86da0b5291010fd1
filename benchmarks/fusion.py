"""What fusion saves: ten geometric and ten colour ops against one of each.

    python benchmarks/fusion.py [--rounds 15] [--batch 32] [--size 375 500]

Rounds of the short and the long chain alternate in one run, on one thread; the medians and
their ratio are printed, the same chains unfused beside them, and the plan. Decoding is not
counted.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import augpipe
from augpipe.targets import Sample

PHOTOS = Path(__file__).resolve().parents[1] / "samples" / "photos"

GEOMETRY = [
    {"random_crop": {"size": [360, 480]}},
    "horizontal_flip",
    {"rotate": {"degrees": [-10, 10]}},
    {"translate": {"x": [-0.05, 0.05], "y": [-0.05, 0.05]}},
    {"shear": {"x": [-5, 5], "y": [-5, 5]}},
    {"scale": {"factor": [0.9, 1.1]}},
    "vertical_flip",
    {"affine": {"degrees": [-5, 5]}},
    {"rotate": {"degrees": [-5, 5]}},
    {"resize": {"size": [375, 500]}},
]
COLOR = [
    "brightness",
    "contrast",
    "saturation",
    "hue",
    {"color_jitter": {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.05}},
    "rgb_shift",
    "color_temperature",
    {"sepia": {"p": 0.5}},
    {"grayscale": {"p": 0.2}},
    {"invert": {"p": 0.2}},
]
SHORT = [{"affine": {"degrees": [-10, 10]}}, {"color_jitter": {"brightness": 0.2, "hue": 0.1}}]


def timed(function: Callable[[], object]) -> float:
    """Seconds that one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def main() -> None:
    """Runs the benchmark and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--size", type=int, nargs=2, default=(375, 500), metavar=("H", "W"))
    options = parser.parse_args()
    cv2.setNumThreads(1)

    height, width = options.size
    image = np.array(Image.open(PHOTOS / "china.jpg").convert("RGB").resize((width, height)))
    samples = [Sample(image) for _ in range(options.batch)]
    recipes = {
        "one and one, fused": {"sample": SHORT},
        "ten and ten, fused": {"sample": GEOMETRY + COLOR},
        "one and one, unfused": {"sample": SHORT, "fuse": False},
        "ten and ten, unfused": {"sample": GEOMETRY + COLOR, "fuse": False},
    }
    pipes = {name: augpipe.load({"version": 1, **recipe}) for name, recipe in recipes.items()}
    seconds: dict[str, list[float]] = {name: [] for name in pipes}
    for turn in range(options.rounds + 1):
        indices = np.arange(options.batch) + turn * options.batch
        for name, pipe in pipes.items():
            took = timed(lambda pipe=pipe, indices=indices: pipe.run(samples, indices))
            if turn:  # the first round warms up
                seconds[name].append(took / options.batch * 1e3)

    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"numpy {np.__version__}, OpenCV {cv2.__version__}, one thread, {height} x {width}, "
        f"batches of {options.batch}, {options.rounds} rounds"
    )
    for name, times in seconds.items():
        median, nodes = statistics.median(times), len(pipes[name].nodes)
        print(f"{name:22} {median:7.3f} ms an image {nodes:3} nodes")
    short, long = (
        statistics.median(seconds[f"{n}, fused"]) for n in ("one and one", "ten and ten")
    )
    plain = statistics.median(seconds["ten and ten, unfused"])
    print(f"ten and ten against one and one, fused: {long / short:.2f} times (bar: 1.5)")
    print(f"ten and ten, unfused against fused:     {plain / long:.2f} times")
    print()
    print(pipes["ten and ten, fused"].explain(size=(height, width)))


if __name__ == "__main__":
    main()
