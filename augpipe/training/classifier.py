"""The LightningModule behind `augpipe train`."""

from __future__ import annotations

import math
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from augpipe.errors import AugpipeError
from augpipe.losses import accuracy
from augpipe.regularizers.wrapper import Regularized
from augpipe.settings import TrainRule


class DivergedError(AugpipeError):
    """Training that cannot go on: the loss is not a number."""


class Classifier(pl.LightningModule):
    """Trains a wrapped network to tell classes apart.

    Logs train_loss and lr by step; train_acc, val_loss and val_acc by epoch, test_acc at the end.

    Args:
        net: The network.
        rule: How to train.
        steps: How many optimizer steps there will be.
    """

    def __init__(self, net: Regularized, rule: TrainRule, steps: int) -> None:
        super().__init__()
        self.net = net
        self._rule = rule
        self._steps = steps
        self._generator: Tensor | None = None
        names = ("train_acc", "val_loss", "val_acc", "test_loss", "test_acc")
        self.means = torch.nn.ModuleDict({name: MeanMetric() for name in names})

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits (n, classes) of images (n, channels, h, w)."""
        logits: Tensor = self.net(x)
        return logits

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Returns the loss of a batch.

        Raises:
            DivergedError: It is not a number.
        """
        x, y = batch
        logits = self.net(x)
        loss = self.net.loss(logits, y)
        if not math.isfinite(loss.item()):
            raise DivergedError(
                f"the loss is {loss.item()} at step {self.global_step}: lower train.lr "
                f"(now {self._rule.rate:g}) or raise train.warmup"
            )
        self.log("train_loss", loss, prog_bar=True)
        self._log("train_acc", accuracy(logits, y), len(x))
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Measures a validation batch."""
        self._measure("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Measures a test batch."""
        self._measure("test", batch)

    def _measure(self, name: str, batch: Any) -> None:
        x, y = batch
        logits = self.net(x)
        for metric, value in (("loss", self.net.loss(logits, y)), ("acc", accuracy(logits, y))):
            self._log(f"{name}_{metric}", value, len(x))

    def _log(self, name: str, value: Tensor, count: int) -> None:
        """Logs the epoch's mean, exact over batches of any size and over devices."""
        mean = self.means[name]
        assert isinstance(mean, MeanMetric)
        mean(value, count)
        self.log(name, mean, prog_bar=name.startswith("val"), on_step=False, on_epoch=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps where PyTorch's generator stands: the noise goes on as it would have."""
        checkpoint["generator"] = torch.get_rng_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up where the generator stood, once training begins."""
        self._generator = checkpoint.get("generator")

    def on_train_start(self) -> None:
        """Starts the noise: of the rank's own, or where a checkpoint left it."""
        if self._generator is not None:
            torch.set_rng_state(self._generator)
        elif self.trainer.world_size > 1:
            # Ranks build the same network from the same seed; their noise must not be the same.
            torch.manual_seed(torch.initial_seed() + self.trainer.global_rank)  # noqa: TID251

    def configure_optimizers(self) -> Any:
        """Returns the optimizer and the schedule of its learning rate, by step."""
        optimizer = _optimizer(self._rule, self.net.param_groups())
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.share_of_rate)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def share_of_rate(self, step: int) -> float:
        """Returns the learning rate of a step as a share of the highest.

        It rises linearly over the warm-up, then falls: 1 - u (linear) or (1 + cos(pi u)) / 2
        (cosine), u the share done of the rest.
        """
        rise = round(self._rule.warmup * self._steps)
        if step < rise:
            return (step + 1) / (rise + 1)
        done = min((step - rise) / max(self._steps - rise, 1), 1.0)
        match self._rule.schedule:
            case "cosine":
                return (1 + math.cos(math.pi * done)) / 2
            case "linear":
                return 1 - done
        return 1.0


def _optimizer(rule: TrainRule, groups: Any) -> torch.optim.Optimizer:
    match rule.optimizer:
        case "sgd":
            nesterov = rule.momentum > 0
            return torch.optim.SGD(groups, rule.rate, rule.momentum, nesterov=nesterov)
        case "adam":
            return torch.optim.Adam(groups, rule.rate)
        case "adamw":
            return torch.optim.AdamW(groups, rule.rate)
    return torch.optim.RMSprop(groups, rule.rate)
