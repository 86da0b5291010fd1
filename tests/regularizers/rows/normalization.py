from __future__ import annotations

from tests.regularizers.cases import Row
from tests.regularizers.nets import MLP, RESNET, TRANSFORMER

ROWS = [
    Row("batch_norm", MLP, "output"),
    Row({"batch_norm": {"on": "encoder.layers.*.linear1"}}, TRANSFORMER, "output"),
    Row({"batch_norm": {"on": ["layer1.**.conv1", "fc"]}}, RESNET, "output"),
    Row({"ghost_batch_norm": 2}, RESNET, "output"),
    Row({"ghost_batch_norm": 3}, RESNET, "output"),
    Row("ghost_batch_norm", RESNET, "nothing", why="the batch is smaller than the size"),
    Row("freeze_batch_norm", RESNET, "output"),
    Row({"freeze_batch_norm": {"on": "bn1", "affine": True}}, RESNET, "output"),
    Row(
        {"freeze_batch_norm": {"after": 1}},
        RESNET,
        "nothing",
        why="the layers learn for a step",
    ),
    Row("spectral_norm", MLP, "output"),
    Row({"spectral_norm": {"on": "Conv2d", "bound": 2, "when": "above"}}, RESNET, "output"),
    Row({"spectral_norm": {"iterations": 2}}, TRANSFORMER, "output"),
]
