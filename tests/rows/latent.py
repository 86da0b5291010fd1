"""Latent ops: their weights and their oracle stand in tests/learned/test_latent.py."""

from __future__ import annotations

from tests.cases import Case

WHY = "a network: tests/learned/test_latent.py"
ROWS = [
    Case({"latent_noise": {"sigma": [0.2, 0.8], "noise": noise}}, None, why_no_oracle=WHY)
    for noise in ("iid", "lowfreq", "style")
]
