"""Random images for the batched backend, and a meaning done to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from augpipe.backends import batched


def images(n: int, shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    drawn = np.random.default_rng(3)
    if dtype == np.uint8:
        return drawn.integers(0, 256, (n, *shape), np.uint8)
    return drawn.uniform(0, 255, (n, *shape)).astype(dtype)


def tensor(many: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(many).permute(0, 3, 1, 2).contiguous()


def batch(meaning: Any, many: np.ndarray) -> np.ndarray:
    return batched.render([meaning], tensor(many)).permute(0, 2, 3, 1).numpy()
