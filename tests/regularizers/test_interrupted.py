"""Ctrl-C in a forward, layers that compute their weight, layers called by keyword."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import augpipe
from tests.regularizers.nets import LM, MLP, Net


class Stops(nn.Module):
    """A part of a model that Ctrl-C comes in, once."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside, self.on = inside, True

    def forward(self, x: Tensor) -> Tensor:
        if self.on:
            raise KeyboardInterrupt
        return self.inside(x)


class Stopping(nn.Linear):
    on = True

    def forward(self, x: Tensor) -> Tensor:
        if self.on:
            raise KeyboardInterrupt
        return super().forward(x)


ON_WEIGHTS = [
    [{"drop_connect": {"mask": "batch", "on": "0"}}],
    [{"spectral_norm": {"on": "0"}}],
    [{"spectral_norm": {"on": "0"}}, {"drop_connect": {"mask": "batch", "on": "0"}}],
]


def _stopping() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(Stopping(6, 16), nn.ReLU(), nn.Linear(16, 5))


@pytest.mark.parametrize("items", ON_WEIGHTS, ids=str)
@pytest.mark.parametrize("inner", [False, True])
def test_ctrl_c_leaves_no_computed_weight(items: list, inner: bool) -> None:
    """Not by the wrapper's forward; by the model's own not for long."""
    model = _stopping()
    weight, value = model[0].weight, model[0].weight.detach().clone()
    wrapped = augpipe.regularize(model, items)
    with pytest.raises(KeyboardInterrupt):
        (model if inner else wrapped)(MLP.inputs())
    assert inner or model[0].weight is weight
    assert torch.equal(wrapped.state_dict()["0.weight"], value)
    assert model[0].weight is weight
    with pytest.raises(KeyboardInterrupt):
        model(MLP.inputs())
    model[0].on = False
    model(MLP.inputs()).sum().backward()
    assert model[0].weight is weight and weight.grad is not None
    model[0].on = True
    with pytest.raises(KeyboardInterrupt):
        model(MLP.inputs())
    wrapped.remove()
    assert model[0].weight is weight and torch.equal(weight, value)


def test_ctrl_c_in_a_recurrent_layer(monkeypatch) -> None:
    model = LM.build()
    weight = model.lstm.weight_hh_l0
    wrapped = augpipe.regularize(model, ["weight_drop"])

    def stop(*ignored) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(model.lstm, "forward", stop)
        with pytest.raises(KeyboardInterrupt):
            wrapped(LM.inputs())
    assert model.lstm.weight_hh_l0 is weight
    assert any(each is weight for each in model.lstm._flat_weights)


def test_ctrl_c_leaves_no_part_of_a_batch() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4))
    wrapped = augpipe.regularize(model, [{"ghost_batch_norm": 2}])

    def stop(*ignored) -> None:
        raise KeyboardInterrupt

    handle = model[1].register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        wrapped(MLP.inputs())
    handle.remove()
    (effect,) = wrapped.effects
    assert not any(effect._rest)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x))


def test_functional_weights_are_masked_once_in_each_call() -> None:
    model = Twice()
    wrapped = augpipe.regularize(model, [{"drop_connect": {"mask": "batch"}}])
    weights = {name: each.detach() for name, each in wrapped.named_parameters()}
    torch.manual_seed(3)
    expected = wrapped(MLP.inputs())
    torch.manual_seed(3)
    got = torch.func.functional_call(wrapped, weights, (MLP.inputs(),))
    assert torch.equal(got, expected) and isinstance(model.layer.weight, nn.Parameter)


@pytest.mark.parametrize("turned", [False, True])
def test_masks_by_sample_are_of_the_weight_that_the_layer_used(turned: bool) -> None:
    """Whatever the order in which the two were put on: p = 1 leaves the bias."""
    items = [{"drop_connect": {"p": 1.0}}, {"spectral_norm": {"bound": 3.0}}]
    wrapped = augpipe.regularize(MLP.build(), items[::-1] if turned else items)
    expected = wrapped.model[4].bias.expand(8, 5)
    torch.testing.assert_close(wrapped(MLP.inputs()), expected)


