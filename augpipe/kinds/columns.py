"""One column of a batch's targets at a time: labels, masks, boxes, and what hangs on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from augpipe.errors import DataError
from augpipe.kinds.convert import rows_of, table, table_like
from augpipe.kinds.layouts import box_layout, unmirrored
from augpipe.targets import Batch, Boxes, Ending, Keypoints, Points, origins
from augpipe.types import Floats, Ints

Form = Callable[[Batch, "Finished"], Any]


class Finished(list[tuple[Floats, Ints]]):
    """Each image's boxes, and the rows that they had; with how targets end.

    Args:
        sets: The boxes.
        ending: How targets end.
    """

    def __init__(self, sets: Iterable[tuple[Floats, Ints]], ending: Ending) -> None:
        super().__init__(sets)
        self.ending = ending


@dataclass(slots=True)
class Columns:
    """Collects a batch; each column's reading returns how to put it back.

    Args:
        batch: What is collected.
        mixes: Whether images are mixed, and labels with them.
    """

    batch: Batch
    mixes: bool

    def same_count(self, where: str, value: Any) -> None:
        """Refuses what does not have an item an image."""
        if len(value) != len(self.batch.images):
            raise DataError(where, f"has {len(value)} items for {len(self.batch.images)} images")

    def column(self, role: str, value: Any, where: str, owner: str | None) -> Form:
        """Reads one value by its role."""
        match role:
            case "labels":
                return self.labels(value, where)
            case "mask":
                return self.mask(value, where)
            case "masks":
                return self.masks(value, where, owner)
            case "heatmap" | "heatmaps":
                return self.heatmaps(value, where, "mask" if role == "heatmap" else "masks")
            case "boxes":
                return self.boxes(value, where)
            case "keypoints":
                return self.keypoints(value, where, owner)
            case "field":
                self.check_rows(value, where)
                return lambda batch, finished: _gathered(value, batch, finished)
        return lambda batch, finished: value

    def check_rows(self, value: Sequence[Any], where: str) -> None:
        """Refuses what does not have a row a box."""
        self.same_count(where, value)
        for k, (each, boxes) in enumerate(zip(value, self.batch.boxes or (), strict=True)):
            scalar = not isinstance(each, Sized) or getattr(each, "shape", None) == ()
            have, count = 0 if scalar else len(each), len(boxes.outlines)
            if have != count or scalar:
                raise DataError(f"{where}[{k}]", f"has {have or 'no'} items for {count} boxes")

    def labels(self, value: Any, where: str) -> Form:
        """Reads classes (B,), or rows (B, K) of shares or of booleans."""
        lists = isinstance(value, list | tuple)
        try:
            own = self.stacked([torch.as_tensor(each) for each in value], where) if lists else value
        except (TypeError, ValueError, RuntimeError):  # names, for instance
            own = value
        if not (isinstance(own, Tensor) and _is_labels(own)):
            if not self.mixes:
                return lambda batch, finished: value
            have = (
                f"{own.dtype} {tuple(own.shape)}" if isinstance(own, Tensor) else type(own).__name__
            )
            raise DataError(
                where,
                f"{have} cannot be mixed: classes are whole numbers (B,), soft and multi-label "
                "rows are floats or booleans (B, K)",
            )
        if self.batch.labels is not None:
            raise DataError(where, "a second set of class labels beside the first")
        self.same_count(where, own)
        rows, dtype = self.beside(own, where), own.dtype
        self.batch.labels = rows.to(torch.int64) if rows.ndim == 1 else rows.to(torch.float32)

        def form(batch: Batch, finished: Finished) -> Any:
            if not self.mixes:
                return value
            labels = batch.labels
            assert labels is not None
            out = labels.to(dtype) if dtype.is_floating_point else labels
            return list(out) if lists else out

        return form

    def mask(self, value: Any, where: str) -> Form:
        """Reads masks (B, H, W)."""
        lists = isinstance(value, list | tuple)
        stacked = self.stacked(value, where) if lists else value
        flat = isinstance(stacked, Tensor) and stacked.ndim == 3
        self.add_masks(stacked[:, None] if flat else stacked, where)

        def form(batch: Batch, finished: Finished) -> Any:
            out = batch.masks[where]
            out = out[:, 0] if flat else out
            return list(out) if lists else out

        return form

    def stacked(self, value: Sequence[Any], where: str) -> Tensor:
        """Returns one tensor of an image's own each."""
        self.same_count(where, value)
        for k, each in enumerate(value):
            fits = isinstance(each, Tensor) and isinstance(value[0], Tensor)
            if not fits or each.shape != value[0].shape:
                have = tuple(each.shape) if isinstance(each, Tensor) else type(each).__name__
                raise DataError(f"{where}[{k}]", f"{have}: expected tensors of one shape")
        return torch.stack(list(value)) if value else self.batch.images.new_zeros(0)

    def masks(self, value: Any, where: str, owner: str | None) -> Form:
        """Reads masks (B, N, H, W), or a list of (N, H, W); of as many boxes, theirs."""
        if isinstance(value, Tensor) and value.ndim == 4 and owner and self.as_many(value):
            apart = self.masks(list(value), where, owner)

            def stacked(batch: Batch, finished: Finished) -> Any:
                out = apart(batch, finished)
                return torch.stack(out) if len({len(each) for each in out}) == 1 else out

            return stacked
        if not isinstance(value, list | tuple):
            self.add_masks(value, where)
            return lambda batch, finished: batch.masks[where]
        self.same_count(where, value)
        size = self.batch.images.shape[2:]
        for k, each in enumerate(value):
            if not isinstance(each, Tensor) or each.ndim != 3 or each.shape[1:] != size:
                raise DataError(f"{where}[{k}]", f"expected masks (N, {size[0]}, {size[1]})")
        counts = np.array([len(each) for each in value], np.int64)
        most = int(counts.max(initial=0))
        dtypes = {each.dtype for each in value if len(each)} or {torch.uint8}
        if len(dtypes) > 1:
            raise DataError(where, f"masks of different dtypes: {sorted(map(str, dtypes))}")
        (dtype,) = dtypes
        padded = self.batch.images.new_zeros((len(value), most, *size), dtype=dtype)
        for k, each in enumerate(value):
            padded[k, : len(each)] = each
        self.add_masks(padded, where)
        self.batch.instances[where] = counts
        boxes = self.batch.boxes
        tied = (
            owner
            and boxes
            and all(len(b.outlines) == c for b, c in zip(boxes, counts, strict=True))
        )

        def form(batch: Batch, finished: Finished) -> Any:
            out, counts = batch.masks[where], batch.instances[where]
            if not tied:
                return as_kind(
                    value, (own[:c] for own, c in zip(out, counts.tolist(), strict=True))
                )
            return type(value)(
                own[kept.tolist()] for own, (_, kept) in zip(out, finished, strict=True)
            )

        return form

    def as_many(self, masks: Tensor) -> bool:
        """Tells whether every image has as many boxes as it has masks."""
        return all(len(each.outlines) == masks.shape[1] for each in self.batch.boxes or ())

    def add_masks(self, masks: Any, where: str) -> None:
        """Takes masks (B, N, H, W) into the batch."""
        images = self.batch.images
        fits = isinstance(masks, Tensor) and masks.ndim == 4 and len(masks) == len(images)
        if not fits or masks.shape[2:] != images.shape[2:]:
            have = tuple(masks.shape) if isinstance(masks, Tensor) else type(masks).__name__
            raise DataError(where, f"masks of {have} for images of {tuple(images.shape)}")
        self.batch.masks[where] = self.beside(masks, where)

    def beside(self, value: Tensor, where: str) -> Tensor:
        """Returns a plain tensor that lies on the images' device.

        Raises:
            DataError: It lies elsewhere.
        """
        device = self.batch.images.device
        if value.device != device:
            raise DataError(where, f"lies on {value.device}, the images on {device}: move one")
        return value.as_subclass(Tensor)

    def heatmaps(self, value: Any, where: str, role: str) -> Form:
        """Reads heat maps as masks of float32 that are read between pixels."""
        stacked = self.stacked(value, where) if isinstance(value, list | tuple) else value
        if not isinstance(stacked, Tensor) or not stacked.dtype.is_floating_point:
            have = stacked.dtype if isinstance(stacked, Tensor) else type(stacked).__name__
            raise DataError(where, f"{have}: heat maps are tensors of floats")
        own = self.column(role, stacked.float(), where, None)
        self.batch.heatmaps |= {where}

        def form(batch: Batch, finished: Finished) -> Any:
            out = own(batch, finished).to(stacked.dtype)
            return as_kind(value, out) if isinstance(value, list | tuple) else out

        return form

    def boxes(self, value: Any, where: str) -> Form:
        """Reads a set of boxes an image: upright ones, or oriented ones by their name."""
        self.same_count(where, value)
        oriented = where.rpartition(".")[2] == "oriented_boxes"
        names = [f"{where}[{k}]" for k in range(len(value))]
        rows = [table(each, name) for each, name in zip(value, names, strict=True)]
        layouts = [box_layout(*each, oriented) for each in zip(value, rows, names, strict=True)]
        # A list of none has no shape of its own; what is mixed into it comes as the others are.
        shaped = next((k for k, each in enumerate(rows) if each.ndim > 1), 0)
        layouts = [
            own if each.ndim > 1 else layouts[shaped]
            for own, each in zip(layouts, rows, strict=True)
        ]
        if len({each.oriented for each in layouts}) > 1:
            raise DataError(where, "some images have oriented boxes and others upright ones")
        opened = zip(layouts, rows, names, strict=True)
        sets = [layout.open(own, name) for layout, own, name in opened]
        self.batch.boxes = [Boxes.of(each, k) for k, each in enumerate(sets)]

        def form(batch: Batch, finished: Finished) -> Any:
            height, width = batch.images.shape[2:]
            own = []
            for k, (each, _) in enumerate(finished):
                # Of boxes that were mixed in there is no row here: four numbers are all they have.
                blank = np.zeros((len(each), *layouts[k].row))
                own.append(layouts[k].close(each, blank, np.arange(len(each))))
            pairs = zip(own, value, strict=True)
            return as_kind(value, (table_like(each, like, (height, width)) for each, like in pairs))

        return form

    def keypoints(self, value: Any, where: str, owner: str | None) -> Form:
        """Reads a set of keypoints an image; of as many boxes, theirs."""
        self.same_count(where, value)
        tables = [table(each, f"{where}[{k}]") for k, each in enumerate(value)]
        like = next((each for each in tables if each.size), np.zeros((0, 2)))
        for k, each in enumerate(tables):
            if each.size and (
                each.ndim < 2 or each.shape[1:] != like.shape[1:] or each.shape[-1] < 2
            ):
                raise DataError(
                    f"{where}[{k}]", f"keypoints of shape {each.shape} beside {like.shape}"
                )
        flat = [each.reshape(-1, like.shape[-1]) for each in tables]
        self.batch.points = []
        for k, each in enumerate(flat):
            points = Points.of(each[:, :2] + 0.5)
            self.batch.points.append(Keypoints(points, origins(k, len(each))))
        counts = [len(each.outlines) for each in self.batch.boxes or ()]
        tied = bool(owner) and like.ndim > 2 and [len(each) for each in tables] == counts
        most = like.shape[1] if like.ndim > 2 else 1  # points of one object

        def form(batch: Batch, finished: Finished) -> Any:
            assert batch.points is not None
            height, width = batch.images.shape[2:]
            out = []
            for k, marks in enumerate(batch.points):
                whole = np.array([flat[i][r] for i, r, _ in marks.origin.tolist()])
                whole = whole.reshape(-1, like.shape[-1])
                whole[:, :2] = marks.points.at - 0.5
                if whole.shape[1] > 2:
                    whole[~marks.points.seen, 2] = 0.0
                shape = (-1, *like.shape[1:])
                whole = unmirrored(
                    whole.reshape(shape), marks.points.mirrored, finished.ending.flip_pairs, where
                ).reshape(-1, like.shape[-1])
                if tied and batch.boxes is not None:
                    kept = batch.boxes[k].origin[finished[k][1]].tolist()
                    at = {tuple(each): n for n, each in enumerate(marks.origin.tolist())}
                    rows = [at[i, r * most + n, way] for i, r, way in kept for n in range(most)]
                    whole = whole[rows]
                out.append(
                    table_like(whole.reshape(-1, *like.shape[1:]), value[k], (height, width))
                )
            return as_kind(value, out)

        return form


