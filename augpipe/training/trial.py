"""What is tried before a training begins: whether network, images and checkpoint fit together."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn

from augpipe.errors import DataError, UsageError, first_sentence
from augpipe.recipe import Recipe
from augpipe.tensors import load_tree
from augpipe.training.data import AugmentedData

_NO_CHECKPOINT = "is not a checkpoint of a training; remove it to begin anew"
_PARTS = ("state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks")


def try_out(net: nn.Module, recipe: Recipe, data: AugmentedData) -> None:
    """Shows the network two images as training does, and two as a test does.

    Raises:
        UsageError: It does not take them, or the two differ in size.
    """
    trained, measured = data.first_images()
    if trained.shape[1:] != measured.shape[1:]:
        raise UsageError(
            f"training sees images of {_size(trained)}, validation and test of {_size(measured)}: "
            "what chooses the size among the ops is left out there; end with a resize"
        )
    net = copy.deepcopy(net)  # batch statistics take part
    with torch.random.fork_rng(), torch.no_grad():
        for images, training in ((trained, True), (measured, False)):
            try:
                net.train(training)(images)
            except (RuntimeError, AssertionError, ValueError, IndexError, TypeError) as error:
                raise UsageError(
                    f"{recipe.train.model} does not take images of {_size(images)}: "
                    f"{first_sentence(error) or type(error).__name__}; add a resize, or take "
                    "another network"
                ) from error


def _size(images: Tensor) -> str:
    return f"{images.shape[2]} x {images.shape[3]}"


class Done(NamedTuple):
    """How far a run came."""

    epochs: int
    seconds: float


def check_fits(path: Path, module: LightningModule, devices: int) -> Done:
    """Refuses a checkpoint that is not of such a run; returns how far that came.

    Raises:
        DataError: It is of another network, or of no training at all.
        UsageError: It was made on another number of devices.
    """
    tree, about = load_tree(path)
    if not isinstance(tree, dict) or not all(name in tree for name in _PARTS):
        raise DataError(path, _NO_CHECKPOINT)
    had = about.get("devices", str(devices))
    if had != str(devices):
        raise UsageError(
            f"{path.parent.parent}: holds a run on {had} devices, which cannot go on on {devices}"
        )
    own = {name: each.shape for name, each in module.state_dict().items()}
    kept = tree["state_dict"]
    kept = kept if isinstance(kept, dict) else {}
    if own != {name: getattr(each, "shape", None) for name, each in kept.items()}:
        raise DataError(path, "holds another network's weights; remove it to begin anew")
    try:
        return Done(int(tree["epoch"]) + 1, float(about.get("seconds", 0)))
    except (KeyError, TypeError, ValueError):
        raise DataError(path, _NO_CHECKPOINT) from None
