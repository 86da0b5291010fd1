"""Importers: timm's strings compared with timm, and texts that nobody can read."""

from __future__ import annotations

import json
import math
import re
import warnings
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import augpipe
from augpipe.errors import UsageError
from augpipe.importers import import_recipe
from augpipe.ops.policy_tables import AT, STANDARD
from tests.imported import sample

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # deprecations of timm's own, at its import
    from timm.data import auto_augment as timm


# ------------------------------------------------------------ timm


@pytest.mark.parametrize(
    "text",
    [
        "rand-m9-mstd0.5-inc1",
        "rand-m7-n3-p0.8-inc1",
        "rand-inc1-m4",
        "rand-m15-mmax20-inc1",
        "rand-m9-mmax5-inc1",
        "rand-n1",
    ],
)
def test_timm_rand_is_parsed_as_timm_does(text: str) -> None:
    theirs = timm.rand_augment_transform(text, {})
    layers = sample(import_recipe(text))
    assert len(layers) == theirs.num_layers
    for layer in layers:
        ours = layer["rand_augment"]
        assert ours["p"] == theirs.ops[0].prob
        assert ours["num_ops"] == 1
        assert ours["magnitude_std"] == theirs.ops[0].magnitude_std
        magnitude = min(theirs.ops[0].magnitude, theirs.ops[0].magnitude_max or 10, 10)
        assert ours["magnitude"] == magnitude


@pytest.mark.parametrize("magnitude", [1, 5, 9, 10])
def test_timm_magnitudes_mean_what_they_mean_in_timm(magnitude: int) -> None:
    ours = sample(import_recipe(f"rand-m{magnitude}-inc1"))[0]["rand_augment"]
    level = ours["magnitude"] / (ours["num_magnitude_bins"] - 1)
    hparams = {"translate_pct": 0.45}

    def own(name: str) -> float:
        return float(STANDARD.magnitudes(np.array([AT[name]]), np.array([level]))[0])

    def timms(name: str) -> float:
        return abs(timm.LEVEL_TO_ARG[name](magnitude, hparams)[0])

    assert math.isclose(own("rotate"), timms("Rotate"))
    assert math.isclose(own("shear_x"), timms("ShearX"))
    # 150 / 331 of the side in the paper's code, 0.45 in timm.
    assert math.isclose(own("translate_x"), timms("TranslateXRel"), rel_tol=0.01)
    # timm's factor is never below 0.1; it may go either way.
    assert math.isclose(own("color"), abs(timms("ColorIncreasing") - 1.0), abs_tol=1e-9)
    # Whole levels there, of 256 and not 255.
    assert math.isclose(own("solarize"), timms("SolarizeIncreasing"), abs_tol=2.0)


def test_timm_uniform_magnitudes_keep_mean_and_deviation() -> None:
    ours = sample(import_recipe("rand-m8-mstd101-inc1"))[0]["rand_augment"]
    assert ours["magnitude"] == 4.0
    assert math.isclose(ours["magnitude_std"], 8 / math.sqrt(12), rel_tol=1e-4)


def test_timm_augmix_and_autoaugment() -> None:
    theirs = timm.augment_and_mix_transform("augmix-m5-w4-d2", {})
    (ours,) = sample(import_recipe("augmix-m5-w4-d2"))
    assert ours["augmix"]["width"] == theirs.width
    assert ours["augmix"]["depth"] == [theirs.depth] * 2
    assert ours["augmix"]["severity"] == theirs.ops[0].magnitude
    (ours,) = sample(import_recipe("original-mstd0.5\n"))
    assert "auto_augment" in ours
    nothing = import_recipe("v0")
    assert nothing.empty
    assert not nothing.complete


