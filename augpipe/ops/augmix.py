"""AugMix: a mixture of chains of a policy's transforms, blended with the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np

from augpipe.ir import Alone, Blend, Color, Curve, Histogram, Kernel, Meaning, Warp
from augpipe.ops.geometry import _Interpolated
from augpipe.ops.policy import KINDS, signed, told
from augpipe.ops.policy_tables import AT, ENHANCED, GEOMETRY, MIXED, NAMES, Space
from augpipe.rng import Draws
from augpipe.spec import Flag, IntPair, Number, Range
from augpipe.types import Array, Floats, Frame, Ints


class Augmix(_Interpolated):
    """Blends the image with a mixture of chains of transforms of it.

    AugMix (Hendrycks et al., 2020, arXiv 1912.02781): out = (1 - m) in + m sum_k w_k
    chain_k(in), rounded once, with m ~ Beta(alpha, alpha) and w ~ Dirichlet(alpha, ...). A
    chain is `depth` transforms, drawn evenly with replacement, of an evenly drawn bin of
    0..severity - 1 out of 10; at level l = bin / 9: shears by 0.3 l, shifts by a third of the
    side times l, turns by 30 l degrees, factors of 1 + 0.9 l, each to either side equally
    often; 4 - round(4 l) bits; threshold 255 (1 - l). Matches torchvision's AugMix. The
    paper's loss on three views (Jensen-Shannon) is for the training code.

    Geometry displaces the chains but not the image, so masks, boxes and keypoints would fit
    neither: they are an error, unless `geometry` is false.
    """

    kind: ClassVar[type[Meaning] | None] = Blend
    space: ClassVar[Space] = MIXED

    severity: Annotated[int, Number(1, 10, "bins", integer=True)] = 3
    """How many of the 10 bins of magnitude are drawn from, the weakest first."""
    width: Annotated[int, Number(1, 10, "chains", integer=True)] = 3
    """How many chains are mixed."""
    depth: Annotated[IntPair, Range(1, 10, "transforms", integer=True)] = (1, 3)
    """How many transforms a chain has, uniform in the range."""
    alpha: Annotated[float, Number(0.1, 100)] = 1.0
    """Of the Beta and the Dirichlet distribution: small draws one chain out, large mixes evenly."""
    all_ops: Annotated[bool, Flag()] = True
    """Whether brightness, color, contrast and sharpness are drawn too, which ImageNet-C holds."""
    geometry: Annotated[bool, Flag()] = True
    """Whether shears, shifts and rotations are drawn too."""

    @property
    def misplaced(self) -> str:
        if not (self.geometry and self.p > 0):
            return ""
        return "blends displaced copies, which no mask, box or keypoint fits: set geometry: false"

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the transforms that may be drawn."""
        left_out = {"identity", "invert"}
        left_out |= set() if self.all_ops else set(ENHANCED)
        left_out |= set() if self.geometry else set(GEOMETRY)
        return tuple(name for name in NAMES if name not in left_out)

    def means(self, draw: Draws, frame: Frame) -> Blend:
        n, depth = len(draw), self.depth[1]
        op, magnitude = self.drawn(draw)
        draw.note("op", op)
        draw.note("magnitude", magnitude)
        # All places of all images at once: row (i width + chain) depth + step.
        every = Frame(np.repeat(frame.sizes, self.width * depth, axis=0))
        kinds = [kind for kind in KINDS if set(kind.names) & set(self.names)]
        flat = op.reshape(-1), magnitude.reshape(-1)
        whole = [kind(policy=self).mean(*flat, every) for kind in kinds]
        stride = self.width * depth
        chains = tuple(
            tuple(
                _every(meaning, chain * depth + step, stride)
                for step in range(depth)
                for meaning in whole
            )
            for chain in range(self.width)
        )
        return Blend(chains, draw.note("weights", self._weights(draw, n)))

    def tell(self, drawn: Mapping[str, Array]) -> str | None:
        first, *weights = (f"{weight:.2g}" for weight in drawn["weights"])
        chains = map(told, drawn["op"], drawn["magnitude"])
        parts = (
            f"{weight} ({chain or 'identity'})"
            for weight, chain in zip(weights, chains, strict=True)
        )
        return " + ".join((first, *parts))

    def drawn(self, draw: Draws) -> tuple[Ints, Floats]:
        """Returns (n, width, depth) transforms, as positions in NAMES, and magnitudes."""
        low, high = self.depth
        shape, count = (len(draw), self.width, high), self.width * high
        able = np.array([AT[name] for name in self.names])
        op = able[np.floor(draw.uniforms("op", count) * len(able)).astype(np.int64)]
        bins = np.floor(draw.uniforms("magnitude", count) * self.severity)
        magnitude = signed(draw, op, self.space.magnitudes(op, bins / 9.0)).reshape(shape)
        deep = low + np.floor(draw.uniforms("depth", self.width) * (high - low + 1))
        acts = np.arange(high) < deep[:, :, None]
        op = np.where(acts, op.reshape(shape), AT["identity"])
        return op, np.where(acts, magnitude, 0.0)

    def _weights(self, draw: Draws, n: int) -> Floats:
        """Returns (n, 1 + width): the image's weight and the chains'."""
        mixed = _dirichlet(draw.uniforms("mixed", 2), self.alpha)
        chains = _dirichlet(draw.uniforms("weights", self.width), self.alpha)
        return np.concatenate([mixed[:, :1], mixed[:, 1:] * chains], axis=1)


def _dirichlet(uniforms: Floats, alpha: float) -> Floats:
    """Returns (n, k) rows of Dirichlet(alpha, ..., alpha): Gamma quantiles, made to sum to 1."""
    from scipy.special import gammaincinv

    gammas = np.maximum(gammaincinv(alpha, uniforms), 1e-300)  # a row of zeros has no direction
    return np.asarray(gammas / gammas.sum(axis=1, keepdims=True))


def _every(meaning: Alone, first: int, stride: int) -> Alone:
    """Returns rows first, first + stride, and so on, of what a policy's transforms mean."""
    at = slice(first, None, stride)
    match meaning:
        case Warp():
            return Warp(
                meaning.matrix[at],
                meaning.source[at],
                meaning.size[at],
                meaning.box[at],
                meaning.lines[at],
                meaning.sampling,
            )
        case Color():
            return Color(meaning.matrix[at], meaning.mean[at], meaning.offset[at])
        case Curve():
            return Curve(tuple((kind, amount[at]) for kind, amount in meaning.steps))
        case Histogram():
            return Histogram(meaning.on[at], meaning.kind, meaning.amount[at])
        case Kernel():
            return Kernel(meaning.on[at], tuple(factor[at] for factor in meaning.factors))
    raise TypeError(f"no policy makes a {type(meaning).__name__}")
