"""Techniques on the features inside, with a say in the loss: ISDA and manifold mixup."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from augpipe.errors import UsageError
from augpipe.regularizers import select
from augpipe.regularizers.base import AUTO, Regularizer, Sites
from augpipe.regularizers.effect import Effect, Forward, Loss, Site, first_name
from augpipe.regularizers.logits import PerForward, ignored_class, logits_of, target_of
from augpipe.regularizers.rate import Rate
from augpipe.spec import Choice, Flag

_LARGEST = 2**29  # numbers in all covariances: 2 GiB


class ISDA(Regularizer):
    """Augments the features without drawing any: z' ~ N(z, strength Sigma_y), in closed form.

    An upper bound of the expected cross-entropy is that of the logits

        z w_j + b_j + strength / 2 (w_j - w_y)^T Sigma_y (w_j - w_y)

    where Sigma_y is the covariance of the features of class y, over all batches so far. Rows of
    shares count for each class by its share: in the loss, the mean over the classes; in the
    covariances, as weights. They cost n K^2 numbers.

    Suggested: strength growing over the whole training, as {start: 0, end: 0.5, steps: 2000} in a
    run of 2,000 steps; 7.5 for large data. `covariance: full` keeps K D^2 numbers, `diagonal` K
    D: the authors' for ImageNet. Each process of a distributed run estimates from its own share
    of a batch. List it before `manifold_mixup`.

    `auto` is the last linear layer; the model's output must be what this layer says.

    Paper: Wang et al., "Implicit Semantic Data Augmentation for Deep Networks", NeurIPS 2019,
    arXiv 1909.12220.
    """

    main: ClassVar[str] = "strength"

    on: Sites = AUTO
    """The linear layer that makes the logits."""
    strength: Annotated[Any, Rate(0)] = 0.5
    """How far the features are moved: the paper's lambda."""
    covariance: Annotated[str, Choice(("full", "diagonal"))] = "full"
    """Whether the features' covariances count, or their variances alone."""

    def attach(self, model: nn.Module) -> Effect:
        auto = functools.partial(select.last_linear, model)
        found = select.modules(model, self.on, self.name(), auto, (nn.Linear,), "linear layer")
        if len(found) > 1:
            raise UsageError(f"{self.name()}: on: must select one layer, not {len(found)}")
        return _ISDA(self, *found[0])


class ManifoldMixup(Regularizer):
    """Mixes the samples of a batch at a place in the network that is drawn for each batch.

    x' = lam x + (1 - lam) x[perm] at one of the places, lam ~ Beta(alpha, alpha), and
    loss' = lam loss(output, target) + (1 - lam) loss(output, target[perm]), which for the
    cross-entropy is that of mixed rows. The model's input is one of the places where it holds
    floats. The sites' first dimension must be the batch.

    Suggested: alpha 2; it needs a longer training than without. Not on top of mixup in the batch
    section. Do not name a module inside a residual branch: the skip would not be mixed.

    `auto` is the inputs of the model's blocks, from the second to the one before the last linear
    layer: layer1 to layer4 of a resnet. Where that leaves fewer than two, sequences and modules
    with one child are looked into. It takes the model's children for a chain.

    Not for a place whose forward is computed again in `backward` (activation checkpointing)
    after another forward has drawn anew, as where gradients of several batches are gathered.

    Paper: Verma et al., "Manifold Mixup: Better Representations by Interpolating Hidden States",
    ICML 2019, arXiv 1806.05236.
    """

    main: ClassVar[str] = "alpha"

    on: Sites = AUTO
    """The modules."""
    alpha: Annotated[Any, Rate(0, above=True)] = 2.0
    """Of the Beta distribution: towards 0, less mixing."""
    at: Annotated[str, Choice(("input", "output"))] = "input"
    """Whether the modules' input or output is mixed."""
    input: Annotated[bool, Flag()] = True
    """Whether the model's input is one of the places."""

    def attach(self, model: nn.Module) -> Effect:
        blocks = _blocks(model)
        found: list[select.Named] = []
        if self.on != AUTO or blocks or not self.input:
            found = select.modules(model, self.on, self.name(), lambda: blocks, what="block")
        return _ManifoldMixup(self, model, found)


