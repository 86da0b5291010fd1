"""Techniques in the loss: what the network says, and how sure of it it is."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from augpipe.errors import UsageError
from augpipe.regularizers.base import Regularizer
from augpipe.regularizers.effect import Effect, Loss, Site
from augpipe.regularizers.rate import Rate

_IGNORED = -100


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


class _Smoothing(Effect):
    def __init__(self, spec: LabelSmoothing) -> None:
        super().__init__([Site("loss", f"epsilon {spec.epsilon}")])
        self.epsilon = self.dial(spec.epsilon)

    def around_loss(self, loss: Loss, output: Any, target: Any) -> Tensor:
        logits = _logits(output, "label_smoothing")
        even = -F.log_softmax(logits.float(), dim=1).mean(dim=1)
        if not target.is_floating_point():
            known = target != _IGNORED
            even = (even * known).sum() / known.sum()
        return (1 - self.epsilon) * loss(output, target) + self.epsilon * even.mean()


def _logits(output: Any, who: str) -> Tensor:
    """Returns the output as logits (n, K, ...)."""
    if isinstance(output, Tensor) and output.ndim >= 2 and output.is_floating_point():
        return output
    what = f"floats {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
    raise UsageError(f"{who} needs logits (n, K, ...), the model's output is {what}")
