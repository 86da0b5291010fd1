"""What a regularizer has done to one model: hooks on its modules, and a say in each step."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from augpipe.errors import UsageError
from augpipe.regularizers.rate import Schedule

Forward = Callable[..., Any]
Loss = Callable[[Any, Any], Tensor]
Closure = Callable[[], Any]
Change = Callable[[nn.Module, Any], Any]
Answer = Callable[[nn.Module, Any, Any], Any]
Groups = list[dict[str, Any]]
Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the model.

    Args:
        name: The module's or the parameter's dotted name; or "loss", "weights", "training".
        words: What is done there, such as "p 0.1".
    """

    name: str
    words: str


class Effect(nn.Module):
    """One regularizer on one model. Every method does nothing unless a subclass says otherwise.

    What acts inside the network is a forward hook that looks at its module's own `training`, so
    that `eval()` switches it off, for a frozen part of the model too. A hook is a method of the
    effect, or a `functools.partial` of one, never a function made inside another: a copy of the
    model would share it. Modules of the model are kept in tuples, never as attributes: they are
    the model's children, not this one's.

    Attributes:
        sites: Where it acts.
        needs_optimizer: Whether `before_step` has to be called.
        needs_closure: Whether `before_step` needs the closure.
        order: When it acts around a step and at the end, whatever its place in the recipe: -1
            first (new gradients), 0 in the recipe's order, 1 after these (averages of what they
            leave), 2 at last. What has 2 keeps the weights that were validated: its `end_epoch`
            comes before the others', with those weights in the model.
    """

    needs_optimizer = False
    needs_closure = False
    order = 0

    def __init__(self, sites: Sequence[Site] = ()) -> None:
        super().__init__()
        self.sites = tuple(sites)
        self._handles: list[Any] = []
        self._dials: list[tuple[Schedule, Tensor]] = []

    # For subclasses.

    def dial(self, rate: float | Schedule) -> float | Tensor:
        """Returns a rate to compute with: the number, or a scalar tensor that `tick` turns.

        The tensor lies on the CPU: PyTorch takes a scalar from there on any device without
        waiting, and a compiled model is not compiled again when it changes.
        """
        if not isinstance(rate, Schedule):
            return rate
        value = torch.tensor(rate.at(0))
        self._dials.append((rate, value))
        return value

    def before(self, module: nn.Module, hook: Callable[..., Any]) -> None:
        """Registers hook(module, args, kwargs) -> (args, kwargs) or None, before its forward."""
        self._handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def after(
        self, module: nn.Module, hook: Callable[..., Any], first: bool = False, always: bool = False
    ) -> None:
        """Registers hook(module, args, kwargs, output) -> output or None, after its forward.

        Args:
            module: A module of the model.
            hook: The hook.
            first: Before those that are there; else after them.
            always: Call it also where the forward raised, with output None.
        """
        self._handles.append(
            module.register_forward_hook(hook, prepend=first, with_kwargs=True, always_call=always)
        )

    def change_input(self, module: nn.Module, change: Change) -> None:
        """Has change(module, x) -> tensor or None act on a module's first argument."""
        self.before(module, functools.partial(_change_input, change, first_name(module)))

    def change_output(self, module: nn.Module, change: Change) -> None:
        """Has change(module, x) -> tensor or None act on what a module returns."""
        self.after(module, functools.partial(_change_output, change))

    def change_answer(self, module: nn.Module, change: Answer, first: bool = False) -> None:
        """Has change(module, x, y) -> tensor or None act on what a module returns for x.

        Args:
            module: A module of the model.
            change: It gets the module's first argument too.
            first: As in `after`.
        """
        self.after(module, functools.partial(_change_answer, change, first_name(module)), first)

    # What the wrapper calls.

    def joined(self, whole: nn.Module) -> None:
        """Hears of the wrapper, once every technique is on the model.

        Techniques may have parameters and buffers of their own: it holds these and the model's.
        Like modules of the model, it is kept in a tuple.
        """

    def around_forward(self, forward: Forward, args: Any, kwargs: Any) -> Any:
        """Calls the model, in training."""
        return forward(*args, **kwargs)

    def around_loss(self, loss: Loss, output: Any, target: Any) -> Tensor:
        """Computes what is fitted to the data, in training."""
        return loss(output, target)

    def penalty(self, output: Any, target: Any) -> Tensor | None:
        """Returns what is added to the loss, in training."""
        return None

    def groups(self, groups: Groups) -> Groups:
        """Returns the optimizer's parameter groups, each a mapping with "params"."""
        return groups

    def before_step(self, optimizer: torch.optim.Optimizer, closure: Closure | None) -> None:
        """Acts between `backward` and the optimizer's step; of several, for each."""

    def after_step(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Acts after the step of all optimizers for which `before_step` was called."""

    def tick(self, step: int) -> None:
        """Sets the rates for the time after this many steps."""
        for schedule, value in self._dials:
            value.fill_(schedule.at(step))

    def check_epoch(self, metrics: Mapping[str, float]) -> None:
        """Refuses metrics that `end_epoch` could not take, before any technique has heard them."""

    def end_epoch(self, metrics: Mapping[str, float]) -> bool:
        """Hears what was measured after an epoch; returns whether to stop."""
        return False

    def averaged(self) -> Weights | None:
        """Returns the weights to judge the model by, if they are not its own."""
        return None

    def check_finish(self, batches: Any = None) -> None:
        """Refuses batches that `finish` could not take, before any technique has finished."""

    def finish(self, batches: Any = None) -> None:
        """Acts at the end of training, however it ended."""

    def extra(self) -> dict[str, Any]:
        """Returns what has to be kept to go on later, beside the module's own state."""
        return {}

    def load_extra(self, state: Mapping[str, Any]) -> None:
        """Takes what `extra` returned."""

    def restore(self) -> None:
        """Puts back what a forward that was broken off, by Ctrl-C, has left on the model."""

    def settle(self) -> None:
        """Hears that the model has other weights than a step of training gave it."""

    def remove(self) -> None:
        """Takes everything off the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def first_name(module: nn.Module) -> str:
    """Returns the name of a module's first argument, under which it may be given too."""
    return next(iter(inspect.signature(module.forward).parameters), "")


def _change_input(change: Change, first: str, module: nn.Module, args: Any, kwargs: Any) -> Any:
    if not args and first not in kwargs:
        return None
    changed = change(module, args[0] if args else kwargs[first])
    if changed is None:
        return None
    return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, first: changed})


