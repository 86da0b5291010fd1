"""Previews of annotated datasets: what is drawn, against the files' own numbers and the pixels."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from augpipe.errors import DataError, UsageError
from augpipe.expansion import convert
from augpipe.recipe import load
from augpipe.report import preview as previews
from augpipe.report.draw import color_of, drawn
from augpipe.report.preview import build_preview
from augpipe.report.sheet import draw_sheet
from augpipe.report.sources import open_sources
from augpipe.report.story import Picture

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
COCO = SAMPLES / "annotations" / "photos.json"
FLIP = {"horizontal_flip": {"p": 1.0}}
TURN = {"rotate": {"degrees": [25, 25]}}


def preview(path: Path, sample: list, batch: list | None = None, samples: int = 4, **options):
    recipe = load({"version": 1, "seed": 3, "sample": sample, "batch": batch or []})
    sources = open_sources(path, **options)
    return build_preview(recipe, sources, "t", samples=samples, variants=1)


def only(path: Path, sample: list, batch: list | None = None, **options) -> Picture:
    """Returns what a recipe makes of the one image of a dataset."""
    shown, errors = preview(path, sample, batch, **options)
    assert (errors, shown.missing) == ((), ())
    (story,) = shown.stories
    return story.variants[1]


def bright(picture: Picture) -> np.ndarray:
    return picture.image.max(axis=2) > 127


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def within(corners: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Returns the pixels whose centres lie in a polygon, by OpenCV."""
    line = corners.astype(np.float32).reshape(-1, 1, 2)
    centres = [(x + 0.5, y + 0.5) for y in range(shape[0]) for x in range(shape[1])]
    inside = [cv2.pointPolygonTest(line, each, False) >= 0 for each in centres]
    return np.array(inside).reshape(shape)


