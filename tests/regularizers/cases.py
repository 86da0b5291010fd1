"""One row (or more) a regularizer; a catalogue class without one fails the contract.

Rows are kept by family, in tests/regularizers/rows/<family>.py; this file gathers them. The
oracle tests of a family stand in tests/regularizers/test_<family>.py.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

from tests.regularizers.nets import Net


@dataclass(frozen=True)
class Row:
    """A regularizer on a network.

    Args:
        item: The recipe item.
        net: The network.
        changes: What is other than in the plain model after one step of training from the same
            seed: "output", "loss", "weights" (after the step), or "nothing" where the technique
            needs more than a step; then `why` says so.
        compiles: Whether the wrapped model compiles to one graph; `why` says why not.
        why: The reason for an exception.
    """

    item: Any
    net: Net
    changes: str
    compiles: bool = True
    why: str = ""

    @property
    def name(self) -> str:
        return self.item if isinstance(self.item, str) else next(iter(self.item))

    @property
    def id(self) -> str:
        fields = {} if isinstance(self.item, str) else self.item[self.name]
        said = (
            "-".join(f"{k}={v}" for k, v in fields.items()) if isinstance(fields, dict) else fields
        )
        return f"{self.name}-{self.net.name}-{said}".rstrip("-").replace(" ", "")[:90]


def _rows() -> list[Row]:
    from tests.regularizers import rows

    found: list[Row] = []
    for info in pkgutil.iter_modules(rows.__path__):
        found += importlib.import_module(f"tests.regularizers.rows.{info.name}").ROWS
    return found


ROWS = _rows()
