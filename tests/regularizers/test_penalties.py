"""The penalties against torch's optimizers, scikit-learn, and closed forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn import linear_model
from torch import Tensor, nn

import augpipe
from augpipe.regularizers.wrapper import Regularized
from tests.regularizers.nets import MLP, RESNET, TRANSFORMER, Net

Make = Callable[[Any], torch.optim.Optimizer]


def half_squares(output: Tensor, target: Tensor) -> Tensor:
    """1 / (2n) ||output - target||^2: scikit-learn's scale."""
    return (output - target).square().sum() / (2 * len(target))


def step(wrapped: Regularized, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    wrapped.loss(wrapped(x), y).backward()
    wrapped.before_step(optimizer)
    optimizer.step()
    wrapped.after_step()


def double(net: Net) -> tuple[nn.Module, Tensor, Tensor]:
    return net.build().double(), net.inputs().double(), net.targets()


def problem(n: int = 60, inputs: int = 12, outputs: int = 1) -> tuple[Tensor, Tensor]:
    """A linear problem of which half the inputs matter."""
    g = torch.Generator().manual_seed(7)
    x = torch.randn(n, inputs, generator=g, dtype=torch.float64)
    true = torch.randn(inputs, outputs, generator=g, dtype=torch.float64)
    true[inputs // 2 :] = 0
    return x, x @ true + 0.1 * torch.randn(n, outputs, generator=g, dtype=torch.float64)


def solved(item: Any, x: Tensor, y: Tensor, steps: int = 400) -> tuple[Tensor, Any]:
    """Proximal gradient descent on a linear model; returns its weights and the effect."""
    model = nn.Linear(x.shape[1], y.shape[1], bias=False).double()
    nn.init.ones_(model.weight)
    wrapped = augpipe.regularize(model, [item], half_squares)
    lr = float(len(x) / torch.linalg.matrix_norm(x, 2) ** 2)  # 1 / L
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=lr)
    for _ in range(steps):
        step(wrapped, optimizer, x, y)
    return model.weight.detach(), wrapped.effects[0]


# L2 and decoupled decay


def test_l2_is_the_weight_decay_of_sgd() -> None:
    (model, x, y), (plain, _, _) = double(MLP), double(MLP)
    wrapped = augpipe.regularize(model, [{"l2": 0.05}])
    ours = torch.optim.SGD(wrapped.param_groups(), lr=0.1, momentum=0.9)
    named = dict(plain.named_parameters())
    theirs = torch.optim.SGD(
        [
            {"params": [p for n, p in named.items() if "weight" in n], "weight_decay": 0.05},
            {"params": [p for n, p in named.items() if "bias" in n]},
        ],
        lr=0.1,
        momentum=0.9,
    )
    for _ in range(5):
        step(wrapped, ours, x, y)
        theirs.zero_grad()
        F.cross_entropy(plain(x), y).backward()
        theirs.step()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_l2_is_half_the_squares_and_follows_its_schedule() -> None:
    model, x, y = double(MLP)
    item = {"l2": {"strength": {"start": 1.0, "end": 0.0, "steps": 2}}}
    wrapped = augpipe.regularize(model, [item])
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.0)
    weights = [p.detach() for n, p in model.named_parameters() if "weight" in n]
    squares = float(sum(each.square().sum() for each in weights))
    for strength in (1.0, 0.5, 0.0, 0.0):
        extra = (wrapped.loss(wrapped(x), y) - F.cross_entropy(model(x), y)).detach()
        assert float(extra) == pytest.approx(strength / 2 * squares, rel=1e-9, abs=1e-12)
        step(wrapped, optimizer, x, y)


@pytest.mark.parametrize("name", ["l2", "weight_decay", "l1", "elastic_net", "group_lasso"])
def test_biases_and_normalization_are_left_alone(name: str) -> None:
    for net in (RESNET, TRANSFORMER):
        model = net.build()
        own = dict(model.named_parameters())
        sites = [site.name for site in augpipe.regularize(model, [name]).effects[0].sites]
        norms = [
            n for n, m in model.named_modules() if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm))
        ]
        assert sites == [
            n for n in own if not n.endswith("bias") and n.rpartition(".")[0] not in norms
        ]


