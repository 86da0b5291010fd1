"""`Regularize`: in a LightningModule of one's own, what a plain loop does."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import augpipe
from augpipe.errors import UsageError
from augpipe.regularizers.wrapper import Regularized
from augpipe.training.callback import Regularize
from augpipe.training.checkpoint import SafeCheckpoints
from augpipe.training.running import quiet

BATCHES, SIZE = 4, 6


def data(batches: int = BATCHES, seed: int = 1) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batches * SIZE, 5, generator=generator)
    y = torch.randint(3, (batches * SIZE,), generator=generator)
    return DataLoader(TensorDataset(x, y), batch_size=SIZE)


def mlp(norm: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        middle: list[nn.Module] = [nn.BatchNorm1d(8)] if norm else []
        return nn.Sequential(nn.Linear(5, 8), *middle, nn.ReLU(), nn.Linear(8, 3))


class Mine(pl.LightningModule):
    """A module as users write them."""

    def __init__(self, items: Sequence[Any], norm: bool = False) -> None:
        super().__init__()
        self.net = augpipe.regularize(mlp(norm), items)
        self.calls: Counter[str] = Counter()
        self.validated: list[Tensor] = []
        for name in ("before_step", "after_step", "end_epoch", "finish"):
            self._count(name)

    def _count(self, name: str) -> None:
        own = getattr(self.net, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return own(*args, **kwargs)

        object.__setattr__(self.net, name, counted)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = self.net.loss(self.net(x), y)
        self.log("train_loss", loss)
        return {"loss": loss}

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        if batch_idx == 0:
            self.validated.append(self.net.model[0].weight.detach().clone())  # type: ignore[union-attr,index]
        self.log("val_loss", self.net.loss(self.net(x), y))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net.param_groups(), lr=0.3, momentum=0.9)


class Plain(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()


def trainer(**options: Any) -> pl.Trainer:
    known: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 3,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [Regularize()],
    }
    return pl.Trainer(**{**known, **options})


def fit(module: pl.LightningModule, **options: Any) -> pl.Trainer:
    path = options.pop("ckpt_path", None)
    batches = options.pop("train", BATCHES)
    validation = options.pop("validation", True)
    with quiet():
        made = trainer(**options)
        made.fit(module, data(batches), data(2, seed=3) if validation else None, ckpt_path=path)
    return made


def loop(
    items: Sequence[Any], epochs: int = 3, accumulate: int = 1, norm: bool = False
) -> tuple[Regularized, list[Tensor]]:
    """The same training as a plain loop; returns what was validated too."""
    net = augpipe.regularize(mlp(norm), items)
    optimizer = torch.optim.SGD(net.param_groups(), lr=0.3, momentum=0.9)
    validated: list[Tensor] = []
    for _ in range(epochs):
        net.train()
        batches = list(data())
        for k in range(0, len(batches), accumulate):
            part = batches[k : k + accumulate]

            def closure(part: Any = part) -> None:
                optimizer.zero_grad()
                for x, y in part:
                    (net.loss(net(x), y) / accumulate).backward()

            closure()
            net.before_step(optimizer, closure)
            optimizer.step()
            net.after_step()
        net.eval()
        with net.averaged(), torch.no_grad():
            validated.append(net.model[0].weight.detach().clone())  # type: ignore[union-attr,index]
            losses = [net.loss(net(x), y) for x, y in data(2, seed=3)]
        if net.end_epoch({"val_loss": float(torch.stack(losses).mean())}):
            break
    net.train()
    net.finish(lambda: (x for x, _ in data()))
    return net, validated


def same(a: nn.Module, b: nn.Module) -> bool:
    first, second = a.state_dict(), b.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_each_is_called_as_often_as_it_should(accumulate: int) -> None:
    module = Mine(["label_smoothing"])
    fit(module, accumulate_grad_batches=accumulate, num_sanity_val_steps=2)
    steps = 3 * BATCHES // accumulate
    expected = {"before_step": steps, "after_step": steps, "end_epoch": 3}
    assert {name: module.calls[name] for name in expected} == expected
    assert module.calls["finish"] >= 1 and module.net.steps == steps


def test_a_rest_of_an_accumulation_is_a_step() -> None:
    module = Mine(["label_smoothing"])
    fit(module, train=5, accumulate_grad_batches=2, max_epochs=1)  # 2 + 2 + 1
    assert module.calls["before_step"] == module.calls["after_step"] == 3


def test_without_validation_epochs_end_too() -> None:
    module = Mine([{"swa": {"start": 1}}])
    fit(module, validation=False)
    assert module.calls["end_epoch"] == 3
    assert not same(module.net.model, loop(["label_smoothing"])[0].model)


def test_validating_alone_ends_no_epoch(tmp_path: Path) -> None:
    module = Mine(["label_smoothing"])
    plugins: list[Any] = [SafeCheckpoints()]
    made = fit(module, plugins=plugins)
    made.save_checkpoint(tmp_path / "x.safetensors")
    with quiet():
        other = trainer(plugins=plugins)
        again = Mine(["label_smoothing"])
        other.validate(again, data(2, seed=3), ckpt_path=tmp_path / "x.safetensors", verbose=False)
        made.validate(module, data(2, seed=3), verbose=False)
    assert again.calls["end_epoch"] == 0 and module.calls["end_epoch"] == 3


@pytest.mark.parametrize(
    "items",
    [
        [{"sam": {"rho": 0.3}}],
        [{"sam": {"rho": 0.3}}, {"gradient_clipping": 0.2}, {"weight_decay": 0.1}],
        [{"ema": {"decay": 0.8}}],
        [{"dropout": {"p": 0.4}}, {"r_drop": {"alpha": 1.0}}, {"gradient_noise": 0.1}],
        [{"early_stopping": {"monitor": "val_loss", "patience": 1}}, {"l1": 0.01}],
        [{"ema": {"decay": 0.8}}, {"early_stopping": {"monitor": "val_loss"}}],
    ],
    ids=str,
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_is_the_plain_loop_to_the_bit(items: list[Any], accumulate: int) -> None:
    torch.manual_seed(5)
    net, validated = loop(items, accumulate=accumulate)
    torch.manual_seed(5)
    module = Mine(items)
    fit(module, accumulate_grad_batches=accumulate, num_sanity_val_steps=0)
    assert module.net.steps == net.steps
    assert len(module.validated) == len(validated)
    assert all(torch.equal(a, b) for a, b in zip(module.validated, validated, strict=True))
    assert same(module.net.model, net.model)
    # And it does something: without it the weights are others.
    assert not same(loop(["label_smoothing"])[0].model, net.model)


@pytest.mark.parametrize("norm", [False, True])
def test_swa_ends_with_the_average_and_its_statistics(norm: bool) -> None:
    items = [{"swa": {"start": 1}}]
    module = Mine(items, norm)
    fit(module)
    assert same(module.net.model, loop(items, norm=norm)[0].model)


def test_validation_sees_the_average_and_training_does_not() -> None:
    module = Mine([{"ema": {"decay": 0.8}}])
    trained: list[Tensor] = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, *ignored: Any) -> None:
            trained.append(module.net.model[0].weight.detach().clone())  # type: ignore[union-attr,index]

    fit(module, callbacks=[Regularize(), Watch()], num_sanity_val_steps=0)
    # The average by hand: a_1 = w_1, a_t = 0.8 a + 0.2 w; from a run that keeps each step's w.
    plain = augpipe.regularize(mlp(), [{"label_smoothing": 0.0}])
    optimizer = torch.optim.SGD(plain.param_groups(), lr=0.3, momentum=0.9)
    average = None
    for epoch in range(3):
        for x, y in data():
            optimizer.zero_grad()
            plain.loss(plain(x), y).backward()
            optimizer.step()
            w = plain.model[0].weight.detach()  # type: ignore[union-attr,index]
            average = w.clone() if average is None else 0.8 * average + 0.2 * w
        assert torch.equal(trained[epoch], w)
        # Two ways to sum two products in float32.
        torch.testing.assert_close(module.validated[epoch], average, rtol=1e-5, atol=1e-6)


def test_it_stops_when_a_technique_says_so() -> None:
    module = Mine([{"early_stopping": {"monitor": "val_loss", "patience": 2, "min_delta": 1e9}}])
    made = fit(module, max_epochs=9, num_sanity_val_steps=0)
    assert made.current_epoch == 3 and module.calls["end_epoch"] == 3  # the first counts as best
    assert torch.equal(module.net.model[0].weight, module.validated[0])  # type: ignore[union-attr,index]


def test_a_metric_that_is_not_there_is_named() -> None:
    module = Mine([{"early_stopping": {"monitor": "val_accuracy"}}])
    with pytest.raises(UsageError, match="the metrics have no 'val_accuracy': they are"):
        fit(module)


def test_its_own_weights_are_back_after_an_error_in_validation() -> None:
    module = Mine([{"ema": {"decay": 0.8}}])
    seen: list[Tensor] = []

    def failing(batch: Any, batch_idx: int) -> None:
        raise RuntimeError("in validation")

    class Watch(pl.Callback):
        def on_train_batch_end(self, *ignored: Any) -> None:
            seen.append(module.net.model[0].weight.detach().clone())  # type: ignore[union-attr,index]

    module.validation_step = failing  # type: ignore[method-assign,assignment]
    with pytest.raises(RuntimeError, match="in validation"):
        fit(module, callbacks=[Regularize(), Watch()], num_sanity_val_steps=0)
    assert torch.equal(module.net.model[0].weight, seen[-1])  # type: ignore[union-attr,index]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_goes_on_from_a_checkpoint_with_the_techniques_state(
    tmp_path: Path, accumulate: int
) -> None:
    items = [{"ema": {"decay": 0.8}}, {"early_stopping": {"monitor": "val_loss"}}, {"isda": 0.5}]
    options: dict[str, Any] = {"accumulate_grad_batches": accumulate, "num_sanity_val_steps": 0}
    whole = Mine(items)
    fit(whole, max_epochs=4, **options)

    class Save(pl.Callback):
        def on_train_epoch_end(self, made: pl.Trainer, module: pl.LightningModule) -> None:
            if made.current_epoch == 1:
                made.save_checkpoint(tmp_path / "x.safetensors")

    plugins: list[Any] = [SafeCheckpoints()]
    fit(Mine(items), max_epochs=2, callbacks=[Regularize(), Save()], plugins=plugins, **options)
    later = Mine(items)
    fit(later, max_epochs=4, plugins=plugins, ckpt_path=tmp_path / "x.safetensors", **options)
    assert later.calls["after_step"] == 2 * BATCHES // accumulate
    assert later.net.steps == whole.net.steps == 4 * BATCHES // accumulate
    assert same(later.net.model, whole.net.model)
    assert all(
        torch.equal(*pair) for pair in zip(whole.validated[2:], later.validated, strict=True)
    )


def test_a_checkpoint_of_other_techniques_is_refused(tmp_path: Path) -> None:
    plugins: list[Any] = [SafeCheckpoints()]
    made = fit(Mine(["label_smoothing"]), plugins=plugins)
    made.save_checkpoint(tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="the saved run has the regularizers label_smoothing"):
        fit(Mine(["l2"]), plugins=plugins, ckpt_path=tmp_path / "x.safetensors")


def test_every_wrapped_network_is_served() -> None:
    module = Mine(["label_smoothing"])
    second = augpipe.regularize(mlp(), [{"ema": {"decay": 0.5}}, "sam"])
    module.second = second

    def step(batch: Any) -> Tensor:  # Lightning lets the number be left out
        x, y = batch
        return module.net.loss(module.net(x), y) + second.loss(second(x), y)

    def optimizers() -> Any:
        return torch.optim.SGD([*module.net.param_groups(), *second.param_groups()], lr=0.1)

    module.training_step = step  # type: ignore[method-assign,assignment]
    module.configure_optimizers = optimizers  # type: ignore[method-assign]
    fit(module)
    assert module.net.steps == second.steps == 3 * BATCHES


def test_a_second_pass_logs_nothing() -> None:
    losses: dict[str, list[float]] = {}
    for name, items in (("sam", [{"sam": {"rho": 0.5}}]), ("plain", [{"sam": {"rho": 0.0}}])):
        module = Mine(items)
        made = fit(copy.copy(module), max_steps=1, max_epochs=1, limit_val_batches=0)
        losses[name] = [float(made.callback_metrics["train_loss"])]
    assert losses["sam"] == losses["plain"]  # the loss at the weights, not at the worst point


def test_a_module_without_a_wrapped_network_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Plain holds no wrapped network: self\.net = augpipe"):
        Regularize().setup(trainer(), Plain(), "fit")
