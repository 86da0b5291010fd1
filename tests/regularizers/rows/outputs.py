from __future__ import annotations

from tests.regularizers.cases import Row
from tests.regularizers.nets import LM, MLP, NO_LSTM

ROWS = [
    Row("label_smoothing", MLP, "loss"),
    Row({"label_smoothing": 0.2}, LM, "loss", **NO_LSTM),
]
