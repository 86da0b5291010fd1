from __future__ import annotations

from tests.regularizers.cases import Row
from tests.regularizers.nets import LM, MLP, NO_LSTM, RESNET, TRANSFORMER

ROWS = [
    Row("l2", MLP, "loss"),
    Row({"l2": {"strength": {"start": 1e-3, "end": 0, "steps": 5}}}, LM, "loss", **NO_LSTM),
    Row("weight_decay", MLP, "weights"),
    Row({"weight_decay": {"strength": {"start": 0.1, "end": 0, "steps": 5}}}, RESNET, "weights"),
    Row({"l1": 1e-3}, MLP, "weights"),
    Row({"l1": {"on": "decoder", "strength": 0.1}}, LM, "weights", **NO_LSTM),
    Row({"elastic_net": {"strength": 1e-2, "l1_ratio": 0.3}}, TRANSFORMER, "weights"),
    Row({"group_lasso": {"on": "Conv2d", "strength": 1e-2}}, RESNET, "weights"),
    Row({"group_lasso": {"strength": 1e-2, "groups": "columns"}}, MLP, "weights"),
    Row("orthogonality", RESNET, "loss"),
    Row({"orthogonality": {"variant": "spectral", "strength": 0.1}}, MLP, "loss"),
]
