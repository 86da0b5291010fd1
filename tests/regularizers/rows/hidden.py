from __future__ import annotations

from tests.regularizers.cases import Row
from tests.regularizers.nets import LM, MLP, NO_LSTM, RESNET, TRANSFORMER

ROWS = [
    Row("isda", MLP, "loss"),
    Row({"isda": {"covariance": "diagonal"}}, LM, "loss", **NO_LSTM),
    Row({"isda": {"on": "head", "strength": 2.0}}, TRANSFORMER, "loss"),
    Row("manifold_mixup", MLP, "output"),
    Row({"manifold_mixup": {"on": "layer[12]", "at": "output", "input": False}}, RESNET, "output"),
    Row(
        {"manifold_mixup": {"alpha": {"start": 0.2, "end": 2, "steps": 5}}}, LM, "output", **NO_LSTM
    ),
    Row("manifold_mixup", TRANSFORMER, "output"),
]
