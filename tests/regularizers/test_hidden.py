"""ISDA against NumPy and drawn features, manifold mixup against the network mixed by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from scipy import stats
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import augpipe
from augpipe.regularizers.hidden import _blocks
from augpipe.regularizers.wrapper import Regularized
from tests.regularizers.nets import LM, MLP, RESNET, TRANSFORMER, drawn, picked

N, K = 12, 5
X = drawn(N, 6)
CLASSES = picked(K, N)


def wrap(*items: Any) -> tuple[nn.Module, Regularized]:
    model = MLP.build()
    return model, augpipe.regularize(model, items)


# ISDA


def class_covariance(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of all samples, with their shares; zeros where there are none."""
    if not weights.sum():
        return np.zeros((x.shape[1], x.shape[1]))
    return np.cov(x.T, aweights=weights, bias=True)


def oracle(
    model: nn.Module, seen: list[tuple[Tensor, Tensor]], strength: float, diagonal: bool
) -> float:
    """The loss on the last of these batches, from the definition, in float64."""
    with torch.no_grad():
        parts = [model[:4](x).double().numpy() for x, _ in seen]
    shares = [F.one_hot(y, K) if y.ndim == 1 else y for _, y in seen]
    every = np.concatenate([each.double().numpy() for each in shares])
    w = model[4].weight.detach().double().numpy()
    b = model[4].bias.detach().double().numpy()
    sigma = [class_covariance(np.concatenate(parts), every[:, k]) for k in range(K)]
    sigma = [np.diag(np.diag(each)) if diagonal else each for each in sigma]
    total = 0.0
    for z, target in zip(parts[-1], shares[-1].double().numpy(), strict=True):
        for y in range(K):
            logit = np.array(
                [
                    w[j] @ z + b[j] + strength / 2 * (w[j] - w[y]) @ sigma[y] @ (w[j] - w[y])
                    for j in range(K)
                ]
            )
            total += target[y] * (np.log(np.exp(logit).sum()) - logit[y])
    return total / len(parts[-1])


def batches(kind: str) -> list[tuple[Tensor, Tensor]]:
    found = []
    for i, n in enumerate((12, 3, 30)):  # fewer samples than classes, and more
        x, y = drawn(45, 6)[i : i + n] * (i + 1), picked(K, 45)[i : i + n]
        y = y.where(y != 4, 0) if i == 0 else y  # a class that comes late
        mixed = 0.8 * F.one_hot(y, K) + 0.2 * F.one_hot(y.flip(0), K)
        found.append((x, mixed if kind == "soft" else y))
    return found


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("covariance", ["full", "diagonal"])
def test_isda_is_the_closed_form_with_the_covariances_of_all_seen(
    kind: str, covariance: str
) -> None:
    model, wrapped = wrap({"isda": {"strength": 3.0, "covariance": covariance}})
    seen = batches(kind)
    for i, (x, y) in enumerate(seen):
        expected = oracle(model, seen[: i + 1], 3.0, covariance == "diagonal")
        loss = float(wrapped.loss(wrapped(x), y).detach())
        assert loss == pytest.approx(expected, rel=2e-6)
        plain = float(wrapped.criterion(model(x), y).detach())
        assert abs(expected - plain) > 1e-3  # the term is there
    every = torch.cat([F.one_hot(y, K) if kind == "hard" else y for _, y in seen])
    effect = wrapped.effects[0]
    torch.testing.assert_close(effect.count, every.sum(0).float())
    feature = torch.cat([model[:4](x) for x, _ in seen]).detach()
    torch.testing.assert_close(effect.mean, every.float().T @ feature / effect.count[:, None])


def test_isda_bounds_the_loss_on_drawn_features() -> None:
    """With z' ~ N(z, strength Sigma_y) it is log E[1 / p_y(z')], above E[-log p_y(z')]."""
    model, wrapped = wrap({"isda": 3.0})
    loss = float(wrapped.loss(wrapped(X), CLASSES).detach())
    plain = float(F.cross_entropy(model(X), CLASSES).detach())
    drawn_loss, bound = 0.0, 0.0
    with torch.no_grad():
        for i, y in enumerate(CLASSES):
            values, vectors = torch.linalg.eigh(3.0 * wrapped.effects[0].covariance[y])
            torch.manual_seed(i)
            moves = torch.randn(100_000, 16) * values.clamp_min(0).sqrt() @ vectors.T
            each = F.cross_entropy(
                model[4](model[:4](X)[i] + moves), y.expand(100_000), reduction="none"
            )
            drawn_loss += float(each.mean()) / N
            bound += float(each.exp().mean().log()) / N
    assert plain < drawn_loss < loss
    # 4 sigma: 1 / p_y varies by about a tenth of itself, over N 1e5 draws.
    assert loss == pytest.approx(bound, abs=4 * 0.1 / (N * 1e5) ** 0.5)