@pytest.mark.parametrize("resume", [False, True])
def test_weight_decay_is_adamw_to_the_bit(resume: bool) -> None:
    model, plain = MLP.build(), MLP.build()
    wrapped = augpipe.regularize(model, [{"weight_decay": 0.3}])
    ours = torch.optim.Adam(wrapped.param_groups(lr=0.01))
    named = dict(plain.named_parameters())
    theirs = torch.optim.AdamW(
        [
            {"params": [p for n, p in named.items() if "weight" in n], "weight_decay": 0.3},
            {"params": [p for n, p in named.items() if "bias" in n], "weight_decay": 0.0},
        ],
        lr=0.01,
    )
    slower = [torch.optim.lr_scheduler.ExponentialLR(each, 0.7) for each in (ours, theirs)]
    for i in range(6):
        if resume and i == 3:  # another strength and rate, until the state is loaded
            saved, kept = ours.state_dict(), wrapped.run_state()
            wrapped.remove()
            wrapped = augpipe.regularize(model, [{"weight_decay": 0.9}])
            wrapped.load_run_state(kept)
            ours = torch.optim.Adam(wrapped.param_groups(lr=5.0))
            ours.load_state_dict(saved)
            slower[0].optimizer = ours
        step(wrapped, ours, MLP.inputs(), MLP.targets())
        theirs.zero_grad()
        F.cross_entropy(plain(MLP.inputs()), MLP.targets()).backward()
        theirs.step()
        for each in slower:
            each.step()
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weight_decay_makes_groups_that_do_not_decay_twice() -> None:
    model = RESNET.build()
    wrapped = augpipe.regularize(model, [{"weight_decay": 0.1}])
    # SGD's own default must not come through.
    groups = torch.optim.SGD(wrapped.param_groups(), lr=0.1, weight_decay=1.0).param_groups
    assert [group["weight_decay"] for group in groups] == [0.0, 0.0]
    assert [group.get("decoupled_decay") for group in groups] == [0.1, None]
    assert all(p.ndim > 1 for p in groups[0]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_weight_decay_follows_its_schedule_and_leaves_what_has_no_gradient() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)).double()
    item = {"weight_decay": {"strength": {"start": 0.5, "end": 0.0, "steps": 2}}}
    wrapped = augpipe.regularize(model, [item])
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
    before = [each.weight.detach().clone() for each in model]
    for _ in range(4):
        model[0].weight.grad = torch.zeros_like(model[0].weight)
        wrapped.before_step(optimizer)
        wrapped.after_step()
    torch.testing.assert_close(model[0].weight, before[0] * (1 - 0.05) * (1 - 0.025))
    assert torch.equal(model[1].weight, before[1])


def test_weight_decay_takes_a_rate_that_is_a_tensor() -> None:
    model, x, y = double(MLP)
    wrapped = augpipe.regularize(model, [{"weight_decay": 0.5}, {"l1": 0.0}])
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=torch.tensor(0.1, dtype=torch.float64))
    model[0].weight.register_hook(torch.zeros_like)
    before = model[0].weight.detach().clone()
    step(wrapped, optimizer, x, y)
    torch.testing.assert_close(model[0].weight.detach(), before * 0.95, rtol=1e-12, atol=0)


