"""What timm's own transforms print, read back as the strings that made them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from augpipe.importers.args import Unlike, is_number
from augpipe.importers.reprs import Call
from augpipe.ops.policy_tables import TABLES

CROPS = ("RandomResizedCropAndInterpolation",)
"""Those whose interpolation may be two words: timm draws one of them."""
SHOWN = re.compile(r"<[\w.]*\b(ToNumpy) object at ")
"""What a transform without a repr of its own shows."""
_THEIRS = (
    *CROPS,
    "AugMixAugment",
    "CenterCropOrPad",
    "MaybePILToTensor",
    "MaybeToTensor",
    "RandomCropOrPad",
    "RandomPad",
    "ResizeKeepRatio",
    "ToNumpy",
    "TrimBorder",
)
_SET = (
    *("AutoContrast", "Brightness", "Color", "Contrast", "Equalize", "Invert", "Posterize"),
    *("Rotate", "Sharpness", "ShearX", "ShearY", "Solarize", "SolarizeAdd"),
    *("TranslateXRel", "TranslateYRel"),
)
_UNGRADED = ("autocontrast", "equalize", "invert")
_GIVE = "give its string, such as rand-m9-mstd0.5-inc1, as a text of its own"


def is_timms(call: Call) -> bool:
    """Tells whether a transform is timm's, by its name or by what it prints."""
    erasing = call.name == "RandomErasing" and "mode" in call.named
    return call.name in _THEIRS or is_policy(call) or erasing


def is_policy(call: Call) -> bool:
    """Tells whether a transform is one of timm's policies, not torchvision's of that name."""
    match call:
        case Call(name="RandAugment", named={"ops": _}) | Call(name="AugMixAugment"):
            return True
        case Call(name="AutoAugment", named={"policy": list()}):
            return True
    return False


def policy(call: Call) -> tuple[str, tuple[str, ...]]:
    """Returns the string that makes a policy, and what its repr leaves open.

    Raises:
        Unlike: No string makes it.
    """
    match call.name:
        case "RandAugment":
            return _rand(call)
        case "AugMixAugment":
            return _augmix(call)
    return _auto([call.named["policy"], *call.plain]), ()


def _ops(values: Sequence[Any]) -> list[Call]:
    if not all(isinstance(each, Call) and each.name == "AugmentOp" for each in values):
        raise Unlike(f"its ops cannot be read; {_GIVE}")
    return list(values)


def _number(value: Any) -> str:
    """Returns a number as one of timm's strings has it."""
    if value == "inf":
        return "101"  # whatever is above 100: uniform
    if not is_number(value) or not 0 <= value < 1e9:
        raise Unlike(f"{value} is not a number of its strings; {_GIVE}")
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _common(ops: Sequence[Call]) -> dict[str, Any]:
    """Returns what all of a policy's ops share."""
    shared = [{k: v for k, v in op.named.items() if k != "name"} for op in ops]
    if any(each != shared[0] for each in shared):
        raise Unlike(f"its ops differ in p or m; {_GIVE}")
    return shared[0]


def _rand(call: Call) -> tuple[str, tuple[str, ...]]:
    ops = _ops([call.named["ops"], *call.plain])
    names, common = [str(op.named.get("name")) for op in ops], _common(ops)
    text = f"rand-m{_number(common.get('m', 10))}-n{_number(call.named.get('n', 2))}"
    text += f"-p{_number(common.get('p', 0.5))}"
    for key in ("mstd", "mmax"):
        if common.get(key):
            text += f"-{key}{_number(common[key])}"
    if any(name.endswith("Increasing") for name in names):
        text += "-inc1"
    if names == ["SolarizeIncreasing", "Desaturate", "GaussianBlur"]:
        return f"{text}-t3a", ()
    if sorted(name.removesuffix("Increasing") for name in names) != list(_SET):
        raise Unlike(f"its transforms are not the usual 15; {_GIVE}")
    if names[0] == "Rotate":  # the only sign of it: the order of its set
        text += "-tweights"
    return text, ()


def _augmix(call: Call) -> tuple[str, tuple[str, ...]]:
    common = _common(_ops([call.named.get("ops"), *call.plain]))
    text = f"augmix-m{_number(common.get('m', 3))}"
    for key, name in (("w", "width"), ("a", "alpha")):
        if name in call.named:
            text += f"-{key}{_number(call.named[name])}"
    depth = call.named.get("depth", -1)
    if is_number(depth) and depth > 0:
        text += f"-d{_number(depth)}"
    if common.get("mstd") not in ("inf", None):
        text += f"-mstd{_number(common['mstd'])}"
    return text, ("its repr does not tell b (blended); 0 is assumed",)


def _auto(rules: Sequence[Any]) -> str:
    if not all(isinstance(rule, list) for rule in rules):
        raise Unlike(f"its table cannot be read; {_GIVE}")
    table = [_ops(rule) for rule in rules]
    rules_given = [[_rule(op) for op in rule] for rule in table]
    if [[name for name, _, _ in rule] for rule in rules_given] == [
        ["solarize"],
        ["desaturate"],
        ["gaussianblurrand"],
    ]:
        return "3a"
    if rules_given != [
        [(name, p, 0 if name in _UNGRADED else bin_) for name, p, bin_ in rule]
        for rule in TABLES["imagenet"]
    ]:
        raise Unlike("its table is not AutoAugment's of ImageNet, the only one that is known")
    deviations = {op.named.get("mstd", 0) for rule in table for op in rule}
    if len(deviations) > 1:
        raise Unlike(f"its ops differ in mstd; {_GIVE}")
    deviation = deviations.pop()
    return f"original-mstd{_number(deviation)}" if deviation else "original"


def _rule(op: Call) -> tuple[str, Any, Any]:
    """Returns one of AutoAugment's steps as the tables have it."""
    name = re.sub(r"(Increasing|Original)$", "", str(op.named.get("name")))
    name = name.lower().replace("shearx", "shear_x").replace("sheary", "shear_y")
    return name, op.named.get("p"), 0 if name in _UNGRADED else op.named.get("m")
