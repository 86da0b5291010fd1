"""Annotated datasets expanded: objects move with the pixels, ids and splits stay in order."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from augpipe.data.annotated import AnnotatedImage, Annotation
from augpipe.data.decode import decode
from augpipe.data.formats import FORMATS, open_dataset
from augpipe.data.masks import fill
from augpipe.data.rle import decode_rle
from augpipe.data.shapes import hull
from augpipe.errors import UsageError
from augpipe.expansion import convert, expand, job_of, verify
from augpipe.expansion.jobs import Task
from augpipe.expansion.making import Making
from augpipe.pipeline import Pipeline
from augpipe.recipe import load
from tests.e2e.expansion import rows, start, tree
from tests.formats.conftest import write
from tests.formats.scenes import META, picture, rle, scene

RECIPE = {
    "version": 1,
    "seed": 7,
    "sample": [
        {"horizontal_flip": {"p": 0.5}},
        {"rotate": {"degrees": [-25, 25]}},
        {"random_crop": {"size": [90, 110]}},
        {"brightness": [0.8, 1.2]},
    ],
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A dataset of photos with boxes, outlines, masks and keypoints, in COCO."""
    images = []
    for k in range(3):
        outline = (30.0, 20.0, 90.0, 25.0, 100.0, 70.0, 60.0, 50.0, 35.0, 75.0)
        solid = np.zeros((120, 150), np.uint8)
        solid[30:80, 60 + k : 120] = 1
        objects = (
            Annotation(3, (30.0, 20.0, 100.0, 75.0), (outline,), id=10 * k + 1),
            Annotation(12, (60.0 + k, 30.0, 120.0, 80.0), rle=rle(solid), id=10 * k + 2),
            Annotation(7, (5.0, 5.0, 60.0, 60.0), id=10 * k + 3, extra={"pose": "x", "area": 9.0},
                       keypoints=(20.0, 30.0, 2.0, 40.0, 31.0, 2.0, 50.0, 32.0, 1.0)),
            Annotation(3, (140.0, 110.0, 149.0, 119.0), id=10 * k + 4),
        )  # fmt: skip
        content = picture(tmp_path / f"{k}.png", 120, 150, k)
        made = AnnotatedImage(f"{k}.png", content, "train", (120, 150), id=k + 1)
        images.append(replace(made, annotations=objects, extra={"license": 1}))
    images.append(replace(images[0], split="val", id=9, annotations=()))
    write("coco", tmp_path / "photos", META, images)
    return tmp_path / "photos"