def test_weight_decay_says_what_is_wrong_with_the_groups() -> None:
    model = MLP.build()
    wrapped = augpipe.regularize(model, ["weight_decay"])
    with pytest.raises(augpipe.UsageError, match=r"weight_decay needs .*before_step"):
        wrapped.after_step()
    wrapped.before_step(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(augpipe.UsageError, match=r"^weight_decay: .*wrapped\.param_groups\(\)"):
        wrapped.after_step()
    with pytest.raises(augpipe.UsageError, match=r"weight_decay=0\.1 is given too"):
        wrapped.param_groups(weight_decay=0.1)
    wrapped.remove()
    wrapped = augpipe.regularize(model, ["weight_decay", "weight_decay"])
    with pytest.raises(augpipe.UsageError, match="another weight_decay has some"):
        wrapped.param_groups()


def test_two_weight_decays_each_have_their_own_part() -> None:
    model, x, y = double(MLP)
    items = [{"weight_decay": {"on": "0", "strength": 1}}, {"weight_decay": {"on": "2.weight"}}]
    wrapped = augpipe.regularize(model, items)
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    for each in model.parameters():
        each.register_hook(torch.zeros_like)
    step(wrapped, optimizer, x, y)
    shares = {"0.weight": 0.9, "0.bias": 0.9, "2.weight": 0.995}
    for name, each in model.named_parameters():
        torch.testing.assert_close(each.detach(), before[name] * shares.get(name, 1.0))


# L1, elastic net, group lasso


@pytest.mark.parametrize("alpha", [0.05, 0.5])
def test_l1_finds_the_lasso(alpha: float) -> None:
    x, y = problem()
    ours, effect = solved({"l1": alpha}, x, y)
    lasso = linear_model.Lasso(alpha=alpha, fit_intercept=False, tol=1e-12, max_iter=100_000)
    theirs = lasso.fit(x.numpy(), y[:, 0].numpy()).coef_
    np.testing.assert_allclose(ours[0].numpy(), theirs, atol=1e-8)
    assert ((ours[0] == 0).numpy() == (theirs == 0)).all() and (theirs == 0).any()
    assert effect.sparsity() == pytest.approx(
        {"weight": (theirs == 0).mean(), "all": (theirs == 0).mean()}
    )


@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_elastic_net_finds_scikit_learns(rho: float) -> None:
    x, y = problem()
    ours, _ = solved({"elastic_net": {"strength": 0.4, "l1_ratio": rho}}, x, y)
    if rho == 0:  # scikit-learn advises against its own solver here: ridge, in closed form
        gram = x.T @ x / len(x) + 0.4 * torch.eye(x.shape[1], dtype=x.dtype)
        theirs = torch.linalg.solve(gram, x.T @ y[:, 0] / len(x)).numpy()
    else:
        model = linear_model.ElasticNet(
            alpha=0.4, l1_ratio=rho, fit_intercept=False, tol=1e-12, max_iter=100_000
        )
        theirs = model.fit(x.numpy(), y[:, 0].numpy()).coef_
    np.testing.assert_allclose(ours[0].numpy(), theirs, atol=1e-8)


def test_group_lasso_by_columns_finds_the_multi_task_lasso() -> None:
    x, y = problem(outputs=3)
    item = {"group_lasso": {"strength": 0.3, "groups": "columns"}}
    ours, effect = solved(item, x, y)
    model = linear_model.MultiTaskLasso(
        alpha=0.3 * 3**0.5, fit_intercept=False, tol=1e-12, max_iter=100_000
    )
    theirs = model.fit(x.numpy(), y.numpy()).coef_
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-8)
    zero = (theirs == 0).all(axis=0)
    assert zero.any() and not zero.all()
    assert effect.group_sparsity()["weight"] == pytest.approx(zero.mean())
    assert effect.sparsity()["all"] == pytest.approx(zero.mean())


def test_group_lasso_by_rows_is_the_closed_form_and_optimal() -> None:
    g = torch.Generator().manual_seed(3)
    n, inputs, strength = 40, 9, 0.2
    basis = torch.linalg.qr(torch.randn(n, inputs, generator=g, dtype=torch.float64))[0]
    x = basis * n**0.5  # X^T X = n I: block soft threshold of least squares
    true = torch.randn(inputs, 4, generator=g, dtype=torch.float64) * torch.tensor([2, 1, 0.1, 0])
    y = x @ true
    ours, effect = solved({"group_lasso": strength}, x, y)
    least = (x.T @ y / n).T
    norms = least.norm(dim=1, keepdim=True)
    pull = strength * inputs**0.5
    torch.testing.assert_close(ours, least * (1 - pull / norms.clamp_min(1e-9)).clamp_min(0))
    gradient = ours - least
    for row, slope in zip(ours, gradient, strict=True):  # Karush, Kuhn and Tucker
        if row.any():
            torch.testing.assert_close(slope, -pull * row / row.norm())
        else:
            assert slope.norm() <= pull
    assert effect.group_sparsity()["all"] == 0.5


