"""Where a point goes through a flow: the inverse of p + u(p), by Newton's method."""

from __future__ import annotations

import numpy as np

from augpipe.ir import Basis, Flow
from augpipe.types import Array, Bools, Floats, Ints

_CLOSE = 1e-4  # pixels of the source: where the inverse of a flow is near enough
_TRIES = 60  # steps of Newton's method, those taken back included
_SHORTEST = 1e-3  # of a step of Newton's method: shorter ones are of no use
_CHUNK = 8192  # points that are solved together: what fits the cache
_NODES = 48  # a side, of the grid on which Newton's method starts anew
_BEYOND = 0.25  # of a frame: how far polynomials go on beyond it, and where solutions are sought
_RANKS = (1, 4, 2, 16, 8, 64)  # which of the nearest nodes, one after another
_SHORT = 2.0  # pixels: no side is divided further
_CHORD = 0.03  # pixels: how far a side may bend away from its chord, about


def fineness(meaning: Flow, row: int) -> float:
    """Returns how many points a pixel of a straight line keep it near what the flow makes of it.

    From second differences d of u over steps of c pixels: a chord of length s is d/8 (s/c)**2
    away from a smooth curve, and d/4 (s/c) from the kink of hat functions.
    """
    control = meaning.control[row]
    height, width = meaning.size[row].tolist()
    hat = meaning.basis == "hat"
    finest = 0.0
    counts = [max(2, count - 1) if hat else 2 * max(4, count - 3) for count in control.shape[:2]]
    y, x = (np.linspace(0.0, end, k + 1) for end, k in zip((height, width), counts, strict=True))
    u = _flow_at(meaning, row, (x + 1j * y[:, None]).ravel())[0].reshape(len(y), len(x))
    for axis, end in enumerate((height, width)):
        step = end / counts[axis]
        bend = float(abs(np.diff(u, 2, axis=axis)).max(initial=0.0))
        much = bend / (4.0 * _CHORD) if hat else (bend / (8.0 * _CHORD)) ** 0.5
        finest = max(finest, much / step)
    return min(finest, 1.0 / _SHORT)


def displace(meaning: Flow, row: int, points: Floats) -> tuple[Floats, Bools]:
    """Returns (..., 2): the output positions p that read these points, p + u(p) = point.

    And (...): where there is such a p; elsewhere it is the nearest that was found. Beyond the
    frame u goes on as at the frame's edge, but polynomials, which have a value there, as
    themselves for a quarter of the frame. Where the flow folds, so that several p read a
    point, it is one of them, one within the frame if any was found.
    """
    if not meaning.control[row].any():
        return points, np.ones(points.shape[:-1], np.bool_)
    flat = np.ascontiguousarray(points, np.float64).view(np.complex128).ravel()
    new = np.append(True, flat[1:] != flat[:-1])[: len(flat)]  # padding is solved once
    source = flat[new]
    at, off = np.full_like(source, complex(np.nan, np.nan)), np.full(len(source), np.inf)
    finite = np.flatnonzero(np.isfinite(source))
    for first in range(0, len(finite), _CHUNK):
        some = finite[first : first + _CHUNK]
        at[some], off[some] = _newton(meaning, row, source[some], source[some])
    _again(meaning, row, source, at, off)
    back = np.cumsum(new) - 1
    out = at[back].view(np.float64).reshape(points.shape)
    return out, np.asarray(off[back] < _CLOSE).reshape(points.shape[:-1])


def _again(meaning: Flow, row: int, source: Array, at: Array, off: Floats) -> None:
    """Solves anew, in place, what is not solved or, where the flow folds, beyond the frame.

    Newton's method starts at nodes of a grid over the frame, those that read nearest to the
    point, one after another.
    """
    height, width = meaning.size[row].tolist()

    def within(z: Array) -> Bools:
        return (z.real >= 0) & (z.real <= width) & (z.imag >= 0) & (z.imag <= height)

    todo = np.flatnonzero(np.isfinite(source) & ~((off < _CLOSE) & within(at)))
    todo = todo[(off[todo] >= _CLOSE) | within(source[todo])]
    if not len(todo):
        return
    reach = np.linspace(-_BEYOND, 1.0 + _BEYOND, _NODES)
    nodes = (reach * width + 1j * reach[:, None] * height).ravel()
    u, by_x, by_y = _flow_at(meaning, row, nodes)
    if (_determinant(by_x, by_y) > 0).all():
        todo = todo[off[todo] >= _CLOSE]
    if not len(todo):
        return
    from scipy.spatial import cKDTree

    read = cKDTree(np.stack([(nodes + u).real, (nodes + u).imag], axis=1))
    for rank in _RANKS:
        if not len(todo):
            return
        goal = source[todo]
        near = read.query(np.stack([goal.real, goal.imag], axis=1), [rank])[1][:, 0]
        there, rest = _newton(meaning, row, goal, nodes[near])
        lost = off[todo] >= _CLOSE
        better = np.where(lost, rest < off[todo], (rest < _CLOSE) & within(there))
        at[todo[better]], off[todo[better]] = there[better], rest[better]
        todo = todo[~((off[todo] < _CLOSE) & within(at[todo]))]


