"""Policies: ops that draw which named transforms an image gets, and how strong they are.

Transforms that mean the same kind of thing stand together as one step of the plan: all
geometry is one warp, all linear colour one matrix. Each of a policy's draws is so six steps
at most, of which one acts.

Pixels are those of torchvision's `autoaugment._apply_op`: a shear keeps the top left corner
of the image, a shift is cut to whole pixels, towards 0. Levels are rounded where torchvision
cuts them off, sharpness sees mirrored pixels at the edge (see Sharpen), and images are read
bilinearly unless `interpolation` says `nearest`, which is torchvision's default for all but
AugMix. Masks, boxes and keypoints move with the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np

from augpipe.ir import Alone, Color, Curve, Histogram, Kernel, Meaning, Warp
from augpipe.ops.base import Combinator, Op
from augpipe.ops.color import brighten, contrast, saturate
from augpipe.ops.filter import _SAME, _SMOOTH
from augpipe.ops.geometry import _Interpolated, about_center, affine, turn
from augpipe.ops.policy_tables import (
    AT,
    GEOMETRY,
    NAMES,
    SIGNED,
    STANDARD,
    TABLES,
    WIDE,
    Learned,
    Space,
)
from augpipe.rng import Draws
from augpipe.spec import Choice, Number
from augpipe.types import Array, Bools, Fill, Floats, Frame, Ints, Sampling

_SNAP = 1e-6  # pixels: float noise on what is a whole number in exact arithmetic


class _Kindred(Op):
    """The transforms of one kind, at one place of a policy.

    Where none of `names` was drawn it means the identity.
    """

    names: ClassVar[tuple[str, ...]] = ()

    policy: Any
    """What draws: it answers `drawn`."""
    place: int = 0
    """Which of the policy's drawn transforms it does."""

    def means(self, draw: Draws, frame: Frame) -> Meaning:
        op, magnitude = self.policy.drawn(draw)
        return self.mean(op[:, self.place], magnitude[:, self.place], frame)

    def tell(self, drawn: Mapping[str, Array]) -> str | None:
        words: str | None = self.policy.tell(drawn)
        return words

    def mean(self, op: Ints, magnitude: Floats, frame: Frame) -> Alone:
        """Returns what (n,) drawn transforms of (n,) magnitudes mean."""
        raise NotImplementedError


def _where(op: Ints, name: str, magnitude: Floats | float, otherwise: float = 0.0) -> Floats:
    return np.where(op == AT[name], magnitude, otherwise)


class _Moves(_Kindred):
    """Geometry."""

    kind: ClassVar[type[Meaning] | None] = Warp
    names: ClassVar[tuple[str, ...]] = GEOMETRY

    @property
    def sampling(self) -> Sampling:
        sampling: Sampling = self.policy.sampling
        return sampling

    @property
    def fill(self) -> Fill:
        """Returns the levels beyond the image, for who counts the channels."""
        return self.sampling.fill

    def mean(self, op: Ints, magnitude: Floats, frame: Frame) -> Warp:
        space: Space = self.policy.space
        across, down = (1.0, 1.0) if space.in_pixels else (frame.width, frame.height)
        x = _cut(_where(op, "translate_x", magnitude) * across)
        y = _cut(_where(op, "translate_y", magnitude) * down)
        lean_x, lean_y = _where(op, "shear_x", magnitude), _where(op, "shear_y", magnitude)
        # At most one of them is not the identity.
        matrix = affine(1, lean_x, -x, lean_y, 1, -y)
        spun = about_center(turn(_where(op, "rotate", magnitude)), frame)
        return Warp.of(matrix @ spun, frame, None, self.sampling)


def _cut(shift: Floats) -> Floats:
    """Cuts shifts to whole pixels, towards 0."""
    return np.asarray(np.sign(shift) * np.floor(abs(shift) + _SNAP))


class _Stretches(_Kindred):
    """Autocontrast."""

    kind: ClassVar[type[Meaning] | None] = Histogram
    names: ClassVar[tuple[str, ...]] = ("autocontrast",)

    def mean(self, op: Ints, magnitude: Floats, frame: Frame) -> Histogram:
        return Histogram(op == AT["autocontrast"], "autocontrast", np.zeros(len(op)))


class _Evens(_Kindred):
    """Equalization."""

    kind: ClassVar[type[Meaning] | None] = Histogram
    names: ClassVar[tuple[str, ...]] = ("equalize",)

    def mean(self, op: Ints, magnitude: Floats, frame: Frame) -> Histogram:
        return Histogram(op == AT["equalize"], "equalize", np.zeros(len(op)))


