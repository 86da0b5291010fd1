"""Folders of images and masks, against pycocotools' pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from augpipe.data import masks
from augpipe.data.annotated import AnnotatedImage, Annotation, Category, Meta
from augpipe.data.content import FileContent
from augpipe.data.formats import detect, open_dataset
from augpipe.data.shapes import Notes
from augpipe.errors import DataError
from augpipe.expansion import convert
from tests.formats.conftest import write
from tests.formats.scenes import blob, picture, rle

LAYOUTS = (
    ("images/{}.png", "masks/{}.png", None),
    ("images/train/{}.jpg", "masks/train/{}.png", "train"),
    ("train/images/{}.jpg", "train/labels/{}_mask.png", "train"),
    ("img_dir/val/{}.png", "ann_dir/val/{}.bmp", "val"),
    ("JPEGImages/{}.jpg", "gt/{}.tif", None),
)


@pytest.mark.parametrize(("image", "mask", "split"), LAYOUTS)
def test_usual_layouts(tmp_path: Path, image: str, mask: str, split: str | None) -> None:
    expected = {}
    for k, name in enumerate(("a", "b")):
        picture(tmp_path / image.format(name), 20, 24, k)
        path = tmp_path / mask.format(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(blob(20, 24, k)).save(path)
        expected[name] = path.read_bytes()
    (tmp_path / "classes.txt").write_text("background\nthing\n")
    assert detect(tmp_path) == "masks"
    found = open_dataset(tmp_path)
    assert [(each.name[0], each.split) for each in found] == [("a", split), ("b", split)]
    assert {each.name[0]: each.mask and each.mask.read() for each in found} == expected
    assert found.meta.categories == (Category(0, "background"), Category(1, "thing"))


def test_outlines_and_run_lengths_are_drawn(tmp_path: Path) -> None:
    """A mask in run lengths is exact; of an outline, pixels on its line may differ."""
    height, width = 40, 50
    part = (5.0, 6.0, 30.0, 8.0, 22.0, 33.0)
    layer = blob(height, width, 5)
    objects = (
        Annotation(300, (0.0, 0.0, 50.0, 40.0), rle=rle(layer)),
        Annotation(7, (5.0, 6.0, 30.0, 33.0), (part,)),
        Annotation(7, (5.0, 6.0, 30.0, 33.0)),
    )
    content = picture(tmp_path / "a.png", height, width, 0)
    image = AnnotatedImage("a.png", content, None, (height, width), annotations=objects)
    notes = write("masks", tmp_path / "out", Meta((Category(300, "a"), Category(7, "b"))), [image])
    assert str(notes) == "1 object without an outline: a.png, object 2"
    with Image.open(tmp_path / "out" / "masks" / "a.png") as drawn:
        made = np.asarray(drawn)
    assert made.dtype == np.uint16
    filled = coco_mask.decode(coco_mask.frPyObjects([list(part)], height, width))[:, :, 0]
    expected = np.where(filled, 7, layer.astype(np.uint16) * 300)
    differ = made != expected
    assert differ.sum() < 60  # about its border
    inner = (np.roll(filled, 1, 0) + np.roll(filled, -1, 0) + np.roll(filled, 1, 1)) == 3
    assert not (differ & inner & (np.roll(filled, -1, 1) > 0)).any()


def test_numbers_of_a_palette_stay(tmp_path: Path) -> None:
    numbers = (blob(20, 24, 1) * 3).astype(np.uint8)
    picture_ = Image.fromarray(numbers)
    picture_.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8, 255, 0, 0])
    picture_.save(tmp_path / "m.png")
    opened = masks.open_mask(FileContent(tmp_path / "m.png"), "m")
    assert opened.mode == "P"
    assert np.array_equal(np.asarray(opened), numbers)


@pytest.mark.parametrize("data", [b"nothing", b"", b"\x89PNG\r\n\x1a\nxxxxxxxxx"])
def test_a_mask_that_is_none_is_told(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.png").write_bytes(data or b"x")
    with pytest.raises(DataError, match="its mask"):
        masks.open_mask(FileContent(tmp_path / "m.png"), "m")


def test_a_mask_without_an_image_is_told(tmp_path: Path) -> None:
    picture(tmp_path / "images" / "a.png", 20, 24, 0)
    for name in ("a.png", "b.png"):
        picture(tmp_path / "masks" / name, 20, 24, 0)
    dataset = open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"masks/b\.png: the image 'b\.png' is missing"):
        dataset[1]


def test_a_mask_of_another_size_is_told(tmp_path: Path) -> None:
    image = AnnotatedImage("a.png", picture(tmp_path / "a.png", 20, 24, 0), None, (20, 24))
    image = replace(image, annotations=(Annotation(1, rle=rle(blob(5, 5, 0))),))
    with pytest.raises(DataError, match="a mask of"):
        masks.draw_mask(image, Notes())


def test_a_record_cannot_ask_for_all_memory(tmp_path: Path) -> None:
    part = (1.0, 1.0, 5.0, 1.0, 5.0, 5.0)
    huge = AnnotatedImage("a.png", FileContent(tmp_path), None, (10**6, 10**6))
    huge = replace(huge, annotations=(Annotation(1, polygons=(part,)),))
    with pytest.raises(DataError, match="too large: its record says"):
        masks.draw_mask(huge, Notes())


@pytest.mark.parametrize("through", ["webdataset", "parquet", "coco"])
def test_a_mask_keeps_its_ending_on_the_way(tmp_path: Path, through: str) -> None:
    picture(tmp_path / "in/images/a.png", 20, 24, 1)
    (tmp_path / "in/masks").mkdir()
    Image.fromarray(blob(20, 24, 1)).save(tmp_path / "in/masks/a.tif")
    convert(tmp_path / "in", tmp_path / "there", through)
    convert(tmp_path / "there", tmp_path / "back", "masks")
    found = tmp_path / "back/masks/a.tif"
    assert found.read_bytes() == (tmp_path / "in/masks/a.tif").read_bytes()
    assert [each.name for each in (tmp_path / "back/masks").iterdir()] == ["a.tif"]
