"""What the meanings share: an image is either touched or it is not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from augpipe.types import Bools


def pick(on: Bools, yes: np.ndarray, no: np.ndarray) -> np.ndarray:
    """Picks rows of `yes` where `on`, else of `no`."""
    return np.where(on.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)


@dataclass(frozen=True, slots=True)
class Gated:
    """What is either done to an image or not."""

    on: Bools

    def gate(self, on: Bools) -> Self:
        """Returns this where `on`, the identity elsewhere."""
        return replace(self, on=self.on & on)
