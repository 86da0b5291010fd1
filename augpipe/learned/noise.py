"""Noise in the autoencoder's latent space: the same numbers for an image wherever it is.

The normals n of an image are those of the Philox field of its key, in the order (latents, h, w),
so that neither the batch nor the device changes them. s is the strength; σ_c are the deviations
that the weights hold.

iid      z'_c = z_c + s σ_c n
lowfreq  z'_c = z_c + s σ_c m; m: n drawn at a quarter of the latents' resolution, read
         bilinearly, divided at each place by the deviation it has there
style    z'_c = (z_c - μ_c) (d_c + s δ_c n1) / d_c + μ_c + s ε_c n2; μ_c, d_c: mean and
         deviation of the image's own z_c; ε_c, δ_c: those of such means and deviations over images
         (DSU, arXiv 2202.03958, with the deviations of the fitted images for those of the batch)
"""

from __future__ import annotations

from functools import lru_cache
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from augpipe.backends.batched.philox import normal_field, round_keys
from augpipe.learned.autoencoder import Autoencoder
from augpipe.rng import normal_table
from augpipe.types import Words

KINDS = ("iid", "lowfreq", "style")
_COARSE = 4
_LEAST = 1e-6  # of a deviation that is divided by


@torch.no_grad()
def noised(
    net: Autoencoder, images: Tensor, keys: Words, strength: Tensor, kind: str, delta: bool
) -> Tensor:
    """Moves images by latent noise.

    Args:
        net: The autoencoder, on the images' device.
        images: (n, C, h, w), C 1 or 3, floats in 0..1.
        keys: (n,), of the fields.
        strength: (n,), s, 0 and more; where it is 0 the image stays as it is.
        kind: One of `KINDS`.
        delta: x + D(z') - D(z), which leaves what the autoencoder cannot see as it is; else D(z').

    Returns:
        (n, C, h, w) in 0..1.
    """
    z = net.encode(images)
    s = strength.to(z)[:, None, None, None]
    match kind:
        case "iid":
            moved = z + s * net.std[:, None, None] * normals(keys, z, z.shape[1:])
        case "lowfreq":
            moved = z + s * net.std[:, None, None] * _smooth(keys, z)
        case "style":
            n = normals(keys, z, (2, z.shape[1], 1, 1))
            mean, spread = (
                z.mean(dim=(2, 3), keepdim=True),
                z.std((2, 3), keepdim=True, correction=0),
            )
            gain = 1 + s * net.spread_std[:, None, None] * n[:, 0] / spread.clamp_min(_LEAST)
            moved = (z - mean) * gain + mean + s * net.level_std[:, None, None] * n[:, 1]
        case _:
            raise ValueError(kind)
    return shown(net, images, z, moved, s > 0, delta)


def shown(
    net: Autoencoder, images: Tensor, z: Tensor, moved: Tensor, on: Tensor, delta: bool
) -> Tensor:
    """Returns what moved latents show, in 0..1, where `on` (broadcast); the images elsewhere."""
    decoded = net.decode(moved, images)
    out = images + decoded - net.decode(z, images) if delta else decoded
    return torch.where(on, out.clamp(0, 1), images)


def normals(keys: Words, like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Returns (n, *shape) standard normal numbers of the keys' fields, on the device of `like`."""
    rounds = torch.from_numpy(round_keys(keys)).to(like.device)
    table = torch.from_numpy(normal_table()).to(like.device)
    return normal_field(rounds, prod(shape), table).view(len(keys), *shape).to(like)


def _smooth(keys: Words, like: Tensor) -> Tensor:
    """Returns noise of a low frequency that has deviation 1 at each place."""
    channels, height, width = like.shape[1:]
    down, right = _reading(height), _reading(width)
    coarse = normals(keys, like, (channels, down.shape[1], right.shape[1]))
    return torch.einsum("yi,ncij,xj->ncyx", down.to(like), coarse, right.to(like))


@lru_cache(64)
def _reading(length: int) -> Tensor:
    """Returns (length, coarse): bilinear weights, each row of Euclidean norm 1."""
    coarse = -(-length // _COARSE)
    weights = F.interpolate(torch.eye(coarse)[None], size=length, mode="linear")[0].T
    return F.normalize(weights, dim=1)
