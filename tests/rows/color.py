"""Colour, tone and output, against torchvision, Pillow, albumentations, scikit-image, physics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import albumentations.augmentations.dropout.functional as albumentations_dropout
import albumentations.augmentations.pixel.functional as albumentations
import numpy as np
import torch
from PIL import Image, ImageOps
from skimage import color as skimage
from skimage.color.colorconv import rgb_from_xyz
from torchvision.transforms.v2 import functional as tv

from augpipe.types import Array
from tests.cases import Case

Draw = dict[str, Any]

# Oracles on float tensors are not rounded: the half level is opencv's one rounding.
ROUNDED = (0.5, 0.3)
MIXED_CAUSE = "one rounding (0.5), coefficients on a grid (0.02)"
LUMA = (0.56, 0.3)
LUMA_CAUSE = "one rounding (0.5), torchvision's luma weights sum to 0.9999 (0.03), grid (0.02)"
TABLE = (1.0, 0.001)
TABLE_CAUSE = "a level that lies on a half in one of two float64 formulas"
GRID = (1.0, 0.01)
GRID_CAUSE = "coefficients on a grid (0.02): levels next to a half round the other way"


def tensor(image: Array) -> torch.Tensor:
    return torch.from_numpy(image.astype(np.float64) / 255.0).permute(2, 0, 1)


def levels(image: torch.Tensor) -> Array:
    return image.permute(1, 2, 0).numpy() * 255.0


def on_tensor(function: Callable[..., torch.Tensor], *names: str) -> Callable[[Array, Draw], Array]:
    """A torchvision functional on 0..1 floats, with drawn numbers as its arguments."""
    return lambda image, drawn: levels(function(tensor(image), *(float(drawn[n]) for n in names)))


def on_bytes(function: Callable[..., torch.Tensor], *names: str) -> Callable[[Array, Draw], Array]:
    """A torchvision functional on uint8, with drawn numbers as its arguments."""

    def oracle(image: Array, drawn: Draw) -> Array:
        own = torch.from_numpy(image.copy()).permute(2, 0, 1)
        return function(own, *(float(drawn[n]) for n in names)).permute(1, 2, 0).numpy()

    return oracle


def hue(image: Array, drawn: Draw) -> Array:
    """The chroma of YIQ as a complex number, turned; conversions by scikit-image."""
    yiq = skimage.rgb2yiq(image / 255.0)
    turned = (yiq[..., 1] + 1j * yiq[..., 2]) * np.exp(-2j * np.pi * drawn["shift"])
    rgb = skimage.yiq2rgb(np.stack([yiq[..., 0], turned.real, turned.imag], axis=-1))
    return np.clip(rgb, 0, 1) * 255.0


def jitter(image: Array, drawn: Draw) -> Array:
    """torchvision's functionals one after another, at a quarter of the contrast.

    All three are linear and keep grey shifts, but brightness, which scales them: on levels
    0.25 v + 0.3 nothing is clipped on the way, and the map is undone at the end.
    """
    out = tv.adjust_brightness(tensor(image) * 0.25 + 0.3, float(drawn["brightness"]))
    out = tv.adjust_contrast(out, float(drawn["contrast"]))
    out = tv.adjust_saturation(out, float(drawn["saturation"]))
    return levels(((out - 0.3 * float(drawn["brightness"])) * 4.0).clamp(0, 1))


def shuffled(image: Array, drawn: Draw) -> Array:
    return (
        tv.permute_channels(
            torch.from_numpy(image.copy()).permute(2, 0, 1), [int(c) for c in drawn["order"]]
        )
        .permute(1, 2, 0)
        .numpy()
    )


def dropped(image: Array, drawn: Draw) -> Array:
    channels = [int(c) for c in drawn["order"][: drawn["channels"]]]
    return albumentations_dropout.channel_dropout(image, channels, 7)


def shifted(image: Array, drawn: Draw) -> Array:
    return np.dstack(
        [
            np.clip(image[..., c] + drawn[name], 0, 255)
            for c, name in enumerate(("red", "green", "blue"))
        ]
    )


def black_body(kelvin: float) -> Array:
    """Linear sRGB of a black body: Planck's law summed over the CIE 1931 observer.

    The observer is the fit of Wyman, Sloan and Shirley ("Simple analytic approximations to
    the CIE XYZ color matching functions", JCGT 2013); the conversion is scikit-image's.
    """
    nm = np.arange(360.0, 831.0)

    def lobe(height: float, centre: float, below: float, above: float) -> Array:
        return height * np.exp(-0.5 * ((nm - centre) * np.where(nm < centre, below, above)) ** 2)

    x = lobe(0.362, 442.0, 0.0624, 0.0374) + lobe(1.056, 599.8, 0.0264, 0.0323)
    x += lobe(-0.065, 501.1, 0.0490, 0.0382)
    y = lobe(0.821, 568.8, 0.0213, 0.0247) + lobe(0.286, 530.9, 0.0613, 0.0322)
    z = lobe(1.217, 437.0, 0.0845, 0.0278) + lobe(0.681, 459.0, 0.0385, 0.0725)
    spectrum = nm**-5 / np.expm1(1.4388e7 / (nm * kelvin))
    xyz = np.array([(spectrum * weight).sum() for weight in (x, y, z)])
    return rgb_from_xyz @ xyz


def lit(image: Array, drawn: Draw) -> Array:
    gain = black_body(float(drawn["kelvin"])) / black_body(6500.0)
    gain = (gain / gain[1]) ** (1 / 2.2)
    return np.clip(image * gain, 0, 255)


def pillow(function: Callable[[Image.Image], Image.Image]) -> Callable[[Array, Draw], Array]:
    def oracle(image: Array, drawn: Draw) -> Array:
        own = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        return np.asarray(function(own)).reshape(image.shape)

    return oracle


def sepia(image: Array, drawn: Draw) -> Array:
    matrix = [[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]]
    return albumentations.linear_transformation_rgb(image, np.array(matrix, np.float32))


def clahe(image: Array, drawn: Draw) -> Array:
    limit = float(drawn["clip_limit"])
    if image.shape[2] == 1:
        return albumentations.clahe(image[:, :, 0], limit, (4, 4)).reshape(image.shape)
    lab = skimage.rgb2lab(image) * [2.55, 1, 1] + [0, 128, 128]
    whole = np.rint(lab).astype(np.uint8)
    whole[:, :, 0] = albumentations.clahe(np.ascontiguousarray(whole[:, :, 0]), limit, (4, 4))
    return skimage.lab2rgb((whole - [0.0, 128, 128]) / [2.55, 1, 1]) * 255.0


def normalized(mean: list[float], std: list[float]) -> Callable[[Array, Draw], Array]:
    def oracle(image: Array, drawn: Draw) -> Array:
        return tv.normalize(tensor(image), mean, std).permute(1, 2, 0).numpy()

    return oracle


def both(item: Any, oracle: Callable[[Array, Draw], Array], **rest: Any) -> list[Case]:
    """A row on a colour image and one on a grey image."""
    return [Case(item, oracle, image=image, **rest) for image in ("rgb", "grey")]


def exactly(image: Array, drawn: Draw) -> Array:
    return image


MATRIX: dict[str, Any] = {"parity": GRID, "parity_cause": GRID_CAUSE}
LUT: dict[str, Any] = {"parity": TABLE, "parity_cause": TABLE_CAUSE}
FLOAT: dict[str, Any] = {
    "tolerance": (1e-6, 1e-6),
    "cause": "float32, in units of the result",
    "parity": (3e-4, 3e-4),
    "parity_cause": "float32",
}
LAB: dict[str, Any] = {
    "parity": (7.0, 0.1),
    "parity_cause": "a lightness between two whole numbers may round the other way in float32,"
    " which a slope of up to the clip limit multiplies; the grey rows have no Lab and agree to 1",
}
TILES: dict[str, Any] = {
    "parity": (1.0, 0.01),
    "parity_cause": "OpenCV interpolates between tiles in float32",
}
ONE_ROUNDING: dict[str, Any] = {"tolerance": ROUNDED, "cause": "one rounding", **LUT}

CLAHE = {"clahe": {"clip_limit": [1, 4], "tiles": 4}}
CLAHE_PADDED = {"clahe": {"clip_limit": [2, 2], "tiles": 5}}

LINEAR = [
    *both({"brightness": {"factor": [0.6, 1.4]}}, on_tensor(tv.adjust_brightness, "factor"),
          oracle_name="torchvision adjust_brightness", **ONE_ROUNDING),
    *both({"contrast": {"factor": [0.4, 1.6]}}, on_tensor(tv.adjust_contrast, "factor"),
          oracle_name="torchvision adjust_contrast", tolerance=LUMA, cause=LUMA_CAUSE, **LUT),
    *both({"saturation": {"factor": [0.3, 1.8]}}, on_tensor(tv.adjust_saturation, "factor"),
          oracle_name="torchvision adjust_saturation", tolerance=LUMA, cause=LUMA_CAUSE, **MATRIX),
    Case({"hue": {"shift": [-0.3, 0.3]}}, hue, "scikit-image rgb2yiq, yiq2rgb",
         tolerance=(0.56, 0.3), cause=f"{MIXED_CAUSE}, YIQ's four digits (0.03)", **MATRIX),
    Case({"hue": {"shift": [-0.3, 0.3]}}, exactly, "identity", image="grey", **LUT),
    Case({"color_jitter": {"brightness": 0.4, "contrast": 0.5, "saturation": 0.6}}, jitter,
         "torchvision adjust_*", tolerance=(0.62, 0.3),
         cause=f"{LUMA_CAUSE}, three times", **MATRIX),
    Case({"color_jitter": {"brightness": 0.4, "contrast": 0.5, "saturation": 0.6, "hue": 0.2}},
         None, why_no_oracle="hue is YIQ's: its own row has it", **MATRIX),
    *both({"invert": {"p": 1}}, on_bytes(tv.invert), oracle_name="torchvision invert",
          parity=(0, 0), parity_cause="exact"),
    Case({"grayscale": {"p": 1}},
         lambda image, _: levels(tv.rgb_to_grayscale(tensor(image), 3)),
         "torchvision rgb_to_grayscale", tolerance=LUMA, cause=LUMA_CAUSE, **MATRIX),
    Case({"grayscale": {"p": 1}}, exactly, "identity", image="grey", **LUT),
    Case("channel_shuffle", shuffled, "torchvision permute_channels", parity=(0, 0), index=2,
         parity_cause="exact"),
    Case({"channel_dropout": {"channels": [1, 2], "fill": 7}}, dropped,
         "albumentations channel_dropout", parity=(0, 0), parity_cause="exact"),
    Case({"rgb_shift": {"red": [-40, 40], "green": [-30, 0], "blue": [0, 30]}}, shifted,
         "closed form", tolerance=(0.5, 0.5), cause="one rounding, the same in a whole channel",
         **LUT),
    Case({"color_temperature": {"kelvin": [3000, 12000]}}, lit, "Planck's law",
         tolerance=(1.5, 0.4), cause="one rounding, and Krystek's and Wyman's fits (0.5 %)", **LUT),
    Case({"color_temperature": {"kelvin": [3000, 3000]}}, lit, "Planck's law",
         tolerance=(1.8, 0.5), cause="one rounding, and Krystek's and Wyman's fits (0.5 %)", **LUT),
    Case({"sepia": {"p": 1}}, sepia, "albumentations linear_transformation_rgb",
         tolerance=(1.0, 0.6), cause="one rounding here, truncation or fixed point there",
         **MATRIX),
]  # fmt: skip

TONE = [
    *both({"gamma": {"gamma": [0.4, 2.5]}}, on_tensor(tv.adjust_gamma, "gamma"),
          oracle_name="torchvision adjust_gamma", **ONE_ROUNDING),
    *both({"solarize": {"threshold": [60, 200]}}, on_bytes(tv.solarize, "threshold"),
          oracle_name="torchvision solarize", parity=(0, 0), parity_cause="exact"),
    *both({"posterize": {"bits": [1, 7]}},
          lambda image, drawn: on_bytes(lambda t: tv.posterize(t, int(drawn["bits"])))(image, {}),
          oracle_name="torchvision posterize", parity=(0, 0), parity_cause="exact"),
    # These photos span 0..255 already: test_color.py stretches a dim one.
    *both({"autocontrast": {"p": 1}}, on_tensor(tv.autocontrast),
          oracle_name="torchvision autocontrast", **ONE_ROUNDING),
    *both({"equalize": {"p": 1}}, pillow(ImageOps.equalize), oracle_name="Pillow equalize",
          parity=(0, 0), parity_cause="exact"),
    *both({"equalize": {"p": 1}}, on_bytes(tv.equalize), oracle_name="torchvision equalize",
          parity=(0, 0), parity_cause="exact"),
    Case(CLAHE, clahe, "scikit-image rgb2lab, albumentations clahe, lab2rgb", tolerance=(2.6, 0.3),
         cause="one rounding (0.5), and scikit-image's white, by which lightness rounds apart",
         **LAB),
    Case(CLAHE, clahe, "albumentations clahe", image="grey", **TILES),
    Case(CLAHE_PADDED, None, why_no_oracle="tiles that do not divide the image", **LAB),
    Case(CLAHE_PADDED, None, why_no_oracle="tiles that do not divide the image", image="grey",
         **TILES),
]  # fmt: skip

OUTPUT = [
    Case({"normalize": "imagenet"}, normalized([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
         "torchvision normalize", **FLOAT),
    *both({"normalize": "half"}, normalized([0.5], [0.5]), oracle_name="torchvision normalize",
          **FLOAT),
    Case({"normalize": {"mean": [0.2, 0.3, 0.4], "std": 0.25}},
         normalized([0.2, 0.3, 0.4], [0.25, 0.25, 0.25]), "torchvision normalize", **FLOAT),
    *both("to_float", lambda image, _: image / 255.0, oracle_name="closed form", **FLOAT),
]  # fmt: skip

ROWS = [*LINEAR, *TONE, *OUTPUT]
