"""What each of torchvision's transforms is natively."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from augpipe.importers.args import Args, Native, Unlike, jitter, one, tidy
from augpipe.importers.draft import Draft

_MODES = {
    "nearest": "nearest",
    "nearest-exact": "nearest",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
}


def _filled(args: Args, draft: Draft) -> dict[str, Any]:
    value = args.take("fill", 0)
    return {} if value is None else {"fill": draft.levels.grey(value)}


def _mode(args: Args, default: str) -> str:
    mode = str(args.take("interpolation", default)).lower()
    if mode not in _MODES:
        raise Unlike(f"interpolation={mode}")
    return _MODES[mode]


def _resampled(args: Args, mode: str) -> list[str]:
    """Returns how a shrinking op differs."""
    how = []
    if args.take("antialias", True) in (False, "False"):
        how.append("antialias=False, here shrinking by 2 or more is antialiased")
    elif mode in ("bilinear", "bicubic"):
        how.append("antialiased by a box, there by a triangle: 1 to 2 grey levels on average")
    return how


def _flip(name: str) -> Callable[[Args, Draft], Native]:
    return lambda args, draft: one(name, p=args.number("p", 0.5))


def _size(args: Args) -> list[int] | int:
    size = args.take("size")
    if isinstance(size, list) and len(size) != 2:
        raise Unlike(f"size={size}")
    return size


def _resize(args: Args, draft: Draft) -> Native:
    args.expect("max_size", None)
    mode = _mode(args, "bilinear")
    return one("resize", *_resampled(args, mode), size=_size(args), interpolation=mode)


def _resized_crop(args: Args, draft: Draft) -> Native:
    mode = _mode(args, "bilinear")
    ratio = args.numbers("ratio", (3 / 4, 4 / 3))
    if [round(each, 4) for each in ratio] == [0.75, 1.3333]:
        ratio = [3 / 4, 4 / 3]  # v1 prints four digits
    scale = args.numbers("scale", (0.08, 1.0))
    native = {"size": _size(args), "scale": scale, "ratio": ratio, "interpolation": mode}
    return one("random_resized_crop", *_resampled(args, mode), **native)


def _border(args: Args, draft: Draft) -> dict[str, Any]:
    border = args.take("padding_mode", "constant")
    if border not in ("constant", "edge", "reflect"):
        raise Unlike(f"padding_mode={border}")
    return {"border": border, **_filled(args, draft)}


def _padding(value: Any) -> Any:
    if isinstance(value, list):
        value = value * 4 if len(value) == 1 else value * 2 if len(value) == 2 else value
    return value


def _crop(args: Args, draft: Draft) -> Native:
    how = []
    if "pad_if_needed" not in args.values:
        how = ["its repr does not tell pad_if_needed, fill, padding_mode; the defaults are assumed"]
    native = _border(args, draft)
    native["pad_if_needed"] = args.take("pad_if_needed", False)
    native["padding"] = _padding(args.take("padding", None) or 0)
    return one("random_crop", *how, size=_size(args), **native)


def _pad(args: Args, draft: Draft) -> Native:
    return one("pad", padding=_padding(args.take("padding")), **_border(args, draft))


def _rim(native: dict[str, Any]) -> list[str]:
    """Returns how a warp differs where the image ends: torchvision weighs a tensor's rim twice."""
    smooth = native["interpolation"] != "nearest"
    return ["a rim of one pixel blends with the fill by another weight"] if smooth else []


def _rotation(args: Args, draft: Draft) -> Native:
    if args.take("expand", False):
        raise Unlike("expand=True changes the size")
    args.expect("center", None)
    degrees = args.numbers("degrees", ())
    native = {"interpolation": _mode(args, "nearest"), **_filled(args, draft)}
    return one("rotate", *_rim(native), degrees=degrees, **native)


def _affine(args: Args, draft: Draft) -> Native:
    args.expect("center", None)
    low, high = args.numbers("degrees", ())
    tx, ty = args.numbers("translate", (0, 0)) if args.take("translate") else (0.0, 0.0)
    scale = args.numbers("scale", (1, 1)) if args.take("scale") else [1.0, 1.0]
    shear = list(args.take("shear") or [0.0, 0.0])
    if len(shear) not in (2, 4):
        raise Unlike(f"shear={shear}")
    shear += [0.0, 0.0][: 4 - len(shear)]
    native = {
        # Its angles and its shears along x are clockwise.
        "degrees": tidy(-high, -low),
        "translate_x": [-tx, tx],
        "translate_y": [-ty, ty],
        "scale": scale,
        "shear_x": tidy(-shear[1], -shear[0]),
        "shear_y": shear[2:],
        "interpolation": _mode(args, "nearest"),
    }
    return one("affine", *_rim(native), **native, **_filled(args, draft))