def put(path: Path, corners: np.ndarray, height: int = 60, width: int = 80) -> Path:
    """Writes a black picture, white within a polygon."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = within(corners, (height, width)).astype(np.uint8) * 255
    Image.fromarray(np.repeat(pixels[:, :, None], 3, axis=2)).save(path)
    return path


def yolo(root: Path, corners: np.ndarray, task: str = "") -> Path:
    """Writes a YOLO dataset as its documentation has it: one image, one object of class 0."""
    put(root / "images" / "a.png", corners)
    (root / "labels").mkdir(parents=True)
    numbers = " ".join(map(str, (corners / [80, 60]).reshape(-1).tolist()))
    (root / "labels" / "a.txt").write_text(f"0 {numbers}\n")
    (root / "data.yaml").write_text(f"{task}train: images\nval: images\nnames: [door]\n")
    return root


TRIANGLE = np.array([[10.0, 8.0], [60.0, 20.0], [25.0, 50.0]])
TILTED = np.array([[30.0, 10.0], [62.0, 26.0], [50.0, 50.0], [18.0, 34.0]])  # a rectangle


# ---------------------------------------------------------------- formats


@pytest.fixture(scope="module")
def sheet() -> bytes:
    shown, errors = preview(SAMPLES, [{"resize": [48, 64]}, FLIP, TURN], ["mosaic"])
    assert (errors, shown.missing) == ((), ())
    return draw_sheet(shown)


@pytest.mark.parametrize("to", ["coco", "yolo", "voc", "masks", "webdataset", "parquet", "csv"])
def test_every_format_is_drawn_as_coco_is(tmp_path: Path, sheet: bytes, to: str) -> None:
    convert(SAMPLES, tmp_path / "out", to)
    shown, errors = preview(tmp_path / "out", [{"resize": [48, 64]}, FLIP, TURN], ["mosaic"])
    assert not errors
    assert draw_sheet(shown) == sheet


def test_what_is_drawn_of_coco_is_what_its_file_says() -> None:
    shown, _ = preview(SAMPLES, [])
    said = json.loads(COCO.read_text())
    assert shown.names == {k: each["name"] for k, each in enumerate(said["categories"], 1)}
    for story, image in zip(shown.stories, said["images"], strict=True):
        own = [each for each in said["annotations"] if each["image_id"] == image["id"]]
        boxes = np.array([each["bbox"] for each in own])
        boxes[:, 2:] += boxes[:, :2]
        points = np.concatenate([each.get("keypoints", []) for each in own]).reshape(-1, 3)
        marks = story.variants[0].marks
        np.testing.assert_allclose(marks.boxes, boxes)
        np.testing.assert_array_equal(marks.keypoints, points[points[:, 2] > 0])
        assert [shown.names[k] for k in marks.labels] == [
            next(c["name"] for c in said["categories"] if c["id"] == each["category_id"])
            for each in own
        ]
        with Image.open(SAMPLES / "masks" / f"{story.name.removesuffix('.jpg')}.png") as mask:
            np.testing.assert_array_equal(marks.mask, np.asarray(mask))


def test_a_file_of_annotations_beside_a_folder_of_images(tmp_path: Path) -> None:
    sample = [{"resize": [48, 64]}, TURN]
    whole = draw_sheet(preview(SAMPLES, sample)[0])
    photos = SAMPLES / "photos"
    assert draw_sheet(preview(photos, sample, annotations=COCO)[0]) == whole
    masks = SAMPLES / "masks"
    assert draw_sheet(preview(photos, sample, annotations=COCO, masks=masks)[0]) == whole
    own = tmp_path / "masks"
    own.mkdir()
    Image.new("L", (512, 512), 2).save(own / "astronaut.png")
    first = preview(photos, [], annotations=COCO, masks=own)[0].stories[0]
    assert (first.variants[0].marks.mask == 2).all()
    without = preview(photos, sample, masks=masks)[0]
    assert {story.name for story in without.stories} == {
        f"{name}.jpg" for name in ("astronaut", "chelsea", "coffee", "rocket")
    }
    assert without.names == {}
    assert all(each.variants[0].marks.mask.any() for each in without.stories)


def test_a_plain_folder_stays_one() -> None:
    sources = open_sources(SAMPLES / "garments")
    assert (sources.dataset, len(sources), len(sources.classes)) == (None, 240, 10)
    shown, _ = preview(SAMPLES / "garments", [], samples=1)
    assert shown.stories[0].variants[0].marks is None


# ---------------------------------------------------------------- shapes


def test_an_outline_of_class_0_lies_on_its_object(tmp_path: Path) -> None:
    root = yolo(tmp_path, TRIANGLE)
    picture = only(root, [FLIP, TURN])
    # Pillow fills the pixels on an edge too: half a pixel around.
    assert overlap(picture.marks.mask > 0, bright(picture)) > 0.9
    picture = only(root, [FLIP])
    np.testing.assert_allclose(picture.marks.boxes, [[20.0, 8.0, 70.0, 50.0]], atol=1e-6)
    assert picture.marks.labels == (1,)
    image = np.asarray(drawn(picture, 80, {1: "door"}).convert("RGB")).reshape(-1, 3)
    assert color_of(1) in set(map(tuple, image.tolist()))


def test_a_rotated_box_turns_with_its_object(tmp_path: Path) -> None:
    root = yolo(tmp_path, TILTED, "task: obb\n")
    picture = only(root, [FLIP, {"rotate": {"degrees": [30, 30]}}])
    assert len(picture.marks.boxes) == 0
    (corners,) = picture.marks.oriented
    assert overlap(within(corners, picture.image.shape[:2]), bright(picture)) > 0.95
    seen = np.asarray(drawn(picture, 80, {}).convert("RGB"))
    x, y = np.rint((corners[2] + corners[3]) / 2.0 - 0.5).astype(int)
    assert tuple(seen[y, x]) == color_of(1)


def test_upright_and_rotated_boxes_in_one_batch(tmp_path: Path) -> None:
    for k, (corners, task) in enumerate(((TILTED, "task: obb\n"), (TRIANGLE, ""))):
        yolo(tmp_path / str(k), corners, task)
    content = {
        "images": [
            {"id": k, "file_name": f"{k}/images/a.png", "width": 80, "height": 60} for k in range(2)
        ],
        "annotations": [
            {
                "id": 1,
                "image_id": 0,
                "category_id": 9,
                "augpipe": {"oriented": TILTED.ravel().tolist()},
            },
            {"id": 2, "image_id": 1, "category_id": 9, "bbox": [10, 8, 50, 42]},
        ],
        "categories": [{"id": 9, "name": "door"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    pasted = [{"mixup": {"alpha": 1.0}}, FLIP]
    shown, errors = preview(tmp_path, [], pasted, annotations=tmp_path / "a.json")
    assert (errors, shown.missing) == ((), ())
    mirror = np.array([80.0, 0.0])
    for story in shown.stories:
        marks = story.variants[1].marks
        np.testing.assert_allclose(marks.boxes, [[20, 8, 70, 50]], atol=1e-3)
        held = np.abs(TILTED * [-1, 1] + mirror)
        assert {tuple(np.round(each)) for each in marks.oriented[0]} == set(map(tuple, held))
        assert marks.labels == (1, 1)


def test_a_class_that_the_dataset_does_not_list(tmp_path: Path) -> None:
    for name in "ab":
        put(tmp_path / f"{name}.png", TRIANGLE)
    content = {
        "images": [
            {"id": k, "file_name": f"{name}.png", "augpipe": {"label": name}}
            for k, name in enumerate("ab")
        ],
        "annotations": [],
        "categories": [],
        "augpipe": {"classes": ["a"]},
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    shown, errors = preview(tmp_path, [], [{"mixup": {"alpha": 1.0}}])
    assert [story.label for story in shown.stories] == ["a", "b"]
    assert len(errors) == len(shown.missing)  # a line, if it cannot be mixed


def test_masks_in_run_lengths_are_those_of_pycocotools(tmp_path: Path) -> None:
    pixels = within(TRIANGLE, (60, 80)).astype(np.uint8)
    put(tmp_path / "a.png", TRIANGLE)
    made = coco_mask.encode(np.asfortranarray(pixels))
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 80, "height": 60}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 2**40,
                "bbox": coco_mask.toBbox(made).tolist(),
                "segmentation": {"size": [60, 80], "counts": made["counts"].decode()},
            }
        ],
        "categories": [{"id": 2**40, "name": "door"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    picture = only(tmp_path, [FLIP])
    np.testing.assert_array_equal(picture.marks.mask, pixels[:, ::-1])


def test_numbers_of_masks_are_those_of_their_classes(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.png", TRIANGLE)
    (tmp_path / "masks").mkdir()
    numbers = within(TRIANGLE, (60, 80)).astype(np.uint8)
    numbers[:3] = 255
    Image.fromarray(numbers).save(tmp_path / "masks" / "a.png")
    (tmp_path / "classes.txt").write_text("background\ndoor\n")
    shown, _ = preview(tmp_path, [])
    assert shown.names == {2: "door"}
    np.testing.assert_array_equal(shown.stories[0].variants[1].marks.mask == 2, numbers == 1)
    colours = np.zeros((60, 80, 3), np.uint8)
    colours[:30, :, 0], colours[30:, :, 1], colours[:, :9] = 128, 128, 0
    Image.fromarray(colours).save(tmp_path / "masks" / "a.png")
    mask = only(tmp_path, []).marks.mask
    assert len(np.unique(mask)) == 3
    np.testing.assert_array_equal(mask == 0, colours.max(axis=2) == 0)


def test_fewer_keypoints_than_pairs_speak_of(tmp_path: Path) -> None:
    put(tmp_path / "a.png", TRIANGLE)
    point = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9], "keypoints": [3, 4, 2]}
    content = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "annotations": [point],
        "categories": [{"id": 1, "name": "door"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    recipe = load({"version": 1, "sample": [FLIP], "keypoints": {"flip_pairs": [[0, 1]]}})
    shown, errors = build_preview(recipe, open_sources(tmp_path), "t", samples=1, variants=1)
    assert not errors
    np.testing.assert_array_equal(shown.stories[0].variants[1].marks.keypoints, [[76, 4, 2]])


# ---------------------------------------------------------------- which images, and refusals


def many(root: Path, names: range, annotated: set[int]) -> Path:
    for k in names:
        put(root / f"{k:02}.png", TRIANGLE, 9, 9)
    content = {
        "images": [{"id": k, "file_name": f"{k:02}.png"} for k in names],
        "annotations": [
            {"id": k, "image_id": k, "category_id": 1, "bbox": [1, 1, 4, 4]} for k in annotated
        ],
        "categories": [{"id": 1, "name": "door"}],
    }
    (root / "a.json").write_text(json.dumps(content))
    return root


def test_images_with_annotations_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = many(tmp_path, range(12), {7, 9, 10})
    shown, _ = preview(root, [], samples=3)
    assert {story.index for story in shown.stories} == {7, 9, 10}
    monkeypatch.setattr(previews, "_LOOKED", 4)  # 0, 3, 6, 9
    shown, _ = preview(root, [], samples=3)
    assert [story.index for story in shown.stories] == [9]


def test_images_that_are_not_there_come_last_and_are_said(tmp_path: Path) -> None:
    root = many(tmp_path, range(3), {0, 1, 2})
    (root / "01.png").unlink()
    shown, errors = preview(root, [], samples=2)
    assert ([story.name for story in shown.stories], errors) == (["00.png", "02.png"], ())
    shown, errors = preview(root, [], samples=3)
    assert len(shown.stories) == 2
    assert "01.png" in str(errors[0])


def test_what_cannot_be_looked_at_is_refused(tmp_path: Path) -> None:
    photos, text = SAMPLES / "photos", tmp_path / "a.json"
    text.write_text("{")
    for given, words in (
        (tmp_path / "b.json", "no such file"),
        (text, "a folder, or no dataset"),
        (photos, "a folder, or no dataset"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            open_sources(photos, annotations=given)
        assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="no such folder of masks"):
        open_sources(photos, masks=tmp_path / "masks")
    with pytest.raises(UsageError, match="no such file"):
        open_sources(tmp_path / "none")
    with pytest.raises(UsageError, match="no split 'val'"):
        open_sources(SAMPLES, "val")


def test_annotations_and_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    root = many(tmp_path / "in", range(1), {0})
    said = json.loads((root / "a.json").read_text())
    said["images"][0] |= {"width": 5, "height": 9}
    (root / "a.json").write_text(json.dumps(said))
    with pytest.raises(DataError, match=r"00\.png: is 9 × 9, its annotations say 9 × 5"):
        preview(root, [])
    (tmp_path / "masks").mkdir()
    Image.new("L", (4, 9), 1).save(tmp_path / "masks" / "00.png")
    (root / "a.json").unlink()
    with pytest.raises(DataError, match=r"00\.png: has a mask of 9 × 4, but is 9 × 9"):
        preview(root, [], masks=tmp_path / "masks")
