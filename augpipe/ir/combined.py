"""Meanings made of others, or of other images: blends, mixes, and what other libraries do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from augpipe.ir.gating import Gated, pick
from augpipe.types import Bools, Floats, Ints, Words

if TYPE_CHECKING:
    from augpipe.ir import Alone


@dataclass(frozen=True, slots=True)
class Blend:
    """A weighted mean of an image and of what chains of meanings make of it.

    out = weights[0] v + sum_k weights[k + 1] chain_k(v), rounded once.

    Args:
        chains: Each a run of meanings, done one after another; none changes the size.
        weights: (n, 1 + number of chains), rows that sum to 1.
    """

    chains: tuple[tuple[Alone, ...], ...]
    weights: Floats

    def gate(self, on: Bools) -> Blend:
        """Returns this where `on`, the identity elsewhere."""
        alone = np.zeros(self.weights.shape[1])
        alone[0] = 1.0
        return replace(self, weights=pick(on, self.weights, alone))


@dataclass(frozen=True, slots=True)
class Foreign(Gated):
    """What a transform of another library does, seeded image by image.

    Args:
        transform: The transform's adapter (ops/foreign.py).
        key: (n,), the seeds.
    """

    transform: Any
    key: Words


@dataclass(frozen=True, slots=True)
class Mix:
    """Other images of the batch laid over each image, layer over layer.

    out = v; then for each layer k: out += opacity[k] inside_k (layer_k - out), where layer_k
    is image partner[k], read bilinearly at matrix[k], and inside_k is 1 within box[k].

    Args:
        partner: (n, m), rows of the batch.
        matrix: (n, m, 3, 3), output to the partner's pixels, continuous coordinates.
        box: (n, m, 4), x0, y0, x1, y1 in whole pixels of the output.
        opacity: (n, m), 0 to 1; 0 where nothing is mixed.
    """

    partner: Ints
    matrix: Floats
    box: Ints
    opacity: Floats

    def gate(self, on: Bools) -> Mix:
        """Returns this where `on`, the identity elsewhere."""
        return replace(self, opacity=pick(on, self.opacity, np.zeros(())))
