"""Weights that are dropped, against masks put in by hand, moments and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import augpipe
from augpipe.regularizers import weights as family
from augpipe.regularizers.wrapper import Regularized
from tests.regularizers.nets import MLP, RESNET, drawn, seeded

CONVS = [
    (lambda: nn.Conv1d(4, 6, 3, padding=1), (5, 4, 9)),
    (lambda: nn.Conv2d(4, 6, 3, stride=2, groups=2), (5, 4, 9, 8)),
    (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect", bias=False), (5, 4, 7, 8)),
    (lambda: nn.Conv2d(4, 6, 3, padding="same", dilation=2), (5, 4, 7, 8)),
    (lambda: nn.Conv3d(2, 3, 2), (5, 2, 3, 4, 5)),
]
LAYERS = [
    (lambda: nn.Linear(6, 3), (5, 6)),
    (lambda: nn.Linear(6, 3, bias=False), (5, 7, 2, 6)),
    *CONVS,
]


def wrap(model: nn.Module, item: object) -> Regularized:
    return augpipe.regularize(model, [item])


def one(make, item: object) -> tuple[nn.Module, Regularized]:
    """Puts a layer alone in a model and wraps that."""
    model = seeded(lambda: nn.Sequential(make())).double()
    return model[0], wrap(model, item)


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Has the family keep the masks that it draws."""
    drawn_masks: list[Tensor] = []
    own = family.keep_mask

    def keep(*args, **kwargs) -> Tensor:
        drawn_masks.append(own(*args, **kwargs))
        return drawn_masks[-1]

    monkeypatch.setattr(family, "keep_mask", keep)
    torch.manual_seed(0)
    return drawn_masks


@pytest.mark.parametrize(("make", "shape"), LAYERS)
@pytest.mark.parametrize("mask", ["sample", "batch"])
def test_drop_connect_is_the_layer_with_masked_weights(make, shape, mask, masks) -> None:
    layer, wrapped = one(make, {"drop_connect": {"on": "0", "p": 0.4, "mask": mask}})
    x = drawn(*shape).double()
    got = wrapped(x)
    own = layer.weight.detach()
    rows = []
    for i in range(len(x)):
        chosen = masks[0][i] if mask == "sample" else masks[0]
        other = make().double()
        other.load_state_dict({**layer.state_dict(), "weight": own * chosen / 0.6})
        rows.append(other(x[i : i + 1]))
    torch.testing.assert_close(got, torch.cat(rows))
    assert masks[0].shape == ((len(x), *own.shape) if mask == "sample" else own.shape)
    assert 0.2 < 1 - masks[0].mean() < 0.6
    assert torch.equal(layer.weight, own)


@pytest.mark.parametrize(("make", "shape"), LAYERS)
@pytest.mark.parametrize("mask", ["sample", "batch"])
def test_drop_connect_at_0_is_the_layer_to_the_bit_and_at_1_finite(make, shape, mask) -> None:
    item = {"drop_connect": {"on": "0", "p": 0, "mask": mask}}
    layer, wrapped = one(make, item)
    x = drawn(*shape).double()
    assert torch.equal(wrapped(x), layer.forward(x))
    layer, wrapped = one(make, {"drop_connect": {**item["drop_connect"], "p": 1}})
    nothing = layer.forward(torch.zeros_like(x))
    torch.testing.assert_close(wrapped(x), nothing, atol=1e-14, rtol=0)


def test_drop_connect_of_one_sample_without_a_batch(masks) -> None:
    layer, wrapped = one(lambda: nn.Linear(6, 3), {"drop_connect": {"on": "0"}})
    x = drawn(6).double()
    expected = wrapped(x)
    torch.testing.assert_close(
        expected, F.linear(x, layer.weight * masks[0][0] / 0.5, layer.bias), rtol=1e-12, atol=1e-14
    )


