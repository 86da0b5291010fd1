"""Remake the sample pictures of this folder from the packages they come from.

Writes ``garments/`` (the first 24 Fashion-MNIST training images of each class),
``photos/`` (free photos, at most 900 px on the long side) and ``masks/`` (class-id
masks drawn from ``annotations/photos.json``, which is hand-made and only read).
A part is made only when its folder is given; the masks need nothing else.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

from PIL import Image, ImageDraw

HERE = Path(__file__).resolve().parent
CLASSES = (
    "t_shirt", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle_boot",
)  # fmt: skip
PER_CLASS = 24
LONG_SIDE = 900
JPEG_QUALITY = 88
SKIMAGE_PHOTOS = {  # file in the package: file written
    "astronaut.png": "astronaut.jpg",
    "camera.png": "camera.jpg",
    "chelsea.png": "chelsea.jpg",
    "clock_motion.png": "clock_motion.png",
    "coffee.png": "coffee.jpg",
    "hubble_deep_field.jpg": "hubble_deep_field.jpg",
    "microaneurysms.png": "microaneurysms.png",
    "retina.jpg": "retina.jpg",
    "rocket.jpg": "rocket.jpg",
}
SKLEARN_PHOTOS = {"china.jpg": "china.jpg", "flower.jpg": "flower.jpg"}


def save(image: Image.Image, path: Path) -> None:
    """Write `image` without metadata, as the file name's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.info.clear()
    if path.suffix == ".jpg":
        image.save(path, quality=JPEG_QUALITY, optimize=True)
    else:
        image.save(path, optimize=True)


def make_garments(source: Path) -> int:
    """Write the first `PER_CLASS` training images of every class, in training order."""
    pixels = gzip.decompress((source / "train-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((source / "train-labels-idx1-ubyte.gz").read_bytes())[8:]
    count, rows, columns = (int.from_bytes(pixels[i : i + 4], "big") for i in (4, 8, 12))
    if count != len(labels):
        raise SystemExit(f"{source}: {count} images but {len(labels)} labels")
    size = rows * columns
    taken = [0] * len(CLASSES)
    for index, label in enumerate(labels):
        if taken[label] < PER_CLASS:
            start = 16 + index * size
            image = Image.frombytes("L", (columns, rows), pixels[start : start + size])
            name = CLASSES[label]
            save(image, HERE / "garments" / name / f"{name}_{taken[label]:02d}.png")
            taken[label] += 1
    return sum(taken)


def make_photos(source: Path, names: dict[str, str]) -> int:
    """Write the photos `names` of the folder `source`, made smaller where too large."""
    for old, new in names.items():
        with Image.open(source / old) as opened:
            image = opened.copy() if opened.mode == "L" else opened.convert("RGB")
        scale = LONG_SIDE / max(image.size)
        if scale < 1:
            width, height = (round(side * scale) for side in image.size)
            image = image.resize((width, height), Image.Resampling.LANCZOS)
        save(image, HERE / "photos" / new)
    return len(names)


def make_masks(annotations: Path) -> int:
    """Draw one class-id mask for every annotated photo; later outlines lie on top."""
    coco = json.loads(annotations.read_text(encoding="utf-8"))
    for photo in coco["images"]:
        mask = Image.new("L", (photo["width"], photo["height"]), 0)
        draw = ImageDraw.Draw(mask)
        for item in coco["annotations"]:
            if item["image_id"] == photo["id"]:
                for polygon in item["segmentation"]:
                    # Pillow counts from pixel centres, COCO from pixel corners.
                    draw.polygon([value - 0.5 for value in polygon], fill=item["category_id"])
        save(mask, HERE / "masks" / f"{Path(photo['file_name']).stem}.png")
    return len(coco["images"])


def main() -> None:
    """Read the command line and make the parts asked for."""
    parser = argparse.ArgumentParser(description="Remake the sample pictures.")
    parser.add_argument("--fashion", type=Path, help="folder with Fashion-MNIST's train-*.gz files")
    parser.add_argument("--skimage", type=Path, help="scikit-image's skimage/data")
    parser.add_argument("--sklearn", type=Path, help="scikit-learn's sklearn/datasets/images")
    args = parser.parse_args()
    if args.fashion:
        print("garments:", make_garments(args.fashion))
    if args.skimage:
        print("photos from scikit-image:", make_photos(args.skimage, SKIMAGE_PHOTOS))
    if args.sklearn:
        print("photos from scikit-learn:", make_photos(args.sklearn, SKLEARN_PHOTOS))
    print("masks:", make_masks(HERE / "annotations" / "photos.json"))


if __name__ == "__main__":
    main()
