"""The batch section as a module: what it takes and refuses, what it is keyed by, what it keeps."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.datasets import ImageFolder

import augpipe
from augpipe.batch import BatchSection
from augpipe.errors import DataError, UsageError
from tests.harness import SAMPLES, photo

WORK = [
    {"random_resized_crop": {"size": 40}},
    "horizontal_flip",
    {"rotate": {"degrees": [-20, 20], "p": 0.5}},
    {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "hue": 0.1}},
    {"gamma": {"p": 0.5}},
]


def section(*items: Any, **top: Any) -> BatchSection:
    return augpipe.load({"version": 1, "seed": 5, "batch": list(items), **top}).batch


def photos(count: int = 6, height: int = 48, width: int = 64) -> torch.Tensor:
    names = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg")
    pictures = [photo(name, height, width) for name in names]
    stack = np.stack([pictures[k % 3] for k in range(count)])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()


def test_one_line_means_the_same_in_both_sections() -> None:
    """A level apart where a pass rounds the other way; later gains make up to four of it.

    The mean is OpenCV: it reads at 32nds of a pixel.
    """
    single = augpipe.load({"version": 1, "seed": 5, "sample": WORK})
    images = photos()
    batch = section(*WORK)(images, index=range(6), epoch=2)
    for k, image in enumerate(images):
        alone = single(image, index=k, epoch=2)
        difference = (alone.to(torch.int16) - batch[k].to(torch.int16)).abs()
        assert difference.max() <= 4 and difference.float().mean() < 0.25


def test_moving_the_line_moves_no_draw() -> None:
    """Op keys count through both sections, in reading order."""
    images = photos(4)
    both = augpipe.load({"version": 1, "sample": WORK[:2], "batch": WORK[2:]})
    late = augpipe.load({"version": 1, "batch": WORK})
    half = torch.stack([both(image, index=k) for k, image in enumerate(images)])
    apart, joined = both.batch(half, index=range(4)), late.batch(images, index=range(4))
    assert (apart.float() - joined.float()).abs().mean() < 6  # read twice instead of once


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_batch_of_64_is_64_batches_of_one(dtype: torch.dtype) -> None:
    images = photos(64)
    images = images if dtype == torch.uint8 else images / 255.0
    batch = section(*WORK, {"gaussian_blur": {"p": 0.5}}, {"normalize": "imagenet"})
    whole = batch(images, index=range(64), epoch=3)
    for k in range(64):
        assert torch.equal(batch(images[k : k + 1], index=[k], epoch=3)[0], whole[k])


def test_order_does_not_matter() -> None:
    images, order = photos(), torch.tensor([3, 1, 5, 0, 2, 4])
    batch = section(*WORK)
    assert torch.equal(
        batch(images, index=torch.arange(6))[order], batch(images[order], index=order)
    )


def test_epochs_and_indices_differ() -> None:
    images, batch = photos(), section(*WORK)
    first = batch(images, index=range(6), epoch=0)
    assert not torch.equal(first, batch(images, index=range(6), epoch=1))
    assert not torch.equal(first, batch(images, index=range(6, 12), epoch=0))
    assert torch.equal(first, batch(images, index=np.arange(6), epoch=0))


def test_without_an_index_torch_seeds_it() -> None:
    images, batch = photos(), section(*WORK)
    torch.manual_seed(3)
    first, second = batch(images), batch(images)
    torch.manual_seed(3)
    assert torch.equal(batch(images), first) and not torch.equal(first, second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("end", [[], [{"normalize": "imagenet"}]], ids=["levels", "normalized"])
def test_floats_stay_what_they_are(dtype: torch.dtype, end: list[Any]) -> None:
    """To the dtype's own precision: 8 bits of bfloat16 hold a value below 4 to 2**-7."""
    batch = section(*WORK[:4], *end)
    given = (photos() / 255.0).to(dtype)
    out = batch(given, index=range(6))
    want = batch(given.float(), index=range(6))
    assert out.dtype == dtype
    step = 4.0 * torch.finfo(dtype).eps
    assert (out.float() - want).abs().max() <= max(step, 1e-6)


def test_uint8_becomes_float32_by_normalize_only() -> None:
    assert section(*WORK)(photos(), index=range(6)).dtype == torch.uint8
    assert section(*WORK, "to_float")(photos(), index=range(6)).dtype == torch.float32


