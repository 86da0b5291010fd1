"""The generator of the conditional GAN: noise and a class to a small image.

From a map of 4 to 7 places a side, each block doubles the sides; class and noise enter every
block as a gain and a shift of its channels (FiLM, arXiv 1709.07871). No normalization layers, and
residual branches that add nothing at first, as R3GAN (arXiv 2501.05441).
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_EMBEDDING = 32  # numbers a class
_BASE = 7  # places a side, at most, before the first block


class Generator(nn.Module):
    """Noise and classes to images.

    Args:
        classes: How many classes there are.
        channels: 1 for grey, 3 for RGB.
        side: Of the images, in pixels; they are square.
        latents: Numbers of noise an image.
        width: Channels at full resolution; twice as many for each halving, up to `most`.
        most: Channels at the lowest resolution, at most.
    """

    def __init__(
        self,
        classes: int,
        channels: int = 1,
        side: int = 28,
        latents: int = 64,
        width: int = 32,
        most: int = 128,
    ) -> None:
        super().__init__()
        self.settings = {
            "classes": classes, "channels": channels, "side": side, "latents": latents,
            "width": width, "most": most,
        }  # fmt: skip
        self.side, self.latents = side, latents
        self.classes, self.channels = classes, channels
        widths = ladder(side, width, most)
        self.base = -(-side // 2 ** (len(widths) - 1))
        told = latents + _EMBEDDING
        self.embedding = nn.Embedding(classes, _EMBEDDING)
        self.first = nn.Linear(told, widths[0] * self.base**2)
        self.blocks = nn.ModuleList(_Up(before, after, told) for before, after in pairwise(widths))
        self.last = nn.Conv2d(widths[-1], channels, 3, padding=1)

    def forward(self, noise: Tensor, classes: Tensor) -> Tensor:
        """Maps (n, latents) normal numbers and (n,) classes to (n, C, side, side) in 0..1."""
        told = torch.cat([noise, self.embedding(classes)], dim=1)
        x = self.first(told).unflatten(1, (-1, self.base, self.base))
        x = x.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            x = block(x, told)
        levels: Tensor = self.last(F.leaky_relu(x, 0.2))
        extra = levels.shape[-1] - self.side
        start = extra // 2
        return levels[..., start : start + self.side, start : start + self.side].sigmoid()


def ladder(side: int, width: int, most: int) -> list[int]:
    """Returns the channels at each resolution, the lowest first: it has 4 to 7 places a side."""
    count = 1
    while -(-side // 2 ** (count - 1)) > _BASE:
        count += 1
    return [min(most, width * 2**k) for k in range(count)][::-1]


class _Up(nn.Module):
    """A residual block that doubles the sides."""

    def __init__(self, before: int, after: int, told: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(before, after, 1)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.film1 = nn.Linear(told, 2 * before)
        self.film2 = nn.Linear(told, 2 * after)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        h = F.leaky_relu(_film(x, self.film1(told)), 0.2)
        h = self.conv1(F.interpolate(h, scale_factor=2.0))
        h = self.conv2(F.leaky_relu(_film(h, self.film2(told)), 0.2))
        return F.interpolate(self.skip(x), scale_factor=2.0) + h


def _film(x: Tensor, moves: Tensor) -> Tensor:
    gain, shift = moves[:, :, None, None].chunk(2, dim=1)
    return x * (1 + gain) + shift
