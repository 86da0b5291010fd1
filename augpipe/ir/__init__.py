"""The meanings: what an op's draws say will happen, before any pixel is touched.

Each is a value that holds the parameters of n images (arrays with a leading n) and knows a
little algebra: `gate(on)` is the identity where `on` is false; `a.then(b)` is "a, and then
b" as one meaning, where there is such a thing. Backends and targets are the only readers.
"""

from __future__ import annotations

from augpipe.ir.combined import Blend, Cloud, Foreign, Generated, Latent, Mix, Objects, Taught
from augpipe.ir.geometry import Basis, Flow, Warp, basis, frame_lines, keeps_axes, rect, smooth
from augpipe.ir.pixels import (
    LUMA,
    Codec,
    Color,
    Curve,
    CurveKind,
    Histogram,
    Kernel,
    Median,
    Noise,
    NoiseKind,
    Normalize,
    Regions,
)
from augpipe.types import Frame

Pixelwise = Color | Curve | Histogram | Kernel | Median | Regions | Noise | Codec | Normalize
"""What leaves pixels where they are."""
Alone = Warp | Flow | Pixelwise | Blend
"""What one image is enough for, and a backend does."""
Meaning = Alone | Foreign | Generated | Latent | Mix | Taught
NETWORKS = (Generated, Latent, Taught)
"""What a network of learned weights does."""
WHOLE = (*NETWORKS, Foreign, Mix)
"""What takes the images themselves: no backend's pass over pixels."""

__all__ = [
    "LUMA",
    "NETWORKS",
    "WHOLE",
    "Alone",
    "Basis",
    "Blend",
    "Cloud",
    "Codec",
    "Color",
    "Curve",
    "CurveKind",
    "Flow",
    "Foreign",
    "Generated",
    "Histogram",
    "Kernel",
    "Latent",
    "Meaning",
    "Median",
    "Mix",
    "Noise",
    "NoiseKind",
    "Normalize",
    "Objects",
    "Pixelwise",
    "Regions",
    "Taught",
    "Warp",
    "basis",
    "frame_lines",
    "keeps_axes",
    "leaves_levels",
    "rect",
    "size_after",
    "smooth",
]


def leaves_levels(meaning: Meaning) -> bool:
    """Returns whether what comes out is no longer grey levels."""
    return isinstance(meaning, Normalize) or getattr(meaning, "norm", None) is not None


def size_after(meaning: Meaning, frame: Frame) -> Frame:
    """Returns the frame that the next op will see."""
    return Frame(meaning.size) if isinstance(meaning, Warp) else frame
