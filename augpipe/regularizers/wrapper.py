"""A model with regularizers on it, for any training loop."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from augpipe.errors import SiteError, UsageError, did_you_mean
from augpipe.losses import soft_cross_entropy
from augpipe.regularizers import state as states
from augpipe.regularizers.base import Regularizer
from augpipe.regularizers.effect import Closure, Effect, Groups, weights_replaced

_WRAPPED = "_augpipe_wrapped"  # of a model that has a wrapper
_SHOWN = 4  # sites named in a line


class Regularized(nn.Module):
    """A model with regularizers on it: itself a module, called as the model is.

        optimizer = torch.optim.SGD(wrapped.param_groups(), lr=0.1)
        for x, y in batches:
            loss = wrapped.loss(wrapped(x), y)
            optimizer.zero_grad()
            loss.backward()
            wrapped.before_step(optimizer)
            optimizer.step()
            wrapped.after_step()
        if wrapped.end_epoch({"val_loss": ...}):
            break
        wrapped.finish()

    The model stays as it is: its parameters are the same objects under the same names, and
    `state_dict()` has the keys of the plain model, so that either loads what the other saved.
    In `eval()` the output and the loss are those of the plain model, but for techniques that say
    otherwise. The noise comes from PyTorch's generator: `torch.manual_seed` reproduces a run.

    `torch.compile(wrapped)`, autocast, and `DistributedDataParallel(wrapped)` work: call the
    outer module, and `loss`, `before_step` and the rest on this one. One thread trains it: a
    forward may put other weights into a layer for its time.

    Args:
        model: The model.
        regularizers: The techniques, in the order in which they act.
        criterion: loss(output, target); by default the cross-entropy with classes or with rows
            of shares.

    Attributes:
        model: The model.
        steps: How many optimizer steps were done.
        stopped: What `end_epoch` last returned.

    Raises:
        SiteError: Techniques find no site, every one with its reason.
        UsageError: The model is compiled, or wrapped, or lazy. Nothing is left on it.
    """

    def __init__(
        self,
        model: nn.Module,
        regularizers: Sequence[Regularizer],
        criterion: Callable[[Any, Any], Tensor] = soft_cross_entropy,
    ) -> None:
        super().__init__()
        if isinstance(model, Regularized) or _WRAPPED in model.__dict__:
            raise UsageError("the model is wrapped already: remove() that first, or wrap it once")
        _check(model)
        if not callable(criterion):
            raise UsageError(f"criterion must be loss(output, target); got {criterion!r}")
        self.model = model
        self.regularizers = tuple(regularizers)
        self.criterion = criterion
        self.effects = nn.ModuleList()
        self.steps = 0
        self.stopped = False
        self._optimizers: list[torch.optim.Optimizer] = []
        self._trained = False  # whether a loss was asked for
        self._judged_averaged = False  # since the last `end_epoch`
        self._finished = False
        order = sorted(enumerate(self.regularizers), key=lambda pair: not pair[1].structural)
        try:
            problems = {}
            for place, regularizer in order:
                try:
                    self.effects.append(regularizer.attach(model))
                except UsageError as error:
                    problems[place] = str(error)
            if problems:
                raise SiteError(problems)
            places = sorted(range(len(order)), key=lambda i: order[i][0])
            self.effects = nn.ModuleList(self.effects[i] for i in places)
            for effect in self._effects():
                effect.joined(self)
        except BaseException:
            self.remove()
            raise
        model.__dict__[_WRAPPED] = True
        # Not `self.train`: the model's parts keep their modes, such as a frozen backbone's.
        self.training = model.training
        self.effects.train(model.training)
        states.keep_names(self)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the model."""
        call = self.model.__call__
        if self.training:
            for effect in self._effects():
                if type(effect).around_forward is not Effect.around_forward:
                    call = functools.partial(_around, effect, call)
        try:
            return call(*args, **kwargs)
        except BaseException:
            states.restore(self)
            raise

    def loss(self, output: Any, target: Any) -> Tensor:
        """Returns the loss to minimize: the criterion with what the techniques make of it.

        In `eval()` it is the criterion alone.

        Args:
            output: What the model returned for the batch, in this step.
            target: What the criterion takes.
        """
        if not self.training:
            return self.criterion(output, target)
        self._trained = True
        loss = self.criterion
        for effect in self._effects():
            if type(effect).around_loss is not Effect.around_loss:
                loss = functools.partial(effect.around_loss, loss)
        total = loss(output, target)
        for effect in self._effects():
            more = effect.penalty(output, target)
            total = total if more is None else total + more
        return total

    def param_groups(self, **options: Any) -> Groups:
        """Returns the parameter groups to build an optimizer with: any that takes groups.

        Of PyTorch's that is every one but LBFGS.

        Args:
            options: Settings for every group, as `lr=0.1`.
        """
        own = [each for each in self.parameters() if each.requires_grad]
        groups: Groups = [{"params": own, **options}]
        for effect in self._effects():
            groups = effect.groups(groups)
        return [group for group in groups if group["params"]]

    def before_step(self, optimizer: torch.optim.Optimizer, closure: Closure | None = None) -> None:
        """Goes between `backward` and `optimizer.step()`: clipping, decay, noise on gradients.

        With several optimizers it is called for each, and `after_step` then once. Gradients must
        be unscaled: with a GradScaler, call `scaler.unscale_(optimizer)` first.

        Args:
            optimizer: The optimizer.
            closure: Clears the gradients, and computes the loss and the gradients of this batch
                again. Needed by techniques that look at the loss elsewhere (`sam`).

        Raises:
            UsageError: A technique needs the closure.
        """
        if not isinstance(getattr(optimizer, "param_groups", None), list):
            raise UsageError(f"before_step takes the optimizer; got {type(optimizer).__name__}")
        if not any(each is optimizer for each in self._optimizers):
            self._optimizers.append(optimizer)
        for regularizer, effect in self._by_order():
            if effect.needs_closure and closure is None:
                raise UsageError(
                    f"{regularizer.name()} needs wrapped.before_step(optimizer, closure): a "
                    "function that clears the gradients and computes loss and gradients again"
                )
            effect.before_step(optimizer, closure)

    def after_step(self) -> None:
        """Goes after `optimizer.step()`.

        Raises:
            UsageError: A technique acts in `before_step`, and that was not called.
        """
        for regularizer, effect in zip(self.regularizers, self._effects(), strict=True):
            acts = type(effect).before_step is not Effect.before_step
            if (acts or effect.needs_optimizer) and not self._optimizers:
                raise UsageError(
                    f"{regularizer.name()} needs the optimizer: call "
                    "wrapped.before_step(optimizer) before optimizer.step()"
                )
        self.steps += 1
        self._finished = False
        for _, effect in self._by_order():
            effect.after_step(self._optimizers)
            effect.tick(self.steps)
        self._optimizers = []

    def end_epoch(self, metrics: Mapping[str, float]) -> bool:
        """Goes after each epoch's validation; returns whether to stop.

        What was validated is what early stopping keeps: the averaged weights if `averaged` was
        entered since the last call, else the model's own.

        Args:
            metrics: What was measured, by name, such as {"val_loss": 0.3}.

        Raises:
            UsageError: No such mapping, or without what a technique watches; or `after_step` was
                never called, without which schedules and averages stand still.
        """
        if not isinstance(metrics, Mapping):
            kind = type(metrics).__name__
            raise UsageError(f'end_epoch takes what was measured, {{"val_loss": 0.3}}; got {kind}')
        if self._trained and not self.steps:
            raise UsageError("no step was counted: call wrapped.after_step() after each step")
        in_order = [effect for _, effect in self._by_order()]
        for effect in in_order:
            effect.check_epoch(metrics)
        with self.averaged() if self._judged_averaged else nullcontext():
            stops = [effect.end_epoch(metrics) for effect in in_order if effect.order == 2]
        self._judged_averaged = False
        stops += [effect.end_epoch(metrics) for effect in in_order if effect.order != 2]
        self.stopped = any(stops)
        return self.stopped

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Gives the model, for a while, the weights to judge it by, where a technique averages.

        After `finish` these are its own.
        """
        self._judged_averaged = True
        others = [] if self._finished else [each.averaged() for _, each in self._by_order()]
        others = [each for each in others if each is not None]
        try:
            with ExitStack() as stack:
                for each in others:
                    stack.enter_context(weights_replaced(self, each))
                self._settle(others)
                yield
        finally:
            self._settle(others)

    def finish(self, batches: Any = None) -> None:
        """Goes at the end of training, however it ended: the model gets its final weights.

        Those of the best epoch with early stopping, else the averaged ones, else its own. Called
        again with no step between, it does nothing.

        Args:
            batches: Inputs, or a function that returns them and is called only if needed, for
                techniques that measure batch statistics anew (`swa`).
        """
        if self._finished:
            return
        for _, effect in self._by_order():
            effect.check_finish(batches)
        for _, effect in self._by_order():
            effect.finish(batches)
        self._finished = True
        self._settle()

    def run_state(self) -> dict[str, Any]:
        """Returns what a run needs to go on, beside weights and optimizer: tensors and plain data.

        Saved with `torch.save`, it loads with `weights_only=True`.
        """
        each = [{"own": effect.state_dict(), "extra": effect.extra()} for effect in self._effects()]
        criterion = self.criterion.state_dict() if isinstance(self.criterion, nn.Module) else {}
        kept = {
            "steps": self.steps,
            "stopped": self.stopped,
            "regularizers": self._names(),
            "effects": each,
        }
        return copy.deepcopy({**kept, "criterion": criterion})

    def load_run_state(self, state: Mapping[str, Any]) -> None:
        """Takes what `run_state` returned, after `load_state_dict`: it belongs to those weights.

        Raises:
            UsageError: It is of another run: then nothing has changed.
        """
        before = self.run_state()
        try:
            self._take(state)
        except Exception as error:
            self._take(before)
            if isinstance(error, UsageError):
                raise
            problem = f"{type(error).__name__}: {error}"
            raise UsageError(f"this is no state of such a run ({problem})") from error

    def _take(self, state: Mapping[str, Any]) -> None:
        names = list(state["regularizers"])
        if names != self._names():
            raise UsageError(
                f"the saved run has the regularizers {', '.join(names) or 'none'}; "
                f"this model has {', '.join(self._names()) or 'none'}"
            )
        self.steps, self.stopped = int(state["steps"]), bool(state["stopped"])
        for effect, saved in zip(self._effects(), state["effects"], strict=True):
            effect.load_state_dict(saved["own"])
            effect.load_extra(saved["extra"])
            effect.tick(self.steps)
        if isinstance(self.criterion, nn.Module):
            self.criterion.load_state_dict(state["criterion"])

    def remove(self) -> nn.Module:
        """Takes everything off the model and returns it, plain."""
        states.restore(self)
        for effect in reversed(list(self._effects())):
            effect.remove()
        self.effects = nn.ModuleList()
        self.regularizers = ()
        self.model.__dict__.pop(_WRAPPED, None)
        return self.model

    def __repr__(self) -> str:
        lines = [f"{type(self.model).__name__} with {len(self.effects)} regularizers"]
        names = self._names()
        for name, effect in zip(names, self._effects(), strict=True):
            by_words: dict[str, list[str]] = {}
            for site in effect.sites:
                by_words.setdefault(site.words, []).append(site.name)
            for words, sites in by_words.items():
                shown = ", ".join(sites[:_SHOWN])
                more = f" and {len(sites) - _SHOWN} more" if len(sites) > _SHOWN else ""
                lines.append(f"  {name.ljust(max(map(len, names)))}  {shown}{more}: {words}")
                name = ""
        return "\n".join(lines)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            hint = did_you_mean(name, [n for n in dir(type(self)) if not n.startswith("_")])
            hint = hint or "the model's own attributes are on wrapped.model"
            raise AttributeError(f"Regularized has no '{name}' ({hint})") from None

    def _effects(self) -> Iterator[Effect]:
        for effect in self.effects:
            assert isinstance(effect, Effect)
            yield effect

    def _by_order(self) -> list[tuple[Regularizer, Effect]]:
        pairs = zip(self.regularizers, self._effects(), strict=True)
        return sorted(pairs, key=lambda pair: pair[1].order)

    def _settle(self, changed: Any = True) -> None:
        for effect in self._effects() if changed else ():
            effect.settle()

    def _names(self) -> list[str]:
        return [each.name() for each in self.regularizers]


def _check(model: nn.Module) -> None:
    """Refuses models that hooks do not reach."""
    for name, module in model.named_modules():
        place = f"its '{name}'" if name else "the model"
        compiled = getattr(module, "_compiled_call_impl", None) or hasattr(module, "_orig_mod")
        if compiled or isinstance(module, torch.jit.ScriptModule):
            raise UsageError(f"{place} is compiled: wrap the model first, then compile the wrapper")
        own = [*module._parameters.values(), *module._buffers.values()]
        if any(nn.parameter.is_lazy(each) for each in own):
            raise UsageError(f"{place} has no weights yet: call the model once first")


def _around(effect: Effect, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return effect.around_forward(call, args, kwargs)
