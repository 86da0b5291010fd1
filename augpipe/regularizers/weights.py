"""Noise on the weights of a layer: the DropConnect family."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from augpipe.errors import UsageError
from augpipe.regularizers import select
from augpipe.regularizers.base import AUTO, Probability, Regularizer, Sites
from augpipe.regularizers.effect import Effect, Site, keep_mask, rescale
from augpipe.spec import Choice

Compute = Callable[[nn.Module, Tensor], Tensor | None]
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CONVOLVE: tuple[Callable[..., Tensor], ...] = (F.conv1d, F.conv2d, F.conv3d)


class DropConnect(Regularizer):
    """Sets each weight of a layer to 0 with probability p, and the others to w / (1 - p).

    y = ((M * W) x) / (1 - p) + b, M ~ Bernoulli(1 - p), in training; in `eval()` y = W x + b,
    or with `at_test: gaussian` a draw from N(W x + b, p / (1 - p) W^2 x^2), which has the mean
    and the variance that y has in training.

    With `mask: sample` each sample of a batch has a mask of its own, as in the paper; all places
    of a sample share it. With `mask: batch` the whole batch shares one mask a forward.

    Suggested: p 0.5 on a fully connected layer, in the paper the one before the classifier. For
    convolutions `mask: batch`. With `gaussian` take the mean of the probabilities over several
    passes; the output then differs from the plain model's, and from pass to pass. Masks by sample
    need memory for n copies of the weight, and time for drawing them.
    Weights are scaled in training here, in the paper at test: the same up to the weights'
    scale. Biases are kept, which the paper masks too. This is not what timm once called
    drop_connect, which is stochastic depth.

    `auto` is the last linear layer.

    Paper: Wan et al., "Regularization of Neural Networks using DropConnect", ICML 2013.
    """

    main: ClassVar[str] = "p"

    on: Sites = AUTO
    """The linear and convolutional layers."""
    p: Probability = 0.5
    """Probability that a weight is dropped."""
    mask: Annotated[str, Choice(("sample", "batch"))] = "sample"
    """What has a mask of its own: each sample, or each batch."""
    at_test: Annotated[str, Choice(("mean", "gaussian"))] = "mean"
    """What stands for the masks in `eval()`: their mean, or a draw with their moments."""

    @property
    def keeps_eval(self) -> bool:
        return self.at_test == "mean"

    def attach(self, model: nn.Module) -> Effect:
        accepts = (nn.Linear, *CONVOLUTIONS)
        what = "linear or convolutional layer"
        auto = functools.partial(select.last_linear, model)
        found = select.modules(model, self.on, self.name(), auto, accepts, what)
        return _DropConnect(self, holding(found, ["weight"], self.name()))


def holding(found: list[select.Named], names: Sequence[str], who: str) -> list[select.Named]:
    """Returns the layers, which must hold these weights themselves.

    Raises:
        UsageError: A layer computes one of them anew for each forward, as `weight_norm` does.
    """
    for place, module in found:
        for name in names:
            if module._parameters.get(name) is None:
                raise UsageError(
                    f"{who}: {place}.{name} is no parameter: it is computed anew, by "
                    "weight_norm or another parametrization"
                )
    return found


class WeightEffect(Effect):
    """An effect that gives layers other weights for a forward.

    The computed tensor stands in the layer's `_parameters` during its forward, and what stood
    there comes back after it, also where the forward raises. Two of them on one weight compose:
    the second sees what the first computed, and puts that back before the first.
    """

    def __init__(self, sites: Sequence[Site] = ()) -> None:
        super().__init__(sites)
        self._kept: list[dict[str, Any]] = []
        self._reweighted: tuple[nn.Module, ...] = ()

    def reweight(self, module: nn.Module, names: Sequence[str], compute: Compute) -> None:
        """Has compute(module, weight) -> tensor or None stand for some weights of a module."""
        index = len(self._kept)
        self._kept.append({})
        self._reweighted += (module,)
        self.before(module, functools.partial(self._put, tuple(names), compute, index))
        self.after(module, functools.partial(self._put_back, index), first=True, always=True)

    def restore(self) -> None:
        for index, module in enumerate(self._reweighted):
            self._put_back(index, module)

    def remove(self) -> None:
        self.restore()
        super().remove()

    def _put(
        self, names: Sequence[str], compute: Compute, index: int, module: nn.Module, *call: Any
    ) -> None:
        weights: dict[str, Any] = module._parameters
        kept = self._kept[index]
        for name in names:
            if name in kept:  # of a forward that was broken off
                weights[name] = kept.pop(name)
            computed = compute(module, weights[name])
            if computed is not None:
                kept[name], weights[name] = weights[name], computed
        if isinstance(module, nn.RNNBase):
            _flat(module)

    def _put_back(self, index: int, module: nn.Module, *call: Any) -> None:
        for name, own in self._kept[index].items():
            module._parameters[name] = own
        self._kept[index].clear()
        if isinstance(module, nn.RNNBase):
            _flat(module)


def _flat(module: nn.RNNBase) -> None:
    """Gives a recurrent layer's forward the weights that its parameters are now."""
    now: list[Any] = [module._parameters[name] for name in module._flat_weights_names]
    # Not by the layer itself: on CUDA it would move every weight into new storage, in place,
    # and an earlier forward whose backward is still to come would find its weights changed.
    module._flat_weights = now
    module._flat_weight_refs = [weakref.ref(each) for each in now]


