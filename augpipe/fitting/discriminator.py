"""The discriminator of the conditional GAN: an image and its class to a score."""

from __future__ import annotations

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from augpipe.learned.generator import ladder

_FEATURES = 128


class Discriminator(nn.Module):
    """Scores how real images look for their classes: D(x, y) = w' h(x) + e_y' h(x).

    Convolutions begin at half the resolution, on 2 x 2 pixels together; each block halves the
    sides. The class enters by projection (Miyato & Koyama, arXiv 1802.05637). No normalization
    layers.

    Args:
        classes: How many classes there are.
        channels: Of the images.
        side: Of the images, in pixels.
        width: Channels at half the resolution; twice as many for each halving, up to `most`.
        most: Channels at the lowest resolution, at most.
    """

    def __init__(self, classes: int, channels: int, side: int, width: int, most: int) -> None:
        super().__init__()
        widths = ladder(-(-side // 2), width, most)[::-1]
        self._odd = side % 2
        self.first = nn.Conv2d(4 * channels, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(_Down(before, after) for before, after in pairwise(widths))
        self.conv = nn.Conv2d(widths[-1], widths[-1], 3, padding=1)
        places = -(-side // 2)
        for _ in self.blocks:
            places = -(-places // 2)
        self.hidden = nn.Linear(widths[-1] * places**2, _FEATURES)
        self.real = nn.Linear(_FEATURES, 1)
        self.embedding = nn.Embedding(classes, _FEATURES)
        nn.init.normal_(self.embedding.weight, std=_FEATURES**-0.5)

    def forward(self, images: Tensor, classes: Tensor) -> Tensor:
        """Maps (n, C, side, side) from -1 to 1 and (n,) classes to (n,) scores."""
        if self._odd:
            images = F.pad(images, (0, 1, 0, 1), mode="replicate")
        x = self.first(F.pixel_unshuffle(images, 2))
        for block in self.blocks:
            x = block(x)
        x = self.conv(F.leaky_relu(x, 0.2))
        h = F.leaky_relu(self.hidden(F.leaky_relu(x, 0.2).flatten(1)), 0.2)
        score: Tensor = self.real(h)[:, 0] + (self.embedding(classes) * h).sum(dim=1)
        return score


class _Down(nn.Module):
    """A residual block that halves the sides, rounded up."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(before, after, 1, bias=False)
        self.conv1 = nn.Conv2d(before, before, 3, padding=1)
        self.conv2 = nn.Conv2d(before, after, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.leaky_relu(x, 0.2))
        h = self.conv2(_halved(F.leaky_relu(h, 0.2)))
        return self.skip(_halved(x)) + h


def _halved(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)
