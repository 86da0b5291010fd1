from __future__ import annotations

from tests.regularizers.cases import Row
from tests.regularizers.nets import LM, MLP, RESNET

ROWS = [
    Row("dropout", MLP, "output"),
    Row({"dropout": {"on": "layer[34]", "p": 0.3, "at": "output"}}, RESNET, "output"),
    Row(
        {"dropout": {"p": {"start": 0.5, "end": 0.1, "steps": 10}}},
        LM,
        "output",
        False,
        "dynamo does not trace LSTMs",
    ),
    Row({"dropout": {"p": 0.5, "scale": "at_test"}}, MLP, "output"),
]
