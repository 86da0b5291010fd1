"""`constraint`: images of which too little of a box is seen are drawn again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import augpipe
from augpipe.constraint import settle
from augpipe.errors import RecipeError
from augpipe.kinds import unpack
from augpipe.recipe import load
from augpipe.rng import Trace
from augpipe.settings import ConstraintRule
from tests.harness import photo

H, W = 96, 128
BOXES = np.array([[20.0, 30, 60, 70], [70, 10, 110, 50]])
CROP = [{"random_crop": 64}]
RULE = {"min_visibility": 0.3, "retries": 20}


def pipeline(items: Any, rule: Any = None, section: str = "sample", seed: int = 3) -> Any:
    top = {"boxes": {"min_area": 0.0}} | ({"constraint": rule} if rule else {})
    return augpipe.load({"version": 1, "seed": seed, section: items, **top})


def item(boxes: Any = BOXES) -> dict[str, Any]:
    return {"image": photo(height=H, width=W), "boxes": boxes, "labels": np.arange(len(boxes))}


def shares(out: dict[str, Any], boxes: Any = BOXES) -> list[float]:
    """How much of each box a crop has left."""
    area = (out["boxes"][:, 2:] - out["boxes"][:, :2]).prod(axis=1)
    left = np.zeros(len(boxes))
    left[out["labels"]] = area / (boxes[out["labels"], 2:] - boxes[out["labels"], :2]).prod(axis=1)
    return left.tolist()


@pytest.mark.parametrize("where", [{}, {"epoch": 3}, {"seed": 8}], ids=str)
def test_it_holds_and_what_held_before_is_unchanged(where: dict[str, int]) -> None:
    """In any epoch and by any seed: what is tried is what is then drawn."""
    free, bound = pipeline(CROP), pipeline(CROP, RULE)
    again = 0
    each = (pipe.apply([item()] * 60, range(60), **where) for pipe in (free, bound))
    for before, after in zip(*each, strict=True):
        assert min(shares(after)) >= 0.3 - 1e-9
        same = np.array_equal(before["image"], after["image"])
        assert same == (min(shares(before)) >= 0.3)
        again += not same
    assert 10 < again < 50


def test_the_first_attempt_that_holds_is_taken() -> None:
    """Each attempt is a draw of its own, uniform like the first."""
    crops = {tuple(pipeline(CROP)(item(), index=k)["boxes"].ravel()) for k in range(40)}
    bound = pipeline(CROP, {"min_visibility": 1.0, "retries": 200})
    found = {tuple(bound(item(), index=k)["boxes"].ravel()) for k in range(40)}
    assert len(found) > 15 and len(crops) > 30


def test_where_it_cannot_hold_the_best_is_taken() -> None:
    wide = np.array([[0.0, 0, 128, 96]])
    bound = pipeline(CROP, {"min_visibility": 0.9, "retries": 3})
    share = 64 * 64 / (H * W)
    assert shares(bound(item(wide), index=0), wide) == pytest.approx([share])
    far = np.array([[0.0, 0, 60, 60], [68, 36, 128, 96]])  # never both
    tries = [pipeline(CROP, {"min_visibility": 0.9, "retries": n}) for n in (1, 2, 3, 4, 5)]
    for k in range(10):  # one more attempt never makes it worse
        least = [min(shares(pipe(item(far), index=k), far)) for pipe in tries]
        assert least == sorted(least)


def test_how_often_it_had_to_is_told() -> None:
    trace: Trace = {}
    samples = [unpack(item()).sample for _ in range(30)]
    pipeline(CROP, RULE).run(samples, np.arange(30), 0, trace)
    told = trace["constraint"]
    free = [min(shares(pipeline(CROP)(item(), index=k))) for k in range(30)]
    assert told["on"].tolist() == [share < 0.3 for share in free]
    assert ((told["retries"] > 0) == told["on"]).all() and told["retries"].max() <= 20
    after = [min(shares(pipeline(CROP, RULE)(item(), index=k))) for k in range(30)]
    assert told["visibility"] == pytest.approx(np.array(after))


@pytest.mark.parametrize("where", [{}, {"epoch": 3}, {"seed": 8}], ids=str)
def test_a_row_is_the_row_alone(where: dict[str, int]) -> None:
    bound = pipeline(CROP, RULE)
    for index, many in enumerate(bound.apply([item()] * 9, range(9), **where)):
        (alone,) = bound.apply([item()], [index], **where)
        assert np.array_equal(many["image"], alone["image"])


def test_both_sections_do_the_same() -> None:
    items = [{"rotate": {"degrees": [-40, 40]}}, {"random_crop": 64}]
    one, many = (pipeline(items, RULE, section) for section in ("sample", "batch"))
    images = torch.from_numpy(np.stack([photo(height=H, width=W)] * 12)).permute(0, 3, 1, 2)
    trace: Trace = {}
    targets = {"boxes": [torch.tensor(BOXES)] * 12}
    _, out = many.batch(images, targets, index=list(range(12)), epoch=0, trace=trace)
    assert trace["constraint"]["on"].any() and not trace["constraint"]["on"].all()
    for k in range(12):
        want = one(item(), index=k)["boxes"]
        assert np.allclose(out["boxes"][k], want, atol=1e-6)


def test_a_librarys_transform_is_done_again_too() -> None:
    items = [{"albumentations.RandomCrop": {"height": 64, "width": 64}}, "horizontal_flip"]
    free, bound = pipeline(items), pipeline(items, RULE)
    again = 0
    for index in range(25):
        before, after = free(item(), index=index), bound(item(), index=index)
        assert min(shares(after)) >= 0.3 - 1e-6  # boxes are float32 there
        again += not np.array_equal(before["image"], after["image"])
    assert 3 < again < 24


def test_only_what_was_seen_before_counts() -> None:
    """A box half beyond the edge, and one wholly, of which no more can be seen."""
    boxes = np.array([[-40.0, 40, 40, 60], [-50, 0, -10, 20]])
    bound = pipeline([{"horizontal_flip": {"p": 1}}], {"min_visibility": 1.0})
    trace: Trace = {}
    bound.run([unpack(item(boxes)).sample], np.array([0]), 0, trace)
    assert not trace["constraint"]["on"].any() and trace["constraint"]["visibility"] == 1.0


@pytest.mark.parametrize("behind", [{"resize": [24, 160]}, {"resize": 300}], ids=str)
def test_a_size_is_no_share(behind: Any) -> None:
    """What a resize behind the crop makes of all of a box alike is neither lost nor gained."""
    told = []
    for items in (CROP, [*CROP, behind]):
        trace: Trace = {}
        pipeline(items, RULE).run([unpack(item()).sample] * 20, np.arange(20), 0, trace)
        told.append(trace["constraint"])
    assert told[0]["on"].any()
    for name, want in told[0].items():
        np.testing.assert_allclose(told[1][name], want, atol=1e-9)


def test_a_zoom_keeps_what_stays_in_the_frame() -> None:
    """By 2 about the centre, of a box that is all of the image: a quarter."""
    trace: Trace = {}
    bound = pipeline([{"scale": [2, 2]}], {"min_visibility": 0.5, "retries": 2})
    bound.run([unpack(item(np.array([[0.0, 0, W, H]]))).sample], np.array([0]), 0, trace)
    assert trace["constraint"]["visibility"] == pytest.approx([0.25])


def test_of_equal_attempts_the_first_is_taken() -> None:
    table = np.array(
        [
            [0.2, 0.5, 0.5, 0.1],  # (images, attempts): what each keeps
            [0.4, 0.4, 0.4, 0.4],
            [0.0, 0.0, 0.0, 0.0],
            [0.3, 0.9, 0.9, 1.0],
            [0.9, 0.9, 0.9, 0.9],
        ]
    )
    rule, trace = ConstraintRule(min_visibility=0.9, retries=3), Trace()
    found = settle(rule, 5, lambda rows, attempt: table[rows, attempt], trace)
    assert found.tolist() == trace["constraint"]["attempt"].tolist() == [1, 0, 0, 1, 0]
    assert trace["constraint"]["retries"].tolist() == [3, 3, 3, 1, 0]
    assert trace["constraint"]["visibility"].tolist() == [0.5, 0.4, 0.0, 0.9, 0.9]


def test_without_boxes_it_changes_nothing() -> None:
    image = photo(height=H, width=W)
    for given in (image, {"image": image, "boxes": np.zeros((0, 4))}):
        outs = [pipeline(CROP, rule)(given, index=4) for rule in (None, RULE)]
        one, other = (each if isinstance(given, np.ndarray) else each["image"] for each in outs)
        assert np.array_equal(one, other)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"min_visibility": 0}, "min_visibility"),
        ({"min_visibility": 1.2}, "min_visibility"),
        ({"retries": 3}, "constraint.min_visibility: constraint needs it"),
        ({"min_visibility": 0.3, "retries": 0}, "retries"),
        ({"min_visibility": 0.3, "retries": 256}, "retries"),
        ({"min_visibilty": 0.3}, "did you mean 'min_visibility'"),
        (0.3, "mapping of min_visibility, retries"),
    ],
)
def test_what_is_none_is_refused(rule: Any, said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load({"version": 1, "constraint": rule, "sample": CROP})
    assert said in str(caught.value)


def test_it_comes_back_from_yaml(tmp_path: Path) -> None:
    recipe = load({"version": 1, "constraint": RULE, "sample": CROP})
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.dump(), encoding="utf-8")
    assert load(path) == recipe and "min_visibility: 0.3" in recipe.dump()
