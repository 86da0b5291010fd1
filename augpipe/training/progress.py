"""What a training says while it runs, and what it keeps of that for a run that goes on."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.loggers import CSVLogger

from augpipe.recipe import Recipe
from augpipe.regularizers.wrapper import Regularized
from augpipe.training.data import AugmentedData
from augpipe.training.evaluation import for_evaluation

_SHOWN = ("train_loss", "train_acc", "val_loss", "val_acc")


def described(
    recipe: Recipe, module: AugmentedData, wrapped: Regularized, trainer: pl.Trainer, steps: int
) -> str:
    """Says what is trained, on what, how, and how it is measured."""
    parts, test, rule = module.splits, module.splits.test, recipe.train
    count = sum(each.numel() for each in wrapped.model.parameters())
    measured = f"{len(test)} to test on" if test else "no test split: validation is the measure"
    evaluation = ", ".join(op.name() for op in for_evaluation(recipe).sample) or "as they are"
    return "\n".join(
        (
            f"{rule.model}, {count:,} parameters, on {trainer.strategy.root_device}",
            f"{rule.optimizer}, lr {rule.rate:g} {rule.schedule} after {rule.warmup:.0%} of "
            f"warm-up, {rule.precision}, {steps} steps of {rule.batch_size} images",
            f"{len(parts.train)} images of {len(parts.classes)} classes to train on, "
            f"{len(parts.validation)} to validate on, {measured}",
            f"validation and test: {evaluation}",
            str(wrapped),
        )
    )


class Clock(pl.Callback):
    """Counts the seconds of a training, over its interruptions, and tells of each epoch.

    Args:
        say: Is told a line an epoch; None where a bar shows it.

    Attributes:
        before: The seconds of the run that this one goes on with.
        kept: What is written beside each checkpoint; the seconds are put there.
    """

    def __init__(self, say: Callable[[str], None] | None) -> None:
        self._say = say
        self._begun = time.monotonic()
        self.before = 0.0
        self.kept: dict[str, str] = {}

    @property
    def seconds(self) -> float:
        """The seconds so far."""
        return self.before + time.monotonic() - self._begun

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begins to count."""
        self._begun = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tells of the epoch; Lightning calls this before checkpoints are written."""
        self.kept["seconds"] = str(self.seconds)
        if self._say is None or not trainer.is_global_zero:
            return
        metrics = trainer.callback_metrics
        said = [f"{name} {float(metrics[name]):.3f}" for name in _SHOWN if name in metrics]
        count = f"epoch {trainer.current_epoch + 1}/{trainer.fit_loop.max_epochs}"
        self._say(f"{count}: {', '.join(said)}, {self.seconds:.0f} s")


class History(pl.Callback):
    """Writes again what a run that goes on has logged: Lightning's logger begins the file anew."""

    def __init__(self, path: Path) -> None:
        self._rows: list[dict[str, Any]] = []
        if path.exists():
            # A process that is killed while it writes leaves half a line.
            with path.open(newline="", encoding="utf-8", errors="replace") as file:
                rows = list(csv.DictReader(file))
            self._rows = [row for row in rows if (row.get("step") or "").isdecimal()]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes the rows of before the checkpoint."""
        for logger in trainer.loggers:
            if isinstance(logger, CSVLogger):
                for row in self._rows:
                    step = int(row.pop("step"))
                    if step < trainer.global_step:
                        logger.log_metrics({k: v for k, v in row.items() if v}, step)
                logger.save()
        self._rows = []

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Writes them where no step was left to do."""
        self.on_train_start(trainer, pl_module)