def test_group_lasso_takes_whole_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        model[0].weight[1] *= 1e-3
    wrapped = augpipe.regularize(model, [{"group_lasso": {"on": "0.weight", "strength": 0.1}}])
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
    for each in model.parameters():
        each.register_hook(torch.zeros_like)
    before = model[0].weight.detach().clone()
    step(wrapped, optimizer, torch.ones(2, 3, 4, 4), torch.tensor([0, 1]))
    share = 1 - 0.01 * 27**0.5 / before.flatten(1).norm(dim=1)
    expected = before * share.clamp_min(0)[:, None, None, None]
    torch.testing.assert_close(model[0].weight.detach(), expected)
    assert (model[0].weight[1] == 0).all()
    assert wrapped.effects[0].group_sparsity() == {"0.weight": 0.25, "all": 0.25}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_lasso_leaves_zeros_zero(dtype: torch.dtype) -> None:
    for strength in (0.0, 1e-30, 10.0):
        model = nn.Linear(3, 2, bias=False).to(dtype)
        nn.init.zeros_(model.weight)
        wrapped = augpipe.regularize(model, [{"group_lasso": strength}], half_squares)
        optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
        wrapped.before_step(optimizer)
        wrapped.after_step()
        assert torch.equal(model.weight, torch.zeros(2, 3, dtype=dtype))


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.Adam])
def test_proximal_steps_take_the_rate_of_each_group(make: Make) -> None:
    model = MLP.build()
    wrapped = augpipe.regularize(model, [{"l1": {"strength": 1.0, "on": "**.weight"}}])
    groups = [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[2].parameters()}]
    optimizer = make(groups, lr=0.05)
    before = {name: each.detach().clone() for name, each in model.named_parameters()}
    for each in model.parameters():
        each.grad = torch.zeros_like(each)
    wrapped.before_step(optimizer)
    wrapped.after_step()
    for name, pull in (("0.weight", 0.01), ("2.weight", 0.05)):
        own = dict(model.named_parameters())[name].detach()
        torch.testing.assert_close(own, F.softshrink(before[name], pull), rtol=1e-6, atol=1e-8)
    assert torch.equal(model[4].weight, before["4.weight"])  # in no group
    assert torch.equal(model[0].bias, before["0.bias"])


@pytest.mark.parametrize("name", ["l1", "elastic_net", "group_lasso"])
def test_a_strength_of_0_changes_nothing(name: str) -> None:
    model, plain = MLP.build(), MLP.build()
    wrapped = augpipe.regularize(model, [{name: 0.0}])
    for each in (wrapped, Regularized(plain, ())):
        step(each, torch.optim.SGD(each.param_groups(), lr=0.1), MLP.inputs(), MLP.targets())
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_optimizer_of_other_parameters_is_an_error() -> None:
    wrapped = augpipe.regularize(MLP.build(), ["l1"])
    optimizer = torch.optim.SGD(MLP.build().parameters(), lr=0.1)
    wrapped.before_step(optimizer)
    with pytest.raises(augpipe.UsageError, match=r"^l1: the optimizer has none of its parameters"):
        wrapped.after_step()
    with pytest.raises(augpipe.UsageError, match=r"^group_lasso: '0.bias' has one dimension"):
        augpipe.regularize(MLP.build(), [{"group_lasso": {"on": "0", "groups": "columns"}}])


def test_l1_follows_its_schedule() -> None:
    model = nn.Linear(4, 4, bias=False).double()
    item = {"l1": {"strength": {"start": 0.0, "end": 1.0, "steps": 2}}}
    wrapped = augpipe.regularize(model, [item])
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.01)
    before = model.weight.detach().clone()
    model.weight.grad = torch.zeros_like(model.weight)
    for pull in (0.0, 0.005, 0.015):
        wrapped.before_step(optimizer)
        wrapped.after_step()
        torch.testing.assert_close(model.weight.detach(), F.softshrink(before, pull))


# Orthogonality


def penalized(weight: Tensor, **fields: Any) -> tuple[nn.Module, Regularized]:
    model = nn.Linear(weight.shape[1], weight.shape[0], bias=False).to(weight.dtype)
    model.weight.data.copy_(weight)
    return model, augpipe.regularize(model, [{"orthogonality": {"strength": 1.0, **fields}}])


def extra(wrapped: Regularized) -> Tensor:
    return wrapped.effects[0].penalty(None, None)


def random_weight(rows: int, columns: int) -> Tensor:
    g = torch.Generator().manual_seed(rows)
    return torch.randn(rows, columns, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 4), (1, 5)])
def test_soft_orthogonality_is_the_frobenius_norm_of_the_gap(shape: tuple[int, int]) -> None:
    weight = random_weight(*shape)
    model, wrapped = penalized(weight)
    values = torch.linalg.svdvals(weight)  # the gap's singular values are |s^2 - 1|
    torch.testing.assert_close(extra(wrapped), ((values**2 - 1) ** 2).sum())
    extra(wrapped).backward()
    # d ||W W^T - I||^2 / dW = 4 (W W^T - I) W, whichever product is the smaller one.
    expected = 4 * (weight @ weight.T - torch.eye(len(weight))) @ weight
    torch.testing.assert_close(model.weight.grad, expected)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5)])
