"""The walk: every public transform of the three libraries is called and watched."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from augpipe.foreign import Adapter, adapter_of
from augpipe.foreign.adapter import Unfit
from augpipe.foreign.facts import LIMITS, Facts
from augpipe.foreign.kornia import Kornia, collate
from augpipe.foreign.libraries import LIBRARIES, public, version
from augpipe.foreign.seeding import Seeded
from augpipe.foreign.signature import signature
from augpipe.spec import ArgumentRefused
from augpipe.targets import Sample, finish
from augpipe.types import Array
from tests.foreign.scenes import Look, copied, everything, scene, show, show_batch
from tests.foreign.table import ARGUMENTS, LEFT_OUT

SEEDS = (3, 2**63 + 11, 7, 2**40 + 1, 12, 13, 14, 15)


@dataclass
class Finding:
    """What was found out about one transform."""

    limits: list[str]
    still: bool
    fixed: bool


def trusting(name: str) -> Adapter:
    """Returns a new adapter that does not consult the facts which it is to find."""
    plain = adapter_of(name, ARGUMENTS.get(name, {}))
    known = {each.name: each.form for each in signature(name).arguments}
    given = {key: known[key].parse(value) for key, value in plain.arguments.items()}
    return type(plain)(name, given, trusted=True)


def examine(name: str) -> Finding:
    """Finds out what a transform takes, and whether its seed alone decides what it does."""
    adapter = trusting(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torchvision's JPEG
        look, limits = _base(adapter)
        whole, more = _targets(adapter, look)
        limits += more
        outs = [_watched(adapter, whole, seed) for seed in SEEDS]
        still, wrong = _agreement(whole, outs)
        limits += [limit for limit in wrong if limit not in limits]
        if not _repeats(name, whole, outs):
            limits.append("not deterministic")
        if isinstance(adapter, Kornia) and not _batches(name, whole):
            limits.append("row by row")
    fixed = len({everything(out) for out in outs}) == 1
    return Finding([limit for limit in LIMITS if limit in limits], still, fixed)


def walk() -> tuple[Facts, list[str]]:
    """Examines every public transform; returns the facts, and those whose seed changes nothing."""
    found = Facts({}, {}, {}, {}, {})
    fixed = []
    for library in LIBRARIES:
        found.versions[library] = version(library)
        limits, still, left_out = {}, [], {}
        for own in public(library):
            name = f"{library}.{own}"
            if name in LEFT_OUT:
                left_out[own] = LEFT_OUT[name]
                continue
            finding = examine(name)
            limits[own] = finding.limits
            if needed := _needed(name):
                found.examples[name] = needed
            still += [own] if finding.still else []
            fixed += [name] if finding.fixed else []
        found.limits[library], found.still[library] = limits, still
        found.left_out[library] = left_out
    return found, fixed


def _needed(name: str) -> dict[str, Any]:
    """Returns the arguments of the table that have no default, or hold only with one."""
    required = {each.name for each in signature(name).arguments if each.required}
    given = ARGUMENTS.get(name, {})
    assert required <= set(given), f"{name} needs {required - set(given)}"
    plain = type(trusting(name))(name, {key: given[key] for key in required}, trusted=True)
    try:
        plain.check()
    except ArgumentRefused:
        return given
    return {key: given[key] for key in given if key in required}


def takes(adapter: Adapter, look: Look) -> bool:
    """Returns whether a transform does this without an error and without a warning.

    A warning is how some say that they do nothing to such an image. News of a later version is
    no such warning.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            for seed in SEEDS[:4]:
                show(adapter, scene(look), seed)
        except Unfit:
            return False
    return not any(each.category is UserWarning for each in said)


def _base(adapter: Adapter) -> tuple[Look, list[str]]:
    """Returns the least look that a transform takes, and what that tells."""
    plain = Look()
    needs = (
        (plain, []),
        (replace(plain, masks=True), ["needs a mask"]),
        (replace(plain, boxes=True), ["needs boxes"]),
        (replace(plain, channels=1), ["grey only"]),
        (replace(plain, floats=True), ["float only"]),
    )
    for look, limits in needs:
        if takes(adapter, look):
            found = list(limits)
            if not look.floats and not takes(adapter, replace(look, floats=True)):
                found.append("uint8 only")
            if look.channels == 3 and not takes(adapter, replace(look, channels=1)):
                found.append("RGB only")
            return look, found
    show(adapter, scene(plain), SEEDS[0])
    raise AssertionError(adapter.name)


def _targets(adapter: Adapter, look: Look) -> tuple[Look, list[str]]:
    """Returns the look with all targets that a transform takes, and those it does not."""
    limits = []
    for field, word in (("masks", "masks"), ("boxes", "boxes"), ("points", "keypoints")):
        more = replace(look, **{field: True})
        if takes(adapter, more):
            look = more
        else:
            limits.append(f"no {word}")
    return look, limits


def _watched(adapter: Adapter, look: Look, seed: int) -> Sample:
    """Shows a scene; what went in and the global generators must not have changed."""
    sample = scene(look)
    before, states = everything(copied(sample)), _states()
    out = show(adapter, sample, seed)
    assert everything(sample) == before, f"{adapter.name} writes to its input"
    assert _states() == states, f"{adapter.name} moves a global generator"
    assert out.image.dtype == sample.image.dtype
    assert out.image.shape[2] == look.channels
    return out


