from __future__ import annotations

from tests.regularizers.cases import Row
from tests.regularizers.nets import MLP, RESNET

LATER = "it acts at the end of epochs"

ROWS = [
    Row("early_stopping", MLP, "nothing", why=LATER),
    Row(
        {"early_stopping": {"monitor": "val_acc", "patience": 2, "min_delta": 0.001}},
        RESNET,
        "nothing",
        why=LATER,
    ),
]
