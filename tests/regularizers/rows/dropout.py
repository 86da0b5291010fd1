from __future__ import annotations

from tests.regularizers.cases import Row
from tests.regularizers.nets import LM, MLP, NO_LSTM, RESNET, TRANSFORMER

FALLING = {"start": 0.5, "end": 0.1, "steps": 10}

ROWS = [
    Row("dropout", MLP, "output"),
    Row({"dropout": {"on": "layer[34]", "p": 0.3, "at": "output"}}, RESNET, "output"),
    Row({"dropout": {"p": FALLING}}, LM, "output", **NO_LSTM),
    Row({"dropout": {"p": 0.5, "scale": "at_test"}}, MLP, "output"),
    Row("gaussian_dropout", MLP, "output"),
    Row(
        {"gaussian_dropout": {"on": "**.linear1", "p": FALLING, "at": "output"}},
        TRANSFORMER,
        "output",
    ),
    Row({"spatial_dropout": {"p": FALLING}}, RESNET, "output"),
    Row(
        {"spatial_dropout": {"on": "embedding", "at": "output", "channels": "last"}},
        LM,
        "output",
        **NO_LSTM,
    ),
    Row("standout", MLP, "output"),
    Row({"standout": {"on": "**.linear1", "alpha": 0.5, "beta": FALLING}}, TRANSFORMER, "output"),
    Row({"standout": {"on": "layer4.0.conv1", "beta": 1}}, RESNET, "output"),
]
