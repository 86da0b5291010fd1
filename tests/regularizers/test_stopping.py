"""Early stopping against scripted curves: when it stops, and what it gives back."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import augpipe
from augpipe.regularizers.wrapper import Regularized
from tests.regularizers.nets import MLP, RESNET


def marked(*more, **fields) -> tuple[nn.Module, Regularized]:
    """A model of one weight, which is the number of the epoch."""
    model = nn.Linear(1, 1, bias=False)
    return model, augpipe.regularize(model, [{"early_stopping": fields}, *more])


def run(model: nn.Module, wrapped: Regularized, curve: list[float], name: str) -> int:
    """Trains along a curve; returns after how many epochs it stopped."""
    for epoch, value in enumerate(curve, 1):
        nn.init.constant_(model.weight, epoch)
        if wrapped.end_epoch({name: value}):
            return epoch
    return 0


@pytest.mark.parametrize(
    ("fields", "curve", "stopped", "best"),
    [
        ({"patience": 2}, [3, 2, 1, 1.5, 1.2, 0.1], 5, 3),
        ({"patience": 2}, [3, 2, 2.5, 1, 1.5], 0, 4),  # an improvement begins the count anew
        ({"patience": 1}, [3, 3], 2, 1),  # equal is no improvement
        ({"patience": 2, "min_delta": 0.5}, [3, 2.6, 2.4, 2.2, 2.0], 5, 3),
        ({"patience": 2}, [math.nan, 3, math.nan, 2, math.nan, math.nan], 6, 4),
        ({"patience": 2}, [math.nan, math.nan], 2, 2),  # nothing to go back to
        ({"patience": 9}, [1, 2, 3], 0, 1),  # a normal end
        ({"patience": 2, "monitor": "val_acc"}, [0.1, 0.3, 0.2, 0.25], 4, 2),
        ({"patience": 2, "monitor": "val_acc", "min_delta": 0.1}, [0.1, 0.15, 0.3, 0.35], 0, 3),
        ({"patience": 2, "monitor": "reward", "mode": "max"}, [1, 2, 1, 1], 4, 2),
        ({"patience": 1, "monitor": "val_loss", "mode": "max"}, [1, 2, 1], 3, 2),
        ({"patience": 2}, [math.inf, 1, math.inf, math.inf], 4, 2),
        ({"patience": 2, "monitor": "val_acc"}, [1, math.inf, 2, 1.5, 1.5], 5, 3),
    ],
)
def test_a_scripted_curve(fields, curve: list[float], stopped: int, best: int) -> None:
    model, wrapped = marked(**fields)
    assert run(model, wrapped, curve, fields.get("monitor", "val_loss")) == stopped
    wrapped.finish()
    assert model.weight.item() == best


def test_buffers_come_back_too_and_the_copy_is_deep() -> None:
    model = RESNET.build()
    wrapped = augpipe.regularize(model, ["early_stopping"])
    wrapped.end_epoch({"val_loss": 1.0})
    before = {name: each.clone() for name, each in model.state_dict().items()}
    identities = [id(each) for each in model.parameters()]
    wrapped(RESNET.inputs())  # moves the running statistics
    with torch.no_grad():
        for each in model.parameters():
            each.add_(1.0)
    wrapped.end_epoch({"val_loss": 2.0})
    assert not torch.equal(model.bn1.running_mean, before["bn1.running_mean"])
    wrapped.finish()
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert [id(each) for each in model.parameters()] == identities
    with torch.no_grad():
        model.conv1.weight.add_(1.0)  # training goes on: what is kept is no alias of it
    wrapped.after_step()
    wrapped.finish()
    assert torch.equal(model.conv1.weight, before["conv1.weight"])


@pytest.mark.parametrize("order", [("ema", "early_stopping"), ("early_stopping", "ema")])
@pytest.mark.parametrize("validated", ["averaged", "own"])
def test_what_was_validated_is_what_is_kept(order: tuple[str, str], validated: str) -> None:
    """Whatever the recipe's order; and an average that was not validated does not win."""
    items = {"ema": {"ema": {"decay": 0.5}}, "early_stopping": "early_stopping"}
    model = nn.Linear(1, 1, bias=False)
    wrapped = augpipe.regularize(model, [items[each] for each in order])
    seen = []
    for epoch, loss in enumerate([3.0, 1.0, 2.0]):
        nn.init.constant_(model.weight, 2.0**epoch)
        wrapped.after_step()
        if validated == "averaged":
            with wrapped.averaged():
                seen.append(model.weight.item())
        else:
            seen.append(model.weight.item())
        assert not wrapped.end_epoch({"val_loss": loss})
        assert model.weight.item() == 2.0**epoch  # training goes on from its own weights
    assert seen == ([1.0, 1.5, 2.75] if validated == "averaged" else [1.0, 2.0, 4.0])
    wrapped.finish()
    assert model.weight.item() == seen[1]
    with wrapped.averaged():
        assert model.weight.item() == seen[1]  # the end is the end


