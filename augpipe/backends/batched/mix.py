"""Mix on a batch: images, masks and labels, of the rows where anything is mixed.

The host knows which rows those are, so that nothing is asked of the device. All layers read
the images as they were. With a_k the opacity of layer k where it lies, else 0:

- images: out = (1 - sum a_k) v + sum a_k layer_k in float32, rounded once, half to even;
- masks of floats: the same, and exactly one of the two where the opacity is 0 or 1;
- masks of integers (classes): the layer where a_k > 1/2, else what was there;
- instance masks go with their objects: both images' are kept, an image's own cleared where a
  layer covers it fully, a layer's cleared outside the layer;
- labels: the same sum, with each layer's share of the image's area for a_k.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from augpipe.backends.batched.pieces import Own, Piece, Sent, Shape, apply, chunks, layout, send
from augpipe.backends.batched.reading import comparable
from augpipe.backends.batched.warp import lower_warp
from augpipe.ir import Cloud, Mix, smooth
from augpipe.rng import normal_field
from augpipe.types import Array, Bools, Ints

_HIGHEST = 32  # cycles a side


@dataclass(frozen=True, slots=True)
class Layers:
    """A mix of k rows of a batch, on its device.

    Args:
        rows: (k,), which rows.
        partner: (k, m), rows of the batch.
        box: (k, m, 4), in whole pixels.
        opacity: (k, m).
        views: What reads the partners' pixels, a layer each, by name; "" names the images.
        cover: (k, 1, H, W), what the only layer is cut to; None for its box alone.
        extra: What else was sent.
    """

    rows: Tensor
    partner: Tensor
    box: Tensor
    opacity: Tensor
    views: Mapping[str, Sequence[Sequence[Sent]]]
    cover: Tensor | None
    extra: tuple[Tensor, ...]

    def inside(self, layer: int, start: int, stop: int, size: Sequence[int]) -> Tensor:
        """Returns (stop - start, 1, H, W): where a layer of some rows lies."""
        x0, y0, x1, y1 = self.box[start:stop, layer, :, None, None].unbind(1)
        x = torch.arange(size[1], device=self.box.device)
        y = torch.arange(size[0], device=self.box.device)[:, None]
        inside = (((x >= x0) & (x < x1)) & ((y >= y0) & (y < y1)))[:, None]
        return inside if self.cover is None else inside & self.cover[start:stop]

    def alpha(self, layer: int, start: int, stop: int, size: Sequence[int]) -> Tensor:
        """Returns (stop - start, 1, H, W): the opacity of a layer where it lies, else 0."""
        opacity = self.opacity[start:stop, layer, None, None, None]
        return self.inside(layer, start, stop, size) * opacity

    def view(self, name: str, layer: int, source: Tensor, start: int, stop: int) -> Tensor:
        """Returns what a layer of some rows shows of the partners' images or masks."""
        partners = source.index_select(0, self.partner[start:stop, layer])
        read = partners.float() if name == "" else partners
        return apply(self.views[name][layer], read, start, stop)


def prepare(
    meaning: Mix,
    rows: Ints,
    images: Tensor,
    masks: Mapping[str, Tensor],
    cover: Bools | None,
    extra: Sequence[Array] = (),
    heatmaps: Collection[str] = (),
) -> Layers:
    """Sends a mix to the device, in one copy.

    Args:
        meaning: Of the k rows.
        rows: (k,), which rows of the batch they are.
        images: (n, C, H, W).
        masks: By name, each (n, m, H, W).
        cover: (k, H, W), what the only layer is cut to, where the host knows it.
        extra: What else is needed there.
        heatmaps: Which of the masks are heat maps.
    """
    height, width = images.shape[2:]
    shape = Shape(len(rows), images.shape[1], height, width)
    views = meaning.views((height, width), cut=False)
    programs = {"": [lower_warp(view, shape) for view in views]}
    for name, each in masks.items():
        own = replace(shape, channels=each.shape[1])
        smoothly = name in heatmaps
        maps = [replace(view, sampling=smooth(view.sampling)) for view in views]
        programs[name] = [
            lower_warp(view, own, mask=not smoothly) for view in (maps if smoothly else views)
        ]
    covers = () if cover is None else (cover[:, None],)
    held = (meaning.partner, meaning.box, meaning.opacity, *covers, *extra)
    flat = [pieces for program in programs.values() for pieces in program]
    arrived = send([*flat, [Piece(rows, _nothing, shared=held)]], images.device)
    (carrier,) = arrived.pop()
    partner, box, opacity, *others = carrier.shared
    sent = iter(arrived)
    return Layers(
        carrier.index,
        partner,
        box,
        opacity,
        {name: [next(sent) for _ in program] for name, program in programs.items()},
        others.pop(0) if covers else None,
        tuple(others),
    )


