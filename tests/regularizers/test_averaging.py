"""Averages of weights against torch.optim.swa_utils."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import (
    AveragedModel,
    get_ema_multi_avg_fn,
    get_swa_multi_avg_fn,
    update_bn,
)

import augpipe
from augpipe.regularizers.wrapper import Regularized
from tests.regularizers.nets import MLP, RESNET, Net


def step(wrapped: Regularized, net: Net, *oracles: AveragedModel) -> None:
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.05)
    wrapped.loss(wrapped(net.inputs()), net.targets()).backward()
    wrapped.before_step(optimizer)
    optimizer.step()
    wrapped.after_step()
    optimizer.zero_grad()
    for oracle in oracles:
        oracle.update_parameters(wrapped.model)


def same(a: nn.Module, b: nn.Module) -> None:
    """The same operations in the same order: equal to the bit."""
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize(
    ("net", "decay"), [(MLP, 0.0), (MLP, 0.999), (RESNET, 0.5)], ids=["0.0", "0.999", "resnet"]
)
def test_ema_is_torchs(net: Net, decay: float) -> None:
    model = net.build()
    wrapped = augpipe.regularize(model, [{"ema": decay}])
    oracle = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    with wrapped.averaged():
        same(model, net.build())  # nothing is averaged yet
    for _ in range(4):
        step(wrapped, net, oracle)
    own = {name: each.clone() for name, each in model.state_dict().items()}
    with wrapped.averaged():
        same(model, oracle.module)
    assert all(torch.equal(each, own[name]) for name, each in model.state_dict().items())
    wrapped.finish()
    same(model, oracle.module)
    step(wrapped, net)
    wrapped.finish()  # training went on, and so did the average
    with pytest.raises(AssertionError):
        same(model, oracle.module)


def averages(item: dict, weights: list[float]) -> list[float]:
    model = nn.Linear(1, 1, bias=False).double()
    wrapped = augpipe.regularize(model, [item])
    out = []
    for value in weights:
        nn.init.constant_(model.weight, value)
        wrapped.after_step()
        with wrapped.averaged():
            out.append(model.weight.item())
    return out


def test_warmup_and_schedules_by_hand() -> None:
    got = averages({"ema": {"decay": 0.25, "warmup": True}}, [1.0, 2.0, 4.0])
    second = 2 / 11 * 1 + 9 / 11 * 2
    assert got == pytest.approx([1, second, 0.25 * second + 0.75 * 4])  # 3/12 is the decay
    schedule = {"start": 0.0, "end": 1.0, "steps": 2}
    assert averages({"ema": {"decay": schedule}}, [1.0, 2.0, 4.0]) == [1.0, 1.5, 1.5]


def test_narrow_weights_are_averaged_in_float32() -> None:
    """In bfloat16, 1 + 0.001 (1.01 - 1) is 1: the average would never move."""
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    wrapped = augpipe.regularize(model, [{"ema": 0.999}])
    nn.init.constant_(model.weight, 1.0)
    wrapped.after_step()
    nn.init.constant_(model.weight, 2.0)
    for _ in range(1000):
        wrapped.after_step()
    wrapped.finish()
    assert model.weight.item() == pytest.approx(2 - 0.999**1000, rel=2**-8)  # bfloat16's step
    assert model.weight.dtype == torch.bfloat16


def test_averages_follow_what_other_techniques_do_to_the_weights() -> None:
    """Whatever the recipe's order: `l1` sets exact zeros in `after_step`."""
    model = MLP.build()
    wrapped = augpipe.regularize(model, [{"ema": 0.5}, {"l1": {"strength": 1e3}}])
    step(wrapped, MLP)
    with wrapped.averaged():
        assert not model[0].weight.any()


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("net", [MLP, RESNET], ids=lambda net: net.name)
def test_swa_is_torchs(net: Net, lazy: bool) -> None:
    model = net.build()
    wrapped = augpipe.regularize(model, [{"swa": {"start": 2, "every": 2, "unit": "steps"}}])
    oracle = AveragedModel(model, multi_avg_fn=get_swa_multi_avg_fn())
    for number in range(1, 8):
        step(wrapped, net, *([oracle] if number in (2, 4, 6) else []))
    batches = [net.inputs(), (net.inputs() * 2 + 1, net.targets()), [net.inputs() - 1]]
    update_bn(batches, oracle.module)
    momentum = [each.momentum for each in model.modules() if hasattr(each, "momentum")]
    wrapped.finish((lambda: iter(batches)) if lazy else batches)
    same(model, oracle.module)
    assert [e.momentum for e in model.modules() if hasattr(e, "momentum")] == momentum
    assert all(each.training for each in model.modules())


def test_swa_of_epochs() -> None:
    model = nn.Linear(1, 1, bias=False)
    wrapped = augpipe.regularize(model, [{"swa": {"start": 2, "every": 2}}])
    seen = []
    for value in (8.0, 4.0, 2.0, 1.0, 16.0):
        nn.init.constant_(model.weight, value)
        wrapped.after_step()
        wrapped.end_epoch({})
        with wrapped.averaged():
            seen.append(model.weight.item())
    assert seen == [8.0, 4.0, 4.0, 2.5, 2.5]  # of epochs 2 and 4
    wrapped.finish()
    assert model.weight.item() == 2.5


