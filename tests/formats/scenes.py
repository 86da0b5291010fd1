"""A small dataset that has one of everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from augpipe.data.annotated import AnnotatedImage, Annotation, Category, Dataset, Entry, Meta, Rle
from augpipe.data.content import FileContent

CATEGORIES = (
    Category(3, "cat", "animal", extra={"colour": "grey"}),
    Category(7, "person", "", ("nose", "left_eye", "right_eye"), ((1, 2), (1, 3)), (0, 2, 1)),
    Category(12, "traffic light"),
)
META = Meta(CATEGORIES, ("indoor", "outdoor"), {"info": {"year": 2024}, "licenses": [{"id": 1}]})


def blob(height: int, width: int, seed: int) -> np.ndarray:
    """Returns a mask of a few pixels, (H, W) of 0 and 1."""
    rng = np.random.default_rng(seed)
    out = np.zeros((height, width), np.uint8)
    out[height // 4 : height // 2, width // 3 : width // 2] = 1
    return out | (rng.random((height, width)) < 0.05).astype(np.uint8)


def rle(mask: np.ndarray) -> Rle:
    """Returns pycocotools' text of a mask."""
    made = coco_mask.encode(np.asfortranarray(mask))
    return Rle(tuple(made["size"]), made["counts"].decode())


def picture(path: Path, height: int, width: int, seed: int) -> FileContent:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return FileContent(path)


def objects(height: int, width: int) -> tuple[Annotation, ...]:
    mask = blob(height, width, 3)
    flat = mask.T.reshape(-1)
    edges = [0, *(np.flatnonzero(np.diff(flat)) + 1).tolist(), flat.size]
    counts = tuple(np.diff(edges).tolist())
    return (
        Annotation(3, (1.0, 2.0, 11.5, 9.25), id=101, extra={"pose": "left", "tags": ["a", "é"]}),
        Annotation(
            7,
            (4.0, 3.0, 18.0, 15.0),
            ((4.0, 3.0, 18.0, 3.0, 18.0, 15.0), (5.0, 9.0, 8.5, 9.0, 7.0, 14.0)),
            keypoints=(9.0, 5.0, 2.0, 0.0, 0.0, 0.0, 12.0, 6.0, 1.0),
            score=0.875,
            id=102,
        ),
        Annotation(12, (3.0, 2.0, 9.0, 7.0), rle=rle(mask), crowd=True, id=103),
        Annotation(3, (0.0, 0.0, 8.0, 8.0), rle=Rle((height, width), counts), id=104),
        Annotation(12, oriented=(5.0, 1.0, 9.0, 5.0, 5.0, 9.0, 1.0, 5.0), id=105),
        Annotation(3, (6.0, 6.0, 6.0, 6.0), id=106),
    )


def scene(folder: Path) -> Dataset:
    """Returns a dataset of two splits, its images in a folder."""
    names = (
        ("train", "plain.png", 20, 24),
        ("train", "in a folder/with space é.png", 16, 20),
        ("train", "bare.png", 18, 21),
        ("val", "plain.png", 22, 20),
    )
    images = []
    for k, (split, name, height, width) in enumerate(names):
        content = picture(folder / "all" / split / name, height, width, k)
        made = AnnotatedImage(name, content, split, (height, width), id=k + 5)
        if k != 2:
            own = tuple(replace(each, id=each.id + 100 * k) for each in objects(height, width))
            label = "indoor" if k else "outdoor"
            made = replace(made, annotations=own, label=label, extra={"license": 1, "n": [1, {}]})
        images.append(replace(made, label=made.label or "indoor"))
    mask = folder / "all" / "mask.png"
    Image.fromarray(blob(20, 24, 1) * 12).save(mask)
    images[0] = replace(images[0], mask=FileContent(mask))
    entries = [Entry(each.name, each.split, each.id) for each in images]
    return Dataset(folder, "made", META, entries, images.__getitem__, (8, 406))


def same(a: AnnotatedImage, b: AnnotatedImage) -> bool:
    """Tells whether two records say the same and have the same pixels."""
    alike = replace(a, content=b.content, mask=b.mask) == b
    masks = [None if each.mask is None else each.mask.read() for each in (a, b)]
    return alike and a.content.read() == b.content.read() and masks[0] == masks[1]


def by_name(dataset: Dataset) -> dict[str, AnnotatedImage]:
    return {Entry(each.name, each.split).relative: each for each in dataset}
