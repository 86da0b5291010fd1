"""What the meanings do to pixels: one sub-package a way of computing."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from augpipe.types import Array


def on_colours(image: Array, function: Callable[[Array], Array]) -> Array:
    """Calls a function on the colour channels; the alpha of an RGBA image stays as it is."""
    if image.shape[2] != 4:
        return function(image)
    colours = function(np.ascontiguousarray(image[:, :, :3]))
    return np.concatenate([colours, image[:, :, 3:]], axis=2)
