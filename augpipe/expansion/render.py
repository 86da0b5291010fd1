"""From sources to the content of their outputs and their manifest rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from augpipe.data.decode import as_rgb, decode, read
from augpipe.data.encode import encode
from augpipe.data.jpeg import open_jpeg
from augpipe.errors import AugpipeError, DataError
from augpipe.expansion.blocks import Order
from augpipe.expansion.generated import Generator
from augpipe.expansion.manifest import Parameters, Row, parameters, versions_for
from augpipe.expansion.names import Output
from augpipe.expansion.origins import Made, Origin, named
from augpipe.expansion.record import Record, Settings
from augpipe.pipeline import Pipeline
from augpipe.recipe import Recipe
from augpipe.rng import Trace
from augpipe.settings import KeypointRules
from augpipe.targets import Sample
from augpipe.types import Array, Picture

if TYPE_CHECKING:
    from torch import Tensor

    from augpipe.batch import BatchSection


@dataclass(frozen=True, slots=True)
class Renderer:
    """Makes outputs.

    Args:
        recipe: The recipe, as `jobs.for_files` gives it: with a batch section only if that needs
            a batch.
        settings: The expansion's settings.
        classes: The names of the classes.
        to: The format of an annotated dataset, or None.
        most: The most copies that an image gets.

    Attributes:
        pipeline: The sample section.
        own: By class, the sample section of those that have one of another strength.
    """

    recipe: Recipe
    settings: Settings
    classes: Sequence[str] = ()
    to: str | None = None
    most: int = 1
    pipeline: Pipeline = field(init=False)
    own: Mapping[str | None, Pipeline] = field(init=False)
    versions: dict[str, str] = field(init=False)
    generator: Generator | None = field(init=False)
    section: BatchSection | None = field(init=False)

    def __post_init__(self) -> None:
        rule = self.recipe.gan_generate
        made = None if rule is None else Generator(rule, self.recipe.seed, self.classes)
        pipeline = Pipeline(self.recipe)
        section = None
        if self.recipe.batch:
            from augpipe.batch import BatchSection

            # Left and right change places by the category of each object (expansion/shared.py).
            plain = self.recipe.model_copy(update={"keypoints": KeypointRules()})
            section = BatchSection(plain, pipeline.batch_nodes, self.classes or None)
        used = versions_for(self.recipe, self.to)
        own = {
            name: Pipeline(self.recipe.at_strength(each.strength))
            for name, each in self.recipe.per_class.items()
            if each.strength != 1.0
        }
        parts = {
            "pipeline": pipeline,
            "own": own,
            "versions": used,
            "generator": made,
            "section": section,
        }
        for name, part in parts.items():
            object.__setattr__(self, name, part)

    def pipeline_of(self, label: str | None) -> Pipeline:
        """Returns the sample section for images of a class."""
        return self.own.get(label, self.pipeline)

    def order(self, origin: Origin, outputs: Sequence[Output]) -> Order:
        """Returns what `made_of` makes outputs of.

        The source is read once: its hash is of the bytes that were decoded.
        """
        return Order(origin, outputs, lambda: self._opened(origin, outputs))

    def _opened(self, origin: Origin, outputs: Sequence[Output]) -> tuple[list[Made], _Source]:
        originals = [each for each in outputs if each.copy is None]
        if origin.generated:
            digest, image = self._generated(origin)
            source = _Source(self, origin, digest, image)
            contents = [encode(image(0), "png", 100, name=origin.relative) for _ in originals]
        else:
            data, digest, pixels = self._read(origin)
            size = pixels.shape[0] * pixels.shape[1]
            source = _Source(self, origin, digest, lambda copy: pixels, size)
            contents = [data] * len(originals)
        return [
            Made(self.row(origin, digest, each, content), content)
            for each, content in zip(originals, contents, strict=True)
        ], source

    def together(
        self, copy: int, members: Sequence[tuple[Origin, Output]]
    ) -> tuple[list[Made], dict[int, str]]:
        """Returns the outputs of one copy of sources that share a batch.

        Those that cannot be used are left out of it. Where all others are grey they stay so; else
        all are RGB, before the sample section as in `pipe.loader`.

        Returns:
            The outputs in the members' order; and of each index that was left out, why.

        Raises:
            AugpipeError: The images are no batch, or the batch section cannot take them.
        """
        failed: dict[int, str] = {}
        ready = self._sampled(copy, members, failed, rgb=False)
        if len({each.given for each in ready}) > 1:
            kept = [(each.origin, each.output) for each in ready]
            ready = self._sampled(copy, kept, failed, rgb=True)
        return self._batch(copy, ready, failed) if ready else [], failed

    def _sampled(
        self,
        copy: int,
        members: Sequence[tuple[Origin, Output]],
        failed: dict[int, str],
        rgb: bool,
    ) -> list[Sampled]:
        """Does the sample section to one copy of each source; notes which cannot be used."""
        done: list[Sampled] = []
        for origin, output in members:
            trace: Trace = {}
            try:
                with named(origin):
                    if origin.generated:
                        digest, made = self._generated(origin)
                        image = made(copy)
                    else:
                        _, digest, image = self._read(origin)
                        image = image.pixels() if isinstance(image, Picture) else image
                    channels = image.shape[2]
                    given = Sample(as_rgb(image) if rgb else image)
                    index = np.array([origin.index], np.int64)
                    (sample,) = self.pipeline_of(origin.label).run([given], index, copy, trace)
            except DataError as error:
                failed[origin.index] = error.reason
                continue
            (drawn,) = parameters(trace, 1)
            done.append(Sampled(origin, output, digest, sample.image, channels, drawn))
        return done

    def _batch(self, copy: int, ready: Sequence[Sampled], failed: dict[int, str]) -> list[Made]:
        """Does the batch section to images of one size."""
        classes = self.numbers(ready)
        pixels, targets, trace = self.through_section(copy, ready, classes)
        drawn = parameters(trace, len(ready))
        made = []
        for k, each in enumerate(ready):
            try:
                data = self.encoded(np.ascontiguousarray(pixels[k]), each.origin)
            except DataError as error:
                failed[each.origin.index] = error.reason
                continue
            row = self.batch_row(ready, k, data, drawn[k], None if classes is None else targets)
            made.append(Made(row, data))
        return made

    def numbers(self, ready: Sequence[Sampled]) -> Tensor | None:
        """Returns the numbers of the classes of sources, if all have one."""
        import torch

        labels = [each.origin.label for each in ready]
        if None in labels:
            return None
        return torch.tensor([self.classes.index(str(label)) for label in labels])

    def through_section(
        self, copy: int, ready: Sequence[Sampled], targets: Any
    ) -> tuple[Array, Any, Trace]:
        """Does the batch section to sources of one size, in epoch `copy`.

        Args:
            copy: The copy that is made.
            ready: The sources, the sample section behind them.
            targets: What belongs to them, see `augpipe.kinds.batches.open_batch`; or None.

        Returns:
            (n, H, W, C), what became of the targets, and what was drawn.

        Raises:
            AugpipeError: The images are no batch, or the batch section cannot take them.
        """
        import torch

        assert self.section is not None
        shapes = {each.image.shape: each.origin.relative for each in ready}
        if len(shapes) > 1:
            (a, one), (b, other) = list(shapes.items())[:2]
            raise AugpipeError(
                f"{one} is {a[0]} × {a[1]} and {other} is {b[0]} × {b[1]}: a batch needs one "
                "size: end the geometry under 'sample:' with resize or random_resized_crop"
            )
        stacked = np.stack([each.image for each in ready]).transpose(0, 3, 1, 2)
        keys = np.array([each.origin.index for each in ready], np.int64)
        trace: Trace = {}
        images = torch.from_numpy(np.ascontiguousarray(stacked))
        try:
            out = self.section(images, targets, index=keys, epoch=copy, trace=trace)
        except DataError as error:
            raise AugpipeError(f"the batch section cannot be done: {error}") from error
        images, moved = (out, None) if targets is None else out
        return images.permute(0, 2, 3, 1).numpy(), moved, trace

    def batch_row(
        self,
        ready: Sequence[Sampled],
        k: int,
        data: bytes,
        drawn: Parameters,
        labels: Tensor | None,
    ) -> Row:
        """Returns the row of the output of source k of a batch.

        Args:
            ready: The sources that shared the batch.
            k: Which of them.
            data: The output's content.
            drawn: What the batch section drew.
            labels: What became of the classes' numbers; None where there are none.
        """
        each = ready[k]
        if "constraint" in drawn:  # the sample section may have drawn again too
            drawn["constraint in batch"] = drawn.pop("constraint")
        drawn = {**each.parameters, **drawn}
        row = self.row(each.origin, each.digest, each.output, data, drawn)
        shares = None if labels is None or labels.ndim == 1 else self._shares(labels[k])
        return replace(row, batch=tuple(one.origin.index for one in ready), shares=shares)

    def _shares(self, row: Any) -> dict[str, float]:
        """Returns the classes that have a share, by name; a number where there is no name."""
        names = [*self.classes, *map(str, range(len(self.classes), len(row)))]
        return {name: share for name, share in zip(names, row.tolist(), strict=True) if share}

    def _generated(self, origin: Origin) -> tuple[str, Callable[[int], Array]]:
        """Returns the hash of the weights, and what makes the image of a copy."""
        made, label = self.generator, origin.label
        assert made is not None
        assert label is not None
        return made.digest, lambda copy: made.image(label, origin.index, copy)

    def _read(self, origin: Origin) -> tuple[bytes, str, Array]:
        """Returns a source's content, its hash, and its pixels, or a Picture in their place."""
        data = read(origin.path, name=origin.relative)
        image = self.open(data, origin.relative)
        return data, hashlib.sha256(data).hexdigest(), image

    def open(self, data: bytes, name: str) -> Array:
        """Returns the pixels of a file's content, or a Picture in their place.

        Raises:
            DataError: If it is no image that can be decoded.
        """
        if self.settings.scaled_decoding:
            picture = open_jpeg(data, name, scaled=True)
            if picture is not None:
                return cast(Array, picture)  # until the first op has looked at it
        return decode(data, name=name)

    def encoded(self, image: Array, origin: Origin) -> bytes:
        """Returns the content of an output.

        Raises:
            DataError: If the format cannot hold the image.
        """
        settings = self.settings
        return encode(image, settings.format, settings.quality, name=origin.relative)

    def row(
        self,
        origin: Origin,
        digest: str,
        output: Output,
        data: bytes,
        drawn: Parameters | None = None,
    ) -> Row:
        """Returns the row of an output."""
        return Row(
            output=output.path,
            sha256=hashlib.sha256(data).hexdigest(),
            bytes=len(data),
            source=origin.relative,
            source_sha256=digest,
            label=origin.label,
            index=origin.index,
            copy=output.copy,
            seed=self.recipe.seed,
            epoch=output.copy,
            parameters=drawn or {},
            versions=self.versions,
            generated=origin.generated,
        )


def renderer_of(record: Record, recipe: Recipe) -> Renderer:
    """Returns what makes the outputs of a job."""
    to = None if record.dataset is None else record.dataset.to
    return Renderer(recipe, record.settings, record.classes, to, record.most)


@dataclass(frozen=True, slots=True)
class Sampled:
    """One source on its way through a batch, the sample section behind it.

    Args:
        origin: The source.
        output: What is made of it.
        digest: Its hash.
        image: As the sample section left it.
        given: How many channels it had before.
        parameters: What was drawn.
    """

    origin: Origin
    output: Output
    digest: str
    image: Array
    given: int
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class _Source:
    """A source that was read; see `blocks.Opened`."""

    renderer: Renderer
    origin: Origin
    digest: str
    image: Callable[[int], Array]
    pixels: int = 1

    def given(self, copy: int) -> Sample:
        return Sample(self.image(copy))

    def made(self, output: Output, sample: Sample, drawn: Parameters) -> Made:
        data = self.renderer.encoded(sample.image, self.origin)
        return Made(self.renderer.row(self.origin, self.digest, output, data, drawn), data)
