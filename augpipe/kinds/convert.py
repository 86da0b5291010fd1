"""Users' arrays, tensors and PIL images, to the program's own arrays and back.

Neither torch nor PIL is imported here for a value that is not one of theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from augpipe.errors import DataError
from augpipe.types import Array, Floats, Picture

TV_KINDS = {
    "Image": "image",
    "Mask": "mask",
    "BoundingBoxes": "boxes",
    "KeyPoints": "keypoints",
    "Video": "video",
}
"""The classes of torchvision.tv_tensors and what `kind` calls them."""

_MOVED = ("uint8", "uint16", "int16", "float32", "float64")  # what OpenCV warps, exactly
_SLACK = 0.5  # how far a float image may leave 0..1, as filters that overshoot do


def kind(value: Any) -> str:
    """Returns what a value is held in.

    "array", "tensor", "pil", "picture" (see types.Picture), "dict", "list" (or tuple), one of
    TV_KINDS, or "other".
    """
    match value:
        case None | str() | bytes() | int() | float():
            return "other"
        case np.ndarray():
            return "array"
        case dict():
            return "dict"
        case list() | tuple():
            return "list"
        case Picture():
            return "picture"
    for cls, name in TV_KINDS.items():
        if _is(value, "torchvision.tv_tensors", cls):
            return name
    if is_tensor(value):
        return "tensor"
    return "pil" if _is(value, "PIL.Image", "Image") else "other"


def is_tensor(value: Any) -> bool:
    """Returns whether a value is a torch tensor, tv_tensors among them."""
    return _is(value, "torch", "Tensor")


def _is(value: Any, module: str, name: str) -> bool:
    """Nothing can be an instance of a class whose module is not loaded."""
    return isinstance(value, getattr(sys.modules.get(module), name, ()))


def array_of(value: Any) -> Array:
    """Returns the numbers of an array, a tensor or a PIL mask; the same memory if it can be."""
    if not is_tensor(value):
        return np.asarray(value)
    torch = sys.modules["torch"]
    try:
        plain = value.detach().cpu().as_subclass(torch.Tensor).resolve_conj().resolve_neg()
        return (plain.float() if plain.dtype == torch.bfloat16 else plain).numpy()
    except (RuntimeError, TypeError, NotImplementedError) as error:
        what = str(error).splitlines()[0]
        raise DataError("tensor", f"its numbers cannot be read: {what}") from error


def like(array: Array, value: Any, dtype: str | None = None, **meta: Any) -> Any:
    """Returns an array as the kind, the device and the dtype of `value`.

    Args:
        array: Numbers; rounded where the dtype is of whole numbers.
        value: An array, a tensor or a tv_tensor.
        dtype: The name of another dtype.
        meta: What a tv_tensor shall say of itself, such as canvas_size.
    """
    if not is_tensor(value):
        return _cast(array, np.dtype(dtype or value.dtype))
    torch = sys.modules["torch"]
    target = getattr(torch, dtype) if dtype else value.dtype
    if not target.is_floating_point and array.dtype.kind == "f":
        array = _whole(array, target, torch.iinfo)
    out = torch.from_numpy(np.ascontiguousarray(array)).to(value.device, target)
    if kind(value) == "tensor":
        return out
    return sys.modules["torchvision.tv_tensors"].wrap(out, like=value, **meta)


def _cast(array: Array, dtype: np.dtype[Any]) -> Array:
    rounds = dtype.kind in "iu" and array.dtype.kind == "f"
    return (_whole(array, dtype, np.iinfo) if rounds else array).astype(dtype, copy=False)


def _whole(array: Array, dtype: Any, limits: Callable[[Any], Any]) -> Array:
    """Returns the numbers rounded; refuses what the dtype of whole numbers cannot hold."""
    out = np.rint(array)
    info = limits(dtype)
    if out.size and not (info.min <= out.min() and out.max() <= info.max):
        reach = f"{out.min():g} to {out.max():g}"
        raise DataError(str(dtype), f"cannot hold coordinates from {reach}: give floats or int64")
    return out


def _compact(array: Array) -> Array:
    """Returns the array C-contiguous: a channel at a time, three times as fast as NumPy alone."""
    if array.flags.c_contiguous or array.ndim != 3:
        return np.ascontiguousarray(array)
    planes = array.transpose(2, 0, 1)
    if planes.flags.c_contiguous and len(planes) == 3 and array.dtype == np.float32:
        import cv2

        return cv2.merge(list(planes))
    out = np.empty(array.shape, array.dtype)
    axis = 0 if len(array) < array.shape[2] else 2
    into, values = np.moveaxis(out, axis, 0), np.moveaxis(array, axis, 0)
    for channel in range(len(values)):
        into[channel] = values[channel]
    return out


def apart(array: Array, source: Array) -> Array:
    """Returns the array, contiguous and writable, copied if it may share memory with `source`."""
    array = _compact(array)
    shared = not array.flags.writeable or np.may_share_memory(array, source)
    return array.copy() if shared else array


def channels_last(data: Array, first: bool, where: str) -> Array:
    """Returns (H, W, C) from (H, W) and from (H, W, C), or (C, H, W) if channels come first."""
    if data.ndim == 2:
        return data[:, :, None]
    form, other = ("(C, H, W)", "(H, W, C)") if first else ("(H, W, C)", "(C, H, W)")
    if data.ndim == 3:
        channels, opposite = (data.shape[0], data.shape[2])[:: 1 if first else -1]
        if channels > 4 and opposite in (1, 3, 4):
            kinds = "tensors are (C, H, W), arrays (H, W, C)"
            raise DataError(where, f"has shape {data.shape}, which looks like {other}: {kinds}")
        return data.transpose(1, 2, 0) if first else data
    batch = "; give images one by one" if data.ndim == 4 else ""
    raise DataError(where, f"has shape {data.shape}: expected (H, W) or {form}{batch}")


def levels(pixels: Array, where: str) -> Array:
    """Returns an image (H, W, C) as uint8, or as float32 of grey levels 0..255.

    Raises:
        DataError: If it is empty, of another dtype, not finite, or far from 0..1.
    """
    if 0 in pixels.shape:
        raise DataError(where, f"is empty: its shape is {pixels.shape}")
    if pixels.dtype == np.uint8:
        return _compact(pixels)
    if pixels.dtype.kind != "f":
        raise DataError(where, f"has dtype {pixels.dtype}: expected uint8, or float from 0 to 1")
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise DataError(where, "has values that are not finite")
    if low < -_SLACK or high > 1 + _SLACK:
        raise DataError(
            where, f"has values from {low:.4g} to {high:.4g}: a float image goes from 0 to 1"
        )
    return np.multiply(_compact(pixels), 255.0, dtype=np.float32)


def unlevelled(image: Array, dtype: np.dtype[Any]) -> Array:
    """Returns grey levels as uint8, or as floats clipped to 0..1."""
    if dtype.kind == "f":
        return np.clip(image.astype(np.float32) / np.float32(255.0), 0.0, 1.0)
    return image if image.dtype == np.uint8 else np.rint(np.clip(image, 0, 255)).astype(np.uint8)


def movable(mask: Array, where: str) -> Array:
    """Returns a mask with its own values, in a dtype that can be warped: uint8 for bool.

    Integers beyond 16 bits become float32, or float64 where that would not be exact.
    """
    kind, dtype = mask.dtype.kind, mask.dtype
    if dtype.name not in _MOVED:
        if kind == "b":
            dtype = np.dtype(np.uint8)
        elif dtype == np.int8:
            dtype = np.dtype(np.int16)
        elif dtype == np.float16:
            dtype = np.dtype(np.float32)
        elif kind in "iu":
            largest = max(int(mask.max(initial=0)), -int(mask.min(initial=0)))
            if largest > 2**53:
                raise DataError(where, f"holds {largest}: more than 2**53 cannot be moved exactly")
            dtype = np.dtype(np.float32 if largest <= 2**24 else np.float64)
        else:
            raise DataError(where, f"has dtype {dtype}: expected integers, floats or bool")
    return _compact(mask).astype(dtype, copy=False)


def pil_pixels(image: Any, where: str) -> Array:
    """Returns a PIL image as (H, W, 1, 3 or 4) uint8, by the rules of data/decode.py.

    What belongs to files stays with files: EXIF orientation, and one transparent colour of
    an image without a palette.
    """
    mode = image.mode
    if not image.width or not image.height:
        raise DataError(where, f"is empty: {image.height} x {image.width} pixels")
    if mode == "1":
        image = image.convert("L")
    elif mode == "P":
        clear = "transparency" in image.info or image.palette.mode == "RGBA"
        image = image.convert("RGBA" if clear else "RGB")
    elif mode in ("LA", "PA", "RGBa"):
        image = image.convert("RGBA")
    elif mode in ("RGBX", "CMYK", "YCbCr", "LAB", "HSV"):
        image = image.convert("RGB")
    elif mode.startswith("I;16"):
        return ((np.asarray(image).astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)[
            :, :, None
        ]
    elif mode not in ("L", "RGB", "RGBA"):
        raise DataError(where, f"PIL mode {mode} has no known range: convert it to L or RGB")
    return np.asarray(image).reshape(image.height, image.width, -1)


def pil_image(pixels: Array) -> Any:
    """Returns (H, W, C) uint8 as a PIL image."""
    from PIL import Image

    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)


def pil_mask(mask: Array, source: Any) -> Any:
    """Returns (H, W) as a PIL mask of the mode of `source`, with its palette."""
    from PIL import Image

    out = Image.fromarray(mask.astype(bool) if source.mode == "1" else mask)
    if source.mode == "P":
        palette = source.palette.mode
        out.putpalette(source.getpalette(palette), palette)
        if "transparency" in source.info:
            out.info["transparency"] = source.info["transparency"]
    return out


def table(value: Any, where: str) -> Floats:
    """Returns an array, a tensor or nested lists of numbers as float64.

    Raises:
        DataError: If these are not numbers, or the rows differ in length.
    """
    try:
        return np.array(array_of(value), np.float64)
    except (TypeError, ValueError):
        raise DataError(where, "expected rows of numbers, all of the same length") from None


def table_like(data: Floats, value: Any, size: tuple[int, int]) -> Any:
    """Returns a table as the kind that `value` is, on an image of `size`; ints are rounded."""
    match kind(value):
        case "list":
            whole = np.asarray(value).dtype.kind in "iu" and len(value)
            rows = (np.rint(data).astype(np.int64) if whole else data).tolist()
            inner = type(value[0]) if len(value) and isinstance(value[0], tuple) else list
            return type(value)(inner(row) for row in rows)
        case "boxes" | "keypoints":
            return like(data, value, canvas_size=size)
        case _:
            return like(data, value)


def rows_of(value: Any, kept: Array) -> Any:
    """Returns these rows of an array, a tensor, a list or a tuple, as the same kind."""
    if kind(value) == "list":
        return type(value)(value[row] for row in kept.tolist())
    if is_tensor(value):
        return value[sys.modules["torch"].from_numpy(kept).to(value.device)]
    return value[kept]