@pytest.mark.parametrize("items", [WORK, ["brightness"], ["horizontal_flip", "to_float"]], ids=str)
def test_the_memory_format_is_kept(items: list[Any]) -> None:
    batch, images = section(*items), photos()
    last = images.to(memory_format=torch.channels_last)
    out = batch(last, index=range(6))
    assert out.is_contiguous(memory_format=torch.channels_last) and not out.is_contiguous()
    assert batch(images, index=range(6)).is_contiguous()
    assert torch.equal(out, batch(images, index=range(6)))


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_and_alpha(channels: int) -> None:
    images = photos()[:, :1] if channels == 1 else torch.cat([photos(), photos()[:, :1]], dim=1)
    single = augpipe.load({"version": 1, "seed": 5, "sample": WORK})
    out = section(*WORK)(images, index=range(6))
    for k, image in enumerate(images):
        alone = single(image, index=k)
        difference = (alone.to(torch.int16) - out[k].to(torch.int16)).abs()
        assert difference.max() <= 4 and difference.float().mean() < 0.25


def test_the_input_is_not_written_to() -> None:
    for images in (photos(), photos() / 255.0):
        before = images.clone()
        section(*WORK)(images, index=range(6))
        assert torch.equal(images, before)


def test_mixed_precision_does_not_change_pixels() -> None:
    batch = section({"elastic": {"amplitude": [0.05, 0.05]}}, *WORK[1:])
    want = batch(photos(), index=range(6))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(batch(photos(), index=range(6)), want)


def test_gradients_flow_through_geometry_and_colour() -> None:
    images = (photos() / 255.0).requires_grad_()
    section(*WORK)(images, index=range(6)).mean().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_an_empty_batch_and_an_empty_section() -> None:
    images = photos()
    assert torch.equal(section()(images, index=range(6)), images)
    assert section(*WORK)(images[:0], index=[]).shape[0] == 0


def test_it_is_a_module() -> None:
    batch = section(*WORK)
    assert not list(batch.parameters()) and batch.state_dict() == {}
    images = photos()
    want = batch(images, index=range(6))
    for other in (pickle.loads(pickle.dumps(batch)), copy.deepcopy(batch), batch.eval()):
        assert torch.equal(other(images, index=range(6)), want)
    assert "color_jitter" in repr(batch)


def targets() -> dict[str, Any]:
    boxes = [
        np.array([[8.0, 6.0, 30.0, 25.0], [40.0, 20.0, 60.0, 44.0]])[: k % 3] for k in range(6)
    ]
    return {
        "label": torch.arange(6),
        "boxes": [torch.from_numpy(each) for each in boxes],
        "labels": [torch.arange(len(each)) for each in boxes],
        "mask": (photos()[:, 0] > 100).to(torch.int64),
        "keypoints": [torch.tensor([[10.0, 12.0, 2.0], [50.0, 30.0, 1.0]]) for _ in range(6)],
        "name": [f"photo {k}" for k in range(6)],
    }


def test_targets_move_as_in_the_sample_section() -> None:
    """Positions to 1e-4 (a float32 table), masks but for centres on an edge between pixels."""
    single = augpipe.load({"version": 1, "seed": 5, "sample": WORK})
    given, images = targets(), photos()
    out_images, out = section(*WORK)(images, given, index=range(6))
    assert list(out) == list(given) and torch.equal(out["label"], given["label"])
    assert out["name"] == given["name"]
    for k in range(6):
        alone = single(
            {
                "image": images[k],
                **{n: given[n][k] for n in ("boxes", "labels", "mask", "keypoints")},
            },
            index=k,
        )
        assert torch.allclose(alone["boxes"], out["boxes"][k])
        assert torch.equal(alone["labels"], out["labels"][k])
        assert torch.allclose(alone["keypoints"], out["keypoints"][k])
        assert (alone["mask"] != out["mask"][k]).float().mean() < 1e-3
    assert out_images.shape == (6, 3, 40, 40)