def test_drop_connect_moments_are_those_of_the_formula_in_training_and_at_test() -> None:
    """Mean W x + b, variance p / (1 - p) W^2 x^2; gaussian in eval() has the same."""
    n, p = 100_000, 0.3
    layer, wrapped = one(
        lambda: nn.Linear(6, 3), {"drop_connect": {"on": "0", "p": p, "at_test": "gaussian"}}
    )
    x = drawn(6).double()
    torch.manual_seed(0)
    mean = F.linear(x, layer.weight, layer.bias)
    variance = p / (1 - p) * (layer.weight**2 @ x**2)
    for training in (True, False):
        wrapped.train(training)
        with torch.no_grad():
            y = wrapped(x.expand(n, 6))
        centred = y - mean
        assert (centred.mean(0).abs() < 4 * (variance / n).sqrt()).all()
        # The variance of a sample variance, from the fourth moment of the sample itself.
        spread = ((centred**4).mean(0) - variance**2) / n
        assert (((centred**2).mean(0) - variance).abs() < 4 * spread.sqrt()).all()


def test_gaussian_at_test_of_an_input_of_zeros_has_a_finite_gradient() -> None:
    layer, wrapped = one(
        lambda: nn.Linear(6, 3), {"drop_connect": {"on": "0", "at_test": "gaussian"}}
    )
    wrapped.eval()
    x = torch.zeros(2, 6, dtype=torch.double, requires_grad=True)
    wrapped(x).sum().backward()
    assert x.grad.isfinite().all()
    assert layer.weight.grad.isfinite().all()


@pytest.mark.parametrize("mask", ["sample", "batch"])
@pytest.mark.parametrize(("make", "shape"), LAYERS[:4])
def test_drop_connect_gradients(make, shape, mask) -> None:
    layer, wrapped = one(make, {"drop_connect": {"on": "0", "mask": mask}})
    x = drawn(*shape)[:2].double().requires_grad_()

    def run(x: Tensor, weight: Tensor) -> Tensor:
        torch.manual_seed(3)
        with torch.no_grad():
            kept = layer.weight.clone()
        layer._parameters["weight"] = weight
        try:
            return wrapped(x)
        finally:
            layer._parameters["weight"] = nn.Parameter(kept)

    weight = layer.weight.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (x, weight))


def test_drop_connect_and_noise_on_the_output_of_the_same_layer_compose() -> None:
    """In either order of the recipe the output's noise is there."""
    for items in (
        [{"dropout": {"on": "4", "at": "output"}}, "drop_connect"],
        ["drop_connect", {"dropout": {"on": "4", "at": "output"}}],
    ):
        wrapped = augpipe.regularize(MLP.build(), items)
        torch.manual_seed(0)
        zeros = (wrapped(MLP.inputs()) == 0).double().mean()
        assert 0.2 < zeros < 0.8


def test_two_effects_on_one_weight_compose_and_leave_the_parameter() -> None:
    model = MLP.build()
    own = model[4].weight
    wrapped = augpipe.regularize(
        model, [{"spectral_norm": {"on": "4"}}, {"drop_connect": {"p": 0, "mask": "batch"}}]
    )
    got = wrapped(MLP.inputs())
    assert model[4].weight is own
    alone = augpipe.regularize(MLP.build(), [{"spectral_norm": {"on": "4"}}])
    assert torch.equal(got, alone(MLP.inputs()))


def test_the_parameter_is_back_where_the_forward_raises() -> None:
    model = MLP.build()
    own = model[4].weight
    wrapped = wrap(model, {"drop_connect": {"mask": "batch"}})
    with pytest.raises(RuntimeError):
        model[4](torch.zeros(2, 7))
    assert model[4].weight is own
    wrapped(MLP.inputs())


def test_layers_whose_weights_are_read_without_a_call_are_refused() -> None:
    from torchvision.models.swin_transformer import ShiftedWindowAttention

    model = nn.ModuleDict({"a": nn.MultiheadAttention(4, 2), "fc": nn.Linear(4, 4)})
    with pytest.raises(augpipe.UsageError, match=r"drop_connect: a\.out_proj is never called"):
        wrap(model, {"drop_connect": {"on": "a.out_proj"}})
    assert "a.out_proj" not in repr(wrap(model, {"drop_connect": {"on": "Linear"}}))
    model = nn.ModuleDict({"a": ShiftedWindowAttention(8, [2, 2], [0, 0], 2)})
    with pytest.raises(augpipe.UsageError, match="never called"):
        wrap(model, {"drop_connect": {"on": "a.*"}})


