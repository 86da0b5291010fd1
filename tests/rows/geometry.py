"""Geometry against torchvision, Pillow, scikit-image, SciPy and closed forms.

Warps with a border of fill differ from other libraries along the image's slanted edges: they
blend the fill by bilinear taps, here by the distance from the edge. So each such op has a
row with edge pixels as border and a tight tolerance, and one with the fill and a loose one.
(torchvision's fill is left out: it then blends with 0 once, where a given fill is blended
twice, value x share**2 + fill x (1 - share).)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter
from skimage import transform as skimage
from torchvision.transforms.v2 import functional as tv
from torchvision.transforms.v2.functional import InterpolationMode as Mode

from augpipe.types import Array
from tests.cases import Case

Draw = dict[str, Any]

SAMPLED = (1.0, 0.35)
SAMPLED_CAUSE = "rounding to whole levels; cv2.resize weighs with 11 bits"
SLANTED_CAUSE = (
    "rounding; where the oracle blends fill by taps, and a pixel about it, nothing is compared"
)
PARITY = (1.0, 0.3)
PARITY_CAUSE = "rounding to whole levels, of the reduced image too; cv2.resize has 11 bits"


def tensor(image: Array) -> torch.Tensor:
    return torch.from_numpy(np.array(image, np.float64)).permute(2, 0, 1)


def levels(image: torch.Tensor) -> Array:
    return image.permute(1, 2, 0).numpy()


def torchvision(function: Callable[[torch.Tensor, Draw], torch.Tensor]) -> Any:
    """An oracle from a function of a CHW float64 tensor of grey levels."""
    return lambda image, drawn: levels(function(tensor(image), drawn))


def pillow(method: Image.Transpose) -> Any:
    def oracle(image: Array, drawn: Draw) -> Array:
        return np.asarray(Image.fromarray(image.squeeze()).transpose(method)).reshape(
            image.shape[1], image.shape[0], -1
        )

    return oracle


def forward(image: Array, linear: Array, shift: tuple[float, float] = (0.0, 0.0)) -> Array:
    """Input to output about the centre, between pixel centres, for scikit-image."""
    centre = np.array([image.shape[1] - 1, image.shape[0] - 1]) / 2
    out = np.eye(3)
    out[:2, :2] = linear
    out[:2, 2] = centre + shift - np.asarray(linear) @ centre
    return out


def warped(image: Array, matrix: Array) -> Array:
    """scikit-image's warp with edge pixels beyond the border."""
    inverse = np.linalg.inv(matrix)
    return np.asarray(
        skimage.warp(image.astype(float), inverse, order=1, mode="edge", preserve_range=True)
    )