class _Sharpens(_Kindred):
    """Sharpness."""

    kind: ClassVar[type[Meaning] | None] = Kernel
    names: ClassVar[tuple[str, ...]] = ("sharpness",)

    def mean(self, op: Ints, magnitude: Floats, frame: Frame) -> Kernel:
        factor = 1.0 + _where(op, "sharpness", magnitude)[:, None, None]
        return Kernel(op == AT["sharpness"], (factor * _SAME + (1.0 - factor) * _SMOOTH,))


class _Bends(_Kindred):
    """Curves."""

    kind: ClassVar[type[Meaning] | None] = Curve
    names: ClassVar[tuple[str, ...]] = ("posterize", "solarize")

    def mean(self, op: Ints, magnitude: Floats, frame: Frame) -> Curve:
        bits = _where(op, "posterize", magnitude, np.nan)
        return Curve((("posterize", bits), ("solarize", _where(op, "solarize", magnitude, np.nan))))


class _Tints(_Kindred):
    """Linear colour."""

    kind: ClassVar[type[Meaning] | None] = Color
    names: ClassVar[tuple[str, ...]] = ("brightness", "color", "contrast", "invert")

    def mean(self, op: Ints, magnitude: Floats, frame: Frame) -> Color:
        factor = 1.0 + magnitude
        # At most one of them is not the identity.
        whole = brighten(_where(op, "brightness", factor, 1.0))
        whole = whole.then(saturate(_where(op, "color", factor, 1.0)))
        whole = whole.then(contrast(_where(op, "contrast", factor, 1.0)))
        invert = _where(op, "invert", 1.0)
        offset = np.repeat(255.0 * invert[:, None], 3, axis=1)
        return whole.then(Color.of((1.0 - 2.0 * invert)[:, None, None] * np.eye(3), offset=offset))


KINDS = (_Moves, _Stretches, _Evens, _Sharpens, _Bends, _Tints)
"""At the ends what fuses with what stands before and after."""


def signed(draw: Draws, op: Ints, magnitude: Floats) -> Floats:
    """Turns the magnitudes of what may go either way round, half of the time."""
    turned = SIGNED[op] & (draw.uniforms("sign", op.shape[1]) < 0.5)
    return np.asarray(np.where(turned, -magnitude, magnitude) + 0.0)  # no -0.0


def told(op: Ints, magnitude: Floats) -> str:
    """Words one image's transforms: "rotate -9, equalize"."""
    words = (
        NAMES[k] if NAMES[k] in _PLAIN else f"{NAMES[k]} {strength:.3g}"
        for k, strength in zip(op.tolist(), magnitude.tolist(), strict=True)
        if NAMES[k] != "identity"
    )
    return ", ".join(words)


_PLAIN = ("autocontrast", "equalize", "invert")
"""What has no magnitude."""


class _Policy(_Interpolated, Combinator):
    """A policy, as the ops that do it.

    Its `drawn` is noted as "op", positions in NAMES, and "magnitude", in the transforms'
    own units (see Space.magnitudes).
    """

    kind: ClassVar[type[Meaning] | None] = None
    private: ClassVar[bool] = True
    space: ClassVar[Space] = STANDARD

    def drawn(self, draw: Draws) -> tuple[Ints, Floats]:
        """Returns (n, places) transforms, as positions in NAMES, and magnitudes."""
        raise NotImplementedError

    def may(self) -> tuple[frozenset[str], ...]:
        """Returns which transforms may be drawn at each place."""
        raise NotImplementedError

    def inner(self) -> tuple[_Kindred, ...]:
        return tuple(
            kind(policy=self, place=place)
            for place, names in enumerate(self.may())
            for kind in KINDS
            if names.intersection(kind.names)
        )

    def choose(self, draw: Draws) -> Bools:
        op, magnitude = self.drawn(draw)
        draw.note("op", op)
        draw.note("magnitude", magnitude)
        acts = [
            _MEMBERS[kind][op[:, place]]
            for place, names in enumerate(self.may())
            for kind in KINDS
            if names.intersection(kind.names)
        ]
        return np.stack(acts, axis=1)[:, None]

    def tell(self, drawn: Mapping[str, Array]) -> str | None:
        return told(drawn["op"], drawn["magnitude"])

    def role(self, slot: int, branch: int) -> str:
        part, places = self.inner()[branch], self.may()
        able = [name for name in part.names if name in places[part.place]]
        words = ", ".join(able[:-1]) + " or " + able[-1] if len(able) > 1 else able[0]
        return f"draw {part.place + 1}: {words}" if len(places) > 1 else words


_MEMBERS = {kind: np.array([name in kind.names for name in NAMES]) for kind in KINDS}


