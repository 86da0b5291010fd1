"""From sources to the content of their outputs and their manifest rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from augpipe.data.decode import as_rgb, decode, read
from augpipe.data.encode import encode
from augpipe.data.jpeg import open_jpeg
from augpipe.errors import AugpipeError, DataError, UsageError, in_a_line
from augpipe.expansion.generated import Generator
from augpipe.expansion.jobs import Settings
from augpipe.expansion.manifest import Parameters, Row, parameters, versions_for
from augpipe.expansion.names import Output
from augpipe.pipeline import Pipeline
from augpipe.plan.nodes import realise
from augpipe.recipe import Recipe
from augpipe.rng import Draws, Trace
from augpipe.targets import Sample
from augpipe.types import Array, Frame, Picture

if TYPE_CHECKING:
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
    """

    recipe: Recipe
    settings: Settings
    classes: Sequence[str] = ()
    pipeline: Pipeline = field(init=False)
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

            section = BatchSection(self.recipe, pipeline.batch_nodes, self.classes or None)
        used = versions_for(self.recipe)
        parts = {"pipeline": pipeline, "versions": used, "generator": made, "section": section}
        for name, each in parts.items():
            object.__setattr__(self, name, each)

    def render(self, origin: Origin, outputs: Sequence[Output]) -> Iterator[tuple[Row, bytes]]:
        """Yields the row and the content of each output of one source, in the order given.

        The source is read once: its hash is of the bytes that were decoded. Copy k is what the
        pipeline makes of the source's index in epoch k, whichever copies are asked for together.

        Raises:
            DataError: If the source cannot be decoded, the recipe or the format cannot take
                it, or anything else goes wrong with it. Its `where` is the source's relative
                path.
        """
        with _named(origin):
            if origin.generated:
                digest, images = self._generated(origin)
                for each in outputs:
                    if each.copy is None:
                        data = encode(images([0])[0], "png", 100, name=origin.relative)
                        yield self._row(origin, digest, each, data), data
                yield from self._copies(images, origin, digest, outputs)
                return
            data, digest, image = self._read(origin)
            for each in outputs:
                if each.copy is None:
                    yield self._row(origin, digest, each, data), data
            del data  # the copies need the pixels only
            yield from self._copies(lambda some: [image] * len(some), origin, digest, outputs)

    def together(
        self, copy: int, members: Sequence[tuple[Origin, Output]]
    ) -> tuple[list[tuple[Row, bytes]], dict[int, str]]:
        """Returns rows and contents of one copy of sources that share a batch.

        Those that cannot be used are left out of it. Grey images stay grey where all are; else
        all are RGB.

        Returns:
            The outputs in the members' order; and of each index that was left out, why.

        Raises:
            UsageError: The images are no batch, or the batch section cannot take them.
        """
        failed: dict[int, str] = {}
        pixels: list[_Pixels] = []
        for origin, output in members:
            try:
                with _named(origin):
                    if origin.generated:
                        digest, images = self._generated(origin)
                        image = images([copy])[0]
                    else:
                        _, digest, image = self._read(origin, whole=True)
                    pixels.append(_Pixels(origin, output, digest, image))
            except DataError as error:
                failed[origin.index] = error.reason
        if len({each.image.shape[2] for each in pixels}) > 1:
            pixels = [replace(each, image=as_rgb(each.image)) for each in pixels]
        trace: Trace = {}
        try:
            done = self._sampled(pixels, copy, trace)
        except Exception:  # one by one, to find whose fault it is
            pixels = [each for each in pixels if self._is_fine(each, copy, failed)]
            trace.clear()
            done = self._sampled(pixels, copy, trace)
        return self._batch(copy, done, trace) if done else [], failed

    def _sampled(self, pixels: Sequence[_Pixels], copy: int, trace: Trace) -> list[_Pixels]:
        """Does the sample section to one copy of several sources."""
        indices = np.array([each.origin.index for each in pixels], np.int64)
        samples = self.pipeline.run([Sample(each.image) for each in pixels], indices, copy, trace)
        return [replace(e, image=s.image) for e, s in zip(pixels, samples, strict=True)]

    def _is_fine(self, one: _Pixels, copy: int, failed: dict[int, str]) -> bool:
        try:
            with _named(one.origin):
                self._sampled([one], copy, {})
        except DataError as error:
            failed[one.origin.index] = error.reason
            return False
        return True

    def _batch(self, copy: int, ready: Sequence[_Pixels], trace: Trace) -> list[tuple[Row, bytes]]:
        """Does the batch section to images of one size."""
        import torch

        assert self.section is not None
        shapes = {each.image.shape: each.origin.relative for each in ready}
        if len(shapes) > 1:
            (a, one), (b, other) = list(shapes.items())[:2]
            raise UsageError(
                f"{one} is {a[0]} × {a[1]} and {other} is {b[0]} × {b[1]}: a batch needs one "
                "size: end the geometry under 'sample:' with resize or random_resized_crop"
            )
        stacked = np.stack([each.image for each in ready]).transpose(0, 3, 1, 2)
        labels = [each.origin.label for each in ready]
        classes = None
        if None not in labels:
            classes = torch.tensor([self.classes.index(str(label)) for label in labels])
        keys = np.array([each.origin.index for each in ready])
        try:
            out = self.section(
                torch.from_numpy(np.ascontiguousarray(stacked)), classes, index=keys, epoch=copy
            )
        except DataError as error:
            raise UsageError(f"the batch section cannot be done: {error}") from error
        images, targets = (out, None) if classes is None else out
        sizes = np.tile(np.array(stacked.shape[2:]), (len(ready), 1))
        draws = Draws(self.recipe.seed, keys, copy, trace=trace)
        realise(self.pipeline.batch_nodes, draws, Frame(sizes))
        pixels = images.permute(0, 2, 3, 1).numpy()
        made = []
        for k, each in enumerate(ready):
            image, name = np.ascontiguousarray(pixels[k]), each.origin.relative
            data = encode(image, self.settings.format, self.settings.quality, name=name)
            row = self._row(each.origin, each.digest, each.output, data, parameters(trace, k))
            shares = None
            if targets is not None and targets.ndim == 2:
                pairs = zip(self.classes, targets[k].tolist(), strict=True)
                shares = {name: share for name, share in pairs if share}
            made.append((replace(row, batch=tuple(keys.tolist()), shares=shares), data))
        return made

    def _generated(self, origin: Origin) -> tuple[str, Callable[[Sequence[int]], Sequence[Array]]]:
        """Returns the hash of the weights, and what makes images of some copies."""
        made, label = self.generator, origin.label
        assert made is not None
        assert label is not None

        def images(some: Sequence[int]) -> Sequence[Array]:
            return list(made.images([label] * len(some), [origin.index] * len(some), some))

        return made.digest, images

    def _read(self, origin: Origin, whole: bool = False) -> tuple[bytes, str, Array]:
        """Returns a source's content, its hash, and its pixels or, unless `whole`, a Picture."""
        data = read(origin.path, name=origin.relative)
        image = self._open(data, origin.relative)
        if whole and isinstance(image, Picture):
            image = image.pixels()
        return data, hashlib.sha256(data).hexdigest(), image

    def _open(self, data: bytes, name: str) -> Array:
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
    ) -> Iterator[tuple[Row, bytes]]:
        copies = [(each, each.copy) for each in outputs if each.copy is not None]
        pixels, most = 0, _FIRST
        while copies:
            if not pixels:
                first = images([copies[0][1]])[0]
                pixels = first.shape[0] * first.shape[1]
            count = max(1, min(most, _PIXELS // pixels))
            some, copies = copies[:count], copies[count:]
            epochs = [copy for _, copy in some]
            trace: Trace = {}
            samples = self.pipeline.run(
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
                yield self._row(origin, digest, each, data, parameters(trace, row)), data
                pixels, most = max(pixels, made.shape[0] * made.shape[1]), _MOST

    def _row(
        self,
        origin: Origin,
        digest: str,
        output: Output,
        data: bytes,
        drawn: Parameters | None = None,
    ) -> Row:
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


@dataclass(frozen=True, slots=True)
class _Pixels:
    """One source on its way through a batch."""

    origin: Origin
    output: Output
    digest: str
    image: Array


@contextmanager
def _named(origin: Origin) -> Iterator[None]:
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