def turned(degrees: float) -> Array:
    """Counter-clockwise as seen, y downwards."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, s], [-s, c]])


def leaned(x: float, y: float) -> Array:
    across, down = np.tan(np.deg2rad([x, y]))
    return np.array([[1, 0], [-down, 1]]) @ np.array([[1, across], [0, 1]])


def affine_linear(d: Draw) -> Array:
    return d["scale"] * turned(d["angle"]) @ leaned(d["shear_x"], d["shear_y"])


def moved_by(d: Draw, image: Array, x: str, y: str) -> tuple[float, float]:
    return round(d[x] * image.shape[1]), round(d[y] * image.shape[0])


def affine_tv(image: torch.Tensor, d: Draw) -> torch.Tensor:
    shift = round(d["translate_x"] * image.shape[2]), round(d["translate_y"] * image.shape[1])
    shear = [-d["shear_x"], d["shear_y"]]
    return tv.affine(image, -d["angle"], shift, d["scale"], shear, interpolation=Mode.BILINEAR)


def only(image: torch.Tensor, *, scale: float = 1.0, shear: Any = (0.0, 0.0)) -> torch.Tensor:
    return tv.affine(image, 0, [0, 0], scale, list(shear), interpolation=Mode.BILINEAR)


def translated(image: torch.Tensor, d: Draw) -> torch.Tensor:
    shift = [round(d["x"] * image.shape[2]), round(d["y"] * image.shape[1])]
    return tv.affine(image, 0, shift, 1.0, [0, 0])


def random_crop(size: tuple[int, int], padding: list[int], mode: str) -> Any:
    def crop(image: torch.Tensor, d: Draw) -> torch.Tensor:
        top, left = d["offset"].astype(int).tolist()
        padded = tv.pad(image, padding, fill=None, padding_mode=mode)
        return tv.crop(padded, top + padding[1], left + padding[0], *size)

    return torchvision(crop)


def cut(size: list[int], mode: Mode) -> Any:
    def crop(image: torch.Tensor, d: Draw) -> torch.Tensor:
        x0, y0, x1, y1 = d["box"].astype(int).tolist()
        return tv.resized_crop(image, y0, x0, y1 - y0, x1 - x0, size, mode, antialias=False)

    return torchvision(crop)


def averaged(height: int, width: int) -> Any:
    """Integrates the image, a constant on each pixel, over each output pixel."""

    def along(image: Array, count: int) -> Array:
        sums = np.concatenate([np.zeros_like(image[:1]), np.cumsum(image, axis=0)])
        ends = np.linspace(0, len(image), count + 1)
        low = np.minimum(ends.astype(int), len(image) - 1)
        at = sums[low] + (ends - low)[:, None, None] * (sums[low + 1] - sums[low])
        return np.diff(at, axis=0) * count / len(image)

    def oracle(image: Array, drawn: Draw) -> Array:
        out = along(image.astype(float), height)
        return along(out.swapaxes(0, 1), width).swapaxes(0, 1)

    return oracle


def block_mean(image: Array, drawn: Draw) -> Array:
    return np.asarray(skimage.downscale_local_mean(image.astype(float), (4, 4, 1)))


def corners(image: Array, d: Draw) -> tuple[Array, Array]:
    size = np.array(image.shape[1::-1])
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    return square * size, d["corners"] * size


def perspective_tv(image: Array, d: Draw) -> Array:
    start, end = corners(image, d)
    out = tv.perspective(tensor(image), start.tolist(), end.tolist(), interpolation=Mode.BILINEAR)
    return levels(out)


def perspective_skimage(image: Array, d: Draw) -> Array:
    start, end = corners(image, d)
    return warped(image, skimage.ProjectiveTransform.from_estimate(start - 0.5, end - 0.5).params)


TURN = {"degrees": [-40, 40]}
LEAN = {"x": [-30, 30], "y": [-20, 20]}
ZOOM = {"factor": [0.6, 1.7]}
ALL = {
    "degrees": [-60, 60],
    "scale": [0.7, 1.5],
    "shear_x": [-25, 25],
    "shear_y": [-15, 15],
}
EDGE = {"border": "edge"}


def exact(item: Any, oracle: Any, name: str, **more: Any) -> Case:
    return Case(item, oracle, name, parity=(0.0, 0.0), parity_cause="no arithmetic", **more)


def sampled(item: Any, oracle: Any, name: str, **more: Any) -> Case:
    more = {"tolerance": SAMPLED, "cause": SAMPLED_CAUSE, **more}
    return Case(item, oracle, name, parity=PARITY, parity_cause=PARITY_CAUSE, **more)


def slanted(item: Any, oracle: Any, name: str, **more: Any) -> Case:
    def clear(image: Array, d: Draw) -> Array:
        """The oracle a pixel and more from where it blends fill: nearer it has no say (NaN).

        Both edges are about a pixel wide, but one is made by taps and one by distance.
        """
        seen = oracle(np.full(image.shape, 255, np.uint8), d)
        low, high = minimum_filter(seen, (3, 3, 1)), maximum_filter(seen, (3, 3, 1))
        return np.where((low > 254.99) | (high < 0.01), oracle(image, d), np.nan)

    return sampled(item, clear, name, cause=SLANTED_CAUSE, **more)


def pairs(op: str, fields: dict[str, Any], skimage_oracle: Any, tv_oracle: Any) -> list[Case]:
    """An op with edge pixels and with fill beyond the border, on colour and on grey."""
    name = f"torchvision.{op}"
    return [
        sampled({op: {**fields, **EDGE}}, skimage_oracle, "skimage.transform.warp"),
        sampled({op: {**fields, **EDGE}}, skimage_oracle, "skimage.transform.warp", image="grey"),
        slanted({op: fields}, tv_oracle, name, index=1),
        slanted({op: fields}, tv_oracle, name, index=2, image="grey"),
    ]


FLIPS = [
    exact({"horizontal_flip": {"p": 1.0}}, torchvision(lambda i, d: tv.hflip(i)), "torchvision"),
    exact({"vertical_flip": {"p": 1.0}}, torchvision(lambda i, d: tv.vflip(i)), "torchvision"),
    exact({"transpose": {"p": 1.0}}, pillow(Image.Transpose.TRANSPOSE), "PIL.Image.transpose"),
    exact({"rotate90": [1, 1]}, pillow(Image.Transpose.ROTATE_90), "PIL.Image.transpose"),
    exact(
        {"rotate90": [3, 3]},
        pillow(Image.Transpose.ROTATE_270),
        "PIL.Image.transpose",
        image="grey",
    ),
    exact("rotate90", lambda i, d: np.rot90(i, d["times"]), "numpy.rot90", index=3),
]
CROPS = [
    exact(
        {"center_crop": size},
        torchvision(lambda i, d, size=size: tv.center_crop(i, size)),
        "torchvision.center_crop",
    )
    for size in ([40, 61], [95, 127], [121, 60], [101, 150])
]
CROPS += [
    exact(
        {"random_crop": {"size": [60, 50], "padding": 7, "pad_if_needed": True}},
        random_crop((60, 50), [7, 7, 7, 7], "constant"),
        "torchvision.pad and crop",
        index=4,
    ),
    exact(
        {"random_crop": {"size": 110, "pad_if_needed": True, "border": "reflect"}},
        random_crop((110, 110), [0, 14, 0, 14], "reflect"),
        "torchvision.pad and crop",
        image="grey",
    ),
    exact(
        {"random_crop": {"size": 110, "padding": 5, "pad_if_needed": True}},
        random_crop((110, 110), [5, 9, 5, 9], "constant"),
        "torchvision.pad and crop",
        index=2,
    ),
    exact(
        {"random_crop": {"size": 5}},
        random_crop((5, 5), [0, 0, 0, 0], "constant"),
        "torchvision.crop",
    ),
    exact(
        {"pad": [3, 5, 7, 0]},
        torchvision(lambda i, d: tv.pad(i, [3, 5, 7, 0])),
        "torchvision.pad",
    ),
    exact(
        {"pad": {"padding": 9, "border": "reflect"}},
        torchvision(lambda i, d: tv.pad(i, [9], padding_mode="reflect")),
        "torchvision.pad",
    ),
    exact(
        {"pad": {"padding": 9, "border": "edge"}},
        torchvision(lambda i, d: tv.pad(i, [9], padding_mode="edge")),
        "torchvision.pad",
        image="grey",
    ),
]
RESIZES = [
    sampled(
        {"resize": 73},
        torchvision(lambda i, d: tv.resize(i, [73], antialias=False)),
        "torchvision.resize",
    ),
    sampled(
        {"resize": [150, 90]},
        torchvision(lambda i, d: tv.resize(i, [150, 90], antialias=False)),
        "torchvision.resize",
        image="grey",
    ),
    sampled(
        {"resize": {"size": [131, 200], "interpolation": "bicubic"}},
        torchvision(
            lambda i, d: tv.resize(i, [131, 200], Mode.BICUBIC, antialias=False).clip(0, 255)
        ),
        "torchvision.resize",
    ),
    sampled(
        {"resize": {"size": [320, 400], "interpolation": "nearest"}},
        torchvision(lambda i, d: tv.resize(i, [320, 400], Mode.NEAREST_EXACT)),
        "torchvision.resize",
        tolerance=(0.0, 0.0),
        cause="exact",
    ),
    sampled({"resize": 24}, block_mean, "skimage.transform.downscale_local_mean"),
    sampled({"resize": {"size": [30, 41], "antialias": "full"}}, averaged(30, 41), "closed form"),
    sampled(
        {"resize": {"size": [7, 100], "antialias": "full"}},
        averaged(7, 100),
        "closed form",
        image="grey",
    ),
    sampled(
        {"random_resized_crop": {"size": [170, 190], "scale": [0.3, 0.9]}},
        cut([170, 190], Mode.BILINEAR),
        "torchvision.resized_crop",
        index=5,
    ),
    sampled(
        {"box_safe_crop": [170, 190]},
        cut([170, 190], Mode.BILINEAR),
        "torchvision.resized_crop",
        index=2,
    ),
    sampled(
        {"random_resized_crop": {"size": 200, "scale": [0.1, 0.9], "interpolation": "bicubic"}},
        lambda i, d: cut([200, 200], Mode.BICUBIC)(i, d).clip(0, 255),
        "torchvision.resized_crop",
        image="grey",
    ),
]
SLANTS = [
    *pairs(
        "rotate",
        TURN,
        lambda i, d: warped(i, forward(i, turned(d["angle"]))),
        torchvision(lambda i, d: tv.rotate(i, d["angle"], Mode.BILINEAR)),
    ),
    *pairs(
        "shear",
        LEAN,
        lambda i, d: warped(i, forward(i, leaned(d["x"], d["y"]))),
        torchvision(lambda i, d: only(i, shear=(-d["x"], d["y"]))),
    ),
    *pairs(
        "scale",
        ZOOM,
        lambda i, d: warped(i, forward(i, np.eye(2) * d["factor"])),
        torchvision(lambda i, d: only(i, scale=d["factor"])),
    ),
    *pairs(
        "affine",
        ALL,
        lambda i, d: warped(
            i, forward(i, affine_linear(d), moved_by(d, i, "translate_x", "translate_y"))
        ),
        torchvision(affine_tv),
    ),
    exact(
        {"translate": {"x": [-0.3, 0.3], "y": [-0.3, 0.3]}},
        torchvision(translated),
        "torchvision.affine",
    ),
    sampled({"perspective": {**EDGE}}, perspective_skimage, "skimage.transform.warp"),
    sampled(
        {"perspective": {"distortion": 1, **EDGE}},
        perspective_skimage,
        "skimage.transform.warp",
        image="grey",
        index=2,
    ),
    slanted("perspective", perspective_tv, "torchvision.perspective"),
]
ROWS = FLIPS + CROPS + RESIZES + SLANTS
