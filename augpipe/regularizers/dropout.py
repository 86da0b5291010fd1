"""Noise on what one layer hands to the next: the dropout family."""

from __future__ import annotations

import functools
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from augpipe.errors import UsageError
from augpipe.regularizers import select
from augpipe.regularizers.base import AUTO, Probability, Regularizer, Sites
from augpipe.regularizers.blocks import on_tensor, rows_axis
from augpipe.regularizers.effect import Effect, Site, keep_mask, rescale
from augpipe.regularizers.rate import Rate, Schedule
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
        found = select.modules(model, self.on, self.name(), lambda: select.last_linear(model))
        return _Dropout(self, found)


class GaussianDropout(Regularizer):
    """Multiplies each number by one drawn around 1, with the variance that dropout has.

    y = x e, e ~ N(1, p / (1 - p)), in training: the standard deviation is sqrt(p / (1 - p)), 1 at
    p = 0.5. Mean and variance are those of inverted dropout at the same p, but nothing is lost
    entirely, and a factor may be negative. y = x in `eval()`.

    Suggested: p 0.1 to 0.5, where dropout would stand; at p near 1 the noise has no bound, so that
    p ends at 0.99.

    `auto` is the input of the last linear layer.

    Paper: Srivastava et al., JMLR 15 (2014), section 10; Kingma et al. on its variational reading,
    arXiv 1506.02557. As Keras' `GaussianDropout`.
    """

    main: ClassVar[str] = "p"

    on: Sites = AUTO
    """The modules."""
    p: Annotated[Any, Rate(0, 0.99)] = 0.5
    """The rate of the dropout whose variance this has."""
    at: Where = "input"
    """Whether the modules' input or output is multiplied."""

    def attach(self, model: nn.Module) -> Effect:
        found = select.modules(model, self.on, self.name(), lambda: select.last_linear(model))
        return _Gaussian(self.name(), self.p, self.at, found)


class SpatialDropout(Regularizer):
    """Drops whole channels: neighbours on a feature map tell too much of each other.

    y = x m / (1 - p) with one m ~ Bernoulli(1 - p) for each sample and channel, in training; y = x
    in `eval()`. For maps (n, channels, ...) of one, two or three dimensions; with `channels: last`
    for sequences (n, time, features) and maps (n, height, width, features), where it drops a
    feature at all places together.

    Suggested: p 0.1 to 0.3 before or after late convolutions; on word embeddings 0.1 to 0.3 with
    {on: embedding, at: output, channels: last}.

    `auto` is the input of the last convolution, where the model has more than one.

    Paper: Tompson et al., "Efficient Object Localization Using Convolutional Networks", arXiv
    1411.4280. As `F.dropout1d`, `F.dropout2d` and `F.dropout3d`, and Keras' `SpatialDropout`.
    """

    main: ClassVar[str] = "p"

    on: Sites = AUTO
    """The modules."""
    p: Probability = 0.2
    """Probability that a channel is dropped."""
    at: Where = "input"
    """Whether the modules' input or output is dropped."""
    channels: Annotated[str, Choice(("first", "last"))] = "first"
    """Whether channels come right after the samples (first) or last."""

    def attach(self, model: nn.Module) -> Effect:
        found = select.modules(
            model, self.on, self.name(), lambda: _last_convolution(model), what="convolution"
        )
        return _Spatial(self, found)


