"""Between `backward` and the optimizer's step: sharpness, clipping, noise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from augpipe.errors import UsageError
from augpipe.regularizers import select
from augpipe.regularizers.base import AUTO, Regularizer, Sites
from augpipe.regularizers.effect import Closure, Effect, Site
from augpipe.regularizers.rate import Rate
from augpipe.spec import Choice, Flag, Number


class Sam(Regularizer):
    """Sharpness-aware minimization: steps by the gradient at the worst point near the weights.

    e = rho g / |g|, with g the gradient at w and |g| its norm over all parameters; the optimizer
    then steps from w by the gradient at w + e. `adaptive: true` measures nearness relative to
    each weight: e = rho T^2 g / |T g|, T = |w| + eta (ASAM).

    Suggested: rho 0.05; 0.1 to 0.2 for Vision Transformers; adaptive ten times as much, 0.5 to 2.
    A step costs two forward and two backward passes. It needs
    `wrapped.before_step(optimizer, closure)`, with a closure that clears the gradients, computes
    loss and gradients of the same batch again, and leaves them unscaled: no GradScaler in it
    (bfloat16 needs none). It comes before every other technique on gradients, whatever its place.
    The second pass draws its own noise (dropout); the model's buffers, batch normalization's
    running statistics among them, are left as the first pass made them, and the weights are put
    back to the bit, also where the closure raises. Under DistributedDataParallel both gradients
    are those of all processes together.

    `auto` is every parameter that the optimizer has a gradient for.

    Paper: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization",
    arXiv 2010.01412; adaptive: Kwon et al., "ASAM", arXiv 2102.11600.
    """

    main: ClassVar[str] = "rho"

    on: Sites = AUTO
    """The parameters that are moved."""
    rho: Annotated[Any, Rate(0)] = 0.05
    """How far, as the Euclidean norm over all of them."""
    adaptive: Annotated[bool, Flag()] = False
    """Whether a weight is moved in proportion to its size."""
    eta: Annotated[float, Number(0)] = 0.01
    """What adaptive adds to the size of each weight."""

    def attach(self, model: nn.Module) -> Effect:
        return _Sam(self, _parameters(model, self))


class GradientClipping(Regularizer):
    """Bounds the gradient: its norm over all parameters together, or each of its numbers.

    norm: g <- g min(1, limit / |g|); value: g_i <- min(max(g_i, -limit), limit).

    Suggested: norm 1 for transformers, 0.25 to 5 for recurrent networks: near the norm that
    ordinary steps have, so that only the rare large ones are cut. The norm keeps the direction;
    `by: value` does not. Under AMP with a GradScaler, call `scaler.unscale_(optimizer)` before
    `before_step`. A norm of infinity or NaN is not made finite. Techniques on gradients act in
    the recipe's order: gradient noise after it is not clipped.

    `auto` is every parameter with a gradient.

    Paper: Pascanu et al., "On the difficulty of training recurrent neural networks", arXiv
    1211.5063. It is `torch.nn.utils.clip_grad_norm_` or `clip_grad_value_`.
    """

    main: ClassVar[str] = "limit"

    on: Sites = AUTO
    """The parameters."""
    limit: Annotated[Any, Rate(0, above=True)] = 1.0
    """The greatest norm or value."""
    by: Annotated[str, Choice(("norm", "value"))] = "norm"
    """Whether the norm of all or each number is bounded."""

    def attach(self, model: nn.Module) -> Effect:
        return _Clipping(self, _parameters(model, self))


class GradientNoise(Regularizer):
    """Adds Gaussian noise to the gradient, less and less of it.

    g <- g + N(0, sigma_t^2), sigma_t^2 = eta / (1 + t)^gamma, t the steps done.

    Suggested: eta 0.01, 0.3 or 1, gamma 0.55 (the paper's); for very deep or recurrent networks
    that are hard to start. Adaptive optimizers divide by the gradient's size and so make much of
    it where gradients are small: begin with 0.01. With several processes the noise is that of the
    first, sent to all in the default group, for the weights must stay the same in each.

    `auto` is every parameter with a gradient.

    Paper: Neelakantan et al., "Adding Gradient Noise Improves Learning for Very Deep Networks",
    arXiv 1511.06807.
    """

    main: ClassVar[str] = "eta"

    on: Sites = AUTO
    """The parameters."""
    eta: Annotated[Any, Rate(0)] = 0.01
    """The variance in the first step."""
    gamma: Annotated[float, Number(0)] = 0.55
    """How fast it falls."""

    def attach(self, model: nn.Module) -> Effect:
        return _Noise(self, _parameters(model, self))


class _OnGradients(Effect):
    def __init__(self, who: str, words: str, found: tuple[nn.Parameter, ...] | None) -> None:
        where = "all" if found is None else f"{len(found)} of them"
        super().__init__([Site("gradients", f"{words}, {where}")])
        self.who, self.found = who, found

    def joined(self, whole: nn.Module) -> None:
        self.whole = (whole,)

    def stepped(self, optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
        """Returns those of the parameters that this optimizer steps, where they have gradients."""
        own = {id(each) for group in optimizer.param_groups for each in group["params"]}
        found = self.whole[0].parameters() if self.found is None else self.found
        stepped = [each for each in found if each.grad is not None and id(each) in own]
        if any(each.grad.is_sparse for each in stepped if each.grad is not None):
            raise UsageError(f"{self.who} takes no sparse gradients: set sparse=False")
        return stepped


class _Sam(_OnGradients):
    order = -1
    needs_closure = True

    def __init__(self, spec: Sam, found: tuple[nn.Parameter, ...] | None) -> None:
        super().__init__(
            spec.name(), f"{'adaptive, ' if spec.adaptive else ''}rho {spec.rho}", found
        )
        self.spec = spec
        self.rho = self.dial(spec.rho)

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer, closure: Closure | None) -> None:
        assert closure is not None
        moved = self.stepped(optimizer)
        kept = [(each, each.detach().clone()) for each in (*moved, *self.whole[0].buffers())]
        try:
            self.climb(moved)
            with torch.enable_grad():
                closure()
        finally:
            for each, value in kept:
                each.copy_(value)

    def climb(self, moved: Sequence[nn.Parameter]) -> None:
        """Moves the weights to the worst point near them, to first order."""
        sizes = [each.abs() + self.spec.eta if self.spec.adaptive else None for each in moved]
        gradients = [
            _gradient(each) if size is None else _gradient(each) * size
            for each, size in zip(moved, sizes, strict=True)
        ]
        # The least of float32 keeps a gradient of 0 from dividing 0 by 0.
        scale = self.rho / (_norm(gradients) + 1e-12)
        for each, gradient, size in zip(moved, gradients, sizes, strict=True):
            step = gradient if size is None else gradient * size
            each.add_(step * scale.to(step.device, step.dtype))


class _Clipping(_OnGradients):
    def __init__(self, spec: GradientClipping, found: tuple[nn.Parameter, ...] | None) -> None:
        super().__init__(spec.name(), f"{spec.by} at most {spec.limit}", found)
        self.limit = self.dial(spec.limit)
        self.by_norm = spec.by == "norm"

    def before_step(self, optimizer: torch.optim.Optimizer, closure: Closure | None) -> None:
        clip = nn.utils.clip_grad_norm_ if self.by_norm else nn.utils.clip_grad_value_
        clip(self.stepped(optimizer), float(self.limit))


class _Noise(_OnGradients):
    def __init__(self, spec: GradientNoise, found: tuple[nn.Parameter, ...] | None) -> None:
        super().__init__(spec.name(), f"eta {spec.eta}, gamma {spec.gamma:g}", found)
        self.eta = self.dial(spec.eta)
        self.gamma = spec.gamma
        self.step = 0

    def tick(self, step: int) -> None:
        super().tick(step)
        self.step = step

    @torch.no_grad()
    def before_step(self, optimizer: torch.optim.Optimizer, closure: Closure | None) -> None:
        gradients = [_gradient(each) for each in self.stepped(optimizer)]
        if not gradients:
            return
        sizes = [each.numel() for each in gradients]
        noise = torch.randn(sum(sizes), device=gradients[0].device)
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            dist.broadcast(noise, 0)
        sigma = (float(self.eta) / (1 + self.step) ** self.gamma) ** 0.5
        for gradient, part in zip(gradients, torch.split(noise, sizes), strict=True):
            gradient.add_(part.view_as(gradient).to(gradient), alpha=sigma)


def _parameters(
    model: nn.Module, spec: Sam | GradientClipping | GradientNoise
) -> tuple[nn.Parameter, ...] | None:
    """Returns the parameters that are named; None is all, those of other techniques too."""
    if spec.on == AUTO:
        return None
    return tuple(select.parameters(model, spec.on, spec.name()).values())


def _gradient(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    """Returns the Euclidean norm over all numbers of all tensors, in float32 at least."""
    device = tensors[0].device if tensors else None
    wide = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
    norms = [torch.linalg.vector_norm(each, dtype=wide).to(device) for each in tensors]
    return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
