"""One annotated image to the outputs of an expansion: pixels, objects and masks."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from augpipe.data.annotated import AnnotatedImage, Entry, to_json
from augpipe.data.content import FileContent
from augpipe.data.decode import as_rgb
from augpipe.data.formats import Format, placed, placed_mask
from augpipe.data.masks import open_mask
from augpipe.data.places import check_size
from augpipe.data.splitfiles import dumped
from augpipe.errors import DataError
from augpipe.expansion.blocks import Order
from augpipe.expansion.manifest import Extra, Parameters, Row, parameters
from augpipe.expansion.names import Output
from augpipe.expansion.objects import Objects, flips
from augpipe.expansion.origins import Made, Origin, named
from augpipe.expansion.render import Renderer, Sampled
from augpipe.expansion.shared import Shared, check_shareable
from augpipe.expansion.sources import Plan
from augpipe.ir import Foreign
from augpipe.kinds.convert import array_of, movable, pil_mask
from augpipe.rng import Trace
from augpipe.targets import Sample
from augpipe.types import Array, Picture


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
    _words: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        nodes = self.renderer.pipeline.nodes
        pairs = self.renderer.recipe.keypoints.flip_pairs
        ids = (each.id for each in self.plan.dataset.entries)
        words = frozenset(each for each in ids if isinstance(each, str))
        object.__setattr__(self, "_words", words)
        object.__setattr__(self, "target", self.plan.target)
        object.__setattr__(self, "_flips", flips(self.plan.dataset.meta, pairs))
        object.__setattr__(self, "_solid", any(node.kind is Foreign for node in nodes))

    def order(self, index: int, outputs: Sequence[Output]) -> Order:
        """Returns what `made_of` makes outputs of."""
        return Order(self.origin(index), outputs, lambda: self._source(index, outputs))

    def _source(self, index: int, outputs: Sequence[Output]) -> tuple[list[Made], _AnnotatedSource]:
        image, data, digest = self._read(index)
        origin = replace(self.origin(index), label=image.label)
        originals = [
            self._original(image, origin, digest, each, data)
            for each in outputs
            if each.copy is None
        ]
        pixels, objects = self._opened(image, data, origin)
        drawn = _mask_of(image, origin)
        mask = None if drawn is None else _planes(drawn, origin.relative)
        sample = objects.sample(pixels, mask)
        return originals, _AnnotatedSource(self, origin, digest, objects, sample, drawn)

    def origin(self, index: int) -> Origin:
        """Returns an image as the manifest knows it, but for its class, which its record has."""
        entry = self.plan.dataset.entries[index]
        return Origin(self.plan.dataset.root, entry.relative, None, index)

    def _read(self, index: int) -> tuple[AnnotatedImage, bytes, str]:
        """Returns an image's record, its content, and the hash of both."""
        image = self.plan.dataset[index]
        placed(self.target, image)
        data = image.content.read()
        digest = hashlib.sha256(data)
        digest.update(dumped(to_json(image)).encode())
        return image, data, digest.hexdigest()

    def _opened(self, image: AnnotatedImage, data: bytes, origin: Origin) -> tuple[Array, Objects]:
        """Returns an image's pixels and objects."""
        pixels = self.renderer.open(data, origin.relative)
        size = (pixels.shape[0], pixels.shape[1])
        check_size(image.size, size, origin.relative)
        return pixels, Objects(image, self._flips, self._solid, size)

    def together(
        self, copy: int, members: Sequence[tuple[int, Output]]
    ) -> tuple[list[Made], dict[int, str]]:
        """Returns one copy of images that share a batch; see `Renderer.together`.

        Args:
            copy: Which copy.
            members: The images' indices, each with what is made of it.

        Raises:
            AugpipeError: The images are no batch, or the batch section cannot take them.
        """
        failed: dict[int, str] = {}
        ready = self._sampled(copy, members, failed, rgb=False)
        if len({each.sampled.given for each in ready}) > 1:
            kept = [(each.sampled.origin.index, each.sampled.output) for each in ready]
            ready = self._sampled(copy, kept, failed, rgb=True)
        return self._batch(copy, ready, failed) if ready else [], failed

    def _sampled(
        self,
        copy: int,
        members: Sequence[tuple[int, Output]],
        failed: dict[int, str],
        rgb: bool,
    ) -> list[_Member]:
        """Does the sample section to one copy of each image; notes which cannot be used."""
        done: list[_Member] = []
        for index, output in members:
            trace: Trace = {}
            origin = self.origin(index)
            try:
                with named(origin):
                    image, data, digest = self._read(index)
                    origin = replace(origin, label=image.label)
                    pixels, objects = self._opened(image, data, origin)
                    pixels = pixels.pixels() if isinstance(pixels, Picture) else pixels
                    drawn = _mask_of(image, origin)
                    mask = None if drawn is None else _planes(drawn, origin.relative)
                    check_shareable(image, mask)
                    given = objects.sample(as_rgb(pixels) if rgb else pixels, mask)
                    (sample,) = self.renderer.pipeline_of(origin.label).run(
                        [given], np.array([index], np.int64), copy, trace
                    )
                    moved = objects.moved(sample, self.renderer.recipe.boxes)
            except DataError as error:
                failed[index] = error.reason
                continue
            own = Sampled(
                origin, output, digest, sample.image, pixels.shape[2], parameters(trace, 1)[0]
            )
            masked = None if drawn is None else (drawn, sample.masks[0])
            done.append(_Member(own, replace(image, annotations=moved), masked))
        return done

    def _batch(self, copy: int, ready: Sequence[_Member], failed: dict[int, str]) -> list[Made]:
        """Does the batch section to images of one size, and to all that belongs to them."""
        masked = [each.mask for each in ready if each.mask is not None]
        if masked:
            why = "has no mask, and others of its batch have one: such are not mixed"
            failed |= {one.sampled.origin.index: why for one in ready if one.mask is None}
            ready = [one for one in ready if one.mask is not None]
        own = [each.sampled for each in ready]
        size = (own[0].image.shape[0], own[0].image.shape[1])
        shared = Shared([each.image for each in ready], [m for _, m in masked], size, self._flips)
        given = shared.targets()
        if (numbers := self.renderer.numbers(own)) is not None:
            given["label"] = numbers
        pixels, moved, trace = self.renderer.through_section(copy, own, given)
        drawn = parameters(trace, len(ready))
        made = []
        for k, (each, image, mask) in enumerate(ready):
            index = each.origin.index
            try:
                picture = np.ascontiguousarray(pixels[k])
                data = self.renderer.encoded(picture, each.origin)
            except DataError as error:
                failed[index] = error.reason
                continue
            row = self.renderer.batch_row(own, k, data, drawn[k], moved.get("label"))
            file = None
            if mask is not None:
                own_mask, plane = mask
                file = _png(moved["mask"][k].numpy().astype(plane.dtype)[:, :, None], own_mask)
            record = replace(
                self.renamed(image, each.output, index, copy, picture),
                annotations=shared.objects(moved, k, (picture.shape[0], picture.shape[1])),
            )
            made.append(self.made(row, record, data, file))
        return made

    def _original(
        self, image: AnnotatedImage, origin: Origin, digest: str, output: Output, data: bytes
    ) -> Made:
        own = replace(image, name=self._name(image, output))
        mask = None if image.mask is None else image.mask.read()
        row = self.renderer.row(origin, digest, output, data)
        return self.made(row, own, data, mask)

    def renamed(
        self, image: AnnotatedImage, output: Output, index: int, copy: int, pixels: Array
    ) -> AnnotatedImage:
        """Returns an image's record as that of a copy, but for its objects."""
        return replace(
            image,
            name=self._name(image, output),
            size=(pixels.shape[0], pixels.shape[1]),
            mask=None if image.mask is None else FileContent(Path("mask.png")),
            id=self._id(image, index, copy),
            source=_link(image, copy),
            extra=_extra(image, pixels),
        )

    def made(self, row: Row, image: AnnotatedImage, data: bytes, mask: bytes | None) -> Made:
        """Returns an output, with the image's record in its row."""
        extra = None
        if mask is not None:
            where = placed_mask(self.target, image)
            extra = Extra(where, hashlib.sha256(mask).hexdigest(), len(mask))
        return Made(replace(row, record=to_json(image), mask=extra), data, mask)

    def mask_of(self, index: int, output: Output) -> str | None:
        """Returns where the mask of an output lies, if its image has one."""
        try:
            image = self.plan.dataset[index]
            mask = image.mask if output.copy is None else FileContent(Path("mask.png"))
            own = replace(image, name=self._name(image, output), mask=mask)
            return None if image.mask is None else placed_mask(self.target, own)
        except DataError:  # so nothing was made of it
            return None

    def _name(self, image: AnnotatedImage, output: Output) -> str:
        """Returns the name that an output has within its split."""
        place = self.target.place(image)
        return output.path[len(place) - len(image.name) :]

    def _id(self, image: AnnotatedImage, index: int, copy: int) -> int | str | None:
        match image.id:
            case int():
                first = self.plan.dataset.last[0] + 1
                return first + index * self.renderer.most + copy
            case str():
                own = f"{image.id}__{copy}"
                while own in self._words:
                    own += "_"
                return own
        return None