class _ISDA(PerForward):
    count: Tensor
    mean: Tensor
    covariance: Tensor

    def __init__(self, spec: ISDA, name: str, linear: nn.Module) -> None:
        super().__init__(
            spec.name(), [Site(name, f"{spec.covariance} covariance, strength {spec.strength}")]
        )
        assert isinstance(linear, nn.Linear)
        self.strength = self.dial(spec.strength)
        self.diagonal = spec.covariance == "diagonal"
        self.linear = (linear,)
        self.features: Tensor | None = None
        classes, size = linear.weight.shape
        shape = (classes, size) if self.diagonal else (classes, size, size)
        if torch.Size(shape).numel() > _LARGEST:
            raise UsageError(
                f"{self.who}: {classes} full covariances of {size} features are "
                f"{torch.Size(shape).numel() * 4 / 2**30:.1f} GiB: set covariance: diagonal"
            )
        new = functools.partial(linear.weight.new_zeros, dtype=torch.float32)
        self.register_buffer("count", new(classes))
        self.register_buffer("mean", new(classes, size))
        self.register_buffer("covariance", new(shape))
        self.change_input(linear, self.see)

    def see(self, module: nn.Module, x: Tensor) -> None:
        if module.training:
            self.features = x.detach()

    def around_forward(self, forward: Forward, args: Any, kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        self.keep(output, [self.features])
        self.features = None
        return output

    def joined(self, whole: nn.Module) -> None:
        self.ignored = ignored_class(whole, self.who)

    def around_loss(self, loss: Loss, output: Any, target: Any) -> Tensor:
        logits, fresh = logits_of(output, self.who), self.of(output)
        classes = len(self.count)
        rows = logits.movedim(1, -1)
        hard = not target_of(target, self.who).is_floating_point()
        if target.shape != (rows.shape[:-1] if hard else logits.shape):
            raise UsageError(
                f"{self.who}: a target {tuple(target.shape)} for logits {tuple(logits.shape)}"
            )
        with torch.autocast(logits.device.type, enabled=False):
            if hard:
                known = target.reshape(-1) != self.ignored
                index = target.reshape(-1).long().where(known, 0)
                # On another device that would wait for it.
                if index.device.type == "cpu" and not bool(
                    ((index >= 0) & (index < classes)).all()
                ):
                    raise UsageError(f"{self.who}: the target has classes beyond its {classes}")
                shares = F.one_hot(index, classes) * known[:, None]
            else:
                shares = target.movedim(1, -1).reshape(-1, classes)
            if fresh:  # the loss may be taken several times, of one forward
                self.learn(fresh.pop(), shares.float(), rows.shape)
            if hard and len(index) < classes:
                more = self.strength / 2 * self.spread(index)
            else:
                table = self.strength / 2 * self.spread(torch.arange(classes, device=rows.device))
                more = table[index] if hard else table
        if hard:
            return loss(output + more.view(rows.shape).movedim(-1, 1), target)
        flat = rows.reshape(-1, 1, classes).float()
        gap = (flat + more).logsumexp(dim=2) - flat.logsumexp(dim=2)
        return loss(output, target) + (shares * gap).sum(dim=1).mean()

    @torch.no_grad()
    def learn(self, features: Tensor | None, shares: Tensor, shape: torch.Size) -> None:
        """Takes a batch into the estimates: afterwards, those of all samples so far."""
        if features is None or (*features.shape[:-1], len(self.count)) != tuple(shape):
            have = "did not run" if features is None else f"saw features {tuple(features.shape)}"
            raise UsageError(f"{self.who}: {self.sites[0].name} {have} for logits {tuple(shape)}")
        x = features.reshape(-1, features.shape[-1]).float()
        if self.mean.device != x.device:
            self.to(x.device)
        counts = shares.sum(dim=0)
        part = shares / counts.clamp_min(torch.finfo(counts.dtype).tiny)
        mean = part.T @ x
        weight = counts / (counts + self.count).clamp_min(torch.finfo(counts.dtype).tiny)
        gap = self.mean - mean
        if self.diagonal:
            centre = x.mean(dim=0)
            own = (part.T @ (x - centre).square() - (mean - centre).square()).clamp_min(0)
            own = own * (counts > 0)[:, None]
            between, each = gap.square(), weight[:, None]
        else:
            apart = x - mean[:, None]
            own = (apart * part.T[:, :, None]).transpose(1, 2) @ apart
            between, each = gap[:, :, None] * gap[:, None, :], weight[:, None, None]
        self.covariance.mul_(1 - each).add_(each * own + each * (1 - each) * between)
        self.mean.lerp_(mean, weight[:, None])
        self.count.add_(counts)

    def spread(self, index: Tensor) -> Tensor:
        """Returns (w_j - w_y)^T Sigma_y (w_j - w_y) for classes y: (n, K)."""
        weight = self.linear[0].weight.float()
        own, covariance = weight[index], self.covariance[index]
        if self.diagonal:  # multiplied out: n K numbers in place of n K D
            scaled = covariance * own
            cross = covariance @ weight.square().T - 2 * scaled @ weight.T
            return cross + (scaled * own).sum(dim=1, keepdim=True)
        apart = weight - own[:, None]
        return ((apart @ covariance) * apart).sum(dim=2)


class _ManifoldMixup(PerForward):
    def __init__(self, spec: ManifoldMixup, model: nn.Module, found: list[select.Named]) -> None:
        words = f"{spec.at} mixed, alpha {spec.alpha}"
        sites = [Site("input", f"mixed, alpha {spec.alpha}")] if spec.input else []
        super().__init__(spec.name(), sites + [Site(name, words) for name, _ in found])
        self.alpha = self.dial(spec.alpha)
        self.input = spec.input
        self.first = first_name(model)
        self.places = len(found) + 1
        self.drawn: tuple[Tensor, Tensor] | None = None
        for i, (_, module) in enumerate(found):
            place = self.change_input if spec.at == "input" else self.change_output
            place(module, functools.partial(self.mix, i + 1))

    def around_forward(self, forward: Forward, args: Any, kwargs: Any) -> Any:
        x = args[0] if args else kwargs.get(self.first)
        if not isinstance(x, Tensor):
            raise UsageError(f"{self.who}: the model's first argument must be a tensor")
        first = 0 if self.input and x.is_floating_point() else 1
        if first == self.places:
            raise UsageError(f"{self.who}: the input holds integers, and nothing else is named")
        lam = _beta(self.alpha, x.device)
        perm = torch.randperm(len(x), device=x.device)
        # Every place mixes, the others with 1: the choice stays on the device, in one graph.
        place = torch.randint(first, self.places, (), device=x.device)
        chosen = torch.arange(self.places, device=x.device) == place
        self.drawn = torch.where(chosen, lam, 1.0), perm
        rest = {name: each for name, each in kwargs.items() if args or name != self.first}
        output = forward(self.blend(0, x) if first == 0 else x, *args[1:], **rest)
        self.keep(output, (lam, perm))
        return output

    def mix(self, i: int, module: nn.Module, x: Any) -> Tensor | None:
        return None if self.drawn is None or not module.training else self.blend(i, x)

    def blend(self, i: int, x: Any) -> Tensor:
        """Mixes the samples as much as is drawn for place i."""
        assert self.drawn is not None
        (lams, perm), name = self.drawn, self.sites[i - (not self.input)].name
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise UsageError(f"{self.who}: '{name}' gives no tensor of floats to mix")
        if len(x) != len(perm):
            raise UsageError(
                f"{self.who}: '{name}' has {tuple(x.shape)}, not the {len(perm)} samples first"
            )
        return lams[i] * x + (1 - lams[i]) * x[perm]

    def around_loss(self, loss: Loss, output: Any, target: Any) -> Tensor:
        lam, perm = self.of(output)
        target = target_of(target, self.who)
        return lam * loss(output, target) + (1 - lam) * loss(output, target[perm])

    def after_step(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.drawn = None  # only now: activation checkpointing runs the hooks again in `backward`


def _beta(alpha: float | Tensor, device: torch.device) -> Tensor:
    """Draws from Beta(alpha, alpha).

    By Student's t with 2 alpha degrees (Bailey, Math. Comp. 62, 1994; Devroye 1996), which takes
    two uniform numbers and nothing that a compiled graph lacks, as PyTorch's own Beta does.
    """
    u, v = torch.rand(2, device=device)
    r, c = u ** (1 / alpha), torch.cos(2 * math.pi * v)
    return (1 + c * (1 - r).sqrt() / (r + c * c * (1 - r)).clamp_min(1e-30).sqrt()) / 2


def _blocks(model: nn.Module) -> list[select.Named]:
    """Returns what a model is a chain of, without the first and without the classifier."""
    last = {id(module) for _, module in select.last_linear(model)}
    chain = _children("", model)

    def inner() -> list[select.Named]:
        ends = [i for i, (_, each) in enumerate(chain) if last & set(map(id, each.modules()))]
        return chain[1 : ends[0] if ends else None]

    while len(inner()) < 2:
        sizes = [
            sum(p.numel() for p in each.parameters()) if _is_chain(each) else 0 for _, each in chain
        ]
        if not any(sizes):
            break
        i = sizes.index(max(sizes))
        chain[i : i + 1] = _children(*chain[i])
    return inner()


def _children(prefix: str, module: nn.Module) -> list[select.Named]:
    """Returns the children that have weights, in place of a list its members."""
    found: list[select.Named] = []
    for own, child in module.named_children():
        name = f"{prefix}.{own}" if prefix else own
        if isinstance(child, nn.ModuleList):
            found += _children(name, child)
        elif _has_weights(child):
            found.append((name, child))
    return found


def _has_weights(module: nn.Module) -> bool:
    own = any(p.ndim > 1 for p in module.parameters())
    return own and not isinstance(module, select.NORMS)


def _is_chain(module: nn.Module) -> bool:
    inside = sum(map(_has_weights, module.children()))
    return inside == 1 or (inside > 1 and isinstance(module, nn.Sequential))