def test_timm_three_augment() -> None:
    (ours,) = sample(import_recipe("3a"))
    assert ours["one_of"]["ops"][1:] == [
        {"saturation": {"factor": [0.0, 0.0]}},
        {"gaussian_blur": {"sigma": [0.1, 2.0]}},
    ]
    assert timm.LEVEL_TO_ARG["Solarize"](5, {}) == (128,)  # the default of our solarize
    layers = sample(import_recipe("rand-m7-n3-t3a"))
    assert len(layers) == 3
    solarize, saturation, blur = layers[0]["one_of"]["ops"]
    assert solarize["solarize"]["threshold"][0] == timm.LEVEL_TO_ARG["SolarizeIncreasing"](7, {})[0]
    colour = 1.0 - timm.LEVEL_TO_ARG["Desaturate"](7, {})[0]
    assert math.isclose(saturation["saturation"]["factor"][0], colour)
    assert math.isclose(
        blur["gaussian_blur"]["sigma"][0], timm.LEVEL_TO_ARG["GaussianBlur"](7, {})[0]
    )


def test_timm_sets_are_dropped_and_told() -> None:
    imported = import_recipe("rand-m9-tweights")
    assert not imported.complete
    assert "the set of transforms 'weights'" in imported.notes[0].text
    assert len(sample(imported)) == 2


# ------------------------------------------------------------ what nobody can read

