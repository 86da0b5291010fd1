"""Moves among images of one class: towards a neighbour, away from it, as widely as the class lies.

The neighbours of an image are the images of the batch with its class that lie nearest to it in
latent space; which of them it is follows from the image's key. Nothing depends on the order of
the batch, and nothing waits for the device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from augpipe.learned.autoencoder import Autoencoder
from augpipe.learned.noise import normals, shown
from augpipe.types import Words

_BITS = np.uint64(11)  # of a key of 64, so that 53 are left: a float64's


@torch.no_grad()
def moved_in_class(
    net: Autoencoder,
    images: Tensor,
    classes: Tensor,
    keys: Words,
    strength: Tensor,
    kind: str,
    neighbours: int,
    delta: bool,
) -> Tensor:
    """Moves images by others of their class.

    Args:
        net: The autoencoder, on the images' device.
        images: (n, C, h, w), C 1 or 3, floats in 0..1.
        classes: (n,) whole numbers; -1 stands for none.
        keys: (n,).
        strength: (n,), 0 and more; where it is 0 the image stays as it is.
        kind: interpolate, extrapolate or resample.
        neighbours: Among how many one is chosen.
        delta: See `noised`.

    Returns:
        (n, C, h, w) in 0..1.
    """
    z = net.encode(images)
    s = strength.to(z)[:, None, None, None]
    alike = (classes[:, None] == classes) & (classes >= 0)
    if kind == "resample":
        spread = _spread(z, alike)
        moved, on = z + s * spread * normals(keys, z, z.shape[1:]), alike.sum(dim=1) > 1
    else:
        other, on = _neighbour(z, alike, keys, neighbours)
        way = z[other] - z
        moved = z + s * way if kind == "interpolate" else z - s * way
    return shown(net, images, z, moved, on[:, None, None, None] & (s > 0), delta)


def _neighbour(z: Tensor, alike: Tensor, keys: Words, count: int) -> tuple[Tensor, Tensor]:
    """Returns (n,): a row for each image, and whether it has a neighbour at all."""
    flat = z.flatten(1)
    others = alike & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    distance = torch.cdist(flat, flat).masked_fill(~others, torch.inf)
    nearest = distance.topk(min(count, len(z)), largest=False).indices
    there = others.sum(dim=1).clamp(max=count)
    uniform = torch.from_numpy((keys >> _BITS).astype(np.float64) * 2.0**-53).to(z.device)
    place = (uniform * there).long()
    return nearest.gather(1, place[:, None])[:, 0], there > 0


def _spread(z: Tensor, alike: Tensor) -> Tensor:
    """Returns the deviation of the latents over each image's class, at each place."""
    flat = (z - z.mean(dim=0)).flatten(1)  # squares of what lies far from 0 would cancel
    share = alike.to(flat) / alike.sum(dim=1, keepdim=True).clamp_min(1)
    mean = share @ flat
    variance = share @ flat.square() - mean.square()
    return variance.clamp_min(0).sqrt().view_as(z)
