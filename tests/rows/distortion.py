"""Distortions against SciPy's splines and samplers and OpenCV's lens model."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from scipy.interpolate import BSpline
from scipy.ndimage import map_coordinates

from augpipe.types import Array
from tests.cases import Case

Draw = dict[str, Any]
LIMITS = (1.0, 0.3)
CAUSE = "rounding to whole levels"
INDEX = 3


def read(image: Array, x: Array, y: Array) -> Array:
    """Reads at pixel-centre positions, edge pixels beyond the border."""
    parts = [
        map_coordinates(image[:, :, k].astype(float), [y, x], order=1, mode="nearest")
        for k in range(image.shape[2])
    ]
    return np.stack(parts, axis=2)


def elastic(fields: dict[str, Any]) -> Any:
    """SciPy's B-splines on uniform knots, with the coefficients that were drawn."""

    def oracle(image: Array, drawn: Draw) -> Array:
        from tests.harness import build, meanings

        (meaning,) = meanings(build({"elastic": fields}), image.shape, (INDEX,))
        height, width = image.shape[:2]
        moved = []
        for axis in (0, 1):
            out = meaning.control[0, :, :, axis]  # type: ignore[union-attr]
            for length in (height, width):
                cells = len(out) - 3
                knots = np.arange(-3, cells + 4) * length / cells
                out = BSpline(knots, out, 3)(np.arange(length) + 0.5).T
            moved.append(out)
        y, x = np.mgrid[:height, :width]
        return read(image, x + moved[0], y + moved[1])

    return oracle


def grid(image: Array, drawn: Draw) -> Array:
    """Each axis is read along the broken line through the steps' ends."""
    at = []
    for steps, length in zip(drawn["steps"], image.shape[1::-1], strict=True):
        ends = np.append(0, np.cumsum(steps)) / steps.sum() * length
        even = np.linspace(0, length, len(steps) + 1)
        at.append(np.interp(np.arange(length) + 0.5, even, ends) - 0.5)
    x, y = np.meshgrid(*at)
    return read(image, x, y)


def lens(image: Array, drawn: Draw) -> Array:
    """OpenCV's camera model, its focal length half the diagonal."""
    height, width = image.shape[:2]
    focal = np.hypot(height, width) / 2
    camera = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    bend = np.array([drawn["k1"], drawn["k2"], 0, 0])
    maps = cv2.initUndistortRectifyMap(camera, bend, None, camera, (width, height), cv2.CV_32FC1)
    return read(image, *maps)


def row(op: str, fields: dict[str, Any], oracle: Any, name: str, image: str = "rgb") -> Case:
    return Case({op: fields}, oracle, name, LIMITS, CAUSE, image, parity=LIMITS, index=INDEX)


STRONG = {"amplitude": [0.02, 0.06], "cells": 4, "border": "edge"}
FINE = {"cells": 9, "border": "edge"}
BENT = {"k1": [-0.25, 0.3], "k2": [-0.1, 0.1], "border": "edge"}
ROWS = [
    row("elastic", STRONG, elastic(STRONG), "scipy.interpolate.BSpline"),
    row("elastic", FINE, elastic(FINE), "scipy.interpolate.BSpline", "grey"),
    row("grid_distortion", {}, grid, "numpy.interp"),
    row("grid_distortion", {"cells": 3, "limit": [-0.8, 0.8]}, grid, "numpy.interp", "grey"),
    row("optical_distortion", BENT, lens, "cv2.initUndistortRectifyMap"),
    row("optical_distortion", {**BENT, "k1": [0.9, 0.9]}, lens, "OpenCV", "grey"),
    Case(
        "elastic",
        None,
        parity=LIMITS,
        parity_cause=CAUSE,
        why_no_oracle="the default's fill; the other rows have the oracle",
    ),
]
