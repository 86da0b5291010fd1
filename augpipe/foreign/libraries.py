"""The three libraries: what is public in them, which version is loaded."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import os
import warnings
from typing import Any

LIBRARIES = ("albumentations", "torchvision", "kornia")
SECTIONS: dict[str, tuple[str, ...]] = {
    "albumentations": ("sample",),  # NumPy images, one at a time
    "torchvision": ("sample", "batch"),
    "kornia": ("batch",),  # BCHW tensors
}
"""Where each library's transforms may stand."""

_MODULES = {
    "albumentations": "albumentations",
    "torchvision": "torchvision.transforms.v2",
    "kornia": "kornia.augmentation",
}
_ONLY = {"albumentations": "2.0.8"}  # its successor, another library, has the import name too


class Unavailable(ImportError):  # noqa: N818
    """A library that is not there, or not the one that is known here."""


def library_of(name: str) -> str | None:
    """Returns the library of "kornia.RandomPlasmaShadow", None where it names none."""
    library, point, own = name.partition(".")
    return library if library in LIBRARIES and point and own else None


def load(library: str) -> Any:
    """Imports a library's module of transforms.

    Raises:
        Unavailable: It is not installed, or another library has its import name.
    """
    # Without it albumentations asks the package index for its newest version.
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = importlib.import_module(_MODULES[library])
    except ImportError as error:
        raise Unavailable(f"{library} cannot be imported: {error}") from error
    only, loaded = _ONLY.get(library), version(library)
    if only and loaded != only:
        maker = _distribution(library)
        raise Unavailable(f"known here is {library} {only}; loaded is {maker} {loaded}")
    return module


def version(library: str) -> str:
    """Returns the version of the library that is loaded."""
    return str(importlib.import_module(library).__version__).partition("+")[0]


def _distribution(library: str) -> str:
    """Returns the name of the distribution that an import name comes from."""
    return ", ".join(importlib.metadata.packages_distributions().get(library, [library]))


def public(library: str) -> dict[str, type]:
    """Returns every public class of transforms, whatever its kind, by its name."""
    module = load(library)
    if library == "albumentations":
        from albumentations.core.composition import BaseCompose

        base: tuple[type, ...] = (module.BasicTransform, BaseCompose)
    else:
        from torch.nn import Module

        base = (Module,)
    everything = dict(vars(module))
    if library == "kornia":
        policies = importlib.import_module("kornia.augmentation.auto")
        everything |= {name: getattr(policies, name) for name in policies.__all__}
    return {
        name: cls
        for name, cls in sorted(everything.items())
        if not name.startswith("_") and inspect.isclass(cls) and issubclass(cls, base)
    }


def transform_class(name: str) -> type:
    """Returns the class of a transform named with its library.

    Raises:
        Unavailable: The library, or the transform in the version that is loaded, is not there.
    """
    library, _, own = name.partition(".")
    found = public(library).get(own)
    if found is None:
        raise Unavailable(f"{library} {version(library)} has no {own}")
    return found
