"""From timm's auto-augment strings, such as `rand-m9-mstd0.5-inc1`, to a recipe."""

from __future__ import annotations

import math
import re
from typing import Any

from augpipe.errors import UsageError, did_you_mean
from augpipe.importers.args import Item, Native, tidy
from augpipe.importers.draft import Draft
from augpipe.spec import shorten

_FIRST = ("rand", "augmix", "original", "originalr", "v0", "v0r", "3a")
_FORM = re.compile(rf"({'|'.join(_FIRST)})(-\S*)?")
_LEVELS = 10  # timm's magnitudes: 10 is level 1
_LAYERS = 16
_FILL = 128.0  # what timm fills with when its caller names no colour
_HOW = (
    "fill 128, where timm's training scripts fill with the data's mean colour",
    "bilinear, where timm draws bilinear or bicubic",
)


def is_timm(text: str) -> bool:
    """Tells whether a text is one of timm's strings."""
    return _FORM.fullmatch(text.strip()) is not None


def import_timm(text: str, source: str) -> Draft:
    """Reads a string.

    Args:
        text: Sections with dashes between: the first names the policy, then key and value.
        source: What to call it in notes.

    Raises:
        UsageError: A section that timm does not know either.
    """
    draft, text = Draft("timm"), text.strip()
    name = text.partition("-")[0]
    draft.sample = layers(text, source, name if source == text else text, draft)
    return draft


def layers(text: str, where: str, name: str, draft: Draft, *how: str) -> list[Item]:
    """Returns the ops that a string becomes.

    Args:
        text: The string.
        where: Where it stands, for notes.
        name: What to call it in them.
        draft: Where to note.
        how: Differences that are known already.

    Raises:
        UsageError: A section that timm does not know either.
    """
    first, *sections = text.split("-")
    match first:
        case "rand":
            given = _read(sections, "m n p mstd mmax inc t", where)
            return _rand(given, where, name, draft, *how)
        case "augmix":
            return _augmix(_read(sections, "m w d a b mstd", where), where, name, draft, *how)
        case "3a":
            if _read(sections, "mstd", where):
                how = (*how, "mstd is not carried over")
            mapped = _three(5.0, *how, increasing=False, rand=False)
            return draft.place(where, name, mapped, "", {})
    given = _read(sections, "mstd", where)
    return _auto(first, given, where, name, draft, *how)


def _read(sections: list[str], keys: str, source: str) -> dict[str, Any]:
    """Returns the sections' values by their keys.

    Raises:
        UsageError: An unknown key, or a value that is not a number.
    """
    known = keys.split()
    out: dict[str, Any] = {}
    for section in sections:
        if section.startswith("t") and "t" in known:
            out["t"] = section[1:]
            continue
        found = re.fullmatch(r"([a-z]+)(-?\d{1,9}(?:\.\d{0,9})?)", section)
        if found is None or found.group(1) not in known:
            key, shown = re.sub(r"[\d.-]+$", "", section), shorten(section)
            if key in known:
                raise UsageError(f"{source}: section {shown}: '{key}' needs a number of its own")
            hint = did_you_mean(key, known) or f"known: {', '.join(known)}, each with a number"
            raise UsageError(f"{source}: section {shown} is not one of timm's ({hint})")
        out[found.group(1)] = float(found.group(2))
    return out