def _is_labels(value: Tensor) -> bool:
    """Tells whether a tensor holds classes (B,), or rows (B, K) of shares or of booleans."""
    whole = not value.dtype.is_floating_point and not value.dtype.is_complex
    return (value.ndim == 1 and whole and value.dtype != torch.bool) or (
        value.ndim == 2 and (not whole or value.dtype == torch.bool)
    )


def _gathered(value: Sequence[Any], batch: Batch, finished: Finished) -> Any:
    """Returns what hangs on boxes, for the boxes that are left, wherever they came from."""
    assert batch.boxes is not None
    out = []
    for k, (each, (_, kept)) in enumerate(zip(batch.boxes, finished, strict=True)):
        origin = each.origin[kept]
        if (origin[:, 0] == k).all():
            out.append(rows_of(value[k], origin[:, 1]))
            continue
        parts = [rows_of(value[i], np.array([r])) for i, r, _ in origin.tolist()]
        tensors = isinstance(parts[0], Tensor)
        out.append(torch.cat(parts) if tensors else [each for part in parts for each in part])
    return as_kind(value, out)


def as_kind(value: Sequence[Any], items: Iterable[Any]) -> Any:
    """Returns items as the list or tuple that `value` is."""
    return tuple(items) if isinstance(value, tuple) else list(items)
