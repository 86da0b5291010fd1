"""Lightning's side of the training wrapper, for any LightningModule."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.signature_utils import is_param_in_hook_signature
from torch import nn

from augpipe.data.loader import Loader
from augpipe.errors import UsageError
from augpipe.regularizers.wrapper import Regularized


class Regularize(pl.Callback):
    """Does for a LightningModule what a loop of one's own would do for `augpipe.regularize`.

        class Mine(LightningModule):
            def __init__(self):
                self.net = augpipe.regularize(resnet18(), "recipe.yaml")
            def training_step(self, batch, _):
                x, y = batch
                return self.net.loss(self.net(x), y)
            def configure_optimizers(self):
                return torch.optim.SGD(self.net.param_groups(), lr=0.1)

        Trainer(callbacks=[Regularize()]).fit(Mine(), data)

    It calls `before_step`, `after_step`, `end_epoch` (with what was logged, after validation) and
    `finish`, validates with averaged weights, stops where a technique says so, and keeps the
    techniques' state in checkpoints. Every wrapped network in the module is served.

    Techniques that need the loss anew (`sam`) run `training_step` twice on each batch of the
    step; under several devices the second gradients are averaged as the first are.
    """

    def __init__(self) -> None:
        self._nets: list[Regularized] = []
        self._loaded: list[Any] | None = None
        self._batches: list[tuple[Any, int]] = []
        self._step = 0
        self._averaged = ExitStack()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Finds the wrapped networks.

        Raises:
            UsageError: There is none.
        """
        self._nets = [each for each in pl_module.modules() if isinstance(each, Regularized)]
        if not self._nets:
            raise UsageError(
                f"{type(pl_module).__name__} holds no wrapped network: "
                "self.net = augpipe.regularize(net, recipe)"
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes up a saved run."""
        if self._loaded is not None:
            for net, state in zip(self._nets, self._loaded, strict=True):
                net.load_run_state(state)
            self._loaded = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Notes the step to go on from, which Lightning knows by now."""
        self._step = trainer.global_step
        self._batches = []
        if any(net.stopped for net in self._nets):  # by a run that ended before it could say so
            trainer.should_stop = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keeps the batches of a step for techniques that need them twice."""
        self._batches.append((batch, batch_idx))

    def on_before_optimizer_step(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Calls `before_step`."""
        again = functools.partial(self._again, trainer, pl_module, optimizer)
        for net in self._nets:
            net.before_step(optimizer, again)

    def on_train_batch_end(self, trainer: pl.Trainer, *ignored: Any) -> None:
        """Calls `after_step` where the optimizer stepped."""
        if trainer.global_step > self._step:
            self._step = trainer.global_step
            self._batches = []
            for net in self._nets:
                net.after_step()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the averaged weights in."""
        for net in self._nets:
            self._averaged.enter_context(net.averaged())

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Puts the own weights back, and calls `end_epoch`."""
        self._averaged.close()
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._end_epoch(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Calls `end_epoch` where there is no validation to do it."""
        if not trainer.enable_validation:
            self._end_epoch(trainer)

    def _end_epoch(self, trainer: pl.Trainer) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        # Every device has to decide alike: metrics are logged with sync_dist.
        if any([net.end_epoch(metrics) for net in self._nets]):
            trainer.should_stop = True

    def on_exception(self, *ignored: Any) -> None:
        """Puts the own weights back."""
        self._averaged.close()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Calls `finish` with the training batches."""
        for net in self._nets:
            net.finish(functools.partial(_inputs, trainer))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Calls `finish` where the checkpoint was the last one, and no step was left to do."""
        self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Returns the techniques' state."""
        return {"nets": [net.run_state() for net in self._nets]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes the techniques' state, for when the networks are there."""
        self._loaded = list(state_dict["nets"])

    def _again(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Clears the gradients and computes them anew for the same batches."""
        optimizer.zero_grad()
        numbered = is_param_in_hook_signature(pl_module.training_step, "batch_idx", min_args=2)
        for batch, number in self._batches:
            with _unlogged(pl_module), trainer.precision_plugin.train_step_context():
                step = pl_module.training_step(batch, *([number] if numbered else []))
            loss = step["loss"] if isinstance(step, Mapping) else step
            assert isinstance(loss, torch.Tensor)  # there were gradients, so there was a loss
            (loss / trainer.accumulate_grad_batches).backward()  # type: ignore[no-untyped-call]
        if trainer.world_size > 1:
            for parameter in pl_module.parameters():
                if parameter.grad is not None:
                    torch.distributed.all_reduce(parameter.grad)
                    parameter.grad /= trainer.world_size


def _inputs(trainer: pl.Trainer) -> Iterator[Any]:
    """Yields the inputs of the training batches, those of the epoch after the last."""
    trainer.fit_loop.setup_data()  # nothing is done where it was
    batches = trainer.train_dataloader or ()
    if isinstance(batches, Loader):  # how often Lightning has begun it must not count
        batches.set_epoch(trainer.current_epoch)
    for batch in batches:
        yield batch[0] if isinstance(batch, tuple | list) else batch


@contextmanager
def _unlogged(module: nn.Module) -> Iterator[None]:
    """Has a module log nothing: it did for this batch."""
    vars(module).update(log=_nothing, log_dict=_nothing)
    try:
        yield
    finally:
        del vars(module)["log"], vars(module)["log_dict"]


def _nothing(*args: Any, **kwargs: Any) -> None:
    """Does nothing."""
