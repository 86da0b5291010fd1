"""What each of albumentations' transforms is natively, its p apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from augpipe.importers.args import Args, Native, Unlike, jitter, one, tidy

_MODES = {0: "nearest", 1: "bilinear", 2: "bicubic"}
_BORDERS = {0: "constant", 1: "edge", 4: "reflect"}


def _modes(args: Args) -> dict[str, Any]:
    image, mask = args.take("interpolation", 1), args.take("mask_interpolation", 0)
    if image not in _MODES or mask not in (0, 1):
        raise Unlike(f"OpenCV's interpolation {image} for images, {mask} for masks")
    return {"interpolation": _MODES[image], "mask_interpolation": _MODES[mask]}


def _image_mode(args: Args) -> dict[str, Any]:
    mode = _modes(args)
    if mode.pop("mask_interpolation") != "nearest":
        raise Unlike("masks are read bilinearly")
    return mode


def _border(args: Args) -> dict[str, Any]:
    border = args.take("border_mode", 0)
    if border not in _BORDERS:
        raise Unlike(f"OpenCV's border mode {border}")
    fill, mask = args.take("fill", 0), args.take("fill_mask", 0)
    if isinstance(mask, float) and mask.is_integer():
        mask = int(mask)
    return {"border": _BORDERS[border], "fill": fill, "mask_fill": mask}


_ANTIALIAS = "shrinking by 2 or more is antialiased, there points are sampled"


def _resize(args: Args) -> Native:
    args.expect("area_for_downscale", None)
    size = [args.take("height"), args.take("width")]
    return one("resize", _ANTIALIAS, size=size, **_image_mode(args))


def _shorter(args: Args) -> Native:
    args.expect("area_for_downscale", None)
    args.expect("max_size_hw", None)
    how = "the longer side is rounded down, there to the nearest"
    return one("resize", _ANTIALIAS, how, size=args.take("max_size"), **_image_mode(args))


def _resized_crop(args: Args) -> Native:
    args.expect("area_for_downscale", None)
    size = args.take("size")
    scale, ratio = args.numbers("scale", (0.08, 1)), args.numbers("ratio", (3 / 4, 4 / 3))
    mode = _image_mode(args)
    return one("random_resized_crop", _ANTIALIAS, size=size, scale=scale, ratio=ratio, **mode)


def _crop(args: Args) -> Native:
    args.expect("pad_if_needed", False)
    args.skip("border_mode", "fill", "fill_mask", "pad_position")
    return one("random_crop", size=[args.take("height"), args.take("width")])


def _center(args: Args) -> Native:
    args.expect("pad_if_needed", False)
    args.skip("border_mode", "fill", "fill_mask", "pad_position")
    how = "an odd rest is halved to the even pixel, there downwards; a small image is padded"
    return one("center_crop", how, size=[args.take("height"), args.take("width")])


def _pad(args: Args) -> Native:
    padding = args.take("padding")
    if isinstance(padding, list) and len(padding) == 2:
        padding = padding * 2
    return one("pad", padding=padding, **_border(args))


def _rotate(args: Args) -> Native:
    args.expect("crop_border", False)
    args.skip("rotate_method")
    native = _border(args) | _modes(args)
    return one("rotate", degrees=args.numbers("limit", (-90, 90)), **native)


def _affine(args: Args) -> Native:
    args.skip("rotate_method")
    args.expect("fit_output", False)
    args.expect("balanced_scale", False)
    scale, shear = args.take("scale"), args.take("shear")
    if scale["x"] != scale["y"] or (not args.take("keep_ratio") and len(set(scale["x"])) > 1):
        raise Unlike("the two sides are scaled apart")
    if any(shear["x"]) or any(shear["y"]):
        raise Unlike("it shears after it turns")
    pixels, share = args.take("translate_px"), args.take("translate_percent")
    if pixels and (any(pixels["x"]) or any(pixels["y"])):
        raise Unlike("translate_px is in pixels")
    shift = {f"translate_{axis}": share[axis] if share else [0.0, 0.0] for axis in "xy"}
    native = {"degrees": args.numbers("rotate", (0, 0)), "scale": scale["x"], **shift}
    native |= {"shear_x": [0.0, 0.0], "shear_y": [0.0, 0.0]}
    how = ["a rim of one pixel blends with the fill by another weight"]
    how += ["the shift is a whole number of pixels"] if share else []
    return one("affine", *how, **native, **_border(args), **_modes(args))


# -------------------------------------------------------- colour, filters, noise


def _jitter(args: Args) -> Native:
    usual = {"brightness": [1, 1], "contrast": [1, 1], "saturation": [1, 1], "hue": [0, 0]}
    ranges = {name: args.numbers(name, still) for name, still in usual.items()}
    return jitter({name: ends for name, ends in ranges.items() if ends != usual[name]})


def _shift(args: Args) -> Native:
    args.skip("approximation", "noise_params", "noise_type", "spatial_mode")
    limits = {"red": "r", "green": "g", "blue": "b"}
    return one("rgb_shift", **{k: args.numbers(f"{v}_shift_limit", ()) for k, v in limits.items()})


def _gray(args: Args) -> Native:
    args.expect("method", "weighted_average")
    args.expect("num_output_channels", 3)
    return one("grayscale")


def _solarize(args: Args) -> Native:
    return one(
        "solarize", threshold=tidy(*(255.0 * v for v in args.numbers("threshold_range", ())))
    )


def _posterize(args: Args) -> Native:
    return one("posterize", bits=args.numbers("num_bits", ()))


def _autocontrast(args: Args) -> Native:
    args.expect("method", "pil")
    args.expect("cutoff", 0, 0.0)
    args.expect("ignore", None)
    return one("autocontrast", "levels are rounded to the nearest, there down")


def _clahe(args: Args) -> Native:
    rows, columns = args.take("tile_grid_size")
    if rows != columns:
        raise Unlike("its tiles are not as many down as across")
    how = "Lab is exact, there OpenCV's table, up to two units off: 1 grey level on average"
    return one("clahe", how, clip_limit=args.numbers("clip_limit", ()), tiles=rows)


def _gamma(args: Args) -> Native:
    return one("gamma", gamma=tidy(*(v / 100.0 for v in args.numbers("gamma_limit", ()))))


def _gaussian(args: Args) -> Native:
    args.expect("blur_limit", [0, 0], 0)
    sigma = args.numbers("sigma_limit", (0.5, 3.0))
    return one("gaussian_blur", "weights end at 3 sigma, there at 3.5", sigma=sigma)


def _window(name: str) -> Callable[[Args], Native]:
    return lambda args: one(name, size=args.numbers("blur_limit", (3, 7)))


def _noise(args: Args) -> Native:
    args.expect("mean_range", [0.0, 0.0], [0, 0])
    args.expect("noise_scale_factor", 1, 1.0)
    sigma = tidy(*(255.0 * each for each in args.numbers("std_range", (0.2, 0.44))))
    return one("gaussian_noise", sigma=sigma, per_channel=args.take("per_channel", True))


def _dropout(args: Args) -> Native:
    args.expect("drop_value", 0, 0.0)
    args.expect("mask_drop_value", None)
    amount = [args.number("dropout_prob", 0.01)] * 2
    return one("pixel_dropout", amount=amount, per_channel=args.take("per_channel", False))


def _channels(args: Args) -> Native:
    channels = args.numbers("channel_drop_range", (1, 1))
    return one("channel_dropout", channels=channels, fill=args.take("fill", 0))


def _plain(name: str) -> Callable[[Args], Native]:
    return lambda args: one(name)


NATIVE: dict[str, Callable[[Args], Native]] = {
    "HorizontalFlip": _plain("horizontal_flip"),
    "VerticalFlip": _plain("vertical_flip"),
    "Transpose": _plain("transpose"),
    "RandomRotate90": lambda args: one("rotate90", times=[0, 3]),
    "Resize": _resize,
    "SmallestMaxSize": _shorter,
    "RandomResizedCrop": _resized_crop,
    "RandomCrop": _crop,
    "CenterCrop": _center,
    "Pad": _pad,
    "Rotate": _rotate,
    "Affine": _affine,
    "ColorJitter": _jitter,
    "RGBShift": _shift,
    "ToGray": _gray,
    "ToSepia": _plain("sepia"),
    "InvertImg": _plain("invert"),
    "Solarize": _solarize,
    "Posterize": _posterize,
    "AutoContrast": _autocontrast,
    "CLAHE": _clahe,
    "RandomGamma": _gamma,
    "ChannelShuffle": _plain("channel_shuffle"),
    "ChannelDropout": _channels,
    "GaussianBlur": _gaussian,
    "Blur": _window("box_blur"),
    "MedianBlur": _window("median_blur"),
    "GaussNoise": _noise,
    "PixelDropout": _dropout,
}
"""From a transform's name to what reads its arguments, or raises `Unlike`."""