def _rand(given: dict[str, Any], where: str, name: str, draft: Draft, *told: str) -> list[Item]:
    """Writes RandAugment: one op a layer, since in timm each layer acts with its own p."""
    magnitude, most = given.get("m", 10.0), given.get("mmax", 10.0)
    layers, p, deviation = int(given.get("n", 2)), given.get("p", 0.5), given.get("mstd", 0.0)
    if not 1 <= layers <= _LAYERS:
        text = f"{name}: {layers} layers; from 1 to {_LAYERS} can be done"
        draft.say(where, "dropped", text)
        return []
    if (ops := given.get("t")) == "3a" and not deviation:
        three = _three(magnitude, *told, increasing=True, rand=True, p=p)
        return draft.place(where, name, Native(three.items * layers, three.changes), "", {})
    if ops:
        text = f"t{ops}, the set of transforms '{ops}': the usual ones act instead, evenly drawn"
        draft.say(where, "dropped", text)
    how = [
        *told,
        "14 transforms with the identity; timm's 15 have invert and solarize_add instead",
        "posterize keeps 8 to 4 bits, in timm 4 to 0",
        *_HOW,
    ]
    if not given.get("inc"):
        how.append("strengths grow with the magnitude (inc1); without inc, timm's factors run "
                   "from 0.1 to 1.9 and its posterize and solarize grow weaker")  # fmt: skip
    if deviation > 100:
        how.append("a normal magnitude of the mean and deviation of timm's uniform one")
        magnitude, deviation = magnitude / 2.0, magnitude / math.sqrt(12.0)
    if max(magnitude, most) > _LEVELS:
        how.append("magnitudes end at 10, level 1")
    elif most < _LEVELS:
        how.append(f"mmax {most:g} bounds the mean magnitude only, not its noise")
    (deviation,) = tidy(round(deviation, 4))
    layer = {
        "num_ops": 1,
        "magnitude": min(magnitude, most, _LEVELS),
        "magnitude_std": deviation,
        "num_magnitude_bins": _LEVELS + 1,
        "fill": _FILL,
        "p": p,
    }
    items: list[Item] = [{"rand_augment": dict(layer)} for _ in range(layers)]
    return draft.place(where, name, Native(items, tuple(how)), "", {})


def _augmix(given: dict[str, Any], where: str, name: str, draft: Draft, *told: str) -> list[Item]:
    severity, depth = given.get("m", 3.0), int(given.get("d", -1))
    how = ["magnitudes are whole bins 0 to m - 1 of 9, in timm uniform in 0..m of 10", *_HOW]
    how += told
    how.append("posterize keeps 4 bits to 0, as in timm, but rounds them to the nearest")
    if given.get("b"):
        how.append("b1's blending one after another is not done")
    if "mstd" in given:
        how.append(f"mstd {given['mstd']:g} is not carried over")
    if severity > _LEVELS:
        how.append("magnitudes end at 10")
    native = {
        "severity": max(1, min(int(severity), _LEVELS)),
        "width": int(given.get("w", 3)),
        "depth": [depth, depth] if depth > 0 else [1, 3],
        "alpha": given.get("a", 1.0),
        "fill": _FILL,
    }
    mapped = Native([{"augmix": native}], tuple(how))
    return draft.place(where, name, mapped, "", {})


def _auto(
    table: str, given: dict[str, Any], where: str, name: str, draft: Draft, *told: str
) -> list[Item]:
    if table in ("v0", "v0r"):
        text = f"{name}: its table (EfficientNet's) is not one of auto_augment's policies"
        draft.say(where, "dropped", text)
        return []
    how = ["strengths grow with the bin over 9; in timm over 10, and factors run from 0.1 to 1.9"]
    if "mstd" in given:
        how.append(f"mstd {given['mstd']:g} is not carried over")
    native: Item = {"auto_augment": {"policy": "imagenet", "fill": _FILL}}
    return draft.place(where, name, Native([native], (*told, *how, *_HOW)), "", {})


def _three(magnitude: float, *told: str, increasing: bool, rand: bool, p: float = 1.0) -> Native:
    """Returns 3-Augment (arXiv 2204.07118) as timm has it: solarize, grey or blur.

    Args:
        magnitude: Of solarize; of all three with `rand`.
        told: Differences that are known already.
        increasing: Whether solarize grows stronger with the magnitude.
        rand: Whether grey and blur follow the magnitude too.
        p: How often it acts.
    """
    level = min(magnitude, _LEVELS) / _LEVELS
    threshold = min(256, int(level * 256))
    threshold = 256 - threshold if increasing else threshold
    colour = 0.5 - 0.5 * level if rand else 0.0
    sigma = [0.1 + 1.9 * level] * 2 if rand else [0.1, 2.0]
    ops: list[Item] = [
        {"solarize": {"threshold": [threshold, threshold]}},
        {"saturation": {"factor": tidy(colour, colour)}},
        {"gaussian_blur": {"sigma": tidy(*sigma)}},
    ]
    how = "a true Gaussian, where Pillow's is made of boxes"
    return Native([{"one_of": {"ops": ops, "p": p}}], (*told, how))
