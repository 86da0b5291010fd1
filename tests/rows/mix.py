"""Mixing: it takes a batch, so that its oracles stand with it in tests/unit/test_mix.py."""

from __future__ import annotations

from typing import Any

from tests.cases import Case

WHY = "needs a batch: tests/unit/test_mix.py"


def row(item: Any) -> Case:
    return Case(item, None, why_no_oracle=WHY)


ROWS = [
    *(row({"mixup": {"alpha": 0.4, "mode": mode}}) for mode in ("batch", "pair", "element")),
    row("cutmix"),
    row({"cutmix": {"mode": "element"}}),
    row({"mixup_or_cutmix": {"mode": "element", "switch_prob": 0.3}}),
    row({"resizemix": {"scale": [0.2, 0.5]}}),
    row({"fmix": {"decay": 2.5}}),
    row({"mosaic": {"center": [0.3, 0.7], "scale": [0.4, 1.5]}}),
    row({"copy_paste": {"objects": 0.8, "scale": [0.5, 1.5], "flip": 0.25}}),
]
