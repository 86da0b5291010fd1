from __future__ import annotations

from tests.regularizers.cases import Row
from tests.regularizers.nets import LM, MLP, NO_LSTM, RESNET, TRANSFORMER

ROWS = [
    Row("drop_connect", MLP, "output"),
    Row({"drop_connect": {"on": "encoder.layers.*.linear1", "p": 0.2}}, TRANSFORMER, "output"),
    Row({"drop_connect": {"on": "layer[34].**.conv2", "mask": "batch"}}, RESNET, "output"),
    Row({"drop_connect": {"on": "layer4.**.conv1", "p": 0.1}}, RESNET, "output"),
    Row({"drop_connect": {"at_test": "gaussian"}}, MLP, "output"),
    Row(
        {"drop_connect": {"p": {"start": 0.0, "end": 0.5, "steps": 2, "shape": "step"}}},
        MLP,
        "nothing",
        why="the rate is 0 at first",
    ),
    Row("weight_drop", LM, "output", **NO_LSTM),
    Row({"weight_drop": {"p": {"start": 0.5, "end": 0.1, "steps": 9}}}, LM, "output", **NO_LSTM),
]
