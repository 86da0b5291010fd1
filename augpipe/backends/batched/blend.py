"""Blend on a batch: chains of meanings, each done as if alone, and their weighted mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from augpipe.backends.batched.pieces import Own, Piece, Shape, apply
from augpipe.ir import Alone, Blend


def lower_blend(
    meaning: Blend, shape: Shape, lower: Callable[[Alone, Shape], list[list[Piece]]]
) -> list[Piece]:
    """Makes a blend ready: its chains are done only to the rows on which they have weight.

    Args:
        meaning: The blend.
        shape: The batch.
        lower: Makes the meanings in the chains ready.
    """
    weights = meaning.weights
    if not (weights[:, 0] != 1.0).any():
        return []
    inner = []
    for chain, share in zip(meaning.chains, weights.T[1:], strict=True):
        gated = (each.gate(share != 0.0) for each in chain)
        inner.append([pieces for each in gated for pieces in lower(each, shape)])

    def do(images: Tensor, own: Own) -> Tensor:
        (weights,) = own.arrays
        shares = weights[:, :, None, None, None].unbind(1)
        out = images.float() * shares[0]
        for chain, share in zip(own.inner, shares[1:], strict=True):
            part = images
            for sent in chain:
                part = apply(sent, part, own.at.start, own.at.stop)
            out = out + part.float() * share
        return out if images.dtype != torch.uint8 else out.round().clamp(0, 255).to(torch.uint8)

    # All rows, so that a place among the piece's rows is a place in the batch, as the chains'
    # pieces count. Where the image has all the weight it comes out to the bit.
    return [Piece(np.arange(shape.count), do, (weights,), inner=inner)]
