"""Draws what each latent op does at three strengths: docs/latent.png.

python -m benchmarks.latent [OUT]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import augpipe

SIGMAS = (0.25, 0.5, 1.0)
KINDS = ("iid", "lowfreq", "style")
SAMPLES = Path(__file__).parents[1] / "samples"
IMAGES = ("photos/chelsea.jpg", "photos/coffee.jpg", "photos/flower.jpg", "garments/ankle_boot")
SIDE, GAP, HEAD = 128, 6, 20


def images() -> list[Image.Image]:
    """Returns the originals: three photos at 128 pixels, a garment at 28, shown 4 times larger."""
    out = []
    for name in IMAGES:
        path = SAMPLES / name
        path = sorted(path.iterdir())[0] if path.is_dir() else path
        image = Image.open(path)
        if path.suffix == ".jpg":
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.convert("RGB").crop((left, top, left + side, top + side))
            image = image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        out.append(image)
    return out


def main() -> None:
    """Draws."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else SAMPLES.parent / "docs" / "latent.png"
    columns = [("original", None)]
    columns += [(f"{kind} {sigma:g}", (kind, sigma)) for kind in KINDS for sigma in SIGMAS]
    step = SIDE + GAP
    sheet = Image.new("RGB", (step * len(columns) + GAP, HEAD + step * len(IMAGES) + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, (title, what) in enumerate(columns):
        draw.text((GAP + column * step, 3), title, "black", font)
        for row, image in enumerate(images()):
            if what is not None:
                noise, sigma = what
                item = {"latent_noise": {"sigma": [sigma, sigma], "noise": noise}}
                pipe = augpipe.load({"version": 1, "seed": 1, "sample": [item]})
                image = Image.fromarray(pipe(np.asarray(image), index=row))
            place = GAP + column * step, HEAD + row * step
            sheet.paste(image.resize((SIDE, SIDE), Image.Resampling.NEAREST).convert("RGB"), place)
    sheet.quantize(255, Image.Quantize.MEDIANCUT).save(out, optimize=True)


if __name__ == "__main__":
    main()
