"""Averages of the weights along the way: a model to judge and to keep, beside the one trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from augpipe.errors import UsageError
from augpipe.regularizers.base import Regularizer
from augpipe.regularizers.effect import Effect, Site, Weights, fitted
from augpipe.regularizers.rate import Rate
from augpipe.spec import Choice, Flag, Number


class Ema(Regularizer):
    """Keeps an exponential moving average of the weights, and ends training with it.

    a_1 = w_1, a_t = d a_(t-1) + (1 - d) w_t after step t, with d the decay; with `warmup`,
    d_t = min(decay, (1 + t) / (10 + t)), t the steps averaged so far. Validate inside
    `with wrapped.averaged()`; `finish` gives the model the average.

    Suggested: 0.999 for runs of thousands of steps, 0.9999 for hundreds of thousands: the
    average reaches back about 1 / (1 - decay) steps, which should be a small share of the run.
    Short runs need `warmup`. Parameters are averaged; buffers are the model's, so that batch
    normalization's running statistics are those of the trained weights. Weights narrower than
    float32 are averaged in float32, where small steps do not vanish. Memory: the weights once
    more. It follows every other technique's `after_step`, whatever its place.

    Paper: Polyak and Juditsky, SIAM J. Control Optim. 30 (1992); Tarvainen and Valpola, "Mean
    teachers are better role models", arXiv 1703.01780. Equal to
    `torch.optim.swa_utils.AveragedModel` with `get_ema_multi_avg_fn(decay)`; the warm-up is
    TensorFlow's `ExponentialMovingAverage(num_updates=...)`.
    """

    main: ClassVar[str] = "decay"

    decay: Annotated[Any, Rate(0, 1)] = 0.999
    """What the average keeps of itself in a step."""
    warmup: Annotated[bool, Flag()] = False
    """Whether the first steps are forgotten sooner."""

    def attach(self, model: nn.Module) -> Effect:
        return _Ema(self)


class Swa(Regularizer):
    """Averages the weights of the last part of training, all alike, and ends training with that.

    a = (w_1 + ... + w_n) / n, of the weights after every `every`-th epoch or step from `start`
    on. `finish(batches)` gives the model the average and measures the running statistics of its
    batch normalization anew, in one pass over the inputs.

    A run that ends before `start` keeps its own weights; `finish` warns of that.

    Suggested: start at three quarters of the training, with a learning rate that stays high from
    there (constant or cyclic, about half the first): with one that falls to 0 the averaged points
    lie close together and little is gained. Weights narrower than float32 are averaged in
    float32.

    A model with batch normalization needs the batches: statistics of other weights make it
    useless. `finish()` without them is therefore an error that changes nothing; call it again
    with them. Until then such an average cannot be judged either: `averaged()` leaves the model
    its own weights, and early stopping, which keeps what was validated, wins over the average at
    the end. Without batch normalization `averaged()` gives the average. Batch normalization that
    was in `eval()` while weights were taken keeps its statistics. The pass
    measures what the tested network sees: everything but batch normalization is in `eval()`,
    where PyTorch's `update_bn` has dropout at work.

    Paper: Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization",
    arXiv 1803.05407. Equal to `torch.optim.swa_utils.AveragedModel` and, on a
    network without noise, `update_bn`.
    """

    main: ClassVar[str] = "start"

    start: Annotated[int, Number(0, 2**53, integer=True)]
    """After how many epochs (or steps) the first weights are taken; 0: after `every`."""
    every: Annotated[int, Number(1, 2**53, integer=True)] = 1
    """At how many epochs (or steps) distance the next are."""
    unit: Annotated[str, Choice(("epochs", "steps"))] = "epochs"
    """What `start` and `every` count."""

    def attach(self, model: nn.Module) -> Effect:
        return _Swa(self, model)


class _Average(Effect):
    order = 1

    def __init__(self, who: str, words: str) -> None:
        super().__init__([Site("weights", words)])
        self.who = who
        self.taken = 0
        self.average: Weights = {}

    def joined(self, whole: nn.Module) -> None:
        if next(whole.parameters(), None) is None:
            raise UsageError(f"{self.who}: the model has no parameters to average")
        self.whole = (whole,)

    @torch.no_grad()
    def take(self, share: float) -> None:
        """Moves the average by a share of the way to the weights that the model has now."""
        weights = _floats(self.whole[0])
        self.taken += 1
        if self.taken == 1:
            self.average = {name: each.clone() for name, each in weights.items()}
            return
        for name, value in weights.items():
            self.average[name] = self.average[name].to(value)  # the model may have been moved
        # One call for all of them, as PyTorch's own averages and optimizers have it.
        torch._foreach_lerp_([self.average[name] for name in weights], [*weights.values()], share)

    def averaged(self) -> Weights | None:
        return self.average if self.taken else None

    @torch.no_grad()
    def finish(self, batches: Any = None) -> None:
        own = dict(self.whole[0].named_parameters())
        for name, value in self.average.items():
            own[name].copy_(value)

    def extra(self) -> dict[str, Any]:
        return {"taken": self.taken, "average": dict(self.average)}

    def load_extra(self, state: Mapping[str, Any]) -> None:
        self.average = fitted(state["average"], self.whole[0], self.who)
        self.taken = int(state["taken"])


class _Ema(_Average):
    def __init__(self, spec: Ema) -> None:
        warm = ", warm-up" if spec.warmup else ""
        super().__init__(spec.name(), f"moving average, decay {spec.decay}{warm}")
        self.decay = self.dial(spec.decay)
        self.warmup = spec.warmup

    def after_step(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        decay = float(self.decay)
        if self.warmup:
            decay = min(decay, (1 + self.taken) / (10 + self.taken))
        self.take(1 - decay)


class _Swa(_Average):
    def __init__(self, spec: Swa, model: nn.Module) -> None:
        words = f"average from {spec.unit[:-1]} {spec.start}, every {spec.every}"
        super().__init__(spec.name(), words)
        self.spec = spec
        self.model = (model,)
        self.counted = 0
        self.norms = tuple((name, each) for name, each in model.named_modules() if _measures(each))
        self.trained: list[str] = []  # the norms whose statistics followed the trained weights

    def joined(self, whole: nn.Module) -> None:
        super().joined(whole)
        known = {each for _, each in self.norms}
        if any(_measures(each) and each not in known for each in whole.modules()):
            raise UsageError(
                "swa: it cannot measure the statistics of batch normalization that a technique "
                "has put in (batch_norm): build it into the model, or take ema"
            )

    def after_step(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.trained = [name for name, each in self.norms if each.training]
        if self.spec.unit == "steps":
            self.count()

    def end_epoch(self, metrics: Mapping[str, float]) -> bool:
        if self.spec.unit == "epochs":
            self.count()
        return False

    def count(self) -> None:
        self.counted += 1
        late = self.counted - self.spec.start
        if late >= 0 and late % self.spec.every == 0:
            self.take(1 / (self.taken + 1))

    def averaged(self) -> Weights | None:
        return None if self.trained else super().averaged()

    def check_finish(self, batches: Any = None) -> None:
        if not self.trained or not self.taken:
            return
        if batches is None:
            raise UsageError(
                f"swa: {self.trained[0]} is batch normalization, whose statistics are not those "
                "of the averaged weights: call wrapped.finish(batches) with inputs to measure them"
            )
        if isinstance(batches, Mapping) or not (callable(batches) or isinstance(batches, Iterable)):
            raise UsageError(f"swa: batches must be inputs, not {type(batches).__name__}")

    @torch.no_grad()
    def finish(self, batches: Any = None) -> None:
        if not self.taken and self.counted:
            warnings.warn(
                f"swa: nothing was averaged in {self.counted} {self.spec.unit}, for it starts "
                f"after {self.spec.start}: the model keeps its own weights",
                stacklevel=3,
            )
        if not self.trained or not self.taken:
            return super().finish()
        whole = self.whole[0]
        own: Weights = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
        before = {name: each.detach().clone() for name, each in own.items()}
        super().finish()
        try:
            self.measure(batches)
        except BaseException:
            for name, value in before.items():
                own[name].copy_(value)
            raise

    def measure(self, batches: Iterable[Any] | Callable[[], Iterable[Any]]) -> None:
        """Measures the running statistics of batch normalization on inputs."""
        model = self.model[0]
        norms = [each for name, each in self.norms if name in self.trained]
        modes = [(each, each.training) for each in model.modules()]
        momenta = [each.momentum for each in norms]
        device = next(model.parameters()).device
        seen = 0
        try:
            model.eval()
            for each in norms:
                each.train()
                each.reset_running_stats()
                each.momentum = None  # the mean of all batches
            for batch in batches() if callable(batches) else batches:
                x = batch[0] if isinstance(batch, (list, tuple)) else batch
                model(x.to(device) if isinstance(x, Tensor) else x)
                seen += 1
        finally:
            for each, momentum in zip(norms, momenta, strict=True):
                each.momentum = momentum
            for module, mode in modes:
                module.training = mode
        if not seen:
            raise UsageError("swa: finish(batches) got no batch to measure batch normalization on")

    def extra(self) -> dict[str, Any]:
        return {**super().extra(), "counted": self.counted, "trained": list(self.trained)}

    def load_extra(self, state: Mapping[str, Any]) -> None:
        super().load_extra(state)
        self.counted = int(state["counted"])
        self.trained = list(state["trained"])


def _measures(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats


def _floats(model: nn.Module) -> Weights:
    """Returns the weights that can be averaged, in float32 at least."""
    found = {}
    for name, each in model.named_parameters():
        if each.is_floating_point() or each.is_complex():
            narrow = each.dtype in (torch.float16, torch.bfloat16)
            found[name] = each.detach().float() if narrow else each.detach()
    return found
