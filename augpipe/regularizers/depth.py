"""Noise on residual branches: a network of random depth."""

from __future__ import annotations

import functools
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from augpipe.regularizers.base import AUTO, Probability, Regularizer, Sites
from augpipe.regularizers.blocks import Block, chosen, on_tensor, rows
from augpipe.regularizers.effect import Effect, Site, keep_mask, rescale
from augpipe.regularizers.rate import Schedule
from augpipe.spec import Choice, Pair, Range

Mode = Annotated[str, Choice(("linear", "uniform"))]
Per = Annotated[str, Choice(("row", "batch"))]


class StochasticDepth(Regularizer):
    """Leaves out the residual branches of blocks at random: x + F(x) becomes x.

    Block l of L, l = 1 to L, computes x + F(x) m / (1 - p_l), m ~ Bernoulli(1 - p_l), in training,
    with p_l = p l / L (`mode: linear`) or p_l = p (`mode: uniform`). In `eval()` it computes
    x + F(x). On transformers this is known as drop-path: there each of a block's branches
    (attention, MLP) is left out on its own, with the block's p_l.

    Suggested: p 0.5 for networks of a hundred layers and long training, 0.1 to 0.2 for resnet50
    and small vision transformers; under 20 blocks, or in short runs, it rarely helps. `per: row`
    draws for each sample, `per: batch` once for all, as in the paper. The paper scales by 1 - p_l
    at test instead; in expectation that is the same network. With batch normalization at the end
    of a branch, the statistics are those of the whole branch: it is computed, then left out.
    torchvision's ConvNeXt, Swin and EfficientNet come with stochastic depth of their own, which
    stays: `print(wrapped)` shows its rate beside this one. timm counts l from 0, so that the first
    block is always kept.

    `auto` is every residual block of a type that is known: those of torchvision, timm, PyTorch's
    transformer layers, some of Hugging Face's, and those that name their branches' last modules in
    a class attribute, `branches = ("bn2",)`. A selector that names blocks, or modules that hold
    blocks, means these blocks, and they are l = 1 to L; another means the outputs of the modules
    that it names.

    Paper: Huang et al., "Deep Networks with Stochastic Depth", arXiv 1603.09382; for drop-path,
    Larsson et al., arXiv 1605.07648. On one branch equal to `torchvision.ops.stochastic_depth` and
    to timm's `DropPath`.
    """

    main: ClassVar[str] = "p"

    on: Sites = AUTO
    """The blocks, or the modules whose outputs are the branches."""
    p: Probability = 0.1
    """Probability that a branch of the last block is left out."""
    mode: Mode = "linear"
    """Whether it grows with the depth (linear) or is the same everywhere (uniform)."""
    per: Per = "row"
    """Whether each sample (row) or the batch as a whole has its draw."""

    def attach(self, model: nn.Module) -> Effect:
        return _Depth(self, chosen(model, self.on, self.name()))


class _Branches(Effect):
    """What acts on the branches of blocks, at rates that may grow with the depth."""

    def __init__(self, who: str, p: float | Schedule, mode: str, per: str, found: list[Block]):
        shares = [(i + 1) / len(found) if mode == "linear" else 1.0 for i in range(len(found))]
        sites = [
            Site(block.name or "model", f"p {_times(p, share)} a {per}{block.words}")
            for share, block in zip(shares, found, strict=True)
        ]
        super().__init__(sites)
        self.who = who
        self.p = self.dial(p)
        self.per = per
        for share, block in zip(shares, found, strict=True):
            for name, module in block.ends:
                act = functools.partial(self.act, share, block.axis, name)
                self.change_output(module, act)

    def act(self, share: float, axis: int, name: str, module: nn.Module, output: Any) -> Any:
        change = functools.partial(self.change, module.training, self.p * share, axis)
        return on_tensor(change, output, self.who, name)

    def change(self, training: bool, p: float | Tensor, axis: int, x: Tensor) -> Tensor:
        """Returns what becomes of a branch."""
        raise NotImplementedError

    def shape(self, x: Tensor, axis: int) -> list[int]:
        """Returns the shape of the draws for a branch."""
        return rows(x, axis) if self.per == "row" else [1] * x.ndim