def test_drop_connect_refuses_other_modules() -> None:
    with pytest.raises(augpipe.UsageError, match="no linear or convolutional layer"):
        wrap(RESNET.build(), {"drop_connect": {"on": "bn1"}})


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase], **options) -> None:
        super().__init__()
        self.rnn = kind(3, 4, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


KINDS = [
    (nn.LSTM, {"num_layers": 2}),
    (nn.LSTM, {"bidirectional": True, "proj_size": 2}),
    (nn.GRU, {"bias": False}),
    (nn.RNN, {"batch_first": True}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_weight_drop_is_the_layer_with_masked_hidden_weights(kind, options, masks) -> None:
    model = seeded(lambda: Recurrent(kind, **options)).double()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    wrapped = wrap(model, {"weight_drop": 0.4})
    x = drawn(5, 2, 3).double()
    got = wrapped(x)
    other = Recurrent(kind, **options).double()
    names = [name for name in before if "weight_hh" in name]
    assert len(names) == len(masks)
    dropped = {name: before[name] * m / 0.6 for name, m in zip(names, masks, strict=True)}
    other.load_state_dict({**before, **dropped})
    torch.testing.assert_close(got, other(x))
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_weight_drop_gives_the_raw_weight_its_gradient(kind, options) -> None:
    """Against finite differences: the trap is a masked copy that is a leaf of its own."""
    model = seeded(lambda: Recurrent(kind, **options)).double()
    wrapped = wrap(model, {"weight_drop": 0.4})
    x = drawn(5, 2, 3).double()

    def loss() -> Tensor:
        torch.manual_seed(7)
        return wrapped(x).square().sum()

    loss().backward()
    step = 1e-6
    for name, weight in model.named_parameters():
        flat, gradient = weight.data.view(-1), weight.grad.view(-1)
        for i in range(0, len(flat), 3):
            flat[i] += step
            up = loss().item()
            flat[i] -= 2 * step
            down = loss().item()
            flat[i] += step
            assert math.isclose((up - down) / (2 * step), gradient[i].item(), abs_tol=1e-7), name


def test_weight_drop_at_0_is_the_layer_and_at_1_finite() -> None:
    x = drawn(5, 2, 3)
    plain = seeded(lambda: Recurrent(nn.LSTM))
    assert torch.equal(wrap(seeded(lambda: Recurrent(nn.LSTM)), {"weight_drop": 0})(x), plain(x))
    assert wrap(plain, {"weight_drop": 1})(x).isfinite().all()


def test_two_forwards_before_the_backwards() -> None:
    model = seeded(lambda: Recurrent(nn.LSTM))
    wrapped = wrap(model, {"weight_drop": 0.4})
    x = drawn(5, 2, 3)
    torch.manual_seed(0)
    first, second = wrapped(x).sum(), wrapped(x).sum()
    assert first != second
    (first + second).backward()
    together = model.rnn.weight_hh_l0.grad.clone()
    model.zero_grad()
    torch.manual_seed(0)
    wrapped(x).sum().backward()
    wrapped(x).sum().backward()
    torch.testing.assert_close(together, model.rnn.weight_hh_l0.grad)


def test_a_recurrent_layer_is_left_with_its_own_weights_when_its_forward_raises() -> None:
    model = seeded(lambda: Recurrent(nn.LSTM))
    wrapped = wrap(model, {"weight_drop": 0.4})
    with pytest.raises(RuntimeError):
        wrapped(drawn(5, 2, 9))
    own = [model.rnn._parameters[name] for name in model.rnn._flat_weights_names]
    assert all(a is b for a, b in zip(model.rnn._flat_weights, own, strict=True))
    assert all(isinstance(each, nn.Parameter) for each in own)


@pytest.mark.parametrize("mask", ["sample", "batch"])
def test_an_empty_batch_passes(mask: str) -> None:
    for layer, x in ((nn.Linear(3, 4), (0, 3)), (nn.Conv2d(3, 4, 2), (0, 3, 5, 5))):
        wrapped = wrap(nn.Sequential(layer), {"drop_connect": {"on": "0", "mask": mask}})
        assert len(wrapped(torch.zeros(x))) == 0
