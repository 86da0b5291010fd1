from __future__ import annotations

from tests.regularizers.cases import Row
from tests.regularizers.nets import LM, MLP, NO_LSTM, RESNET, TRANSFORMER

ROWS = [
    Row("sam", MLP, "weights"),
    Row({"sam": {"rho": 0.1, "on": "**.conv2"}}, RESNET, "weights"),
    Row({"sam": {"rho": 1.0, "adaptive": True}}, TRANSFORMER, "weights"),
    Row({"gradient_clipping": 0.01}, MLP, "weights"),
    Row({"gradient_clipping": {"limit": 0.001, "by": "value"}}, LM, "weights", **NO_LSTM),
    Row("gradient_noise", MLP, "weights"),
    Row(
        {"gradient_noise": {"eta": {"start": 0.3, "end": 0.1, "steps": 5}, "on": "lstm"}},
        LM,
        "weights",
        **NO_LSTM,
    ),
]
