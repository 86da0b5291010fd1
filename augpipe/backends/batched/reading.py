"""What warps and flows share: how pixels are read, and what becomes of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from augpipe.types import Fill, Floats, Interpolation, Sampling


@dataclass(frozen=True, slots=True)
class Reading:
    """How pixels are read: of images, or of masks.

    Args:
        sampling: The meaning's.
        interpolation: For these pixels.
        fill: For these pixels, a number a channel.
        mask: Whether they are classes: never averaged before they are read.
    """

    sampling: Sampling
    interpolation: Interpolation
    fill: Floats
    mask: bool

    @property
    def hard(self) -> bool:
        """Whether pixels are taken whole, and seen whole or not at all."""
        return self.mask or self.interpolation == "nearest"

    @property
    def reflect(self) -> bool:
        """Whether what lies beyond is the mirror image."""
        return self.sampling.border == "reflect"


def reading(sampling: Sampling, channels: int, mask: bool) -> Reading:
    """Returns how images, or masks, of so many channels are read."""
    fill: Fill = sampling.mask_fill if mask else sampling.fill
    interpolation = sampling.mask_interpolation if mask else sampling.interpolation
    levels = np.broadcast_to(np.asarray(fill, np.float32), (channels,))
    return Reading(sampling, interpolation, levels, mask)


def whole(levels: Tensor, dtype: torch.dtype) -> Tensor:
    """Returns float levels as the dtype they came in: rounded half to even for integers."""
    if dtype.is_floating_point or levels.dtype == dtype:
        return levels.to(dtype)
    return levels.round().to(dtype)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Returns the matrix products of (k, ...) stacks.

    On the CPU image by image: the library's kernel for many differs in its last bit from its
    kernel for one.
    """
    if left.device.type != "cpu" or len(left) == 1:
        return torch.matmul(left, right)
    return torch.stack([torch.matmul(a, b) for a, b in zip(left, right, strict=True)])


def comparable(masks: Tensor) -> Tensor:
    """Returns masks as a dtype that torch can gather and compare."""
    return masks.to(_COMPARABLE.get(masks.dtype, masks.dtype))


_COMPARABLE = {
    torch.bool: torch.uint8,
    torch.uint16: torch.int32,
    torch.uint32: torch.int64,
    torch.uint64: torch.int64,  # the same bits: what is moved whole comes back as it was
}


def halves(values: Floats, exact: bool) -> tuple[Floats, ...]:
    """Returns arrays that travel as float32: two of them where all of float64 must arrive."""
    coarse = values.astype(np.float32)
    return (coarse, values - coarse) if exact else (coarse,)


def joined(coarse: Tensor, fine: Tensor | None = None) -> Tensor:
    """Returns what `halves` took apart; float32 where the device has no float64."""
    if fine is None or coarse.device.type == "mps":
        return coarse
    return coarse.double() + fine.double()
