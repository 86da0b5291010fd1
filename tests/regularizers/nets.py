"""Small networks of the kinds that regularizers act on, and a batch for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, ResNet

CLASSES = 5


class LanguageModel(nn.Module):
    """An LSTM language model: (n, t) words in, (n, K, t) logits out."""

    def __init__(self, words: int = 11, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.decoder = nn.Linear(width, words)

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.lstm(self.embedding(x))[0]).transpose(1, 2)


class Transformer(nn.Module):
    """torch's TransformerEncoder on (n, t, d), its first place classified."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x)[:, 0])


@dataclass(frozen=True)
class Net:
    """A network and its data.

    Args:
        build: Makes it.
        inputs: Makes a batch of inputs.
        targets: Makes the targets for it.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    targets: Callable[[], Tensor]


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = make()
        for each in model.modules():  # running statistics that are not those of a new network
            if isinstance(each, nn.modules.batchnorm._BatchNorm):
                nn.init.normal_(each.running_mean)
                nn.init.uniform_(each.running_var, 0.5, 2.0)
                nn.init.normal_(each.weight)
    return model


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2))


def picked(high: int, *shape: int) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(3))


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 5)
    )


MLP = Net("mlp", lambda: seeded(_mlp), lambda: drawn(8, 6), lambda: picked(CLASSES, 8))
RESNET = Net(
    "resnet",
    lambda: seeded(lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=CLASSES)),
    lambda: drawn(4, 3, 64, 64),
    lambda: picked(CLASSES, 4),
)
LM = Net("lm", lambda: seeded(LanguageModel), lambda: picked(11, 4, 7), lambda: picked(11, 4, 7))
TRANSFORMER = Net(
    "transformer", lambda: seeded(Transformer), lambda: drawn(4, 7, 8), lambda: picked(CLASSES, 4)
)

NO_LSTM: dict[str, Any] = {"compiles": False, "why": "dynamo does not trace LSTMs"}