def _states() -> tuple[object, ...]:
    kind, keys, *rest = np.random.get_state()
    return random.getstate(), kind, keys.tobytes(), *rest, torch.get_rng_state().numpy().tobytes()


def _repeats(name: str, look: Look, outs: list[Sample]) -> bool:
    """Returns whether a fresh transform, after others and in another world, does the same."""
    adapter = trusting(name)
    for k, (seed, out) in enumerate(zip(reversed(SEEDS), reversed(outs), strict=True)):
        with _elsewhere(k):
            show(adapter, scene(look, ground=9), k)  # a neighbour with another seed
            if everything(show(adapter, scene(look), seed)) != everything(out):
                return False
    return True


@contextlib.contextmanager
def _elsewhere(seed: int) -> Iterator[None]:
    """Has all global generators elsewhere meanwhile."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def _batches(name: str, look: Look) -> bool:
    """Returns whether Kornia does a batch, parameters stacked, as it does its images alone."""
    adapter = trusting(name)
    assert isinstance(adapter, Kornia)
    shape = torch.Size((1, look.channels, *scene(look).image.shape[:2]))
    drawn = []
    for seed in SEEDS:
        with Seeded(seed):
            drawn.append(adapter._draw(shape))
    if collate(drawn) is None:
        return False
    scenes = [scene(replace(look, floats=True), ground) for ground in range(len(SEEDS))]
    alone = [show(adapter, each, seed) for each, seed in zip(scenes, SEEDS, strict=True)]
    try:
        together = show_batch(adapter, scenes, list(SEEDS))
    except Unfit:
        return False
    return all(
        a.image.shape == b.image.shape
        # One level in 10,000: a batched convolution or product sums in another order.
        and np.abs(a.image - b.image).max() < 0.0255
        and all(map(np.array_equal, a.masks, b.masks))
        for a, b in zip(alone, together, strict=True)
    )


def _agreement(look: Look, outs: list[Sample]) -> tuple[bool, list[str]]:
    """Returns whether pixels stay in place, and which targets do not go where they go.

    The object is a bright rectangle. Where the transform leaves the mask alone, the bright
    pixels must still be where it is; a box must hold what the mask shows of the object and not
    much more, a keypoint must lie where the mask shows the object's middle.
    """
    sample = scene(look)
    wrong: set[str] = set()
    still, moved, astray = look.masks, 0, 0
    for out in outs:
        if not look.masks:
            same = out.image.shape == sample.image.shape
            moved += not (same and _in_place(out.image, _drawn()))
            continue
        mask = out.masks[0][:, :, 0]
        assert mask.shape == out.image.shape[:2]
        if mask.shape == sample.masks[0].shape[:2] and (mask == sample.masks[0][:, :, 0]).all():
            moved += not _in_place(out.image, mask)
        else:
            still = False
        if (mask > 0).sum() < 12:
            continue
        rows, columns = np.nonzero(mask)
        hull = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        if look.boxes and not _holds(out, hull, mask.shape):
            wrong.add("no boxes")
        if look.points:
            astray += not _near(out, out.masks[1][:, :, 0])
    if 2 * astray > len(outs):  # the libraries round what they find by search
        wrong.add("no keypoints")
    if 2 * moved > len(outs):  # in a few, something else was laid over the object
        wrong |= {"no masks", "no boxes", "no keypoints"}
    return still and not wrong, sorted(wrong)


def _drawn() -> Array:
    return scene(Look(masks=True)).masks[0][:, :, 0]


def _in_place(image: Array, mask: Array) -> bool:
    """Returns whether what differs from the ground is where the mask is, not 4 pixels off."""
    grey = image.astype(np.float64).mean(axis=2)

    def contrast(dy: int, dx: int) -> float:
        inside = np.roll(mask, (dy, dx), (0, 1)) > 0
        return abs(float(grey[inside].mean() - grey[~inside].mean()))

    shifts = [(dy, dx) for dy in (-8, -4, 0, 4, 8) for dx in (-8, -4, 0, 4, 8)]
    best = max(contrast(*shift) for shift in shifts)
    return best < 8.0 or contrast(0, 0) >= 0.6 * best


def _holds(out: Sample, hull: Array, size: tuple[int, int]) -> bool:
    boxes, kept = finish(out.boxes[0], size, 0.0, 0.0)
    if not len(kept):
        return False
    low, high = boxes[0, :2], boxes[0, 2:]
    slack = 2.0  # pixels: nearest masks, and centres taken for edges
    inside = (low <= hull[:2] + slack).all() and (high >= hull[2:] - slack).all()
    # A rotated box is wider than the rotated object where the frame cuts a corner off.
    return bool(inside and ((high - low) <= 1.6 * (hull[2:] - hull[:2]) + 2 * slack).all())


def _near(out: Sample, middle: Array) -> bool:
    """Returns whether the keypoint is where the mask shows the object's middle, wholly seen."""
    rows, columns = np.nonzero(middle)
    if len(rows) < 6 or min(rows.min(), columns.min()) == 0:
        return True
    if rows.max() == middle.shape[0] - 1 or columns.max() == middle.shape[1] - 1:
        return True
    at = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
    return bool((abs(out.points[0].at[0] - at) <= 2.5).all())


__all__ = ["SEEDS", "Finding", "examine", "takes", "trusting"]