@dataclass(frozen=True, slots=True)
class _AnnotatedSource:
    """An image that was read; see `blocks.Opened`."""

    renderer: AnnotatedRenderer
    origin: Origin
    digest: str
    objects: Objects
    sample: Sample
    mask: Image.Image | None

    @property
    def pixels(self) -> int:
        return self.objects.size[0] * self.objects.size[1]

    def given(self, copy: int) -> Sample:
        return self.sample

    def made(self, output: Output, sample: Sample, drawn: Parameters) -> Made:
        assert output.copy is not None
        own, index = self.renderer.renderer, self.origin.index
        data = own.encoded(sample.image, self.origin)
        image = replace(
            self.renderer.renamed(self.objects.image, output, index, output.copy, sample.image),
            annotations=self.objects.moved(sample, own.recipe.boxes),
        )
        row = own.row(self.origin, self.digest, output, data, drawn)
        mask = None if self.mask is None else _png(sample.masks[0], self.mask)
        return self.renderer.made(row, image, data, mask)


def _link(image: AnnotatedImage, copy: int) -> dict[str, Any]:
    """Returns what says which image an augmented one was."""
    own = {} if image.id is None else {"id": image.id}
    return {**own, "name": Entry(image.name, image.split).relative, "copy": copy}


def _extra(image: AnnotatedImage, pixels: Array) -> Mapping[str, Any]:
    """Returns an image's other fields, as of new pixels: VOC's depth, and no path of the old."""
    extra = {name: value for name, value in image.extra.items() if name != "path"}
    size = extra.get("size")
    if isinstance(size, dict) and "depth" in size:
        extra["size"] = {**size, "depth": str(pixels.shape[2])}
    return extra


class _Member(NamedTuple):
    """One image on its way through a batch.

    Args:
        sampled: Its pixels, the sample section behind them.
        image: Its record, with its objects as the sample section left them.
        mask: Its own mask as it was, and as it is now.
    """

    sampled: Sampled
    image: AnnotatedImage
    mask: tuple[Image.Image, Array] | None


def _mask_of(image: AnnotatedImage, origin: Origin) -> Image.Image | None:
    return None if image.mask is None else open_mask(image.mask, origin.relative)


def _planes(mask: Image.Image, where: str) -> Array:
    data = array_of(mask)
    return movable(data[:, :, None] if data.ndim == 2 else data, where)


def _png(mask: Array, like: Image.Image) -> bytes:
    picture = Image.fromarray(mask) if like.mode == "RGB" else pil_mask(mask[:, :, 0], like)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()
