"""Declarative image augmentation: one recipe in a DataLoader, on a batch, and on disk."""

from __future__ import annotations

__version__ = "0.1.0"
