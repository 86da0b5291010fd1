"""Normalization that regularizes: of batches, of parts of batches, and of weights."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from augpipe.errors import UsageError
from augpipe.regularizers import select
from augpipe.regularizers.base import AUTO, Regularizer, Sites
from augpipe.regularizers.effect import Effect, Site
from augpipe.regularizers.weights import WeightEffect, holding
from augpipe.spec import Choice, Flag, Number

_KINDS = (nn.Linear, _ConvNd)
_WHAT = "linear or convolutional layer"
_EXACT = 1024  # up to this smaller side singular vectors are computed: a second; then iterated
_ROUNDS = 100


class BatchNorm(Regularizer):
    """Puts a batch normalization behind layers that have none.

    y' = (y - mean) / sqrt(var + eps) scale + shift, by channel: over the batch and all places in
    training, with running statistics in `eval()`. The noise of a batch's statistics regularizes,
    and larger learning rates become possible.

    Suggested: on plain networks without normalization, batches of 16 at least. The scale and
    shift are parameters of the wrapper, not of the model: `wrapped.param_groups()` has them,
    `wrapped.run_state()` keeps them with the running statistics, `state_dict()` does not, and
    `remove()` takes them off: the plain model is then another function, so keep the wrapper for
    use. `eval()` differs from the plain model: from the start by 1 / sqrt(1 + eps), and more
    with training.

    `auto` is every convolution and linear layer but the last, in a model without normalization.

    Paper: Ioffe and Szegedy, "Batch Normalization", arXiv 1502.03167. Equal to nn.BatchNorm2d;
    after a linear layer on (n, t, d), as nn.BatchNorm1d on all n t rows.
    """

    main: ClassVar[str] = "on"

    on: Sites = AUTO
    """The linear and convolutional layers."""
    momentum: Annotated[float, Number(0, 1)] = 0.1
    """Share of the new batch in the running statistics."""
    eps: Annotated[float, Number(0, above=True)] = 1e-5
    """Added to the variance."""

    @property
    def keeps_eval(self) -> bool:
        return False

    def attach(self, model: nn.Module) -> Effect:
        auto = functools.partial(_without_norm, model)
        found = select.modules(model, self.on, self.name(), auto, _KINDS, _WHAT)
        return _Inserted(self, found)


class _Inserted(Effect):
    def __init__(self, spec: BatchNorm, found: list[select.Named]) -> None:
        super().__init__([Site(name, "batch norm behind it") for name, _ in found])
        self.norms = nn.ModuleList()
        for index, (_, module) in enumerate(found):
            norm = nn.BatchNorm1d(_width(module), spec.eps, spec.momentum)
            self.norms.append(norm.to(_own(module)))
            self.change_output(module, functools.partial(self.normalize, index))

    def normalize(self, index: int, module: nn.Module, y: Tensor) -> Tensor:
        norm = self.norms[index]
        assert isinstance(norm, nn.BatchNorm1d)
        if norm.weight.dtype != _own(module).dtype:  # the model was converted, but not this
            norm.to(_own(module))
        rows = y.reshape(-1, y.shape[-1]) if isinstance(module, nn.Linear) else y
        mean, var, momentum = norm.running_mean, norm.running_var, norm.momentum or 0.0
        # By the layer's own mode: a part of the model may be frozen.
        out = F.batch_norm(
            rows, mean, var, norm.weight, norm.bias, module.training, momentum, norm.eps
        )
        return out.view(y.shape)


def _own(module: nn.Module) -> Tensor:
    weight = module.weight  # a layer's own, or what a parametrization makes of it
    assert isinstance(weight, Tensor)
    return weight


def _width(module: nn.Module) -> int:
    return int(module.out_features if isinstance(module, nn.Linear) else module.out_channels)  # type: ignore[arg-type]


def _without_norm(model: nn.Module) -> Iterable[select.Named]:
    if any(isinstance(each, select.NORMS) for each in model.modules()):
        return []
    return select.of_types(model, _KINDS)[:-1]


class GhostBatchNorm(Regularizer):
    """Batch normalization over parts of a batch: the noise of small batches in large ones.

    Each `size` samples of a batch are normalized by their own mean and variance, in training;
    the plain layer in `eval()`. The running statistics are those of the parts come one after
    the other, each with the layer's momentum and the unbiased variance. A last part may be
    smaller; one of a single value a channel goes with the part before it.

    Suggested: size 16 to 64, for batches several times as large. The running statistics move
    n / size times as fast as before. A layer in `eval()`, as those of `freeze_batch_norm`, is
    left alone. Not for nn.SyncBatchNorm, which does the opposite.

    `auto` is every batch normalization.

    Paper: Hoffer et al., "Train longer, generalize better", arXiv 1705.08741. With size >= the
    batch it is the layer itself.
    """

    main: ClassVar[str] = "size"

    on: Sites = AUTO
    """The batch normalization layers."""
    size: Annotated[int, Number(2, 2**31, "samples", integer=True)] = 32
    """Samples that are normalized together."""

    def attach(self, model: nn.Module) -> Effect:
        found = _batch_norms(model, self.on, self.name())
        for name, module in found:
            if isinstance(module, nn.SyncBatchNorm):
                raise UsageError(f"{self.name()}: {name} is a SyncBatchNorm, of all ranks together")
        return _Ghost(self, found)


class _Ghost(Effect):
    def __init__(self, spec: GhostBatchNorm, found: list[select.Named]) -> None:
        super().__init__([Site(name, f"size {spec.size}") for name, _ in found])
        self.size = spec.size
        self._layers = tuple(module for _, module in found)
        self._rest: list[tuple[Tensor, ...]] = [() for _ in found]

    def joined(self, whole: nn.Module) -> None:
        # Only now, to come after whatever acts on the layer's input, and before what acts on its
        # output: these are to see the whole batch.
        for index, module in enumerate(self._layers):
            self.change_input(module, functools.partial(self.part, index))
            join = functools.partial(self.join, index)
            self.after(module, join, first=True, always=True)

    def restore(self) -> None:
        self._rest = [() for _ in self._layers]

    def part(self, index: int, module: nn.Module, x: Tensor) -> Tensor | None:
        if not module.training or len(x) <= self.size:
            return None
        first, *rest = torch.split(x, _parts(x, self.size))
        self._rest[index] = tuple(rest)
        return first

    def join(self, index: int, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        rest, self._rest[index] = self._rest[index], ()
        if not rest or output is None:
            return None
        # The layer's own forward did the first part; the hooks are not to see the others.
        return torch.cat([output, *(module.forward(each) for each in rest)])


def _parts(x: Tensor, size: int) -> list[int]:
    sizes = [size] * (len(x) // size)
    left = len(x) % size
    if left * x[0, 0].numel() == 1:
        sizes[-1] += left
    elif left:
        sizes.append(left)
    return sizes


class FreezeBatchNorm(Regularizer):
    """Keeps batch normalization as it is: running statistics in training too, unchanged.

    y = (x - running mean) / sqrt(running var + eps) scale + shift, in training as in `eval()`:
    the layers are kept in `eval()`. Against statistics that wander off on small batches.

    Suggested: for fine-tuning on little data from the start; with `after` for the last part of
    a training, when the statistics have settled. Noise of other techniques on these very layers
    is off too, as on any layer in `eval()`. A `train()` of the wrapped model keeps them frozen,
    one of the inner model thaws them until the next step.

    `auto` is every batch normalization.

    Paper: after 1502.03167, section 3.1 (inference); as in He et al., "Deep Residual Learning",
    arXiv 1512.03385, for detection. torchvision's FrozenBatchNorm2d with `affine: true`.
    """

    on: Sites = AUTO
    """The batch normalization layers."""
    after: Annotated[int, Number(0, 2**53, "optimizer steps", integer=True)] = 0
    """How many steps they learn first."""
    affine: Annotated[bool, Flag()] = False
    """Whether scale and shift are frozen too: they get no gradient."""

    def attach(self, model: nn.Module) -> Effect:
        return _Freeze(self, model, _batch_norms(model, self.on, self.name()))


class _Freeze(Effect):
    def __init__(self, spec: FreezeBatchNorm, model: nn.Module, found: list[select.Named]) -> None:
        wait = f" after {spec.after} steps" if spec.after else ""
        scale = ", scale and shift" if spec.affine else ""
        super().__init__([Site(name, f"statistics{scale} frozen{wait}") for name, _ in found])
        self._layers = tuple(module for _, module in found)
        self.wait, self.affine, self.frozen = spec.after, spec.affine, spec.after == 0
        self._model = (model,)
        self._modes: tuple[bool, ...] = ()  # what the layers would have

    def train(self, mode: bool = True) -> _Freeze:
        super().train(mode)
        self._modes = tuple(each.training for each in self._layers)
        self._apply_mode()
        return self

    def tick(self, step: int) -> None:
        self.frozen = step >= self.wait
        self._apply_mode()

    def before_step(self, optimizer: torch.optim.Optimizer, closure: Any) -> None:
        # Not by requires_grad: DistributedDataParallel waits for every gradient it knows of.
        if self.affine and self.frozen:
            for module in self._layers:
                for parameter in module.parameters():
                    parameter.grad = None

    def remove(self) -> None:
        super().remove()
        if self.frozen:
            for module, mode in zip(self._layers, self._modes, strict=False):
                module.train(mode and self._model[0].training)

    def _apply_mode(self) -> None:
        if self.frozen and self.training:
            for module in self._layers:
                module.eval()


def _batch_norms(model: nn.Module, on: str | tuple[str, ...], who: str) -> list[select.Named]:
    kinds = (_BatchNorm,)
    auto = functools.partial(select.of_types, model, kinds)
    return select.modules(model, on, who, auto, kinds, "batch normalization")


class SpectralNorm(Regularizer):
    """Divides a layer's weight by its largest singular value.

    W' = bound W / sigma(W), or, with `when: above`, W' = W min(1, bound / sigma(W)); a
    convolution's weight is seen as a matrix of out channels by all else. sigma = u^T W v, with
    u and v from the power method, `iterations` of it in each forward of training. The gradient
    goes through sigma too.

    Suggested: bound 1, one iteration, on every layer of a GAN's discriminator; as a regularizer
    of classifiers `when: above` with a bound of 2 to 10, which leaves tame layers alone. In
    `eval()` the weight is divided too: the output differs from the plain model's, and `remove()`
    gives back the weight as it is learned, undivided. u and v are kept in `run_state()`. They
    start as the singular vectors, and are found anew where other weights come: by `eval()`,
    `averaged()`, `finish` and `load_state_dict`. Not for layers whose forward is computed again
    in `backward` (activation checkpointing): the power method would go on in between.

    `auto` is every convolution and linear layer.

    Paper: Miyato et al., "Spectral Normalization for GANs", arXiv 1802.05957; `above` follows
    Gouk et al., arXiv 1804.04368, who project the weight itself after each step and take the norm
    of the convolution. Here the norm is that of the weight as a matrix, one row an output: no
    bound of a convolution's Lipschitz constant. Equal to
    torch.nn.utils.parametrizations.spectral_norm, whose u and v start elsewhere.
    """

    main: ClassVar[str] = "bound"

    on: Sites = AUTO
    """The linear and convolutional layers."""
    bound: Annotated[float, Number(0, above=True)] = 1.0
    """The largest singular value that is left."""
    when: Annotated[str, Choice(("always", "above"))] = "always"
    """Whether a smaller one is raised to the bound too."""
    iterations: Annotated[int, Number(1, 100, integer=True)] = 1
    """Steps of the power method in each forward."""

    @property
    def keeps_eval(self) -> bool:
        return False

    def attach(self, model: nn.Module) -> Effect:
        auto = functools.partial(select.of_types, model, _KINDS)
        found = select.modules(model, self.on, self.name(), auto, _KINDS, _WHAT)
        return _Spectral(self, holding(found, ["weight"], self.name()))


class _Spectral(WeightEffect):
    def __init__(self, spec: SpectralNorm, found: list[select.Named]) -> None:
        words = f"weight, {'sigma' if spec.when == 'always' else 'sigma at most'} {spec.bound:g}"
        super().__init__([Site(name, words) for name, _ in found])
        self.bound, self.always = spec.bound, spec.when == "always"
        self.iterations = spec.iterations
        self._layers = tuple(module for _, module in found)
        for index, module in enumerate(self._layers):
            matrix = _matrix(module)
            # From a generator of its own: two wraps of one model are the same.
            fixed = torch.Generator().manual_seed(0)
            v = F.normalize(torch.randn(matrix.shape[1], generator=fixed), dim=0)
            self.register_buffer(f"u{index}", matrix.new_zeros(matrix.shape[0]))
            self.register_buffer(f"v{index}", v.to(matrix))
            self.reweight(module, ["weight"], functools.partial(self.divide, index))
        self.settle()

    def train(self, mode: bool = True) -> _Spectral:
        super().train(mode)
        if not mode:
            self.settle()
        return self

    def divide(self, index: int, module: nn.Module, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            matrix = _matrix(module)
            if module.training:
                self._turn(index, matrix, self.iterations)
            # Not the buffers themselves: the next forward turns them before the backward of this.
            u, v = (self.get_buffer(f"{name}{index}").to(matrix, copy=True) for name in "uv")
            sigma = torch.dot(u, matrix @ v)
            tame = sigma <= (0.0 if self.always else self.bound)  # 0: a layer that starts as zeros
            return weight * torch.where(tame, 1.0, self.bound / sigma.masked_fill(tame, 1.0))

    @torch.no_grad()
    def _turn(self, index: int, matrix: Tensor, iterations: int) -> None:
        own_u, own_v = self.get_buffer(f"u{index}"), self.get_buffer(f"v{index}")
        v = own_v.to(matrix)  # the model may have been moved or converted
        for _ in range(iterations):
            u = F.normalize(matrix @ v, dim=0, eps=1e-12)
            turned = matrix.T @ u
            v = torch.where(turned.any(), F.normalize(turned, dim=0, eps=1e-12), v)
        own_u.copy_(u)
        own_v.copy_(v)

    @torch.no_grad()
    def settle(self) -> None:
        for index, module in enumerate(self._layers):
            with torch.autocast(_own(module).device.type, enabled=False):
                self._converge(index, _matrix(module))

    def _converge(self, index: int, matrix: Tensor) -> None:
        """Finds the vectors of the largest singular value; not for meta tensors, not for NaN."""
        v = self.get_buffer(f"v{index}")
        if matrix.is_meta or not bool(matrix.isfinite().all()):
            return
        if min(matrix.shape) <= _EXACT:
            top = _top(matrix.double())
            v.copy_(torch.where(top.any(), top, v))
            self._turn(index, matrix, 1)
            return
        sigma = -1.0
        for _ in range(_ROUNDS):
            self._turn(index, matrix, 10)
            before, sigma = sigma, float((matrix @ v.to(matrix)).norm())
            if abs(sigma - before) <= 1e-6 * sigma:
                return


def _top(matrix: Tensor) -> Tensor:
    """Returns the right singular vector of the largest singular value."""
    rows, columns = matrix.shape
    if rows >= columns:
        return torch.linalg.eigh(matrix.T @ matrix).eigenvectors[:, -1]
    left = torch.linalg.eigh(matrix @ matrix.T).eigenvectors[:, -1]
    return F.normalize(matrix.T @ left, dim=0)


def _matrix(module: nn.Module) -> Tensor:
    weight = module._parameters["weight"]
    assert weight is not None
    out = 1 if isinstance(module, _ConvTransposeNd) else 0
    return weight.movedim(out, 0).flatten(1)
