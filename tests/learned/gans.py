"""What tests of the generator and of probes share."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from augpipe.learned.generator import Generator
from augpipe.learned.weights import load_net
from augpipe.pipeline import Pipeline, load
from tests.harness import ROOT

GARMENTS = ROOT / "samples" / "garments"
FILES = sorted(GARMENTS.rglob("*.png"))


def garments(count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images of all classes, and their numbers in the folder's order."""
    chosen = FILES[:: len(FILES) // count][:count]
    names = sorted({path.parent.name for path in FILES})
    arrays = [np.asarray(Image.open(path)) for path in chosen]
    numbers = torch.tensor([names.index(path.parent.name) for path in chosen])
    return torch.from_numpy(np.stack(arrays))[:, None], numbers


def pipe(**fields: Any) -> Pipeline:
    return load({"version": 1, "seed": 4, "batch": [{"gan_replace": fields}]})


def bundled() -> tuple[Generator, dict[str, Any]]:
    return load_net("bundled", "gan", Generator)
