"""Pascal VOC xml, against torchvision and the standard library's own XML reader."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import VOCDetection, VOCSegmentation

from augpipe.data import voc
from augpipe.data.annotated import AnnotatedImage, Annotation, Category, Dataset, Meta
from augpipe.data.content import FileContent
from augpipe.data.formats import detect, open_dataset
from augpipe.errors import DataError
from augpipe.expansion import convert
from tests.formats.conftest import write
from tests.formats.scenes import picture

META = Meta((Category(1, "cat"), Category(2, "dog")))

TEXT = """\
<annotation verified="no">
  <folder>x</folder><filename>a.png</filename><path>C:\\photos\\a.png</path>
  <source><database>Unknown</database></source>
  <size><width>40</width><height>30</height><depth>3</depth></size>
  <segmented>0</segmented>
  <object>
    <name>cat</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
    <part><name>head</name><bndbox><xmin>5</xmin></bndbox></part>
    <bndbox><xmin>4</xmin><ymin>3</ymin><xmax>20.5</xmax><ymax>18</ymax></bndbox>
  </object>
  <object>
    <name>dog</name>
    <bndbox><ymin>7</ymin><xmin>5</xmin><ymax>7</ymax><xmax>5</xmax></bndbox>
  </object>
</annotation>
"""


def laid_out(tmp_path: Path, text: str | bytes = TEXT) -> Path:
    root = tmp_path / "in"
    picture(root / "JPEGImages" / "a.png", 30, 40, 0)
    (root / "Annotations").mkdir()
    data = text if isinstance(text, bytes) else text.encode()
    (root / "Annotations" / "a.xml").write_bytes(data)
    return root


def test_what_a_file_says(tmp_path: Path) -> None:
    dataset = open_dataset(laid_out(tmp_path))
    image = dataset[0]
    assert (dataset.format, image.name, image.size) == ("voc", "a.png", (30, 40))
    assert [each.box for each in image.annotations] == [
        (4.0, 3.0, 20.5, 18.0),
        (5.0, 7.0, 5.0, 7.0),
    ]
    assert [each.name for each in dataset.meta.categories] == ["cat", "dog"]
    assert image.extra["source"] == {"database": "Unknown"}
    assert image.extra["@verified"] == "no"
    assert image.annotations[0].extra["part"] == {"name": "head", "bndbox": {"xmin": "5"}}


def as_tree(element: ElementTree.Element) -> Any:
    children = sorted((as_tree(each) for each in element), key=repr)
    return element.tag, element.attrib, (element.text or "").strip(), children


def test_a_file_is_written_as_it_was(tmp_path: Path) -> None:
    root = laid_out(tmp_path)
    convert(root, tmp_path / "coco", "coco")
    convert(tmp_path / "coco", tmp_path / "yolo", "yolo")
    convert(tmp_path / "yolo", tmp_path / "out", "voc")
    before = ElementTree.fromstring(TEXT)
    after = ElementTree.parse(tmp_path / "out" / "Annotations" / "a.xml").getroot()
    for each in (before, after):  # VOC's own files have them always
        for element in each.findall("object"):
            for tag in ("pose", "truncated", "difficult"):
                found = element.find(tag)
                if found is not None and found.text in ("Unspecified", "0"):
                    element.remove(found)
    assert as_tree(before) == as_tree(after)


def test_torchvision_reads_what_is_written(tmp_path: Path) -> None:
    root = tmp_path / "out" / "VOCdevkit" / "VOC2012"
    images = []
    for k, split in enumerate(("train", "train", "val")):
        name = f"{k}.jpg"
        content = picture(tmp_path / name, 30, 40, k)
        objects = (Annotation(2, (4.0, 3.0, 20.0, 18.0)), Annotation(1, (k + 0.5, 0.0, 9.0, 9.0)))
        images.append(AnnotatedImage(name, content, split, (30, 40), annotations=objects))
    mask = tmp_path / "m.png"
    Image.fromarray(np.full((30, 40), 2, np.uint8)).save(mask)
    images[0] = replace(images[0], mask=FileContent(mask))
    write("voc", root, META, images)
    found = VOCDetection(str(tmp_path / "out"), "2012", "train")
    assert len(found) == 2 and len(VOCDetection(str(tmp_path / "out"), "2012", "val")) == 1
    pixels, target = found[1]
    assert pixels.size == (40, 30)
    objects = target["annotation"]["object"]
    assert [each["name"] for each in objects] == ["dog", "cat"]
    assert objects[1]["bndbox"] == {"xmin": "1.5", "ymin": "0", "xmax": "9", "ymax": "9"}
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir()
    (lists / "train.txt").write_text("0\n")
    ((_, drawn),) = VOCSegmentation(str(tmp_path / "out"), "2012", "train")
    assert np.asarray(drawn).max() == np.asarray(drawn).min() == 2


def test_images_of_one_name_in_two_splits_are_kept_apart(made: Dataset, tmp_path: Path) -> None:
    write("voc", tmp_path / "out", made.meta, made)
    assert (tmp_path / "out/Annotations/train/plain.xml").is_file()
    assert (tmp_path / "out/ImageSets/Main/val.txt").read_text() == "val/plain\n"
    apart = [each for each in made if each.split == "train"]
    write("voc", tmp_path / "flat", made.meta, apart)
    assert (tmp_path / "flat/Annotations/plain.xml").is_file()


def test_splits(tmp_path: Path) -> None:
    root = laid_out(tmp_path)
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "val.txt").write_text("a\n")
    (lists / "trainval.txt").write_text("a\n")
    (lists / "cat_train.txt").write_text("a  1\n")
    assert open_dataset(root).splits == ("val",)
    (lists / "train.txt").write_text("a\n")
    with pytest.raises(
        DataError, match=r"'a' is in the split train as well|'a' is in the split val"
    ):
        open_dataset(root)


def test_the_folder_of_the_files_is_enough(tmp_path: Path) -> None:
    root = laid_out(tmp_path)
    assert detect(root / "Annotations") == "voc"
    assert open_dataset(root / "Annotations")[0].name == "a.png"


DTD = '<!DOCTYPE a [<!ENTITY x "y">]>'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (DTD + TEXT, "XML with a document type or entities is not opened"),
        ((DTD + TEXT).encode("utf-16"), "XML with a document type"),
        ('<!DOCTYPE a SYSTEM "file:///etc/passwd">' + TEXT, "XML with a document type"),
        (TEXT[:300], r"a\.xml:\d+: truncated XML"),
        (TEXT.replace("</size>", "</sise>"), r"a\.xml:4: not well-formed XML: mismatched tag"),
        (TEXT.replace("<name>cat</name>", "&x;"), "not well-formed XML: undefined entity"),
        (TEXT.replace("20.5", "nan"), r"a\.xml:9: xmax must be finite, not nan"),
        (TEXT.replace("20.5", "wide"), "xmax is not a number: 'wide'"),
        (TEXT.replace("20.5", "3"), "a box of negative size: x 4 to 3"),
        (TEXT.replace("<ymin>3</ymin>", ""), r"a\.xml:9: <bndbox> has no <ymin>"),
        (TEXT.replace("<name>cat</name>", ""), r"a\.xml:6: <object> has no <name>"),
        (TEXT.replace("annotation", "note").replace("<note", "<note>x</note><annotation"), "XML"),
        ("<annotation>" * 40 + "</annotation>" * 40, "nested too deeply"),
        (TEXT.replace("a.png</filename>", "../a.png</filename>"), r"leads out .* by '\.\.'"),
        (TEXT.replace("a.png</filename>", "/a.png</filename>"), "is absolute"),
        (TEXT.replace("utf", "x").encode().replace(b"Left", b"\xff\xfe"), "not well-formed"),
    ],
)
def test_a_bad_file_is_its_images_error(tmp_path: Path, text: str | bytes, words: str) -> None:
    dataset = voc.read(laid_out(tmp_path, text))
    with pytest.raises(DataError, match=words):
        dataset[0]


def test_a_missing_image_is_told(tmp_path: Path) -> None:
    root = laid_out(tmp_path)
    (root / "Annotations" / "b.xml").write_text(TEXT.replace("a.png", "b.png"))
    dataset = open_dataset(root)
    assert dataset[0].name == "a.png"
    with pytest.raises(DataError, match=r"the image 'b\.png' is missing"):
        dataset[1]


@pytest.mark.parametrize("name", ["a\nb.png", "a\x01.png"])
def test_a_name_that_xml_or_lists_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    image = AnnotatedImage(name, picture(tmp_path / "a.png", 30, 40, 0), "train")
    with pytest.raises(DataError, match="VOC's lists and XML cannot hold this name: rename it"):
        write("voc", tmp_path / "out", META, [image])


def test_markup_in_texts_is_text(tmp_path: Path) -> None:
    meta = Meta((Category(1, "<cat> & 'co' \"é\""),))
    image = AnnotatedImage("a & b.png", picture(tmp_path / "a.png", 30, 40, 0))
    image = replace(image, annotations=(Annotation(1, (1.0, 2.0, 3.0, 4.0)),))
    write("voc", tmp_path / "out", meta, [image])
    tree = ElementTree.parse(tmp_path / "out" / "Annotations" / "a & b.xml")
    assert tree.findtext("object/name") == meta.categories[0].name
    assert tree.findtext("filename") == "a & b.png"