class Standout(Regularizer):
    """Drops what a layer says little about: adaptive dropout, whose rates the layer itself sets.

    With z = W x + b what the layer returns, y = z m, m ~ Bernoulli(keep), keep = sigmoid(alpha z +
    beta), in training: large numbers are kept, small ones dropped. At test y = z keep, which is
    not the plain model's z: this is not an inverted form, and `eval()` differs. alpha = 0 is
    dropout at the rate 1 - sigmoid(beta); the rate 1/2 is beta = 0.

    What is masked is the layer's own output, before its activation f. The paper masks f(z). In
    training that is the same for every f with f(0) = 0 (ReLU, GELU, SiLU, tanh); at test it is the
    same for ReLU, f(z keep) = f(z) keep, and close to it for the others. Gradients pass through
    what is kept, not through the rates.

    Suggested: alpha 1, beta 0 on hidden linear layers, beta 1 to 2 where that drops too much.

    `auto` is every linear layer but the last. Convolutions can be named.

    Paper: Ba and Frey, "Adaptive dropout for training deep neural networks", NIPS 2013, in the
    form in which the rates share the layer's weights.
    """

    on: Sites = AUTO
    """The linear layers or convolutions."""
    alpha: Annotated[Any, Rate()] = 1.0
    """How much the rates follow the layer's output."""
    beta: Annotated[Any, Rate()] = 0.0
    """Where the rates begin: larger keeps more."""

    @property
    def keeps_eval(self) -> bool:
        return False

    def attach(self, model: nn.Module) -> Effect:
        accepts = (nn.Linear, nn.modules.conv._ConvNd)
        found = select.modules(
            model,
            self.on,
            self.name(),
            lambda: select.of_types(model, (nn.Linear,))[:-1],
            accepts,
            "hidden linear layer",
        )
        return _Standout(self, found)


class _Noise(Effect):
    """What acts on the input or the output of modules, at a rate p."""

    def __init__(self, who: str, p: float | Schedule, at: str, found: list[select.Named]) -> None:
        super().__init__([Site(name, f"{at}, p {p}") for name, _ in found])
        self.who = who
        self.p = self.dial(p)
        for name, module in found:
            place = self.change_input if at == "input" else self.change_output
            place(module, functools.partial(self.act, name))

    def act(self, name: str, module: nn.Module, x: Any) -> Any:
        return on_tensor(functools.partial(self.drop, module), x, self.who, name)

    def drop(self, module: nn.Module, x: Tensor) -> Tensor:
        """Returns what becomes of an input or output."""
        raise NotImplementedError


class _Dropout(_Noise):
    def __init__(self, spec: Dropout, found: list[select.Named]) -> None:
        super().__init__(spec.name(), spec.p, spec.at, found)
        self.at_test = spec.scale == "at_test"

    def drop(self, module: nn.Module, x: Tensor) -> Tensor:
        if not module.training:
            return x * (1 - self.p) if self.at_test else x
        dropped = x * keep_mask(x, x.shape, self.p)
        return dropped if self.at_test else dropped * rescale(self.p)


class _Gaussian(_Noise):
    def drop(self, module: nn.Module, x: Tensor) -> Tensor:
        if not module.training:
            return x
        return x * (1 + (self.p / (1 - self.p)) ** 0.5 * torch.randn_like(x))


class _Spatial(_Noise):
    def __init__(self, spec: SpatialDropout, found: list[select.Named]) -> None:
        super().__init__(spec.name(), spec.p, spec.at, found)
        self.last = spec.channels == "last"

    def drop(self, module: nn.Module, x: Tensor) -> Tensor:
        if not module.training:
            return x
        if x.ndim < 3:
            raise UsageError(
                f"{self.who} needs channels and places beside the samples, as in (n, channels, "
                f"height, width); {type(module).__name__} has {tuple(x.shape)}: take dropout"
            )
        samples, channels = (rows_axis(module), x.ndim - 1) if self.last else (0, 1)
        shape = [n if i in (samples, channels) else 1 for i, n in enumerate(x.shape)]
        return x * (keep_mask(x, shape, self.p) * rescale(self.p))


class _Standout(Effect):
    def __init__(self, spec: Standout, found: list[select.Named]) -> None:
        super().__init__([Site(n, f"alpha {spec.alpha}, beta {spec.beta}") for n, _ in found])
        self.alpha, self.beta = self.dial(spec.alpha), self.dial(spec.beta)
        for _, module in found:
            self.change_output(module, self.mask)

    def mask(self, module: nn.Module, z: Tensor) -> Tensor:
        keep = torch.sigmoid(self.alpha * z + self.beta)
        if not module.training:
            return z * keep
        return z * (torch.rand(z.shape, device=z.device) < keep).to(z.dtype)


def _last_convolution(model: nn.Module) -> list[select.Named]:
    """Returns the last convolution of a model, if another comes before it.

    The only one cuts images into patches: its channels are the image's colours.
    """
    found = select.of_types(model, (nn.modules.conv._ConvNd,))
    return found[-1:] if len(found) > 1 else []
