"""Fits the generator that comes with the package, and judges it.

python -m benchmarks.gan --data DIR --out DIR

DIR holds Fashion-MNIST's four IDX files. OUT/garments gets the first 500 images of each class to
fit on, the next 100 for validation and the 10,000 of the test; `augpipe fit gan` does the rest
with its CPU preset, and docs/gan.png shows what it makes. What was interrupted goes on.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from augpipe.data.idx import IdxImages
from augpipe.fitting.gan import fit_gan
from augpipe.fitting.judging import to_levels
from augpipe.fitting.pictures import grid
from augpipe.learned.generator import Generator
from augpipe.learned.weights import load_net

CLASSES = (
    "t_shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
    "ankle_boot",
)  # fmt: skip
TRAIN, VALIDATION = 500, 100  # of each class
COLUMNS, GAP = 10, 8


def write_garments(data: Path, out: Path) -> Path:
    """Writes folders of classes of Fashion-MNIST's images, if they are not there."""
    root = out / "garments"
    if (root / "test").exists():
        return root
    for split in ("train", "test"):
        images = IdxImages(data, split)
        targets = np.array(images.targets)
        for k, name in enumerate(CLASSES):
            own = np.flatnonzero(targets == k)
            parts = {"test": own} if split == "test" else {
                "train": own[:TRAIN], "validation": own[TRAIN : TRAIN + VALIDATION]
            }  # fmt: skip
            for part, rows in parts.items():
                folder = root / part / name
                folder.mkdir(parents=True, exist_ok=True)
                for j, row in enumerate(rows.tolist()):
                    Image.fromarray(images.images[row]).save(folder / f"{name}_{j:04d}.png")
    return root


def draw(garments: Path, weights: Path, out: Path) -> None:
    """Draws ten test images of each class, and ten generated ones beside them, twice as large."""
    net, about = load_net(weights, "gan", Generator)
    names = about["classes"]
    rows = [sorted((garments / "test" / name).iterdir())[:COLUMNS] for name in names]
    real = torch.tensor(np.stack([np.asarray(Image.open(p)) for row in rows for p in row]))
    noise = torch.randn(COLUMNS * len(names), net.latents, generator=torch.Generator())
    with torch.no_grad():
        made = to_levels(net(noise, torch.arange(len(names)).repeat_interleave(COLUMNS)))
    halves = [grid(images, COLUMNS) for images in (real[:, None], made)]
    width, height = halves[0].size
    whole = Image.new("L", (2 * width + GAP, height), 255)
    for k, half in enumerate(halves):
        whole.paste(half, (k * (width + GAP), 0))
    whole.resize((2 * whole.width, 2 * whole.height), Image.Resampling.NEAREST).save(out)


def main() -> None:
    """Writes the images, fits, and prints the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_RAW)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--docs", type=Path, default=Path(__file__).parents[1] / "docs")
    chosen = parser.parse_args()
    garments = write_garments(chosen.data, chosen.out)
    begun = time.monotonic()
    report = fit_gan(
        garments, chosen.out / "gan.safetensors", steps=chosen.steps, tick=_told, say=print
    )
    print(report)
    draw(garments, chosen.out / "gan.safetensors", chosen.docs / "gan.png")
    print(f"{time.monotonic() - begun:.0f} s in all, the two classifiers with it")


def _told(step: int, steps: int, loss: torch.Tensor) -> None:
    if step % 500 == 0:
        print(f"{step}/{steps}  loss of the discriminator {loss:.3f}", file=sys.stderr, flush=True)


_RAW = argparse.RawDescriptionHelpFormatter

if __name__ == "__main__":
    main()
