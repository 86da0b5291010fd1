"""Label smoothing, the confidence penalty and R-Drop against torch's functions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import augpipe
from augpipe.regularizers.wrapper import Regularized
from tests.regularizers.nets import MLP, drawn, picked

N, K = 8, 5
CLASSES = picked(K, N)
SOFT = drawn(N, K).softmax(1).double()
MIXED = 0.3 * F.one_hot(CLASSES, K) + 0.7 * F.one_hot(CLASSES.roll(1), K).double()
SOME_IGNORED = CLASSES.clone().index_fill(0, torch.tensor([1, 4]), -100)
TARGETS = {"hard": CLASSES, "soft": SOFT, "mixed": MIXED, "ignored": SOME_IGNORED}
EACH_TARGET = pytest.mark.parametrize("kind", TARGETS)


def logits(*shape: int) -> Tensor:
    return (2 * drawn(*(shape or (N, K)))).double().requires_grad_()


def wrap(item: Any) -> Regularized:
    return augpipe.regularize(MLP.build(), [item])


# Label smoothing


@EACH_TARGET
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
def test_label_smoothing_is_torchs(kind: str, epsilon: float) -> None:
    ours, theirs = logits(), logits()
    wrapped = wrap({"label_smoothing": epsilon})
    a = wrapped.loss(ours, TARGETS[kind])
    b = F.cross_entropy(theirs, TARGETS[kind], label_smoothing=epsilon)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    a.backward()
    b.backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)


def test_label_smoothing_on_maps() -> None:
    target = picked(K, 3, 4, 2)
    target[0, 1] = -100
    a = wrap({"label_smoothing": 0.2}).loss(logits(3, K, 4, 2), target)
    b = F.cross_entropy(logits(3, K, 4, 2), target, label_smoothing=0.2)
    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_label_smoothing_follows_its_schedule_and_narrow_logits() -> None:
    wrapped = wrap({"label_smoothing": {"epsilon": {"start": 0.4, "end": 0.0, "steps": 2}}})
    for epsilon in (0.4, 0.2, 0.0):
        torch.testing.assert_close(
            wrapped.loss(logits().bfloat16(), CLASSES),
            F.cross_entropy(logits().bfloat16().float(), CLASSES, label_smoothing=epsilon),
        )
        wrapped.after_step()


def test_what_is_no_logits_is_an_error_by_name() -> None:
    for name in ("label_smoothing", "confidence_penalty"):
        with pytest.raises(augpipe.UsageError, match=rf"^{name} needs logits .* floats \(8,\)"):
            augpipe.regularize(MLP.build(), [name], torch.dot).loss(torch.zeros(8), torch.zeros(8))


# The confidence penalty


@EACH_TARGET
def test_the_confidence_penalty_is_the_entropy(kind: str) -> None:
    target, own = TARGETS[kind], logits()
    entropy = torch.distributions.Categorical(logits=own).entropy()
    known = target != -100 if kind == "ignored" else slice(None)
    expected = F.cross_entropy(own, target) - 0.7 * entropy[known].mean()
    actual = wrap({"confidence_penalty": 0.7}).loss(own, target)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    (a,), (b,) = (torch.autograd.grad(each, own) for each in (actual, expected))
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_the_confidence_penalty_flattens_and_follows_its_schedule() -> None:
    wrapped = wrap({"confidence_penalty": {"beta": {"start": 1.0, "end": 0.0, "steps": 1}}})
    sure = torch.tensor([[9.0, 0.0]], requires_grad=True)
    wrapped.effects[0].penalty(sure, torch.tensor([0])).backward()
    assert sure.grad is not None and sure.grad[0, 0] > 0  # descent lowers the higher logit
    wrapped.after_step()
    assert float(wrapped.loss(sure, CLASSES[:1] * 0).detach()) == float(
        F.cross_entropy(sure.detach(), CLASSES[:1] * 0)
    )


# R-Drop


def noisy(item: Any, p: float = 0.5) -> tuple[nn.Module, Regularized]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Dropout(p), nn.Linear(32, K)).double()
    return model, augpipe.regularize(model, item)


X = drawn(N, 6).double()


@EACH_TARGET
def test_r_drop_is_two_losses_and_the_symmetric_divergence(kind: str) -> None:
    target = TARGETS[kind]
    model, wrapped = noisy([{"r_drop": 0.8}])
    torch.manual_seed(4)
    a, b = model(X), model(X)
    torch.manual_seed(4)
    output = wrapped(X)
    assert torch.equal(output, a)
    p, q = (torch.distributions.Categorical(logits=each) for each in (a, b))
    kl = torch.distributions.kl_divergence(p, q) + torch.distributions.kl_divergence(q, p)
    known = target != -100 if kind == "ignored" else slice(None)
    data = (F.cross_entropy(a, target) + F.cross_entropy(b, target)) / 2
    expected = data + 0.8 * kl[known].mean() / 2
    actual = wrapped.loss(output, target)
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)
    weights = list(model.parameters())
    for mine, theirs in zip(
        torch.autograd.grad(actual, weights), torch.autograd.grad(expected, weights), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_r_drop_without_noise_is_the_plain_loss() -> None:
    model, wrapped = noisy([{"r_drop": 5.0}], p=0.0)
    assert torch.equal(wrapped.loss(wrapped(X), CLASSES), F.cross_entropy(model(X), CLASSES))


def test_r_drop_takes_one_loss_for_each_forward() -> None:
    _, wrapped = noisy(["r_drop"])
    say = r"^r_drop: call loss once after each forward"
    with pytest.raises(augpipe.UsageError, match=say):
        wrapped.loss(logits(), CLASSES)
    output = wrapped(X)
    wrapped.loss(output, CLASSES)
    with pytest.raises(augpipe.UsageError, match=say):
        wrapped.loss(output, CLASSES)
    output = wrapped(X) * 1.0  # another tensor
    wrapped.loss(output, CLASSES)
    with pytest.raises(augpipe.UsageError, match=say):
        wrapped.loss(output, CLASSES)
    wrapped.eval()
    wrapped.loss(wrapped(X), CLASSES)


def test_r_drop_knows_whose_second_output_it_is() -> None:
    """Two forwards before their losses; an output that was converted may be of either."""
    _, wrapped = noisy(["r_drop"])

    def losses(order: str) -> list[Tensor]:
        torch.manual_seed(6)
        out = []
        one, two = wrapped(X), wrapped(X.flip(0))
        if order == "turned":
            return [wrapped.loss(one.view_as(one), CLASSES), wrapped.loss(two, CLASSES.flip(0))]
        for each, target in ((one, CLASSES), (two, CLASSES.flip(0))):
            out.append(wrapped.loss(each, target))
        return out

    torch.manual_seed(6)
    apart = [wrapped.loss(wrapped(X), CLASSES), wrapped.loss(wrapped(X.flip(0)), CLASSES.flip(0))]
    for order, expected in (("plain", apart), ("turned", apart)):
        for a, b in zip(losses(order), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    wrapped(X)
    last = wrapped(X) * 1.0
    with pytest.raises(augpipe.UsageError, match="this is of none of the last"):
        wrapped.loss(last, CLASSES)


def test_a_model_can_be_copied_between_forward_and_loss() -> None:
    _, wrapped = noisy(["r_drop"])
    output = wrapped(X)
    twin = copy.deepcopy(wrapped)
    wrapped.loss(output, CLASSES)
    with pytest.raises(augpipe.UsageError, match="call loss once"):
        twin.loss(output, CLASSES)


def test_smoothing_before_r_drop_smooths_both_outputs() -> None:
    model, wrapped = noisy([{"label_smoothing": 0.2}, {"r_drop": 0.0}])
    torch.manual_seed(4)
    expected = sum(F.cross_entropy(model(X), CLASSES, label_smoothing=0.2) for _ in range(2)) / 2
    torch.manual_seed(4)
    torch.testing.assert_close(wrapped.loss(wrapped(X), CLASSES), expected)


# Criteria and targets of other kinds


WEIGHTS = torch.arange(1.0, K + 1).double()
CRITERIA = {
    "weights": {"weight": WEIGHTS},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "smoothed": {"label_smoothing": 0.2},
    "ignored": {"ignore_index": 2, "weight": WEIGHTS},
}


@pytest.mark.parametrize("name", CRITERIA)
@EACH_TARGET
def test_label_smoothing_is_torchs_with_its_criterion(name: str, kind: str) -> None:
    own, target = CRITERIA[name], TARGETS[kind]
    if "ignore_index" in own and kind != "hard":
        pytest.skip("torch takes it with classes alone; -100 would be out of range")
    wrapped = augpipe.regularize(
        MLP.build(), [{"label_smoothing": 0.3}], nn.CrossEntropyLoss(**own)
    )
    before = own.get("label_smoothing", 0.0)
    expected = F.cross_entropy(logits(), target, **{**own, "label_smoothing": 0.3 + 0.7 * before})
    torch.testing.assert_close(wrapped.loss(logits(), target), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("item", ["label_smoothing", "confidence_penalty", "r_drop", "isda"])
def test_the_ignored_class_is_the_criterions(item: str) -> None:
    losses = []
    for ignored in (-100, 255):
        criterion = nn.CrossEntropyLoss(ignore_index=ignored)
        wrapped = augpipe.regularize(MLP.build(), [item], criterion)
        target = torch.where(SOME_IGNORED == -100, ignored, SOME_IGNORED)
        losses.append(wrapped.loss(wrapped(MLP.inputs()), target))
    assert losses[0].isfinite() and torch.equal(*losses)


ON_LOGITS = pytest.mark.parametrize(
    "item", ["label_smoothing", "confidence_penalty", "r_drop", "isda"]
)


@ON_LOGITS
def test_other_criteria_are_refused_by_name(item: str) -> None:
    others = {nn.BCEWithLogitsLoss(): "BCEWithLogitsLoss", nn.MSELoss(): "MSELoss"}
    others |= {F.mse_loss: "mse_loss", nn.NLLLoss(): "NLLLoss"}
    for criterion, name in others.items():
        model = MLP.build()
        with pytest.raises(augpipe.UsageError, match=rf"^{item} is for .* the criterion is {name}"):
            augpipe.regularize(model, [item], criterion)
        assert not any(each._forward_pre_hooks for each in model.modules())
    for criterion in (nn.CrossEntropyLoss(), F.cross_entropy, lambda x, y: F.cross_entropy(x, y)):
        wrapped = augpipe.regularize(MLP.build(), [item], criterion)
        assert wrapped.loss(wrapped(MLP.inputs()), CLASSES).isfinite()


@ON_LOGITS
def test_one_column_is_refused(item: str) -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 1))
    wrapped = augpipe.regularize(model, [item], lambda output, target: output.sum())
    with pytest.raises(augpipe.UsageError, match=rf"^{item} needs logits of classes, .* one col"):
        wrapped.loss(wrapped(MLP.inputs()), CLASSES)


@pytest.mark.parametrize("target", [{"y": CLASSES}, (CLASSES, CLASSES), [CLASSES], None], ids=type)
@pytest.mark.parametrize(
    "item", ["label_smoothing", "confidence_penalty", "r_drop", "isda", "manifold_mixup"]
)
def test_targets_that_are_no_tensor_are_refused(item: str, target: Any) -> None:
    wrapped = augpipe.regularize(MLP.build(), [item], lambda output, _: output.sum())
    kind = type(target).__name__
    with pytest.raises(augpipe.UsageError, match=f"^{item} needs the target as one .* is {kind}"):
        wrapped.loss(wrapped(MLP.inputs()), target)


def test_r_drop_needs_the_tensor() -> None:
    class Says(nn.Linear):
        def forward(self, x: Tensor) -> Any:
            return {"logits": super().forward(x)}

    wrapped = augpipe.regularize(Says(6, 5), ["r_drop"])
    with pytest.raises(augpipe.UsageError, match=r"^r_drop needs logits .* output is dict"):
        wrapped(MLP.inputs())
