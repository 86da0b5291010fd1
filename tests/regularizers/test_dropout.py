"""Dropout and its kin, against PyTorch's own and against the moments of their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import augpipe
from augpipe.regularizers.effect import keep_mask
from tests.regularizers.nets import LM, RESNET

N = 100_000
RAISED = pytest.raises(augpipe.UsageError)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def on_identity(item: Any, module: nn.Module | None = None) -> nn.Module:
    """Returns a model whose only module is the site."""
    name, fields = next(iter(item.items()))
    fields = fields if isinstance(fields, dict) else {"p": fields}
    model = nn.Sequential(module or nn.Identity())
    return augpipe.regularize(model, [{name: {"on": "0", **fields}}])


def force(monkeypatch: pytest.MonkeyPatch, keep: Tensor) -> None:
    """Has the next draws keep what `keep` says, wherever the rate is not 0 or 1."""

    def rand(shape: Any, **where: Any) -> Tensor:
        assert tuple(shape) == tuple(keep.shape)
        return torch.where(keep, 0.0, 1 - 1e-6)

    monkeypatch.setattr(torch, "rand", rand)


def near(measured: float, expected: float, sigma: float) -> None:
    assert abs(measured - expected) < 4 * sigma, (measured, expected, sigma)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
@pytest.mark.parametrize(
    ("item", "shape", "theirs"),
    [
        ("dropout", (64, 9), F.dropout),
        ("spatial_dropout", (16, 5, 6), F.dropout1d),
        ("spatial_dropout", (16, 5, 3, 4), F.dropout2d),
        ("spatial_dropout", (16, 5, 2, 3, 2), F.dropout3d),
    ],
)
def test_with_pytorchs_mask_it_is_pytorchs(
    item: str, shape: tuple[int, ...], theirs: Callable[..., Tensor], p: float, monkeypatch: Any
) -> None:
    x = torch.randn(shape).requires_grad_()
    expected = theirs(x, p)
    whole = [*shape[:2], *[1] * (len(shape) - 2)] if item == "spatial_dropout" else shape
    kept = expected != 0
    force(monkeypatch, kept.view(*whole[:2], -1).any(2).view(whole))
    y = on_identity({item: p})(x)
    # They scale by 1 / (1 - p) as a float64 or divide by 1 - p: the last bit may differ.
    torch.testing.assert_close(y, expected, rtol=2.4e-7, atol=0)
    ours, other = (torch.autograd.grad(each.sum(), x)[0] for each in (y, expected))
    torch.testing.assert_close(ours, other, rtol=2.4e-7, atol=0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_moments_of_dropout(p: float) -> None:
    y = on_identity({"dropout": p})(torch.ones(N, 1))
    near((y == 0).double().mean().item(), p, math.sqrt(p * (1 - p) / N))
    near(y.double().mean().item(), 1, math.sqrt(p / (1 - p) / N))


def test_the_original_form_is_scaled_at_test() -> None:
    wrapped = on_identity({"dropout": {"p": 0.3, "scale": "at_test"}})
    x = torch.randn(1000, 5)
    y = wrapped(x)
    assert torch.equal(y, torch.where(y == 0, 0, x))
    assert torch.equal(wrapped.eval()(x), x * 0.7)
    y = wrapped.train()(torch.ones(N))
    near(y.double().mean().item(), 0.7, math.sqrt(0.3 * 0.7 / N))


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_moments_of_gaussian_dropout(p: float) -> None:
    """Mean 1, variance p / (1 - p), and the third and fourth moment of a normal."""
    y = on_identity({"gaussian_dropout": p})(torch.ones(N, dtype=torch.float64))
    variance = p / (1 - p)
    near(y.mean().item(), 1, math.sqrt(variance / N))
    near(y.var().item(), variance, variance * math.sqrt(2 / N))
    z = (y - 1) / math.sqrt(variance)
    near((z**3).mean().item(), 0, math.sqrt(15 / N))
    near((z**4).mean().item(), 3, math.sqrt(96 / N))


def test_gaussian_dropout_multiplies() -> None:
    x = torch.tensor([0.0, 1.0, -2.0, 1000.0])
    wrapped = on_identity({"gaussian_dropout": 0.5})
    torch.manual_seed(0)
    y = wrapped(x)
    torch.manual_seed(0)
    assert torch.equal(y, x * (1 + torch.randn(4)))


@pytest.mark.parametrize("shape", [(400, 50, 7), (400, 50, 3, 4), (400, 50, 2, 2, 2)])
@pytest.mark.parametrize("channels", ["first", "last"])
def test_spatial_dropout_drops_whole_channels(shape: tuple[int, ...], channels: str) -> None:
    x = torch.ones(shape)
    y = on_identity({"spatial_dropout": {"p": 0.25, "channels": channels}})(x)
    by_channel = y.flatten(2) if channels == "first" else y.flatten(1, -2).transpose(1, 2)
    dropped = (by_channel == 0).double()
    assert torch.equal(dropped.amin(2), dropped.amax(2))
    count = by_channel.shape[0] * by_channel.shape[1]
    near(dropped.mean().item(), 0.25, math.sqrt(0.25 * 0.75 / count))
    assert torch.equal(y[y != 0], torch.full_like(y[y != 0], 1 / 0.75))


def test_spatial_dropout_on_words_and_on_the_first_of_a_tuple() -> None:
    for on in ("embedding", "lstm"):
        model = LM.build()
        heard: list[Any] = []
        item = {"on": on, "p": 0.5, "at": "output", "channels": "last"}
        wrapped = augpipe.regularize(model, [{"spatial_dropout": item}])
        model.get_submodule(on).register_forward_hook(
            lambda m, a, out, heard=heard: heard.append(out)
        )
        wrapped(LM.inputs())
        y = heard[0][0] if on == "lstm" else heard[0]
        zero = y == 0
        assert torch.equal(zero.all(1), zero.any(1))
        assert 0 < zero.sum() < zero.numel()


def test_spatial_dropout_knows_where_the_samples_are() -> None:
    rnn = nn.RNN(8, 8)  # (time, samples, features)
    wrapped = on_identity({"spatial_dropout": {"p": 0.5, "at": "output", "channels": "last"}}, rnn)
    zero = wrapped(torch.randn(5, 6, 8))[0] == 0
    assert torch.equal(zero.all(0), zero.any(0))
    assert not torch.equal(zero.all(1), zero.any(1))


def test_spatial_dropout_refuses_what_has_no_places() -> None:
    with RAISED as caught:
        on_identity({"spatial_dropout": 0.5})(torch.ones(4, 5))
    assert str(caught.value) == (
        "spatial_dropout needs channels and places beside the samples, as in (n, channels, "
        "height, width); Identity has (4, 5): take dropout"
    )
    patches = nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(augpipe.UsageError, match="has no convolution of its own accord"):
        augpipe.regularize(patches, ["spatial_dropout"])
    assert augpipe.regularize(RESNET.build(), ["spatial_dropout"]).effects[0].sites[0].name == (
        "layer4.0.downsample.0"
    )


def test_dropout_refuses_words() -> None:
    with RAISED as caught:
        augpipe.regularize(LM.build(), [{"dropout": {"on": "embedding"}}])(LM.inputs())
    assert str(caught.value) == "dropout: at embedding there are no floats, but torch.int64"


@pytest.mark.parametrize("beta", [-1.0, 0.0, 2.0])
def test_standout_without_alpha_is_dropout_at_a_constant_rate(beta: float) -> None:
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, 3.0)
    nn.init.zeros_(layer.bias)
    wrapped = on_identity({"standout": {"alpha": 0, "beta": beta}}, layer)
    keep = 1 / (1 + math.exp(-beta))
    y = wrapped(torch.ones(N, 1))
    near((y == 3).double().mean().item(), keep, math.sqrt(keep * (1 - keep) / N))
    assert set(y.unique().tolist()) == {0.0, 3.0}  # not scaled
    torch.testing.assert_close(wrapped.eval()(torch.ones(1, 1)).item(), 3 * keep, rtol=1e-6, atol=0)


def test_standout_keeps_by_what_the_layer_says() -> None:
    layer = nn.Linear(3, 4).double()
    x = torch.randn(3, dtype=torch.float64)
    wrapped = on_identity({"standout": {"alpha": 1.5, "beta": 0.25}}, layer)
    z = F.linear(x, layer.weight, layer.bias).detach()
    keep = 1 / (1 + torch.exp(-(1.5 * z + 0.25)))
    y = wrapped(x.expand(N, 3)).detach()
    for j in range(4):
        kept = (y[:, j] == z[j]).double().mean().item()
        near(kept, keep[j].item(), math.sqrt(keep[j] * (1 - keep[j]) / N))
    torch.testing.assert_close(wrapped.eval()(x), z * keep)
    # What the card says of activations: the mask may stand before ReLU as well as after it.
    torch.testing.assert_close(F.relu(z * keep), F.relu(z) * keep)


def test_standout_masks_the_gradient_and_no_more() -> None:
    layer = nn.Linear(3, 4)
    x = torch.randn(6, 3)
    y = on_identity({"standout": {}}, layer)(x)
    y.sum().backward()
    torch.testing.assert_close(layer.weight.grad, (y != 0).float().T @ x)


def test_standout_takes_hidden_layers_only() -> None:
    encoder = nn.TransformerEncoderLayer(8, 2, 16)
    wrapped = augpipe.regularize(nn.Sequential(encoder, nn.Linear(8, 2)), ["standout"])
    assert [site.name for site in wrapped.effects[0].sites] == ["0.linear1", "0.linear2"]
    with pytest.raises(augpipe.UsageError, match="has no hidden linear layer"):
        augpipe.regularize(RESNET.build(), ["standout"])
    with pytest.raises(augpipe.UsageError, match="selects no hidden linear layer"):
        augpipe.regularize(RESNET.build(), [{"standout": {"on": "**.bn1"}}])


NOISES = ["dropout", "gaussian_dropout", "spatial_dropout"]


@pytest.mark.parametrize("item", NOISES)
@pytest.mark.parametrize("at", ["input", "output"])
def test_nothing_at_rate_0_and_no_nan_at_the_highest(item: str, at: str) -> None:
    x = torch.randn(4, 3, 5)
    assert torch.equal(on_identity({item: {"p": 0, "at": at}})(x), x)
    most = 0.99 if item == "gaussian_dropout" else 1
    y = on_identity({item: {"p": most, "at": at}})(x)
    assert y.isfinite().all()
    assert item == "gaussian_dropout" or not y.any()


@pytest.mark.parametrize("item", NOISES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_is_kept_also_with_a_schedule(item: str, dtype: torch.dtype) -> None:
    rate = {"start": 0.1, "end": 0.5, "steps": 3}
    assert on_identity({item: {"p": rate}})(torch.ones(4, 3, 5, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("item", NOISES)
def test_gradients(item: str) -> None:
    wrapped = on_identity({item: 0.4})

    def same_noise(x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return wrapped(x)

    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(same_noise, (x,))


@pytest.mark.parametrize("item", NOISES)
def test_a_schedule_moves_the_rate(item: str) -> None:
    wrapped = on_identity({item: {"p": {"start": 0, "end": 0.5, "steps": 2, "after": 1}}})
    x, changed = torch.ones(64, 64, 1), []
    for _ in range(4):
        changed.append((wrapped(x) != x).double().mean().item())
        wrapped.after_step()
    assert changed[:2] == [0, 0]
    assert changed[2] > 0.5
    assert changed[3] > 0.5


def test_a_small_rate_holds_whatever_the_default_dtype() -> None:
    """To 4 sigma of a million draws."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        share = float((keep_mask(torch.ones(1), (10**6,), 0.001) == 0).float().mean())
    finally:
        torch.set_default_dtype(torch.float32)
    assert abs(share - 0.001) < 4 * (0.001 * 0.999 / 10**6) ** 0.5
