"""A classifier that says whether an image still shows what it did: the gate of learned ops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from augpipe.errors import DataError, UsageError, first_sentence
from augpipe.ir import LUMA
from augpipe.learned.weights import check_numbers
from augpipe.networks.building import build
from augpipe.tensors import read_tensors

ACTING = "effects."
"""What the tensors of techniques that act in `eval()` are called in a model's file."""
_LARGEST = 4096  # pixels a side


class Probe:
    """A network that `augpipe train` made, with the images made ready for it.

    Images of another size are resized to the one it was measured at (bilinear, antialiased); grey
    ones are repeated for a network of colours, colours become their grey for one of grey.

    Args:
        path: The model.safetensors of `augpipe train`.
        device: Where to compute.

    Raises:
        DataError: The file is no such model, or one that needs more than resized and normalized
            images.
    """

    def __init__(self, path: str | Path, device: str) -> None:
        self._path, self._tables = Path(path), dict[tuple[str, ...], Tensor]()
        tensors, about = read_tensors(self._path)
        try:
            self.classes: list[str] = list(json.loads(about["classes"]))
            self.channels = int(about["channels"])
            sees = json.loads(about["sees"])
            height, width = map(int, sees["size"])
            self._size = (height, width)
            mean, std = (
                torch.tensor(sees[name], dtype=torch.float32).view(-1, 1, 1)
                for name in ("mean", "std")
            )
            more = [*sees["after"], *({"regularizers"} if _acts(tensors) else ())]
            if not more:
                _check(self.channels, self._size, mean, std)
                with torch.device("meta"):  # takes no memory until it is seen to fit
                    self._net = build(about["model"], len(self.classes), self.channels)
                self._net.load_state_dict(tensors, assign=True)
        except (LookupError, ValueError, TypeError, RuntimeError, UsageError) as error:
            raise DataError(
                path, f"is not a model of augpipe train that can probe: {first_sentence(error)}"
            ) from None
        if more:
            raise DataError(
                path,
                f"sees images after {', '.join(more)}, which a probe does not do: train one whose "
                "recipe resizes, crops and normalizes only, where nothing is augmented",
            )
        check_numbers(self._path, tensors)
        self._mean, self._std = mean.to(device), std.to(device)
        self._net.eval().requires_grad_(False).to(device)

    def numbers(self, names: Sequence[str]) -> Tensor:
        """Returns (K,): the probe's number of each class, on its device.

        Raises:
            DataError: It does not know one of them.
        """
        own = tuple(names)
        if own not in self._tables:
            missing = [name for name in own if name not in self.classes]
            if missing:
                known = ", ".join(self.classes)
                raise DataError(
                    self._path, f"as a probe it knows no class {missing[0]!r}: it knows {known}"
                )
            found = [self.classes.index(name) for name in own]
            self._tables[own] = torch.tensor(found, device=self._mean.device)
        return self._tables[own]

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (n,) the class each image shows, and (n,) its probability.

        Args:
            images: (n, C, h, w) of one or three channels, in 0..1.
        """
        x = matched(images, self.channels, self._size)
        logits: Tensor = self._net((x - self._mean) / self._std)
        probability, classes = logits.softmax(dim=1).max(dim=1)
        return classes, probability


def _check(channels: int, size: tuple[int, int], mean: Tensor, std: Tensor) -> None:
    """Refuses what no training of ours writes."""
    if channels not in (1, 3):
        raise ValueError(f"it takes images of {channels} channels")
    if not all(1 <= each <= _LARGEST for each in size):
        raise ValueError(f"it takes images of {size[0]} × {size[1]}")
    fits = all(len(each) in (1, channels) and each.isfinite().all() for each in (mean, std))
    if not fits or not (std > 0).all():
        raise ValueError("it does not say how images are normalized")


def _acts(tensors: dict[str, Tensor]) -> bool:
    return any(name.startswith(ACTING) for name in tensors)


def matched(images: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Returns images (n, channels, *size): grey repeated or taken, bilinear and antialiased."""
    if images.shape[1] == 3 and channels == 1:
        images = (images * images.new_tensor(LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    elif images.shape[1] == 1 and channels == 3:
        images = images.expand(-1, 3, -1, -1)
    if tuple(images.shape[2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)
