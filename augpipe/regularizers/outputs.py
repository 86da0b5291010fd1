"""Techniques in the loss: what the network says, and how sure of it it is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from augpipe.errors import UsageError
from augpipe.regularizers.base import Regularizer
from augpipe.regularizers.effect import Effect, Forward, Loss, Site
from augpipe.regularizers.rate import Rate

IGNORED = -100


class LabelSmoothing(Regularizer):
    """Moves a share of each target to all classes alike: t' = (1 - epsilon) t + epsilon / K.

    Computed on the loss, which is linear in the target, so that it takes classes, rows of shares
    and mixtures of both, whatever the criterion does with them:

        loss' = (1 - epsilon) loss(output, target) + epsilon mean(-log softmax(output))

    Suggested: epsilon 0.1; 0.05 with strong mixing. The network becomes less sure of itself, as
    is meant: calibrate anew, and do not distil from it (Müller et al., arXiv 1906.02629).
    `epsilon` is the share given to all K classes; papers that give it to the K - 1 others mean
    epsilon K / (K - 1) by it.

    Paper: Szegedy et al., "Rethinking the Inception Architecture", arXiv 1512.00567. Equal to
    `F.cross_entropy(label_smoothing=epsilon)`; class -100 is ignored.
    """

    main: ClassVar[str] = "epsilon"

    epsilon: Annotated[Any, Rate(0, 1)] = 0.1
    """Share of each target that goes to all classes."""

    def attach(self, model: nn.Module) -> Effect:
        return _Smoothing(self)


class ConfidencePenalty(Regularizer):
    """Rewards the entropy of the prediction: loss' = loss - beta H(p), p = softmax(output).

    H(p) = -sum_k p_k log p_k, the mean over the batch. It penalizes a peaked prediction without
    saying which class is to get the rest, where `label_smoothing` draws towards the uniform one:
    this is beta KL(p || uniform) up to a constant, that is KL(uniform || p).

    Suggested: beta 0.1; from 0.1 for images to 2.5 for words in the paper. The loss may become
    negative.

    Paper: Pereyra et al., "Regularizing Neural Networks by Penalizing Confident Output
    Distributions", arXiv 1701.06548. H is `torch.distributions.Categorical.entropy`; class -100
    is ignored.
    """

    main: ClassVar[str] = "beta"

    beta: Annotated[Any, Rate(0)] = 0.1
    """Weight of the entropy."""

    def attach(self, model: nn.Module) -> Effect:
        return _Confidence(self)


class RDrop(Regularizer):
    """Runs the model twice and draws together what two draws of its noise say.

    loss' = (loss(p1) + loss(p2)) / 2 + alpha (KL(p1 || p2) + KL(p2 || p1)) / 2, the mean over the
    batch. The output is p1.

    Suggested: alpha 0.3 to 1 for images, 1 to 5 for text. Without noise in the network
    (`dropout` and its like) it does nothing, at twice the cost. Batch statistics are updated
    twice a step. List it after techniques on the loss, so that both outputs have them, and
    before `manifold_mixup`, so that both runs mix alike. Call `loss` once for each forward.

    Paper: Liang et al., "R-Drop: Regularized Dropout for Neural Networks", NeurIPS 2021, arXiv
    2106.14448. As in its authors' code; the paper sums the two losses, which is this twice, with
    half the alpha.
    """

    main: ClassVar[str] = "alpha"

    alpha: Annotated[Any, Rate(0)] = 1.0
    """Weight of the divergence."""

    @classmethod
    def name(cls) -> str:
        return "r_drop"

    def attach(self, model: nn.Module) -> Effect:
        return _RDrop(self)


class _Smoothing(Effect):
    def __init__(self, spec: LabelSmoothing) -> None:
        super().__init__([Site("loss", f"epsilon {spec.epsilon}")])
        self.epsilon = self.dial(spec.epsilon)

    def around_loss(self, loss: Loss, output: Any, target: Any) -> Tensor:
        even = -_log_softmax(output, "label_smoothing").mean(dim=1)
        return (1 - self.epsilon) * loss(output, target) + self.epsilon * _mean(even, target)


class _Confidence(Effect):
    def __init__(self, spec: ConfidencePenalty) -> None:
        super().__init__([Site("loss", f"beta {spec.beta}")])
        self.beta = self.dial(spec.beta)

    def penalty(self, output: Any, target: Any) -> Tensor:
        logs = _log_softmax(output, "confidence_penalty")
        return self.beta * _mean((logs.exp() * logs).sum(dim=1), target)


class PerForward(Effect):
    """Keeps something of each forward for the loss on its output, which may come late."""

    def __init__(self, who: str, sites: Iterable[Site]) -> None:
        super().__init__(tuple(sites))
        self.who = who
        self.kept: tuple[tuple[Any, Any], ...] = ()

    def keep(self, output: Any, value: Any) -> None:
        # Two: a forward may go without a loss, and another technique may call the model twice.
        self.kept = (*self.kept[-1:], (output, value))

    def of(self, output: Any) -> Any:
        """Returns what was kept of the forward that gave this output."""
        if not self.kept:
            raise UsageError(f"{self.who}: call loss once after each forward in training")
        found = [value for own, value in self.kept if _is_same(own, output)]
        return found[-1] if found else self.kept[-1][1]

    def penalty(self, output: Any, target: Any) -> Tensor | None:
        places = [i for i, (own, _) in enumerate(self.kept) if _is_same(own, output)]
        self.kept = self.kept[places[-1] + 1 :] if places else ()
        return None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "kept": ()}  # autograd's tensors cannot be copied


class _RDrop(PerForward):
    def __init__(self, spec: RDrop) -> None:
        super().__init__(spec.name(), [Site("loss", f"alpha {spec.alpha}")])
        self.alpha = self.dial(spec.alpha)

    def around_forward(self, forward: Forward, args: Any, kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        self.keep(output, forward(*args, **kwargs))
        return output

    def around_loss(self, loss: Loss, output: Any, target: Any) -> Tensor:
        return (loss(output, target) + loss(self.of(output), target)) / 2

    def penalty(self, output: Any, target: Any) -> Tensor:
        a, b = (_log_softmax(each, self.who) for each in (output, self.of(output)))
        super().penalty(output, target)
        both = ((a.exp() - b.exp()) * (a - b)).sum(dim=1)  # KL(p1 || p2) + KL(p2 || p1)
        return self.alpha / 2 * _mean(both, target)


def _is_same(own: Any, output: Any) -> bool:
    if own is output or not (isinstance(own, Tensor) and isinstance(output, Tensor)):
        return own is output
    # A distributed model hands out an alias of the tensor.
    return own.untyped_storage()._cdata == output.untyped_storage()._cdata


def logits_of(output: Any, who: str) -> Tensor:
    """Returns the output as logits (n, K, ...)."""
    if isinstance(output, Tensor) and output.ndim >= 2 and output.is_floating_point():
        return output
    what = f"floats {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise UsageError(f"{who} needs logits (n, K, ...), the model's output is {what}")


def _log_softmax(output: Any, who: str) -> Tensor:
    logits = logits_of(output, who)
    return F.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=1)


def _mean(each: Tensor, target: Any) -> Tensor:
    """Returns the mean over the targets that are not to be ignored."""
    if target.is_floating_point():
        return each.mean()
    known = target != IGNORED
    return each.where(known, 0.0).sum() / known.sum()
