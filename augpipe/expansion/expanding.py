"""Offline expansion: a folder of images to a folder of augmented ones, resumable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from augpipe.data.address import Address, place_of
from augpipe.data.claim import claimed
from augpipe.data.encode import Format
from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.expansion.claim import check_target, check_versions, sweep, take_over
from augpipe.expansion.engines import Run, are_apart, engine_of
from augpipe.expansion.finishing import drawn_again, finish, packed_contents
from augpipe.expansion.jobs import Job, Task, key_of, prepare
from augpipe.expansion.making import Making
from augpipe.expansion.manifest import Manifest, Row
from augpipe.expansion.names import stays_inside
from augpipe.expansion.progress import Meter, Progress
from augpipe.expansion.record import ERRORS, Settings
from augpipe.expansion.skipped import SkippedFile
from augpipe.expansion.sources import plan_for
from augpipe.expansion.spool import manifest_of
from augpipe.expansion.summary import Summary
from augpipe.recipe import Recipe, as_recipe

_SHA256 = re.compile("[0-9a-f]{64}")


def expand(
    recipe: Recipe | str | Path,
    source: str | Path,
    out: str | Path,
    *,
    copies: int = 1,
    workers: int = 0,
    keep_originals: bool = False,
    format: Format = "png",
    quality: int = 95,
    split: str | None = None,
    scaled_decoding: bool = False,
    batch_size: int = 64,
    strict: bool = False,
    to: str | None = None,
    source_format: str | None = None,
    images: str | Path | None = None,
    overrides: Iterable[str] = (),
    engine: Literal["local", "ray"] = "local",
    progress: Progress | None = None,
) -> Summary:
    """Writes augmented copies of every image of a dataset into a new folder.

    Copy k of the image with index i (ImageFolder's) has the pixels of
    `pipe(image, index=i, epoch=k)`; where the batch section needs a batch, those of
    `pipe.batch` for the images that share one, in epoch k. What is written does not depend on
    `workers`, nor on how often the work was killed and begun again with the same arguments.

    The objects of an annotated dataset move with the pixels, by the recipe's `boxes`; each new
    image says which one it was made of. Its annotation files are written when all images are.

    Args:
        recipe: A recipe, or its file. Both sections are run, and `gan_generate` adds images.
        source: A folder of class folders, a flat folder, or one image; or an annotated dataset
            in one of the formats of `augpipe.data.formats`. Class folders, WebDataset and Parquet
            may be at an address of fsspec, such as "s3://bucket/folder".
        out: A new or empty folder, or that of the same expansion, which is then finished; or an
            address, for the same formats.
        copies: How many copies of each image, where the recipe's `per_class` and `balance` say
            nothing else; 0 for those that they say, or for originals alone.
        workers: How many work at a time; 0 works in the caller's thread. From 2 on they are forked
            processes, or threads where there are none of these (not on Linux, in a pool's
            worker) and at addresses. On a cluster 0 is as many as it has cores.
        keep_originals: Whether the images themselves are copied too, byte for byte.
        format: "png", "jpeg" or "webp".
        quality: 1 to 100, for JPEG and WebP.
        split: Which split of the source (see `augpipe.data.folder.scan`).
        scaled_decoding: Whether a JPEG of which 2, 4 or 8 pixels make one is decoded at a fraction
            of its size, as `pipe.loader` does: faster for large photos, and not the same to
            the bit (see `augpipe.data.jpeg`). Damage where no copy looks is then not seen.
        batch_size: How many images share a batch, where the recipe's batch section needs one: in
            each copy others, drawn by the seed. Labels that are mixed stand in the manifest.
        strict: Whether an image that cannot be used ends the work; else it is skipped and
            listed in errors.jsonl.
        to: The format of the new dataset; by default that of the source.
        source_format: The format of the source; by default it is found out.
        images: Where an annotated dataset's images are; by default they are looked for.
        overrides: Settings such as `sample.0.rotate.degrees=[-5, 5]`.
        engine: "local" works here; "ray" on a Ray cluster (extra `scale`), whose nodes all see
            source and out under the same name. The result is the same.
        progress: Called at most ten times a second, and at the end.

    Raises:
        UsageError: If nothing can be done with these arguments.
        RecipeError: If the recipe does not hold.
        DataError: If the source holds no image or cannot be listed.
        AugpipeError: If the work cannot go on: what failed, and what is kept.
    """
    if workers < 0:
        raise UsageError(f"workers is {workers}: 0 or more")
    source, out = place_of(source), place_of(out)
    ready = engine_of(engine, workers, are_apart(source, out))
    _check_places(source, out, engine)
    job = job_of(
        recipe,
        source,
        copies=copies,
        keep_originals=keep_originals,
        format=format,
        quality=quality,
        split=split,
        scaled_decoding=scaled_decoding,
        batch_size=batch_size,
        to=to,
        source_format=source_format,
        images=images,
        overrides=overrides,
    )
    check_target(source, job, out)
    with ready as run, claimed(out):
        begun = take_over(out, job)
        with manifest_of(out) as manifest:
            done = _Run(job, out, begun.versions, manifest, progress).run(run, strict)
        if engine == "ray":
            sweep(out)  # what nodes left that died
        return done


def _check_places(source: Path, out: Path, engine: str) -> None:
    """Refuses what other processes cannot reach."""
    for each in (source, out):
        if engine == "ray" and isinstance(each, Address) and each.protocol == "memory":
            raise UsageError(f"{each}: is in the memory of this process, which no cluster sees")


def job_of(
    recipe: Recipe | str | Path,
    source: str | Path,
    *,
    copies: int = 1,
    keep_originals: bool = False,
    format: Format = "png",
    quality: int = 95,
    split: str | None = None,
    scaled_decoding: bool = False,
    batch_size: int = 64,
    to: str | None = None,
    source_format: str | None = None,
    images: str | Path | None = None,
    overrides: Iterable[str] = (),
) -> Job:
    """Returns what `expand` would do with these arguments, of which it says what they are.

    Raises:
        UsageError: If nothing can be done with these arguments.
        RecipeError: If the recipe does not hold.
        DataError: If the source holds no image or cannot be listed.
    """
    settings = Settings(copies, keep_originals, format, quality, split, scaled_decoding, batch_size)
    source = place_of(source)
    own = None if images is None else Path(images).expanduser()
    plan = plan_for(source, source_format, to, own, split)
    return prepare(as_recipe(recipe, overrides), source, settings, plan)


@dataclass(slots=True)
class _Run:
    """One run of a job in a folder that is its own."""

    job: Job
    out: Path
    versions: dict[str, str]
    manifest: Manifest
    progress: Progress | None
    seen: dict[int, str] = field(default_factory=dict)
    """The content hash of sources that an earlier run had read, but not finished."""
    sizes: Mapping[str, int] | None = None
    """Of the files at an address."""

    def run(self, engine: Run, strict: bool) -> Summary:
        """Does what is left to do."""
        pending = self._resume()
        kept, total = len(self.manifest), self.job.record.outputs
        errors = SkippedFile(self.manifest.path.with_name(ERRORS))
        if pending:
            check_versions(self.out, self.versions, self.job)
        failed: set[int] = set()
        done = kept
        work = engine(Making(self.job, self.out, self.seen), pending)
        meter = Meter(self.progress, total)
        meter(kept, 0)
        with self._kept(total):
            errors.clear()
            with closing(errors), closing(work) as results:
                for made in results:
                    for index, reason in made.failed.items():
                        relative = self.job.sources[index].relative
                        if strict:
                            why = f"{reason} (without --strict it would be skipped)"
                            raise DataError(relative, why)
                        if index not in failed:
                            errors.add(index, relative, reason, self._due(index))
                            failed.add(index)
                    if made.lines:
                        self.manifest.append(made.lines)
                    done += len(self.job.outputs(made.task))
                    meter(done, errors.count)
            self.manifest.settle()
            notes = self._finish()
        meter(total, errors.count, last=True)
        written = len(self.manifest) - kept
        return Summary(
            self.out,
            self.job.record.images,
            written,
            kept,
            errors.count,
            self.job.listing.ignored,
            self.job.listing.ignored_names,
            self.job.left_out,
            "\n".join(filter(None, (*self.job.notes, notes))),
        )

    def _due(self, index: int) -> int | None:
        """Returns how many outputs an image was to have, where that is not the same for all."""
        return None if self.job.record.counts is None else self.job.names.count(index)

    def _finish(self) -> str:
        """Writes the annotation files of an annotated dataset; returns what there is to say."""
        if self.job.plan is None or not len(self.manifest):
            return ""
        notes = finish(self.job.plan, self.manifest.path, self.out)
        again = drawn_again(self.job.recipe.constraint, self.manifest.path)
        return "\n".join(filter(None, (str(notes), again)))

    def _resume(self) -> list[Task]:
        """Takes over what is done; returns the tasks that are not."""
        images = range(self.job.record.images)
        packed = {} if self.job.plan is None else packed_contents(self.job.plan, self.out)
        if isinstance(self.out, Address):
            self.sizes = self.out.files()

        def trusted(row: Row) -> bool:
            if row.index not in images or not self._is_of_this_job(row):
                return False
            if row.mask is not None and not stays_inside(row.mask.path):
                return False
            self.seen[row.index] = row.source_sha256
            own = self.job.names.output(row.index, row.copy)
            return (
                own is not None
                and own.path == row.output
                and (row.output in packed or self._is_there(row))
            )

        self.manifest.load(trusted)
        pending = []
        for task in self.job.tasks():
            keys = [key_of(*each) for each in self.job.outputs(task)]
            if all(key in self.manifest for key in keys):
                continue
            pending.append(task)
            for key in keys:
                self.manifest.drop(key)
        left = {index for task in pending for index in task.indices}
        for index in [each for each in self.seen if each not in left]:
            del self.seen[index]
        return pending

    def _is_of_this_job(self, row: Row) -> bool:
        """Tells whether a row says of its source what this job would say."""
        source = self.job.sources[row.index]
        label = source.label if self.job.plan is None else row.label
        return (
            (row.source, row.label) == (source.relative, label)
            and (row.record is None) == (self.job.plan is None)
            and (row.seed, row.epoch) == (self.job.recipe.seed, row.copy)
            and row.generated == self.job.is_generated(row.index)
            and _SHA256.fullmatch(row.source_sha256) is not None
        )

    def _is_there(self, row: Row) -> bool:
        files = [(row.output, row.bytes)]
        if row.mask is not None:
            files.append((row.mask.path, row.mask.bytes))
        if self.sizes is not None:
            return all(self.sizes.get(path) == size for path, size in files)
        try:
            return all((self.out / path).stat().st_size == size for path, size in files)
        except OSError:
            return False

    @contextmanager
    def _kept(self, total: int) -> Iterator[None]:
        """Adds to any error what was kept, and how to go on."""
        try:
            yield
        except UsageError:
            raise
        except AugpipeError as error:
            raise AugpipeError(f"{error}: {self._state(total)}") from error
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(self._state(total))
            raise

    def _state(self, total: int) -> str:
        done = len(self.manifest)
        return f"{done} of {total} written and kept; run the same command again to go on"