def _newton(meaning: Flow, row: int, source: Array, start: Array) -> tuple[Array, Floats]:
    """Solves p + u(p) = source for complex points: p, and how far off what it reads is.

    By Newton's method; a step that comes no nearer is taken back and halved.
    """
    reach = 0.5 * float(meaning.size[row].max())
    out, off = start.copy(), np.full(len(source), np.inf)
    live, at, goal = np.arange(len(source)), start, source
    u, by_x, by_y = _flow_at(meaning, row, at)
    rest = at + u - goal
    share = np.ones(len(source))
    for _ in range(_TRIES):
        out[live], off[live] = at, abs(rest)
        keep = (abs(rest) >= _CLOSE) & (share >= _SHORTEST)
        if not keep.any():
            break
        if not keep.all():
            live, at, goal, share = live[keep], at[keep], goal[keep], share[keep]
            rest, by_x, by_y = rest[keep], by_x[keep], by_y[keep]
        step = _solved(by_x, by_y, rest)
        step *= np.minimum(share, reach / np.maximum(abs(step), 1e-9))
        trial = at - step
        u, its_x, its_y = _flow_at(meaning, row, trial)
        left = trial + u - goal
        good = abs(left) < abs(rest) * (1.0 - 1e-3 * share)
        at, rest = np.where(good, trial, at), np.where(good, left, rest)
        by_x, by_y = np.where(good, its_x, by_x), np.where(good, its_y, by_y)
        share = np.where(good, np.minimum(1.0, 4.0 * share), 0.5 * share)
    return out, off


def _determinant(by_x: Array, by_y: Array) -> Floats:
    """Returns (n,): that of the derivative of p + u(p); where it is below 0, the flow folds."""
    return np.asarray((1.0 + by_x.real) * (1.0 + by_y.imag) - by_x.imag * by_y.real)


def _solved(by_x: Array, by_y: Array, rest: Array) -> Array:
    """Returns Newton's step; where the derivative has no inverse, as if u were constant."""
    determinant = _determinant(by_x, by_y)
    flat = abs(determinant) < 1e-6
    x = (1.0 + by_y.imag) * rest.real - by_y.real * rest.imag
    y = (1.0 + by_x.real) * rest.imag - by_x.imag * rest.real
    return np.where(flat, rest, (x + 1j * y) / np.where(flat, 1.0, determinant))


def _flow_at(meaning: Flow, row: int, at: Array) -> tuple[Array, Array, Array]:
    """Returns u and its derivatives by x and by y at (n,) positions, all complex: x + i y."""
    control = meaning.control[row]
    rows, columns = control.shape[:2]
    height, width = meaning.size[row].tolist()
    left, across, slope_x = _support(meaning.basis, at.real, columns, width)
    top, down, slope_y = _support(meaning.basis, at.imag, rows, height)
    flat = np.ascontiguousarray(control, np.float64).view(np.complex128).ravel()
    here = top * columns + left
    u, by_x, by_y = np.zeros((3, len(at)), np.complex128)
    for i in range(len(down)):
        line, bend = np.zeros((2, len(at)), np.complex128)
        for j in range(len(across)):
            value = flat[here + (i * columns + j)]
            line += across[j] * value
            bend += slope_x[j] * value
        u += down[i] * line
        by_x += down[i] * bend
        by_y += slope_y[i] * line
    return u, by_x, by_y


def _support(kind: Basis, at: Floats, count: int, length: float) -> tuple[Ints, Floats, Floats]:
    """Evaluates those functions of `ir.basis` that are not zero.

    Returns:
        (m,), the first of them; (k, m), its value and those of the next ones; (k, m), their
        derivatives. The axis ends as `_displace` says; beyond its end the derivative is zero.
    """
    beyond = _BEYOND * length if kind == "polynomial" else 0.0
    inside = np.clip(at, -beyond, length + beyond)
    if kind == "polynomial":
        scale, t = 2.0 / length, 2.0 * inside / length - 1.0
        first = np.zeros(len(at), np.int64)
        values, slopes = np.ones((count, len(at))), np.zeros((count, len(at)))
        for k in range(1, count):
            values[k] = values[k - 1] * t
            slopes[k] = k * values[k - 1]
    else:
        cells = count - (1 if kind == "hat" else 3)
        scale = cells / length
        t = inside * scale
        first = np.clip(t.astype(np.int64), 0, cells - 1)
        t = t - first
        rest = 1.0 - t
        if kind == "hat":
            values, one = np.stack([rest, t]), np.ones(len(at))
            slopes = np.stack([-one, one])
        else:
            a, b = t * t, rest * rest
            third, fourth = b * rest / 6.0, a * t / 6.0
            second = 2.0 / 3.0 - a + 3.0 * fourth
            values = np.stack([third, second, 1.0 - third - second - fourth, fourth])
            inner = 1.5 * a - 2.0 * t
            slopes = np.stack([-0.5 * b, inner, 0.5 * b - inner - 0.5 * a, 0.5 * a])
    return first, values, slopes * (scale * (inside == at))
