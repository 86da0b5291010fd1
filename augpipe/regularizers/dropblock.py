"""Noise on feature maps: blocks of them are dropped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from augpipe.errors import UsageError
from augpipe.regularizers import select
from augpipe.regularizers.base import AUTO, Probability, Regularizer, Sites
from augpipe.regularizers.blocks import blocks
from augpipe.regularizers.effect import Effect, Site, keep_mask
from augpipe.spec import Choice, Number

_POOLS = (F.max_pool1d, F.max_pool2d, F.max_pool3d)


class Dropblock(Regularizer):
    """Drops blocks of neighbouring numbers on feature maps.

    In training each place where a whole block of b x b fits has one put on it with probability
    gamma = p H W / (b^2 (H - b + 1) (W - b + 1)); with m = 0 under the blocks and 1 elsewhere, y =
    x m numel(m) / sum(m), the last over the batch. y = x in `eval()`. On maps (n, channels, ...)
    of one, two or three dimensions, the formula with as many factors. b is at most the smallest
    side of the map, where it then is spatial dropout; any b does, even ones too.

    Blocks overlap, so that a little less than p is dropped: 9.3 % for p 0.1, b 7 on 14 x 14.
    Suggested: p 0.1, block_size 7, for resnet50 at 224 pixels on the last two stages; block_size
    3 to 5 on the maps of small images; raise p from 0 over training, {start: 0, end: 0.1, steps:
    ...}, as the paper does. Networks that train for a few epochs only lose by it.

    `auto` is the output of the convolutional residual blocks in the deeper half of the model. A
    selector names modules whose outputs are dropped: `layer[34]` is the ends of two stages,
    `layer[34].*` the ends of their blocks. Outputs must be (n, channels, ...): channels that come
    last, as in Swin, are not seen to be so.

    Paper: Ghiasi et al., "DropBlock", arXiv 1810.12890. The same blocks at the same rate as
    `torchvision.ops.drop_block2d`, which refuses even sizes, also those that a small map leaves.
    timm's by default shares the mask among channels and lets blocks reach over the border.
    """

    main: ClassVar[str] = "p"

    on: Sites = AUTO
    """The modules whose outputs are dropped."""
    p: Probability = 0.1
    """Share of a map that is dropped, about."""
    block_size: Annotated[int, Number(1, 4096, "places", integer=True)] = 7
    """Side of a block."""
    channels: Annotated[str, Choice(("each", "shared"))] = "each"
    """Whether each channel has its own blocks, or all channels of a sample share them."""

    def attach(self, model: nn.Module) -> Effect:
        auto = _deeper_half(model)
        found = select.modules(
            model, self.on, self.name(), lambda: auto, what="convolutional residual block"
        )
        return _Dropblock(self, found)


class _Dropblock(Effect):
    def __init__(self, spec: Dropblock, found: list[select.Named]) -> None:
        words = f"p {spec.p}, blocks of {spec.block_size}"
        super().__init__([Site(name, words) for name, _ in found])
        self.p = self.dial(spec.p)
        self.size = spec.block_size
        self.shared = spec.channels == "shared"
        for _, module in found:
            self.change_output(module, self.drop)

    def drop(self, module: nn.Module, x: Tensor) -> Tensor | None:
        if not module.training:
            return None
        if not (isinstance(x, Tensor) and 3 <= x.ndim <= 5 and x.is_floating_point()):
            kind = type(module).__name__
            what = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise UsageError(
                f"dropblock needs feature maps (n, channels, ...); {kind} returns {what}"
            )
        sides = x.shape[2:]
        size = min(self.size, *sides)
        starts = [side - size + 1 for side in sides]
        gamma = self.p * (math.prod(sides) / (size ** len(sides) * math.prod(starts)))
        shape = [x.shape[0], 1 if self.shared else x.shape[1], *starts]
        corners = 1 - keep_mask(x, shape, gamma)
        around = F.pad(corners, [size - 1] * (2 * len(sides)))
        mask = 1 - _POOLS[len(sides) - 1](around, size, stride=1)
        # Summed in float32: in half precision a count beyond 2048 is rounded.
        kept = mask.sum(dtype=torch.promote_types(mask.dtype, torch.float32))
        return x * mask * (mask.numel() / kept.clamp_min(1))


def _deeper_half(model: nn.Module) -> Iterable[select.Named]:
    convolutional = []
    for block in blocks(model):
        module = model.get_submodule(block.name)
        if any(isinstance(each, nn.modules.conv._ConvNd) for each in module.modules()):
            convolutional.append((block.name, module))
    return convolutional[len(convolutional) // 2 :]
