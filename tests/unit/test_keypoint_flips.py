"""`keypoints: flip_pairs`: left and right change places in a mirror, wherever that happens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import augpipe
from augpipe.errors import DataError, RecipeError
from augpipe.recipe import load
from tests.harness import photo

H, W = 96, 128
IMAGE = photo(height=H, width=W)
EYES = np.array(
    [[[40.0, 30, 2], [60, 32, 1], [50, 44, 2]], [[90, 50, 2], [101, 50, 2], [95, 60, 0]]]
)
PAIRS = {"flip_pairs": [[0, 1]]}
MIRRORS = [
    {"horizontal_flip": {"p": 1}},
    {"vertical_flip": {"p": 1}},
    {"transpose": {"p": 1}},
    {"albumentations.HorizontalFlip": {"p": 1}},
    {"albumentations.Transpose": {"p": 1}},
    {"torchvision.RandomVerticalFlip": {"p": 1}},
]
TURNS = [
    {"rotate": {"degrees": [20, 20]}},
    {"rotate90": [2, 2]},
    {"albumentations.Rotate": {"limit": [90, 90], "p": 1}},
    {"torchvision.RandomRotation": {"degrees": [30, 30]}},
    {"grid_distortion": {}},
    {"perspective": {}},
    {"center_crop": 70},
]


def moved(items: Any, points: Any = EYES, pairs: Any = PAIRS, **more: Any) -> np.ndarray:
    top = {"keypoints": pairs} if pairs else {}
    pipe = augpipe.load({"version": 1, "sample": items, **top})
    return pipe({"image": IMAGE, "keypoints": points, **more}, index=0)["keypoints"]


@pytest.mark.parametrize("item", MIRRORS, ids=lambda item: next(iter(item)))
def test_mirrors(item: Any) -> None:
    plain = moved([item], pairs=None)
    assert np.array_equal(moved([item]), plain[:, [1, 0, 2]])  # with their visibility
    twice = [item, {"horizontal_flip": {"p": 1}}]
    assert np.array_equal(moved(twice), moved(twice, pairs=None))


@pytest.mark.parametrize("item", TURNS, ids=lambda item: next(iter(item)))
def test_what_is_no_mirror(item: Any) -> None:
    assert np.array_equal(moved([item]), moved([item], pairs=None))


def test_a_table_of_points_is_one_object() -> None:
    plain = moved(MIRRORS[:1], EYES[0], None)
    assert np.array_equal(moved(MIRRORS[:1], EYES[0]), plain[[1, 0, 2]])
    assert moved(MIRRORS[:1], np.zeros((0, 3, 2))).shape == (0, 3, 2)


def test_dropped_objects_leave_the_others_right() -> None:
    boxes = np.array([[35.0, 25, 65, 50], [125, 40, 128, 65]])
    items = [{"horizontal_flip": {"p": 1}}, {"center_crop": 96}]
    out = moved(items, boxes=boxes)
    want = moved(items, pairs=None, boxes=boxes)
    assert len(out) == 1 and np.array_equal(out, want[:, [1, 0, 2]])


def test_the_batch_section_and_mixing() -> None:
    """A mirrored image's points are put right before and after another's join them."""
    flip = {"horizontal_flip": {"p": 0.5}}
    mix = {"mixup": {"alpha": 1.0, "p": 1}}
    images = torch.from_numpy(np.stack([IMAGE] * 6)).permute(0, 3, 1, 2)
    targets = {"keypoints": [torch.tensor(EYES)] * 6}
    out = {}
    for items in ([flip], [flip, mix]):
        for pairs in (None, PAIRS):
            top = {"keypoints": pairs} if pairs else {}
            pipe = augpipe.load({"version": 1, "batch": items, **top})
            _, out[len(items), pairs is None] = pipe.batch(images, targets, index=range(6), epoch=0)
    flipped = 0
    for k in range(6):
        plain = np.asarray(out[1, True]["keypoints"][k])
        right = np.asarray(out[1, False]["keypoints"][k])
        mirrored = plain[0, 0, 0] > plain[0, 1, 0]
        flipped += mirrored
        assert np.array_equal(right, plain[:, [1, 0, 2]] if mirrored else plain)
        mixed = np.asarray(out[2, True]["keypoints"][k])
        own = mixed[:, 0, 0] > mixed[:, 1, 0]
        want = np.where(own[:, None, None], mixed[:, [1, 0, 2]], mixed)
        assert np.array_equal(np.asarray(out[2, False]["keypoints"][k]), want)
    assert 0 < flipped < 6


def test_a_pair_that_is_not_there() -> None:
    with pytest.raises(DataError, match="speaks of keypoint 7, an object has 3: 0 to 2"):
        moved(MIRRORS[:1], pairs={"flip_pairs": [[0, 7]]})


@pytest.mark.parametrize("pairs", [[1, 2], [[1]], [[0, 1], [1, 2]], [[-1, 0]], "left", [[0, 0]]])
def test_what_is_none_is_refused(pairs: Any) -> None:
    with pytest.raises(RecipeError, match="flip_pairs"):
        load({"version": 1, "keypoints": {"flip_pairs": pairs}, "sample": ["horizontal_flip"]})


def test_it_comes_back_from_yaml() -> None:
    recipe = load({"version": 1, "keypoints": PAIRS, "sample": ["horizontal_flip"]})
    import yaml

    assert load(yaml.safe_load(recipe.dump())) == recipe