def _nothing(images: Tensor, own: Own) -> Tensor:
    return images


def mix_images(layers: Layers, images: Tensor) -> Tensor:
    """Mixes images (n, C, H, W), uint8 or float32 levels."""
    size, parts = images.shape[2:], []
    for start, stop in _chunks(layers, images):
        out = images.index_select(0, layers.rows[start:stop]).float()
        alphas = [layers.alpha(k, start, stop, size) for k in range(layers.box.shape[1])]
        # Products and sums apart: a fused multiply-add would depend on a row's neighbours.
        out = out * (1.0 - _total(alphas))
        for k, alpha in enumerate(alphas):
            out = out + layers.view("", k, images, start, stop) * alpha
        parts.append(out.round().to(images.dtype) if images.dtype == torch.uint8 else out)
    return _put(layers, images, torch.cat(parts))


def mix_masks(layers: Layers, name: str, masks: Tensor) -> Tensor:
    """Mixes masks (n, m, H, W) of any dtype."""
    size, parts = masks.shape[2:], []
    whole = comparable(masks)
    for start, stop in _chunks(layers, whole):
        own = whole.index_select(0, layers.rows[start:stop])
        alphas = [layers.alpha(k, start, stop, size) for k in range(layers.box.shape[1])]
        out = own if not own.is_floating_point() else own * (1.0 - _total(alphas)).to(own.dtype)
        for k, alpha in enumerate(alphas):
            view = layers.view(name, k, whole, start, stop)
            if out.is_floating_point():
                out = out + torch.where(alpha > 0, view * alpha.to(view.dtype), 0.0)
                # Not by the sum, in which a NaN that is not seen would still count.
                own = torch.where(alpha >= 1, view, own)
            else:
                out = torch.where(alpha > 0.5, view, out)
        if out.is_floating_point():
            between = torch.stack([(a > 0) & (a < 1) for a in alphas]).any(dim=0)
            out = torch.where(between, out, own)
        parts.append(out)
    return _put(layers, whole, torch.cat(parts)).to(masks.dtype)


def mix_instances(layers: Layers, name: str, masks: Tensor, index: Tensor, held: Tensor) -> Tensor:
    """Puts together the instance masks of an image's own objects and of its layers'.

    Args:
        layers: The mix.
        name: The masks' name.
        masks: (n, m, H, W).
        index: (n, M), where in the pool each of the new masks is: the batch's n m masks, then
            for each mixed row its m own, as far as they are seen, and m of each layer.
        held: (n, M), false where an image has fewer.
    """
    size, whole = masks.shape[2:], comparable(masks)
    k, count = layers.box.shape[:2]
    own = whole.index_select(0, layers.rows)
    hidden = torch.zeros((k, 1, *size), dtype=torch.bool, device=masks.device)
    stacks = []
    for layer in range(count):
        inside = layers.inside(layer, 0, k, size)
        opacity = layers.opacity[:, layer, None, None, None]
        hidden = hidden | (inside & (opacity >= 1))
        view = layers.view(name, layer, whole, 0, k)
        stacks.append(torch.where(inside & (opacity > 0), view, 0))
    mixed = torch.cat([torch.where(hidden, 0, own), *stacks], dim=1).to(whole.dtype)
    pool = torch.cat([whole.flatten(0, 1), mixed.flatten(0, 1)])
    chosen = pool.index_select(0, index.flatten()).reshape(*index.shape, *size)
    return torch.where(held[:, :, None, None], chosen, 0).to(masks.dtype)