class RandAugment(_Policy):
    """Does `num_ops` transforms, drawn evenly from 14 with replacement, all equally strong.

    RandAugment (Cubuk et al., 2019, arXiv 1909.13719): identity, shear_x, shear_y,
    translate_x, translate_y, rotate, brightness, color, contrast, sharpness, posterize,
    solarize, autocontrast, equalize. At level l = magnitude / (num_magnitude_bins - 1):
    shears by 0.3 l, shifts by 150 / 331 l of the side, turns by 30 l degrees, factors of
    1 + 0.9 l, each to either side equally often; 8 - round(4 l) bits; threshold 255 (1 - l).
    Matches torchvision's RandAugment, which reads the nearest pixels.
    """

    num_ops: Annotated[int, Number(1, 16, "ops", integer=True)] = 2
    """How many transforms an image gets."""
    magnitude: Annotated[float, Number(0, 1000, "bins", neutral=0)] = 9.0
    """How strong they are: a bin, counted from 0."""
    magnitude_std: Annotated[float, Number(0, 1000, "bins")] = 0.0
    """Standard deviation of a normal magnitude, held to the bins; as timm's `mstd`."""
    num_magnitude_bins: Annotated[int, Number(2, 1001, "bins", integer=True)] = 31
    """How many bins there are; the last is the strongest."""

    def model_post_init(self, context: Any) -> None:
        """Refuses a magnitude beyond the last bin."""
        if self.magnitude > self.num_magnitude_bins - 1:
            last = self.num_magnitude_bins - 1
            text = f"magnitude {self.magnitude:g} is beyond the last of the bins 0 to {last}"
            raise ValueError(text)

    def may(self) -> tuple[frozenset[str], ...]:
        return (frozenset(NAMES[:14]),) * self.num_ops

    def drawn(self, draw: Draws) -> tuple[Ints, Floats]:
        op = np.floor(draw.uniforms("op", self.num_ops) * 14).astype(np.int64)
        bins = np.full(op.shape, self.magnitude)
        if self.magnitude_std:
            bins = bins + self.magnitude_std * draw.normals("magnitude", self.num_ops)
        last = self.num_magnitude_bins - 1
        level = np.clip(bins, 0, last) / last
        return op, signed(draw, op, self.space.magnitudes(op, level))


class TrivialAugment(_Policy):
    """Does one transform, drawn evenly from 14, of an evenly drawn magnitude.

    TrivialAugment, wide (Müller and Hutter, 2021, arXiv 2103.10158). RandAugment's
    transforms; at level l = bin / (num_magnitude_bins - 1): shears by 0.99 l, shifts by 32 l
    pixels, turns by 135 l degrees, factors of 1 + 0.99 l, each to either side equally often;
    8 - round(6 l) bits; threshold 255 (1 - l). Matches torchvision's TrivialAugmentWide,
    which reads the nearest pixels.
    """

    space: ClassVar[Space] = WIDE

    num_magnitude_bins: Annotated[int, Number(2, 1001, "bins", integer=True)] = 31
    """How many magnitudes there are; the last is the strongest."""

    def may(self) -> tuple[frozenset[str], ...]:
        return (frozenset(NAMES[:14]),)

    def drawn(self, draw: Draws) -> tuple[Ints, Floats]:
        op = np.floor(draw.uniforms("op", 1) * 14).astype(np.int64)
        bins = np.floor(draw.uniforms("magnitude", 1) * self.num_magnitude_bins)
        level = bins / (self.num_magnitude_bins - 1)
        return op, signed(draw, op, self.space.magnitudes(op, level))


class AutoAugment(_Policy):
    """Does one of 25 learned pairs of transforms, each of the two with its own probability.

    AutoAugment (Cubuk et al., 2018, arXiv 1805.09501), with the policies found on ImageNet,
    CIFAR-10 or SVHN; magnitudes are RandAugment's at level bin / 9, each to either side
    equally often. Matches torchvision's AutoAugment, which reads the nearest pixels.
    """

    main: ClassVar[str] = "policy"

    policy: Annotated[Learned, Choice(("imagenet", "cifar10", "svhn"))] = "imagenet"
    """What the policy was learned on."""

    def may(self) -> tuple[frozenset[str], ...]:
        first, second = zip(*TABLES[self.policy], strict=True)
        return frozenset(name for name, *_ in first), frozenset(name for name, *_ in second)

    def drawn(self, draw: Draws) -> tuple[Ints, Floats]:
        ops, chances, bins = _TABLES[self.policy]
        pair = np.floor(draw.uniforms("pair", 1)[:, 0] * len(ops)).astype(np.int64)
        op = np.where(draw.uniforms("acts", 2) < chances[pair], ops[pair], AT["identity"])
        return op, signed(draw, op, self.space.magnitudes(op, bins[pair] / 9.0))


_TABLES: dict[Learned, tuple[Ints, Floats, Floats]] = {
    name: (
        np.array([[AT[rule[0]] for rule in pair] for pair in table]),
        np.array([[rule[1] for rule in pair] for pair in table]),
        np.array([[rule[2] for rule in pair] for pair in table], np.float64),
    )
    for name, table in TABLES.items()
}
