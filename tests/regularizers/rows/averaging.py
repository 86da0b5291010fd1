from __future__ import annotations

from tests.regularizers.cases import Row
from tests.regularizers.nets import LM, MLP, NO_LSTM, RESNET

LATER = "the average is the model's at the end"
NO_LSTM_LATER = {**NO_LSTM, "why": f"{LATER}; {NO_LSTM['why']}"}

ROWS = [
    Row("ema", MLP, "nothing", why=LATER),
    Row({"ema": {"decay": {"start": 0.9, "end": 1.0, "steps": 5}}}, RESNET, "nothing", why=LATER),
    Row({"ema": {"decay": 0.99, "warmup": True}}, LM, "nothing", **NO_LSTM_LATER),
    Row({"swa": {"start": 0, "unit": "steps"}}, RESNET, "nothing", why=LATER),
    Row({"swa": 2}, MLP, "nothing", why=LATER),
]