def test_keypoints_of_a_box_leave_with_it() -> None:
    """In groups, one a box: an image's others stay, and mixing brings the partner's along."""
    boxes = [np.array([[2.0, 2, 20, 20], [40, 20, 60, 44]]), np.zeros((0, 4))] * 3
    points = [np.array([[[5.0, 6, 2], [7, 8, 2]], [[50, 30, 2], [52, 31, 2]]]),
              np.zeros((0, 2, 3))] * 3  # fmt: skip
    given = {"boxes": boxes, "keypoints": points, "label": torch.zeros(6, dtype=torch.int64)}
    _, out = section({"center_crop": [40, 40]})(photos(), given, index=range(6))
    for k in range(6):  # the crop begins at x = 12, y = 4
        assert out["keypoints"][k].shape == (len(out["boxes"][k]), 2, 3)
    assert out["boxes"][0].tolist() == [[0, 0, 8, 16], [28, 16, 40, 40]]
    assert out["keypoints"][0][1].tolist() == [[38, 26, 2], [40, 27, 0]]
    _, mixed = section({"mixup": {"mode": "element", "alpha": 100.0}}, classes=2)(
        photos(), given, index=range(6)
    )
    assert sum(map(len, mixed["boxes"])) == 12
    for k in range(6):
        assert mixed["keypoints"][k].shape == (len(mixed["boxes"][k]), 2, 3)


def test_a_list_of_dicts_stays_one() -> None:
    given = targets()
    masks = [
        torch.stack([given["mask"][k] > 0] * len(given["boxes"][k]))
        if len(given["boxes"][k])
        else torch.zeros(0, 48, 64, dtype=torch.bool)
        for k in range(6)
    ]
    rows = [
        {"boxes": given["boxes"][k], "labels": given["labels"][k], "masks": masks[k], "image_id": k}
        for k in range(6)
    ]
    _, out = section(*WORK)(photos(), rows, index=range(6))
    _, want = section(*WORK)(photos(), given, index=range(6))
    assert isinstance(out, list) and [row["image_id"] for row in out] == list(range(6))
    for k, row in enumerate(out):
        assert torch.equal(row["boxes"], want["boxes"][k])
        assert len(row["masks"]) == len(row["labels"]) == len(row["boxes"])
        for mask in row["masks"]:
            assert torch.equal(mask.long(), want["mask"][k])


