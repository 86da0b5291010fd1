"""The augmentation network: an image, its class and noise to an augmented image.

Three parts, one after another, each acting on an image or not (TeachAugment, arXiv 2202.12513, from
the paper; the last part is our own):

colour     x1 = tri(s x + b), s = 1 + 0.8 (σ(a) - 1/2), b = σ(c) - 1/2; a and c of each pixel's own
           levels, of the noise and of the class; tri folds the line into 0..1 as a triangle wave
geometry   x2(v) = x1(A v), A = I + 0.5 (σ(m) - 1/2), m (2, 3) of the noise and the class; v from
           -1 to 1 across the image; black beyond it
residual   x3 = clip(x2 + ε (l - mean l)), l = lowpass(tanh(r)), r of a small U-Net that sees x2,
           the noise and the class; ε = 0.15; the binomial filter (1 2 1)/4, twice each way, leaves
           no room for the fine patterns that mislead classifiers and mean nothing; without its mean
           it is no tint

Before it is fitted it is the identity. A part acts with a probability of σ(gate of the class);
while it is fitted the gates are relaxed (Gumbel, temperature 0.05), so that they learn.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LATENTS = 64
_EMBEDDING, _HIDDEN, _WIDE = 16, 64, 256
_SCALE, _TURN, _RESIDUAL = 0.8, 0.5, 0.15
_SHARP = 0.05
PARTS = ("colour", "geometry", "residual")


class Made(NamedTuple):
    """What the network makes of images: as they leave it, and as they leave the colours."""

    images: Tensor
    coloured: Tensor


class AugmentationNetwork(nn.Module):
    """Images, classes and noise to augmented images of the same size.

    Args:
        classes: How many classes there are; of an image of none, the number is `classes`.
        channels: 1 for grey, 3 for RGB.
        lowpass: Whether the residual is low-passed; 0 is for experiments.
    """

    def __init__(self, classes: int, channels: int = 3, lowpass: int = 1) -> None:
        super().__init__()
        self.settings = {"classes": classes, "channels": channels, "lowpass": lowpass}
        self.classes, self.channels, self._lowpass = classes, channels, bool(lowpass)
        told = LATENTS + _EMBEDDING
        self.embedding = nn.Embedding(classes + 1, _EMBEDDING)
        self.gates = nn.Embedding(classes + 1, len(PARTS))
        self.pixel1 = nn.Conv2d(channels, _HIDDEN, 1)
        self.pixel2 = nn.Conv2d(_HIDDEN, _HIDDEN, 1)
        self.pixel3 = nn.Conv2d(_HIDDEN, 2 * channels, 1)
        self.tone1 = nn.Linear(told, _HIDDEN)
        self.tone2 = nn.Linear(_HIDDEN, 2 * channels)
        self.move1 = nn.Linear(told, _WIDE)
        self.move2 = nn.Linear(_WIDE, _WIDE)
        self.move3 = nn.Linear(_WIDE, 6)
        self.down1 = nn.Conv2d(channels, 16, 3, padding=1)
        self.down2 = nn.Conv2d(16, 32, 3, 2, padding=1)
        self.down3 = nn.Conv2d(32, 32, 3, 2, padding=1)
        self.film = nn.Linear(told, 32)
        self.up2 = nn.Conv2d(64, 32, 3, padding=1)
        self.up1 = nn.Conv2d(48, 16, 3, padding=1)
        self.last = nn.Conv2d(16, channels, 3, padding=1)
        for layer in (self.pixel3, self.tone2, self.move3, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.gates.weight)

    def forward(self, images: Tensor, classes: Tensor, noise: Tensor, gates: Tensor) -> Made:
        """Augments images.

        Args:
            images: (n, C, h, w) in 0..1.
            classes: (n,), from 0 to `classes`.
            noise: (n, LATENTS), normal numbers.
            gates: (n, 3), uniform numbers above 0 and below 1.

        Returns:
            The images (n, C, h, w) in 0..1, with gradients for the gates where there are
            gradients at all.
        """
        told = torch.cat([noise, self.embedding(classes)], dim=1)
        acts = self._acts(classes, gates)
        coloured = torch.lerp(images, self._coloured(images, told), acts[:, 0])
        moved = self._moved(coloured, told, acts[:, 1, 0, 0])
        out = (moved + acts[:, 2] * self._residual(moved, told)).clamp(0, 1)
        return Made(out, coloured)

    def _acts(self, classes: Tensor, gates: Tensor) -> Tensor:
        """Returns (n, 3, 1, 1, 1): how much of each part is done."""
        logits = self.gates(classes) + torch.logit(gates)
        acts = (logits / _SHARP).sigmoid() if torch.is_grad_enabled() else (logits > 0).float()
        return acts[:, :, None, None, None]

    def _coloured(self, images: Tensor, told: Tensor) -> Tensor:
        own = F.relu(self.pixel2(F.relu(self.pixel1(2 * images - 1))))
        tone = self.tone2(F.relu(self.tone1(told)))[:, :, None, None]
        a, c = (self.pixel3(own) + tone).chunk(2, dim=1)
        return _folded((1 + _SCALE * (a.sigmoid() - 0.5)) * images + c.sigmoid() - 0.5)

    def _moved(self, images: Tensor, told: Tensor, acts: Tensor) -> Tensor:
        own = self.move3(F.relu(self.move2(F.relu(self.move1(told)))))
        change = _TURN * (own.sigmoid() - 0.5)
        matrix = torch.eye(2, 3, device=images.device) + acts[:, :, None] * change.view(-1, 2, 3)
        at = F.affine_grid(matrix, list(images.shape), align_corners=False)
        read = F.grid_sample(images, at, align_corners=False)
        if torch.is_grad_enabled():
            return read  # where nothing moves yet too, or it would never learn to
        # To the bit where nothing moves: a grid of floats does not hit pixels exactly.
        still = (matrix == torch.eye(2, 3, device=images.device)).flatten(1).all(dim=1)
        return torch.where(still[:, None, None, None], images, read)

    def _residual(self, images: Tensor, told: Tensor) -> Tensor:
        fine = F.relu(self.down1(2 * images - 1))
        half = F.relu(self.down2(fine))
        low = F.relu(self.down3(half) + self.film(told)[:, :, None, None])
        up = F.interpolate(low, size=half.shape[2:])
        up = F.relu(self.up2(torch.cat([up, half], dim=1)))
        up = F.interpolate(up, size=fine.shape[2:])
        up = F.relu(self.up1(torch.cat([up, fine], dim=1)))
        change = self.last(up).tanh()
        change = _smooth(_smooth(change)) if self._lowpass else change
        return _RESIDUAL * (change - change.mean(dim=(2, 3), keepdim=True))


def _folded(levels: Tensor) -> Tensor:
    """Folds the line into 0..1: tri(x) = x from 0 to 1, 2 - x from 1 to 2, and so on."""
    return 1 - (1 - levels.remainder(2)).abs()


def _smooth(images: Tensor) -> Tensor:
    """Filters by (1 2 1)/4 each way, with the edge repeated."""
    framed = F.pad(images, (1, 1, 1, 1), mode="replicate")
    rows = (framed[:, :, :-2] + 2 * framed[:, :, 1:-1] + framed[:, :, 2:]) / 4
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4
