"""What a pipeline refuses before it draws anything, and what it says of images it cannot take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import augpipe
from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.plan.nodes import realise
from augpipe.types import Frame
from tests.harness import grey, photo, run

IMAGE = photo(height=24, width=32)


def pipe(*items: Any) -> augpipe.Pipeline:
    return augpipe.load({"version": 1, "sample": list(items)})


@pytest.mark.parametrize("index", [-1, 2**63])
def test_an_index_outside_is_not_another_index(index: int) -> None:
    with pytest.raises(UsageError, match="an index is from 0"):
        pipe("rotate")(IMAGE, index=index)


@pytest.mark.parametrize("epoch", [-1, 2**32])
def test_an_epoch_outside_is_not_another_epoch(epoch: int) -> None:
    with pytest.raises(UsageError, match="an epoch is from 0"):
        pipe("rotate")(IMAGE, index=0, epoch=epoch)


def test_the_ends_of_both_are_keys_of_their_own() -> None:
    turn = pipe("rotate")
    ends = [turn(IMAGE, index=i, epoch=e) for i in (0, 2**63 - 1) for e in (0, 2**32 - 1)]
    assert len({end.tobytes() for end in ends}) == 4


def test_whole_numbers_only() -> None:
    for key in ({"index": 1.0}, {"index": "3"}, {"index": 0, "epoch": 1.5}):
        with pytest.raises(TypeError):
            pipe("rotate")(IMAGE, **key)


def test_as_many_indices_as_items() -> None:
    for indices in ([0], [0, 1, 2]):
        with pytest.raises(UsageError, match="indices for 2 items"):
            pipe("rotate").apply([IMAGE, IMAGE], indices)


@pytest.mark.parametrize(
    ("item", "image", "words"),
    [
        ("sepia", grey(), "sepia#0: needs RGB; the image has 1 channel"),
        ("hue", np.zeros((8, 8, 2), np.uint8), "hue#0: needs grey or RGB; .* 2 channels"),
        ("clahe", np.zeros((8, 8, 5), np.uint8), "clahe#0: needs grey or RGB"),
        ({"rotate": {"fill": [1, 2, 3]}}, grey(), "rotate#0: its fill has 3 levels"),
        ({"cutout": {"fill": [1, 2, 3]}}, grey(), "cutout#0: its fill has 3 levels"),
        ("elastic", np.zeros((2, 33000, 3), np.uint8), "flow: .*2 × 33000 × 3"),
    ],
)
def test_an_image_that_does_not_fit_is_a_data_error(item: Any, image: Any, words: str) -> None:
    with pytest.raises(DataError, match=words):
        pipe(item)(image, index=0)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 16])
def test_geometry_takes_any_channel_count(channels: int) -> None:
    items = [{"resize": {"size": [5, 7], "antialias": "full"}}, "rotate", "elastic"]
    image = np.zeros((20, 30, channels), np.uint8)
    assert pipe(*items)(image, index=0).shape == (5, 7, channels)


def test_images_wider_than_16_bits() -> None:
    wide = np.resize(photo().reshape(-1), (8, 65537, 1))
    item = {"rotate": {"degrees": [0.02, 0.02], "fill": 200}}
    fast, exact = (run(item, wide, backend).astype(int) for backend in ("opencv", "reference"))
    assert abs(fast - exact).max() <= 1  # rounding to whole levels


def test_shrinking_to_nothing_takes_no_memory() -> None:
    for times in (3, 10):
        out = pipe(*[{"scale": {"factor": [0.01, 0.01]}}] * times)(IMAGE, index=0)
        assert out.shape == IMAGE.shape


def test_coordinates_that_their_dtype_cannot_hold() -> None:
    boxes = np.array([[10, 10, 20, 20]], np.uint8)
    item = {"image": IMAGE, "boxes": boxes}
    with pytest.raises(AugpipeError, match="cannot hold coordinates"):
        pipe({"resize": {"size": [600, 600]}})(item, index=0)


def test_large_medians_of_floats_are_those_of_whole_levels() -> None:
    item = {"median_blur": {"size": [7, 7]}}
    whole = run(item, IMAGE)
    assert np.array_equal(run(item, IMAGE.astype(np.float32)), whole.astype(np.float32))


def test_draws_of_different_ops_are_independent() -> None:
    """Of 4,000 samples a correlation of 0.08 is five standard errors away from none."""
    turned = pipe(
        {"rotate": {"p": 0.5}},
        {"brightness": {"p": 0.5}},
        {"brightness": {"p": 0.5}},
        {"random_erasing": {"p": 0.5, "fill": "noise"}},
        {"one_of": ["invert", "vertical_flip"]},
    )
    trace: dict = {}
    frame = Frame(np.tile(np.array([24, 32]), (4000, 1)))
    realise(turned.nodes, turned.draws(np.arange(4000), trace=trace), frame)
    drawn = {
        f"{op}.{name}": np.asarray(values, float)
        for op, own in trace.items()
        for name, values in own.items()
        if np.ndim(values) == 1 and name != "field" and np.std(values)
    }
    assert {"rotate#0.angle", "rotate#0.on", "brightness#1.on", "one_of#0.branch"} <= set(drawn)
    # Width and height of an erased rectangle share its area; a branch decides its ops.
    tied = (
        "random_erasing#0.width",
        "random_erasing#0.height",
        "invert#0.on",
        "vertical_flip#0.on",
    )
    free = [values for name, values in drawn.items() if name not in tied]
    assert abs(np.corrcoef(free) - np.eye(len(free))).max() < 0.08


def test_fields_differ_by_index_epoch_and_op() -> None:
    filled = pipe(*[{"random_erasing": {"p": 1, "fill": "noise"}}] * 2)
    trace: dict = {}
    for epoch in (0, 1):
        own: dict = {}
        frame = Frame(np.tile(np.array([24, 32]), (50, 1)))
        realise(filled.nodes, filled.draws(np.arange(50), epoch, own), frame)
        trace |= {(epoch, op): values["field"] for op, values in own.items()}
    keys = np.concatenate(list(trace.values()))
    assert len(trace) == 4 and len(set(keys.tolist())) == 200


def test_one_image_gets_the_sample_section_and_a_batch_the_batch_section() -> None:
    both = augpipe.load(
        {"version": 1, "sample": ["vertical_flip"], "batch": [{"horizontal_flip": {"p": 1}}]}
    )
    alone = augpipe.load({"version": 1, "sample": ["vertical_flip"]})
    assert np.array_equal(both(IMAGE, index=3), alone(IMAGE, index=3))
    stack = torch.from_numpy(IMAGE.copy()).permute(2, 0, 1)[None]
    assert torch.equal(both.batch(stack, index=[3]), stack.flip(3))


def test_an_error_says_where_the_op_stands() -> None:
    with pytest.raises(DataError, match=r"^random_crop#0: .*\(at sample\[1\]\)$"):
        pipe("rotate", {"sequence": ["invert", {"random_crop": 99}]})(IMAGE, index=0)


def test_an_option_that_is_none_gets_a_hint() -> None:
    with pytest.raises(
        UsageError, match=r"Loader has no option 'batchsize' \(did you mean 'batch_s"
    ):
        pipe("rotate").loader([IMAGE], batchsize=3)
    with pytest.raises(UsageError, match="AugmentedDataset has no option 'seed'"):
        pipe("rotate").dataset([IMAGE], seed=3)
