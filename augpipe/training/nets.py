"""Small networks for small images: wide residual networks of one width."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn


class WideBlock(nn.Module):
    """A pre-activation residual block: x + conv(relu(bn(conv(relu(bn(x)))))).

    Args:
        width_in: Channels that come in.
        width: Channels that go out.
        stride: Of the first convolution.
    """

    branches: ClassVar[tuple[str, ...]] = ("conv2",)
    """The modules that end a residual branch, for stochastic depth."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(width_in)
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        same = width_in == width and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(width_in, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (n, width_in, h, w) to (n, width, h / stride, w / stride)."""
        active = F.relu(self.bn1(x))
        skip = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(active)
        return skip + self.conv2(F.relu(self.bn2(self.conv1(active))))


class WideResNet(nn.Module):
    """A wide residual network, WRN-depth-width, for images of 28 to 96 pixels.

    Three stages of (depth - 4) / 6 blocks with 16, 32 and 64 times `width` channels, halving the
    sides between them; global average pooling; one linear layer. Convolutions start from He's
    normal distribution (fan out).

    Paper: Zagoruyko and Komodakis, "Wide Residual Networks", arXiv 1605.07146.

    Args:
        depth: Layers: 10, 16, 22, 28, ...
        width: The factor on the channels.
        classes: Classes.
        channels: Of the images.
    """

    def __init__(self, depth: int, width: int, classes: int, channels: int = 3) -> None:
        super().__init__()
        blocks = (depth - 4) // 6
        widths = (16, 16 * width, 32 * width, 64 * width)
        self.conv = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.layer1 = _stage(widths[0], widths[1], blocks, 1)
        self.layer2 = _stage(widths[1], widths[2], blocks, 2)
        self.layer3 = _stage(widths[2], widths[3], blocks, 2)
        self.bn = nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (n, channels, h, w) to logits (n, classes)."""
        for stage in (self.conv, self.layer1, self.layer2, self.layer3):
            x = stage(x)
        logits: Tensor = self.fc(F.relu(self.bn(x)).mean(dim=(2, 3)))
        return logits


def _stage(width_in: int, width: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (WideBlock(width, width, 1) for _ in range(blocks - 1))
    return nn.Sequential(WideBlock(width_in, width, stride), *rest)