def _perspective(args: Args, draft: Draft) -> Native:
    how = ["corners move by fractions of a pixel, there by whole ones"]
    if "distortion_scale" not in args.values:
        how.append("its repr does not tell distortion_scale, fill, interpolation; the defaults")
    native = {"distortion": args.number("distortion_scale", 0.5), "p": args.number("p", 0.5)}
    native |= _filled(args, draft) | {"interpolation": _mode(args, "bilinear")}
    return one("perspective", *how, **native)


# -------------------------------------------------------- colour and the rest


def _jitter(args: Args, draft: Draft) -> Native:
    names = ("brightness", "contrast", "saturation", "hue")
    return jitter({n: args.numbers(n, ()) for n in names if args.take(n) is not None})


def _grayscale(args: Args, draft: Draft) -> Native:
    channels = args.take("num_output_channels", 1)
    how = () if channels == 3 else ("three equal channels stay, there one",)
    return one("grayscale", *how, p=1.0)


def _solarize(args: Args, draft: Draft) -> Native:
    threshold = args.number("threshold", 128) * (255.0 if draft.levels.unit else 1.0)
    return one("solarize", threshold=tidy(threshold) * 2, p=args.number("p", 0.5))


def _posterize(args: Args, draft: Draft) -> Native:
    return one("posterize", bits=[args.take("bits")] * 2, p=args.number("p", 0.5))


def _sharpness(args: Args, draft: Draft) -> Native:
    how = "the outermost ring of pixels is sharpened too"
    factor = [args.number("sharpness_factor", 1.0)] * 2
    return one("sharpen", how, factor=factor, p=args.number("p", 0.5))


