from __future__ import annotations

from tests.regularizers.cases import Row
from tests.regularizers.nets import RESNET

RISING = {"start": 0.3, "end": 0.5, "steps": 10}

ROWS = [
    Row({"dropblock": {"on": "layer[34]", "p": 0.3, "block_size": 7}}, RESNET, "output"),
    Row({"dropblock": {"p": RISING, "block_size": 2, "channels": "shared"}}, RESNET, "output"),
]