def objects(layers: Layers, name: str, masks: Tensor, chosen: Tensor) -> Tensor:
    """Returns (k, 1, H, W): where the chosen of the partners' instance masks land.

    Args:
        layers: The mix; its only layer.
        name: The masks' name.
        masks: (n, m, H, W).
        chosen: (k, m), which of each partner's.
    """
    view = layers.view(name, 0, comparable(masks), 0, len(layers.box))
    return ((view != 0) & chosen[:, :, None, None]).any(dim=1, keepdim=True)


def remains(layers: Layers, masks: Tensor) -> Tensor:
    """Returns (k, m, 6): what the layer leaves of each instance mask.

    Its pixels before and after, and the x0, y0, x1, y1 that hold those after.
    """
    assert layers.cover is not None
    own = comparable(masks).index_select(0, layers.rows) != 0
    left = own & ~layers.cover
    columns, rows = left.any(dim=2), left.any(dim=3)
    edges = [_first(columns), _first(rows), _last(columns), _last(rows)]
    counts = [own.sum(dim=(2, 3)), left.sum(dim=(2, 3))]
    return torch.stack([*counts, *edges], dim=-1)


def _first(line: Tensor) -> Tensor:
    return line.to(torch.uint8).argmax(dim=-1)


def _last(line: Tensor) -> Tensor:
    return line.shape[-1] - _first(line.flip(-1))


def shares(layers: Layers) -> Tensor:
    """Returns (k, 2): the shares of an image and of the layer that `cover` alone bounds."""
    assert layers.cover is not None
    covered = layers.cover.float().mean(dim=(1, 2, 3)) * layers.opacity[:, 0]
    return torch.stack([1.0 - covered, covered], dim=1)


def mix_labels(layers: Layers, labels: Tensor, weights: Tensor) -> Tensor:
    """Mixes labels (n, K), 0 to 1, by (k, 1 + m) weights of each image and its layers."""
    out = labels.index_select(0, layers.rows) * weights[:, :1]
    for k in range(layers.partner.shape[1]):
        partners = labels.index_select(0, layers.partner[:, k])
        out = out + partners * weights[:, k + 1, None]
    return labels.index_copy(0, layers.rows, out.clamp(0.0, 1.0).to(labels.dtype))


def _total(alphas: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, alphas)


def _chunks(layers: Layers, like: Tensor) -> Sequence[tuple[int, int]]:
    """Returns the mixed rows, from and to, that are worked through together."""
    return tuple(chunks(Shape(len(layers.box), *like.shape[1:]), like.device))


def _put(layers: Layers, before: Tensor, mixed: Tensor) -> Tensor:
    """Returns a batch with its mixed rows in their places."""
    every = len(mixed) == len(before)  # then they are all there, in order
    out = mixed if every else before.index_copy(0, layers.rows, mixed)
    return out.contiguous(memory_format=layout(before))


def cloud(region: Cloud, row: int, size: tuple[int, int]) -> Bools:
    """Returns (H, W): the pixels that FMix takes from the partner.

    The real part of the inverse transform of complex normals over
    max(f, 1 / longer side)^decay, f in cycles a pixel, for up to 32 cycles a side; the
    `count` pixels where it is lowest. In float64 on the host: boxes need it there, and it is
    the same on every device.
    """
    height, width = size
    down = np.rint(np.fft.fftfreq(height) * height).astype(np.int64)
    down = down[abs(down) <= _HIGHEST]
    across = np.arange(min(width // 2, _HIGHEST) + 1)
    shape = (len(down), len(across), 2)
    normals = normal_field(int(region.key[row]), int(np.prod(shape))).reshape(shape)
    frequency = np.hypot((down / height)[:, None], across / width)
    damped = np.maximum(frequency, 1.0 / max(size)) ** region.decay
    spectrum = np.zeros((height, width // 2 + 1), np.complex128)
    spectrum[down[:, None], across] = (normals[..., 0] + 1j * normals[..., 1]) / damped
    field = np.fft.irfft2(spectrum, size).reshape(-1)
    taken = np.zeros(height * width, bool)
    count = int(region.count[row])
    taken[np.argpartition(field, min(count, len(field) - 1))[:count]] = True
    return taken.reshape(size)
