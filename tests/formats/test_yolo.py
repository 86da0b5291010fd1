"""YOLO txt, against a reading of Ultralytics' documented layout with PyYAML."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from augpipe.data import yolo
from augpipe.data.annotated import AnnotatedImage, Annotation, Category, Dataset, Meta
from augpipe.data.formats import detect, open_dataset
from augpipe.data.shapes import polygon_area
from augpipe.data.yolo_lines import joined
from augpipe.errors import DataError
from tests.formats.conftest import write
from tests.formats.scenes import picture

META = Meta((Category(1, "cat"), Category(2, "dog")))


def documented(root: Path) -> dict[str, dict[str, list[list[float]]]]:
    """Reads a dataset as Ultralytics documents it: labels by the path of the image."""
    config = yaml.safe_load((root / "data.yaml").read_text())
    assert "path" not in config  # so that folders count from the file
    out: dict[str, dict[str, list[list[float]]]] = {}
    for split in ("train", "val", "test"):
        if split not in config:
            continue
        for image in sorted((root / config[split]).rglob("*.png")):
            before, _, after = str(image).rpartition("/images/")
            label = Path(f"{before}/labels/{after}").with_suffix(".txt")
            lines = label.read_text().splitlines() if label.exists() else []
            rows = [[float(word) for word in line.split()] for line in lines]
            for row in rows:
                assert 0 <= row[0] < len(config["names"])
                assert all(0 <= value <= 1 for value in row[1:5])
            out.setdefault(split, {})[image.name] = rows
    return out


def one(tmp_path: Path, *objects: Annotation, meta: Meta = META, size: bool = True) -> Path:
    image = AnnotatedImage("a.png", picture(tmp_path / "a.png", 30, 40, 0), "train", (30, 40))
    image = replace(image, annotations=objects, size=image.size if size else None)
    write("yolo", tmp_path / "out", meta, [image])
    return tmp_path / "out"


def test_boxes(tmp_path: Path) -> None:
    out = one(
        tmp_path, Annotation(2, (4.0, 3.0, 20.0, 18.0)), Annotation(1, (0.0, 0.0, 40.0, 30.0))
    )
    assert documented(out) == {"train": {"a.png": [[1, 0.3, 0.35, 0.4, 0.5], [0, 0.5, 0.5, 1, 1]]}}
    config = yaml.safe_load((out / "data.yaml").read_text())
    assert config == {"train": "images/train", "names": {0: "cat", 1: "dog"}}


def test_whole_pixels_stay_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    boxes = [tuple(map(float, (x, y, x + 7, y + 3))) for x, y in rng.integers(0, 20, (30, 2))]
    out = one(tmp_path, *(Annotation(1, box) for box in boxes))  # type: ignore[arg-type]
    (out / ".augpipe.jsonl").unlink()
    assert [each.box for each in open_dataset(out)[0].annotations] == boxes


def test_outlines_of_several_parts_become_one(tmp_path: Path) -> None:
    parts = ((1.0, 1.0, 9.0, 1.0, 9.0, 9.0, 1.0, 9.0), (20.0, 12.0, 28.0, 12.0, 28.0, 20.0))
    out = one(tmp_path, Annotation(1, (1.0, 1.0, 28.0, 20.0), parts))
    (row,) = documented(out)["train"]["a.png"]
    flat = [value * (30 if k % 2 else 40) for k, value in enumerate(row[1:])]
    assert polygon_area(flat) == pytest.approx(64 + 32)
    assert polygon_area(joined(parts)) == pytest.approx(64 + 32)
    assert open_dataset(out)[0].annotations[0].polygons == parts


def test_rotated_boxes(tmp_path: Path) -> None:
    corners = (5.0, 1.0, 9.0, 5.0, 5.0, 9.0, 1.0, 5.0)
    out = one(tmp_path, Annotation(1, oriented=corners))
    (row,) = documented(out)["train"]["a.png"]
    expected = [value / (30 if k % 2 else 40) for k, value in enumerate(corners)]
    assert row[1:] == pytest.approx(expected, abs=1e-6)
    (out / ".augpipe.jsonl").unlink(missing_ok=True)
    assert open_dataset(out)[0].annotations[0].oriented == corners
    text = (out / "data.yaml").read_text().replace("task: obb\n", "")
    (out / "data.yaml").write_text(text)
    assert open_dataset(out)[0].annotations[0].oriented == corners  # all lines have 8 numbers
    (out / "labels/train/a.txt").write_text(
        "0 0.1 0.1 0.2 0.1 0.2 0.2\n0 .1 .1 .2 .1 .2 .2 .1 .2\n"
    )
    assert [len(each.polygons[0]) for each in open_dataset(out)[0].annotations] == [6, 8]


def test_keypoints(tmp_path: Path) -> None:
    meta = Meta((Category(1, "person", None, ("nose", "left_eye", "right_eye"), (), (0, 2, 1)),))
    points = (9.5, 5.5, 2.0, 0.0, 0.0, 0.0, 12.5, 6.5, 1.0)
    out = one(tmp_path, Annotation(1, (4.0, 3.0, 20.0, 18.0), keypoints=points), meta=meta)
    config = yaml.safe_load((out / "data.yaml").read_text())
    assert (config["kpt_shape"], config["flip_idx"]) == ([3, 3], [0, 2, 1])
    (row,) = documented(out)["train"]["a.png"]
    # A keypoint at 9.5 is the middle of the tenth pixel, half a pixel further from the edge.
    assert row[5:] == pytest.approx([10 / 40, 6 / 30, 2, 0, 0, 0, 13 / 40, 7 / 30, 1], abs=1e-7)
    (out / ".augpipe.jsonl").unlink()
    found = open_dataset(out)
    assert found[0].annotations[0].keypoints == points
    assert found.meta.categories[0].flip == (0, 2, 1)


def test_what_no_line_can_say_is_counted_and_kept(tmp_path: Path) -> None:
    objects = (
        Annotation(1, (5.0, 5.0, 5.0, 5.0), id=1),
        Annotation(1, (50.0, 5.0, 60.0, 9.0), id=2),
        Annotation(2, (30.0, 5.0, 60.0, 9.0), id=3),
        Annotation(2, (1.0, 5.0, 6.0, 9.0), crowd=True, id=4),
    )
    image = AnnotatedImage("a.png", picture(tmp_path / "a.png", 30, 40, 0), "train", (30, 40))
    notes = write("yolo", tmp_path / "out", META, [replace(image, annotations=objects)])
    assert str(notes).startswith("3 objects that no line can say: a.png, object 1; a.png, object 2")
    (row,) = documented(tmp_path / "out")["train"]["a.png"]
    assert row == pytest.approx([1, 0.875, 7 / 30, 0.25, 4 / 30], abs=1e-7)  # up to the edge
    assert open_dataset(tmp_path / "out")[0].annotations == objects


def test_size_is_read_where_it_is_not_known(tmp_path: Path) -> None:
    out = one(tmp_path, Annotation(2, (4.0, 3.0, 20.0, 18.0)), size=False)
    assert documented(out)["train"]["a.png"] == [[1, 0.3, 0.35, 0.4, 0.5]]
    assert open_dataset(out)[0].size == (30, 40)


def test_a_folder_of_labels_with_a_list_of_classes(tmp_path: Path) -> None:
    picture(tmp_path / "photos" / "a.png", 30, 40, 0)
    (tmp_path / "txt").mkdir()
    (tmp_path / "txt" / "a.txt").write_text("1 0.3 0.35 0.4 0.5\n")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert detect(tmp_path / "txt") == "yolo"
    found = open_dataset(tmp_path / "txt")
    assert found[0].annotations == (Annotation(1, (4.0, 3.0, 20.0, 18.0)),)
    assert [each.name for each in found.meta.categories] == ["cat", "dog"]


def laid_out(tmp_path: Path, config: str, label: str = "0 0.5 0.5 0.2 0.2\n") -> Path:
    picture(tmp_path / "images" / "train" / "a.png", 30, 40, 0)
    (tmp_path / "labels" / "train").mkdir(parents=True)
    (tmp_path / "labels" / "train" / "a.txt").write_text(label)
    (tmp_path / "data.yaml").write_text(config)
    return tmp_path


@pytest.mark.parametrize(
    "train",
    ["images/train", "./images/train", "../images/train", "[images/train]", "list.txt"],
)
def test_where_a_split_may_be(tmp_path: Path, train: str) -> None:
    (tmp_path / "list.txt").write_text("./images/train/a.png\n")
    laid_out(tmp_path, f"train: {train}\nnames: [cat]\n")
    found = open_dataset(tmp_path)
    assert (found.splits, len(found[0].annotations)) == (("train",), 1)


GOOD = "train: images/train\nnames: [cat]\n"


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("train: images/train\nnames:\n", "class names are missing"),
        ("train: images/train\nnc: 2\nnames: [cat]\n", "nc is 2, and there are 1 names"),
        ("train: images/train\nnames: {0: cat, 2: dog}\n", "numbered from 0 without a gap"),
        ("train: images/none\nnames: [cat]\n", "there is no .*images/none"),
        ("train:\nnames: [cat]\n", "names no split"),
        ("train: !!python/object/apply:os.system [id]\nnames: [cat]\n", r"1:8: .*tag"),
        ("train: images/train\nnames: &a [cat]\nother: *a\n", "anchor"),
        ("train: images/train\nnames: [cat]\nkpt_shape: [0, 3]\n", "kpt_shape must be"),
        ("train: images/train\nnames: [cat]\nkpt_shape: [2, 3]\nflip_idx: [0, 0]\n", "flip_idx"),
        ("train: images/train\nnames: [cat]\ntask: sing\n", "task is 'sing'"),
        ("- train: 1\n- names: 2\n", "no YOLO dataset|not a dataset|mapping"),
    ],
)
def test_a_bad_config_is_told(tmp_path: Path, config: str, words: str) -> None:
    laid_out(tmp_path, config)
    with pytest.raises(DataError, match=words):
        yolo.read(tmp_path / "data.yaml")


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("1 0.5 0.5 0.2 0.2\n", r"a\.txt:1: unknown class 1: there are 1"),
        ("\n0 0.5 0.5 nan 0.2\n", r"a\.txt:2: a number is not finite"),
        ("0.5 0.5 0.5 0.2 0.2\n", "unknown class 0.5"),
        ("-1 0.5 0.5 0.2 0.2\n", "unknown class -1"),
        ("0 20 11 5 5\n", "a coordinate is not a share of the image"),
        ("0 0.5 0.5 -0.2 0.2\n", "not a share"),
        ("0 0.5 0.5 0.2\n", "4 numbers are no object"),
        ("0 cat\n", "not a line of numbers: '0 cat'"),
        ("0 1e999 0.5 0.2 0.2", "not finite"),
    ],
)
def test_a_bad_line_is_its_images_error(tmp_path: Path, label: str, words: str) -> None:
    laid_out(tmp_path, GOOD, label)
    dataset = open_dataset(tmp_path)
    with pytest.raises(DataError, match=words):
        dataset[0]


def test_labels_without_an_image_are_told(tmp_path: Path) -> None:
    laid_out(tmp_path, GOOD)
    (tmp_path / "labels" / "train" / "b.txt").write_text("")
    dataset = open_dataset(tmp_path)
    assert len(dataset) == 2
    with pytest.raises(DataError, match=r"b\.txt: the image 'b\.jpg' is missing"):
        dataset[1]


def test_two_images_of_one_label_file_are_refused(made: Dataset, tmp_path: Path) -> None:
    images = [made[0], replace(made[0], name="plain.jpg", id=9)]
    with pytest.raises(DataError, match="they differ in ending only"):
        write("yolo", tmp_path / "out", made.meta, images)