def _change_output(change: Change, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
    return change(module, output)


def _change_answer(
    change: Answer, first: str, module: nn.Module, args: Any, kwargs: Any, output: Any
) -> Any:
    return change(module, args[0] if args else kwargs[first], output)


def keep_mask(like: Tensor, shape: Sequence[int], p: float | Tensor) -> Tensor:
    """Returns a mask of ones with probability 1 - p and of zeros, of `like`'s dtype and device.

    Drawn from PyTorch's generator, as its own dropout is: `torch.manual_seed` reproduces it.

    Args:
        like: The tensor to mask.
        shape: The mask's, to be broadcast over it.
        p: The probability of a zero.
    """
    # rand() < 1 - p, not >= p: float32 draws are in [0, 1), so that p = 0 keeps all, p = 1 none.
    # Of float32 whatever the default: bfloat16 has no draws near enough to 1 for a small p.
    drawn = torch.rand(tuple(shape), dtype=torch.float32, device=like.device)
    return drawn.lt_(1.0 - p).to(like.dtype)


def rescale(p: float | Tensor) -> float | Tensor:
    """Returns 1 / (1 - p), and 0 where p is 1: what is left keeps its expectation."""
    if isinstance(p, Tensor):
        return torch.where(p < 1, 1 / (1 - p).clamp_min(1e-12), 0.0)
    return 1 / (1 - p) if p < 1 else 0.0


def fitted(saved: Mapping[str, Tensor], whole: nn.Module, who: str) -> Weights:
    """Returns copies of saved weights, each on the device of the model's own.

    Raises:
        UsageError: They are not of this model: another name, another shape.
    """
    own = {**dict(whole.named_parameters()), **dict(whole.named_buffers())}
    for name, value in saved.items():
        if name not in own or own[name].shape != value.shape:
            have = tuple(own[name].shape) if name in own else "not there"
            raise UsageError(f"{who}: saved is {name} {tuple(value.shape)}, here it is {have}")
    return {name: value.to(own[name].device, copy=True) for name, value in saved.items()}


@contextmanager
def weights_replaced(model: nn.Module, weights: Weights | None) -> Iterator[None]:
    """Gives a model other values for some of its parameters and buffers, for a while.

    The tensors stay the same objects: an optimizer, a compiled or a distributed model see it.
    """
    if weights is None:
        yield
        return
    own = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kept = {name: own[name].detach().clone() for name in weights}
    try:
        _put(own, weights)
        yield
    finally:
        _put(own, kept)


@torch.no_grad()
def _put(own: Mapping[str, Tensor], weights: Weights) -> None:
    for name, value in weights.items():
        own[name].copy_(value)
