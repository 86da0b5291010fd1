"""When to stop, and with which weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import torch
from torch import nn

from augpipe.errors import UsageError
from augpipe.regularizers.base import Regularizer
from augpipe.regularizers.effect import Effect, Site, Weights, fitted
from augpipe.spec import ArgumentRefused, Choice, Number, Text

_UP = re.compile(
    "acc|accuracy|ap|auc|auroc|bleu|dice|f1|iou|jaccard|kappa|map|mcc|miou|ndcg|precision|psnr|"
    "r2|recall|rouge|sensitivity|specificity|ssim"
)
_DOWN = re.compile(
    "bce|bpc|brier|ce|cer|ece|entropy|err|error|fid|logloss|loss|lpips|mae|mape|mse|nll|"
    "perplexity|ppl|rmse|wer"
)


class EarlyStopping(Regularizer):
    """Stops when a metric no longer improves, and gives the model the weights of its best epoch.

    Epoch e improves if m_e < best - min_delta (min) or m_e > best + min_delta (max); then best is
    m_e, and the weights and buffers are copied. `end_epoch` returns True after `patience` epochs
    in a row without an improvement. `finish` puts the copy back, also when training ended by
    itself. A metric of NaN is no improvement.

    What is kept is what was validated: the averaged weights of `ema` or `swa` if validation ran
    inside `with wrapped.averaged()`, else the model's own. It is put back after every other
    technique has finished, so that averages that were not validated do not replace it.

    Suggested: patience 5 to 10 epochs (with a learning rate that falls to 0, long enough to reach
    the fall, or it stops too early); min_delta 0. The metric must come from data that is not
    trained on, and the test set must be a third. With several processes, give `end_epoch` the same
    figures in each, or one stops while the others wait for it.

    `mode: auto` reads the name: accuracy, auc, f1, precision, recall and the like are to rise,
    losses and errors to fall; another name is refused.

    Paper: Prechelt, "Early Stopping - But When?", Neural Networks: Tricks of the Trade (1998).
    Stops at the epoch at which Lightning's and Keras's `EarlyStopping` do, Keras's with
    `restore_best_weights=True`, Lightning's with `check_finite=False`: NaN and infinity are no
    improvement here, there they stop at once.
    """

    main: ClassVar[str] = "monitor"

    monitor: Annotated[str, Text("the name of a metric")] = "val_loss"
    """The metric, by its name in `end_epoch(metrics)`."""
    patience: Annotated[int, Number(1, 1_000_000, "epochs", integer=True)] = 5
    """After how many epochs in a row without an improvement to stop."""
    min_delta: Annotated[float, Number(0)] = 0.0
    """By how much the metric must change to count as improved."""
    mode: Annotated[str, Choice(("auto", "min", "max"))] = "auto"
    """Whether lower or higher is better."""

    def model_post_init(self, context: Any) -> None:
        if self.mode == "auto" and _direction(self.monitor) is None:
            raise ArgumentRefused(
                f"'{self.monitor}' does not tell whether lower or higher is better: "
                "add mode: min or mode: max",
                "monitor",
            )

    @property
    def rises(self) -> bool:
        """Whether higher is better."""
        return (_direction(self.monitor) if self.mode == "auto" else self.mode) == "max"

    @property
    def watches(self) -> str:
        """The monitored metric."""
        return self.monitor

    def attach(self, model: nn.Module) -> Effect:
        return _Stopping(self)


class _Stopping(Effect):
    order = 2

    def __init__(self, spec: EarlyStopping) -> None:
        better = "max" if spec.rises else "min"
        super().__init__([Site("training", f"{spec.monitor}, {better}, patience {spec.patience}")])
        self.spec = spec
        self.best: float | None = None
        self.waited = 0
        self.kept: Weights = {}

    def joined(self, whole: nn.Module) -> None:
        self.whole = (whole,)

    def check_epoch(self, metrics: Mapping[str, float]) -> None:
        self.value(metrics)

    def end_epoch(self, metrics: Mapping[str, float]) -> bool:
        if self.improves(self.value(metrics)):
            self.waited = 0
            self.kept = {name: each.detach().clone() for name, each in self.own().items()}
        else:
            self.waited += 1
        return self.waited >= self.spec.patience

    def improves(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        sign = 1.0 if self.spec.rises else -1.0
        if self.best is not None and not sign * (value - self.best) > self.spec.min_delta:
            return False
        self.best = value
        return True

    def value(self, metrics: Mapping[str, float]) -> float:
        if self.spec.monitor not in metrics:
            raise UsageError(
                f"early_stopping: the metrics have no '{self.spec.monitor}': "
                f"they are {', '.join(map(str, metrics)) or 'none'}"
            )
        try:
            return float(metrics[self.spec.monitor])
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(f"early_stopping: {self.spec.monitor} is not a number") from None

    def own(self) -> Weights:
        whole = self.whole[0]
        return {**dict(whole.named_parameters()), **dict(whole.named_buffers())}

    def finish(self, batches: Any = None) -> None:
        own = self.own()
        with torch.no_grad():
            for name, value in self.kept.items():
                own[name].copy_(value)

    def extra(self) -> dict[str, Any]:
        return {"best": self.best, "waited": self.waited, "kept": dict(self.kept)}

    def load_extra(self, state: Mapping[str, Any]) -> None:
        self.kept = fitted(state["kept"], self.whole[0], "early_stopping")
        self.best, self.waited = state["best"], int(state["waited"])


def _direction(metric: str) -> str | None:
    """Reads from a metric's name whether it is to rise ("max") or to fall ("min")."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", metric).lower()
    words = set(re.split(r"[^a-z0-9]+", split))
    words |= {word.rstrip("0123456789") for word in words}  # acc5, ap50
    rises, falls = any(map(_UP.fullmatch, words)), any(map(_DOWN.fullmatch, words))
    return None if rises == falls else "max" if rises else "min"
