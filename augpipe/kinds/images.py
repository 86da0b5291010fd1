"""The images of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from augpipe.errors import DataError

_DTYPES = (torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64)


def image_batch(images: Any) -> Tensor:
    """Returns the images of a batch.

    Raises:
        DataError: They are no batch of images.
    """
    if isinstance(images, list | tuple):
        images = _stacked(images)
    if isinstance(images, Mapping):
        raise DataError("images", "a dict: write pipe.batch(batch.pop('image'), batch)")
    if not isinstance(images, Tensor) or images.ndim != 4:
        tensor = isinstance(images, Tensor)
        have = f"shape {tuple(images.shape)}" if tensor else type(images).__name__
        raise DataError("images", f"expected a tensor (B, C, H, W), got {have}")
    _, first, height, last = images.shape
    if last in (1, 3, 4) and min(first, height) > 16:
        raise DataError(
            "images", f"shape {tuple(images.shape)}: channels come second, permute(0, 3, 1, 2)"
        )
    strided = not images.is_nested and images.layout == torch.strided
    if not strided or images.dtype not in _DTYPES:
        what = str(images.dtype) if strided else f"a {images.layout} tensor"
        raise DataError("images", f"expected uint8, or floats in 0..1, got {what}")
    if not all(images.shape[1:]):
        raise DataError("images", f"empty images: shape {tuple(images.shape)}")
    return images.as_subclass(Tensor)


def _stacked(images: Sequence[Any]) -> Tensor:
    """Returns images (C, H, W) of one size and dtype as a batch.

    Raises:
        DataError: They are not such images.
    """
    shapes = [tuple(getattr(each, "shape", ())) for each in images]
    if images and all(isinstance(each, Tensor) and each.ndim == 3 for each in images):
        if len({(shape, each.dtype) for shape, each in zip(shapes, images, strict=True)}) == 1:
            return torch.stack(list(images))
        differ = ", ".join(map(str, sorted(set(shapes))))
        raise DataError("images", f"a batch has one size and dtype, these differ: {differ}")
    hint = ": write pipe.batch(images, targets)" if shapes and len(shapes[0]) == 4 else ""
    raise DataError("images", f"a list of {len(images)}, but not of tensors (C, H, W){hint}")
