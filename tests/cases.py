"""One row (or more) an op: an independent oracle and the tolerance with its cause.

A catalogue class without a row fails tests/contract/test_contract.py. Rows are kept by
family, in tests/rows/<family>.py; this file only gathers them.
"""

from __future__ import annotations

import importlib
import pkgutil
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from augpipe.ops import catalogue
from augpipe.types import Array

Oracle = Callable[[Array, dict[str, Any]], Array]


@dataclass(frozen=True)
class Case:
    """A recipe item and what it must do.

    Args:
        item: The recipe item. Where an oracle takes fixed parameters, its ranges are [x, x].
        oracle: (image, drawn parameters) -> the expected image of an independent library or
            closed form. None only with a `why_no_oracle`.
        oracle_name: The library and function, or "closed form".
        tolerance: Largest (max, mean) difference in grey levels between the opencv backend
            and the oracle, inside `margin`.
        cause: Where that tolerance comes from.
        image: "rgb" or "grey".
        margin: Pixels at the border that the oracle treats otherwise (said in `cause`).
        parity: Largest (max, mean) difference between the opencv and the reference backend.
        parity_cause: Where that comes from.
        index: The sample index to draw at.
    """

    item: Any
    oracle: Oracle | None
    oracle_name: str = ""
    tolerance: tuple[float, float] = (0.0, 0.0)
    cause: str = "exact"
    image: str = "rgb"
    margin: int = 0
    parity: tuple[float, float] = (1.0, 0.5)
    parity_cause: str = "rounding to whole levels"
    index: int = 0
    why_no_oracle: str = ""

    @property
    def op(self) -> str:
        """The op's name."""
        return self.item if isinstance(self.item, str) else next(iter(self.item))

    @property
    def section(self) -> str:
        """Where the item stands: what mixes images stands in "batch"."""
        return catalogue()[self.op].sections[0]

    @property
    def id(self) -> str:
        """A short name for pytest."""
        return f"{self.op}-{self.image}-{zlib.crc32(repr(self.item).encode()) % 10000}"


def _rows() -> list[Case]:
    from tests import rows

    found: list[Case] = []
    for info in pkgutil.iter_modules(rows.__path__):
        found += importlib.import_module(f"tests.rows.{info.name}").ROWS
    return found


CASES = _rows()