def test_isda_gives_the_classifier_its_gradient() -> None:
    """Sigma is a constant: by finite differences with the estimates held."""
    model, wrapped = wrap({"isda": 2.0})
    wrapped.loss(wrapped(X), CLASSES)
    kept = copy.deepcopy(wrapped.effects[0].state_dict())

    def loss() -> Tensor:
        output = wrapped(X)
        wrapped.effects[0].kept[-1][1].clear()  # nothing to learn from it
        return wrapped.loss(output, CLASSES)

    loss().backward()
    weight, h = model[4].weight, 1e-2
    for at in ((0, 0), (3, 7)):
        ends = []
        for move in (h, -h):
            with torch.no_grad():
                weight[at] += move
                ends.append(float(loss()))
                weight[at] -= move
        # float32 losses of about 2, over a step of 0.02
        assert float(weight.grad[at]) == pytest.approx((ends[0] - ends[1]) / (2 * h), abs=1e-4)
    for name, value in wrapped.effects[0].state_dict().items():
        assert torch.equal(value, kept[name])


def test_isda_ignores_a_class_and_follows_its_schedule() -> None:
    model, wrapped = wrap({"isda": {"strength": {"start": 0.0, "end": 2.0, "steps": 1}}})
    target = CLASSES.clone()
    target[:2] = -100
    plain = F.cross_entropy(model(X), target)
    torch.testing.assert_close(wrapped.loss(wrapped(X), target), plain)
    wrapped.after_step()
    _, twin = wrap({"isda": 2.0})
    twin.loss(twin(X[2:]), CLASSES[2:])
    mine = wrapped.loss(wrapped(X), target)
    torch.testing.assert_close(mine, twin.loss(twin(X[2:]), CLASSES[2:]))
    assert wrapped.effects[0].count.sum() == 2 * (N - 2)


def test_isda_at_each_place_of_a_sequence() -> None:
    model = LM.build()
    wrapped = augpipe.regularize(model, [{"isda": {"covariance": "diagonal", "strength": 5.0}}])
    x, y = LM.inputs(), LM.targets()
    output = wrapped(x)
    loss = wrapped.loss(output, y)
    z = model.lstm(model.embedding(x))[0].reshape(-1, 8)
    flat = y.flatten()
    w = model.decoder.weight
    logit = output.movedim(1, -1).reshape(-1, 11)
    variances = torch.stack(
        [z[flat == k].var(0, correction=0) if (flat == k).any() else z[0] * 0 for k in range(11)]
    )
    more = ((w[None] - w[flat][:, None]) ** 2 * variances[flat][:, None]).sum(2)
    torch.testing.assert_close(loss, F.cross_entropy(logit + 2.5 * more.detach(), flat))


def test_isda_says_what_does_not_fit() -> None:
    say = r"^isda: .* did not run|^isda: call loss once"
    _, wrapped = wrap("isda")
    with pytest.raises(augpipe.UsageError, match=say):
        wrapped.loss(drawn(N, K), CLASSES)
    _, wrapped = wrap({"isda": {"on": "0"}})
    with pytest.raises(augpipe.UsageError, match=r"^isda: 0 saw features \(12, 6\) for logits"):
        wrapped.loss(wrapped(X), CLASSES)
    with pytest.raises(augpipe.UsageError, match="must select one layer, not 3"):
        wrap({"isda": {"on": "Linear"}})
    with pytest.raises(augpipe.UsageError, match=r"selects no linear layer \(1 is a ReLU\)"):
        wrap({"isda": {"on": "1"}})
    with pytest.raises(augpipe.UsageError, match=r"3\.9 GiB: set covariance: diagonal"):
        augpipe.regularize(nn.Linear(1024, 1000), ["isda"])


def test_isda_learns_once_where_manifold_mixup_asks_twice() -> None:
    _, wrapped = wrap("isda", "manifold_mixup")
    wrapped.loss(wrapped(X), CLASSES)
    assert float(wrapped.effects[0].count.sum()) == N


# Manifold mixup


def expected_output(model: nn.Sequential, effect: Any, x: Tensor) -> tuple[Tensor, int]:
    """Mixes by hand at the one place that was drawn; returns that place."""
    lams, perm = effect.drawn
    assert ((lams == 1) | (lams == lams.min())).all()
    places = {0: 0, 2: 1}  # before which child, at which place
    place = int((lams < 1).nonzero()) if (lams < 1).any() else 0
    for i, child in enumerate(model):
        if places.get(i) == place:
            x = lams[place] * x + (1 - lams[place]) * x[perm]
        x = child(x)
    return x, place