def test_boxes_of_torchvision_keep_their_format() -> None:
    boxes = [tv_tensors.BoundingBoxes(torch.tensor([[10.0, 12.0, 20.0, 10.0]]), format="XYWH",
                                      canvas_size=(48, 64)) for _ in range(6)]  # fmt: skip
    flip = section({"horizontal_flip": {"p": 1}})
    _, out = flip(photos(), {"boxes": boxes}, index=range(6))
    assert out["boxes"][0].format.name == "XYWH"
    assert out["boxes"][0].tolist() == [[34.0, 12.0, 20.0, 10.0]]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            [torch.zeros(3, 8, 8), torch.zeros(3, 9, 8)],
            r"one size.*differ: \(3, 8, 8\), \(3, 9, 8\)",
        ),
        (torch.zeros(3, 8, 8), r"\(B, C, H, W\), got shape \(3, 8, 8\)"),
        (np.zeros((2, 3, 8, 8)), "expected a tensor"),
        ((torch.zeros(2, 3, 8, 8), torch.zeros(2)), r"write pipe.batch\(images, targets\)"),
        ({"image": torch.zeros(2, 3, 8, 8)}, "batch.pop"),
        (torch.zeros(2, 30, 40, 3), "channels come second"),
        (torch.zeros(2, 3, 0, 8), "empty images"),
        (torch.zeros(2, 0, 8, 8), "empty images"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "got torch.int64"),
        (torch.full((2, 3, 8, 8), 1.5), "must lie in 0..1, here are 1.5 to 1.5"),
        (torch.full((2, 3, 8, 8), -0.5), "must lie in 0..1"),
        (torch.full((2, 3, 8, 8), torch.nan), "here is NaN"),
        (torch.zeros(2, 2, 8, 8), r"color_jitter#0: needs grey or RGB; the image has 2 channels"),
    ],
    ids=[
        "ragged",
        "no batch",
        "array",
        "pair",
        "dict",
        "last",
        "rows",
        "channel",
        "int64",
        "above",
        "below",
        "nan",
        "channels",
    ],
)
def test_images_that_are_none(images: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        section(*WORK)(images, index=range(2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(5, dtype=torch.int64), "targets: has 5 items for 6 images"),
        (torch.zeros(6, 3, 3), r"targets: masks of \(6, 1, 3, 3\) for images of \(6, 3, 48, 64\)"),
        ({"boxes": [[[0, 0, 1, 1]]]}, "boxes: has 1 items"),
        ({"boxes": [[[5, 0, 1, 1]]] * 6}, r"boxes\[0\]\[0\]: x1 < x0"),
        ({"boxes": [torch.zeros(2, 5)] * 6}, r"boxes\[0\]: boxes of shape \(2, 5\)"),
        ({"boxes": [[[0, 0, 1, 1]]] * 6, "labels": [[1, 2]] * 6}, "has 2 items for 1 boxes"),
        ({"boxes": [[[0, 0, 1, 1]]] * 6, "scores": [1.0] * 6}, "has no items for 1 boxes"),
        ({"keypoints": [[[0.0]]] * 6}, r"keypoints\[0\]: keypoints of shape \(1, 1\)"),
        ({"mask": [np.zeros((48, 64))] * 6}, r"mask\[0\]: ndarray: expected tensors"),
        (
            {"masks": [torch.zeros(1, 48, 64), *[torch.zeros(1, 48, 64).byte()] * 5]},
            "masks of different dtypes",
        ),
        ({"masks": [torch.zeros(1, 4, 4)] * 6}, r"masks\[0\]: expected masks \(N, 48, 64\)"),
        ([{"boxes": []}] * 5 + [{}], r"targets\[5\]: needs the keys"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_targets_that_are_none(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        section(*WORK)(photos(), given, index=range(6))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cat", "targets: str cannot be mixed"),
        (torch.zeros(6), r"targets: torch.float32 \(6,\) cannot be mixed"),
        ({"label": ["a"] * 6}, "label: list cannot be mixed"),
        (torch.zeros(6, 1), "rows of 1 numbers for 4 classes"),
        (torch.full((6,), 4), "classes are 0 to 3, here are 4 to 4"),
        (torch.full((6,), -1), "-1 stands for no class"),
        (torch.full((6, 4), 1.5), "shares from 0 to 1"),
    ],
    ids=["string", "floats", "names", "width", "above", "none", "shares"],
)
def test_labels_that_cannot_be_mixed(given: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        section("mixup", classes=4)(photos(), given, index=range(6))


def test_what_is_not_mixed_passes_through() -> None:
    """Whatever a DataLoader makes of targets: the recipe has no say over it."""
    flip = section("horizontal_flip")
    for given in ("cat", torch.zeros(6), ["a"] * 6, (torch.zeros(6), 3), torch.zeros(6, 2) > 0):
        assert flip(photos(), given, index=range(6))[1] is given
    rows = {"label": torch.zeros(6), "name": ["a"] * 6}
    assert flip(photos(), rows, index=range(6))[1] == rows


def test_booleans_are_multi_label_rows() -> None:
    rows = torch.eye(6, dtype=torch.bool)
    _, out = section("mixup")(photos(), rows, index=range(6))
    assert out.dtype == torch.float32 and torch.allclose(out.sum(1), torch.ones(6))


def test_a_list_of_images_of_one_size_is_a_batch() -> None:
    want = section(*WORK)(photos(), index=range(6))
    assert torch.equal(section(*WORK)(list(photos()), index=range(6)), want)


def test_tensors_of_boxes_keep_what_hangs_on_them() -> None:
    """As default_collate makes them where images have equally many boxes."""
    boxes = torch.tensor([[[2.0, 2, 20, 20], [40, 20, 60, 44]]] * 6)
    given = {"boxes": boxes, "labels": torch.arange(12).view(6, 2), "area": torch.ones(6, 2),
             "masks": torch.ones(6, 2, 48, 64, dtype=torch.uint8)}  # fmt: skip
    apart = {key: list(value) for key, value in given.items()}
    for item in ({"center_crop": [40, 30]}, {"center_crop": [40, 40]}):
        _, out = section(item)(photos(), given, index=range(6))
        _, want = section(item)(photos(), apart, index=range(6))
        for key, value in want.items():
            assert all(map(torch.equal, out[key], value)), key
        assert len(out["boxes"][0]) == len(out["labels"][0]) == len(out["masks"][0])
    cut = section({"cutmix": {"mode": "element"}})
    _, out = cut(photos(), {k: given[k] for k in ("boxes", "labels", "masks")}, index=range(6))
    assert [*map(len, out["boxes"])] == [*map(len, out["labels"])] == [*map(len, out["masks"])]


def test_no_images_have_the_size_and_the_dtype_of_some() -> None:
    resize = section({"resize": [8, 10]}, {"normalize": "imagenet"})
    some, none = (resize(photos()[:n], index=range(n)) for n in (1, 0))
    assert none.shape == (0, *some.shape[1:]) and none.dtype == some.dtype
    floats = resize((photos() / 255.0).half()[:0], index=[])
    assert floats.dtype == torch.float16


def test_no_row_is_lost_where_an_op_cuts_the_gradient() -> None:
    """Chunks of several images each, of which some carry a gradient and some do not."""
    images = torch.rand(8, 3, 300, 300, generator=torch.Generator().manual_seed(1))
    cuts = section({"equalize": {"p": 0.5}})
    want = cuts(images, index=range(8))
    out = cuts(images.clone().requires_grad_(), index=range(8))
    assert torch.equal(out, want) and out.requires_grad


def test_nothing_handed_out_shares_memory() -> None:
    for images in (photos(), photos(64, 200, 200)):
        for items in ([], [{"horizontal_flip": {"p": 0}}], [{"mixup": {"p": 0}}]):
            out = section(*items)(images, index=range(len(images)))
            before = images.clone()
            out.fill_(7)
            assert torch.equal(images, before)


def test_an_index_is_refused_as_in_a_pipeline() -> None:
    for index, message in (
        ([-1] * 6, "an index is from 0"),
        ([0] * 5, "5 indices for 6"),
        (3, "one whole number for each"),
        ([0.5] * 6, "one whole number for each"),
    ):
        with pytest.raises(UsageError, match=message):
            section(*WORK)(photos(), index=index)
    with pytest.raises(UsageError, match="an epoch is from 0"):
        section(*WORK)(photos(), index=range(6), epoch=-1)
    with pytest.raises(UsageError, match=r"epoch 1.0: an epoch is"):
        section(*WORK)(photos(), index=range(6), epoch=1.0)  # type: ignore[arg-type]


def test_images_that_would_leave_with_different_sizes() -> None:
    with pytest.raises(DataError, match=r"^horizontal_flip#0 \+ rotate90#0: .*resize first"):
        section("horizontal_flip", {"rotate90": {"times": [0, 3]}})(photos(), index=range(6))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="the device cannot be used: "):
        section(*WORK).to("cuda")
    with pytest.raises(UsageError, match="the device cannot be used: "):
        section(*WORK).cuda()


def test_errors_name_the_op_and_its_place() -> None:
    always = {"one_of": {"ops": ["mixup", "invert"], "weights": [1, 0]}}
    both = {"version": 1, "sample": ["rotate"], "batch": ["rotate", always]}
    with pytest.raises(DataError, match=r"^mixup#0: .*\(at batch\[1\]\)$"):
        augpipe.load(both).batch(photos(), torch.arange(6), index=range(6))
    with pytest.raises(DataError, match=r"^normalize#0: the image has 1 channel, "):
        section("equalize", {"normalize": "imagenet"})(photos()[:, :1], index=range(6))


def test_the_loader_does_the_batch_section() -> None:
    items = [{"horizontal_flip": {"p": 0.5}}, "brightness"]
    late = augpipe.load({"version": 1, "batch": [*items, "to_float"]})
    early = augpipe.load({"version": 1, "sample": [*items, "to_float"]})
    pairs = [
        [batch for batch in pipe.loader(SAMPLES / "garments", batch_size=50, shuffle=True)]
        for pipe in (late, early)
    ]
    for (a, x), (b, y) in zip(*pairs, strict=True):
        assert torch.equal(x, y) and (a - b).abs().max() <= 1.01 / 255
    assert late.batch.classes == 10


def test_a_plain_data_loader_and_the_index() -> None:
    """ImageFolder, default_collate, then the batch section keyed by what the items say."""
    recipe = {"version": 1, "seed": 3, "sample": ["brightness"], "batch": ["horizontal_flip"]}
    pipe = augpipe.load(recipe)
    base = ImageFolder(SAMPLES / "garments")
    loader = DataLoader(pipe.dataset(base, with_index=True), batch_size=40)
    plain = pipe.loader(SAMPLES / "garments", batch_size=40, shuffle=False)
    for (x, y, index), (images, targets) in zip(loader, plain, strict=True):
        assert torch.equal(pipe.batch(x, y, index=index)[0], images)
        assert torch.equal(y, targets)
    assert pipe.batch.classes == 10


def test_each_loader_has_the_classes_of_its_own_dataset() -> None:
    class Few(list[Any]):
        classes = ("a", "b", "c")

    few = Few([(photos(1)[0], k % 3) for k in range(6)])
    pipe = augpipe.load({"version": 1, "batch": ["mixup"]})
    first, second = pipe.loader(few), pipe.loader(SAMPLES / "garments")
    assert next(iter(first))[1].shape[1] == 3 and next(iter(second))[1].shape[1] == 10
    with pytest.raises(UsageError, match="classes: 2, the dataset has 3"):
        augpipe.load({"version": 1, "batch": ["mixup"], "classes": 2}).loader(few)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares CUDA with CPU: no GPU here")
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_cuda_gives_what_the_cpu_gives(dtype: torch.dtype) -> None:
    """Positions in float32 with other roundings: 1e-4 pixels of at most 255 levels a pixel."""
    images = photos() if dtype == torch.uint8 else photos() / 255.0
    batch = section(*WORK)
    here, there = batch(images, index=range(6)), batch(images.cuda(), index=range(6))
    assert there.device.type == "cuda"
    difference = (here.float() - there.cpu().float()).abs()
    assert difference.max() <= (1 if dtype == torch.uint8 else 0.03 / 255)
    assert difference.mean() <= (0.01 if dtype == torch.uint8 else 1e-5)


def boxed() -> dict[str, Any]:
    """Four boxes of 20 x 12 an image, all well within it."""
    table = torch.tensor([[8.0, 6, 28, 18], [36, 6, 56, 18], [8, 28, 28, 40], [36, 28, 56, 40]])
    return {"boxes": [table.clone() for _ in range(6)]}


@pytest.mark.parametrize("rule", [{"min_visibility": 0.9}, {"min_area": 0.9 * 240}], ids=str)
def test_mixing_drops_boxes_by_the_recipe_s_rules(rule: dict[str, float]) -> None:
    """A box of which a corner is covered keeps its edges: only what mixes knows what is seen."""
    cut = {"cutmix": {"mode": "element"}}
    least, kept = 1.0, []
    for rules in ({}, {"boxes": rule}):
        batch, kept_here = section(cut, **rules), 0
        for epoch in range(4):
            _, out = batch(photos(), boxed(), index=range(6), epoch=epoch)
            weights = torch.cat(out["box_weights"])
            assert len(weights) == sum(map(len, out["boxes"]))
            least, kept_here = float(weights.min()), kept_here + len(weights)
            assert not rules or least >= 0.9 - 1e-6
        kept.append(kept_here)
    assert 0 < kept[1] < kept[0]


@pytest.mark.parametrize("later", [{"rotate": [5, 5]}, {"elastic": {"p": 1}}], ids=str)
def test_box_weights_outlive_what_moves_them(later: Any) -> None:
    cut = {"cutmix": {"mode": "element"}}
    _, before = section(cut)(photos(), boxed(), index=range(6))
    _, after = section(cut, later)(photos(), boxed(), index=range(6))
    assert min(map(min, before["box_weights"])) < 0.9
    for one, other in zip(before["box_weights"], after["box_weights"], strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(before["boxes"][0], after["boxes"][0])


def test_every_batch_on_the_cpu_is_looked_at() -> None:
    batch, good = section("mixup", classes=6), photos() / 255.0
    batch(good, torch.arange(6), index=range(6))
    bad = good.index_fill(0, torch.tensor(2), 1.5)
    with pytest.raises(DataError, match=r"must lie in 0..1, here are .* to 1.5"):
        batch(bad, torch.arange(6), index=range(6))
    with pytest.raises(DataError, match="here is NaN"):
        batch(torch.full_like(good, torch.nan), torch.arange(6), index=range(6))
    with pytest.raises(DataError, match="classes are 0 to 5, here are 1 to 6"):
        batch(good, torch.arange(6) + 1, index=range(6))


def test_a_second_set_of_boxes_is_refused() -> None:
    given = boxed()
    for second in (given["boxes"], torch.stack(given["boxes"])):
        for targets in ({**given, "bboxes": second}, {"bboxes": second, **given}):
            with pytest.raises(DataError, match="a second set of boxes beside the first"):
                section("horizontal_flip")(photos(), targets, index=range(6))
    rows = [{"boxes": each, "bboxes": each} for each in given["boxes"]]
    with pytest.raises(DataError, match="a second set of boxes beside the first"):
        section("horizontal_flip")(photos(), rows, index=range(6))
