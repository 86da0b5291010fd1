"""The meaning `Latent` done to images: on a batch, on whatever device, or on one array."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from augpipe.errors import DataError
from augpipe.ir import Latent
from augpipe.learned.autoencoder import Autoencoder
from augpipe.learned.company import moved_in_class
from augpipe.learned.noise import noised
from augpipe.learned.probe import Probe
from augpipe.learned.weights import held, load_net
from augpipe.types import Array


def move(meaning: Latent, images: Tensor, labels: Tensor | None = None, key: str = "") -> Tensor:
    """Moves the images on which the meaning acts.

    Args:
        meaning: Of n images.
        images: (n, C, h, w), C 1, 3 or 4, uint8 or floats of grey levels 0..255; not changed.
        labels: (n,) classes, or (n, K) shares, where the meaning takes images of one class.
        key: What errors call the op.

    Returns:
        The like of `images`, rounded half to even where it is uint8.

    Raises:
        DataError: The weights cannot be read, or there are no classes and they are needed.
    """
    if meaning.company:
        return _in_company(meaning, images, labels, key)
    rows = np.flatnonzero(meaning.on & (meaning.amount > 0))
    if not len(rows) or not images[0].numel():
        return images
    at = torch.from_numpy(rows).to(images.device)
    given = images.index_select(0, at)
    strength = torch.from_numpy(meaning.amount[rows]).float().to(images.device)
    net, levels = _net_for(meaning, images), given[:, :3].float() / 255.0
    out = noised(net, levels, meaning.key[rows], strength, meaning.kind, meaning.delta)
    return images.index_copy(0, at, _kept(meaning, _back(out, given), given))


def _in_company(meaning: Latent, images: Tensor, labels: Tensor | None, key: str) -> Tensor:
    amount = np.where(meaning.on, meaning.amount, 0.0)
    if not amount.any() or len(images) < 2 or not images[0].numel():
        return images
    if labels is None:
        raise DataError(key, "needs the images' classes: give them as targets")
    classes = labels if labels.ndim == 1 else labels.argmax(dim=1)
    strength = torch.from_numpy(amount).float().to(images.device)
    out = moved_in_class(
        _net_for(meaning, images),
        images[:, :3].float() / 255.0,
        classes,
        meaning.key,
        strength,
        meaning.kind,
        meaning.neighbours,
        meaning.delta,
    )
    changed = torch.from_numpy(amount > 0).to(images.device)[:, None, None, None]
    return torch.where(changed, _kept(meaning, _back(out, images), images), images)


def _kept(meaning: Latent, done: Tensor, given: Tensor) -> Tensor:
    """Returns the given images where the probe, if there is one, does not surely see the same."""
    if not meaning.probe:
        return done
    judge = held(Probe, meaning.probe, str(done.device))
    (before, _), (after, sure) = (judge(each[:, :3].float() / 255.0) for each in (given, done))
    same = (before == after) & (sure >= meaning.confidence)
    return torch.where(same[:, None, None, None], done, given)


def _back(out: Tensor, given: Tensor) -> Tensor:
    """Returns levels of the given dtype, with the given alpha."""
    out = 255.0 * out
    out = (out.round() if given.dtype == torch.uint8 else out).to(given.dtype)
    return torch.cat([out, given[:, 3:]], dim=1)


def move_one(meaning: Latent, row: int, image: Array) -> Array:
    """Does row `row` of the meaning to one image (h, w) or (h, w, C), as `move` does."""
    deep = image if image.ndim == 3 else image[:, :, None]
    planes = torch.from_numpy(deep.transpose(2, 0, 1).copy())[None]  # it may be read-only
    out: Array = move(meaning.taking(np.array([row])), planes)[0].permute(1, 2, 0).numpy()
    return np.ascontiguousarray(out.reshape(image.shape))


def _net_for(meaning: Latent, images: Tensor) -> Autoencoder:
    return held(_net, meaning.model, str(images.device))


def _net(source: str, device: str) -> Autoencoder:
    return load_net(source, "autoencoder", Autoencoder)[0].to(device)
