"""Items taken apart into a Sample and put together again.

An item is an image (PIL, HWC array, CHW tensor, tv_tensors.Image), a dict of targets, or a
tuple as a dataset yields it. Nothing is guessed from values: tv_tensors go by their class,
and arrays, tensors and PIL images by their key. What has no such class or key passes through
as the same object. Results never share memory with what was handed in, so that either may be
written to. Neither torch nor PIL is imported for items that hold none of theirs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from augpipe.errors import DataError, UsageError
from augpipe.kinds.convert import (
    apart,
    array_of,
    channels_last,
    is_tensor,
    kind,
    levels,
    like,
    movable,
    pil_image,
    pil_mask,
    pil_pixels,
    rows_of,
    table,
    table_like,
    unlevelled,
)
from augpipe.kinds.layouts import box_layout, unmirrored
from augpipe.kinds.roles import ALLOWED, Entry, role_of
from augpipe.targets import Ending, Points, Sample, finish
from augpipe.types import Array, Floats, Ints, Picture

_LEVELS = np.dtype(np.uint8)


@dataclass(frozen=True, slots=True)
class _Result:
    """A transformed sample and, for each set of boxes, its boxes and the rows that were kept.

    The image may be `elsewhere`: then None stands in its place. Keypoints of `flip_pairs` change
    places in a mirror.
    """

    sample: Sample
    boxes: list[tuple[Floats, Ints]]
    elsewhere: bool = False
    flip_pairs: tuple[tuple[int, int], ...] = ()

    @property
    def size(self) -> tuple[int, int]:
        return self.sample.image.shape[0], self.sample.image.shape[1]


_Form = Callable[[_Result], Any]


@dataclass(frozen=True, slots=True)
class _Owner:
    """A set of boxes: its place in the sample and how many there are."""

    index: int
    count: int


@dataclass(frozen=True, slots=True)
class Packed:
    """An item taken apart.

    Args:
        sample: What the pipeline transforms; it may share memory with the item.
        form: Puts a transformed sample into the item's form.
        dtype: The image's.
    """

    sample: Sample
    form: _Form
    dtype: np.dtype[Any]

    def repack(
        self,
        sample: Sample,
        ending: Ending = Ending(),  # noqa: B008 - a frozen value
        *,
        elsewhere: bool = False,
    ) -> Any:
        """Returns a transformed sample as the kind of item that was unpacked.

        An image that was normalized is float32: HWC for an array, else a CHW tensor.

        Args:
            sample: `self.sample`, transformed. May be called for many.
            ending: How targets end.
            elsewhere: Whether None takes the image's place.
        """
        result = _Result(sample, [], elsewhere, ending.flip_pairs)
        for each in sample.boxes:
            end = finish(each, result.size, ending.min_area, ending.min_visibility)
            result.boxes.append(end)
        return self.form(result)


def unpack(item: Any, names: Sequence[str | None] | None = None) -> Packed:
    """Takes an item apart.

    - Images: uint8, or float in 0..1; arrays (H, W) or (H, W, C), tensors (H, W) or (C, H, W),
      PIL (L, RGB, RGBA; other modes become one of these by the rules of data/decode.py).
    - In a dict (nested ones too): `image`; `mask`; `masks`, (N, H, W) or a list; `heatmap`;
      `heatmaps`, (N, H, W) or a list: of floats, read between pixels as images are; `boxes` or
      `bboxes`, (N, 4) x0, y0, x1, y1 in pixels; or `oriented_boxes`, (N, 4, 2) or (N, 8) corners
      clockwise from the first, or (N, 5) centre x and y, width, height and degrees
      (counter-clockwise as seen); `keypoints`, (N, 2), (N, 3) with COCO's visibility, or
      (N, K, 2 or 3) pixel positions.
    - With the boxes of the same dict are dropped, where there are as many: `masks`,
      (N, K, ...) keypoints, `labels`, `scores`, `area`, `iscrowd`, `ids`, `difficult` and
      every key that begins with `box_`. Area is dropped with its box, not computed anew.
    - In a tuple or list the first element is the image; of the others, dicts and tv_tensors
      are moved and the rest (labels, plain tensors, PIL images) is not, unless `names` says
      what they are.

    Args:
        item: One image, with or without its targets.
        names: For a tuple: the key each position would have in a dict, None for none.

    Raises:
        DataError: If something in it cannot be used, by its place in the item.
        UsageError: If `names` do not fit the item.
    """
    reader = _Reader()
    form = reader.item(item, names)
    return Packed(reader.sample(), form, reader.dtype)


@dataclass(slots=True)
class _Reader:
    """Collects a sample while it walks an item; each walk returns how to put it back."""

    images: list[Array] = field(default_factory=list)
    found: Sample = field(default_factory=lambda: Sample(np.zeros((0, 0, 0), np.uint8)))
    sizes: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    dtype: np.dtype[Any] = _LEVELS

    def sample(self) -> Sample:
        if not self.images:
            raise DataError("item", "no image in it: put it first in a tuple or under 'image'")
        self.found.image = self.images[0]
        size = self.found.image.shape[:2]
        for where, own in self.sizes:
            if own != size:
                raise DataError(where, f"is for {_by(own)} pixels, but the image has {_by(size)}")
        return self.found

    def item(self, item: Any, names: Sequence[str | None] | None) -> _Form:
        if names is not None:
            if kind(item) != "list" or len(names) != len(item):
                raise UsageError(f"names={tuple(names)} needs a tuple of {len(names)}")
            pairs = zip(names, item, strict=True)
            forms = self.group([Entry(name, each, name or "item") for name, each in pairs])
            return lambda result: _rebuilt(item, forms, result)
        if kind(item) == "dict":
            return self.mapping(item, "")
        if type(item) is tuple and len(item) == 2 and isinstance(item[1], int | np.integer):
            image = self.entry(Entry("image", item[0], "item[0]"), None)  # as most datasets have it
            return lambda result: (image(result) if image else item[0], item[1])
        if kind(item) == "list":
            keys = ["image", *[None] * len(item)]
            entries = [Entry(keys[k], value, f"item[{k}]") for k, value in enumerate(item)]
            forms = self.group(entries)
            return lambda result: _rebuilt(item, forms, result)
        if kind(item) in ("image", *ALLOWED["image"]):
            return self.image(item, "image")
        raise DataError(
            "item", f"{type(item).__name__} is not an image, a dict of targets or a tuple"
        )

    def mapping(self, value: Any, where: str) -> _Form:
        """Reads a dict."""
        if "bndbox" in value or ("bbox" in value and "category_id" in value):
            raise DataError(
                where or "item",
                "an annotation as its file has it would not move with the image: give a dict of "
                "'boxes' and 'labels' (torchvision.datasets.wrap_dataset_for_transforms_v2 does)",
            )
        start = f"{where}." if where else ""
        keys = list(value)
        forms = self.group([Entry(key, value[key], f"{start}{key}") for key in keys])

        def form(result: _Result) -> Any:
            out = copy.copy(value)  # keeps the kind of dict
            out.update((k, each(result)) for k, each in zip(keys, forms, strict=True) if each)
            return out

        return form

    def group(self, entries: Sequence[Entry]) -> list[_Form | None]:
        """Reads values that stand side by side: boxes first, for the others may hang on them."""
        held = [k for k, each in enumerate(entries) if role_of(each) == "boxes"]
        if len(held) > 1:
            raise DataError(entries[held[1]].where, "a second set of boxes beside the first")
        owner, boxes = None, None
        for k in held:
            oriented = entries[k].key == "oriented_boxes"
            boxes, owner = self.boxes(entries[k].value, entries[k].where, oriented)
        return [boxes if k in held else self.entry(each, owner) for k, each in enumerate(entries)]

    def entry(self, entry: Entry, owner: _Owner | None) -> _Form | None:
        """Reads one value by its role; None where it passes through."""
        value, where = entry.value, entry.where
        match role_of(entry):
            case "image":
                return self.image(value, where)
            case "mask":
                return self.mask(value, where)
            case "masks":
                return self.masks(value, where, owner)
            case "heatmap" | "heatmaps" as role:
                return self.heatmaps(value, where, stacked=role == "heatmaps")
            case "keypoints":
                return self.keypoints(value, where, owner)
            case "field":
                return self.field(entry, owner)
            case "dict":
                return self.mapping(value, where)
            case "list":
                inner = [Entry(None, each, f"{where}[{k}]") for k, each in enumerate(value)]
                forms = self.group(inner)
                return (lambda result: _rebuilt(value, forms, result)) if any(forms) else None
            case "video":
                raise DataError(where, "videos are not supported: give its frames one by one")
        return None

    def field(self, entry: Entry, owner: _Owner | None) -> _Form | None:
        """Reads what may hold a value a box: it is filtered with them, where there are as many."""
        value = entry.value
        if owner is None or not getattr(value, "shape", True):
            return None
        if len(value) != owner.count:
            if entry.key != "labels":
                return None
            raise DataError(entry.where, f"has {len(value)} items for {owner.count} boxes")
        return lambda result: rows_of(value, result.boxes[owner.index][1])

    def image(self, value: Any, where: str) -> _Form:
        if self.images:
            raise DataError(where, "a second image: an item holds one")
        if isinstance(value, Picture):
            self.images.append(cast(Array, value))
            return lambda result: None if result.elsewhere else result.sample.image
        pil = kind(value) == "pil"
        first = is_tensor(value)
        data = pil_pixels(value, where) if pil else array_of(value)
        source = levels(channels_last(data, first, where), where)
        self.images.append(source)
        self.dtype = data.dtype

        def form(result: _Result) -> Any:
            if result.elsewhere:
                return None
            own = result.sample.normalized
            out = result.sample.image if own else unlevelled(result.sample.image, data.dtype)
            if data.ndim == 2 and out.shape[2] == 1:
                out = out[:, :, 0]
            elif first or (pil and own):
                out = out.transpose(2, 0, 1)
            out = apart(out, source)
            if not pil:
                return like(out, value, "float32" if own else None)
            if own:
                import torch

                return torch.from_numpy(out)
            return pil_image(out)

        return form

    def mask(
        self, value: Any, where: str, stacked: bool = False, owner: _Owner | None = None
    ) -> _Form:
        """Reads a mask, or with `stacked` (N, H, W) masks, which may belong to boxes."""
        pil = kind(value) == "pil"
        if pil and value.mode not in ("L", "P", "1", "I;16"):
            raise DataError(where, f"a mask of PIL mode {value.mode}: expected L, P, 1 or I;16")
        data = array_of(value)
        first = stacked or is_tensor(value)
        moved = movable(channels_last(data, first, where), where)
        self.sizes.append((where, moved.shape[:2]))
        self.found.masks.append(moved)
        index = len(self.found.masks) - 1
        tied = owner if stacked and data.ndim == 3 and owner and len(data) == owner.count else None

        def form(result: _Result) -> Any:
            out = result.sample.masks[index]
            if tied:
                out = out[:, :, result.boxes[tied.index][1]]
            if data.ndim == 2:
                out = out[:, :, 0]
            elif first:
                out = out.transpose(2, 0, 1)
            out = apart(out, moved)
            return pil_mask(out, value) if pil else like(out, value)

        return form

    def masks(self, value: Any, where: str, owner: _Owner | None) -> _Form:
        if kind(value) != "list":
            return self.mask(value, where, stacked=True, owner=owner)
        for k, each in enumerate(value):
            if kind(each) not in ("mask", *ALLOWED["mask"]):
                raise DataError(f"{where}[{k}]", f"{type(each).__name__} is not a mask")
        forms = [self.mask(each, f"{where}[{k}]") for k, each in enumerate(value)]
        tied = owner if owner and len(value) == owner.count else None

        def form(result: _Result) -> Any:
            kept = result.boxes[tied.index][1].tolist() if tied else range(len(forms))
            return type(value)(forms[k](result) for k in kept)

        return form

    def heatmaps(self, value: Any, where: str, stacked: bool) -> _Form:
        """Reads a heat map, or with `stacked` (N, H, W) of them."""
        if kind(value) == "list":
            for k, each in enumerate(value):
                if kind(each) not in ALLOWED["heatmap"]:
                    raise DataError(f"{where}[{k}]", f"{type(each).__name__} is not a heat map")
            forms = [self.heatmaps(each, f"{where}[{k}]", False) for k, each in enumerate(value)]
            return lambda result: _rebuilt(value, forms, result)
        data = array_of(value)
        if data.dtype.kind != "f":
            raise DataError(where, f"has dtype {data.dtype}: a heat map holds floats")
        form = self.mask(data.astype(np.float32), where, stacked=stacked or is_tensor(value))
        self.found.heatmaps |= {len(self.found.masks) - 1}
        return lambda result: like(form(result), value)

    def boxes(self, value: Any, where: str, oriented: bool) -> tuple[_Form, _Owner]:
        data = table(value, where)
        layout = box_layout(value, data, where, oriented)
        if kind(value) == "boxes":
            self.sizes.append((where, tuple(value.canvas_size)))
        opened = layout.open(data, where, more=True)
        owner = _Owner(len(self.found.boxes), len(opened))
        self.found.boxes.append(opened)

        def form(result: _Result) -> Any:
            boxes, kept = result.boxes[owner.index]
            return table_like(layout.close(boxes, data, kept), value, result.size)

        return form, owner

    def keypoints(self, value: Any, where: str, owner: _Owner | None) -> _Form:
        data = table(value, where)
        if not data.size and data.ndim < 2:
            data = data.reshape(0, 2)
        if data.ndim < 2 or data.shape[-1] < 2:
            raise DataError(where, f"keypoints of shape {data.shape}: expected (N, 2) or (N, 3)")
        if kind(value) == "keypoints":
            self.sizes.append((where, tuple(value.canvas_size)))
        flat = data.reshape(-1, data.shape[-1])
        if np.isinf(flat[:, :2]).any():
            raise DataError(where, "infinite coordinates")
        self.found.points.append(Points.of(flat[:, :2] + 0.5))
        index = len(self.found.points) - 1
        tied = owner if data.ndim > 2 and owner and len(data) == owner.count else None

        def form(result: _Result) -> Any:
            points = result.sample.points[index]
            out = flat.copy()
            out[:, :2] = points.at - 0.5
            if out.shape[1] > 2:
                out[~points.seen, 2] = 0.0
            whole = unmirrored(out.reshape(data.shape), points.mirrored, result.flip_pairs, where)
            kept = whole[result.boxes[tied.index][1]] if tied else whole
            return table_like(kept, value, result.size)

        return form


def _rebuilt(value: Any, forms: Sequence[_Form | None], result: _Result) -> Any:
    """Returns a tuple or a list (a named tuple too) with its moved elements exchanged."""
    out = [form(result) if form else each for each, form in zip(value, forms, strict=True)]
    return type(value)(*out) if hasattr(value, "_fields") else type(value)(out)


def _by(size: Sequence[int]) -> str:
    return " x ".join(str(side) for side in size)
