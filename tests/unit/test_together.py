"""Previews of the batch section."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from augpipe.pipeline import load
from augpipe.recipe import load as load_recipe
from augpipe.report.html import draw_html
from augpipe.report.preview import build_preview
from augpipe.report.sheet import draw_sheet
from augpipe.report.sources import open_sources

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
CROP = {"random_resized_crop": {"size": 24}}


def preview(sample: list, batch: list, folder: str | Path = "garments", **options):
    recipe = load_recipe({"version": 1, "seed": 3, "sample": sample, "batch": batch})
    return build_preview(recipe, open_sources(SAMPLES / folder), "t", **options)


def rgb(image: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(image.squeeze()).convert("RGB"))


def batch_of(images: list[np.ndarray]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(each.copy()).permute(2, 0, 1) for each in images])


def pixels(batch: torch.Tensor) -> np.ndarray:
    return batch.permute(0, 2, 3, 1).numpy()


def test_variants_are_what_the_batch_section_makes_of_the_images_together() -> None:
    ops = ["horizontal_flip", {"mixup_or_cutmix": {"mode": "element"}}, "rand_augment"]
    shown, errors = preview([CROP], [*ops, {"normalize": "half"}], samples=4, variants=3, epoch=5)
    assert (errors, shown.missing) == ((), ())
    content = {"version": 1, "seed": 3, "classes": 10, "sample": [CROP], "batch": ops}
    pipe, classes = load(content), open_sources(SAMPLES / "garments").classes
    keys = [story.index for story in shown.stories]
    labels = torch.tensor([classes.index(story.name.split("/")[0]) for story in shown.stories])
    for k in range(3):
        own = [
            pipe(rgb(story.variants[0].image), index=story.index, epoch=5 + k)
            for story in shown.stories
        ]
        images, rows = pipe.batch(batch_of(own), labels, index=keys, epoch=5 + k)
        for n, story in enumerate(shown.stories):
            picture = story.variants[1 + k]
            np.testing.assert_array_equal(picture.image, pixels(images)[n])
            said = {name: int(share or 100) for name, share in _SHARE.findall(picture.notes[0])}
            assert list(said.values()) == sorted(said.values(), reverse=True)
            whole = {classes[i]: round(100 * x) for i, x in enumerate(rows[n].tolist()) if x > 0.01}
            assert {name: share for name, share in said.items() if share > 1} == whole
            if k == 0:
                np.testing.assert_array_equal(story.steps[-1].image, picture.image)
    for story in shown.stories:
        assert [step.title.split()[1] for step in story.steps] == [
            "random_resized_crop",
            "horizontal_flip",
            "mixup_or_cutmix",
            "rand_augment",
        ]


_SHARE = re.compile(r"(\w+)(?: (\d+)%)?(?: \+ |$)")


def test_captions_name_the_ops_that_acted_and_the_partners() -> None:
    one = {"one_of": {"ops": [{"cutmix": {"mode": "element"}}, "mixup"], "weights": [1, 0]}}
    flips = [{"horizontal_flip": {"p": 1.0}}, {"vertical_flip": {"p": 0.0}}]
    shown, _ = preview([], [*flips, one], samples=2, variants=4)
    first, second = shown.stories
    for story in shown.stories:
        for picture in story.variants[1:]:
            assert picture.notes[1:] == ("horizontal_flip", "cutmix")
    assert first.steps[1].notes == ("no change (p 0)",)
    assert first.steps[1].idle
    assert first.steps[2].notes[-1] == f"with {second.name.split('/')[1]}"
    assert re.fullmatch(r"cutmix: lam 0\.\d+", first.steps[2].notes[1])


def test_a_policys_draws_are_said_once() -> None:
    shown, _ = preview([CROP], ["rand_augment", "mixup"], "photos", samples=2, variants=1)
    for story in shown.stories:
        assert len(story.steps[1].notes) == 1
        assert len(re.findall(r"[a-z_]+", story.steps[1].notes[0])) <= 2


def test_boxes_masks_and_keypoints_are_mixed_with_the_images() -> None:
    ops = [{"copy_paste": {"objects": 1.0}}, "mosaic", {"rotate": {"degrees": [5, 5]}}]
    shown, errors = preview([{"resize": [60, 80]}], ops, "", samples=4, variants=1)
    assert not errors
    pipe = load({"version": 1, "seed": 3, "batch": ops})
    before = [story.steps[0] for story in shown.stories]
    targets = [
        {
            "boxes": torch.from_numpy(each.marks.boxes),
            "labels": torch.tensor(each.marks.labels),
            "keypoints": torch.from_numpy(each.marks.keypoints),
            "mask": torch.from_numpy(each.marks.mask.copy()),
        }
        for each in before
    ]
    images, out = pipe.batch(
        batch_of([each.image for each in before]),
        targets,
        index=[story.index for story in shown.stories],
        epoch=0,
    )
    for n, story in enumerate(shown.stories):
        picture = story.variants[1]
        assert len(picture.marks.boxes) != len(story.variants[0].marks.boxes)
        np.testing.assert_array_equal(picture.image, pixels(images)[n])
        np.testing.assert_allclose(picture.marks.boxes, out[n]["boxes"].numpy(), atol=1e-4)
        assert picture.marks.labels == tuple(out[n]["labels"].tolist())
        np.testing.assert_allclose(picture.marks.keypoints, out[n]["keypoints"], atol=1e-4)
        np.testing.assert_array_equal(picture.marks.mask, out[n]["mask"].numpy())
    assert draw_sheet(shown)[:4] == b"\x89PNG"


def test_one_image_alone_has_no_partner() -> None:
    shown, errors = preview([CROP], ["mixup", "vertical_flip"], samples=1, variants=1)
    assert not errors
    assert shown.missing == ("Not shown: mixup: one image alone has no partner to be mixed with.",)
    assert shown.missing[0] in shown.facts
    (story,) = shown.stories
    assert story.steps[1].idle
    assert "mixup" not in story.variants[1].notes


def test_images_of_different_sizes_are_no_batch() -> None:
    shown, errors = preview([{"resize": 40}], ["mosaic"], "photos", samples=4, variants=2)
    assert not errors
    (line,) = shown.missing
    assert line.startswith("Not shown: the batch section (mosaic): a batch needs images of one")
    sizes = {" × ".join(map(str, s.variants[1].image.shape[:2])) for s in shown.stories}
    assert len(sizes) > 1
    assert sum(size in line for size in sizes) == min(3, len(sizes))
    assert line in draw_html(shown)
    assert [len(story.steps) for story in shown.stories] == [1] * 4


def test_what_a_batch_cannot_be_mixed_for_is_said() -> None:
    shown, errors = preview([CROP], ["copy_paste"], "photos", samples=2, variants=1)
    assert str(errors[0]).startswith("the batch section: copy_paste#0: pastes objects, but")
    assert "--annotations" in shown.missing[0]
    assert [len(story.steps) for story in shown.stories] == [1, 1]


def test_ops_of_kornia_get_batches_of_one() -> None:
    pytest.importorskip("kornia")
    ops = [{"kornia.RandomInvert": {"p": 1.0}}, {"horizontal_flip": {"p": 1.0}}]
    shown, errors = preview([{"resize": 40}], ops, "photos", samples=3, variants=2, epoch=1)
    assert (errors, shown.missing) == ((), ())
    pipe = load({"version": 1, "seed": 3, "batch": ops})
    for story in shown.stories:
        assert story.variants[1].notes[:2] == ("kornia.RandomInvert", "horizontal_flip")
        one = pipe.batch(batch_of([story.steps[0].image]), index=[story.index], epoch=1)
        np.testing.assert_array_equal(story.variants[1].image, pixels(one)[0])
        assert not np.array_equal(story.steps[1].image, story.steps[0].image)


def test_an_image_that_kornia_cannot_take_is_left_out(tmp_path: Path) -> None:
    pytest.importorskip("kornia")
    for side in (9, 40):
        Image.new("RGB", (side, side), (9, 99, 199)).save(tmp_path / f"{side}.png")
    ops = ["kornia.RandomPlasmaShadow", {"random_crop": 20}]
    shown, errors = preview([], ops, tmp_path, samples=2, variants=1)
    assert [story.name for story in shown.stories] == ["40.png"]
    assert str(errors[0]).startswith(f"{tmp_path / '9.png'}: random_crop#0: ")


def test_what_follows_a_change_of_size_by_kornia_is_told_of_the_new_size() -> None:
    pytest.importorskip("kornia")
    ops = [{"kornia.Resize": {"size": [50, 50]}}, {"random_crop": 45}]
    shown, errors = preview([CROP], ops, "photos", samples=1, variants=1)
    assert not errors
    assert shown.stories[0].variants[1].image.shape == (45, 45, 3)
