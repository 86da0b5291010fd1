"""From sources to the content of their outputs and their manifest rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from augpipe.data.decode import as_rgb, decode, read
from augpipe.data.encode import encode
from augpipe.data.jpeg import open_jpeg
from augpipe.errors import AugpipeError, DataError, in_a_line
from augpipe.expansion.generated import Generator
from augpipe.expansion.manifest import Parameters, Row, parameters, versions_for
from augpipe.expansion.names import Output
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

_PIXELS = 4_000_000  # held at a time: many copies of a small image, few of a large one
_FIRST, _MOST = 4, 64  # copies drawn at a time: at first, and when the size they get is known


@dataclass(frozen=True, slots=True)
class Origin:
    """A source as the manifest knows it.

    Args:
        path: Where it is; of a generated one, where the generator's weights are.
        relative: Its path from the input folder.
        label: Its class, or None.
        index: Its index.
        generated: Whether it is one of `gan_generate`.
    """

    path: Path
    relative: str
    label: str | None
    index: int
    generated: bool = False


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

    def render(self, origin: Origin, outputs: Sequence[Output]) -> Iterator[tuple[Row, bytes]]:
        """Yields the row and the content of each output of one source, in the order given.

        The source is read once: its hash is of the bytes that were decoded. Copy k is what the
        pipeline makes of the source's index in epoch k, whichever copies are asked for together.

        Raises:
            DataError: If the source cannot be decoded, the recipe or the format cannot take
                it, or anything else goes wrong with it. Its `where` is the source's relative
                path.
        """
        with named(origin):
            if origin.generated:
                digest, images = self._generated(origin)
                for each in outputs:
                    if each.copy is None:
                        data = encode(images([0])[0], "png", 100, name=origin.relative)
                        yield self.row(origin, digest, each, data), data
                yield from self._copies(images, origin, digest, outputs)
                return
            data, digest, image = self._read(origin)
            for each in outputs:
                if each.copy is None:
                    yield self.row(origin, digest, each, data), data
            del data  # the copies need the pixels only
            pixels = image.shape[0] * image.shape[1]
            yield from self._copies(
                lambda some: [image] * len(some), origin, digest, outputs, pixels
            )

    def together(
        self, copy: int, members: Sequence[tuple[Origin, Output]]
    ) -> tuple[list[tuple[Row, bytes]], dict[int, str]]:
        """Returns rows and contents of one copy of sources that share a batch.

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
                        digest, images = self._generated(origin)
                        (image,) = images([copy])
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
            drawn = parameters(trace, 0)
            done.append(Sampled(origin, output, digest, sample.image, channels, drawn))
        return done

    def _batch(
        self, copy: int, ready: Sequence[Sampled], failed: dict[int, str]
    ) -> list[tuple[Row, bytes]]:
        """Does the batch section to images of one size."""
        classes = self.numbers(ready)
        pixels, targets, trace = self.through_section(copy, ready, classes)
        made = []
        for k, each in enumerate(ready):
            image, name = np.ascontiguousarray(pixels[k]), each.origin.relative
            try:
                data = encode(image, self.settings.format, self.settings.quality, name=name)
            except DataError as error:
                failed[each.origin.index] = error.reason
                continue
            row = self.batch_row(ready, k, data, trace, None if classes is None else targets)
            made.append((row, data))
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
        self, ready: Sequence[Sampled], k: int, data: bytes, trace: Trace, labels: Tensor | None
    ) -> Row:
        """Returns the row of the output of source k of a batch.

        Args:
            ready: The sources that shared the batch.
            k: Which of them.
            data: The output's content.
            trace: What the batch section drew.
            labels: What became of the classes' numbers; None where there are none.
        """
        each = ready[k]
        drawn = {**each.parameters, **parameters(trace, k)}
        row = self.row(each.origin, each.digest, each.output, data, drawn)
        shares = None if labels is None or labels.ndim == 1 else self._shares(labels[k])
        return replace(row, batch=tuple(one.origin.index for one in ready), shares=shares)

    def _shares(self, row: Any) -> dict[str, float]:
        """Returns the classes that have a share, by name; a number where there is no name."""
        names = [*self.classes, *map(str, range(len(self.classes), len(row)))]
        return {name: share for name, share in zip(names, row.tolist(), strict=True) if share}

    def _generated(self, origin: Origin) -> tuple[str, Callable[[Sequence[int]], Sequence[Array]]]:
        """Returns the hash of the weights, and what makes images of some copies."""
        made, label = self.generator, origin.label
        assert made is not None
        assert label is not None

        def images(some: Sequence[int]) -> Sequence[Array]:
            return [made.image(label, origin.index, copy) for copy in some]

        return made.digest, images

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

    def _copies(
        self,
        images: Callable[[Sequence[int]], Sequence[Array]],
        origin: Origin,
        digest: str,
        outputs: Sequence[Output],
        pixels: int = 1,
    ) -> Iterator[tuple[Row, bytes]]:
        copies = [(each, each.copy) for each in outputs if each.copy is not None]
        most = _FIRST
        while copies:
            count = max(1, min(most, _PIXELS // pixels))
            some, copies = copies[:count], copies[count:]
            epochs = [copy for _, copy in some]
            trace: Trace = {}
            samples = self.pipeline_of(origin.label).run(
                [Sample(image) for image in images(epochs)],
                np.full(len(some), origin.index),
                np.array(epochs),
                trace,
            )
            for row, ((each, _), sample) in enumerate(zip(some, samples, strict=True)):
                made = sample.image
                data = encode(
                    made, self.settings.format, self.settings.quality, name=origin.relative
                )
                yield self.row(origin, digest, each, data, parameters(trace, row)), data
                pixels, most = max(pixels, made.shape[0] * made.shape[1]), _MOST

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


@contextmanager
def named(origin: Origin) -> Iterator[None]:
    """Makes whatever goes wrong with one source a DataError that names it."""
    try:
        yield
    except DataError as error:
        own = error.where == origin.relative
        raise DataError(origin.relative, error.reason if own else str(error)) from error
    except MemoryError as error:
        raise DataError(origin.relative, "not enough memory") from error
    except AugpipeError:
        raise
    except Exception as error:  # one image must not end the work on all others
        raise DataError(origin.relative, in_a_line(error)) from error
