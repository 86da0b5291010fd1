from __future__ import annotations

from tests.regularizers.cases import Row
from tests.regularizers.nets import RESNET, TRANSFORMER

FALLING = {"start": 0.9, "end": 0.1, "steps": 10}

ROWS = [
    Row({"stochastic_depth": {"p": 0.5, "mode": "uniform"}}, RESNET, "output"),
    Row({"stochastic_depth": {"on": "layer[34]", "p": 0.9, "per": "batch"}}, RESNET, "output"),
    Row({"stochastic_depth": {"p": FALLING}}, TRANSFORMER, "output"),
    Row({"shake_drop": {"p": 0.9, "mode": "uniform"}}, RESNET, "output"),
    Row({"shake_drop": {"p": 0.9, "per": "row", "beta": [0.5, 1.0]}}, TRANSFORMER, "output"),
]
