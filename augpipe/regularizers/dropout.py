"""Noise on what one layer hands to the next: the dropout family."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, ClassVar

from torch import Tensor, nn

from augpipe.regularizers import select
from augpipe.regularizers.base import AUTO, Probability, Regularizer, Sites
from augpipe.regularizers.effect import Effect, Site, keep_mask, rescale
from augpipe.spec import Choice

Where = Annotated[str, Choice(("input", "output"))]


class Dropout(Regularizer):
    """Sets each number to 0 with probability p, and the others to x / (1 - p).

    y = x m / (1 - p), m ~ Bernoulli(1 - p), in training; y = x in `eval()`. With
    `scale: at_test`, the original form: y = x m in training, y = (1 - p) x in `eval()`, where the
    model then differs from the plain one.

    Suggested: p 0.5 before the classifier of a large network, 0.1 to 0.2 of a small one; on
    convolutions DropBlock or spatial dropout does more. Before batch normalization it shifts the
    variance between training and test (Li et al., arXiv 1801.05134): put it after the last one.

    `auto` is the input of the last linear layer.

    Paper: Srivastava et al., JMLR 15 (2014); Hinton et al., arXiv 1207.0580. The inverted form is
    `torch.nn.functional.dropout`.
    """

    main: ClassVar[str] = "p"

    on: Sites = AUTO
    """The modules."""
    p: Probability = 0.5
    """Probability that a number is dropped."""
    at: Where = "input"
    """Whether the modules' input or output is dropped."""
    scale: Annotated[str, Choice(("inverted", "at_test"))] = "inverted"
    """When the scale is made up for: in training (inverted), or at test (at_test)."""

    @property
    def keeps_eval(self) -> bool:
        return self.scale == "inverted"

    def attach(self, model: nn.Module) -> Effect:
        found = select.modules(model, self.on, self.name(), lambda: last_linear(model))
        return _Dropout(self, found)


class _Dropout(Effect):
    def __init__(self, spec: Dropout, found: list[select.Named]) -> None:
        super().__init__([Site(name, f"{spec.at}, p {spec.p}") for name, _ in found])
        self.p = self.dial(spec.p)
        self.at_test = spec.scale == "at_test"
        for _, module in found:
            place = self.change_input if spec.at == "input" else self.change_output
            place(module, self.drop)

    def drop(self, module: nn.Module, x: Tensor) -> Tensor | None:
        if not module.training:
            return x * (1 - self.p) if self.at_test else None
        dropped = x * keep_mask(x, x.shape, self.p)
        return dropped if self.at_test else dropped * rescale(self.p)


def last_linear(model: nn.Module) -> Iterable[select.Named]:
    """Yields the last linear layer of a model: the classifier of most."""
    linear = [each for each in model.named_modules() if isinstance(each[1], nn.Linear)]
    return linear[-1:]
