from __future__ import annotations

from tests.regularizers.cases import Row
from tests.regularizers.nets import LM, MLP, NO_LSTM, RESNET, TRANSFORMER

CONVS = [["layer1.0.conv?.weight"]]

ROWS = [
    Row("share", TRANSFORMER, "weights"),  # its blocks start as copies
    Row({"share": {"tie": [["embedding.weight", "decoder.weight"]]}}, LM, "output", **NO_LSTM),
    Row({"share": {"tie": CONVS}}, RESNET, "output"),
    Row({"soft_share": {"tie": [["lstm.weight_?h_l?"]]}}, LM, "loss", **NO_LSTM),
    Row(
        {"soft_share": {"tie": CONVS, "strength": {"start": 1, "end": 0, "steps": 5}}},
        RESNET,
        "loss",
    ),
    Row("soft_share", TRANSFORMER, "nothing", why="its blocks start as copies"),
    Row({"soft_share": {"tie": [["0.bias", "2.bias"]], "to": "mean"}}, MLP, "loss"),
]
