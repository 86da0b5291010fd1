"""The meanings: what an op's draws say will happen, before any pixel is touched.

Each is a value that holds the parameters of n images (arrays with a leading n) and knows a
little algebra: `gate(on)` is the identity where `on` is false; `a.then(b)` is "a, and then
b" as one meaning, where there is such a thing. Backends and targets are the only readers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from augpipe.types import Bools, Fill, Floats, Frame, Ints, Sampling, Words

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601; sums to 1, so grey stays grey
_SNAP = 1e-6  # pixels: float noise on what is a whole number in exact arithmetic
_ALWAYS = np.array([0.0, 0.0, 1.0])  # the half-plane that holds everything


def _pick(on: Bools, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    """Picks rows of `yes` where `on`, else of `no`."""
    return np.where(on.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)


def rect(sizes: Ints) -> Floats:
    """Returns (n, 4): the frames of these sizes as x0, y0, x1, y1."""
    height, width = sizes[:, 0], sizes[:, 1]
    zero = np.zeros_like(height)
    return np.stack([zero, zero, width, height], axis=1).astype(np.float64)


@dataclass(frozen=True, slots=True)
class Warp:
    """A projective map with what may be seen through it.

    Output pixel p reads the source at `matrix @ p` (continuous coordinates, see types.py),
    within the source rectangle `box`: beyond it is the border. Where a half-plane
    a x + b y + c >= 0 of `lines` does not hold at p, p is fill: earlier frames of a fused
    run bound what later ops can see. Such an edge is one output pixel wide:
    coverage = clip(min over lines of signed distance + 1/2, 0, 1).

    Args:
        matrix: (n, 3, 3), output to source.
        source: (n, 2), sizes of the input.
        size: (n, 2), sizes of the output.
        box: (n, 4), the visible rectangle of the source: x0, y0, x1, y1.
        lines: (n, m, 3), half-planes in output coordinates.
        sampling: How pixels are read.
    """

    matrix: Floats
    source: Ints
    size: Ints
    box: Floats
    lines: Floats
    sampling: Sampling

    @classmethod
    def of(cls, matrix: Floats, frame: Frame, size: Ints | None, sampling: Sampling) -> Warp:
        """Builds the warp of one op, which sees the whole frame."""
        size = frame.sizes if size is None else size
        lines = np.zeros((len(frame), 0, 3))
        return cls(matrix, frame.sizes, size, rect(frame.sizes), lines, sampling)

    def gate(self, on: Bools) -> Warp:
        """Returns this where `on`, the identity elsewhere."""
        return replace(
            self,
            matrix=_pick(on, self.matrix, np.eye(3)),
            size=_pick(on, self.size, self.source),
            box=_pick(on, self.box, rect(self.source)),
            lines=_pick(on, self.lines, _ALWAYS),
        )

    def then(self, later: Warp) -> Warp:
        """Composes: `later` reads this warp's output, of which it sees its own `box`.

        Where this warp keeps the axes, that box is a rectangle of the source too and narrows
        this one's; elsewhere its four edges become lines. The sampling is
        for the caller to settle (plan/rules.py): this one's is kept.
        """
        matrix = self.matrix @ later.matrix
        corners = later.box
        low = _apply(self.matrix, corners[:, :2])
        high = _apply(self.matrix, corners[:, 2:])
        seen = np.concatenate([np.minimum(low, high), np.maximum(low, high)], axis=1)
        seen = np.where(abs(seen - np.rint(seen)) < _SNAP, np.rint(seen), seen)
        box = np.concatenate(
            [np.maximum(self.box[:, :2], seen[:, :2]), np.minimum(self.box[:, 2:], seen[:, 2:])],
            axis=1,
        )
        keeps = keeps_axes(self.matrix)
        edges = _pick(~keeps, frame_lines(corners), _ALWAYS) if not keeps.all() else None
        lines = self.lines if edges is None else np.concatenate([self.lines, edges], axis=1)
        return replace(
            self,
            matrix=matrix,
            size=later.size,
            box=_pick(keeps, box, self.box),
            lines=np.concatenate([lines @ later.matrix, later.lines], axis=1),
        )


def _apply(matrix: Floats, points: Floats) -> Floats:
    """Maps (n, 2) points by (n, 3, 3) matrices."""
    out = np.einsum("nij,nj->ni", matrix, np.concatenate([points, np.ones((len(points), 1))], 1))
    return np.asarray(out[:, :2] / out[:, 2:])


def keeps_axes(matrix: Floats) -> Bools:
    """Returns (n,): whether a matrix maps horizontal and vertical lines to such lines."""
    diagonal = (matrix[:, 0, 1] == 0) & (matrix[:, 1, 0] == 0)
    swapped = (matrix[:, 0, 0] == 0) & (matrix[:, 1, 1] == 0)
    affine = (matrix[:, 2, :2] == 0).all(axis=1)
    return np.asarray((diagonal | swapped) & affine)


def frame_lines(box: Floats) -> Floats:
    """Returns (n, 4, 3): the half-planes whose intersection is each rectangle."""
    lines = np.zeros((len(box), 4, 3))
    lines[:, 0, 0] = lines[:, 1, 1] = 1.0
    lines[:, 2, 0] = lines[:, 3, 1] = -1.0
    lines[:, :2, 2] = -box[:, :2]
    lines[:, 2:, 2] = box[:, 2:]
    return lines


Basis = Literal["spline", "hat", "polynomial"]


@dataclass(frozen=True, slots=True)
class Flow:
    """A smooth displacement field: output pixel p reads the input at p + u(p).

    u is a separable sum over a small grid of coefficients,
    u(x, y) = sum_ij control[i, j] B_i(y) B_j(x), in pixels, with B by `basis` (see `basis`).

    Args:
        control: (n, rows, columns, 2), coefficients of (dx, dy).
        basis: Uniform cubic B-splines, hat functions, or monomials.
        size: (n, 2), sizes of input and output.
        sampling: How pixels are read.
    """

    control: Floats
    basis: Basis
    size: Ints
    sampling: Sampling

    def gate(self, on: Bools) -> Flow:
        """Returns this where `on`, no displacement elsewhere."""
        return replace(self, control=_pick(on, self.control, np.zeros(())))


def basis(kind: Basis, at: Floats, count: int, length: float) -> Floats:
    """Evaluates `count` basis functions along an axis.

    Args:
        kind: "spline": uniform cubic B-splines whose interior knots divide the axis into
            count - 3 parts; "hat": linear interpolation between `count` nodes from one end
            to the other; "polynomial": the powers 0..count-1 of (2 at - length) / length.
        at: (m,) positions on the axis, continuous coordinates.
        count: How many functions.
        length: Length of the axis in pixels.

    Returns:
        (m, count) values.
    """
    if kind == "polynomial":
        return np.asarray((2.0 * at / length - 1.0)[:, None] ** np.arange(count))
    if kind == "hat":
        distance = at[:, None] / length * (count - 1) - np.arange(count)
        return np.asarray(np.maximum(0.0, 1.0 - abs(distance)))
    t = abs(at[:, None] / length * (count - 3) + 1.0 - np.arange(count))
    inner = 2.0 / 3.0 - t**2 + t**3 / 2.0
    return np.asarray(np.where(t < 1, inner, np.maximum(0.0, 2.0 - t) ** 3 / 6.0))


@dataclass(frozen=True, slots=True)
class Color:
    """A linear map of colours that may look at the image's mean colour.

    out = matrix @ rgb + mean @ m + offset, in grey levels, where m is the mean colour of
    the image before the run; clipped to 0..255 once, at the end of a run. A grey image is
    taken as r = g = b and gives the first row.

    Args:
        matrix: (n, 3, 3).
        mean: (n, 3, 3).
        offset: (n, 3).
        norm: What is done to the clipped levels in the same pass, for all images.
    """

    matrix: Floats
    mean: Floats
    offset: Floats
    norm: Normalize | None = None

    @classmethod
    def of(
        cls, matrix: Floats, *, mean: Floats | None = None, offset: Floats | None = None
    ) -> Color:
        """Builds a colour map; what is left out is zero."""
        n = len(matrix)
        mean = np.zeros((n, 3, 3)) if mean is None else mean
        return cls(matrix, mean, np.zeros((n, 3)) if offset is None else offset)

    def gate(self, on: Bools) -> Color:
        """Returns this where `on`, the identity elsewhere."""
        zero = np.zeros(())
        return Color(
            _pick(on, self.matrix, np.eye(3)),
            _pick(on, self.mean, zero),
            _pick(on, self.offset, zero),
            self.norm,
        )

    def then(self, later: Color | Normalize) -> Color:
        """Composes; a later colour map's mean is that of this one's output, known from its own."""
        if isinstance(later, Normalize):
            return replace(self, norm=later)
        return Color(
            later.matrix @ self.matrix,
            later.matrix @ self.mean + later.mean @ (self.matrix + self.mean),
            np.einsum("nij,nj->ni", later.matrix + later.mean, self.offset) + later.offset,
        )


CurveKind = Literal["gamma", "solarize", "posterize"]


@dataclass(frozen=True, slots=True)
class Curve:
    """The same function of the grey level for every channel; steps one after another.

    gamma: 255 (v / 255) ** amount. solarize: 255 - v where v >= amount. posterize: keeps the
    `amount` highest of 8 bits, v - v mod 2 ** (8 - amount).

    Args:
        steps: Pairs of a kind and its (n,) amounts; NaN is "not this image".
        norm: What is done to the levels in the same pass, for all images.
    """

    steps: tuple[tuple[CurveKind, Floats], ...]
    norm: Normalize | None = None

    def gate(self, on: Bools) -> Curve:
        """Returns this where `on`, the identity elsewhere."""
        steps = tuple((kind, np.where(on, amount, np.nan)) for kind, amount in self.steps)
        return Curve(steps, self.norm)

    def then(self, later: Curve | Normalize) -> Curve:
        """Composes, in exact arithmetic: nothing is rounded between the steps."""
        if isinstance(later, Normalize):
            return replace(self, norm=later)
        return Curve(self.steps + later.steps)


@dataclass(frozen=True, slots=True)
class _Gated:
    """What is either done to an image or not."""

    on: Bools

    def gate(self, on: Bools) -> Self:
        """Returns this where `on`, the identity elsewhere."""
        return replace(self, on=self.on & on)


@dataclass(frozen=True, slots=True)
class Histogram(_Gated):
    """A curve that each channel's own histogram decides.

    autocontrast: stretches the darkest level to 0 and the brightest to 255 (a constant
    channel stays). equalize: Pillow's `ImageOps.equalize`. clahe: contrast-limited adaptive
    equalization on a `tiles` x `tiles` grid (Zuiderveld 1994, as OpenCV), on the lightness
    of CIE Lab for colour.

    Args:
        kind: Which of the three.
        amount: (n,), clahe's clip limit.
        tiles: Clahe's tiles a side.
    """

    kind: Literal["autocontrast", "equalize", "clahe"]
    amount: Floats
    tiles: int = 8


@dataclass(frozen=True, slots=True)
class Kernel(_Gated):
    """Correlation with small kernels, one after another, borders reflected (REFLECT_101).

    Args:
        factors: Arrays (n, rows, columns) of odd sides; a separable filter has two of them.
            A smaller kernel stands centred among zeros.
    """

    factors: tuple[Floats, ...]


@dataclass(frozen=True, slots=True)
class Median(_Gated):
    """The median of a square window, edge pixels repeated beyond the border.

    Windows of more than 5 x 5 are taken of whole levels: of a float image, rounded ones.

    Args:
        size: (n,), odd sides of the window.
    """

    size: Ints


@dataclass(frozen=True, slots=True)
class Regions(_Gated):
    """Rectangles that are filled, one over another in their order.

    Args:
        boxes: (n, m, 4), x0, y0, x1, y1 in whole pixels; empty where x1 <= x0 or y1 <= y0.
        fill: Grey levels, one or one a channel; "mean": the image's mean colour; "noise":
            uniform levels, each pixel and channel its own.
        key: (n,), keys of the noise.
    """

    boxes: Ints
    fill: Fill | Literal["mean", "noise"]
    key: Words


NoiseKind = Literal["gaussian", "multiplicative", "poisson", "salt_and_pepper", "dropout"]


@dataclass(frozen=True, slots=True)
class Noise(_Gated):
    """A random field applied to the pixels. Fields are those of rng.py, in HWC order.

    gaussian: v + amount z. multiplicative: v (1 + amount z). poisson: v is the mean of a
    Poisson count at `amount` photons for level 255; the count is scaled back.
    salt_and_pepper: a share `amount` of pixels becomes 0 or 255, equally likely. dropout: a
    share `amount` of pixels becomes 0.

    Args:
        kind: Which of the five.
        amount: (n,).
        key: (n,), keys of the fields.
        per_channel: Whether each channel has its own field.
    """

    kind: NoiseKind
    amount: Floats
    key: Words
    per_channel: bool = False


@dataclass(frozen=True, slots=True)
class Codec(_Gated):
    """Loss of detail as storing or shrinking causes it.

    jpeg: written at quality `amount` (1 to 100) with 4:2:0 chroma and read back. downscale:
    shrunk to `amount` times its size by the area filter, enlarged again by nearest pixels.

    Args:
        kind: Which of the two.
        amount: (n,).
    """

    kind: Literal["jpeg", "downscale"]
    amount: Floats


@dataclass(frozen=True, slots=True)
class Normalize(_Gated):
    """Leaves grey levels for float32: (v / 255 - mean) / std, a channel at a time.

    Args:
        mean: One number a channel, or one for all.
        std: As `mean`, above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]


Meaning = (
    Warp | Flow | Color | Curve | Histogram | Kernel | Median | Regions | Noise | Codec | Normalize
)


def leaves_levels(meaning: Meaning) -> bool:
    """Returns whether what comes out is no longer grey levels."""
    return isinstance(meaning, Normalize) or getattr(meaning, "norm", None) is not None


def size_after(meaning: Meaning, frame: Frame) -> Frame:
    """Returns the frame that the next op will see."""
    return Frame(meaning.size) if isinstance(meaning, Warp) else frame
