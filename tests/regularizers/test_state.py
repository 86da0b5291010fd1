"""What is saved and loaded, beside and under the names of the plain model."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import augpipe
from augpipe.regularizers.wrapper import Regularized
from tests.regularizers.nets import LM, MLP, RESNET


def train(wrapped: Regularized, steps: int = 1, net=MLP) -> None:
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        wrapped.loss(wrapped(net.inputs()), net.targets()).backward()
        wrapped.before_step(optimizer)
        optimizer.step()
        wrapped.after_step()


class Head(nn.CrossEntropyLoss):
    """A criterion with a buffer of its own, and a parameter."""

    def __init__(self) -> None:
        super().__init__(weight=torch.arange(1.0, 6.0))
        self.scale = nn.Parameter(torch.ones(5))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return super().forward(x * self.scale, y)


def test_a_criterion_with_tensors_stays_out_of_the_models_state() -> None:
    plain = MLP.build()
    wrapped = augpipe.regularize(MLP.build(), ["dropout", "spectral_norm"], Head())
    assert list(wrapped.state_dict()) == list(plain.state_dict())
    assert not any(wrapped.load_state_dict(plain.state_dict()))
    train(wrapped)
    assert not torch.equal(wrapped.criterion.scale, torch.ones(5))
    again = augpipe.regularize(MLP.build(), ["dropout", "spectral_norm"], Head())
    again.load_state_dict(wrapped.state_dict())
    again.load_run_state(wrapped.run_state())
    assert torch.equal(again.criterion.scale, wrapped.criterion.scale)


def test_a_model_may_have_a_criterion_too() -> None:
    def build() -> nn.Module:
        model = MLP.build()
        model.criterion = Head()
        return model

    wrapped = augpipe.regularize(build(), ["dropout"], nn.CrossEntropyLoss(weight=torch.ones(5)))
    assert list(wrapped.state_dict()) == list(build().state_dict())
    assert torch.equal(wrapped.state_dict()["criterion.weight"], torch.arange(1.0, 6.0))


def test_safetensors_load_into_a_wrapper(tmp_path: Path) -> None:
    tie = {"share": {"tie": [["embedding.weight", "decoder.weight"]]}}
    for net, items in ((MLP, ["dropout", "batch_norm"]), (LM, [tie])):
        wrapped = augpipe.regularize(net.build(), items)
        train(wrapped, net=net)
        safetensors.torch.save_model(wrapped, str(tmp_path / "w.safetensors"))
        again = augpipe.regularize(net.build(), items)
        missing, unexpected = safetensors.torch.load_model(again, tmp_path / "w.safetensors")
        assert not missing and not unexpected
        for name, value in wrapped.state_dict().items():
            assert torch.equal(again.state_dict()[name], value)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_what_does_not_fit_has_the_plain_models_names(prefix: str) -> None:
    model = nn.ModuleDict({"model": MLP.build()})["model"]
    wrapped: nn.Module = augpipe.regularize(model, ["dropout", "batch_norm"])
    wrapped = nn.ModuleDict({"model": wrapped}) if prefix else wrapped
    state = {f"{prefix}{name}": each for name, each in MLP.build().state_dict().items()}
    state[f"{prefix}0.wieght"] = state.pop(f"{prefix}0.weight")
    problems = wrapped.load_state_dict(state, strict=False)
    assert problems.missing_keys == [f"{prefix}0.weight"]
    assert problems.unexpected_keys == [f"{prefix}0.wieght"]


ISDA = {"isda": {"covariance": "diagonal"}}
SAVED = ["ema", {"swa": {"start": 0, "unit": "steps"}}, "early_stopping", "batch_norm", "isda"]


def other_model() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 5))


def same(a: object, b: object) -> bool:
    match a, b:
        case Tensor(), Tensor():
            return torch.equal(a, b)
        case dict(), dict():
            return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
        case list(), list():
            return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("item", SAVED, ids=str)
def test_a_run_state_that_does_not_fit_changes_nothing(item) -> None:
    if item in ("batch_norm", "isda"):  # swa cannot measure batch_norm's
        items: list = [item]
    else:
        items = [item, {"dropout": {"p": {"start": 0.0, "end": 1.0, "steps": 9}}}]
    wrapped = augpipe.regularize(MLP.build(), items)
    train(wrapped)
    wrapped.end_epoch({"val_loss": 1.0})
    before = wrapped.run_state()
    other = augpipe.regularize(other_model(), [ISDA] if item == "isda" else items)
    train(other, 3)
    other.end_epoch({"val_loss": 1.0})
    name = wrapped.regularizers[0].name()
    broken = copy.deepcopy(before)
    broken["steps"], broken["effects"][-1] = 7, {}
    short = {**copy.deepcopy(before), "effects": []}
    for bad in (other.run_state(), {}, None, 3, {"steps": 1}, broken, short):
        with pytest.raises(augpipe.UsageError):
            wrapped.load_run_state(bad)
        assert wrapped.steps == 1 and same(wrapped.run_state(), before), name


@pytest.mark.parametrize("item", [*SAVED, "spectral_norm"], ids=str)
def test_a_run_state_is_a_copy(item) -> None:
    wrapped = augpipe.regularize(MLP.build(), [item])
    train(wrapped)
    wrapped.end_epoch({"val_loss": 1.0})
    state = wrapped.run_state()
    before = copy.deepcopy(state)
    wrapped.load_run_state(state)
    train(wrapped, 2)
    wrapped.end_epoch({"val_loss": 0.5})
    assert same(state, before)
    assert not same(wrapped.run_state(), before)


@pytest.mark.parametrize("net", [MLP, RESNET], ids=lambda net: net.name)
@pytest.mark.parametrize("ended", [False, True])
def test_spectral_norm_in_eval_is_the_same_after_a_round_trip(net, ended: bool) -> None:
    """With the weights alone; sigma of the power method would lag behind the weights."""
    items = ["spectral_norm", {"ema": 0.5}]
    wrapped = augpipe.regularize(net.build(), items)
    train(wrapped, 4, net)
    if ended:
        wrapped.eval()
        wrapped.finish()
    again = augpipe.regularize(net.build(), items)
    again.load_state_dict(wrapped.state_dict())
    with torch.no_grad():
        expected, got = (each.eval()(net.inputs()) for each in (wrapped, again))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_spectral_norm_of_averaged_weights_is_theirs() -> None:
    wrapped = augpipe.regularize(MLP.build(), [{"spectral_norm": {"on": "0"}}, {"ema": 0.5}])
    train(wrapped, 4)
    used: list[Tensor] = []
    wrapped.model[0].register_forward_pre_hook(lambda m, _: used.append(m.weight.detach()))
    wrapped.eval()
    with wrapped.averaged():
        wrapped(MLP.inputs())
    wrapped(MLP.inputs())
    wrapped.finish()
    wrapped(MLP.inputs())
    for each in used:
        assert torch.linalg.matrix_norm(each, 2).item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("shape", [(16, 6), (6, 16), (1100, 1030)])
def test_spectral_norm_starts_with_the_largest_singular_value(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(shape[1], shape[0], bias=False)
    largest = torch.linalg.matrix_norm(layer.weight.detach().double(), 2)
    wrapped = augpipe.regularize(layer, [{"spectral_norm": {"on": "auto"}}]).eval()
    divided = wrapped(torch.eye(shape[1])).detach().T.double()
    sigma = torch.linalg.matrix_norm(divided, 2)
    # Beyond 1024 rows the power method goes on until it moves by less than 1e-6.
    torch.testing.assert_close(sigma.item(), 1.0, rtol=1e-5 if max(shape) < 1024 else 1e-3, atol=0)
    torch.testing.assert_close(divided * largest, layer.weight.detach().double(), rtol=1e-3, atol=0)
