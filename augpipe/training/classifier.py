"""The LightningModule behind `augpipe train`."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torchmetrics import MeanMetric

from augpipe.errors import DivergedError
from augpipe.losses import accuracy
from augpipe.regularizers.wrapper import Regularized
from augpipe.settings import TrainRule


class Classifier(pl.LightningModule):
    """Trains a wrapped network to tell classes apart.

    Logs train_loss and lr by step, train_acc, val_loss and val_acc by epoch, and the loss and
    accuracy of `trainer.test` under the name that `measured` holds.

    Args:
        net: The network.
        rule: How to train.
        steps: How many optimizer steps there will be.

    Attributes:
        measured: What `trainer.test` is given: test, final_train or final_val.
        losses: Of the last steps, 100 at most.
    """

    def __init__(self, net: Regularized, rule: TrainRule, steps: int) -> None:
        super().__init__()
        self.net = net
        self._rule = rule
        self._steps = steps
        self._generators: list[Tensor] = []
        self.measured = "test"
        self.losses: deque[float] = deque(maxlen=100)
        parts = ("val", "test", "final_train", "final_val")
        names = (f"{part}_{what}" for part in parts for what in ("loss", "acc"))
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
        self._check("the loss", value := loss.item())
        self.losses.append(value)
        self.log("train_loss", loss, prog_bar=True)
        self.log("lr", self.trainer.optimizers[0].param_groups[0]["lr"])
        # Every batch is as large and no batch is smaller: the mean of means is exact. A metric
        # object would count the second pass of `sam` too.
        hits = accuracy(logits, y)
        self.log("train_acc", hits, False, on_step=False, on_epoch=True, sync_dist=True)
        return loss

    def on_train_batch_end(self, *ignored: Any) -> None:
        """Stops after the last step, be it within an epoch."""
        if self.global_step >= self._steps:
            self.trainer.should_stop = True

    def on_train_epoch_end(self) -> None:
        """Refuses weights that are no numbers, before they are kept.

        Raises:
            DivergedError: Some are not finite.
        """
        for name, each in self.net.model.named_parameters():
            if not bool(each.isfinite().all()):
                self._check(f"a weight in {name}", math.nan)

    def _check(self, what: str, value: float) -> None:
        if not math.isfinite(value):
            raise DivergedError(
                f"{what} is {value} at step {self.global_step}: lower train.lr "
                f"(now {self._rule.rate:g}) or raise train.warmup"
            )

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Measures a validation batch.

        Raises:
            DivergedError: The loss is not a number.
        """
        self._check("the validation loss", self._measure("val", batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Measures a test batch.

        Raises:
            DivergedError: The loss is not a number.
        """
        self._check("the test loss", self._measure(self.measured, batch))

    def _measure(self, name: str, batch: Any) -> float:
        x, y = batch
        logits = self.net(x)
        loss = self.net.loss(logits, y)
        for metric, value in (("loss", loss), ("acc", accuracy(logits, y))):
            self._log(f"{name}_{metric}", value, len(x))
        return loss.item()

    def _log(self, name: str, value: Tensor, count: int) -> None:
        """Logs the epoch's mean, exact over batches of any size and over devices."""
        mean = self.means[name]
        assert isinstance(mean, MeanMetric)
        mean(value, count)
        self.log(name, mean, prog_bar=name.startswith("val"), on_step=False, on_epoch=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the last losses and where the generators stand: the noise goes on as it would."""
        gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        checkpoint["generators"] = [torch.get_rng_state(), *gpus]
        checkpoint["losses"] = list(self.losses)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes up where the generators stood, once training begins."""
        self._generators = list(checkpoint.get("generators", ()))
        self.losses.extend(checkpoint.get("losses", ()))

    def on_train_start(self) -> None:
        """Starts the noise: of the rank's own, or where a checkpoint left it."""
        world = self.trainer.world_size
        if world > 1:
            # Ranks build the same network from the same seed; their noise must not be the same,
            # nor, after a restart, that of the first steps.
            own = self.trainer.global_rank + world * self.trainer.global_step
            torch.manual_seed(torch.initial_seed() + own)  # noqa: TID251
        elif self._generators:
            first, *gpus = self._generators
            torch.set_rng_state(first)
            if len(gpus) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(gpus)

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
