"""The meaning `Taught` done to a batch: images that an augmentation network augments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from augpipe.errors import DataError
from augpipe.ir import Taught
from augpipe.learned.augmentation import LATENTS, PARTS, AugmentationNetwork
from augpipe.learned.noise import normals
from augpipe.learned.probe import Probe, matched
from augpipe.learned.weights import held, load_net
from augpipe.targets import Batch
from augpipe.types import Words


class NamedNetwork:
    """An augmentation network with the names of its classes, on a device."""

    def __init__(self, model: str, device: str) -> None:
        self.net, about = load_net(model, "meta", AugmentationNetwork)
        names = about.get("classes")
        if not isinstance(names, list) or len(names) != self.net.classes:
            raise DataError(model, "does not say what each of its classes is called")
        if self.net.channels not in (1, 3):
            raise DataError(model, f"takes images of {self.net.channels} channels, not grey or RGB")
        self.names = [str(each) for each in names]
        self.net.to(device)
        self._device = device
        self._tables: dict[tuple[str, ...], Tensor] = {}

    def numbers(self, names: Sequence[str]) -> Tensor:
        """Returns (K + 1,): the network's number of each of a dataset's classes, then of none."""
        own = tuple(names)
        if own not in self._tables:
            none = len(self.names)
            found = [self.names.index(each) if each in self.names else none for each in own]
            self._tables[own] = torch.tensor([*found, none], device=self._device)
        return self._tables[own]

    @torch.no_grad()
    def make(self, images: Tensor, classes: Tensor, keys: Words) -> Tensor:
        """Returns augmented images in 0..1."""
        drawn = normals(keys, images, (LATENTS + len(PARTS),))
        gates = torch.special.ndtr(drawn[:, LATENTS:]).clamp(1e-6, 1 - 1e-6)
        out: Tensor = self.net(images, classes, drawn[:, :LATENTS], gates).images
        return out


def taught(meaning: Taught, batch: Batch, key: str) -> Batch:
    """Puts augmented images in the place of those on which the meaning acts.

    Args:
        meaning: Of n images.
        batch: Its images uint8, or floats of grey levels 0..255, C 1, 3 or 4; not changed.
        key: What errors call the op.

    Raises:
        DataError: The weights cannot be read, or are of grey images where these are RGB.
    """
    images = batch.images
    rows = np.flatnonzero(meaning.on)
    if not len(rows) or not images[0].numel():
        return batch
    device = images.device
    network = held(NamedNetwork, meaning.model, str(device))
    at = torch.from_numpy(rows).to(device)
    given = images.index_select(0, at)
    shown = given[:, :3].float() / 255.0
    wanted, have = network.net.channels, shown.shape[1]
    if wanted < have:
        raise DataError(key, f"{meaning.model} was fitted to grey images, these are RGB")
    size = (images.shape[2], images.shape[3])
    names, own = _classes(network, batch, at)
    made = network.make(
        matched(shown, wanted, size), network.numbers(names)[own], meaning.key[rows]
    )
    levels = 255.0 * matched(made, have, size)
    levels = (levels.round() if given.dtype == torch.uint8 else levels).to(given.dtype)
    if meaning.probe:
        judge = held(Probe, meaning.probe, str(device))
        (before, _), (after, sure) = (judge(each) for each in (shown, levels.float() / 255.0))
        kept = (before == after) & (sure >= meaning.confidence)
        levels = torch.where(kept[:, None, None, None], levels, given[:, :3])
    done = torch.cat([levels, given[:, 3:]], dim=1)
    return replace(batch, images=images.index_copy(0, at, done))


def _classes(network: NamedNetwork, batch: Batch, at: Tensor) -> tuple[Sequence[str], Tensor]:
    """Returns the classes' names and (m,) which of them each image has; their count is none."""
    names = batch.names if batch.names is not None else network.names
    if batch.labels is None:
        return names, torch.full_like(at, len(names))
    labels = batch.labels.index_select(0, at)
    own = labels if labels.ndim == 1 else labels.argmax(dim=1)
    there = (own >= 0) & (own < len(names))
    if labels.ndim == 2:
        there = there & (labels.amax(dim=1) > 0)
    return names, torch.where(there, own, len(names))
