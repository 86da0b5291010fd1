"""Techniques on gradients against closed forms and torch.nn.utils."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import augpipe
from augpipe.regularizers.wrapper import Regularized
from tests.regularizers.nets import MLP, RESNET


class Quadratic(nn.Module):
    """w A w / 2, in two parameters, whose gradient is A w."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        w = torch.cat([self.a, self.b])
        return w @ (A @ w) / 2


A = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]], dtype=torch.float64)
NOTHING = torch.zeros(())


def quadratic(item) -> tuple[Quadratic, Regularized, torch.optim.Optimizer]:
    model = Quadratic()
    wrapped = augpipe.regularize(model, [item], lambda output, target: output)
    return model, wrapped, torch.optim.SGD(wrapped.param_groups(), lr=0.1)


def before_step(wrapped: Regularized, optimizer: torch.optim.Optimizer) -> Tensor:
    def closure() -> None:
        optimizer.zero_grad()
        wrapped.loss(wrapped(NOTHING), NOTHING).backward()

    closure()
    wrapped.before_step(optimizer, closure)
    return torch.cat([each.grad for each in wrapped.parameters()])


@pytest.mark.parametrize("rho", [0.0, 0.05, 2.0])
def test_sam_on_a_quadratic(rho: float) -> None:
    model, wrapped, optimizer = quadratic({"sam": rho})
    w = torch.cat([model.a, model.b]).detach()
    g = A @ w
    torch.testing.assert_close(
        before_step(wrapped, optimizer), A @ (w + rho * g / g.norm()), rtol=1e-11, atol=1e-11
    )  # 1e-12 is added to the norm
    assert torch.equal(torch.cat([model.a, model.b]), w)


@pytest.mark.parametrize("eta", [0.0, 0.01, 1.0])
def test_adaptive_sam_on_a_quadratic(eta: float) -> None:
    model, wrapped, optimizer = quadratic({"sam": {"rho": 0.7, "adaptive": True, "eta": eta}})
    w = torch.cat([model.a, model.b]).detach()
    g, t = A @ w, w.abs() + eta
    expected = A @ (w + 0.7 * t**2 * g / (t * g).norm())
    torch.testing.assert_close(before_step(wrapped, optimizer), expected, rtol=1e-11, atol=1e-11)


def test_sam_on_some_parameters() -> None:
    model, wrapped, optimizer = quadratic({"sam": {"rho": 0.7, "on": "a"}})
    w = torch.cat([model.a, model.b]).detach()
    g = (A @ w) * torch.tensor([1.0, 1.0, 0.0])
    expected = A @ (w + 0.7 * g / g.norm())
    torch.testing.assert_close(before_step(wrapped, optimizer), expected, rtol=1e-11, atol=1e-11)


def test_sam_at_a_minimum_stays_there() -> None:
    model, wrapped, optimizer = quadratic({"sam": 0.5})
    for each in model.parameters():
        nn.init.zeros_(each)
    assert not before_step(wrapped, optimizer).any()


def test_sam_leaves_the_statistics_of_the_first_pass() -> None:
    model = RESNET.build()
    wrapped = augpipe.regularize(model, [{"sam": 0.5}])
    plain = RESNET.build()
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)

    def closure() -> None:
        optimizer.zero_grad()
        wrapped.loss(wrapped(RESNET.inputs()), RESNET.targets()).backward()

    closure()
    plain(RESNET.inputs())
    wrapped.before_step(optimizer, closure)
    for name, each in plain.named_buffers():
        assert torch.equal(model.get_buffer(name), each), name
    assert model.bn1.momentum == 0.1


def test_sam_puts_the_weights_back_where_the_closure_raises() -> None:
    model, wrapped, optimizer = quadratic({"sam": 0.5})
    before = copy.deepcopy(model.state_dict())
    wrapped.loss(wrapped(NOTHING), NOTHING).backward()

    def closure() -> None:
        assert not torch.equal(model.a, before["a"])
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        wrapped.before_step(optimizer, closure)
    assert torch.equal(model.a, before["a"]) and torch.equal(model.b, before["b"])


def test_sam_without_a_closure_says_what_it_needs() -> None:
    _, wrapped, optimizer = quadratic("sam")
    wrapped(NOTHING).backward()
    with pytest.raises(augpipe.UsageError, match=r"sam needs wrapped.before_step\(optimizer, clos"):
        wrapped.before_step(optimizer)


@pytest.mark.parametrize("order", [0, 1])
def test_sam_comes_before_clipping_whatever_the_order(order: int) -> None:
    items = [{"sam": 0.5}, {"gradient_clipping": 0.01}]
    model = Quadratic()
    wrapped = augpipe.regularize(model, items[:: 1 - 2 * order], lambda output, target: output)
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
    assert before_step(wrapped, optimizer).norm().item() == pytest.approx(0.01, rel=1e-4)


def gradients(model: nn.Module) -> list[Tensor]:
    return [each.grad.clone() for each in model.parameters() if each.grad is not None]


def clipped(item, net=MLP) -> tuple[list[Tensor], nn.Module]:
    """The gradients as the technique leaves them, and a model with those it found."""
    model = net.build()
    wrapped = augpipe.regularize(model, [item])
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
    (10 * wrapped.loss(wrapped(net.inputs()), net.targets())).backward()
    twin = net.build()
    for a, b in zip(twin.parameters(), model.parameters(), strict=True):
        a.grad = b.grad.clone()
    wrapped.before_step(optimizer)
    return gradients(model), twin


