"""Heat maps: floats that move as pixels do, read between them, 0 outside."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv
from torchvision.transforms.v2.functional import InterpolationMode as Mode

import augpipe
from augpipe.errors import DataError

H, W = 64, 80
IMAGE = np.zeros((H, W, 3), np.uint8)
y, x = np.mgrid[:H, :W]
PEAK = np.exp(-((x - 50) ** 2 + (y - 20) ** 2) / 18.0).astype(np.float32)
WIDE = np.stack([PEAK * 300 - 40, -PEAK, np.roll(PEAK, 9, 1)])  # beyond any level


def moved(item: Any, section: str = "sample", **maps: Any) -> dict[str, Any]:
    pipe = augpipe.load({"version": 1, "seed": 3, section: [item]})
    if section == "sample":
        return pipe({"image": IMAGE, **maps}, index=0)
    images = torch.zeros((1, 3, H, W), dtype=torch.uint8)
    given = {name: torch.from_numpy(np.asarray(each))[None] for name, each in maps.items()}
    _, out = pipe.batch(images, given, index=[0], epoch=0)
    return {name: each[0].numpy() for name, each in out.items()}


@pytest.mark.parametrize("section", ["sample", "batch"])
def test_they_are_read_between_pixels(section: str) -> None:
    """torchvision's bilinear rotation, of floats, but for the border (see tests/rows)."""
    item = {"rotate": {"degrees": [25, 25], "border": "edge", "interpolation": "nearest"}}
    out = moved(item, section, heatmap=PEAK)["heatmap"]
    want = tv.rotate(torch.from_numpy(PEAK)[None], 25, Mode.BILINEAR)[0].numpy()
    assert out.dtype == np.float32 and abs(out - want).max() < 2e-3  # cv2 has 5 bits of a pixel
    nearest = moved(item, section, mask=PEAK)["mask"]
    assert abs(nearest - want).max() > 0.05


@pytest.mark.parametrize("section", ["sample", "batch"])
@pytest.mark.parametrize(
    "item",
    [
        {"horizontal_flip": {"p": 1}},
        {"rotate": {"degrees": [30, 30], "fill": 99, "mask_fill": 7}},
        {"resize": [16, 20]},
        {"elastic": {"fill": 99}},
        {"random_resized_crop": {"size": [50, 60]}},
    ],
    ids=lambda item: next(iter(item)),
)
def test_values_are_their_own_and_nothing_is_outside(section: str, item: Any) -> None:
    """Each map moves alone as all of them; neither clipped nor rounded; the fill is 0."""
    out = moved(item, section, heatmaps=WIDE)["heatmaps"]
    for one, whole in zip(WIDE, out, strict=True):
        alone = moved(item, section, heatmap=one)["heatmap"]
        assert np.allclose(alone, whole, atol=1e-4)
    assert out.min() < -20 and out.max() > 150
    ones = moved(item, section, heatmap=np.ones((H, W), np.float32))["heatmap"]
    assert ones.min() >= -1e-6 and ones.max() <= 1 + 1e-6


def test_both_sections_agree() -> None:
    for item in ({"rotate": {"degrees": [30, 30]}}, {"resize": [16, 20]}, "grid_distortion"):
        one, other = (moved(item, s, heatmap=PEAK)["heatmap"] for s in ("sample", "batch"))
        assert abs(one - other).max() < 0.03  # of 1: cv2 has 5 bits of a pixel


def test_shrinking_averages_first() -> None:
    dots = np.zeros((H, W), np.float32)
    dots[::2, ::2] = 1.0
    for section in ("sample", "batch"):
        out = moved({"resize": [16, 20]}, section, heatmap=dots)["heatmap"]
        assert np.allclose(out, 0.25, atol=1e-5)


def test_kinds_come_back() -> None:
    given = {
        "heatmap": torch.from_numpy(PEAK).double(),
        "heatmaps": [PEAK.astype(np.float16), PEAK.astype(np.float64)],
    }
    out = moved({"horizontal_flip": {"p": 1}}, **given)
    assert out["heatmap"].dtype == torch.float64
    assert torch.equal(out["heatmap"], given["heatmap"].flip(1))
    assert [each.dtype for each in out["heatmaps"]] == [np.float16, np.float64]
    assert np.array_equal(out["heatmaps"][0], given["heatmaps"][0][:, ::-1])


def test_mixing_blends_them() -> None:
    pipe = augpipe.load({"version": 1, "classes": 2, "batch": [{"mixup": {"alpha": 1.0, "p": 1}}]})
    images = torch.zeros((2, 3, H, W), dtype=torch.uint8)
    images[1] = 200
    maps = torch.from_numpy(np.stack([PEAK, np.zeros_like(PEAK)]))
    out, targets = pipe.batch(images, {"heatmap": maps}, index=[0, 1], epoch=0)
    share = 1 - out[0, 0, 0, 0].item() / 200
    assert 0 < share < 1
    assert torch.allclose(targets["heatmap"][0], maps[0] * share, atol=0.005)  # whole levels


def test_what_is_none_is_refused() -> None:
    with pytest.raises(DataError, match="heatmap: has dtype uint8: a heat map holds floats"):
        moved("horizontal_flip", heatmap=IMAGE[:, :, 0])
    with pytest.raises(DataError, match=r"heatmap: torch\.uint8: heat maps are tensors of floats"):
        moved("horizontal_flip", "batch", heatmap=IMAGE[:, :, 0])
    with pytest.raises(DataError, match=r"heatmaps\[0\]: str is not a heat map"):
        moved("horizontal_flip", heatmaps=["a"])
    with pytest.raises(DataError, match="heatmap: is for 5 x 5 pixels"):
        moved("horizontal_flip", heatmap=PEAK[:5, :5])
    with pytest.raises(DataError, match="moves masks by nearest, and the image has heat maps"):
        moved({"albumentations.Rotate": {"p": 1}}, heatmap=PEAK)
    out = moved({"albumentations.GaussNoise": {"p": 1}}, heatmap=PEAK)["heatmap"]
    assert np.array_equal(out, PEAK)
