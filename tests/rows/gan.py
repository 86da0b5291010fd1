"""The generator's op: its oracle stands in tests/learned/test_gan.py."""

from __future__ import annotations

from tests.cases import Case

WHY = "a network: tests/learned/test_gan.py"
ITEMS = [
    {"gan_replace": {"p": 0.5}},
    {"gan_replace": {"p": 0.5, "weight": 0.4, "truncation": 0.8, "epochs": [0, 3]}},
]
ROWS = [Case(item, None, why_no_oracle=WHY) for item in ITEMS]