@pytest.mark.parametrize("limit", [0.01, 1.0, 1e6])
def test_clipping_by_norm_is_torchs(limit: float) -> None:
    got, twin = clipped({"gradient_clipping": limit})
    whole = torch.cat([each.flatten() for each in gradients(twin)]).norm().item()
    norm = torch.cat([each.flatten() for each in got]).norm().item()
    assert norm == pytest.approx(min(whole, limit), rel=1e-4)  # torch adds 1e-6 to the norm
    nn.utils.clip_grad_norm_(twin.parameters(), limit)
    assert all(map(torch.equal, got, gradients(twin)))


@pytest.mark.parametrize("limit", [0.001, 0.1, 1e6])
def test_clipping_by_value_is_torchs(limit: float) -> None:
    got, twin = clipped({"gradient_clipping": {"limit": limit, "by": "value"}})
    expected = [each.clamp(-limit, limit) for each in gradients(twin)]
    assert all(map(torch.equal, got, expected))


def test_clipping_some_parameters_leaves_the_others() -> None:
    got, twin = clipped({"gradient_clipping": {"limit": 0.01, "on": "0"}})
    nn.utils.clip_grad_norm_(twin[0].parameters(), 0.01)
    assert all(map(torch.equal, got, gradients(twin)))


def test_only_what_the_optimizer_steps_is_clipped() -> None:
    """With two optimizers, each call sees its own parameters."""
    model = MLP.build()
    wrapped = augpipe.regularize(model, [{"gradient_clipping": 1e-3}])
    wrapped(MLP.inputs()).sum().backward()
    before = [each.grad.clone() for each in model[2].parameters()]
    wrapped.before_step(torch.optim.SGD(model[0].parameters(), lr=0.1))
    assert all(torch.equal(a, b.grad) for a, b in zip(before, model[2].parameters(), strict=True))
    total = torch.cat([each.grad.flatten() for each in model[0].parameters()]).norm().item()
    assert total == pytest.approx(1e-3, rel=1e-2)  # torch adds 1e-6 to the norm


def test_the_limit_can_be_scheduled() -> None:
    schedule = {"start": 1.0, "end": 0.1, "steps": 10}
    _, wrapped, optimizer = quadratic({"gradient_clipping": {"limit": schedule}})
    norms = []
    for _ in range(3):
        norms.append(before_step(wrapped, optimizer).norm().item())
        wrapped.after_step()
    assert norms == pytest.approx([1.0, 0.91, 0.82], rel=1e-5)


def test_gradient_noise_has_the_papers_variance() -> None:
    n, eta, gamma = 100_000, 0.3, 0.55
    model = nn.Linear(n, 1, bias=False)
    wrapped = augpipe.regularize(model, [{"gradient_noise": {"eta": eta, "gamma": gamma}}])
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.0)
    torch.manual_seed(1)
    for t in range(4):
        model.weight.grad = torch.full((1, n), 2.0)
        wrapped.before_step(optimizer)
        noise = (model.weight.grad - 2.0).double()
        variance = eta / (1 + t) ** gamma
        assert abs(noise.mean().item()) < 4 * math.sqrt(variance / n)
        assert noise.var().item() == pytest.approx(variance, abs=4 * variance * math.sqrt(2 / n))
        kurtosis = (noise**4).mean().item() / variance**2
        assert kurtosis == pytest.approx(3, abs=4 * math.sqrt(96 / n))  # of a normal distribution
        wrapped.after_step()


def test_gradient_noise_of_no_variance_is_none() -> None:
    got, twin = clipped({"gradient_noise": 0.0})
    assert all(map(torch.equal, got, gradients(twin)))


def test_gradient_noise_knows_the_step_of_a_run_that_goes_on() -> None:
    """After 10,000 steps a variance of 1 is 1e-8 with gamma 2."""
    item = {"gradient_noise": {"eta": 1.0, "gamma": 2.0}}
    wrapped = augpipe.regularize(MLP.build(), [item])
    wrapped.steps = 9_999
    again = augpipe.regularize(MLP.build(), [item])
    again.load_run_state(wrapped.run_state())
    model = again.model
    again(MLP.inputs()).sum().backward()
    before = gradients(model)
    again.before_step(torch.optim.SGD(model.parameters(), lr=0.1))
    far = max((a - b).abs().max().item() for a, b in zip(before, gradients(model), strict=True))
    assert 0 < far < 1e-3


def test_auto_is_the_parameters_of_other_techniques_too() -> None:
    wrapped = augpipe.regularize(MLP.build(), ["batch_norm", {"gradient_clipping": 1e-4}])
    wrapped.loss(wrapped(MLP.inputs()), MLP.targets()).backward()
    wrapped.before_step(torch.optim.SGD(wrapped.param_groups(), lr=0.1))
    total = torch.cat([each.grad.flatten() for each in wrapped.parameters()]).norm().item()
    assert total == pytest.approx(1e-4, rel=2e-2)  # torch adds 1e-6 to the norm


def test_parameters_without_a_gradient_are_passed_over() -> None:
    for item in ("gradient_clipping", "gradient_noise", "sam"):
        model = MLP.build()
        wrapped = augpipe.regularize(model, [item])
        optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
        wrapped.before_step(optimizer, lambda: None)
        assert not gradients(model)
