"""One annotated image to the outputs of an expansion: pixels, objects and masks."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from augpipe.data.annotated import AnnotatedImage, Entry, to_json
from augpipe.data.content import FileContent
from augpipe.data.encode import encode
from augpipe.data.formats import Format, placed, placed_mask
from augpipe.data.masks import open_mask
from augpipe.data.splitfiles import dumped
from augpipe.errors import DataError
from augpipe.expansion.manifest import Extra, Row, line_of, parameters
from augpipe.expansion.names import Output
from augpipe.expansion.objects import Objects, flips
from augpipe.expansion.render import Origin, Renderer, named
from augpipe.expansion.sources import Plan
from augpipe.ir import Foreign
from augpipe.kinds.convert import array_of, movable, pil_mask
from augpipe.rng import Trace
from augpipe.types import Array

_PIXELS, _MOST = 4_000_000, 64  # held, and drawn, at a time


class Made(NamedTuple):
    """One output: its row, its content, and that of its mask if it has one."""

    row: Row
    data: bytes
    mask: bytes | None = None


@dataclass(frozen=True, slots=True)
class AnnotatedRenderer:
    """Makes outputs of annotated images.

    Args:
        renderer: What makes the pixels.
        plan: The dataset, and what it becomes.
    """

    renderer: Renderer
    plan: Plan
    target: Format = field(init=False)
    _flips: Mapping[int, tuple[int, ...]] = field(init=False)
    _solid: bool = field(init=False)

    def __post_init__(self) -> None:
        nodes = self.renderer.pipeline.nodes
        object.__setattr__(self, "target", self.plan.target)
        object.__setattr__(self, "_flips", flips(self.plan.dataset.meta))
        object.__setattr__(self, "_solid", any(node.kind is Foreign for node in nodes))

    def render(self, index: int, outputs: Sequence[Output]) -> Iterator[Made]:
        """Yields each output of one image, in the order given.

        Raises:
            DataError: If the image or its record cannot be used. Its `where` is the image's path.
        """
        entry = self.plan.dataset.entries[index]
        origin = Origin(self.plan.dataset.root, entry.relative, None, index)
        with named(origin):
            image = self.plan.dataset[index]
            placed(self.target, image)
            data = image.content.read()
            origin = replace(origin, label=image.label)
            digest = hashlib.sha256(data)
            digest.update(dumped(to_json(image)).encode())
            for each in outputs:
                if each.copy is None:
                    yield self._original(image, origin, digest.hexdigest(), each, data)
            pixels = self.renderer.open(data, origin.relative)
            size = (pixels.shape[0], pixels.shape[1])
            if image.size not in (None, size):
                said = f"{image.size[0]} × {image.size[1]}" if image.size else ""
                raise DataError(
                    origin.relative, f"is {size[0]} × {size[1]}, its annotations say {said}"
                )
            objects = Objects(image, self._flips, self._solid, size)
            yield from self._copies(pixels, objects, origin, digest.hexdigest(), outputs)

    def _original(
        self, image: AnnotatedImage, origin: Origin, digest: str, output: Output, data: bytes
    ) -> Made:
        own = replace(image, name=self._name(image, output))
        mask = None if image.mask is None else image.mask.read()
        row = self.renderer.row(origin, digest, output, data)
        return self._made(row, own, data, mask)

    def _copies(
        self,
        pixels: Array,
        objects: Objects,
        origin: Origin,
        digest: str,
        outputs: Sequence[Output],
    ) -> Iterator[Made]:
        image = objects.image
        drawn = None if image.mask is None else open_mask(image.mask, origin.relative)
        mask = None if drawn is None else _planes(drawn, origin.relative)
        sample = objects.sample(pixels, mask)
        copies = [(each, each.copy) for each in outputs if each.copy is not None]
        count = max(1, min(_MOST, _PIXELS // max(objects.size[0] * objects.size[1], 1)))
        settings, rules = self.renderer.settings, self.renderer.recipe.boxes
        for start in range(0, len(copies), count):
            some = copies[start : start + count]
            trace: Trace = {}
            done = self.renderer.pipeline.run(
                [sample] * len(some),
                np.full(len(some), origin.index),
                np.array([copy for _, copy in some]),
                trace,
            )
            for row, ((output, copy), made) in enumerate(zip(some, done, strict=True)):
                data = encode(made.image, settings.format, settings.quality, name=origin.relative)
                own = replace(
                    image,
                    name=self._name(image, output),
                    size=(made.image.shape[0], made.image.shape[1]),
                    annotations=objects.moved(made, rules),
                    mask=None if drawn is None else FileContent(Path("mask.png")),
                    id=self._id(image, origin.index, copy),
                    source=_link(image, copy),
                    extra=_extra(image, made.image),
                )
                told = self.renderer.row(origin, digest, output, data, parameters(trace, row))
                moved = None if drawn is None else _png(made.masks[0], drawn)
                yield self._made(told, own, data, moved)

    def _made(self, row: Row, image: AnnotatedImage, data: bytes, mask: bytes | None) -> Made:
        extra = None
        if mask is not None:
            where = placed_mask(self.target, image)
            extra = Extra(where, hashlib.sha256(mask).hexdigest(), len(mask))
        own = replace(row, record=to_json(image), mask=extra)
        line_of(own)  # before a file is written: what has no row cannot be kept
        return Made(own, data, mask)

    def _name(self, image: AnnotatedImage, output: Output) -> str:
        """Returns the name that an output has within its split."""
        place = self.target.place(image)
        return output.path[len(place) - len(image.name) :]

    def _id(self, image: AnnotatedImage, index: int, copy: int) -> int | str | None:
        match image.id:
            case int():
                first = self.plan.dataset.last[0] + 1
                return first + index * self.renderer.settings.copies + copy
            case str():
                return f"{image.id}__{copy}"
        return None


def _link(image: AnnotatedImage, copy: int) -> dict[str, Any]:
    """Returns what says which image an augmented one was."""
    own = {} if image.id is None else {"id": image.id}
    return {**own, "name": Entry(image.name, image.split).relative, "copy": copy}


def _extra(image: AnnotatedImage, pixels: Array) -> Mapping[str, Any]:
    """Returns an image's other fields; VOC's depth is that of the new pixels."""
    size = image.extra.get("size")
    if not isinstance(size, dict) or "depth" not in size:
        return image.extra
    return {**image.extra, "size": {**size, "depth": str(pixels.shape[2])}}


def _planes(mask: Image.Image, where: str) -> Array:
    data = array_of(mask)
    return movable(data[:, :, None] if data.ndim == 2 else data, where)


def _png(mask: Array, like: Image.Image) -> bytes:
    picture = Image.fromarray(mask) if like.mode == "RGB" else pil_mask(mask[:, :, 0], like)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()
