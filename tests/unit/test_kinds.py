"""Same kind out, for every kind that may come in."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as tv

from augpipe.backends import opencv
from augpipe.errors import DataError, UsageError
from augpipe.ir import Warp
from augpipe.kinds import unpack
from augpipe.targets import Ending, Sample, move_outlines, move_points
from augpipe.types import Frame, Sampling

H, W = 12, 17
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)


def carried(sample, matrix, size=None):
    """A sample through one warp, as a pipeline would do it."""
    frame = Frame(np.array([sample.image.shape[:2]], np.int64))
    size = None if size is None else np.array([size], np.int64)
    meaning = Warp.of(np.asarray(matrix, float)[None], frame, size, Sampling())
    return Sample(
        opencv.render(meaning, 0, sample.image),
        [opencv.render_mask(meaning, 0, mask) for mask in sample.masks],
        [move_points(meaning, 0, each) for each in sample.points],
        [move_outlines(meaning, 0, each) for each in sample.boxes],
    )


MIRROR = [[-1, 0, W], [0, 1, 0], [0, 0, 1]]
LEFT = [[1, 0, 8], [0, 1, 0], [0, 0, 1]]  # everything moves left by 8 pixels


def mirrored(item, names=None, **rules):
    packed = unpack(item, names)
    return packed.repack(carried(packed.sample, MIRROR), **rules)


def unchanged(item, names=None):
    packed = unpack(item, names)
    return packed.repack(packed.sample)


def moved_left(item, names=None, **rules):
    packed = unpack(item, names)
    return packed.repack(carried(packed.sample, LEFT), Ending(**rules))


def plain(value):
    if isinstance(value, torch.Tensor):
        return value.float().numpy()
    return np.asarray(value).astype(float)


# Images


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(H, W), (H, W, 1), (H, W, 3), (H, W, 4), (H, W, 7)])
def test_array(dtype, shape):
    image = RNG.integers(0, 256, shape, dtype=np.uint8)
    image = image if dtype == "uint8" else (image / 255).astype(dtype)
    before = image.copy()
    out = mirrored(image)
    assert type(out) is np.ndarray
    assert out.dtype == dtype
    np.testing.assert_allclose(out, image[:, ::-1], atol=0 if dtype == "uint8" else 1e-3)
    np.testing.assert_array_equal(image, before)
    assert out.flags.c_contiguous
    assert out.flags.writeable


@pytest.mark.parametrize("dtype", ["uint8", "float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(H, W), (1, H, W), (3, H, W)])
@pytest.mark.parametrize("wrap", [torch.Tensor, tv_tensors.Image])
def test_tensor(dtype, shape, wrap):
    image = torch.from_numpy(RNG.integers(0, 256, shape, dtype=np.uint8))
    image = image if dtype == "uint8" else (image / 255).to(getattr(torch, dtype))
    if wrap is tv_tensors.Image:
        image = wrap(image)
    out = mirrored(image)
    assert type(out) is type(image)
    assert out.dtype == image.dtype
    assert out.shape == image.shape
    np.testing.assert_allclose(plain(out), plain(tv.horizontal_flip(image)), atol=4e-3)
    if dtype in ("uint8", "float32"):
        np.testing.assert_allclose(plain(out), plain(tv.horizontal_flip(image)), atol=1e-6)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_pil(mode):
    image = Image.fromarray(PIXELS).convert(mode)
    out = mirrored(image)
    assert isinstance(out, Image.Image)
    assert out.mode == mode
    np.testing.assert_array_equal(out, np.asarray(image)[:, ::-1])


def test_pil_modes_become_those_of_the_decoder():
    rgb = Image.fromarray(PIXELS)
    clear = rgb.quantize(8)
    clear.info["transparency"] = 0
    deep = Image.fromarray(np.array([[0, 128, 257, 65535]], np.uint16))
    for image, mode in (
        (rgb.convert("1"), "L"),
        (rgb.quantize(8), "RGB"),
        (clear, "RGBA"),
        (rgb.convert("LA"), "RGBA"),
        (rgb.convert("CMYK"), "RGB"),
        (rgb.convert("YCbCr"), "RGB"),
        (deep, "L"),
    ):
        assert unchanged(image).mode == mode
    np.testing.assert_array_equal(np.asarray(unchanged(deep)), [[0, 0, 1, 255]])
    np.testing.assert_array_equal(unchanged(rgb.quantize(8)), rgb.quantize(8).convert("RGB"))
    for mode in ("I", "F"):
        with pytest.raises(DataError, match="range"):
            unpack(rgb.convert(mode))


def test_float_is_clipped_and_levels_are_exact():
    image = np.array([[-0.1, 0.0, 0.25, 1.0, 1.2]])
    np.testing.assert_allclose(unchanged(image), [[0, 0, 0.25, 1, 1]], atol=1e-7)
    levels = np.arange(256, dtype=np.uint8)[None]
    assert unpack(levels).sample.image.dtype == np.uint8
    inside = unpack((levels / np.float32(255)).astype(np.float32)).sample.image
    assert inside.dtype == np.float32
    np.testing.assert_allclose(inside[0, :, 0], levels[0], atol=1e-4)
    packed = unpack(levels)
    overshot = np.linspace(-20, 300, 256, dtype=np.float32)[None, :, None]
    out = packed.repack(Sample(overshot))
    assert out.dtype == np.uint8
    assert out[0, [0, -1]].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((H,), np.uint8), r"image: .*\(12,\).*expected \(H, W\) or \(H, W, C\)"),
        (np.zeros((2, 3, H, W), np.uint8), "one by one"),
        (torch.zeros(2, 3, H, W), r"\(C, H, W\)"),
        (np.zeros((0, W, 3), np.uint8), "empty"),
        (np.zeros((H, W, 0), np.uint8), "empty"),
        (torch.zeros(3, H, 0), "empty"),
        (Image.new("L", (0, 3)), "empty"),
        (np.zeros((H, W), np.int64), "int64"),
        (np.zeros((H, W), bool), "bool"),
        (torch.zeros(3, H, W, dtype=torch.int32), "int32"),
        (np.full((H, W), np.nan), "not finite"),
        (np.full((H, W), np.inf), "not finite"),
        (np.full((H, W), 200.0), "from 200 to 200"),
        (torch.full((3, H, W), -2.0), "from -2"),
        ("photo.jpg", "str is not an image"),
        (None, "NoneType"),
        ({"label": 3}, "no image"),
        ({"image": "photo.jpg"}, "no image"),
        ((), "no image"),
        ({"image": PIXELS, "other": tv_tensors.Image(torch.zeros(3, H, W))}, "other: a second"),
        ((PIXELS, {"image": PIXELS}), r"item\[1\].image: a second image"),
        ((PIXELS, tv_tensors.Video(torch.zeros(2, 3, H, W))), r"item\[1\]: videos"),
    ],
)
def test_refused(image, says):
    with pytest.raises(DataError, match=says):
        unpack(image)


@pytest.mark.parametrize(
    "item",
    [
        PIXELS[:, :, :1],
        PIXELS[:, :, 0],
        PIXELS,
        PIXELS[:, ::-1],
        (PIXELS / 255).astype(np.float32),
        torch.from_numpy(PIXELS[:, :, 0].copy()),
        torch.from_numpy(PIXELS[:, :, :1].copy()).permute(2, 0, 1),
        torch.from_numpy(PIXELS.copy()).permute(2, 0, 1),
    ],
)
def test_an_untouched_image_is_a_copy(item):
    packed = unpack({"image": item, "mask": item, "boxes": np.zeros((1, 4)), "labels": [1]})
    one, two = packed.repack(packed.sample), packed.repack(packed.sample)
    for key in ("image", "mask"):
        before = plain(item).copy()
        np.testing.assert_array_equal(plain(one[key]), before)
        one[key][...] = 0
        np.testing.assert_array_equal(plain(item), before)
        np.testing.assert_array_equal(plain(two[key]), before)


def test_read_only_arrays_are_taken():
    image = PIXELS.copy()
    image.flags.writeable = False
    unchanged(image)[0] = 0
    unchanged(Image.fromarray(image))


def test_normalized():
    values = np.linspace(-2, 2, H * W * 3, dtype=np.float32).reshape(H, W, 3)
    done = Sample(values, normalized=True)
    out = unpack(PIXELS).repack(done)
    assert out.dtype == np.float32
    np.testing.assert_array_equal(out, values)
    chw = values.transpose(2, 0, 1)
    tensor = torch.from_numpy(PIXELS).permute(2, 0, 1)
    for item in (tensor, tv_tensors.Image(tensor), tensor.half() / 255, Image.fromarray(PIXELS)):
        out = unpack(item).repack(done)
        assert isinstance(out, torch.Tensor)
        assert out.dtype == torch.float32
        np.testing.assert_array_equal(out.numpy(), chw)
    grey = Sample(values[:, :, :1], normalized=True)
    assert unpack(Image.new("L", (W, H))).repack(grey).shape == (1, H, W)


# Masks


@pytest.mark.parametrize(
    "dtype", ["bool", "uint8", "int8", "uint16", "int16", "int32", "uint32", "int64", "uint64"]
)
@pytest.mark.parametrize("shape", [(H, W), (H, W, 2)])
def test_mask_array(dtype, shape):
    top = {"bool": 2, "uint8": 256, "int8": 128}.get(dtype, 30000)
    mask = RNG.integers(0, top, shape).astype(dtype)
    if np.dtype(dtype).itemsize > 2:
        mask[0, 0] = 2**31 - 1
    if np.dtype(dtype).kind == "i":
        mask[1, 1] = -100
    out = mirrored({"image": PIXELS, "mask": mask})["mask"]
    assert out.dtype == dtype
    np.testing.assert_array_equal(out, mask[:, ::-1])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(H, W), (1, H, W), (3, H, W)])
def test_mask_tensor(dtype, shape):
    mask = torch.from_numpy(RNG.integers(0, 2, shape)).to(getattr(torch, dtype))
    for item in (mask, tv_tensors.Mask(mask)):
        out = mirrored({"image": PIXELS, "mask": item})["mask"]
        assert type(out) is type(item)
        assert out.dtype == mask.dtype
        np.testing.assert_array_equal(plain(out), plain(mask.flip(-1)))


def test_int64_mask_takes_any_class_as_fill():
    packed = unpack({"image": PIXELS, "mask": np.zeros((H, W), np.int64)})
    frame = Frame(np.array([[H, W]]))
    meaning = Warp.of(np.array([LEFT], float), frame, None, Sampling(mask_fill=65535))
    mask = opencv.render_mask(meaning, 0, packed.sample.masks[0])
    out = packed.repack(Sample(packed.sample.image, [mask]))["mask"]
    assert set(np.unique(out)) == {0, 65535}


def test_mask_pil():
    classes = RNG.integers(0, 7, (H, W), dtype=np.uint8)
    palette = Image.fromarray(classes)
    palette.putpalette([9, 8, 7, 100, 0, 0, 0, 100, 0, 0, 0, 100, 5, 5, 5, 6, 6, 6, 7, 7, 7])
    assert palette.mode == "P"
    deep = Image.fromarray(classes.astype(np.uint16) * 900)
    bits = Image.fromarray(classes > 3)
    for mask in (palette, deep, bits, Image.fromarray(classes)):
        out = mirrored({"image": Image.fromarray(PIXELS), "mask": mask})["mask"]
        assert out.mode == mask.mode
        np.testing.assert_array_equal(out, np.asarray(mask)[:, ::-1])
        if mask.mode == "P":
            assert out.getpalette()[:21] == mask.getpalette()[:21]
            np.testing.assert_array_equal(
                out.convert("RGB"), np.asarray(mask.convert("RGB"))[:, ::-1]
            )
    with pytest.raises(DataError, match="mode RGB"):
        unpack({"image": PIXELS, "mask": Image.fromarray(PIXELS)})


def test_mask_refused():
    for mask, says in (
        (np.zeros((H, W + 1), np.uint8), "mask: is for 12 x 18 pixels, but the image has 12 x 17"),
        (np.zeros((H, W), complex), "complex"),
        (np.full((H, W), 2**60), "2\\*\\*53"),
        (np.zeros(H), "expected"),
    ):
        with pytest.raises(DataError, match=says):
            unpack({"mask": mask, "image": PIXELS})


# Boxes, keypoints and what belongs to them

BOXES = np.array([[9.0, 2, 15, 8], [0, 0, 6, 6], [10, 1, 17, 12]])  # the second leaves to the left
LEFT_BOXES = [[1, 2, 7, 8], [2, 1, 9, 12]]


@pytest.mark.parametrize("kind", ["array", "tensor", "list", "tuples", "ints"])
def test_boxes_same_kind(kind):
    boxes = {
        "array": BOXES.astype(np.float32),
        "tensor": torch.from_numpy(BOXES).float(),
        "list": BOXES.tolist(),
        "tuples": [tuple(row) for row in BOXES.tolist()],
        "ints": torch.from_numpy(BOXES).long(),
    }[kind]
    out = moved_left({"image": PIXELS, "bboxes": boxes})["bboxes"]
    assert type(out) is type(boxes)
    assert type(out[0]) is type(boxes[0])
    if kind in ("array", "tensor", "ints"):
        assert out.dtype == boxes.dtype
    np.testing.assert_allclose(plain(out), LEFT_BOXES)


def test_further_columns_stay_with_their_box():
    boxes = np.concatenate([BOXES, [[7.0], [8.0], [9.0]]], axis=1)
    out = moved_left({"image": PIXELS, "boxes": boxes})["boxes"]
    np.testing.assert_allclose(out, np.concatenate([LEFT_BOXES, [[7], [9]]], axis=1))


def test_one_item_makes_many():
    packed = unpack({"image": PIXELS, "keypoints": [[3.0, 4, 2], [12, 5, 1]], "boxes": BOXES})
    left = packed.repack(carried(packed.sample, LEFT))
    assert left["keypoints"] == [[-5, 4, 0], [4, 5, 1]]
    mirror = packed.repack(carried(packed.sample, MIRROR))
    assert mirror["keypoints"] == [[13, 4, 2], [4, 5, 1]]
    assert len(mirror["boxes"]) == 3


@pytest.mark.parametrize("layout", ["XYXY", "XYWH", "CXCYWH"])
def test_tv_boxes(layout):
    start = tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=(H, W))
    boxes = tv.convert_bounding_box_format(start, new_format=layout)
    out = mirrored((tv_tensors.Image(torch.zeros(3, H, W)), boxes))[1]
    want = tv.horizontal_flip(boxes)
    assert isinstance(out, tv_tensors.BoundingBoxes)
    assert out.format == want.format
    np.testing.assert_allclose(plain(out), plain(want), atol=1e-9)
    packed = unpack((PIXELS, boxes))
    out = packed.repack(carried(packed.sample, np.diag([W / 30, H / 20, 1]), (20, 30)))[1]
    want = tv.resize(boxes, [20, 30])
    assert out.canvas_size == want.canvas_size == (20, 30)
    np.testing.assert_allclose(plain(out), plain(want), atol=1e-5)


def test_boxes_refused():
    elsewhere = tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=(H, H))
    for boxes, says in (
        (elsewhere, "12 x 12"),
        (np.zeros((3, 3)), r"\(3, 3\)"),
        (np.array([[0, 0, 1, 1], [0, 0, np.nan, 1]]), r"target.boxes\[1\]"),
        ([[5, 5, 1, 1]], r"boxes\[0\].*x1 < x0"),
        ([[1, 2, 3, "cat"]], "numbers"),
        ([[1, 2, 3, 4], [1]], "numbers"),
    ):
        with pytest.raises(DataError, match=says):
            unpack({"image": PIXELS, "target": {"boxes": boxes}})
    with pytest.raises(DataError, match="second set"):
        unpack({"image": PIXELS, "boxes": BOXES, "bboxes": BOXES})


@pytest.mark.parametrize("boxes", [np.zeros((0, 4)), np.zeros(0), torch.zeros(0, 4), []])
def test_no_boxes(boxes):
    item = {"image": PIXELS, "boxes": boxes, "labels": [], "masks": np.zeros((0, H, W), np.uint8)}
    out = moved_left(item)
    assert type(out["boxes"]) is type(boxes)
    assert len(out["boxes"]) == 0
    assert out["masks"].shape == (0, H, W)


def test_what_belongs_to_boxes_goes_with_them():
    masks = np.zeros((3, H, W), bool)
    for k, (x0, y0, x1, y1) in enumerate(BOXES.astype(int)):
        masks[k, y0:y1, x0:x1] = True
    target = {
        "boxes": tv_tensors.BoundingBoxes(BOXES, format="XYXY", canvas_size=(H, W)),
        "masks": tv_tensors.Mask(masks),
        "labels": torch.tensor([4, 5, 6]),
        "scores": np.array([0.4, 0.5, 0.6]),
        "area": (1.0, 2.0, 3.0),
        "iscrowd": [0, 1, 0],
        "box_colour": np.array([["r"], ["g"], ["b"]]),
        "keypoints": torch.arange(27.0).reshape(3, 3, 3),
        "image_id": 3,
        "names": ["a", "b", "c"],
    }
    image, out = moved_left((Image.fromarray(PIXELS), target))
    assert isinstance(image, Image.Image)
    assert list(out) == list(target)
    np.testing.assert_allclose(plain(out["boxes"]), LEFT_BOXES)
    assert out["labels"].tolist() == [4, 6]
    assert out["scores"].tolist() == [0.4, 0.6]
    assert out["area"] == (1.0, 3.0)
    assert out["iscrowd"] == [0, 0]
    assert out["box_colour"].tolist() == [["r"], ["b"]]
    assert out["names"] is target["names"]
    assert out["image_id"] == 3
    assert out["keypoints"].shape == (2, 3, 3)
    assert out["keypoints"][0, 0].tolist() == [-8.0, 1.0, 0.0]
    assert out["masks"].dtype == torch.bool
    assert out["masks"].shape == (2, H, W)
    for mask, (x0, y0, x1, y1) in zip(out["masks"].numpy(), LEFT_BOXES, strict=True):
        assert mask[y0:y1, x0:x1].all()
        assert mask.sum() == (y1 - y0) * (x1 - x0)
    assert target["labels"].tolist() == [4, 5, 6]
    assert moved_left((PIXELS, target), min_area=40)[1]["labels"].tolist() == [6]


def test_fields_of_another_length_and_elsewhere_stay():
    item = {
        "image": PIXELS,
        "labels": [1, 2, 3],
        "target": {"boxes": BOXES, "ids": [1, 2], "masks": np.zeros((2, H, W), np.uint8)},
    }
    out = moved_left(item)
    assert out["labels"] == [1, 2, 3]
    assert out["target"]["ids"] == [1, 2]
    assert out["target"]["masks"].shape == (2, H, W)


def test_labels_that_are_not_one_a_box_are_refused():
    with pytest.raises(DataError, match=r"labels.* has 2 items for 3 boxes"):
        unpack({"image": PIXELS, "boxes": BOXES, "labels": [1, 2]})


@pytest.mark.parametrize("image", [torch.zeros(30, 40, 3), np.zeros((3, 30, 40), np.uint8)])
def test_a_swapped_layout_is_refused(image):
    with pytest.raises(DataError, match="looks like"):
        unpack(image)


def test_list_of_masks_goes_with_the_boxes():
    masks = [np.full((H, W), k, np.uint8) for k in range(3)]
    out = moved_left({"masks": masks, "image": PIXELS, "boxes": BOXES})["masks"]
    assert [int(mask.max()) for mask in out] == [0, 2]
    assert len(moved_left({"masks": masks, "image": PIXELS})["masks"]) == 3


def test_keypoints():
    points = np.array([[3, 4, 2], [12, 5, 1], [np.nan, 5, 2], [16, 11, 2]], np.float32)
    out = mirrored({"image": PIXELS, "keypoints": points})["keypoints"]
    np.testing.assert_array_equal(out[[0, 1, 3]], [[13, 4, 2], [4, 5, 1], [0, 11, 2]])
    assert np.isnan(out[2, 0])
    out = moved_left({"image": PIXELS, "keypoints": points})["keypoints"]
    np.testing.assert_array_equal(out[[0, 1, 3]], [[-5, 4, 0], [4, 5, 1], [8, 11, 2]])
    assert points[0].tolist() == [3, 4, 2]
    whole = torch.tensor([[3, 4], [12, 5]])
    out = mirrored({"image": PIXELS, "keypoints": whole})["keypoints"]
    assert out.dtype == torch.int64
    assert out.tolist() == [[13, 4], [4, 5]]
    with pytest.raises(DataError, match="keypoints: infinite"):
        unpack({"image": PIXELS, "keypoints": [[np.inf, 1.0]]})
    with pytest.raises(DataError, match="keypoints of shape"):
        unpack({"image": PIXELS, "keypoints": [1.0, 2.0]})


def test_a_keypoint_is_a_pixels_centre():
    image = np.zeros((H, W), np.uint8)
    image[4, 3] = 255
    packed = unpack({"image": image, "keypoints": [[3.0, 4.0]]})
    quarter = [[0, -1, W], [1, 0, 0], [0, 0, 1]]
    out = packed.repack(carried(packed.sample, quarter, (W, H)))
    (x, y), (row, column) = out["keypoints"][0], np.argwhere(out["image"])[0]
    assert (x, y) == (column, row)


@pytest.mark.parametrize("shape", [(2,), (5, 2), (3, 4, 2), (2, 3, 2, 2)])
def test_tv_keypoints(shape):
    data = torch.from_numpy(RNG.uniform(0, H, shape))
    points = tv_tensors.KeyPoints(data, canvas_size=(H, W))
    out = mirrored((PIXELS, points))[1]
    assert isinstance(out, tv_tensors.KeyPoints)
    np.testing.assert_allclose(plain(out), plain(tv.horizontal_flip(points)), atol=1e-6)
    packed = unpack((PIXELS, points))
    out = packed.repack(carried(packed.sample, np.eye(3), (5, 6)))[1]
    assert out.canvas_size == (5, 6)


# Containers


def test_bare_tuple_moves_what_has_a_class():
    label, other, pil = torch.zeros(H, W), np.ones((H, W)), Image.new("L", (3, 3))
    mask = tv_tensors.Mask(torch.arange(H * W).reshape(H, W))
    item = (PIXELS, 3, "cat", label, other, pil, mask, None, {"mask": other})
    out = mirrored(item)
    assert type(out) is tuple
    np.testing.assert_array_equal(out[0], PIXELS[:, ::-1])
    for k in (1, 2, 3, 4, 5, 7):
        assert out[k] is item[k]
    np.testing.assert_array_equal(out[6], mask.flip(-1))
    assert out[8]["mask"] is not other


def test_names_say_what_positions_are():
    mask = np.arange(H * W).reshape(H, W)
    out = moved_left(
        (PIXELS, mask, BOXES, [7, 8, 9], 5), ("image", "mask", "boxes", "labels", None)
    )
    np.testing.assert_array_equal(out[1][:, :9], mask[:, 8:])
    np.testing.assert_allclose(out[2], LEFT_BOXES)
    assert out[3:] == ([7, 9], 5)
    out = mirrored([mask, PIXELS], ("mask", "image"))
    assert type(out) is list
    np.testing.assert_array_equal(out[1], PIXELS[:, ::-1])
    for item, names in ((PIXELS, ("image",)), ((PIXELS, 1), ("image",)), ({}, ())):
        with pytest.raises(UsageError):
            unpack(item, names)


def test_kinds_of_containers():
    pair = namedtuple("pair", "image label")
    out = mirrored(pair(PIXELS, 1))
    assert type(out) is pair
    assert out.label == 1
    ordered = OrderedDict(label=1, image=PIXELS)
    out = mirrored(ordered)
    assert type(out) is OrderedDict
    assert list(out) == ["label", "image"]
    assert ordered["image"] is PIXELS
    out = mirrored(({"image": PIXELS, "deep": [{"mask": PIXELS[:, :, 0]}]}, 4))
    np.testing.assert_array_equal(out[0]["deep"][0]["mask"], PIXELS[:, ::-1, 0])
    assert out[1] == 4


def test_annotations_in_a_files_form_are_refused():
    coco = [{"bbox": [1, 2, 3, 4], "category_id": 3}]
    voc = {"annotation": {"object": [{"name": "cat", "bndbox": {"xmin": "1"}}]}}
    for target, where in ((coco, r"item\[1\]\[0\]"), (voc, r"item\[1\].annotation.object\[0\]")):
        with pytest.raises(DataError, match=f"{where}: .*wrap_dataset_for_transforms_v2"):
            unpack((Image.fromarray(PIXELS), target))


def test_gradients_and_devices_do_not_matter():
    out = mirrored(torch.rand(3, H, W, requires_grad=True))
    assert not out.requires_grad


def test_arrays_import_neither_torch_nor_pil():
    code = (
        "import sys, numpy as np; from augpipe.kinds import unpack\n"
        "p = unpack({'image': np.zeros((4, 5, 3), np.uint8), 'mask': np.zeros((4, 5), bool),"
        " 'boxes': [[0., 0, 1, 1]], 'labels': [1], 'keypoints': np.zeros((2, 2))})\n"
        "p.repack(p.sample)\n"
        "loaded = {'torch', 'torchvision', 'PIL', 'cv2'} & set(sys.modules)\n"
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
