"""Mixing: labels against pixels that are counted, boxes against masks, libraries as oracles."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from timm.data import mixup as timm_mixup
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import v2

import augpipe
from augpipe.errors import DataError
from augpipe.ir import Cloud, Mix
from augpipe.mixing import mix
from augpipe.ops import catalogue
from augpipe.ops import mix as ops
from augpipe.rng import Trace, normal_field
from augpipe.targets import Batch
from tests.mixes import (
    LAID,
    MODES,
    THIN,
    H,
    W,
    batch,
    colours,
    draws,
    hull,
    means,
    name,
    noise,
)

each_op = pytest.mark.parametrize("op", [*LAID, *THIN], ids=name)


def counted(images: Tensor, n: int) -> Tensor:
    """The share of each image's pixels that has each colour."""
    levels = (torch.arange(n, dtype=torch.uint8) * 30).view(1, -1, 1, 1)
    return (images[:, :1] == levels).double().mean(dim=(2, 3))


@pytest.mark.parametrize("boxed", [False, True], ids=["masks", "boxes"])
@pytest.mark.parametrize("n", [1, 2, 3, 6])
@pytest.mark.parametrize("op", LAID, ids=name)
def test_labels_are_the_areas_in_the_image(op: Any, n: int, boxed: bool) -> None:
    for seed in range(4):
        out = mix(
            means(op, range(n), seed=seed), batch(colours(n), boxes=boxed, instances=not boxed)
        )
        assert out.labels is not None
        want = counted(out.images, n)
        assert torch.allclose(want.sum(1), torch.ones(n).double()), "a colour of no image"
        # float32 shares
        assert torch.allclose(out.labels.double(), want, atol=1e-6), (out.labels, want)
        classes = out.masks["classes"]
        assert torch.equal(classes, (out.images[:, :1] // 30).long()), "a mask mixed otherwise"


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("op", THIN, ids=name)
def test_labels_are_the_shares_of_the_levels(op: Any, n: int) -> None:
    for seed in range(4):
        given = batch(colours(n).float())
        out = mix(means(op, range(n), seed=seed), given)
        assert out.labels is not None
        levels = out.labels @ (torch.arange(n) * 30.0)
        mean = out.images[:, 0].mean(dim=(1, 2))
        assert torch.allclose(mean, levels, atol=1e-3), (mean, levels)  # float32 sums
        assert torch.allclose(out.labels.sum(1), torch.ones(n))


@pytest.mark.parametrize("op", [*LAID, *THIN], ids=name)
def test_something_is_mixed(op: Any) -> None:
    given = batch(noise(6))
    out = mix(means(op, range(6)), given)
    assert not torch.equal(out.images, given.images)
    assert out.images.dtype == torch.uint8 and out.images.shape == given.images.shape


@each_op
def test_the_order_of_the_batch_changes_nothing(op: Any) -> None:
    indices, images = np.array([11, 2, 305, 47, 8, 90, 1]), noise(7)
    order = np.array([4, 0, 6, 2, 5, 1, 3])
    one = mix(means(op, indices), batch(images))
    given = batch(images[order])
    given.labels = torch.from_numpy(order)
    given.masks["classes"] = given.masks["classes"][order]
    other = mix(means(op, indices[order]), given)
    assert one.labels is not None and other.labels is not None
    assert torch.equal(one.images[order], other.images)
    assert torch.equal(one.labels[order], other.labels)
    for key in one.masks:
        assert torch.equal(one.masks[key][order], other.masks[key]), key
    assert one.boxes is not None and other.boxes is not None
    for k, row in enumerate(order.tolist()):
        assert np.array_equal(one.boxes[row].weight, other.boxes[k].weight)
        origin = other.boxes[k].origin.copy()
        origin[:, 0] = order[origin[:, 0]]
        assert np.array_equal(one.boxes[row].origin, origin)
        assert np.array_equal(hull(one, row), hull(other, k))


@each_op
def test_each_depends_on_the_set_of_indices_and_nothing_else(op: Any) -> None:
    one, again = (means(op, range(9)) for _ in range(2))
    for field in ("partner", "matrix", "box", "opacity"):
        assert np.array_equal(getattr(one, field), getattr(again, field))
    other = means(op, range(9), seed=4)
    assert not np.array_equal(one.partner, other.partner)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8])
