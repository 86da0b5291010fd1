"""What an expansion is made from: the recipe, the images, the settings, and job.json."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from augpipe.data.encode import EXTENSIONS
from augpipe.data.folder import Listing, Source, scan
from augpipe.errors import RecipeError, UsageError, printable, reason
from augpipe.expansion import generated
from augpipe.expansion.balance import count_copies, differs
from augpipe.expansion.manifest import Key, is_pipe, versions_for
from augpipe.expansion.names import Names, Output, choose
from augpipe.expansion.origins import Origin
from augpipe.expansion.record import (
    JOB,
    OWN_FILES,
    CountsRecord,
    DatasetRecord,
    Record,
    Settings,
)
from augpipe.expansion.sources import Plan
from augpipe.learned.files import BUNDLED, digest_of
from augpipe.recipe import Recipe, load
from augpipe.rng import Draws
from augpipe.yamltree import parse

PART = 64  # outputs of one source in a task: what an interruption loses, and one process does


@dataclass(frozen=True, slots=True)
class Job:
    """An expansion to be done.

    Args:
        recipe: What is done to the images, without ops that end in floats; with a batch section
            only if that needs a batch.
        left_out: The names of the ops that were left out.
        listing: The images.
        sources: The images, and behind them those that `gan_generate` adds.
        names: The outputs' names.
        record: What is kept of all this in job.json.
        plan: The annotated dataset that the images are of; None for folders of images.
        labels: The class of each source, where one is known.
        notes: What the source's reader noted, and what of the recipe's `balance` could not be.
    """

    recipe: Recipe
    left_out: tuple[str, ...]
    listing: Listing
    sources: tuple[Source, ...]
    names: Names
    record: Record
    plan: Plan | None = None
    labels: tuple[str | None, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def settings(self) -> Settings:
        """Returns the settings."""
        return self.record.settings

    @property
    def together(self) -> bool:
        """Returns whether copies of several sources are made in one batch."""
        return bool(self.recipe.batch)

    def is_generated(self, index: int) -> bool:
        """Tells whether a source is one of `gan_generate`."""
        return index >= len(self.listing.sources)

    def origin(self, index: int) -> Origin:
        """Returns a source as the manifest knows it."""
        source = self.sources[index]
        made = self.is_generated(index)
        return Origin(source.path, source.relative, source.label, index, made)

    def tasks(self) -> Iterator[Task]:
        """Yields what there is to do: the same tasks each time.

        Where images share a batch, each copy's batches are drawn by the seed anew, of sizes that
        differ by one at most.
        """
        if not self.together or self.settings.keep_originals:
            for index in range(len(self.sources)):
                count = 1 if self.together else self.names.count(index)
                yield from (Task((index,), first=k) for k in range(0, count, PART))
        if not self.together:
            return
        copies = np.asarray(self.names.copies)
        for copy in range(self.record.most):
            (members,) = np.nonzero(copies > copy)
            draws = Draws(self.recipe.seed, np.array([copy]), op="expand")
            order = members[draws.permutation("batches", len(members))[0]]
            for part in np.array_split(order, -(-len(members) // self.settings.batch_size)):
                yield Task(tuple(np.sort(part).tolist()), copy)

    def outputs(self, task: Task) -> list[tuple[int, Output]]:
        """Returns a task's outputs, each with its source's index."""
        if task.copy is not None:
            return [(index, self.names.copy(index, task.copy)) for index in task.indices]
        (index,) = task.indices
        if self.together:
            return [(index, each) for each in self.names.original(index)]
        return [(index, each) for each in self.names.outputs(index, task.first, PART)]


@dataclass(frozen=True, slots=True)
class Task:
    """What is done in one go.

    Args:
        indices: The sources.
        copy: The copy of all of them that is made in one batch; None where what is made of one
            source without others is.
        first: The first of that: one task makes up to 64 outputs.
    """

    indices: tuple[int, ...]
    copy: int | None = None
    first: int = 0


def key_of(index: int, output: Output) -> Key:
    """Returns the key of an output's row."""
    return index, -1 if output.copy is None else output.copy


def prepare(recipe: Recipe, source: Path, settings: Settings, plan: Plan | None = None) -> Job:
    """Lists the images and names the outputs.

    Args:
        recipe: What is to be done.
        source: The images.
        settings: The rest.
        plan: The annotated dataset that the images are of; None for folders of images.

    Raises:
        UsageError: If the recipe cannot be expanded, or the source cannot be named or listed.
        DataError: If the source cannot be read or holds no image.
    """
    runnable, left_out = for_files(recipe)
    if plan is not None and runnable.gan_generate is not None:
        raise UsageError("gan_generate adds images to class folders only: leave it out")
    _check_strengths(runnable)
    listing = scan(source, settings.split) if plan is None else plan.listing()
    said = recipe.classes
    if said is not None and runnable.batch and said < len(listing.classes):
        raise UsageError(f"the recipe says classes: {said}, the dataset has {len(listing.classes)}")
    origin = _absolute(source)
    sources = (*listing.sources, *generated.sources(recipe.gan_generate, listing))
    bases = [each.relative for each in sources] if plan is None else plan.bases()
    if plan is not None and settings.keep_originals:
        plan.check_originals(bases)
    labels = tuple(each.label for each in sources)
    if plan is not None and differs(recipe):
        labels = plan.labels()
    classes = tuple(dict.fromkeys((*listing.classes, *filter(None, labels))))
    copies = count_copies(recipe, settings, labels, classes)
    names = choose(
        bases,
        copies.counts,
        EXTENSIONS[settings.format],
        settings.keep_originals,
        OWN_FILES,
    )
    counts = None
    if differs(recipe):
        total = int(copies.counts.sum()) + settings.keep_originals * len(sources)
        counts = CountsRecord(outputs=total, most=int(copies.counts.max()))
    text = recipe.dump(defaults=True)
    dataset = None
    if plan is not None:
        images = None if plan.images is None else _absolute(plan.images)
        dataset = DatasetRecord(format=plan.dataset.format, to=plan.to, images=images)
    record = Record(
        source=origin,
        images=len(sources),
        listing_sha256=_fingerprint(listing) if plan is None else plan.fingerprint(),
        settings=settings,
        recipe_sha256=hashlib.sha256(text.encode()).hexdigest(),
        recipe=text,
        versions=versions_for(runnable, None if plan is None else plan.to),
        classes=listing.classes,
        weights=digests(runnable),
        dataset=dataset,
        counts=counts,
    )
    notes = copies.notes if plan is None else (*plan.dataset.notes, *copies.notes)
    return Job(runnable, left_out, listing, sources, names, record, plan, labels, notes)


