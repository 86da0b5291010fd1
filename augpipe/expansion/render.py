"""From one source to the content of its outputs and their manifest rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from augpipe.data.decode import decode, read
from augpipe.data.encode import encode
from augpipe.data.jpeg import open_jpeg
from augpipe.errors import AugpipeError, DataError, in_a_line
from augpipe.expansion.jobs import Settings
from augpipe.expansion.manifest import Parameters, Row, parameters, versions
from augpipe.expansion.names import Output
from augpipe.pipeline import Pipeline
from augpipe.recipe import Recipe
from augpipe.rng import Trace
from augpipe.targets import Sample
from augpipe.types import Array

_PIXELS = 4_000_000  # held at a time: many copies of a small image, few of a large one
_FIRST, _MOST = 4, 64  # copies drawn at a time: at first, and when the size they get is known


@dataclass(frozen=True, slots=True)
class Origin:
    """A source as the manifest knows it.

    Args:
        path: Where it is.
        relative: Its path from the input folder.
        label: Its class, or None.
        index: Its index.
    """

    path: Path
    relative: str
    label: str | None
    index: int


@dataclass(frozen=True, slots=True)
class Renderer:
    """Makes outputs.

    Args:
        recipe: The recipe, as `jobs.for_files` gives it.
        settings: The expansion's settings.
    """

    recipe: Recipe
    settings: Settings
    pipeline: Pipeline = field(init=False)
    versions: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pipeline", Pipeline(self.recipe))
        object.__setattr__(self, "versions", versions())

    def render(self, origin: Origin, outputs: Sequence[Output]) -> Iterator[tuple[Row, bytes]]:
        """Yields each output's row and content, in the order given.

        The source is read once: its hash is of the bytes that were decoded. Copy k is what the
        pipeline makes of the source's index in epoch k, whichever copies are asked for together.

        Raises:
            DataError: If the source cannot be decoded, the recipe or the format cannot take
                it, or anything else goes wrong with it. Its `where` is the source's relative
                path.
        """
        try:
            data = read(origin.path, name=origin.relative)
            image = self._open(data, origin.relative)
            digest = hashlib.sha256(data).hexdigest()
            for each in outputs:
                if each.copy is None:
                    yield self._row(origin, digest, each, data), data
            del data  # the copies need the pixels only
            yield from self._copies(image, origin, digest, outputs)
        except DataError as error:
            own = error.where == origin.relative
            raise DataError(origin.relative, error.reason if own else str(error)) from error
        except MemoryError as error:
            raise DataError(origin.relative, "not enough memory") from error
        except AugpipeError:
            raise
        except Exception as error:  # one image must not end the work on all others
            raise DataError(origin.relative, in_a_line(error)) from error

    def _open(self, data: bytes, name: str) -> Array:
        if self.settings.scaled_decoding:
            picture = open_jpeg(data, name, scaled=True)
            if picture is not None:
                return cast(Array, picture)  # until the first op has looked at it
        return decode(data, name=name)

    def _copies(
        self, image: Array, origin: Origin, digest: str, outputs: Sequence[Output]
    ) -> Iterator[tuple[Row, bytes]]:
        copies = [(each, each.copy) for each in outputs if each.copy is not None]
        pixels, most = image.shape[0] * image.shape[1], _FIRST
        while copies:
            count = max(1, min(most, _PIXELS // pixels))
            some, copies = copies[:count], copies[count:]
            trace: Trace = {}
            samples = self.pipeline.run(
                [Sample(image)] * len(some),
                np.full(len(some), origin.index),
                np.array([copy for _, copy in some]),
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
        )
