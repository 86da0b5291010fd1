"""CIE Lab in OpenCV's 8-bit units, to the nearest whole number.

cv2.cvtColor interpolates between table entries and is up to two units off; equalizing the
lightness makes up to forty levels of that.
"""

from __future__ import annotations

import cv2
import numpy as np

from augpipe.types import Array

_KNEE = 6.0 / 29.0
_V = np.arange(256) / 255.0
_LINEAR = np.where(_V <= 0.04045, _V / 12.92, ((_V + 0.055) / 1.055) ** 2.4).astype(np.float32)
# CIE 1931 XYZ from linear sRGB (IEC 61966-2-1) over its white, D65.
_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
) / np.array([[0.950456], [1.0], [1.088754]])
_FORTH, _BACK = (matrix.astype(np.float32) for matrix in (_XYZ, np.linalg.inv(_XYZ)))
# L x 255 / 100, a + 128, b + 128 from the cube roots f(x), f(y), f(z).
_OPPONENT = np.array([[0.0, 295.8, 0.0], [500.0, -500.0, 0.0], [0.0, 200.0, -200.0]])
_ZERO = np.array([[-40.8], [128.0], [128.0]])
_TO = np.concatenate([_OPPONENT, _ZERO], axis=1).astype(np.float32)
_FROM = np.linalg.inv(_OPPONENT)
_FROM = np.concatenate([_FROM, -_FROM @ _ZERO], axis=1).astype(np.float32)


def to_lab(image: Array) -> Array:
    """Returns uint8 (H, W, 3) L x 255 / 100, a + 128, b + 128 of uint8 sRGB."""
    t = cv2.transform(cv2.LUT(image, _LINEAR), _FORTH)
    roots = np.where(t > _KNEE**3, cv2.pow(t, 1.0 / 3.0), t / (3.0 * _KNEE**2) + 4.0 / 29.0)
    return np.rint(cv2.transform(roots.astype(np.float32), _TO)).clip(0, 255).astype(np.uint8)


def from_lab(lab: Array) -> Array:
    """Returns uint8 sRGB of what `to_lab` returns."""
    roots = cv2.transform(lab.astype(np.float32), _FROM)
    t = np.where(roots > _KNEE, roots**3, 3.0 * _KNEE**2 * (roots - 4.0 / 29.0))
    linear = cv2.transform(t.astype(np.float32), _BACK).clip(0.0, 1.0)
    v = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * cv2.pow(linear, 1 / 2.4) - 0.055)
    return np.rint(255.0 * v).astype(np.uint8)
