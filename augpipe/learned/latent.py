"""The meaning `Latent` done to images: on a batch, on whatever device, or on one array."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from augpipe.ir import Latent
from augpipe.learned.autoencoder import Autoencoder
from augpipe.learned.noise import noised
from augpipe.learned.weights import load_net
from augpipe.types import Array


def move(meaning: Latent, images: Tensor) -> Tensor:
    """Moves the images on which the meaning acts.

    Args:
        meaning: Of n images.
        images: (n, C, h, w), C 1, 3 or 4, uint8 or floats of grey levels 0..255; not changed.

    Returns:
        The like of `images`, rounded half to even where it is uint8.

    Raises:
        DataError: The weights cannot be read.
    """
    rows = np.flatnonzero(meaning.on & (meaning.amount > 0))
    if not len(rows) or not images[0].numel():
        return images
    at = torch.from_numpy(rows).to(images.device)
    given = images.index_select(0, at)
    net = _net(meaning.model, _stamp(meaning.model), str(images.device))
    levels = given[:, :3].float() / 255.0
    strength = torch.from_numpy(meaning.amount[rows]).float().to(images.device)
    out = 255.0 * noised(net, levels, meaning.key[rows], strength, meaning.kind, meaning.delta)
    out = (out.round() if images.dtype == torch.uint8 else out).to(images.dtype)
    return images.index_copy(0, at, torch.cat([out, given[:, 3:]], dim=1))


def move_one(meaning: Latent, row: int, image: Array) -> Array:
    """Does row `row` of the meaning to one image (h, w) or (h, w, C), as `move` does."""
    deep = image if image.ndim == 3 else image[:, :, None]
    planes = torch.from_numpy(deep.transpose(2, 0, 1).copy())[None]  # it may be read-only
    out: Array = move(meaning.taking(np.array([row])), planes)[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(out.reshape(image.shape))


def _stamp(source: str) -> tuple[int, int]:
    """Returns what changes with a file, so that one that was written anew is read anew."""
    try:
        found = Path(source).stat()
    except OSError:
        return 0, 0  # the bundled one; or reading it says what is wrong
    return found.st_mtime_ns, found.st_size


@lru_cache(4)
def _net(source: str, stamp: tuple[int, int], device: str) -> Autoencoder:
    return load_net(source, "autoencoder", Autoencoder)[0].to(device)
