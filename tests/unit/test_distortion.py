"""The fields that the distortions draw, against the papers' and the libraries'."""

from __future__ import annotations

from typing import Any

import albumentations
import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from augpipe.ir import Flow, basis
from augpipe.rng import Draws
from augpipe.types import Array, Frame
from tests.harness import build


def flow(item: Any, size: tuple[int, int], n: int = 1) -> Flow:
    out = build(item)[0].means(Draws(7, np.arange(n), 0).at("op#0"), Frame(np.tile(size, (n, 1))))
    assert isinstance(out, Flow)
    return out


def fields(meaning: Flow) -> Array:
    """(n, height, width, 2), displacements in pixels."""
    height, width = meaning.size[0].tolist()
    rows, columns = meaning.control.shape[1:3]
    down = basis(meaning.basis, np.arange(height) + 0.5, rows, height)
    across = basis(meaning.basis, np.arange(width) + 0.5, columns, width)
    return np.einsum("yi,nijk,xj->nyxk", down, meaning.control, across)


def correlation(field: Array, lag: int) -> float:
    return float(np.mean(field[:, :, lag:] * field[:, :, :-lag]) / np.mean(field**2))


def test_elastic_has_the_amplitude_it_declares() -> None:
    size = (60, 80)
    u = fields(flow({"elastic": {"amplitude": [0.05, 0.05], "cells": 4}}, size, 2000))
    assert np.sqrt(np.mean(u[..., 0] ** 2)) == pytest.approx(0.05 * 80, rel=0.02)
    assert np.sqrt(np.mean(u[..., 1] ** 2)) == pytest.approx(0.05 * 60, rel=0.02)
    by_place = u.std(axis=0) / (0.05 * np.array([80, 60]))
    assert abs(by_place - 1).max() < 0.12  # 4% by place, the rest is sampling
    assert abs(u.mean()) < 0.1


def test_elastic_looks_as_simards_and_torchvisions() -> None:
    """Same standard deviation and same autocorrelation as white noise blurred by a Gaussian."""
    side, cells, n = 96, 8, 60
    sigma = side / (cells * np.sqrt(3))
    alpha = 400.0
    amplitude = alpha / (4 * sigma * np.sqrt(3 * np.pi)) / side
    own = fields(flow({"elastic": {"amplitude": [amplitude] * 2, "cells": cells}}, (side, side), n))
    torch.manual_seed(0)
    theirs = v2.ElasticTransform(alpha, float(sigma))
    image = torch.zeros(1, side, side)
    drawn = [theirs.make_params([image])["displacement"][0].numpy() for _ in range(n)]
    other = np.stack(drawn)[:, 24:-24, 24:-24] * side / 2  # its blur mirrors at the border
    own = own[:, 24:-24, 24:-24]
    assert own.std() == pytest.approx(other.std(), rel=0.1)
    for lag in (2, 5, 8, 12):
        gaussian = np.exp(-((lag / (2 * sigma)) ** 2))
        assert correlation(own, lag) == pytest.approx(gaussian, abs=0.05)
        assert correlation(other, lag) == pytest.approx(gaussian, abs=0.08)


def test_elastic_is_the_same_at_every_resolution() -> None:
    small = fields(flow("elastic", (30, 40)))[0]
    large = fields(flow("elastic", (90, 120)))[0]
    assert np.allclose(large[1::3, 1::3], small * 3)


def test_grid_reads_the_whole_axis_and_never_turns_back() -> None:
    meaning = flow({"grid_distortion": {"limit": [-0.9, 0.9], "cells": 7}}, (90, 130), 200)
    control = meaning.control
    assert abs(control[:, :, [0, -1], 0]).max() < 1e-9
    assert abs(control[:, [0, -1], :, 1]).max() < 1e-9
    at = fields(meaning)[..., 0] + np.arange(130) + 0.5
    assert (np.diff(at, axis=2) > 0).all()
    assert at.min() > 0
    assert at.max() < 130


def test_grid_matches_albumentations() -> None:
    """Same steps, same map, up to its whole-pixel steps and its last, cut-off one."""
    size, cells = (100, 150), 5
    theirs = albumentations.GridDistortion(cells, (-0.3, 0.3), normalized=True)
    theirs.set_random_seed(3)
    maps = theirs.get_params_dependent_on_data({"shape": (*size, 3)}, {})
    theirs.set_random_seed(3)
    steps = [1 + theirs.py_random.uniform(-0.3, 0.3) for _ in range(2 * cells + 2)]
    for name, own, length in (
        ("map_x", steps[:cells], size[1]),
        ("map_y", steps[cells + 1 : -1], size[0]),
    ):
        ends = np.append(0, np.cumsum(own)) / sum(own) * length
        even = np.linspace(0, length, cells + 1)
        want = np.interp(np.arange(length) + 0.5, even, ends) - 0.5
        got = maps[name][0] if name == "map_x" else maps[name][:, 0]
        assert abs(got - want).max() < 1.5  # pixels, of steps of 20 and 30


@pytest.mark.parametrize(("k1", "k2"), [(0.2, 0.0), (-0.2, 0.05), (0.0, 0.3)])
def test_lens_bends_by_the_radius(k1: float, k2: float) -> None:
    meaning = flow({"optical_distortion": {"k1": [k1, k1], "k2": [k2, k2]}}, (60, 80))
    u = fields(meaning)[0]
    y, x = np.mgrid[:60, :80] + 0.5
    p = np.stack([x - 40, y - 30], axis=2)
    square = (p**2).sum(axis=2, keepdims=True) / 50**2
    assert np.allclose(u, p * (k1 * square + k2 * square**2))