def _absolute(path: Path) -> str:
    out = str(path.expanduser().resolve())  # an address is what it is
    try:
        out.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{out!r}: the path is not UTF-8: rename the folder") from None
    return out


def _check_strengths(recipe: Recipe) -> None:
    """Refuses strengths of classes that an op does not allow, or that would not reach it.

    Raises:
        UsageError: If there is one.
    """
    for name, rule in recipe.per_class.items():
        if rule.strength != 1.0 and recipe.batch:
            names = ", ".join(op.name() for op in recipe.batch)
            raise UsageError(
                f"per_class.{name}: images of all classes share the batches of {names}, which a "
                "class's strength does not reach: leave out one or the other"
            )
        try:
            recipe.at_strength(rule.strength)
        except UsageError as error:
            raise UsageError(f"per_class.{name}: {error}") from None


def digests(recipe: Recipe) -> dict[str, str]:
    """Returns the SHA-256 of each file of weights that a recipe names.

    Raises:
        DataError: One cannot be read.
    """
    named = [each for op in (*recipe.sample, *recipe.batch) for each in op.files]
    if recipe.gan_generate is not None:
        named.append(("gan", recipe.gan_generate.model))
    return {
        f"bundled {kind}" if source == BUNDLED else source: digest_of(source, kind)
        for kind, source in dict.fromkeys(named)
    }


def for_files(recipe: Recipe) -> tuple[Recipe, tuple[str, ...]]:
    """Returns the part of a recipe that files can hold, and the names of what was left out.

    A batch section of ops that each work on one image follows the sample section; one that needs
    a batch stays what it is.
    """
    alone, others = recipe.one_by_one()
    whole = recipe if others else alone
    parts = {
        name: tuple(op for op in getattr(whole, name) if not op.last)
        for name in ("sample", "batch")
    }
    left_out = tuple(op.name() for op in (*whole.sample, *whole.batch) if op.last)
    return whole.model_copy(update=parts), left_out


def read_record(out: Path) -> Record:
    """Reads the job.json of an output folder.

    Raises:
        UsageError: If there is none, or it is damaged.
    """
    path = out / JOB
    if is_pipe(path):
        raise UsageError(f"{path}: not a regular file")
    try:
        record = Record.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{out}: not an expansion (there is no {JOB} in it)") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({reason(error)})") from None
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        what = printable(f"{at}: {first['msg']}".removeprefix(": "))
        raise UsageError(f"{path}: not a job file of this version of augpipe ({what})") from None
    except UsageError as error:  # a setting out of its range
        raise UsageError(f"{path}: not a job file of this version of augpipe ({error})") from None
    except RecursionError:
        raise UsageError(f"{path}: not a job file (nested too deeply)") from None
    if hashlib.sha256(record.recipe.encode()).hexdigest() != record.recipe_sha256:
        raise UsageError(f"{path}: the recipe in it was altered")
    _check_recipe(record.recipe, path)
    return record


def recipe_of(record: Record) -> Recipe:
    """Returns the part of a checked record's recipe that files can hold."""
    return for_files(load(parse(record.recipe, JOB).plain()))[0]


def _check_recipe(text: str, path: Path) -> None:
    """Refuses, in a line, a recipe that this version cannot load or expand."""
    try:
        tree = parse(text, "the recipe")  # refuses what YAML could make endless
        content = tree.plain()
        if tree.problems or not isinstance(content, dict):
            raise RecipeError(tree.problems)
        for_files(load(content))
    except RecursionError:
        words = "nested too deeply"
    except RecipeError as error:
        words = str(error.problems[0]) if error.problems else "not a mapping"
    except UsageError as error:
        words = str(error)
    else:
        return
    raise UsageError(f"{path}: this version cannot use the recipe in it ({printable(words)})")


def _fingerprint(listing: Listing) -> str:
    digest = hashlib.sha256()
    for source in listing.sources:
        try:
            size = source.path.stat().st_size
        except OSError:  # a dangling link: decoding it will say so
            size = -1
        digest.update(f"{source.relative}\0{size}\0".encode())
    return digest.hexdigest()