REFUSED = {
    "empty": ("", "is empty; known: "),
    "blank": (" \n\n", "is empty"),
    "unknown": ("version: 1\nsample: []\n", "is nothing that is known here"),
    "mistyped timm": ("rnd-m9", "did you mean 'rand'?"),
    "timm section": ("rand-m9-mtd0.5", "section 'mtd0.5' is not one of timm's (did you mean"),
    "timm value": ("rand-mfoo", "section 'mfoo'"),
    "truncated JSON": ('{"transform": {\n  "p": 1,', ":2:10: not valid JSON: "),
    "JSON of another": ('{"a": 1}', "no __class_fullname__ in it"),
    "JSON too deep": ('{"transform":' * 5000, "nested too deeply"),
    "bad YAML": ("transform:\n  __class_fullname__: [\n", "not valid YAML"),
    "YAML of code": ("__class_fullname__: !!python/object:os.system {}", "not valid YAML"),
    "open bracket": ("Compose(\n  Resize(size=3", ":2:9: not a repr of transforms: this '('"),
    "close bracket": ("Compose()\n)", ":2:1: not a repr of transforms: a ')' too many"),
    "crossed": (
        "Compose([Pad(3])",
        ":1:15: not a repr of transforms: ']' closes the '(' of line 1",
    ),
    "no value": ("Pad(padding=)", ":1:13: not a repr of transforms: ')' stands where a value"),
    "no value at the end": ("Pad(padding=", ":1:4: not a repr of transforms: this '('"),
    "odd letter": ("Pad(§)", ":1:5: not a repr of transforms: cannot read '§' here"),
    "too deep": ("Compose(" * 60, "nested too deeply"),
    "too large": ("x" * 1_000_001, "more than a million characters"),
    "too many": ("Compose(" + "Pad(padding=1) " * 2001 + ")", "more than 2000 transforms"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_told_in_a_line(name: str) -> None:
    text, words = REFUSED[name]
    with pytest.raises(UsageError) as caught:
        import_recipe(text, "file")
    assert words in str(caught.value)
    assert str(caught.value).startswith("file")
    assert "\n" not in str(caught.value)


def test_what_is_out_of_bounds_is_dropped_with_the_reason() -> None:
    imported = import_recipe("Compose(\n RandomInvert(p=2)\n RandomInvertt()\n)")
    assert sample(imported) == []
    assert [note.verdict for note in imported.notes] == ["dropped"] * 2
    assert "from 0 to 1" in imported.notes[0].text
    assert "(did you mean '" in imported.notes[1].text


def test_aliases_without_end_are_refused() -> None:
    lines = ["__class_fullname__: Compose", "a0: &a0 {__class_fullname__: HorizontalFlip}"]
    for k in range(1, 30):
        inner = f"[*a{k - 1}, *a{k - 1}]"
        lines.append(f"a{k}: &a{k} {{__class_fullname__: Sequential, transforms: {inner}}}")
    lines.append("transforms: [*a29]")
    with pytest.raises(UsageError, match=r"more than 2000|too many"):
        import_recipe("\n".join(lines))


SAVED = {
    "__version__": "2.0.8",
    "transform": {
        "__class_fullname__": "Compose",
        "p": 1.0,
        "transforms": [
            {"__class_fullname__": "Rotate", "limit": [-9, 9], "border_mode": 0, "p": 0.5},
            {
                "__class_fullname__": "OneOf",
                "p": 0.5,
                "transforms": [{"__class_fullname__": "HorizontalFlip", "p": 0.5}],
            },
            {"__class_fullname__": "SomeOf", "n": 1, "p": 0.5, "transforms": []},
            {"__class_fullname__": "CLAHE", "clip_limit": [1, 4], "tile_grid_size": [8, 8]},
            {"__class_fullname__": "Affine", "scale": {"x": [1, 1], "y": [1, 1]}, "shear": {}},
            {"__class_fullname__": "Normalize", "mean": [0.5], "std": [0.5]},
        ],
        "bbox_params": {"min_area": 1},
        "keypoint_params": {"format": "xy"},
        "additional_targets": {"b": "mask"},
    },
}
PRINTED = """Compose(
    Resize(size=256, interpolation=bilinear, max_size=None, antialias=True)
    RandomAffine(degrees=[-5.0, 5.0], translate=(0.1, 0.1), shear=[-5.0, 5.0])
    RandomApply(
    p=0.3
    ColorJitter(brightness=(0.6, 1.4), contrast=None, saturation=None, hue=(-0.1, 0.1))
)
    RandomChoice(
    Pad(padding=(1, 2, 3, 4), fill=0, padding_mode=reflect)
)(p=[0.2])
    RandomCrop(size=[32, 32], padding=[4, 4, 4, 4], pad_if_needed=False)
    ToTensor()
    Normalize(mean=[0.5], std=tensor([0.5]))
    RandomErasing(p=0.5, scale=(0.02, 0.33), ratio=(0.3, 3.3), value=0, inplace=False)
    AugMix(severity=3, mixture_width=3, chain_depth=-1, alpha=1.0, fill=None)
)"""
TIMMS = f"""Compose(
    RandomResizedCropAndInterpolation(size=(9, 9), interpolation=bilinear bicubic)
    {timm.rand_augment_transform("rand-m9-mstd0.5-mmax9", {})}
    {timm.augment_and_mix_transform("augmix-m5", {})}
    {timm.auto_augment_transform("original", {})}
    MaybeToTensor()
    RandomErasing(p=0.25, mode=pixel, count=(1, 1))
    MixUp(alpha=1.0, num_classes=3)
)"""
ODD_WORDS = st.sampled_from(["None", "-1", "x", "[]", "(1,)", "1e999", "{1: 2}", "Pad()", ""])
ODD = st.sampled_from([None, True, -1, 0, 2, 1e999, "x", [], [1], {}, {"x": 1}, [[]], 10**30])


def usable_or_refused(text: str) -> None:
    try:
        imported = import_recipe(text, "file")
    except UsageError:
        return
    augpipe.load(yaml.safe_load(imported.recipe_yaml))


@settings(max_examples=150)
@given(st.data())
def test_odd_values_in_what_was_saved_never_break(data: st.DataObject) -> None:
    saved = json.loads(json.dumps(SAVED))
    at: Any = saved
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(ODD)
    usable_or_refused(json.dumps(saved))


@settings(max_examples=150)
@given(st.sampled_from([PRINTED, TIMMS]), st.data())
def test_odd_values_in_what_was_printed_never_break(text: str, data: st.DataObject) -> None:
    spots = [found.span(1) for found in re.finditer(r"=([^,\n()]+|\([^)]*\))", text)]
    start, end = data.draw(st.sampled_from(spots))
    usable_or_refused(text[:start] + data.draw(ODD_WORDS) + text[end:])


@settings(max_examples=150)
@given(st.sampled_from([PRINTED, TIMMS, json.dumps(SAVED), yaml.safe_dump(SAVED)]), st.data())
def test_lost_and_doubled_text_never_breaks(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 30)))
    times = data.draw(st.sampled_from([0, 2]))
    usable_or_refused(text[:start] + text[start:end] * times + text[end:])