def test_swa_without_batches_changes_nothing_and_says_so() -> None:
    model = RESNET.build()
    wrapped = augpipe.regularize(model, [{"swa": {"start": 0, "unit": "steps"}}])
    wrapped.finish()  # nothing is averaged yet
    step(wrapped, RESNET)
    step(wrapped, RESNET)
    before = {name: each.clone() for name, each in model.state_dict().items()}

    def broken():
        yield RESNET.inputs()
        raise OSError("the disk")

    for batches, error, words in (
        (None, augpipe.UsageError, r"swa: bn1 is batch norm.*wrapped.finish\(batches\)"),
        ([], augpipe.UsageError, "swa: .*no batch"),
        (broken(), OSError, "the disk"),
    ):
        with pytest.raises(error, match=words):
            wrapped.finish(batches)
        assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
        assert model.bn1.momentum == 0.1 and model.bn1.training
    with wrapped.averaged():  # its statistics are not measured: it cannot be judged
        assert torch.equal(model.conv1.weight, before["conv1.weight"])
    wrapped.finish([RESNET.inputs()])
    assert not torch.equal(model.conv1.weight, before["conv1.weight"])


def test_swa_leaves_statistics_that_were_frozen_in_training() -> None:
    model = RESNET.build()
    wrapped = augpipe.regularize(model, [{"swa": {"start": 0, "unit": "steps"}}])
    for each in model.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.eval()
    mean = model.bn1.running_mean.clone()
    step(wrapped, RESNET)
    wrapped.finish()  # nothing to measure
    assert torch.equal(model.bn1.running_mean, mean)
    model.layer1[0].bn1.train()
    step(wrapped, RESNET)
    wrapped.finish([RESNET.inputs()])
    assert torch.equal(model.bn1.running_mean, mean)
    assert model.layer1[0].bn1.num_batches_tracked == 1
    assert not model.bn1.training and model.layer1[0].bn1.training


def test_swa_measures_what_the_tested_network_sees() -> None:
    """With dropout at work before it, batch normalization would be given a larger variance."""
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))
    wrapped = augpipe.regularize(model, [{"swa": {"start": 0, "unit": "steps"}}])
    wrapped.after_step()
    x = torch.ones(64, 3) * torch.linspace(-1, 1, 64)[:, None]
    wrapped.eval()
    wrapped.finish([x])
    torch.testing.assert_close(model[1].running_var, x.var(dim=0))
    assert not model[1].training


def test_the_last_of_several_averages_is_both_judged_and_kept() -> None:
    model = nn.Linear(1, 1, bias=False)
    items = [{"swa": {"start": 0, "unit": "steps"}}, {"ema": {"decay": 0.0}}]
    wrapped = augpipe.regularize(model, items)
    for value in (1.0, 3.0):
        nn.init.constant_(model.weight, value)
        wrapped.after_step()
    with wrapped.averaged():
        assert model.weight.item() == 3.0
    wrapped.finish()
    assert model.weight.item() == 3.0


@pytest.mark.parametrize("item", [{"ema": 0.5}, {"swa": {"start": 1, "unit": "steps"}}], ids=str)
def test_a_saved_state_is_no_alias(item: dict, tmp_path) -> None:
    def average(wrapped: Regularized) -> Tensor:
        with wrapped.averaged():
            return wrapped.model[0].weight.detach().clone()

    wrapped = augpipe.regularize(MLP.build(), [item])
    step(wrapped, MLP)
    step(wrapped, MLP)
    state, expected = wrapped.run_state(), average(wrapped)
    torch.save(state, tmp_path / "run.pt")
    step(wrapped, MLP)
    assert not torch.equal(average(wrapped), expected)
    for saved in (state, torch.load(tmp_path / "run.pt", weights_only=True)):
        again = augpipe.regularize(MLP.build(), [item])
        again.load_run_state(saved)
        assert torch.equal(average(again), expected)
        step(again, MLP)
        again.load_run_state(saved)
        assert torch.equal(average(again), expected)


def test_parameters_that_techniques_bring_are_averaged_too() -> None:
    model = MLP.build()
    wrapped = augpipe.regularize(model, ["batch_norm", {"ema": 0.5}])
    own = wrapped.effects[0].norms[0].weight
    step(wrapped, MLP)
    first = own.detach().clone()
    step(wrapped, MLP)
    second = own.detach().clone()
    assert not torch.equal(first, second)
    wrapped.finish()
    torch.testing.assert_close(own.detach(), (first + second) / 2)


def test_swa_cannot_measure_batch_norm_that_a_technique_brings() -> None:
    model = MLP.build()
    with pytest.raises(augpipe.UsageError, match="swa: it cannot measure"):
        augpipe.regularize(model, [{"swa": 0}, "batch_norm"])
    assert not any(each._forward_hooks for each in model.modules())
