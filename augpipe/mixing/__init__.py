"""Mixing done to a batch: its images, labels, masks, boxes and keypoints.

Images, labels and masks: augpipe/backends/batched/mix.py. Boxes and keypoints, in NumPy:

- Those of an image stay, and those of its layers' images join them, moved by the layer's map
  and cut to where the layer lies.
- A box's weight is multiplied by the share of it that is seen (of its hull; what its layer's
  map or an opaque layer over it leaves) and by the opacity it is seen with.
- A box ends at the hull of what opaque layers leave of it; an object with an instance mask,
  under pasted objects, at the hull of what is left of that mask.
- Boxes are dropped by the recipe's rules on what is seen, their instance masks with them.
- A keypoint under an opaque layer, or outside its own, is not seen; all points of an image
  leave when nothing of it is left.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from augpipe.backends.batched import mix as device
from augpipe.backends.batched.pieces import parcel
from augpipe.errors import DataError
from augpipe.ir import Mix, Objects
from augpipe.mixing.annotations import mix_boxes, mix_points
from augpipe.mixing.scene import Rules, Scene
from augpipe.targets import Batch
from augpipe.types import Ints


def mix(meaning: Mix, batch: Batch, rules: Rules = (0.0, 0.0)) -> Batch:
    """Mixes a batch.

    On a device other than the CPU nothing is waited for, but where objects with instance masks
    are pasted and the batch has boxes or keypoints: what is left of a mask decides over its box.

    Args:
        meaning: Of the batch's n images.
        batch: Its images uint8 or float32 levels; it is not changed.
        rules: The least area of a box that is seen, in square pixels, and its least share.

    Raises:
        DataError: The classes are numbers and nobody says how many there are, or objects are to
            be pasted and the batch has neither boxes nor instance masks.
    """
    if isinstance(meaning.region, Objects) and batch.boxes is None and not batch.instances:
        raise DataError(
            meaning.op, "pastes objects, but the batch has neither boxes nor a list of masks"
        )
    labels = _label_rows(meaning, batch)
    on = np.flatnonzero((meaning.opacity > 0).any(axis=1))
    if not len(on) or not batch.images[0].numel():
        return replace(batch, labels=labels)
    scene = Scene.of(meaning.taking(on), on, batch, rules)
    weights = scene.weights()
    chosen = scene.chosen_mask()
    extra = [weights] if chosen is None else [weights, chosen]
    images = batch.images
    layers = device.prepare(
        scene.meaning, on, images, batch.masks, scene.raster, extra, batch.heatmaps
    )
    shares, *rest = layers.extra
    if scene.cut_by is not None:
        own = batch.masks[scene.cut_by]
        layers = replace(layers, cover=device.objects(layers, scene.cut_by, own, *rest))
        shares = device.shares(layers)
        scene = scene.seeing(layers)
    boxes, slots = mix_boxes(scene)
    masks = dict(batch.masks)
    for name in batch.masks.keys() - batch.instances.keys():
        masks[name] = device.mix_masks(layers, name, batch.masks[name])
    counts = mix_instances(scene, layers, masks, slots)
    return replace(
        batch,
        images=device.mix_images(layers, images),
        labels=None if labels is None else device.mix_labels(layers, labels, shares),
        masks=masks,
        instances=counts,
        boxes=boxes,
        points=mix_points(scene),
    )


def _label_rows(meaning: Mix, batch: Batch) -> Tensor | None:
    """Returns labels as float rows (n, K): one-hot where they are classes."""
    labels = batch.labels
    if labels is None:
        return None
    if labels.ndim == 2:
        return labels if labels.is_floating_point() else labels.to(torch.float32)
    if batch.classes is None:
        raise DataError(
            meaning.op,
            "mixed labels are rows of one number a class, but how many classes there are is not "
            "known: write `classes: N` into the recipe, or give a dataset that has `.classes`",
        )
    classes = torch.arange(batch.classes, device=labels.device)
    return (labels[:, None] == classes).to(torch.float32)


def mix_instances(
    scene: Scene,
    layers: device.Layers,
    masks: dict[str, Tensor],
    slots: list[list[Ints]] | None,
) -> dict[str, Ints]:
    """Mixes instance masks in place of those in `masks`; returns how many images have."""
    counts: dict[str, Ints] = {}
    for name, before in scene.batch.instances.items():
        own = slots if slots is not None and scene.tied(name) else _all_slots(scene, name)
        stack, n = masks[name].shape[1], len(before)
        at = [i * stack + np.arange(count) for i, count in enumerate(before.tolist())]
        for k, row in enumerate(scene.rows.tolist()):
            start = n * stack + k * stack * (1 + len(scene.views))
            parts = [start + part * stack + rows for part, rows in enumerate(own[k])]
            at[row] = np.concatenate(parts)
        counts[name] = np.array([len(each) for each in at], np.int64)
        held = np.arange(counts[name].max(initial=0)) < counts[name][:, None]
        index = np.zeros(held.shape, np.int64)
        index[held] = np.concatenate(at)
        sent = parcel([index, held], masks[name].device)
        masks[name] = device.mix_instances(layers, name, masks[name], *sent)
    return counts


def _all_slots(scene: Scene, name: str) -> list[list[Ints]]:
    """Returns, for each mixed row, the instance masks where no box decides over them.

    All of an image of which anything is seen; of pasted objects those that are pasted, and none
    of masks that are of something else.
    """
    counts = scene.batch.instances[name]
    weights, pastes = scene.weights()[:, 0], scene.chosen is not None
    same = scene.cut_by is not None and np.array_equal(counts, scene.batch.instances[scene.cut_by])
    out = []
    for k, row in enumerate(scene.rows.tolist()):
        parts = [np.arange(counts[row] if weights[k] > 0 or pastes else 0)]
        for layer in range(len(scene.views)):
            theirs = np.arange(counts[scene.meaning.partner[k, layer]])
            if scene.chosen is not None:
                theirs = scene.chosen[k] if same else theirs[:0]
            parts.append(theirs if scene.meaning.opacity[k, layer] > 0 else theirs[:0])
        out.append(parts)
    return out
