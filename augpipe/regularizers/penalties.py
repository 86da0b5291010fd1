"""Techniques on the weights themselves: decay, sparsity, orthogonality."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from augpipe.errors import UsageError
from augpipe.regularizers import select
from augpipe.regularizers.base import AUTO, Regularizer, Sites
from augpipe.regularizers.effect import Closure, Effect, Groups, Site
from augpipe.regularizers.logits import widened
from augpipe.regularizers.rate import Rate, Schedule
from augpipe.spec import Choice, Number

Chosen = Mapping[str, nn.Parameter]
Strength = Annotated[Any, Rate(0)]
DECAY = "decoupled_decay"
"""The key of an optimizer's group that holds the strength of its decay."""


class L2(Regularizer):
    """Adds the squared weights to the loss: what SGD's `weight_decay` does to the gradient.

    loss' = loss + strength / 2 sum w^2, so that the gradient gets strength w.

    Suggested: strength 5e-4 with SGD, 1e-4 on large data; tune it anew with other regularizers.
    Under Adam and its like the term is divided by the gradient's size, and large weights with
    large gradients hardly shrink: take `weight_decay` there (arXiv 1711.05101).

    `auto` is the weights: two dimensions at least, no biases, no normalization layers, not what
    the model's `no_weight_decay()` names.

    Paper: Krogh and Hertz, "A simple weight decay can improve generalization", NIPS 1991. With
    plain SGD equal to `torch.optim.SGD(weight_decay=strength)` on the same parameters.
    """

    main: ClassVar[str] = "strength"

    on: Sites = AUTO
    """The parameters: their names, or modules with all that is in them."""
    strength: Strength = 5e-4
    """Weight of the penalty."""

    def attach(self, model: nn.Module) -> Effect:
        return _L2(self.name(), select.parameters(model, self.on, self.name()), self.strength)


class WeightDecay(Regularizer):
    """Shrinks the weights by a share at each step, apart from the gradient, for any optimizer.

    w = w (1 - lr strength) before the optimizer's step. `param_groups()` splits the parameters
    into decayed and others, sets the optimizer's own "weight_decay" to 0 and keeps the strength
    in the group as "decoupled_decay": it is saved with the optimizer, and follows schedules of
    the learning rate. Weights without a gradient in this step are left, as AdamW leaves them.

    Suggested: strength 0.05 with AdamW-like learning rates (1e-3), 5e-4 with SGD at 0.1; what
    counts is lr strength. Biases and normalization stay out, as is usual. Where
    a GradScaler skips a step the decay has happened all the same.

    `auto` is the weights, as in `l2`.

    Paper: Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019, arXiv
    1711.05101. Equal to `torch.optim.AdamW` with the same groups.
    """

    main: ClassVar[str] = "strength"

    on: Sites = AUTO
    """The parameters: their names, or modules with all that is in them."""
    strength: Strength = 0.05
    """Share of a weight that a step of learning rate 1 takes off."""

    def attach(self, model: nn.Module) -> Effect:
        chosen = select.parameters(model, self.on, self.name())
        return _WeightDecay(self.name(), chosen, self.strength)


class L1(Regularizer):
    """Makes weights exactly zero: the proximal step of the absolute values.

    Minimizes loss + strength sum |w| by w = sign(w) max(|w| - lr strength, 0) after the
    optimizer's step. The loss that is shown is without the penalty. `sparsity()` of the effect
    tells the share of zeros.

    Suggested: strength 1e-5 to 1e-4 with SGD at 0.1. A subgradient in the loss would only come
    near zero. Exact for plain SGD; under Adam each weight is pulled by the same lr strength.
    Weights that are frozen, or have no gradient in a step, are left alone.

    `auto` is the weights, as in `l2`.

    Paper: Tibshirani, "Regression Shrinkage and Selection via the Lasso", JRSS B 58 (1996);
    proximal steps as in Daubechies et al., arXiv math/0307152. On a linear model with half the
    mean squared error it finds scikit-learn's Lasso, alpha = strength.
    """

    main: ClassVar[str] = "strength"

    on: Sites = AUTO
    """The parameters: their names, or modules with all that is in them."""
    strength: Strength = 1e-5
    """Weight of the penalty."""

    def attach(self, model: nn.Module) -> Effect:
        return _ElasticNet(self, select.parameters(model, self.on, self.name()))


