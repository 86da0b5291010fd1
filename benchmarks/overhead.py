"""What Python takes for an image beside its pixels: images of 16 x 24 pixels, cut to 8 x 8.

    python benchmarks/overhead.py [--rounds 50]

Images are stacked in batches of 64, as `pipe.loader` makes them; the pixels' own share is then a
few microseconds.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import cv2
import numpy as np

import augpipe

BARS = {"imagenet": 100}


def main() -> None:
    """Runs the benchmark and prints it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50)
    rounds = parser.parse_args().rounds
    cv2.setNumThreads(1)
    images = np.arange(64 * 16 * 24 * 3).astype(np.uint8).reshape(64, 16, 24, 3)
    items = [(image, 0) for image in images]
    room = np.empty((64, 3, 8, 8), np.float32)
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}")
    for name in ("imagenet", "strong"):
        pipe = augpipe.load(f"configs/{name}.yaml", ["sample.0.random_resized_crop=8"])
        times = []
        for turn in range(rounds + 1):
            start = time.perf_counter()
            pipe.stack(items, range(64), turn, lambda shape, dtype: room)
            times.append((time.perf_counter() - start) / len(items) * 1e6)
        bar = f"   (bar: {BARS[name]})" if name in BARS else ""
        print(f"{name:10} {statistics.median(times[1:]):6.0f} microseconds an image{bar}")


if __name__ == "__main__":
    main()
