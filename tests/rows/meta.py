"""The augmentation network's op: its oracle stands in tests/learned/test_meta.py."""

from __future__ import annotations

from tests.cases import Case

WHY = "a network: tests/learned/test_meta.py"
ITEMS = [{"meta": {"p": 0.5}}]
ROWS = [Case(item, None, why_no_oracle=WHY) for item in ITEMS]
