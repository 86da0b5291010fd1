"""Latent ops: their weights and their oracle stand in tests/learned/test_latent.py."""

from __future__ import annotations

from tests.cases import Case

NOISES = ("iid", "lowfreq", "style")
WHY = "a network: tests/learned/test_latent.py"
ITEMS = [
    *({"latent_noise": {"sigma": [0.2, 0.8], "noise": noise}} for noise in NOISES),
    {"latent_interpolate": {"lam": [0.2, 0.8], "neighbours": 2}},
    {"latent_extrapolate": {"lam": [0.2, 0.8]}},
    {"latent_class_resample": [0.2, 0.8]},
]
ROWS = [Case(item, None, why_no_oracle=WHY) for item in ITEMS]
