"""The autoencoder in whose latent space images are moved: a linear path and a learned residue.

A patch of 4 × 4 pixels in three colours becomes `latents` numbers. The linear path does that by
the patches' principal components, the best there is without looking at neighbours; a
convolutional network beside it, silent at first, learns what is left. All convolutions run at a
quarter of the resolution.

    z = P (u(x) - m) + f(u(x))        u: pixel unshuffle by 4
    y = u⁻¹(m + P' z + g(z))

No normalization layers: what becomes of a place depends on its surroundings alone, at any size.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FACTOR = 4
"""How many pixels a side of a patch has: a latent's places per image side are a quarter."""
_PATCH = 3 * FACTOR * FACTOR


class Residual(nn.Module):
    """x + conv(act(conv(act(x)))), two 3 × 3 convolutions; the identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = _silent(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        """Returns x and the residue."""
        return x + self.second(F.silu(self.first(F.silu(x))))


class Autoencoder(nn.Module):
    """Images to latents and back, at any size, grey or in colour.

    Args:
        latents: Numbers a place.
        width: Channels of the convolutions.
        encoder: Residual blocks on the way in.
        decoder: Residual blocks on the way out.

    Attributes:
        mean: (latents,) of the latents of the training images.
        std: (latents,) likewise: the unit of latent noise.
        level_std: (latents,) how far the images' own means lie apart: the unit of style noise.
        spread_std: (latents,) how far the images' own deviations lie apart.
    """

    mean: Tensor
    std: Tensor
    level_std: Tensor
    spread_std: Tensor

    def __init__(
        self, latents: int = 8, width: int = 96, encoder: int = 2, decoder: int = 3
    ) -> None:
        super().__init__()
        self.settings = {
            "latents": latents, "width": width, "encoder": encoder, "decoder": decoder,
        }  # fmt: skip
        self.linear_in = nn.Conv2d(_PATCH, latents, 1)
        self.linear_out = nn.Conv2d(latents, _PATCH, 1)
        self.residue_in = _residue(_PATCH, width, encoder, latents)
        self.residue_out = _residue(latents, width, decoder, _PATCH)
        self.register_buffer("mean", torch.zeros(latents))
        for name in ("std", "level_std", "spread_std"):
            self.register_buffer(name, torch.ones(latents))

    def encode(self, images: Tensor) -> Tensor:
        """Returns (n, latents, ⌈h/4⌉, ⌈w/4⌉) latents.

        Args:
            images: (n, 3, h, w) or (n, 1, h, w) in 0..1.
        """
        x = images.expand(-1, 3, -1, -1)
        right, below = -x.shape[3] % FACTOR, -x.shape[2] % FACTOR
        if right or below:
            x = F.pad(x, (0, right, 0, below), mode="replicate")
        u = F.pixel_unshuffle(x, FACTOR)
        z: Tensor = self.linear_in(u) + self.residue_in(u - 0.5)
        return z

    def decode(self, latents: Tensor, like: Tensor) -> Tensor:
        """Returns images of the size and the channels of `like`, not clipped."""
        u = self.linear_out(latents) + self.residue_out(latents)
        y = F.pixel_shuffle(u, FACTOR)[:, :, : like.shape[2], : like.shape[3]]
        return y if like.shape[1] == 3 else y.mean(dim=1, keepdim=True)

    def forward(self, images: Tensor) -> Tensor:
        """Returns the images as the latents tell of them."""
        return self.decode(self.encode(images), images)

    @torch.no_grad()
    def start(self, patches: Tensor) -> None:
        """Takes the principal components of patches for the linear path.

        Args:
            patches: (n, 48), as pixel_unshuffle makes them of images in 0..1.
        """
        patches = patches.double()
        middle = patches.mean(dim=0)
        _, vectors = torch.linalg.eigh(torch.cov(patches.T))
        axes = vectors[:, -len(self.mean) :].T.flip(0)  # the greatest variance first
        _set(self.linear_in, axes, -axes @ middle)
        _set(self.linear_out, axes.T, middle)

    @torch.no_grad()
    def measure(self, batches: Iterable[Tensor]) -> None:
        """Sets `mean`, `std` and the deviations of style to those of these images' latents."""
        rows = [self.encode(images).double().flatten(2) for images in batches]
        every = torch.cat([each.movedim(1, 0).flatten(1) for each in rows], dim=1)
        self.mean.copy_(every.mean(dim=1))
        self.std.copy_(every.std(dim=1, correction=0))
        levels = torch.cat([each.mean(dim=2) for each in rows])
        spreads = torch.cat([each.std(dim=2, correction=0) for each in rows])
        self.level_std.copy_(levels.std(dim=0, correction=0))
        self.spread_std.copy_(spreads.std(dim=0, correction=0))


def _residue(before: int, width: int, blocks: int, after: int) -> nn.Sequential:
    inner = [Residual(width) for _ in range(blocks)]
    first = nn.Conv2d(before, width, 3, padding=1)
    return nn.Sequential(first, *inner, nn.SiLU(), _silent(nn.Conv2d(width, after, 3, padding=1)))


def _silent(convolution: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(convolution.weight)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution


def _set(convolution: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
    assert convolution.bias is not None
    convolution.weight.copy_(weight[:, :, None, None])
    convolution.bias.copy_(bias)