class ElasticNet(Regularizer):
    """L1 and L2 in one proximal step: zeros, and correlated weights kept together.

    Minimizes loss + strength (rho sum |w| + (1 - rho) / 2 sum w^2), rho = l1_ratio, by
    w = soft(w, lr strength rho) / (1 + lr strength (1 - rho)) after the optimizer's step, where
    soft(w, t) = sign(w) max(|w| - t, 0). `sparsity()` of the effect tells the share of zeros.

    Suggested: strength 1e-4, l1_ratio 0.5. With l1_ratio 1 it is `l1`; with 0 it shrinks as
    `weight_decay` does, by division. Like `l1` it leaves weights without a gradient alone.

    `auto` is the weights, as in `l2`.

    Paper: Zou and Hastie, "Regularization and variable selection via the elastic net", JRSS B 67
    (2005). The convention of scikit-learn's ElasticNet, alpha = strength, with half the mean
    squared error.
    """

    main: ClassVar[str] = "strength"

    on: Sites = AUTO
    """The parameters: their names, or modules with all that is in them."""
    strength: Strength = 1e-4
    """Weight of the whole penalty."""
    l1_ratio: Annotated[float, Number(0, 1)] = 0.5
    """Share of the absolute values in it."""

    def attach(self, model: nn.Module) -> Effect:
        return _ElasticNet(self, select.parameters(model, self.on, self.name()))


class GroupLasso(Regularizer):
    """Makes whole units or channels exactly zero.

    Minimizes loss + strength sum_g sqrt(n_g) ||w_g|| by w_g = w_g max(0, 1 - lr strength
    sqrt(n_g) / ||w_g||) after the optimizer's step; n_g is the size of group g. `sparsity()` of
    the effect tells the share of zeros, `group_sparsity()` that of zero groups.

    Suggested: strength 1e-5 to 1e-4 with SGD at 0.1. A unit whose row is zero still gives its
    bias to the next layer. `rows` are the first dimension: outputs of linear layers and
    convolutions, words of embeddings, but the inputs of transposed convolutions; `columns` the
    second. Like `l1` it leaves weights without a gradient alone.

    `auto` is the weights, as in `l2`.

    Paper: Yuan and Lin, JRSS B 68 (2006); for networks Wen et al., arXiv 1608.03665, and
    Scardapane et al., arXiv 1607.00485. By columns, a linear model finds scikit-learn's
    MultiTaskLasso, alpha = strength sqrt(n_g).
    """

    main: ClassVar[str] = "strength"

    on: Sites = AUTO
    """The parameters: their names, or modules with all that is in them."""
    strength: Strength = 1e-5
    """Weight of the penalty."""
    groups: Annotated[str, Choice(("rows", "columns"))] = "rows"
    """Whether a group is all weights of one output (rows) or of one input (columns)."""

    def attach(self, model: nn.Module) -> Effect:
        chosen = select.parameters(model, self.on, self.name())
        flat = [name for name, each in chosen.items() if each.ndim < 2]
        if flat and self.groups == "columns":
            raise UsageError(f"{self.name()}: '{flat[0]}' has one dimension, and no columns")
        return _GroupLasso(self, chosen)


class OnWeights(Effect):
    """On some parameters, which stay the model's."""

    def __init__(
        self, who: str, chosen: Chosen, strength: float | Schedule, words: str = ""
    ) -> None:
        super().__init__([Site(name, f"{words}strength {strength}") for name in chosen])
        self.who = who
        self.chosen = tuple(chosen.values())
        self.strength = self.dial(strength)

    def mine(self) -> set[int]:
        """Returns the identities, as they are in this copy of the model."""
        return {id(each) for each in self.chosen}


class _L2(OnWeights):
    def penalty(self, output: Any, target: Any) -> Tensor:
        squares = torch.stack([widened(each).square().sum() for each in self.chosen])
        return self.strength / 2 * squares.sum()