class _Depth(_Branches):
    def __init__(self, spec: StochasticDepth, found: list[Block]) -> None:
        super().__init__(spec.name(), spec.p, spec.mode, spec.per, found)

    def change(self, training: bool, p: float | Tensor, axis: int, x: Tensor) -> Tensor:
        if not training:
            return x
        # The mask is scaled, not the branch: one pass over the activations.
        return x * (keep_mask(x, self.shape(x, axis), p) * rescale(p))


class ShakeDrop(Regularizer):
    """Scales residual branches at random, otherwise on the way forward than on the way back.

    Block l of L computes, in training, x + (b + alpha - b alpha) F(x), and the gradient that
    reaches the branch is (b + beta - b beta) times what it would be; b ~ Bernoulli(1 - p_l) for
    the batch or for each sample, alpha and beta uniform in their ranges for each sample, and
    p_l = p l / L (`mode: linear`) or p. Where b is 1 the block is the plain one; where it is 0 the
    branch is scaled by alpha, and even turned round. In `eval()` it computes
    x + E[b + alpha - b alpha] F(x), where E[...] = 1 - p_l + p_l (the mean of alpha): 1 - p_l for
    the default range. As in the paper that is the network of training's expectation, and not the
    plain one; divided through, training would be the noisier the larger p is.

    Suggested: p 0.5, alpha [-1, 1], beta [0, 1], for deep residual networks and long training
    (the paper's run for hundreds of epochs). alpha [0, 0] and beta [0, 0] is stochastic depth as
    its paper has it. A branch should end in batch normalization. Where a block has an activation
    after the sum, the paper tries it also without; here the block stays as it is. A network
    trained with this has to be evaluated wrapped: `remove()` gives the plain network, whose
    branches are 1 / (1 - p_l) times as strong.

    `auto` is every residual block of a type that is known, as with `stochastic_depth`.

    Paper: Yamada et al., "ShakeDrop Regularization for Deep Residual Learning", arXiv 1802.02375.
    """

    main: ClassVar[str] = "p"

    on: Sites = AUTO
    """The blocks, or the modules whose outputs are the branches."""
    p: Probability = 0.5
    """Probability that a branch of the last block is shaken."""
    alpha: Annotated[Pair, Range(-10, 10)] = (-1.0, 1.0)
    """Factors of a shaken branch on the way forward."""
    beta: Annotated[Pair, Range(-10, 10)] = (0.0, 1.0)
    """Factors of a shaken branch's gradient."""
    mode: Mode = "linear"
    """Whether p grows with the depth (linear) or is the same everywhere (uniform)."""
    per: Per = "batch"
    """Whether b is drawn for each sample (row) or for the batch as a whole."""

    @property
    def keeps_eval(self) -> bool:
        return False

    def attach(self, model: nn.Module) -> Effect:
        return _Shake(self, chosen(model, self.on, self.name()))


class _Shake(_Branches):
    def __init__(self, spec: ShakeDrop, found: list[Block]) -> None:
        super().__init__(spec.name(), spec.p, spec.mode, spec.per, found)
        self.alpha, self.beta = spec.alpha, spec.beta

    def change(self, training: bool, p: float | Tensor, axis: int, x: Tensor) -> Tensor:
        if not training:
            return x * (1 - p + p * (sum(self.alpha) / 2))
        b = keep_mask(x, self.shape(x, axis), p)
        forward, backward = (
            b + (1 - b) * _uniform(x, rows(x, axis), ends) for ends in (self.alpha, self.beta)
        )
        scaled: Tensor = _Scale.apply(x, forward, backward)
        return scaled


class _Scale(torch.autograd.Function):
    """Scales by one factor forward, and the gradient by another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, forward: Tensor, backward: Tensor) -> Tensor:
        ctx.save_for_backward(backward)
        return x * forward

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (backward,) = ctx.saved_tensors
        return gradients[0] * backward, None, None


def _uniform(like: Tensor, shape: list[int], ends: Pair) -> Tensor:
    low, high = ends
    return (low + (high - low) * torch.rand(shape, device=like.device)).to(like.dtype)


def _times(p: float | Schedule, share: float) -> str:
    """Words a share of a rate."""
    if not isinstance(p, Schedule):
        return f"{p * share:.3g}"
    return str(p) if share == 1 else f"{share:.3g} of {p}"
