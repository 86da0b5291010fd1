"""Draws what each latent op does at three strengths: docs/latent.png.

python -m benchmarks.latent [OUT]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import augpipe

SIGMAS = (0.25, 0.5, 1.0)
COLUMNS = (
    *(("latent_noise", "sigma", {"noise": kind}, kind) for kind in ("iid", "lowfreq", "style")),
    ("latent_interpolate", "lam", {"neighbours": 3}, "interpolate"),
    ("latent_extrapolate", "lam", {"neighbours": 3}, "extrapolate"),
    ("latent_class_resample", "sigma", {}, "resample"),
)
SAMPLES = Path(__file__).parents[1] / "samples"
PHOTOS = ("chelsea", "coffee", "flower")
GARMENTS = ("ankle_boot", "dress", "coat")
SIDE, GAP, HEAD = 84, 4, 18


def photos() -> np.ndarray:
    """Returns the middle of three photos, (3, 3, h, w)."""
    out = []
    for name in PHOTOS:
        image = Image.open(SAMPLES / "photos" / f"{name}.jpg").convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
        out.append(np.asarray(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)))
    return np.stack(out).transpose(0, 3, 1, 2)


def garments() -> tuple[np.ndarray, np.ndarray]:
    """Returns all images of three classes, (n, 1, 28, 28), and their classes."""
    found = [(k, p) for k, name in enumerate(GARMENTS) for p in _files(name)]
    images = np.stack([np.asarray(Image.open(path).convert("L")) for _, path in found])
    return images[:, None], np.array([k for k, _ in found])


def _files(name: str) -> list[Path]:
    return sorted((SAMPLES / "garments" / name).iterdir())


def main() -> None:
    """Draws."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES.parent / "docs" / "latent.png"
    images, classes = garments()
    first = [int(np.flatnonzero(classes == k)[0]) for k in range(len(GARMENTS))]
    rows = [(photos(), None, list(range(len(PHOTOS)))), (images, classes, first)]
    step, count = SIDE + GAP, 1 + len(COLUMNS) * len(SIGMAS)
    height = HEAD + step * sum(len(shown) for _, _, shown in rows) + GAP
    sheet = Image.new("RGB", (step * count + GAP, height), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    ops = [("original", None)]
    ops += [
        (f"{title} {sigma:g}", {op: {field: [sigma, sigma], **more}})
        for op, field, more, title in COLUMNS
        for sigma in SIGMAS
    ]
    for column, (title, item) in enumerate(ops):
        draw.text((GAP + column * step, 3), title, "black", font)
        top = HEAD
        for given, labels, shown in rows:
            made = torch.from_numpy(given)
            needs = item is not None and "latent_noise" not in item
            if item is not None and not (needs and labels is None):
                pipe = augpipe.load({"version": 1, "seed": 1, "batch": [item]})
                targets = None if labels is None else torch.from_numpy(labels)
                result = pipe.batch(made, targets, index=range(len(made)))
                made = result if targets is None else result[0]
            elif needs:  # three photos are of no class
                made = torch.full_like(made, 255)
            for row in shown:
                pixels = made[row].permute(1, 2, 0).numpy()
                image = Image.fromarray(pixels.squeeze(2) if pixels.shape[2] == 1 else pixels)
                place = GAP + column * step, top
                sheet.paste(image.resize((SIDE, SIDE), 0).convert("RGB"), place)
                top += step
    sheet.quantize(255, Image.Quantize.MEDIANCUT).save(out, optimize=True)


if __name__ == "__main__":
    main()
