"""Filters against torchvision, SciPy, Pillow and closed forms."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from scipy import ndimage
from torchvision.transforms.v2 import functional as tv

from augpipe.types import Array
from tests.cases import Case

_HALF = (0.5005, 0.3)
_WHOLE = "the oracle is not rounded to whole levels"
_SUMS: dict[str, Any] = {"parity": (1.0, 0.005), "parity_cause": "float32 sums: ties at 1/2"}
_SAME: dict[str, Any] = {"parity": (0.0, 0.0), "parity_cause": "exact"}


def _planes(image: Array) -> torch.Tensor:
    return torch.from_numpy(image.transpose(2, 0, 1).astype(np.float64))


def _torch_gaussian(image: Array, drawn: dict[str, Any]) -> Array:
    sigma = float(drawn["sigma"])
    side = 2 * int(np.ceil(3 * sigma)) + 1
    return tv.gaussian_blur(_planes(image), [side, side], [sigma, sigma]).numpy().transpose(1, 2, 0)


def _scipy_gaussian(image: Array, drawn: dict[str, Any]) -> Array:
    sigma = float(drawn["sigma"])
    radius = int(np.ceil(3 * sigma))
    out = [
        ndimage.gaussian_filter(plane, sigma, mode="mirror", radius=radius)
        for plane in image.transpose(2, 0, 1).astype(np.float64)
    ]
    return np.stack(out, axis=2)


def _scipy_box(image: Array, drawn: dict[str, Any]) -> Array:
    size = int(drawn["size"])
    return ndimage.uniform_filter(image.astype(np.float64), (size, size, 1), mode="mirror")


def _scipy_line(axis: int) -> Any:
    def oracle(image: Array, drawn: dict[str, Any]) -> Array:
        size = int(drawn["size"])
        return ndimage.uniform_filter1d(image.astype(np.float64), size, axis, mode="mirror")

    return oracle


def _correlated(image: Array, weights: Array) -> Array:
    weights = np.asarray(weights)[:, :, None]
    return ndimage.correlate(image.astype(np.float64), weights / weights.sum(), mode="mirror")


def _closed_line(image: Array, drawn: dict[str, Any]) -> Array:
    """Tap by tap in complex numbers: a turn of the plane brings the line onto the real axis."""
    reach = int(drawn["size"]) // 2
    back = np.exp(-1j * np.deg2rad(float(drawn["angle"])))
    taps = []
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            at = complex(right, -down) * back
            end = min(1.0, max(0.0, reach + 1 - abs(at.real)))
            slope = max(0.0, 1 + float(drawn["direction"]) * at.real / reach)
            taps.append(max(0.0, 1 - abs(at.imag)) * end * slope)
    return _correlated(image, np.reshape(taps, (2 * reach + 1, -1)))


def _disk_area(image: Array, drawn: dict[str, Any]) -> Array:
    """How much of each pixel lies in the disk, from 64 x 64 points a pixel."""
    radius, fine = float(drawn["radius"]), 64
    reach = int(np.ceil(radius + 0.5))
    at = (np.arange((2 * reach + 1) * fine) + 0.5) / fine - reach - 0.5
    disk = np.hypot(at[:, None], at) <= radius
    side = 2 * reach + 1
    return _correlated(image, disk.reshape(side, fine, side, fine).mean(axis=(1, 3)))


def _torch_sharpness(image: Array, drawn: dict[str, Any]) -> Array:
    # uint8: the float version clips at 1.0.
    planes = torch.from_numpy(image.transpose(2, 0, 1).copy())
    return tv.adjust_sharpness(planes, float(drawn["factor"])).numpy().transpose(1, 2, 0)


def _pillow_median(image: Array, drawn: dict[str, Any]) -> Array:
    median = ImageFilter.MedianFilter(int(drawn["size"]))
    return np.asarray(Image.fromarray(image.squeeze()).filter(median)).reshape(image.shape)


def _pillow_jpeg(image: Array, drawn: dict[str, Any]) -> Array:
    data = io.BytesIO()
    picture = Image.fromarray(image.squeeze())
    picture.save(data, "JPEG", quality=int(drawn["quality"]), subsampling="4:2:0")
    return np.asarray(Image.open(data)).reshape(image.shape)


def _integrals(image: Array, drawn: dict[str, Any]) -> Array:
    """Area averages as differences of the running sum, read between pixels."""
    out = image.astype(np.float64)
    for axis in (0, 1):
        length = out.shape[axis]
        count = max(1, round(float(drawn["scale"]) * length))
        edges = np.linspace(0, length, count + 1)
        cells = np.searchsorted(edges, np.arange(length) + 0.5, side="right") - 1

        def shrink(line: Array, edges: Array = edges, cells: Array = cells) -> Array:
            total = np.interp(edges, np.arange(len(line) + 1), np.r_[0, line.cumsum()])
            return (np.diff(total) / np.diff(edges))[cells]

        out = np.apply_along_axis(shrink, axis, out)
    return out


ROWS = [
    Case(
        {"gaussian_blur": {"sigma": [1.3, 1.3]}},
        _torch_gaussian,
        "torchvision.transforms.v2.functional.gaussian_blur",
        _HALF,
        _WHOLE,
        **_SUMS,
    ),
    Case(
        {"gaussian_blur": {"sigma": [0.1, 6.0]}},
        _scipy_gaussian,
        "scipy.ndimage.gaussian_filter",
        _HALF,
        _WHOLE,
        image="grey",
        index=3,
        **_SUMS,
    ),
    Case(
        {"box_blur": {"size": [3, 9]}},
        _scipy_box,
        "scipy.ndimage.uniform_filter",
        _HALF,
        _WHOLE,
        **_SUMS,
    ),
    Case(
        {"box_blur": {"size": [5, 5]}},
        _scipy_box,
        "scipy.ndimage.uniform_filter",
        _HALF,
        _WHOLE,
        image="grey",
        **_SUMS,
    ),
    Case(
        {"motion_blur": {"size": [9, 9], "angle": [180, 180]}},
        _scipy_line(1),
        "scipy.ndimage.uniform_filter1d",
        _HALF,
        _WHOLE,
        **_SUMS,
    ),
    Case(
        {"motion_blur": {"size": [5, 5], "angle": [90, 90]}},
        _scipy_line(0),
        "scipy.ndimage.uniform_filter1d",
        _HALF,
        _WHOLE,
        image="grey",
        **_SUMS,
    ),
    Case(
        {"motion_blur": {"size": [3, 15], "direction": [-1, 1]}},
        _closed_line,
        "closed form",
        _HALF,
        _WHOLE,
        **_SUMS,
    ),
    Case(
        {"defocus": {"radius": [1.0, 5.0]}},
        _disk_area,
        "closed form",
        (1.2, 0.3),
        "a pixel at the disk's edge weighs by its distance from it, not by its area within",
        **_SUMS,
    ),
    Case(
        {"defocus": {"radius": [3.0, 3.0]}},
        _disk_area,
        "closed form",
        (1.2, 0.3),
        "a pixel at the disk's edge weighs by its distance from it, not by its area within",
        image="grey",
        **_SUMS,
    ),
    Case(
        {"sharpen": {"factor": [2.0, 2.0]}},
        _torch_sharpness,
        "torchvision.transforms.v2.functional.adjust_sharpness",
        (1.0, 0.5),
        "torchvision rounds the smoothed copy and truncates; it leaves the border as it was",
        margin=1,
        **_SUMS,
    ),
    Case(
        {"sharpen": {"factor": [0.0, 1.0]}},
        _torch_sharpness,
        "torchvision.transforms.v2.functional.adjust_sharpness",
        (1.0, 0.5),
        "torchvision rounds the smoothed copy and truncates; it leaves the border as it was",
        image="grey",
        margin=1,
        **_SUMS,
    ),
    Case(
        {"median_blur": {"size": [3, 9]}},
        _pillow_median,
        "PIL.ImageFilter.MedianFilter",
        **_SAME,
    ),
    Case(
        {"median_blur": {"size": [5, 5]}},
        _pillow_median,
        "PIL.ImageFilter.MedianFilter",
        image="grey",
        **_SAME,
    ),
    Case(
        "jpeg_compression",
        _pillow_jpeg,
        "PIL.Image.save",
        **_SAME,
    ),
    Case(
        {"jpeg_compression": {"quality": [20, 20]}},
        _pillow_jpeg,
        "PIL.Image.save",
        image="grey",
        **_SAME,
    ),
    Case(
        {"downscale": {"scale": [0.2, 0.7]}},
        _integrals,
        "closed form",
        _HALF,
        _WHOLE,
        **_SUMS,
    ),
    Case(
        {"downscale": {"scale": [0.5, 0.5]}},
        _integrals,
        "closed form",
        _HALF,
        _WHOLE,
        image="grey",
        parity=(1.0, 0.2),
        parity_cause="OpenCV rounds the mean of 2 x 2 pixels half up",
    ),
]
