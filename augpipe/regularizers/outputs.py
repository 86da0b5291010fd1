"""Techniques in the loss: what the network says, and how sure of it it is."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from augpipe.regularizers.base import Regularizer
from augpipe.regularizers.effect import Effect, Forward, Loss, Site
from augpipe.regularizers.logits import (
    PerForward,
    ignored_class,
    log_softmax,
    logits_of,
    mean,
    target_of,
    widened,
)
from augpipe.regularizers.rate import Rate


class LabelSmoothing(Regularizer):
    """Moves a share of each target to all classes alike: t' = (1 - epsilon) t + epsilon / K.

    Computed on the loss, which is linear in the target, so that it takes classes, rows of shares
    and mixtures of both, whatever the criterion does with them:

        loss' = (1 - epsilon) loss(output, target) + epsilon mean(-log softmax(output))

    With nn.CrossEntropyLoss the second term is weighted and reduced as that is. Of a function the
    weights are not known: it counts all classes alike. Losses of PyTorch that are no
    cross-entropy of logits are refused, here and in all techniques on logits.

    Suggested: epsilon 0.1; 0.05 with strong mixing. The network becomes less sure of itself, as
    is meant; it teaches a student worse (Müller et al., arXiv 1906.02629). `epsilon` is the share
    given to all K classes: of a paper's e, given to the K - 1 others, it is e K / (K - 1).

    Paper: Szegedy et al., "Rethinking the Inception Architecture", arXiv 1512.00567. Equal to
    `F.cross_entropy(label_smoothing=epsilon)`; class -100, or the criterion's `ignore_index`, is
    ignored.
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
    this is beta KL(p || uniform) up to a constant, label smoothing KL(uniform || p).

    Suggested: beta 0.1 for images, more for words. The loss may become negative.

    Paper: Pereyra et al., "Regularizing Neural Networks by Penalizing Confident Output
    Distributions", arXiv 1701.06548. H is `torch.distributions.Categorical.entropy`; class -100,
    or the criterion's `ignore_index`, is ignored.
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
    before `manifold_mixup`, so that both runs mix alike. Call `loss` once for each forward,
    with the output, which must be the tensor of logits.

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
        self.who = spec.name()
        self.epsilon = self.dial(spec.epsilon)

    def joined(self, whole: nn.Module) -> None:
        self.whole = (whole,)
        self.ignored = ignored_class(whole, self.who)

    def around_loss(self, loss: Loss, output: Any, target: Any) -> Tensor:
        even = self.even(output, target)
        return (1 - self.epsilon) * loss(output, target) + self.epsilon * even

    def even(self, output: Any, target: Any) -> Tensor:
        """Returns the loss on targets that are all classes alike."""
        own = self.whole[0].criterion
        if not isinstance(own, nn.CrossEntropyLoss):
            even = -log_softmax(output, self.who).mean(dim=1)
            return mean(even, target, self.ignored, self.who)
        logits, goal = widened(logits_of(output, self.who)), target_of(target, self.who)
        return F.cross_entropy(
            logits,
            goal.to(logits.dtype) if goal.is_floating_point() else goal,
            None if own.weight is None else own.weight.to(logits.dtype),
            ignore_index=own.ignore_index,
            reduction=own.reduction,
            label_smoothing=1.0,
        )


class _Confidence(Effect):
    def __init__(self, spec: ConfidencePenalty) -> None:
        super().__init__([Site("loss", f"beta {spec.beta}")])
        self.who = spec.name()
        self.beta = self.dial(spec.beta)

    def joined(self, whole: nn.Module) -> None:
        self.ignored = ignored_class(whole, self.who)

    def penalty(self, output: Any, target: Any) -> Tensor:
        logs = log_softmax(output, self.who)
        less = mean((logs.exp() * logs).sum(dim=1), target, self.ignored, self.who)
        return self.beta * less


class _RDrop(PerForward):
    def __init__(self, spec: RDrop) -> None:
        super().__init__(spec.name(), [Site("loss", f"alpha {spec.alpha}")])
        self.alpha = self.dial(spec.alpha)

    def joined(self, whole: nn.Module) -> None:
        self.ignored = ignored_class(whole, self.who)

    def around_forward(self, forward: Forward, args: Any, kwargs: Any) -> Any:
        output = logits_of(forward(*args, **kwargs), self.who)
        self.keep(output, forward(*args, **kwargs))
        return output

    def around_loss(self, loss: Loss, output: Any, target: Any) -> Tensor:
        return (loss(output, target) + loss(self.of(output), target)) / 2

    def penalty(self, output: Any, target: Any) -> Tensor:
        a, b = (log_softmax(each, self.who) for each in (output, self.of(output)))
        super().penalty(output, target)
        both = ((a.exp() - b.exp()) * (a - b)).sum(dim=1)  # KL(p1 || p2) + KL(p2 || p1)
        return self.alpha / 2 * mean(both, target, self.ignored, self.who)
