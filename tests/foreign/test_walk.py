"""Every public transform of albumentations, torchvision and Kornia, against the facts file.

`pytest tests/foreign --update-foreign` writes augpipe/foreign/facts.json anew: read the diff.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

import augpipe.foreign
from augpipe.foreign import Facts, facts
from augpipe.foreign.facts import LIMITS
from augpipe.foreign.libraries import LIBRARIES, public
from augpipe.foreign.signature import signature
from tests.foreign.table import ARGUMENTS, LEFT_OUT
from tests.foreign.walk import walk

FILE = Path(augpipe.foreign.__file__).with_name("facts.json")

# Those that a seed does not change: they draw nothing, or nothing but whether they act, which
# is our part; RandomGravel's patches hold no stone in so small an image. Another transform that
# draws and stands here does not get its seed.
FIXED = {
    "albumentations": (
        "AutoContrast CenterCrop Crop CropAndPad Equalize HorizontalFlip InvertImg "
        "LongestMaxSize MaskDropout Morphological NoOp Pad PadIfNeeded RandomGravel "
        "Resize SmallestMaxSize TimeReverse ToGray ToSepia Transpose VerticalFlip"
    ),
    "torchvision": (
        "CenterCrop Identity Pad RandomAdjustSharpness RandomAutocontrast "
        "RandomEqualize RandomGrayscale RandomHorizontalFlip RandomInvert "
        "RandomPosterize RandomSolarize RandomVerticalFlip Resize"
    ),
    "kornia": (
        "CenterCrop LongestMaxSize PadTo RandomAutoContrast RandomBoxBlur "
        "RandomEqualize RandomGrayscale RandomHorizontalFlip RandomInvert "
        "RandomMedianBlur RandomVerticalFlip Resize SmallestMaxSize"
    ),
}


@pytest.fixture(scope="module")
def walked() -> tuple[Facts, list[str]]:
    return walk()


def test_the_facts_are_what_the_walk_finds(
    walked: tuple[Facts, list[str]], request: pytest.FixtureRequest
) -> None:
    text = json.dumps(dataclasses.asdict(walked[0]), indent=1) + "\n"
    if request.config.option.update_foreign:
        FILE.write_text(text, encoding="utf-8")
        facts.cache_clear()
    assert json.loads(text) == json.loads(FILE.read_text(encoding="utf-8"))


def test_seeds_change_what_is_drawn(walked: tuple[Facts, list[str]]) -> None:
    fixed = {f"{library}.{own}" for library, names in FIXED.items() for own in names.split()}
    assert set(walked[1]) == fixed


def test_every_public_class_is_offered_or_left_out_with_a_reason() -> None:
    known = facts()
    for library in LIBRARIES:
        offered, left = set(known.limits[library]), set(known.left_out[library])
        assert not offered & left
        assert offered | left == set(public(library))
        assert set(known.still[library]) <= offered


def test_the_table_names_nothing_that_is_not_there() -> None:
    there = {f"{library}.{own}" for library in LIBRARIES for own in public(library)}
    assert set(ARGUMENTS) <= there - set(LEFT_OUT)
    assert set(LEFT_OUT) <= there
    for library in LIBRARIES:
        limits = facts().limits[library].values()
        assert {limit for each in limits for limit in each} <= set(LIMITS)


def test_what_a_recipe_cannot_hold_is_left_out() -> None:
    for name in facts().names():
        assert not signature(name).missing, name


def test_how_many_there_are() -> None:
    """The count of transforms that pass, of how many; all that are offered are deterministic."""
    known = facts()
    counts = {library: (len(known.limits[library]), len(public(library))) for library in LIBRARIES}
    assert counts == {"albumentations": (98, 131), "torchvision": (35, 63), "kornia": (54, 93)}
    assert not [name for name in known.names() if known.limited(name, "not deterministic")]
