from __future__ import annotations

from tests.regularizers.cases import Row
from tests.regularizers.nets import LM, NO_LSTM, TRANSFORMER

SCHEDULE = {"start": 0.5, "end": 0.1, "steps": 9}

ROWS = [
    Row("variational_dropout", LM, "output", **NO_LSTM),
    Row({"variational_dropout": {"at": "input", "p": SCHEDULE}}, LM, "output", **NO_LSTM),
    Row({"embedding_dropout": 0.3}, LM, "output", **NO_LSTM),
    Row({"embedding_dropout": {"p": SCHEDULE}}, LM, "output", **NO_LSTM),
    Row("attention_dropout", TRANSFORMER, "output"),
    Row({"attention_dropout": {"p": SCHEDULE}}, TRANSFORMER, "output"),
]