class _DropConnect(WeightEffect):
    def __init__(self, spec: DropConnect, found: list[select.Named]) -> None:
        super().__init__([Site(name, f"weight, p {spec.p}, by {spec.mask}") for name, _ in found])
        self.p = self.dial(spec.p)
        self.spec = spec
        self._layers = tuple(module for _, module in found)
        for module in self._layers if spec.mask == "batch" else ():
            self.reweight(module, ["weight"], self.drop)

    def joined(self, whole: nn.Module) -> None:
        # Only now, to come before all other hooks: while the weight is the one the layer used.
        for module in self._layers:
            if self.spec.mask == "sample":
                self.change_answer(module, self.drop_by_sample, first=True)
            if self.spec.at_test == "gaussian":
                self.change_answer(module, self.sample, first=True)

    def drop(self, module: nn.Module, weight: Tensor) -> Tensor | None:
        if not module.training:
            return None
        return weight * keep_mask(weight, weight.shape, self.p) * rescale(self.p)

    def drop_by_sample(self, module: nn.Module, x: Tensor, output: Tensor) -> Tensor | None:
        if not module.training or not x.numel():
            return None
        weight = _weight(module)
        x = x if output.ndim > _dimensions(module) else x.unsqueeze(0)  # one sample alone
        mask = keep_mask(weight, (len(x), *weight.shape), self.p)
        # What the masks make different: the layer's own forward is not in vain, and p = 0 is exact.
        apart = _apply_each(module, x, weight * (mask * rescale(self.p)).sub_(1))
        return output + apart.reshape(output.shape)

    def sample(self, module: nn.Module, x: Tensor, output: Tensor) -> Tensor | None:
        if module.training:
            return None
        variance = _apply(module, x.square(), _weight(module).square())
        variance = variance * (self.p * rescale(self.p))
        # The root's slope is infinite at 0, where an input of zeros ends up.
        deviation = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
        return output + torch.randn_like(output) * deviation


def _weight(module: nn.Module) -> Tensor:
    weight = module._parameters["weight"]
    assert weight is not None
    return weight


def _dimensions(module: nn.Module) -> int:
    """Returns the dimensions of one sample, at least."""
    return 1 if isinstance(module, nn.Linear) else _weight(module).ndim - 1


def _apply(module: nn.Module, x: Tensor, weight: Tensor, copies: int = 1) -> Tensor:
    """Returns the layer's sum without bias, for `copies` layers side by side."""
    if isinstance(module, nn.Linear):
        return F.linear(x, weight)
    assert isinstance(module, CONVOLUTIONS)
    padding: Any = module.padding
    if module.padding_mode != "zeros":
        x = F.pad(x, module._reversed_padding_repeated_twice, module.padding_mode)
        padding = 0
    convolve = _CONVOLVE[weight.ndim - 3]
    groups = module.groups * copies
    return convolve(x, weight, None, module.stride, padding, module.dilation, groups)


def _apply_each(module: nn.Module, x: Tensor, weights: Tensor) -> Tensor:
    """Returns the layer's sums without bias, each sample with weights of its own."""
    n = len(x)
    if isinstance(module, nn.Linear):
        # In this order the weights, most of all that is read, are read as they lie.
        return torch.bmm(weights, x.reshape(n, -1, x.shape[-1]).transpose(1, 2)).transpose(1, 2)
    y = _apply(module, x.reshape(1, -1, *x.shape[2:]), weights.flatten(0, 1), n)
    return y.view(n, weights.shape[1], *y.shape[2:])


class WeightDrop(Regularizer):
    """DropConnect on the hidden-to-hidden weights of recurrent layers, once a forward.

    h_t = cell(x_t, h_{t-1}; M * W_hh / (1 - p)), M ~ Bernoulli(1 - p), one M for all samples and
    all time steps of a forward, in training; the plain layer in `eval()`. The gradient reaches
    the weight itself.

    Suggested: p 0.5 for language models of a million words; 0.2 for small hidden layers. With
    `variational_dropout` on inputs and outputs it makes most of AWD-LSTM. On CUDA cuDNN has to
    gather the weights at each call, and warns of that once.

    `auto` is every LSTM, GRU and RNN.

    Paper: Merity et al., "Regularizing and Optimizing LSTM Language Models", arXiv 1708.02182.
    """

    main: ClassVar[str] = "p"

    on: Sites = AUTO
    """The recurrent layers."""
    p: Probability = 0.5
    """Probability that a weight is dropped."""

    def attach(self, model: nn.Module) -> Effect:
        found = recurrent(model, self.on, self.name())
        for name, module in found:
            holding([(name, module)], _hidden(module), self.name())
        return _WeightDrop(self, found)


class _WeightDrop(WeightEffect):
    def __init__(self, spec: WeightDrop, found: list[tuple[str, nn.RNNBase]]) -> None:
        super().__init__([Site(name, f"weight_hh, p {spec.p}") for name, _ in found])
        self.p = self.dial(spec.p)
        for _, module in found:
            self.reweight(module, _hidden(module), self.drop)

    def drop(self, module: nn.Module, weight: Tensor) -> Tensor | None:
        if not module.training:
            return None
        return weight * keep_mask(weight, weight.shape, self.p) * rescale(self.p)


def _hidden(module: nn.RNNBase) -> list[str]:
    return [name for name in module._flat_weights_names if name.startswith("weight_hh")]


def recurrent(
    model: nn.Module, on: str | tuple[str, ...], who: str
) -> list[tuple[str, nn.RNNBase]]:
    """Returns the LSTM, GRU and RNN layers that `on` selects; `auto` is all of them."""
    kinds = (nn.RNNBase,)
    auto = functools.partial(select.of_types, model, kinds)
    found = select.modules(model, on, who, auto, kinds, "recurrent layer (LSTM, GRU, RNN)")
    return [(name, each) for name, each in found if isinstance(each, nn.RNNBase)]
