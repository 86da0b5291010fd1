"""A penalty that draws weight matrices towards orthogonal ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from augpipe.errors import UsageError
from augpipe.regularizers import select
from augpipe.regularizers.base import AUTO, Regularizer, Sites
from augpipe.regularizers.effect import Effect
from augpipe.regularizers.logits import widened
from augpipe.regularizers.penalties import Chosen, OnWeights, Strength
from augpipe.spec import Choice

_ITERATIONS = 2  # of the power method, a step: the paper's number


class Orthogonality(Regularizer):
    """Draws each weight matrix towards orthonormal rows, or columns where these are fewer.

    loss' = loss + strength sum ||G||_F^2, G = W W^T - I where W (outputs, all inputs) is wide
    and W^T W - I where it is tall, which differ by a constant only. With `variant: spectral`
    (SRIP), the largest squared singular value of G in place of its norm, by a power method that
    goes on from step to step.

    Suggested: strength 1e-2 to 1e-1 at first, falling to 0 during training by a schedule, and
    less weight decay while it is on: they pull apart.

    `auto` is the weights of linear layers and convolutions; recurrent and attention weights that
    stack several matrices are left out.

    Paper: Bansal, Chen and Wang, "Can We Gain More from Orthogonality Regularizations in Training
    Deep CNNs?", NeurIPS 2018, arXiv 1810.09102: soft is SO. It writes SRIP with the singular
    value; its authors' code squares it, as here.
    """

    main: ClassVar[str] = "strength"

    on: Sites = AUTO
    """The parameters: their names, or modules with all that is in them."""
    strength: Strength = 1e-2
    """Weight of the penalty."""
    variant: Annotated[str, Choice(("soft", "spectral"))] = "soft"
    """Which norm of the gap: all of it (soft), or its worst direction (spectral)."""

    def attach(self, model: nn.Module) -> Effect:
        chosen = select.parameters(model, self.on, self.name(), lambda: _matrices(model))
        for name, each in chosen.items():
            if each.ndim < 2:
                raise UsageError(f"{self.name()}: '{name}' has one dimension: it is no matrix")
        return _Orthogonality(self, chosen)


class _Orthogonality(OnWeights):
    def __init__(self, spec: Orthogonality, chosen: Chosen) -> None:
        super().__init__(spec.name(), chosen, spec.strength, f"{spec.variant}, ")
        self.spectral = spec.variant == "spectral"
        for i, weight in enumerate(self.chosen if self.spectral else ()):
            side = min(len(weight), weight[0].numel())
            # Some direction that no weights are likely to be orthogonal to, the same in each run.
            start = torch.cos(torch.arange(1.0, side + 1, device=weight.device))
            self.register_buffer(f"direction{i}", start / start.norm())

    def penalty(self, output: Any, target: Any) -> Tensor:
        # Under autocast the products would be in half precision, too coarse to take I from.
        with torch.autocast(self.chosen[0].device.type, enabled=False):
            gaps = [_gap(widened(each).flatten(1)) for each in self.chosen]
            if self.spectral:
                gaps = [self._largest(i, gap) for i, gap in enumerate(gaps)]
            return self.strength * torch.stack([gap.square().sum() for gap in gaps]).sum()

    def _largest(self, i: int, gap: Tensor) -> Tensor:
        """Returns the largest singular value of a symmetric matrix; its gradient is exact."""
        right = self.get_buffer(f"direction{i}")
        if right.device != gap.device:
            self.to(gap.device)
            right = self.get_buffer(f"direction{i}")
        with torch.no_grad():
            u = right.to(gap.dtype)
            for _ in range(_ITERATIONS):
                v = _unit(gap @ u, u)
                u = _unit(gap @ v, v)
            right.copy_(u)
        # Both vectors: with eigenvalues +s and -s one alone may mix these, and give less.
        return v @ gap @ u


def _gap(weight: Tensor) -> Tensor:
    rows, columns = weight.shape
    product = weight @ weight.T if rows <= columns else weight.T @ weight
    return product - torch.eye(len(product), dtype=weight.dtype, device=weight.device)


def _unit(vector: Tensor, otherwise: Tensor) -> Tensor:
    norm = vector.norm()
    return torch.where(norm > 0, vector / norm.clamp_min(1e-30), otherwise)


def _matrices(model: nn.Module) -> Iterable[str]:
    for prefix, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            yield f"{prefix}.weight" if prefix else "weight"
