"""Small networks for small images: convolutional, a transformer, and one that reads rows."""

from __future__ import annotations

from typing import ClassVar

import torch
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


class SmallTransformer(nn.Module):
    """A vision transformer for images of 28 to 96 pixels, of any size.

    Patches of 4 x 4 pixels become vectors, sines and cosines of their row and column are added
    (as in "Attention is all you need", arXiv 1706.03762, half the width for each), four encoder
    layers with the normalization first, the mean over the patches, one linear layer.

    Paper: Dosovitskiy et al., "An image is worth 16x16 words", arXiv 2010.11929; the mean in
    place of a class token and the fixed positions are from Beyer et al., arXiv 2205.01580.

    Args:
        classes: Classes.
        channels: Of the images.
        width: Of the vectors.
        depth: Encoder layers.
    """

    def __init__(self, classes: int, channels: int = 3, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, width, 4, 4)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, F.gelu, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (n, channels, h, w) to logits (n, classes)."""
        x = self.patches(x)
        x = (x + _positions(x)).flatten(2).transpose(1, 2)
        logits: Tensor = self.fc(self.norm(self.encoder(x)).mean(dim=1))
        return logits


def _positions(x: Tensor) -> Tensor:
    """Returns (width, h, w): sines and cosines of the row, then of the column."""
    quarter = x.shape[1] // 4
    rates = 10_000.0 ** (-torch.arange(quarter, device=x.device, dtype=x.dtype) / quarter)
    sides = []
    for axis, size in enumerate(x.shape[2:]):
        angles = rates[:, None] * torch.arange(size, device=x.device, dtype=x.dtype)
        waves = torch.cat((angles.sin(), angles.cos()))
        waves = waves[:, :, None] if axis == 0 else waves[:, None, :]
        sides.append(waves.expand(-1, *x.shape[2:]))
    return torch.cat(sides)


class RowReader(nn.Module):
    """An LSTM that reads an image row by row, its pixels as words.

    The grey level of each pixel is one of 16 words, each a vector of 4 numbers; the rows, one
    after another, go through two LSTM layers; the last state is classified. A network with an
    embedding and recurrent weights, for techniques that need them.

    Args:
        classes: Classes.
        width: Of the images, in pixels; others are refused by the first layer.
        hidden: Size of the state.
    """

    words: ClassVar[int] = 16

    def __init__(self, classes: int, width: int = 28, hidden: int = 96) -> None:
        super().__init__()
        self.embedding = nn.Embedding(self.words, 4)
        self.lstm = nn.LSTM(4 * width, hidden, num_layers=2, batch_first=True)
        self.fc = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images (n, channels, h, 28), levels from -1 to 1, to logits (n, classes)."""
        grey = x.mean(dim=1).add(1).mul(self.words / 2)
        words = self.embedding(grey.clamp(0, self.words - 1).long())
        logits: Tensor = self.fc(self.lstm(words.flatten(2))[0][:, -1])
        return logits
