"""Other libraries' transforms, behind one interface: albumentations, torchvision, Kornia.

`libraries` finds a transform, `signature` declares its arguments, `adapter_of` makes what the
meaning `ir.Foreign` holds, and `facts` says what a walk over all of them found. A library is
imported when one of its names is looked up, not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from augpipe.foreign.adapter import Adapter
from augpipe.foreign.facts import Facts, facts
from augpipe.foreign.libraries import LIBRARIES, SECTIONS, library_of, transform_class

__all__ = [
    "LIBRARIES",
    "SECTIONS",
    "Adapter",
    "Facts",
    "adapter_of",
    "facts",
    "library_of",
    "transform_class",
]


def adapter_of(name: str, arguments: Mapping[str, Any]) -> Adapter:
    """Returns the adapter of a transform.

    Args:
        name: With its library: "kornia.RandomPlasmaShadow".
        arguments: The constructor's, as a recipe holds them; `p` is not among them.
    """
    match library_of(name):
        case "albumentations":
            from augpipe.foreign.albumentations import Albumentations

            return Albumentations(name, arguments)
        case "torchvision":
            from augpipe.foreign.torchvision import Torchvision

            return Torchvision(name, arguments)
        case "kornia":
            from augpipe.foreign.kornia import Kornia

            return Kornia(name, arguments)
    raise ValueError(name)