NORMED = [nn.utils.parametrizations.weight_norm, nn.utils.weight_norm]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("norm", NORMED)
@pytest.mark.parametrize("item", ["spectral_norm", {"drop_connect": {"on": "Linear"}}], ids=str)
def test_a_layer_that_computes_its_weight_is_refused(norm: Callable, item) -> None:
    model = MLP.build()
    norm(model[2])
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    with pytest.raises(augpipe.UsageError, match=r"^\w+: 2\.weight is no parameter: it is compute"):
        augpipe.regularize(model, [item])
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks


def test_a_recurrent_layer_that_computes_its_weight_is_refused() -> None:
    model = LM.build()
    nn.utils.parametrizations.weight_norm(model.lstm, "weight_hh_l0")
    with pytest.raises(augpipe.UsageError, match=r"^weight_drop: lstm\.weight_hh_l0 is no param"):
        augpipe.regularize(model, ["weight_drop"])


@pytest.mark.filterwarnings("ignore:.*weight_norm.*deprecated:FutureWarning")
@pytest.mark.parametrize("norm", NORMED)
def test_batch_norm_stands_behind_a_layer_that_computes_its_weight(norm: Callable) -> None:
    model = MLP.build()
    norm(model[0])
    seen: list[Tensor] = []
    model[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    augpipe.regularize(model, [{"batch_norm": "0"}])(MLP.inputs())
    torch.testing.assert_close(seen[0].mean(dim=0), torch.zeros(16), atol=1e-6, rtol=0)


class ByKeyword(nn.Module):
    """Calls each of its layers with `input=`."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for each in self.layers:
            x = each(input=x)
            x = x[0] if isinstance(x, tuple) else x
        return x


def _deep() -> list[nn.Module]:
    torch.manual_seed(1)
    return [nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 5)]


def _words() -> list[nn.Module]:
    torch.manual_seed(1)
    return [nn.Embedding(11, 8), nn.LSTM(8, 5, batch_first=True), nn.Linear(5, 11)]


@pytest.mark.parametrize(
    ("item", "layers", "net"),
    [
        ("drop_connect", _deep, MLP),
        ({"drop_connect": {"at_test": "gaussian"}}, _deep, MLP),
        ("isda", _deep, MLP),
        ({"manifold_mixup": {"on": "layers.2"}}, _deep, MLP),
        ({"ghost_batch_norm": 2}, _deep, MLP),
        ("embedding_dropout", _words, LM),
        ("variational_dropout", _words, LM),
    ],
    ids=lambda each: getattr(each, "__name__", None) or getattr(each, "name", None) or str(each),
)
def test_layers_called_by_keyword(item, layers: Callable, net: Net) -> None:
    """The same as called by position."""

    class ByPosition(ByKeyword):
        def forward(self, x: Tensor) -> Tensor:
            for each in self.layers:
                x = each(x)
                x = x[0] if isinstance(x, tuple) else x
            return x

    outputs = []
    for cls in (ByPosition, ByKeyword):
        wrapped = augpipe.regularize(cls(*layers()), [item])
        for mode in (True, False):
            torch.manual_seed(3)
            outputs.append(wrapped.train(mode)(net.inputs()))
    assert torch.equal(outputs[0], outputs[2]) and torch.equal(outputs[1], outputs[3])


def test_manifold_mixup_of_a_model_called_by_keyword() -> None:
    outputs = []
    for call in (lambda m: m(MLP.inputs()), lambda m: m(input=MLP.inputs())):
        wrapped = augpipe.regularize(MLP.build(), ["manifold_mixup"])
        torch.manual_seed(3)
        outputs.append(call(wrapped))
    assert torch.equal(*outputs)