def test_manifold_mixup_mixes_at_one_place_and_in_the_loss() -> None:
    model, wrapped = wrap({"manifold_mixup": 1.0})
    assert [site.name for site in wrapped.effects[0].sites] == ["input", "2"]
    counts = [0, 0]
    torch.manual_seed(0)
    for _ in range(40):
        output = wrapped(X)
        lams, perm = wrapped.effects[0].drawn
        assert sorted(perm.tolist()) == list(range(N))
        wrapped.effects[0].drawn = None  # the hand's own run of the model is not to be mixed
        effect = copy.copy(wrapped.effects[0])
        effect.drawn = (lams, perm)
        expected, place = expected_output(model, effect, X)
        torch.testing.assert_close(output, expected)
        counts[place] += 1
        lam = lams.min().double()
        rows = lam * F.one_hot(CLASSES, K) + (1 - lam) * F.one_hot(CLASSES[perm], K)
        loss = wrapped.loss(output, CLASSES)
        theirs = F.cross_entropy(expected.double(), rows)
        torch.testing.assert_close(loss.double(), theirs, rtol=1e-6, atol=0)
    assert min(counts) > 8  # of 40, half each: 4 sigma are 12.6


@pytest.mark.parametrize("alpha", [0.2, 2.0])
def test_manifold_mixup_draws_from_the_beta_distribution(alpha: float) -> None:
    model = nn.Linear(2, 2)
    wrapped = augpipe.regularize(model, [{"manifold_mixup": alpha}])
    torch.manual_seed(1)
    found = []
    with torch.no_grad():
        for _ in range(4000):
            wrapped(torch.zeros(1, 2))
            found.append(float(wrapped.effects[0].drawn[0][0]))
    assert stats.kstest(found, stats.beta(alpha, alpha).cdf).pvalue > 1e-4


def test_manifold_mixup_takes_rows_and_follows_its_schedule() -> None:
    item = {"manifold_mixup": {"alpha": {"start": 1e-3, "end": 1e4, "steps": 1}}}
    _, wrapped = wrap(item)
    rows = drawn(N, K).softmax(1)
    lams = []
    for _ in range(2):
        output = wrapped(X)
        lam, perm = wrapped.effects[0].kept[-1][1]
        loss = wrapped.loss(output, rows)
        torch.testing.assert_close(
            loss, F.cross_entropy(output, lam * rows + (1 - lam) * rows[perm])
        )
        lams.append(float(lam))
        wrapped.after_step()
    assert min(lams[0], 1 - lams[0]) < 1e-6 and abs(lams[1] - 0.5) < 0.05


@pytest.mark.parametrize("at", ["input", "output"])
def test_manifold_mixup_at_named_places(at: str) -> None:
    item = {"manifold_mixup": {"on": "layer2", "at": at, "input": False}}
    model = RESNET.build()
    wrapped = augpipe.regularize(model, [item])
    seen: dict[str, Tensor] = {}
    for name in ("layer1", "layer2", "layer3"):
        module = getattr(model, name)
        module.register_forward_pre_hook(lambda m, a, n=name: seen.update({n: a[0]}))
    x = RESNET.inputs()
    wrapped(x)
    lams, perm = wrapped.effects[0].drawn
    wrapped.remove()
    mixed = dict(seen)
    model(x)
    torch.testing.assert_close(mixed["layer1"], seen["layer1"])
    first = "layer2" if at == "input" else "layer3"
    # layer2's own input is mixed after this test's hook looked, the first of the two.
    if at == "output":
        expected = lams[1] * seen[first] + (1 - lams[1]) * seen[first][perm]
        torch.testing.assert_close(mixed[first], expected)
        torch.testing.assert_close(mixed["layer2"], seen["layer2"])
    else:
        expected = lams[1] * seen[first] + (1 - lams[1]) * seen[first][perm]
        torch.testing.assert_close(mixed[first], expected)


def test_manifold_mixup_is_off_outside_a_step() -> None:
    model, wrapped = wrap("manifold_mixup")
    plain = model(X)
    torch.manual_seed(2)
    output = wrapped(X)
    wrapped.loss(output, CLASSES)
    wrapped.after_step()
    assert torch.equal(model(X), plain)
    with pytest.raises(augpipe.UsageError, match=r"^manifold_mixup: call loss once"):
        wrapped.loss(output, CLASSES)


def test_manifold_mixup_with_r_drop_before_it_mixes_both_runs_alike() -> None:
    _, wrapped = wrap({"r_drop": 7.0}, "manifold_mixup")
    torch.manual_seed(3)
    loss = wrapped.loss(wrapped(X), CLASSES)
    _, alone = wrap("manifold_mixup")
    torch.manual_seed(3)
    torch.testing.assert_close(loss, alone.loss(alone(X), CLASSES))