def test_spectral_orthogonality_comes_to_the_largest_singular_value(shape: tuple[int, int]) -> None:
    weight = random_weight(*shape)
    model, wrapped = penalized(weight, variant="spectral")
    worst = ((torch.linalg.svdvals(weight) ** 2 - 1).abs().max()) ** 2
    for _ in range(60):
        assert extra(wrapped) <= worst * (1 + 1e-6)  # the direction is kept in float32
    torch.testing.assert_close(extra(wrapped), worst, rtol=1e-6, atol=0)
    extra(wrapped).backward()
    twin = weight.clone().requires_grad_()
    small = twin @ twin.T if shape[0] <= shape[1] else twin.T @ twin
    gap = small - torch.eye(len(small), dtype=weight.dtype)
    torch.linalg.matrix_norm(gap, 2).square().backward()
    torch.testing.assert_close(model.weight.grad, twin.grad, rtol=1e-3, atol=1e-3)


def test_spectral_orthogonality_sees_two_values_of_opposite_sign() -> None:
    weight = torch.diag(torch.tensor([1.5, 0.5, 1.0]).double().sqrt())  # the gap: 0.5, -0.5, 0
    _, wrapped = penalized(weight, variant="spectral")
    extra(wrapped)
    torch.testing.assert_close(extra(wrapped), torch.tensor(0.25).double())


@pytest.mark.parametrize("variant", ["soft", "spectral"])
def test_orthogonal_weights_cost_nothing_and_training_finds_them(variant: str) -> None:
    _, wrapped = penalized(torch.linalg.qr(random_weight(6, 4))[0], variant=variant)
    assert extra(wrapped) < 1e-20
    _, wrapped = penalized(torch.eye(3), variant=variant)  # a gap of zeros
    assert extra(wrapped) == 0 and extra(wrapped) == 0
    model, wrapped = penalized(random_weight(4, 6) / 3, variant=variant)
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        extra(wrapped).backward()
        optimizer.step()
    product = model.weight @ model.weight.T
    torch.testing.assert_close(product, torch.eye(4).double(), rtol=0, atol=2e-2)


def test_orthogonality_is_on_the_layers_whose_weights_are_one_matrix() -> None:
    wrapped = augpipe.regularize(TRANSFORMER.build(), ["orthogonality"])
    assert [site.name for site in wrapped.effects[0].sites] == [
        f"encoder.layers.{i}.{name}.weight"
        for i in (0, 1)
        for name in ("self_attn.out_proj", "linear1", "linear2")
    ] + ["head.weight"]
    conv = nn.Conv2d(3, 4, 3)
    wrapped = augpipe.regularize(conv, [{"orthogonality": 1.0}])
    flat = conv.weight.detach().reshape(4, 27).double()
    expected = (flat @ flat.T - torch.eye(4)).norm() ** 2
    torch.testing.assert_close(extra(wrapped).double(), expected, rtol=1e-5, atol=0)
    with pytest.raises(augpipe.UsageError, match=r"^orthogonality: '0\.bias' has one dimension"):
        augpipe.regularize(MLP.build(), [{"orthogonality": {"on": "0"}}])


def test_orthogonality_is_not_computed_in_half_precision() -> None:
    _, wrapped = penalized(torch.linalg.qr(random_weight(8, 8))[0].float())
    with torch.autocast("cpu", torch.bfloat16):
        assert extra(wrapped) < 1e-10


@pytest.mark.parametrize("name", ["l1", "elastic_net", "group_lasso"])
def test_weights_that_are_not_trained_are_left_alone(name: str) -> None:
    """Frozen ones, and those without a gradient in this step; cleared gradients do not count."""
    model = MLP.build()
    model[0].weight.requires_grad_(False)
    wrapped = augpipe.regularize(model, [{name: {"strength": 1.0}}])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    before = {key: each.detach().clone() for key, each in model.named_parameters()}
    model[4](torch.ones(3, 16)).sum().backward()
    wrapped.before_step(optimizer)
    optimizer.zero_grad()
    wrapped.after_step()
    for key in ("0.weight", "2.weight"):
        assert torch.equal(model.get_parameter(key), before[key])
    assert not torch.equal(model[4].weight, before["4.weight"])
