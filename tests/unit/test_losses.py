"""The loss and the accuracy that understand mixed targets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.data.mixup import mixup_target
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from augpipe.errors import DataError, UsageError
from augpipe.losses import accuracy, soft_cross_entropy

N, K = 7, 5
CLASSES = torch.tensor([0, 4, 2, 2, 1, 3, 0])


def logits(*shape: int) -> Tensor:
    values = np.random.default_rng(4).normal(size=shape or (N, K)) * 3
    return torch.from_numpy(values.astype(np.float32))


def mixed(lam: float = 0.7) -> Tensor:
    rows = F.one_hot(CLASSES, K).float()
    return lam * rows + (1 - lam) * rows.flip(0)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("target", [CLASSES, mixed()], ids=["classes", "rows"])
def test_is_torchs_cross_entropy(
    target: Tensor, smoothing: float, weighted: bool, reduction: Any
) -> None:
    weight = torch.linspace(0.5, 2.0, K) if weighted else None
    got = soft_cross_entropy(logits(), target, smoothing, weight, reduction)
    want = F.cross_entropy(logits(), target, weight, reduction=reduction, label_smoothing=smoothing)
    assert torch.equal(got, want)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_is_the_sum_written_out(smoothing: float) -> None:
    values, rows = logits().double().numpy(), mixed().double().numpy()
    log = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    smooth = rows * (1 - smoothing) + smoothing / K
    want = -(smooth * log).sum(axis=1).mean()
    got = float(soft_cross_entropy(logits(), mixed(), smoothing))
    assert abs(got - want) < 1e-5  # float32


def test_smoothing_composes_with_mixing() -> None:
    """timm smooths the classes and then mixes them: the same rows."""
    theirs = mixup_target(CLASSES, K, 0.7, smoothing=0.1)
    want = soft_cross_entropy(logits(), theirs)
    got = soft_cross_entropy(logits(), mixed(), label_smoothing=0.1)
    assert torch.allclose(got, want, atol=1e-6)  # float32


def test_one_hot_rows_are_classes() -> None:
    rows = F.one_hot(CLASSES, K).float()
    for smoothing in (0.0, 0.1):
        one, other = (soft_cross_entropy(logits(), t, smoothing) for t in (rows, CLASSES))
        assert torch.allclose(one, other, atol=1e-6)  # float32, summed otherwise
    assert accuracy(logits(), rows) == accuracy(logits(), CLASSES)


def test_maps_of_classes() -> None:
    values = logits(2, K, 3, 4)
    classes = torch.arange(24).reshape(2, 3, 4) % K
    classes[0, 0, 0] = -100
    got = soft_cross_entropy(values, classes)
    assert torch.equal(got, F.cross_entropy(values, classes))
    hits = (values.argmax(dim=1) == classes).sum()
    assert torch.isclose(accuracy(values, classes), hits / 23)
    rows = values.softmax(dim=1)
    assert soft_cross_entropy(values, rows, reduction="none").shape == (2, 3, 4)


def test_gradients_are_softmax_minus_target() -> None:
    values = logits().requires_grad_()
    target = mixed().requires_grad_()
    soft_cross_entropy(values, target, 0.1).backward()
    want = (values.detach().softmax(1) - (0.9 * mixed() + 0.1 / K)) / N
    assert values.grad is not None and torch.allclose(values.grad, want, atol=1e-6)  # float32
    assert target.grad is not None and target.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    loss = soft_cross_entropy(logits().to(dtype), mixed().to(dtype), 0.1)
    assert loss.dtype == torch.float32
    want = F.cross_entropy(
        logits().to(dtype).float(), mixed().to(dtype).float(), label_smoothing=0.1
    )
    assert torch.equal(loss, want)


def test_accuracy_counts_an_image_by_its_weight() -> None:
    """A hit of weight 1 and a miss of weight 1/4: 1 / 1.25."""
    logits = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.25]])
    assert float(accuracy(logits, rows)) == pytest.approx(0.8)


@pytest.mark.parametrize("topk", [1, 2, K])
def test_accuracy_of_classes(topk: int) -> None:
    order = np.argsort(-logits().numpy(), axis=1)[:, :topk]
    want = np.mean([CLASSES[k] in order[k] for k in range(N)])
    assert abs(float(accuracy(logits(), CLASSES, topk)) - want) < 1e-6  # float32


@pytest.mark.parametrize("topk", [1, 3])
@pytest.mark.parametrize("lam", [0.3, 0.5, 0.9])
def test_accuracy_of_mixed_rows_is_the_weighted_hits(lam: float, topk: int) -> None:
    one, other = (accuracy(logits(), c, topk) for c in (CLASSES, CLASSES.flip(0)))
    got = accuracy(logits(), mixed(lam), topk)
    assert torch.isclose(got, lam * one + (1 - lam) * other)


@pytest.mark.parametrize(
    ("given", "target", "message"),
    [
        (torch.zeros(3), CLASSES, "expected floats"),
        (torch.zeros(3, 4, dtype=torch.int64), CLASSES, "expected floats"),
        (logits(), CLASSES[:3], "expected classes"),
        (logits(), mixed()[:, :4], "expected classes"),
        (logits(), CLASSES.float(), "expected classes"),
        (logits(), F.one_hot(CLASSES, K), "expected classes"),
        (logits(), CLASSES > 1, "expected classes"),
        (logits(), CLASSES + 1, "classes are 0 to 4, here are 1 to 5"),
        (logits(), CLASSES - 1, "here are -1 to 3"),
        (logits(), mixed() * 2, "from 0 to 1"),
        (logits(), mixed() * torch.nan, "from 0 to 1"),
        (logits(), (mixed() > 0).float(), r"one sums to 2.*binary_cross_entropy"),
    ],
    ids=range(12),
)
def test_what_does_not_fit_is_refused(given: Tensor, target: Tensor, message: str) -> None:
    for call in (soft_cross_entropy, accuracy):
        with pytest.raises(DataError, match=message):
            call(given, target)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: soft_cross_entropy(logits(), CLASSES, 1.5), "label_smoothing"),
        (lambda: soft_cross_entropy(logits(), CLASSES, -0.1), "label_smoothing"),
        (lambda: soft_cross_entropy(logits(), CLASSES, weight=torch.ones(3)), r"expected \(5,\)"),
        (lambda: soft_cross_entropy(logits(), CLASSES, reduction="avg"), "reduction"),  # type: ignore[arg-type]
        (lambda: accuracy(logits(), CLASSES, 0), "topk must be from 1 to 5"),
        (lambda: accuracy(logits(), CLASSES, 6), "got 6"),
    ],
    ids=range(6),
)
def test_wrong_arguments_are_refused(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()


def test_no_samples() -> None:
    assert accuracy(logits()[:0], CLASSES[:0]).isnan()
    assert soft_cross_entropy(logits()[:0], mixed()[:0], reduction="sum") == 0


def test_never_looks_back_from_the_device() -> None:
    """Fake CUDA tensors: a value asked back raises."""
    with FakeTensorMode():
        values = torch.empty(N, K, device="cuda")
        for target in (torch.empty(N, K, device="cuda"), torch.empty(N, device="cuda").long()):
            assert soft_cross_entropy(values, target, 0.1).device.type == "cuda"
            assert accuracy(values, target, 2).device.type == "cuda"