def _blur(args: Args, draft: Draft) -> Native:
    size = args.numbers("kernel_size", ())
    sigma = args.numbers("sigma", (0.1, 2.0))
    if min(size) < 2 * -(-3.0 * sigma[1] // 1) + 1:
        raise Unlike(f"kernel_size {min(size)} cuts a Gaussian of sigma {sigma[1]} short")
    return one("gaussian_blur", "weights end at 3 sigma, there at kernel_size", sigma=sigma)


def _noise(args: Args, draft: Draft) -> Native:
    args.expect("mean", 0, 0.0)
    args.expect("clip", True)
    sigma = args.number("sigma", 0.1) * 255.0
    return one("gaussian_noise", sigma=tidy(sigma) * 2)


def _jpeg(args: Args, draft: Draft) -> Native:
    return one("jpeg_compression", quality=[int(each) for each in args.numbers("quality", ())])


def _erasing(args: Args, draft: Draft) -> Native:
    if "mode" in args.values:
        return _timms_erasing(args, draft)
    args.skip("inplace")
    value, how = args.take("value"), []
    native = {"scale": args.numbers("scale", (0.02, 0.33)), "ratio": args.numbers("ratio", ())}
    if value in (None, "random"):  # v2 does not print "random"
        fill: Any = "noise"
        how = ["noise is uniform in 0..255, there standard normal about the mean"]
    else:
        fill = draft.levels.grey(value, cut=True)
        if fill != draft.levels.grey(value, bounded=False):
            how = [f"value={value} is beyond black or white, and cut there"]
    return one("random_erasing", *how, **native, fill=fill, p=args.number("p", 0.5))


def _timms_erasing(args: Args, draft: Draft) -> Native:
    """Reads timm's RandomErasing, whose repr has `mode` and `count` and no more than p."""
    how = ["its repr does not tell areas and ratios; timm's defaults are assumed"]
    count = args.numbers("count", (1, 1))
    if max(count) > 1:
        how.append(f"one block; there {count[0]} to {count[1]} that share its area")
    mode = args.take("mode")
    fill: Any = "noise"
    match mode:
        case "const" | "":
            fill = draft.levels.grey(0)
        case "pixel":
            how.append("noise is uniform in 0..255, there standard normal about the mean")
        case "rand":
            how.append("noise in each pixel, uniform in 0..255; there one random colour a block")
        case _:
            raise Unlike(f"mode={mode}")
    native = {"scale": [0.02, 1 / 3], "ratio": [0.3, 1 / 0.3], "fill": fill}
    return one("random_erasing", *how, **native, p=args.number("p", 0.5))


def _cropped(args: Args, draft: Draft) -> Native:
    """Reads timm's RandomResizedCropAndInterpolation, which works on PIL images."""
    drawn = args.take("interpolation", "bilinear") == "random"
    mode = {"interpolation": "bilinear"} if drawn else {}
    native = _resized_crop(Args({**args.values, **mode}, args.read), draft)
    how = ["bilinear, where timm draws bilinear or bicubic"] if drawn else []
    return Native(native.items, (*native.changes, *how))


def _center(args: Args, draft: Draft) -> Native:
    """Reads timm's CenterCropOrPad."""
    how = "its repr does not tell fill and padding_mode; the defaults are assumed"
    return one("center_crop", how, size=_size(args), fill=draft.levels.grey(0))


def _mix(name: str) -> Callable[[Args, Draft], Native]:
    return lambda args, draft: _mixed(name, args, draft)


def _mixed(name: str, args: Args, draft: Draft) -> Native:
    native = one(name, alpha=args.number("alpha", 1.0))
    if (classes := args.take("num_classes")) is not None:
        if isinstance(classes, bool) or not isinstance(classes, int) or not 0 < classes < 10**7:
            raise Unlike(f"num_classes={classes}")
        draft.fields["classes"] = classes
    return native


def _fixed(args: Args, draft: Draft) -> dict[str, Any]:
    """Returns how a policy reads pixels."""
    return {"interpolation": _mode(args, "nearest"), **_filled(args, draft)}


def _rand(args: Args, draft: Draft) -> Native:
    native = {"num_ops": args.take("num_ops", 2), "magnitude": args.number("magnitude", 9)}
    native["num_magnitude_bins"] = args.take("num_magnitude_bins", 31)
    return one("rand_augment", **native, **_fixed(args, draft))


def _trivial(args: Args, draft: Draft) -> Native:
    bins = args.take("num_magnitude_bins", 31)
    return one("trivial_augment", num_magnitude_bins=bins, **_fixed(args, draft))


def _auto(args: Args, draft: Draft) -> Native:
    policy = str(args.take("policy", "imagenet")).lower()
    return one("auto_augment", policy=policy, **_fixed(args, draft))


def _augmix(args: Args, draft: Draft) -> Native:
    depth = args.number("chain_depth", -1)
    native = {"severity": args.take("severity", 3), "width": args.take("mixture_width", 3)}
    native |= {"depth": [depth, depth] if depth > 0 else [1, 3], "alpha": args.take("alpha", 1.0)}
    mode = {"interpolation": _mode(args, "bilinear"), **_filled(args, draft)}
    return one("augmix", all_ops=args.take("all_ops", True), **native, **mode)


def _boxes(args: Args, draft: Draft) -> Native:
    args.skip("labels_getter")
    args.expect("min_size", 1.0, 0.0)
    draft.fields["boxes"] = {"min_area": args.number("min_area", 1.0)}
    return Native([], ())


NATIVE: dict[str, Callable[[Args, Draft], Native]] = {
    "RandomHorizontalFlip": _flip("horizontal_flip"),
    "RandomVerticalFlip": _flip("vertical_flip"),
    "Resize": _resize,
    "CenterCrop": lambda args, draft: one("center_crop", size=_size(args)),
    "RandomCrop": _crop,
    "RandomResizedCrop": _resized_crop,
    "Pad": _pad,
    "RandomRotation": _rotation,
    "RandomAffine": _affine,
    "RandomPerspective": _perspective,
    "ColorJitter": _jitter,
    "Grayscale": _grayscale,
    "RandomGrayscale": lambda args, draft: one("grayscale", p=args.number("p", 0.1)),
    "RandomInvert": _flip("invert"),
    "RandomSolarize": _solarize,
    "RandomPosterize": _posterize,
    "RandomAdjustSharpness": _sharpness,
    "RandomAutocontrast": _flip("autocontrast"),
    "RandomEqualize": _flip("equalize"),
    "RandomChannelPermutation": lambda args, draft: one("channel_shuffle"),
    "GaussianBlur": _blur,
    "GaussianNoise": _noise,
    "JPEG": _jpeg,
    "RandomErasing": _erasing,
    "MixUp": _mix("mixup"),
    "CutMix": _mix("cutmix"),
    "RandomResizedCropAndInterpolation": _cropped,
    "CenterCropOrPad": _center,
    "RandAugment": _rand,
    "TrivialAugmentWide": _trivial,
    "AutoAugment": _auto,
    "AugMix": _augmix,
    "SanitizeBoundingBoxes": _boxes,
}
"""From a transform's name to what reads its arguments, or raises `Unlike`."""