def test_objects_are_where_the_pipeline_moves_them(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert expand(load(RECIPE), photos, out, copies=4, workers=2).written == 12
    pipe = Pipeline(load(RECIPE))
    sources = open_dataset(photos).only("train")
    made = open_dataset(out)
    assert (len(made), made.splits) == (12, ("train",))
    dropped = 0
    for position, child in enumerate(made):
        index, copy = divmod(position, 4)
        source = sources[index]
        boxes = np.array([each.box for each in source.annotations])
        item = {
            "image": decode(source.content.read()),
            "boxes": boxes,
            "ids": np.array([each.id for each in source.annotations]),
            "masks": np.stack([_pixels(each, source) for each in source.annotations]),
        }
        expected = pipe(item, index=index, epoch=copy)
        assert np.array_equal(decode(child.content.read()), expected["image"])
        kept = dict(zip(expected["ids"].tolist(), range(len(expected["ids"])), strict=True))
        dropped += len(boxes) - len(kept)
        for each in child.annotations:
            row = kept[each.source]
            assert each.box == pytest.approx(expected["boxes"][row], abs=1e-6)
            seen = expected["masks"][row]
            if each.polygons or each.rle:
                pixels = _pixels(each, child)
                both, either = (pixels & seen).sum(), (pixels | seen).sum()
                # Pillow draws an outline's line as well: before it moves, and after.
                assert both > (0.9 if each.polygons else 0.9999) * either
        # What is not there any more is not seen: its mask is empty, or its box was dropped.
        gone = set(kept) - {each.source for each in child.annotations}
        assert all(expected["masks"][kept[key]].sum() < 5 for key in gone)
    assert dropped  # so that something was


def test_outlines_and_turned_boxes_move_exactly(tmp_path: Path) -> None:
    content = picture(tmp_path / "a.png", 40, 60, 0)
    square = (5.0, 4.0, 25.0, 4.0, 25.0, 24.0, 5.0, 24.0)
    objects = (
        Annotation(3, (5.0, 4.0, 25.0, 24.0), (square, (50.0, 1.0, 58.0, 1.0, 58.0, 9.0)), id=1),
        Annotation(3, oriented=(12.0, 2.0, 22.0, 12.0, 12.0, 22.0, 2.0, 12.0), id=2),
    )
    image = AnnotatedImage("a.png", content, None, (40, 60), annotations=objects)
    write("coco", tmp_path / "in", META, [image])
    flip = {"horizontal_flip": {"p": 1.0}}
    recipe = load({"version": 1, "sample": [flip, {"center_crop": [40, 40]}]})
    expand(recipe, tmp_path / "in", tmp_path / "out")
    box, turned = open_dataset(tmp_path / "out")[0].annotations
    # x becomes 60 - x, less the 10 columns that the crop takes; what lies beyond is cut off.
    assert box.box == (25.0, 4.0, 40.0, 24.0)
    (part,) = box.polygons
    corners = {(part[k], part[k + 1]) for k in range(0, len(part), 2)}
    assert corners == {(40.0, 4.0), (25.0, 4.0), (25.0, 24.0), (40.0, 24.0)}
    # Clockwise as seen: the mirrored one begins at its second corner.
    assert turned.oriented == (28.0, 12.0, 38.0, 2.0, 48.0, 12.0, 38.0, 22.0)


def _pixels(each: Annotation, image: AnnotatedImage) -> np.ndarray:
    assert image.size is not None
    if each.rle is not None:
        return decode_rle(each.rle, "")
    if each.polygons:
        return fill(each.polygons, image.size)
    box = hull(each, "")
    assert box is not None
    x0, y0, x1, y1 = box
    return fill([(x0, y0, x1, y0, x1, y1, x0, y1)], image.size)


def test_ids_categories_fields_and_links(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expand(load(RECIPE), photos, out, copies=2, keep_originals=True)
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(out / "annotations" / "instances_train.json"))
    before = json.loads((photos / "annotations" / "instances_train.json").read_text())
    assert known.dataset["categories"] == before["categories"]
    assert known.dataset["info"] == before["info"]
    images = known.dataset["images"]
    assert len({each["id"] for each in images}) == len(images) == 9
    originals = [each for each in images if "source" not in each.get("augpipe", {})]
    assert originals == before["images"]
    assert min(each["id"] for each in images if each not in originals) > 9  # of all splits
    for each in images:
        assert each["license"] == 1
        if each not in originals:
            link = each["augpipe"]["source"]
            assert each["file_name"] == f"{link['id'] - 1}__{link['copy']}.png"
            assert link["name"] == f"train/{link['id'] - 1}.png"
    objects = known.dataset["annotations"]
    assert len({each["id"] for each in objects}) == len(objects)
    for each in objects:
        was = next((o for o in before["annotations"] if o["id"] == each["id"]), None)
        if was is not None:
            assert each == was
            continue
        source = known.loadAnns([each["augpipe"]["source"]])[0]
        assert each["category_id"] == source["category_id"]
        assert each.get("pose") == source.get("pose")
        if "segmentation" in each and isinstance(each["segmentation"], dict):
            assert each["area"] == coco_mask.area(each["segmentation"])
    fields = {"pose", "augpipe"} & {key for each in objects for key in each}
    assert fields == {"pose", "augpipe"}


def test_left_and_right_change_places_in_a_mirror(photos: Path, tmp_path: Path) -> None:
    flip, turn = {"horizontal_flip": {"p": 1.0}}, {"rotate": {"degrees": [180, 180]}}
    found = []
    for op in (flip, turn):
        out = tmp_path / next(iter(op))
        expand(load({"version": 1, "sample": [op]}), photos, out)
        child = next(each for each in open_dataset(out)[0].annotations if each.keypoints)
        found.append([child.keypoints[3 * k : 3 * k + 3] for k in range(3)])
    assert found[0] == [(129, 30, 2), (99, 32, 1), (109, 31, 2)]
    assert found[1] == [(129, 89, 2), (109, 88, 2), (99, 87, 1)]  # turned over, not mirrored


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_expanded_and_verified(tmp_path: Path, name: str) -> None:
    dataset = scene(tmp_path)
    write(name, tmp_path / "in", dataset.meta, dataset)
    recipe = load({"version": 1, "seed": 3, "sample": [{"rotate": {"degrees": [-9, 9]}}]})
    out = tmp_path / "out"
    summary = expand(recipe, tmp_path / "in", out, copies=2, keep_originals=True)
    assert (summary.written, summary.skipped) == (9, 0)
    assert "2 boxes without area: plain.png, object 106; in a folder/with space é.png" in str(
        summary
    )
    assert verify(out).exit_code == 0, str(verify(out))
    made = open_dataset(out)
    assert (made.format, made.splits, len(made)) == (name, ("train",), 9)
    assert made.meta == dataset.meta
    by_name = {each.name: each for each in made}
    original, child = by_name["plain.png"], by_name["plain__0.png"]
    assert original.annotations == dataset[0].annotations
    assert original.mask is not None and original.mask.read() == dataset[0].mask.read()  # type: ignore[union-attr]
    assert {each.source for each in child.annotations} == {101, 102, 103, 104, 105}
    assert child.label == "outdoor" and child.mask is not None
    assert child.source == {"id": 5, "name": "train/plain.png", "copy": 0}
    again = expand(recipe, tmp_path / "in", out, copies=2, keep_originals=True)
    assert (again.written, again.kept) == (0, 9)


@pytest.mark.parametrize("name", ["coco", "yolo", "webdataset", "parquet", "masks"])
@pytest.mark.parametrize(
    ("moment", "count"), [("before", 4), ("after", 9), ("before", 10), ("after", 11)]
)
def test_killed_and_resumed(tmp_path: Path, name: str, moment: str, count: int) -> None:
    dataset = scene(tmp_path)
    write("coco", tmp_path / "in", dataset.meta, dataset)
    (tmp_path / "recipe.yaml").write_text("version: 1\nsample: [{rotate: {degrees: [-9, 9]}}]\n")
    arguments: dict[str, Any] = {
        "recipe": tmp_path / "recipe.yaml",
        "source": tmp_path / "in",
        "copies": 2,
        "to": name,
    }
    expand(**arguments, out=tmp_path / "whole")
    out = tmp_path / "out"
    process = start(moment, count, **arguments, out=out, workers=0)
    process.communicate(timeout=60)
    if process.returncode != -signal.SIGKILL:
        pytest.skip("this format renames fewer files")
    summary = expand(**arguments, out=out, workers=2)
    assert summary.written + summary.kept == 6
    assert tree(out) == tree(tmp_path / "whole")
    assert verify(out).exit_code == 0


@pytest.mark.parametrize("name", ["coco", "webdataset"])
def test_outputs_that_were_lost_come_back(photos: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    expand(load(RECIPE), photos, out, to=name)
    whole = tree(out)
    lost = "images/train/1__0.png" if name == "coco" else "train-000000.tar"
    (out / lost).unlink()
    assert verify(out).exit_code == 1
    assert expand(load(RECIPE), photos, out, to=name).written == (1 if name == "coco" else 3)
    assert tree(out) == whole


def test_verify_finds_what_was_done_to_annotations(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expand(load(RECIPE), photos, out)
    path = out / "annotations" / "instances_train.json"
    whole = path.read_text()
    path.write_text(whole.replace('"pose": "x"', '"pose": "y"', 1))
    words = "annotations/instances_train.json: is not what the manifest gives"
    assert [str(each) for each in verify(out).findings] == [words]
    path.unlink()
    assert "not there: run expand again" in str(verify(out))
    assert expand(load(RECIPE), photos, out).written == 0
    assert path.read_text() == whole
    source = photos / "annotations" / "instances_train.json"
    source.write_text(source.read_text().replace('"pose": "x"', '"pose": "z"', 1))
    assert "changed since its copies were made" in str(verify(out))


def test_verify_finds_an_altered_mask(tmp_path: Path) -> None:
    dataset = scene(tmp_path)
    write("coco", tmp_path / "in", dataset.meta, dataset)
    expand(load({"version": 1, "sample": ["rotate"]}), tmp_path / "in", tmp_path / "out")
    (mask,) = (tmp_path / "out" / "masks").rglob("*.png")
    mask.write_bytes(mask.read_bytes()[:-1] + b"x")
    where = mask.relative_to(tmp_path / "out").as_posix()
    assert [str(each) for each in verify(tmp_path / "out").findings] == [
        f"{where}: altered since it was written"
    ]
    mask.unlink()
    assert f"{where}: not there: run expand again" in str(verify(tmp_path / "out"))


def test_rows_with_another_record_are_findings(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expand(load(RECIPE), photos, out)
    manifest = out / "manifest.jsonl"
    row = rows(out)[0]
    row["record"]["annotations"][0]["box"][0] += 1
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join([json.dumps(row) + "\n", *lines[1:]]))
    assert "its manifest row is not what the recipe draws" in str(verify(out))


def test_splits(photos: Path, tmp_path: Path) -> None:
    expand(load(RECIPE), photos, tmp_path / "val", split="val")
    assert [each.split for each in open_dataset(tmp_path / "val")] == ["val"]
    assert [path.name for path in (tmp_path / "val" / "annotations").iterdir()] == [
        "instances_val.json"
    ]
    expand(load(RECIPE), photos, tmp_path / "all", split="none", to="yolo")
    made = open_dataset(tmp_path / "all")
    assert [each.split for each in made] == ["train"] * 3 + ["val"]
    (photos / "annotations" / "instances_train.json").unlink()
    with pytest.raises(UsageError, match=r"left alone unless named: --split val"):
        expand(load(RECIPE), photos, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_class_folders_to_another_format(source: Path, recipe: Path, tmp_path: Path) -> None:
    expand(recipe, source, tmp_path / "plain", copies=2)
    expand(recipe, source, tmp_path / "out", copies=2, to="csv")
    made = open_dataset(tmp_path / "out")
    assert made.meta.classes == ("bag", "coat", "sandal")
    assert [each.label for each in made] == ["bag"] * 8 + ["coat"] * 8 + ["sandal"] * 8
    plain = tree(tmp_path / "plain")
    for each in made:
        assert each.content.read() == plain[each.name]
    assert verify(tmp_path / "out").exit_code == 0


def test_class_folders_are_written_as_ever(source: Path, recipe: Path, tmp_path: Path) -> None:
    for name, to in (("a", None), ("b", "folder")):
        expand(recipe, source, tmp_path / name, to=to)
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    job = json.loads((tmp_path / "a" / "job.json").read_text())
    assert "dataset" not in job
    assert set(rows(tmp_path / "a")[0]) == {
        *("output", "sha256", "bytes", "source", "source_sha256", "label", "index"),
        *("copy", "seed", "epoch", "parameters", "versions"),
    }


def test_outlines_become_masks_for_ops_of_other_libraries(photos: Path, tmp_path: Path) -> None:
    recipe = load({"version": 1, "sample": [{"albumentations.HorizontalFlip": {"p": 1.0}}]})
    expand(recipe, photos, tmp_path / "out")
    child = open_dataset(tmp_path / "out")[0].annotations[0]
    assert child.rle is not None and not child.polygons
    source = open_dataset(photos)[0].annotations[0]
    expected = fill(source.polygons, (120, 150))[:, ::-1]
    assert np.array_equal(decode_rle(child.rle, ""), expected)


def test_a_bad_image_is_skipped_and_listed(photos: Path, tmp_path: Path) -> None:
    path = photos / "annotations" / "instances_train.json"
    text = path.read_text()
    text = text.replace('"width": 150', '"width": 149', 1).replace("140.0", "NaN", 2)
    text = text.replace("NaN", "140.0", 1)
    path.write_text(text)
    summary = expand(load(RECIPE), photos, tmp_path / "out")
    assert (summary.written, summary.skipped, summary.exit_code) == (1, 2, 1)
    said = (tmp_path / "out" / "errors.jsonl").read_text()
    assert "is 120 × 150, its annotations say 120 × 149" in said
    assert "bbox must be finite, not nan" in said
    assert verify(tmp_path / "out").exit_code == 0


def test_another_format_is_another_job(photos: Path, tmp_path: Path) -> None:
    expand(load(RECIPE), photos, tmp_path / "out")
    with pytest.raises(UsageError, match=r"the formats \(coco to coco, now coco to voc\)"):
        expand(load(RECIPE), photos, tmp_path / "out", to="voc")


def test_the_output_stays_apart_from_the_input(photos: Path, tmp_path: Path) -> None:
    for out in (photos, photos / "new", tmp_path):
        with pytest.raises(UsageError, match="input"):
            expand(load(RECIPE), photos, out)


def test_a_conversion_stays_apart_from_the_images_too(photos: Path, tmp_path: Path) -> None:
    images = photos / "images" / "train"
    (tmp_path / "elsewhere").mkdir()
    file = shutil.move(photos / "annotations" / "instances_train.json", tmp_path / "elsewhere")
    for do in (
        lambda out: convert(file, out, "yolo", images=images),
        lambda out: expand(RECIPE, file, out, to="yolo", images=images),
    ):
        with pytest.raises(UsageError, match=r"lies inside the input .*: choose a folder outside"):
            do(images / "out")
        assert not (images / "out").exists()


@pytest.mark.parametrize("name", ["masks", "webdataset", "parquet", "folder"])
def test_a_format_that_has_its_images_in_it_takes_no_others(tmp_path: Path, name: str) -> None:
    made = scene(tmp_path)
    write(name, tmp_path / "in", made.meta, made)
    for do in (
        lambda out: convert(tmp_path / "in", out, "coco", images=tmp_path, source_format=name),
        lambda out: expand(RECIPE, tmp_path / "in", out, images=tmp_path, source_format=name),
    ):
        with pytest.raises(UsageError, match=f"{name} has its images in it: leave out --images"):
            do(tmp_path / "out")


def test_the_constraint_looks_at_boxes_alone_as_the_pipeline_does(tmp_path: Path) -> None:
    """Not at an outline that a crop cuts away while half of its box is seen."""
    recipe = {
        "version": 1, "seed": 3, "constraint": {"min_visibility": 0.2, "retries": 50},
        "sample": [{"random_crop": 20}],
    }  # fmt: skip
    outline = (
        0.0,
        0.0,
        40.0,
        0.0,
        40.0,
        1.0,
        1.0,
        1.0,
        1.0,
        40.0,
        0.0,
        40.0,
    )  # an L, thin
    box = (0.0, 0.0, 40.0, 40.0)
    content = picture(tmp_path / "a.png", 40, 40, 1)
    image = AnnotatedImage("a.png", content, None, (40, 40), id=1)
    image = replace(image, annotations=(Annotation(3, box, (outline,), id=1),))
    write("coco", tmp_path / "in", META, [image])
    expand(recipe, tmp_path / "in", tmp_path / "out", copies=8)
    pipe = Pipeline(load(recipe))
    pixels = decode((tmp_path / "a.png").read_bytes())
    for row in rows(tmp_path / "out"):
        given = {"image": pixels, "boxes": np.array([box])}
        own = pipe(given, index=0, epoch=row["copy"])
        assert np.array_equal(decode((tmp_path / "out" / row["output"]).read_bytes()), own["image"])


def test_masks_go_with_what_is_removed(tmp_path: Path) -> None:
    made = scene(tmp_path)
    write("masks", tmp_path / "in", made.meta, made)
    out = tmp_path / "out"
    what = {"copies": 2, "keep_originals": True, "split": "none"}
    recipe = {"version": 1, "sample": ["horizontal_flip"]}
    expand(recipe, tmp_path / "in", out, **what)
    own = [row for row in rows(out) if row["index"] == 0]
    files = [out / path for row in own for path in (row["output"], row["mask"]["path"])]
    assert len(files) == 6 and all(each.is_file() for each in files)
    job = job_of(recipe, tmp_path / "in", **what)
    Making(job, out, {}).lost(Task((0,)), "gone")
    assert not any(each.exists() for each in files)
    assert {each.kind for each in verify(out).findings} == {"missing"}


def test_an_output_may_lie_beside_the_file_of_a_dataset(photos: Path, tmp_path: Path) -> None:
    file = shutil.copy(photos / "annotations" / "instances_train.json", tmp_path / "a.json")
    images = photos / "images" / "train"
    assert expand(load(RECIPE), file, tmp_path / "out", images=images).written == 3
    assert verify(tmp_path / "out").exit_code == 0
    for out in (tmp_path, images, images / "new"):
        with pytest.raises(UsageError, match="input"):
            expand(load(RECIPE), file, out, images=images)
    with pytest.raises(UsageError, match="leave out --images"):
        expand(load(RECIPE), images, tmp_path / "plain", images=images)


def test_where_the_dataset_was_moved(photos: Path, tmp_path: Path) -> None:
    expand(load(RECIPE), photos, tmp_path / "out")
    shutil.move(photos, tmp_path / "moved")
    with pytest.raises(UsageError, match="--source DIR"):
        verify(tmp_path / "out")
    assert verify(tmp_path / "out", tmp_path / "moved").exit_code == 0


def test_a_mask_moves_by_nearest_and_keeps_its_palette(tmp_path: Path) -> None:
    numbers = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones((20, 20), np.uint8))
    drawn = Image.fromarray(numbers)
    drawn.putpalette([(37 * k) % 256 for k in range(36)])
    (tmp_path / "in" / "masks").mkdir(parents=True)
    picture(tmp_path / "in" / "images" / "a.png", 60, 80, 0)
    drawn.save(tmp_path / "in" / "masks" / "a.png")
    recipe = load({"version": 1, "sample": [{"horizontal_flip": {"p": 1.0}}]})
    expand(recipe, tmp_path / "in", tmp_path / "out")
    with Image.open(tmp_path / "out" / "masks" / "a__0.png") as made:
        assert made.mode == "P"
        assert made.getpalette()[:36] == drawn.getpalette()[:36]  # type: ignore[index]
        assert np.array_equal(np.asarray(made), numbers[:, ::-1])