def test_each_epoch_says_anew_what_it_validated() -> None:
    model = nn.Linear(1, 1, bias=False)
    wrapped = augpipe.regularize(model, ["early_stopping", {"ema": {"decay": 0.5}}])
    for value, loss in ((1.0, 2.0), (3.0, 1.0)):
        nn.init.constant_(model.weight, value)
        wrapped.after_step()
        if loss == 2.0:
            with wrapped.averaged():
                pass
        wrapped.end_epoch({"val_loss": loss})
    wrapped.finish()
    assert model.weight.item() == 3.0


def test_averaged_weights_end_a_training_without_any_validation() -> None:
    model = nn.Linear(1, 1, bias=False)
    wrapped = augpipe.regularize(model, ["early_stopping", {"ema": {"decay": 0.5}}])
    for value in (1.0, 3.0):
        nn.init.constant_(model.weight, value)
        wrapped.after_step()
    wrapped.finish()
    assert model.weight.item() == 2.0


def test_a_run_goes_on_where_it_stopped(tmp_path) -> None:
    model, wrapped = marked(patience=3)
    run(model, wrapped, [2, 1, 3], "val_loss")
    torch.save(wrapped.run_state(), tmp_path / "run.pt")
    other, again = marked(patience=3)
    again.load_run_state(torch.load(tmp_path / "run.pt", weights_only=True))
    nn.init.constant_(other.weight, 9.0)
    assert not again.end_epoch({"val_loss": 1.5})
    assert again.end_epoch({"val_loss": 1.5})
    again.finish()
    assert other.weight.item() == 2


@pytest.mark.parametrize(
    ("name", "rises"),
    [
        ("val_loss", False),
        ("loss/val", False),
        ("valLoss", False),
        ("top1_error", False),
        ("perplexity", False),
        ("val_acc", True),
        ("Accuracy", True),
        ("val/acc5", True),
        ("test.AUROC", True),
        ("macro_f1", True),
        ("recall@1", True),
        ("bbox-AP50", True),
    ],
)
def test_auto_reads_the_name(name: str, rises: bool) -> None:
    _, wrapped = marked(monitor=name, patience=1)
    assert f"{name}, {'max' if rises else 'min'}, patience 1" in repr(wrapped)
    assert not wrapped.end_epoch({name: 1.0})
    assert wrapped.end_epoch({name: 0.5 if rises else 2.0})


@pytest.mark.parametrize("name", ["reward", "accumulated", "blossom", "loss_of_accuracy", "map_ce"])
def test_auto_does_not_guess(name: str) -> None:
    with pytest.raises(augpipe.RecipeError, match="add mode: min or mode: max") as caught:
        marked(monitor=name)
    assert "early_stopping.monitor" in str(caught.value)


def test_a_metric_that_is_missing_is_named_with_those_there_are() -> None:
    _, wrapped = marked()
    with pytest.raises(augpipe.UsageError, match=r"no 'val_loss': they are train_loss, val_acc"):
        wrapped.end_epoch({"train_loss": 1.0, "val_acc": 0.5})
    with pytest.raises(augpipe.UsageError, match="they are none"):
        wrapped.end_epoch({})
    with pytest.raises(augpipe.UsageError, match="val_loss is not a number"):
        wrapped.end_epoch({"val_loss": torch.ones(2)})
    assert not wrapped.end_epoch({"val_loss": torch.tensor(1.0)})


def test_nothing_measured_changes_nothing() -> None:
    model = MLP.build()
    wrapped = augpipe.regularize(model, ["early_stopping"])
    before = [each.clone() for each in model.parameters()]
    wrapped.finish()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_what_techniques_keep_comes_back_too() -> None:
    """The output that was validated is the one at the end: batch norm's scale and statistics."""
    wrapped = augpipe.regularize(MLP.build(), ["batch_norm", "spectral_norm", "early_stopping"])
    optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
    outputs = []
    for epoch in range(3):
        wrapped.train()
        wrapped.loss(wrapped(MLP.inputs()), MLP.targets()).backward()
        wrapped.before_step(optimizer)
        optimizer.step()
        wrapped.after_step()
        wrapped.eval()
        outputs.append(wrapped(MLP.inputs()))
        wrapped.end_epoch({"val_loss": abs(epoch - 1)})
    wrapped.finish()
    assert not torch.equal(outputs[1], outputs[2])
    assert torch.equal(wrapped(MLP.inputs()), outputs[1])
