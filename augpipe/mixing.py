"""What mixing does."""

from __future__ import annotations

from augpipe.ir import Mix
from augpipe.kinds.batches import Batch


def mix(meaning: Mix, batch: Batch, rules: tuple[float, float]) -> Batch:
    """Mixes."""
    raise NotImplementedError