def test_manifold_mixup_before_r_drop_knows_which_run_drew_what() -> None:
    _, wrapped = wrap("manifold_mixup", {"r_drop": 0.0})
    torch.manual_seed(3)
    loss = wrapped.loss(wrapped(X), CLASSES)
    _, alone = wrap("manifold_mixup")
    torch.manual_seed(3)
    expected = sum(alone.loss(alone(X), CLASSES) for _ in range(2)) / 2
    torch.testing.assert_close(loss, expected)


def test_manifold_mixup_under_activation_checkpointing() -> None:
    class Checkpointed(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return torch.utils.checkpoint.checkpoint(super().forward, x, use_reentrant=False)

    grads = []
    for cls in (nn.Sequential, Checkpointed):
        model = cls(*MLP.build())
        wrapped = augpipe.regularize(model, [{"manifold_mixup": {"on": "2", "input": False}}])
        torch.manual_seed(3)
        wrapped.loss(wrapped(X), CLASSES).backward()
        grads.append([p.grad for p in model.parameters()])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_manifold_mixup_says_what_cannot_be_mixed() -> None:
    def run(model: nn.Module, x: Tensor, **fields: Any) -> None:
        wrapped = augpipe.regularize(model, [{"manifold_mixup": fields}])
        wrapped(x)

    with pytest.raises(augpipe.UsageError, match="'lstm' gives no tensor of floats"):
        run(LM.build(), LM.inputs(), on="lstm", at="output")
    with pytest.raises(augpipe.UsageError, match="'embedding' gives no tensor of floats"):
        run(LM.build(), LM.inputs(), on="embedding")
    with pytest.raises(augpipe.UsageError, match="the input holds integers"):
        run(nn.Embedding(3, 2), torch.tensor([1, 2]))
    turned = nn.Sequential(nn.Flatten(0), nn.Linear(12, 12), nn.Linear(12, 2))
    with pytest.raises(augpipe.UsageError, match=r"'1' has \(12,\), not the 3 samples first"):
        run(turned, torch.ones(3, 4), on="1")
    with pytest.raises(augpipe.UsageError, match="no block of its own accord"):
        augpipe.regularize(nn.Linear(2, 2), [{"manifold_mixup": {"input": False}}])


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (torchvision.models.resnet18, [f"layer{i}" for i in (1, 2, 3, 4)]),
        (torchvision.models.convnext_tiny, [f"features.{i}" for i in range(1, 8)]),
        (torchvision.models.swin_t, [f"features.{i}" for i in range(1, 8)]),
        (
            lambda: torchvision.models.vit_b_16(num_classes=3),
            [f"encoder.layers.encoder_layer_{i}" for i in range(12)],
        ),
        (lambda: timm.create_model("resnet10t"), [f"layer{i}" for i in (1, 2, 3, 4)]),
        (
            lambda: timm.create_model("vit_tiny_patch16_224", depth=3),
            [f"blocks.{i}" for i in range(3)],
        ),
        (LM.build, ["lstm"]),
        (TRANSFORMER.build, ["encoder.layers.1"]),
        (MLP.build, ["2"]),
        (lambda: nn.Linear(3, 3), []),
    ],
)
def test_the_blocks_of_known_models(build: Any, expected: list[str]) -> None:
    with torch.device("meta"):
        model = build()
    assert [name for name, _ in _blocks(model)] == expected


# All of them


@pytest.mark.parametrize(
    "items",
    [
        ["label_smoothing", "confidence_penalty"],
        ["isda"],
        [{"isda": {"covariance": "diagonal"}}, "r_drop", "manifold_mixup"],
        ["l2", "orthogonality", {"orthogonality": {"variant": "spectral"}}],
        ["weight_decay", "l1", "elastic_net", "group_lasso"],
    ],
)
def test_nothing_waits_for_the_device(items: list[Any]) -> None:
    """On fake CUDA tensors, reading a value or mixing in a CPU tensor raises."""
    with FakeTensorMode():
        with torch.device("cuda"):
            model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, K))
        wrapped = augpipe.regularize(model, items)
        optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
        x = torch.empty(4, 6, device="cuda")
        for target in (
            torch.empty(4, dtype=torch.int64, device="cuda"),
            torch.empty(4, K, device="cuda"),
        ):
            wrapped.loss(wrapped(x), target)
            for each in model.parameters():  # the engine's backward looks for a driver
                each.grad = torch.zeros_like(each)
            wrapped.before_step(optimizer)
            wrapped.after_step()


def test_isda_says_that_a_target_is_beyond_its_classes() -> None:
    for target in (CLASSES + 1, CLASSES - 1, torch.zeros(N, K + 2), torch.zeros(N - 1).long()):
        _, wrapped = wrap("isda")
        with pytest.raises(augpipe.UsageError, match=r"^isda: .*target"):
            wrapped.loss(wrapped(X), target)
