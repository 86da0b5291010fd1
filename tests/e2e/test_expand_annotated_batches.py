"""Annotated datasets whose images share a batch: boxes, masks and keypoints are mixed too."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from augpipe.data.annotated import AnnotatedImage, Annotation
from augpipe.data.content import FileContent
from augpipe.data.decode import decode
from augpipe.data.formats import open_dataset
from augpipe.data.rle import decode_rle
from augpipe.errors import AugpipeError, UsageError
from augpipe.expansion import expand, verify
from augpipe.pipeline import load
from tests.e2e.expansion import rows, start, tree
from tests.formats.conftest import write
from tests.formats.scenes import META, picture, rle

SAMPLE: list[Any] = [{"horizontal_flip": {"p": 0.5}}, {"rotate": [-20, 20]}]
BATCH: list[Any] = [
    {"mosaic": {"p": 0.6}},
    {"copy_paste": {"p": 0.6, "scale": [0.5, 1.2]}},
    {"horizontal_flip": {"p": 0.5}},
    {"rotate": [-10, 10]},
]
RECIPE: dict[str, Any] = {
    "version": 1, "seed": 2, "boxes": {"min_area": 4, "min_visibility": 0.1},
    "sample": SAMPLE, "batch": BATCH,
}  # fmt: skip
HEIGHT, WIDTH = 60, 80


def scene(folder: Path, count: int = 6, **changes: Any) -> list[AnnotatedImage]:
    images = []
    for k in range(count):
        solid = np.zeros((HEIGHT, WIDTH), np.uint8)
        solid[10 : 40 + k, 20 : 60 - k] = 1
        objects = (
            Annotation(12, (20.0, 10.0, 60.0 - k, 40.0 + k), rle=rle(solid), id=10 * k + 1),
            Annotation(7, (5.0 + k, 30.0, 45.0, 55.0), id=10 * k + 2, extra={"pose": f"p{k}"},
                       rle=rle(np.flipud(solid)),
                       keypoints=(20.0, 40.0, 2.0, 10.0, 45.0, 2.0, 40.0, 45.0, 1.0)),
        )[: 1 + k % 2]  # fmt: skip
        content = picture(folder / f"{k}.png", HEIGHT, WIDTH, k)
        made = AnnotatedImage(f"{k}.png", content, None, (HEIGHT, WIDTH), id=k + 1)
        images.append(replace(made, annotations=objects, **changes))
    return images


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    write("coco", tmp_path / "photos", META, scene(tmp_path))
    return tmp_path / "photos"


def test_objects_are_where_the_batch_section_puts_them(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert expand(RECIPE, photos, out, copies=3, batch_size=3, workers=2).written == 18
    pipe, sources, made = load(RECIPE), open_dataset(photos), open_dataset(out)
    children = {(each.source["name"], each.source["copy"]): each for each in made if each.source}
    foreign = weighed = turned = 0
    batches = {(row["copy"], tuple(row["batch"])) for row in rows(out)}
    assert len(batches) == 6
    for copy, members in batches:
        items = [_item(sources[k]) for k in members]
        done = pipe.apply(items, members, copy)
        images = torch.from_numpy(np.stack([each.pop("image") for each in done]))
        given = [
            {
                "boxes": each["boxes"], "ids": each["ids"], "keypoints": each["keypoints"],
                "masks": torch.from_numpy(each["masks"]),
            }
            for each in done
        ]  # fmt: skip
        mixed, targets = pipe.batch(images.permute(0, 3, 1, 2), given, index=members, epoch=copy)
        for k, index in enumerate(members):
            child = children[sources[index].name, copy]
            want = mixed[k].permute(1, 2, 0).numpy()
            assert np.array_equal(decode(child.content.read()), want)
            found = iter(child.annotations)
            for row, own in enumerate(np.asarray(targets[k]["ids"]).tolist()):
                mask = targets[k]["masks"][row].numpy()
                if not mask.any():
                    continue
                each = next(found)
                assert each.source == own
                assert each.box == pytest.approx(targets[k]["boxes"][row].tolist(), abs=1e-5)
                assert each.rle is not None
                assert np.array_equal(decode_rle(each.rle, ""), mask)
                weight = float(targets[k]["box_weights"][row])
                assert each.extra.get("weight", 1.0) == pytest.approx(weight, abs=1e-5)
                weighed += weight < 1.0
                foreign += own // 10 != index
                if own % 10 == 2:
                    assert each.extra["pose"] == f"p{own // 10}"
                    points = targets[k]["keypoints"][row]
                    turned += _same_points(np.array(each.keypoints).reshape(-1, 3), points)
            assert next(found, None) is None
    ids = [each.id for child in made for each in child.annotations]
    assert len(set(ids)) == len(ids)
    assert foreign > 5 and weighed > 5 and turned > 2
    assert verify(out).findings == ()


def _item(image: AnnotatedImage) -> dict[str, Any]:
    points = np.zeros((len(image.annotations), 3, 3))
    for row, each in enumerate(image.annotations):
        if each.keypoints:
            points[row] = np.array(each.keypoints).reshape(-1, 3)
    return {
        "image": decode(image.content.read()),
        "boxes": np.array([each.box for each in image.annotations]),
        "ids": np.array([each.id for each in image.annotations]),
        "masks": np.stack([decode_rle(each.rle, "") for each in image.annotations if each.rle]),
        "keypoints": points,
    }


def _same_points(found: np.ndarray, points: np.ndarray) -> bool:
    """Checks keypoints, where the two eyes may have changed places; tells whether they have."""
    want = np.where(points[:, 2:] > 0, points, 0.0)
    plain = np.allclose(found, want, atol=1e-4)
    assert plain or np.allclose(found, want[[0, 2, 1]], atol=1e-4)
    return not plain


def test_left_and_right_change_places_in_a_mirror_of_either_section(tmp_path: Path) -> None:
    write("coco", tmp_path / "in", META, scene(tmp_path, 2))
    mirror = {"horizontal_flip": {"p": 1.0}}
    off = {"mixup": {"p": 0.0}}  # needs a batch, and does nothing
    places = []
    for k, (sample, batch) in enumerate([([mirror], [off]), ([], [mirror, off]), ([], [off])]):
        out = tmp_path / f"out{k}"
        expand({"version": 1, "sample": sample, "batch": batch}, tmp_path / "in", out)
        places.append(open_dataset(out)[1].annotations[1].keypoints)
    left, right = (10.0, 45.0, 2.0), (40.0, 45.0, 1.0)
    assert places[2] == (20.0, 40.0, 2.0, *left, *right)
    mirrored = (59.0, 40.0, 2.0, 39.0, 45.0, 1.0, 69.0, 45.0, 2.0)
    assert places[0] == places[1] == mirrored


def test_killed_and_resumed_to_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    (photos / "images" / "3.png").write_bytes(b"nothing")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(load(RECIPE).recipe.dump())
    arguments: dict[str, Any] = {
        "recipe": recipe, "source": photos, "copies": 2, "keep_originals": True, "to": "parquet",
        "batch_size": 3,
    }  # fmt: skip
    whole = expand(**arguments, out=tmp_path / "whole")
    assert whole.skipped == 1
    process = start("before", 9, **arguments, out=tmp_path / "out", workers=2)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    expand(**arguments, out=tmp_path / "out", workers=1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert verify(tmp_path / "out").findings == ()
    row = next(row for row in rows(tmp_path / "out") if row["copy"] == 1)
    assert {each for each in row["batch"]} <= {0, 1, 2, 4, 5}


def test_ids_that_are_words_stay_apart(tmp_path: Path) -> None:
    images = [
        replace(each, annotations=tuple(replace(a, id=f"o{a.id}") for a in each.annotations))
        for each in scene(tmp_path, 3)
    ]
    write("webdataset", tmp_path / "in", META, images)
    expand({"version": 1, "batch": ["mosaic"]}, tmp_path / "in", tmp_path / "out", copies=2)
    ids = [each.id for child in open_dataset(tmp_path / "out") for each in child.annotations]
    assert len(ids) > 6 and all(str(each).startswith("o") for each in ids)
    assert len(set(ids)) == len(ids)


def test_masks_and_classes_are_mixed_too(tmp_path: Path) -> None:
    images = []
    for k in range(4):
        plane = np.full((HEIGHT, WIDTH), k + 1, np.uint8)
        Image.fromarray(plane).save(tmp_path / f"m{k}.png")
        content = picture(tmp_path / f"{k}.png", HEIGHT, WIDTH, k)
        label = ("indoor", "outdoor")[k % 2]
        made = AnnotatedImage(f"{k}.png", content, None, (HEIGHT, WIDTH), label)
        images.append(replace(made, mask=FileContent(tmp_path / f"m{k}.png")))
    write("parquet", tmp_path / "in", META, images)
    recipe = {"version": 1, "batch": [{"cutmix": {"alpha": 1.0, "mode": "element"}}]}
    out = tmp_path / "out"
    expand(recipe, tmp_path / "in", out, to="masks", copies=2)
    shared = 0
    for row, child in zip(rows(out), open_dataset(out), strict=True):
        assert child.mask is not None
        values = np.asarray(Image.open(out / row["mask"]["path"]))
        shares = {name: 0.0 for name in ("indoor", "outdoor")}
        for value, count in zip(*np.unique(values, return_counts=True), strict=True):
            shares[("indoor", "outdoor")[(int(value) - 1) % 2]] += count / values.size
        assert row["shares"] == pytest.approx({k: v for k, v in shares.items() if v}, abs=1e-6)
        shared += len(np.unique(values)) > 1
    assert shared > 2
    assert verify(out).findings == ()


def corner_image(corners: Sequence[float], value: int) -> np.ndarray[Any, Any]:
    """A black image with a filled polygon, drawn by OpenCV."""
    out = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    at = np.round((np.reshape(corners, (4, 2)) - 0.5) * 256).astype(np.int32)
    cv2.fillPoly(out, [at], (value,) * 3, cv2.LINE_8, 8)
    return out


def test_rotated_boxes_are_mixed_too(tmp_path: Path) -> None:
    """Each is, after the batch, where its own pixels are: a rectangle drawn in its own grey."""
    images = []
    for k in range(6):
        box = cv2.boxPoints(((40.0, 28.0 + k), (44.0, 16.0), 25.0 * k))
        content = tmp_path / f"{k}.png"
        Image.fromarray(corner_image(box, 100 + 20 * k)).save(content)
        each = Annotation(12, oriented=tuple(box.reshape(-1).tolist()), id=k + 1)
        made = AnnotatedImage(f"{k}.png", FileContent(content), None, (HEIGHT, WIDTH), id=k + 1)
        images.append(replace(made, annotations=(each,)))
    write("coco", tmp_path / "turned", META, images)
    turn = {"rotate": {"degrees": [-30, 30], "interpolation": "nearest"}}
    batch = [{"mosaic": {"p": 0.5}}, {"cutmix": {"p": 0.5}}, turn, "horizontal_flip"]
    recipe = {"version": 1, "seed": 3, "batch": batch}
    out = tmp_path / "out"
    expand(recipe, tmp_path / "turned", out, copies=4)
    seen, mixed = 0, 0
    for child in open_dataset(out):
        pixels = decode(child.content.read())[:, :, 0].astype(int)
        mixed += len(child.annotations) > 1
        assert all(each.oriented and each.box is None for each in child.annotations)
        for source in {each.source or each.id for each in child.annotations}:
            # One that came in twice, by a tile and by a mix, is all of its grey.
            some = [each for each in child.annotations if source in (each.source, each.id)]
            drawn = sum(corner_image(each.oriented or (), 1)[:, :, 0] for each in some) > 0
            own = pixels == 100 + 20 * (int(source or 0) - 1)
            if drawn.sum() < 60 or own.sum() < 60:
                continue
            seen += 1
            assert (own & drawn).sum() / own.sum() > 0.8, (child.name, source)
            # Less than all where a mix laid something over its middle, which its weight tells.
            shares = [float(each.extra.get("weight", 1)) for each in some]
            assert own.sum() / drawn.sum() > 0.6 * min(*shares, 0.5), (child.name, source)
    assert seen > 20 and mixed > 5
    assert verify(out).findings == ()


@pytest.mark.parametrize("cover", ["cutmix", "crop"])
def test_an_object_whose_mask_is_covered_is_not_kept(tmp_path: Path, cover: str) -> None:
    """Each is there where its own grey is: a dot whose box, all of the image, is still seen."""
    images = []
    for k in range(4):
        dot = np.zeros((HEIGHT, WIDTH), np.uint8)
        dot[10 * k + 4 : 10 * k + 10, 18 * k + 4 : 18 * k + 10] = 1
        Image.fromarray(np.stack([dot * (100 + 30 * k)] * 3, axis=2)).save(tmp_path / f"{k}.png")
        each = Annotation(12, (0.0, 0.0, WIDTH, HEIGHT), rle=rle(dot), id=k + 1)
        made = AnnotatedImage(f"{k}.png", FileContent(tmp_path / f"{k}.png"), id=k + 1)
        images.append(replace(made, size=(HEIGHT, WIDTH), annotations=(each,)))
    write("coco", tmp_path / "in", META, images)
    ops = {
        "cutmix": [{"cutmix": {"mode": "element"}}],
        "crop": [{"mixup": {"p": 0}}, {"center_crop": 30}],
    }
    recipe = {"version": 1, "seed": 4, "batch": ops[cover]}
    expand(recipe, tmp_path / "in", tmp_path / "out", copies=6)
    counts = []
    for child in open_dataset(tmp_path / "out"):
        pixels = decode(child.content.read())[:, :, 0]
        greys = [k + 1 for k in range(4) if (pixels == 100 + 30 * k).any()]
        assert sorted(each.source for each in child.annotations) == greys, child.name
        for each in child.annotations:
            assert np.array_equal(decode_rle(each.rle, ""), pixels == 70 + 30 * each.source)
        counts.append(len(greys))
    assert {0, 1} <= set(counts)


def test_what_a_batch_cannot_hold_is_said(tmp_path: Path) -> None:
    images = scene(tmp_path, 2)
    Image.fromarray(np.zeros((30, 20, 3), np.uint8)).save(tmp_path / "small.png")
    small = AnnotatedImage("small.png", FileContent(tmp_path / "small.png"), id=9)
    write("coco", tmp_path / "sizes", META, [*images, small])
    with pytest.raises(AugpipeError, match="a batch needs one size"):
        expand(RECIPE, tmp_path / "sizes", tmp_path / "out2")
    adds = {**RECIPE, "gan_generate": {"count": 1}}
    with pytest.raises(UsageError, match="gan_generate adds images to class folders only"):
        expand(adds, tmp_path / "sizes", tmp_path / "out3")
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(tmp_path / "colours.png")
    coloured = replace(images[0], mask=FileContent(tmp_path / "colours.png"))
    write("masks", tmp_path / "coloured", META, [replace(coloured, annotations=())])
    told = expand(RECIPE, tmp_path / "coloured", tmp_path / "out4")
    assert (told.written, told.skipped) == (0, 1)
    said = (tmp_path / "out4" / "errors.jsonl").read_text()
    assert "has a coloured mask, which does not move in batches" in said