class _WeightDecay(OnWeights):
    needs_optimizer = True
    decayed = False  # in this step, in one of the optimizers

    def groups(self, groups: Groups) -> Groups:
        mine, out = self.mine(), []
        for group in groups:
            decayed = [each for each in group["params"] if id(each) in mine]
            others = [each for each in group["params"] if id(each) not in mine]
            if group.get("weight_decay"):
                raise UsageError(f"{self.who}: weight_decay={group['weight_decay']} is given too")
            if decayed and DECAY in group:
                raise UsageError(f"{self.who}: another {self.who} has some of its parameters")
            rest = {**group, "weight_decay": 0.0}
            if decayed:
                out.append({**rest, "params": decayed, DECAY: float(self.strength)})
            if others:
                out.append({**rest, "params": others})
        return out

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer, closure: Closure | None) -> None:
        mine = self.mine()
        marked = [group for group in optimizer.param_groups if DECAY in group]
        own = [group for group in marked if any(id(each) in mine for each in group["params"])]
        self.decayed = self.decayed or bool(own)
        for group in own:
            if isinstance(self.strength, Tensor):  # a schedule's; else the group's own holds
                group[DECAY] = float(self.strength)
            weights = [each for each in group["params"] if each.grad is not None]
            if weights:
                torch._foreach_mul_(weights, 1 - _rate(group) * group[DECAY])

    def after_step(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        decayed, self.decayed = self.decayed, False
        if not decayed:
            raise UsageError(
                f"{self.who}: no group of the optimizer has '{DECAY}': build it from "
                "wrapped.param_groups(), and load only a state that such a one saved"
            )


class _Proximal(OnWeights):
    """A proximal step after the optimizer's, at the learning rate of the weight's group."""

    needs_optimizer = True

    def __init__(self, *own: Any) -> None:
        super().__init__(*own)
        self.stepped: set[int] = set()

    def before_step(self, optimizer: torch.optim.Optimizer, closure: Closure | None) -> None:
        # A loop may clear the gradients before `after_step`.
        self.stepped |= {id(each) for each in self.chosen if each.grad is not None}

    @torch.no_grad()
    def after_step(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        mine, found = self.mine(), False
        now = self.stepped | {id(each) for each in self.chosen if each.grad is not None}
        self.stepped = set()
        for group in (group for each in optimizers for group in each.param_groups):
            weights = [each for each in group["params"] if id(each) in mine]
            found = found or bool(weights)
            weights = [each for each in weights if each.requires_grad and id(each) in now]
            if weights:
                self.shrink(weights, _rate(group))
        if not found:
            raise UsageError(f"{self.who}: the optimizer has none of its parameters")

    def shrink(self, weights: list[Tensor], lr: Any) -> None:
        """Does the step in place."""
        raise NotImplementedError

    def sparsity(self) -> dict[str, float]:
        """Returns the share of zeros in each parameter by its name, and under "all" in all."""
        return self._shares([each.detach() == 0 for each in self.chosen])

    def _shares(self, zero: list[Tensor]) -> dict[str, float]:
        each = zip((site.name for site in self.sites), zero, strict=True)
        out = {name: float(where.float().mean()) for name, where in each}
        return {**out, "all": float(torch.cat([where.flatten() for where in zero]).float().mean())}


class _ElasticNet(_Proximal):
    def __init__(self, spec: L1 | ElasticNet, chosen: Chosen) -> None:
        super().__init__(spec.name(), chosen, spec.strength)
        self.l1_ratio = spec.l1_ratio if isinstance(spec, ElasticNet) else 1.0

    def shrink(self, weights: list[Tensor], lr: Any) -> None:
        pull = lr * float(self.strength)
        sizes = torch._foreach_abs(weights)
        torch._foreach_add_(sizes, -pull * self.l1_ratio)
        torch._foreach_clamp_min_(sizes, 0.0)
        torch._foreach_mul_(sizes, 1 / (1 + pull * (1 - self.l1_ratio)))
        torch._foreach_mul_(sizes, torch._foreach_sign(weights))
        torch._foreach_copy_(weights, sizes)


class _GroupLasso(_Proximal):
    def __init__(self, spec: GroupLasso, chosen: Chosen) -> None:
        super().__init__(spec.name(), chosen, spec.strength, f"{spec.groups}, ")
        self.axis = 0 if spec.groups == "rows" else 1

    def shrink(self, weights: list[Tensor], lr: Any) -> None:
        for weight in weights:
            norm = self._norms(weight)
            pull = lr * float(self.strength) * math.sqrt(weight.numel() / norm.numel())
            tiny = torch.finfo(norm.dtype).tiny
            weight.mul_((1 - pull / norm.clamp_min(tiny)).clamp_min(0))

    def group_sparsity(self) -> dict[str, float]:
        """Returns the share of zero groups in each parameter, and under "all" in all."""
        return self._shares([self._norms(each.detach()) == 0 for each in self.chosen])

    def _norms(self, weight: Tensor) -> Tensor:
        others = [axis for axis in range(weight.ndim) if axis != self.axis]
        return (
            torch.linalg.vector_norm(weight, dim=others, keepdim=True) if others else weight.abs()
        )


def _rate(group: Mapping[str, Any]) -> Any:
    """Returns a group's learning rate; a tensor only where reading it would wait for a device."""
    lr = group["lr"]
    return float(lr) if isinstance(lr, Tensor) and lr.device.type == "cpu" else lr
