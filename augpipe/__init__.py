"""Declarative image augmentation: one recipe in a DataLoader, on a batch, and on disk.

    import augpipe

    pipe = augpipe.load("configs/quickstart.yaml")
    image = pipe(image, index=3, epoch=0)

What stands here is loaded on first use: importing the package loads neither torch nor OpenCV.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from augpipe.errors import AugpipeError as AugpipeError
    from augpipe.errors import DataError as DataError
    from augpipe.errors import RecipeError as RecipeError
    from augpipe.errors import UsageError as UsageError
    from augpipe.expansion import convert as convert
    from augpipe.expansion import expand as expand
    from augpipe.expansion import verify as verify
    from augpipe.pipeline import Pipeline as Pipeline
    from augpipe.pipeline import load as load
    from augpipe.training.comparing import compare as compare
    from augpipe.training.models import load_model as load_model
    from augpipe.training.running import train as train
    from augpipe.wrapping import regularize as regularize

__version__ = "0.1.0"

_HOMES = {
    "AugpipeError": "errors",
    "DataError": "errors",
    "Pipeline": "pipeline",
    "RecipeError": "errors",
    "UsageError": "errors",
    "compare": "training.comparing",
    "convert": "expansion",
    "expand": "expansion",
    "load": "pipeline",
    "load_model": "training.models",
    "regularize": "wrapping",
    "train": "training.running",
    "verify": "expansion",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'augpipe' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(f"augpipe.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