@pytest.mark.parametrize("mode", MODES)
def test_partners(mode: Any, n: int) -> None:
    indices = np.arange(n) * 17
    meaning = means(ops.Mixup(mode=mode), indices)
    partner, mixed = meaning.partner[:, 0], meaning.opacity[:, 0] > 0
    assert sorted(partner) == list(range(n))
    if mode == "pair":
        assert np.array_equal(partner[partner], np.arange(n))
        assert (~mixed).sum() == n % 2 and np.array_equal(mixed, partner != np.arange(n))
    else:
        assert n == 1 or (partner != np.arange(n)).all()
        walk = [0]
        for _ in range(n - 1):
            walk.append(int(partner[walk[-1]]))
        assert sorted(walk) == list(range(n)), "not one cycle"
    kept = 1.0 - meaning.opacity[:, 0]
    if mode == "batch" and n > 1:
        assert len(set(kept)) == 1
    if mode == "pair":
        assert np.array_equal(kept, kept[partner])
        assert len(set(kept[mixed])) == n // 2
    if mode == "element" and n > 1:
        assert len(set(kept)) == n


def test_partners_are_equally_likely() -> None:
    seen = np.zeros((4, 4), int)
    for seed in range(600):
        partner = means(ops.Mixup(), range(4), seed=seed).partner[:, 0]
        seen[np.arange(4), partner] += 1
    others = seen[~np.eye(4, dtype=bool)]
    assert stats.chisquare(others.reshape(4, 3), axis=1).pvalue.min() > 1e-3


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.5])
def test_shares_are_beta(alpha: float) -> None:
    trace: Trace = {}
    means(ops.Mixup(alpha=alpha, mode="element"), range(4000), trace=trace)
    kept = trace["mixup#0"]["lam"]
    assert stats.kstest(kept, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_the_lead_of_a_batch_is_unbiased() -> None:
    """Its lam is the draw of whichever image comes first: still uniform for alpha 1."""
    lams = [
        1.0 - means(ops.Mixup(alpha=1.0), range(8), seed=seed).opacity[0, 0] for seed in range(400)
    ]
    assert stats.kstest(lams, "uniform").pvalue > 1e-3


def test_mixup_is_timms() -> None:
    """With two images, the partner is timm's too: the batch turned around."""
    trace: Trace = {}
    meaning = means(ops.Mixup(alpha=0.8), [4, 9], trace=trace)
    lam = float(trace["mixup#0"]["lam"][0])
    images, target = noise(2).float(), torch.tensor([2, 0])
    out = mix(meaning, batch(images, labels=target, classes=3))
    want = timm_mixup.mixup_target(target, 3, lam)
    assert out.labels is not None
    assert torch.allclose(out.labels, want, atol=1e-6)  # float32
    assert torch.allclose(out.images, images * lam + images.flip(0) * (1 - lam), atol=1e-4)


def test_cutmix_is_torchvisions() -> None:
    meaning = means(ops.Cutmix(), [4, 9])
    x0, y0, x1, y1 = (int(v) for v in meaning.box[0, 0])
    lam = 1.0 - (x1 - x0) * (y1 - y0) / (H * W)
    images, target = noise(2), torch.tensor([2, 0])
    params = {"box": (x0, y0, x1, y1), "lam_adjusted": lam}
    theirs = v2.CutMix(num_classes=3)
    out = mix(meaning, batch(images, labels=target, classes=3))
    rows = F.one_hot(target, 3).float()
    params |= {"labels": target, "batch_size": 2}
    assert torch.equal(out.images, theirs.transform(images, params))
    assert out.labels is not None
    assert torch.allclose(out.labels, rows * lam + rows.flip(0) * (1 - lam), atol=1e-6)
    assert torch.allclose(out.labels, theirs.transform(target, params), atol=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_cutmix_draws_timms_rectangle(seed: int, monkeypatch: Any) -> None:
    op, trace = ops.Cutmix(mode="element"), Trace()
    meaning = means(op, range(5), seed=seed, trace=trace)
    centre = np.floor(draws(op, range(5), seed).uniforms("centre", 2) * (W, H)).astype(int)
    for k in range(5):
        given = iter([centre[k, 1], centre[k, 0]])
        monkeypatch.setattr(
            "timm.data.mixup.np.random.randint", lambda *a, given=given, **b: next(given)
        )
        y0, y1, x0, x1 = timm_mixup.rand_bbox((1, 3, H, W), trace["cutmix#0"]["lam"][k])
        assert meaning.box[k, 0].tolist() == [x0, y0, x1, y1]


def test_the_switch_goes_both_ways() -> None:
    trace: Trace = {}
    op = ops.MixupOrCutmix(mode="element", switch_prob=0.3)
    meaning = means(op, range(2000), trace=trace)
    cuts = trace["mixup_or_cutmix#0"]["cutmix"]
    assert abs(cuts.mean() - 0.3) < 0.04  # four standard deviations
    whole = (meaning.box[:, 0] == (0, 0, W, H)).all(axis=1)
    assert whole[~cuts].all() and (meaning.opacity[cuts, 0] == 1.0).all()
    together = means(ops.MixupOrCutmix(), range(50))
    assert len(np.unique(together.box[:, 0], axis=0)) == 1


def placed(op: Any, images: Tensor, seed: int = 3) -> tuple[Mix, Tensor]:
    n = len(images)
    meaning = means(op, range(n), (images.shape[2], images.shape[3]), seed=seed)
    return meaning, mix(meaning, Batch(images)).images


@pytest.mark.parametrize("scale", [0.25, 0.6, 0.61, 0.77, 1.0])
def test_resizemix_is_a_resized_image_in_place(scale: float) -> None:
    images = noise(3, 40, 60)
    meaning, out = placed(ops.Resizemix(scale=(scale, scale), mode="element"), images)
    for k in range(3):
        x0, y0, x1, y1 = meaning.box[k, 0].tolist()
        assert (y1 - y0, x1 - x0) == (round(40 * scale), round(60 * scale))
        partner = images[meaning.partner[k, 0], None].float()
        if scale == 0.25:  # a power of two: averages of blocks
            want = F.avg_pool2d(partner, 4)
        else:
            want = F.interpolate(partner, size=(y1 - y0, x1 - x0), mode="bilinear")
        got = out[k, :, y0:y1, x0:x1].float()
        assert (got - want[0]).abs().max() <= 0.51  # rounding, and float32 positions
        rest = out[k].clone()
        rest[:, y0:y1, x0:x1] = images[k, :, y0:y1, x0:x1]
        assert torch.equal(rest, images[k])


def test_resizemix_lies_anywhere() -> None:
    meaning = means(ops.Resizemix(scale=(0.1, 0.1), mode="element"), range(3000), (10, 20))
    x0, y0 = meaning.box[:, 0, 0], meaning.box[:, 0, 1]
    assert (x0.min(), x0.max(), y0.min(), y0.max()) == (0, 18, 0, 9)
    assert stats.chisquare(np.bincount(x0)).pvalue > 1e-3


def unrelated(*columns: Any) -> bool:
    """Whether no two of the columns (n,) are correlated, to five standard errors."""
    related = np.corrcoef(np.stack(columns)) - np.eye(len(columns))
    return bool(abs(related).max() < 5.0 / np.sqrt(len(columns[0])))


def test_resizemix_draws_size_and_places_apart() -> None:
    size = 1000
    op = ops.Resizemix(scale=(0.1, 0.5), mode="element")
    x0, y0, x1, y1 = means(op, range(5000), (size, size)).box[:, 0].T
    assert unrelated(x1 - x0, x0 / (size - (x1 - x0)), y0 / (size - (y1 - y0)))


def test_mosaic_draws_point_and_scales_apart() -> None:
    """Above 1 the scales are those of the maps: every tile is covered anyhow."""
    op = ops.Mosaic(scale=(1.0, 2.0), center=(0.0, 1.0))
    meaning = means(op, range(5000), (1000, 1000))
    x, y = meaning.box[:, 0, 2:].T
    scales = 1.0 / meaning.matrix[:, :, 0, 0].T
    assert ((scales >= 1.0 - 1e-9) & (scales <= 2.0)).all()
    assert unrelated(x, y, *scales)


def test_mosaic_puts_its_images_in_any_order() -> None:
    trace: Trace = {}
    n = 6000
    meaning = means(ops.Mosaic(), range(n), trace=trace)
    following = trace["mosaic#0"]["partner"]  # indices, here rows too
    chain = [np.arange(n)]
    for _ in range(3):
        chain.append(following[chain[-1]])
    orders = np.argmax(meaning.partner[:, :, None] == np.stack(chain, axis=1)[:, None], axis=2)
    assert (np.sort(orders, axis=1) == np.arange(4)).all()
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 24 and stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("size", [(37, 53), (30, 100)])
def test_mosaic_covers_its_tiles(size: tuple[int, int]) -> None:
    """However small the scales, no tile shows what lies beyond its image."""
    height, width = size
    op = ops.Mosaic(scale=(0.01, 0.3), center=(0.05, 0.95))
    meaning = means(op, range(200), size)
    ends = np.ones((200, 4, 2, 3))
    ends[..., 0, :2], ends[..., 1, :2] = meaning.box[..., :2], meaning.box[..., 2:]
    at = np.einsum("ntij,ntkj->ntki", meaning.matrix, ends)[..., :2]
    assert at.min() >= -1e-9 and (at <= np.array([width, height]) + 1e-9).all()
    touched = (abs(at) < 1e-9) | (abs(at - [width, height]) < 1e-9)
    assert touched.any(axis=2).all(), "no side of the image is where the point is"


def test_mosaic_joins_corners() -> None:
    """At scale 1 each tile is the corner of its image that faces the point."""
    images = noise(5)
    trace: Trace = {}
    op = ops.Mosaic(scale=(1.0, 1.0))
    meaning = means(op, range(5), trace=trace)
    out = mix(meaning, Batch(images)).images
    for k in range(5):
        x, y = (int(v) for v in trace["mosaic#0"]["point"][k])
        assert 0.25 * W - 0.5 <= x <= 0.75 * W + 0.5 and 0.25 * H - 0.5 <= y <= 0.75 * H + 0.5
        four = [images[p] for p in meaning.partner[k]]
        assert len(set(meaning.partner[k])) == 4 and k in meaning.partner[k]
        top = torch.cat([four[0][:, H - y :, W - x :], four[1][:, H - y :, : W - x]], dim=2)
        low = torch.cat([four[2][:, : H - y, W - x :], four[3][:, : H - y, : W - x]], dim=2)
        assert torch.equal(out[k], torch.cat([top, low], dim=1))


def test_mosaic_shows_whole_images_when_it_may() -> None:
    """At the smallest scale, a tile of half the sides holds all of its image."""
    op = ops.Mosaic(scale=(0.01, 0.01), center=(0.5, 0.5))
    images = noise(4, 40, 60)
    meaning, out = placed(op, images)
    want = F.avg_pool2d(images[meaning.partner[0, 3], None].float(), 2)[0]
    assert (out[0, :, 20:, 30:].float() - want).abs().max() <= 0.51  # rounding


@pytest.mark.parametrize(
    ("size", "decay"),
    [
        ((37, 53), 3.0),
        ((37, 53), 2.0),
        ((37, 53), 4.5),
        ((100, 80), 3.0),
        ((1, 9), 3.0),
        ((2, 2), 3.0),
    ],
)
def test_fmix_takes_where_the_field_is_lowest(size: tuple[int, int], decay: float) -> None:
    height, width = size
    op = ops.Fmix(mode="element", decay=decay)
    meaning = means(op, range(3), size)
    assert isinstance(meaning.region, Cloud)
    images = torch.arange(3, dtype=torch.uint8).view(-1, 1, 1, 1).expand(3, 1, *size)
    out = mix(meaning, Batch(images.contiguous())).images
    for k in range(3):
        taken = (out[k, 0] != k).numpy()
        assert taken.sum() == meaning.region.count[k]
        field = cloud_field(int(meaning.region.key[k]), height, width, decay)
        if taken.any() and not taken.all():
            # Sums of thousands of cosines in float64.
            assert field[taken].max() <= field[~taken].min() + 1e-9 * abs(field).max()


def cloud_field(key: int, height: int, width: int, decay: float) -> np.ndarray:
    """A sum of cosines, written out."""
    down = [v if v <= height // 2 - (height % 2 == 0) else v - height for v in range(height)]
    down = [v for v in down if abs(v) <= 32]
    across = range(min(width // 2, 32) + 1)
    normals = normal_field(key, len(down) * len(across) * 2).reshape(len(down), len(across), 2)
    y, x = np.mgrid[:height, :width]
    field = np.zeros((height, width))
    for i, v in enumerate(down):
        for j, u in enumerate(across):
            frequency = max(np.hypot(v / height, u / width), 1.0 / max(height, width))
            a, b = normals[i, j].astype(np.float64) / frequency**decay
            twice = 1 if u == 0 or 2 * u == width else 2  # and its mirror image
            angle = 2 * np.pi * (v * y / height + u * x / width)
            field += twice * (a * np.cos(angle) - b * np.sin(angle))
    return field


def test_a_cloud_holds_together() -> None:
    """Low frequencies: most pixels of the region have their neighbour in it."""
    images = colours(6, 96, 96)
    _, out = placed(ops.Fmix(mode="element"), images)
    for k in range(6):
        inside = (out[k, 0] != 30 * k).numpy()
        edges = (inside[:, 1:] != inside[:, :-1]).mean() + (inside[1:] != inside[:-1]).mean()
        assert edges < 0.12


@each_op
def test_what_is_gated_off_stays(op: Any) -> None:
    images = noise(6)
    on = np.array([True, False, True, True, False, False])
    for given in (images, images.float() + 0.25):
        whole = batch(given)
        out = mix(means(op, range(6)).gate(on), whole)
        assert torch.equal(out.images[~on], given[~on])
        assert out.labels is not None and out.boxes is not None and whole.boxes is not None
        assert torch.equal(out.labels[~on], torch.eye(6)[~on])
        for row in np.flatnonzero(~on):
            assert out.boxes[row] is whole.boxes[row]
            assert torch.equal(out.masks["objects"][row, :2], whole.masks["objects"][row])
            assert not out.masks["objects"][row, 2:].any()
    full, part = (
        mix(m, batch(images)) for m in (means(op, range(6)), means(op, range(6)).gate(on))
    )
    assert torch.equal(full.images[on], part.images[on])


@each_op
def test_the_input_is_untouched(op: Any) -> None:
    given = batch(noise(5))
    kept = given.images.clone(), [b.weight.copy() for b in given.boxes or ()]
    masks = {key: value.clone() for key, value in given.masks.items()}
    mix(means(op, range(5)), given)
    assert torch.equal(given.images, kept[0])
    assert all(torch.equal(given.masks[key], value) for key, value in masks.items())
    assert all(np.array_equal(b.weight, w) for b, w in zip(given.boxes or (), kept[1], strict=True))


@each_op
def test_no_images(op: Any) -> None:
    given = batch(noise(0), classes=4)
    out = mix(means(op, []), given)
    assert out.images.shape == (0, 3, H, W)
    assert out.labels is not None and out.labels.shape == (0, 4)


def test_rounds_half_to_even_once() -> None:
    images = torch.tensor([10, 11, 12, 13], dtype=torch.uint8).view(4, 1, 1, 1)
    partner = np.array([[1], [2], [3], [2]])
    eye, box = np.tile(np.eye(3), (4, 1, 1, 1)), np.tile([0, 0, 1, 1], (4, 1, 1))
    out = mix(Mix("m", partner, eye, box, np.full((4, 1), 0.5)), Batch(images)).images
    assert out.flatten().tolist() == [10, 12, 12, 12]


def test_channels_last_is_kept() -> None:
    images = noise(4).contiguous(memory_format=torch.channels_last)
    for p in (np.ones(4, bool), np.arange(4) < 2):
        out = mix(means(ops.Mixup(), range(4)).gate(p), Batch(images)).images
        assert out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("op", [ops.Mixup(), ops.Resizemix(), ops.Mosaic()], ids=name)
def test_gradients_reach_the_images(op: Any) -> None:
    images = noise(4).float().requires_grad_()
    out = mix(means(op, range(4)), Batch(images)).images
    out.sum().backward()
    assert images.grad is not None
    if isinstance(op, ops.Mixup):  # each image is seen once whole: lam here, 1 - lam there
        assert torch.allclose(images.grad, torch.ones_like(images), atol=1e-5)
    assert images.grad.abs().sum() > 0


def test_multi_label_rows_stay_in_range() -> None:
    rows = torch.from_numpy(np.random.default_rng(1).integers(0, 2, (9, 5)).astype(np.float32))
    for op in (ops.Mixup(mode="element"), ops.Cutmix(mode="element"), ops.Mosaic()):
        meaning = means(op, range(9))
        out = mix(meaning, Batch(noise(9), labels=rows)).labels
        assert out is not None and out.min() >= 0 and out.max() <= 1
        if isinstance(op, ops.Mixup):
            share = torch.from_numpy(meaning.opacity)
            want = (1 - share) * rows + share * rows[meaning.partner[:, 0]]
            assert torch.allclose(out.double(), want, atol=1e-6)  # float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rows_keep_their_dtype(dtype: torch.dtype) -> None:
    rows = torch.eye(3, dtype=dtype)
    out = mix(means(ops.Mixup(), range(3)), Batch(noise(3), labels=rows)).labels
    assert out is not None and out.dtype == dtype
    assert torch.allclose(out.sum(1), torch.ones(3, dtype=dtype), atol=1e-3)  # float16


def test_each_image_chooses_for_itself_in_a_recipe() -> None:
    choice = {"one_of": ["mixup", {"cutmix": {"p": 0.8}}]}
    pipe = augpipe.load({"version": 1, "seed": 1, "classes": 8, "batch": [choice]})
    for epoch in range(3):
        images, labels = pipe.batch(colours(8), torch.arange(8), index=range(8), epoch=epoch)
        colour = torch.arange(8) * 30.0
        mean = images.float().mean(dim=(1, 2, 3))
        assert torch.allclose(mean, labels @ colour, atol=0.51)  # mixup's levels are rounded
        mixed = (labels.amax(dim=1) < 1) & (
            images.amax(dim=(1, 2, 3)) == images.amin(dim=(1, 2, 3))
        )
        cut = images.amax(dim=(1, 2, 3)) != images.amin(dim=(1, 2, 3))
        assert mixed.any() and cut.any()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares CUDA with CPU: no GPU here")
@each_op
def test_cuda_gives_what_the_cpu_gives(op: Any) -> None:
    """Positions in float32 with other roundings: 1e-4 pixels of at most 255 levels a pixel."""
    here = batch(noise(5))
    assert here.labels is not None
    masks = {key: value.cuda() for key, value in here.masks.items()}
    there = replace(here, images=here.images.cuda(), labels=here.labels.cuda(), masks=masks)
    one, other = (mix(means(op, range(5)), each) for each in (here, there))
    assert (one.images.float() - other.images.cpu().float()).abs().max() <= 1
    assert one.labels is not None and other.labels is not None
    assert torch.allclose(one.labels, other.labels.cpu(), atol=1e-6)
    for row in range(5):
        assert np.allclose(hull(one, row), hull(other, row), atol=1.0)


def test_labels_become_rows_even_where_nothing_is_mixed() -> None:
    given = Batch(noise(2), labels=torch.tensor([1, 0]), classes=3)
    out = mix(means(ops.Mixup(), [0, 1]).gate(np.zeros(2, bool)), given)
    assert out.labels is not None
    assert out.labels.tolist() == [[0, 1, 0], [1, 0, 0]]


def test_the_number_of_classes_must_be_known() -> None:
    given = Batch(noise(2), labels=torch.tensor([1, 0]))
    with pytest.raises(DataError, match=r"cutmix#0: .*classes: N"):
        mix(means(ops.Cutmix(), [0, 1]), given)
    assert mix(means(ops.Cutmix(), [0, 1]), replace(given, labels=None)).labels is None


def test_copy_paste_needs_objects() -> None:
    with pytest.raises(DataError, match=r"copy_paste#0: .*neither boxes nor"):
        mix(means(ops.CopyPaste(), [0, 1]), Batch(noise(2)))


def test_one_image_is_left_alone() -> None:
    for op in [*LAID, *THIN]:
        given = batch(noise(1))
        out = mix(means(op, [7]), given)
        assert torch.equal(out.images, given.images)
        assert out.boxes is not None and len(out.boxes[0].weight) == 2


@pytest.mark.parametrize("op", [*LAID, *THIN], ids=name)
def test_never_looks_back_from_the_device(op: Any) -> None:
    """Fake CUDA tensors: a tensor left on the CPU, or a value asked back, raises.

    But objects cut out by their masks, with boxes: what is left of a mask decides over its box.
    """
    pastes = isinstance(op, ops.CopyPaste)
    given = batch(noise(5))
    objects = given.masks["objects"]
    with FakeTensorMode(allow_non_fake_inputs=False):
        for dtype in (torch.uint8, torch.float32):
            fake = replace(
                given,
                images=torch.empty(5, 3, H, W, dtype=dtype, device="cuda"),
                labels=torch.empty(5, dtype=torch.int64, device="cuda"),
                masks={
                    "classes": torch.empty(5, 1, H, W, dtype=torch.int64, device="cuda"),
                    "depth": torch.empty(5, 1, H, W, device="cuda"),
                    "objects": torch.empty(objects.shape, dtype=torch.uint8, device="cuda"),
                },
                boxes=None if pastes else given.boxes,
                points=None if pastes else given.points,
            )
            out = mix(means(op, range(5)).gate(np.arange(5) != 2), fake)
            assert out.images.shape == given.images.shape and out.images.device.type == "cuda"
            assert out.labels is not None and out.labels.shape == (5, 5)
            assert out.labels.device.type == "cuda"
            assert all(each.device.type == "cuda" for each in out.masks.values())
            if pastes:  # boxes alone ask for nothing
                alone = replace(fake, masks={}, instances={}, boxes=given.boxes)
                mix(means(op, range(5)), alone)


def test_every_op_that_mixes_is_counted() -> None:
    """A new one joins LAID or THIN, whose label weights are counted in pixels."""
    known = {type(op) for op in [*LAID, *THIN]}
    assert known == {cls for cls in catalogue().values() if cls.kind is Mix}
