"""Batches taken apart into a `targets.Batch`, and put together again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augpipe.errors import DataError
from augpipe.kinds.columns import Columns, Finished, Form, as_kind
from augpipe.kinds.images import image_batch
from augpipe.kinds.roles import FIELDS, KEYS
from augpipe.targets import Batch, Ending, finish

_OWN = {key: role for key, role in KEYS.items() if key != "image"}  # images stand beside these
_ROLES = {"label": "labels", "labels": "labels", **_OWN}


@dataclass(frozen=True, slots=True)
class Opened:
    """A batch taken apart.

    Args:
        batch: What the pipeline transforms; its images are as they came.
        form: Puts a transformed batch's targets into the form they came in.
    """

    batch: Batch
    form: Form

    def targets(self, batch: Batch, ending: Ending) -> Any:
        """Returns the targets of a transformed batch, in the form they came in.

        Args:
            batch: `self.batch`, transformed.
            ending: How targets end.
        """
        height, width = batch.images.shape[2:]
        finished = (
            finish(each.outlines, (height, width), ending.min_area, ending.min_visibility)
            for each in batch.boxes or ()
        )
        return self.form(batch, Finished(finished, ending))


def open_batch(images: Any, targets: Any, mixes: bool) -> Opened:
    """Takes a batch apart.

    - `images`: a tensor (B, C, H, W), uint8 or floats in 0..1; or a list of (C, H, W) of one size.
    - `targets`: None; a tensor of classes (B,), of one-hot, soft or multi-label rows (B, K), or
      of masks (B, H, W); a dict; or a list of B dicts, as detection models take them. Anything
      else passes through, unless images are mixed.
    - In a dict: `label` or `labels` as above; `mask` (B, H, W); `masks` (B, N, H, W), or a list
      of (N, H, W), one an object where there are as many boxes; `heatmap` (B, H, W) and
      `heatmaps` (B, N, H, W), of floats, read between pixels as images are; `boxes` or `bboxes`,
      a list of (N, 4) or a tensor (B, N, 4), x0, y0, x1, y1 in pixels; or `oriented_boxes`, see
      `augpipe.kinds.items.unpack`; `keypoints`, a list of (N, 2), (N, 3) or (N, K, 2 or 3) pixel
      positions. In a list of dicts the same, one image's in each.
    - What has a row a box goes with the boxes: `labels`, `scores`, `area`, `iscrowd`, `ids`,
      `difficult` and every key that begins with `box_`; `area` is not computed anew. Tensors
      (B, N, ...) come back as lists where images keep different boxes.
    - Where ops mix images, `box_weights` is added: the share of each box that is seen.

    Raises:
        DataError: If something cannot be used, by its place.
    """
    checked = image_batch(images)
    reader = _Reader(Batch(checked), mixes)
    if isinstance(targets, list | tuple) and all(isinstance(each, Mapping) for each in targets):
        reader.same_count("targets", targets)
        keys = list(targets[0]) if targets else []
        for k, each in enumerate(targets):
            if set(each) != set(keys):
                raise DataError(f"targets[{k}]", f"needs the keys of targets[0]: {keys}")
        columns = {key: [each[key] for each in targets] for key in keys}
        form = reader.columns(columns)

        def rows(batch: Batch, finished: Finished) -> Any:
            out = form(batch, finished)
            return as_kind(
                targets, ({k: v[i] for k, v in out.items()} for i in range(len(targets)))
            )

        return Opened(reader.batch, rows)
    if isinstance(targets, Mapping):
        return Opened(reader.batch, reader.columns(targets))
    if isinstance(targets, Tensor):
        role = "mask" if targets.ndim == 3 else "masks" if targets.ndim == 4 else "labels"
        return Opened(reader.batch, reader.column(role, targets, "targets", None))
    if targets is None or not mixes:
        return Opened(reader.batch, lambda batch, finished: targets)
    raise DataError(
        "targets",
        f"{type(targets).__name__} cannot be mixed: give a tensor, a dict or a list of dicts",
    )


class _Reader(Columns):
    """Finds the columns."""

    __slots__ = ()

    def columns(self, targets: Mapping[str, Any]) -> Callable[..., dict[str, Any]]:
        """Reads targets by name."""
        owners = [key for key in targets if _ROLES.get(key) == "boxes"]
        if len(owners) > 1:
            raise DataError(owners[1], "a second set of boxes beside the first")
        owner = owners[0] if owners else None
        if owner and isinstance(targets[owner], Tensor):
            return self.unstacked(targets, owner)
        order = sorted(targets, key=lambda key: key != owner)  # others may hang on the boxes
        forms = {
            key: self.column(self.role(key, targets[key], owner), targets[key], key, owner)
            for key in order
        }
        keys, rebuilt = list(targets), copy.copy(dict(targets))

        def form(batch: Batch, finished: Finished) -> dict[str, Any]:
            out = {key: forms[key](batch, finished) for key in keys}
            if self.mixes and owner and batch.boxes is not None:
                out["box_weights"] = [
                    torch.from_numpy(each.weight[kept].astype(np.float32))
                    for each, (_, kept) in zip(batch.boxes, finished, strict=True)
                ]
            return rebuilt | out

        return form

    def unstacked(self, targets: Mapping[str, Any], owner: str) -> Callable[..., dict[str, Any]]:
        """Reads targets whose boxes are one tensor (B, N, 4), and what has a row a box too."""
        shape = targets[owner].shape
        forms = {5: "(B, N, 5)", 8: "(B, N, 8)"} if owner == "oriented_boxes" else {4: "(B, N, 4)"}
        corners = owner == "oriented_boxes" and len(shape) == 4 and shape[2:] == (4, 2)
        if not corners and (len(shape) != 3 or shape[2] not in forms):
            expected = " or ".join(forms.values())
            raise DataError(owner, f"boxes of shape {tuple(shape)}: expected {expected}")

        def tied(key: str, value: Any) -> bool:
            many = isinstance(value, Tensor) and value.shape[:2] == shape[:2]
            soft = _ROLES.get(key) == "labels" and many and value.dtype.is_floating_point
            known = key in (owner, "masks", "keypoints", *FIELDS) or key.startswith("box_")
            return many and known and not soft

        keys = [key for key, value in targets.items() if tied(key, value)]
        apart = {k: list(v) if k in keys else v for k, v in targets.items()}
        form = self.columns(apart)

        def stacked(batch: Batch, finished: Finished) -> dict[str, Any]:
            out = form(batch, finished)
            if len({len(kept) for _, kept in finished}) == 1:
                out |= {key: torch.stack(out[key]) for key in keys}
            return out

        return stacked

    def role(self, key: str, value: Any, owner: str | None) -> str:
        """Says what a value is for."""
        lists = isinstance(value, list | tuple)
        if owner and lists and (key in FIELDS or key.startswith("box_")):
            return "field"
        return _ROLES.get(key, "other")
