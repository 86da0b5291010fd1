from __future__ import annotations

from torch import nn

from tests.regularizers.cases import Row
from tests.regularizers.nets import (
    CLASSES,
    LM,
    MLP,
    NO_LSTM,
    RESNET,
    Net,
    drawn,
    picked,
    seeded,
)


def _noisy() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 5)
    )


NOISY = Net("noisy", lambda: seeded(_noisy), lambda: drawn(8, 6), lambda: picked(CLASSES, 8))

ROWS = [
    Row("label_smoothing", MLP, "loss"),
    Row({"label_smoothing": 0.2}, LM, "loss", **NO_LSTM),
    Row("confidence_penalty", MLP, "loss"),
    Row({"confidence_penalty": {"beta": {"start": 1, "end": 0, "steps": 4}}}, RESNET, "loss"),
    Row("r_drop", NOISY, "loss"),
    Row("r_drop", MLP, "nothing", why="without noise both runs say the same"),
]
