"""What an expansion is made from: the recipe, the images, the settings, and job.json."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from augpipe.data.encode import EXTENSIONS, Format
from augpipe.data.folder import Listing, Source, scan
from augpipe.errors import RecipeError, UsageError, printable, reason
from augpipe.expansion import generated
from augpipe.expansion.manifest import Key, is_pipe, versions_for
from augpipe.expansion.names import Names, Output, choose
from augpipe.learned.files import BUNDLED, digest_of
from augpipe.recipe import Recipe, load
from augpipe.rng import Draws
from augpipe.yamltree import parse

JOB = "job.json"
MANIFEST = "manifest.jsonl"
ERRORS = "errors.jsonl"
OWN_FILES = (JOB, MANIFEST, ERRORS)
"""The files in an output folder that are no images."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the outputs beside the recipe and the images.

    Args:
        copies: How many augmented copies of each image, at least 1.
        keep_originals: Whether the images themselves are copied too.
        format: "png", "jpeg" or "webp".
        quality: 1 to 100, for JPEG and WebP.
        split: Which split of the input; None for its train split, if it has splits.
        scaled_decoding: Whether JPEGs may be decoded at a fraction of their size.
        batch_size: How many images share a batch, where the batch section needs one.
    """

    copies: int = 1
    keep_originals: bool = False
    format: Format = "png"
    quality: int = 95
    split: str | None = None
    scaled_decoding: bool = False
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.copies <= 2**32:
            raise UsageError(f"copies is {self.copies}: it goes from 1 to {2**32}")
        if self.format not in get_args(Format):
            allowed = ", ".join(get_args(Format))
            raise UsageError(f"format is {self.format!r}: it is one of {allowed}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"quality is {self.quality}: it goes from 1 to 100")
        if not 1 <= self.batch_size <= 1024:  # every row names those that share its batch
            raise UsageError(f"batch_size is {self.batch_size}: it goes from 1 to 1024")


class Record(BaseModel):
    """What job.json holds."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    expansion: Literal[1] = 1
    """The version of this file's form."""
    source: str
    """The absolute path of the images."""
    images: Annotated[int, Field(ge=0, lt=2**63)]
    """How many images the source had, with those that `gan_generate` adds."""
    listing_sha256: str
    """Of their relative paths and sizes, in order."""
    settings: Settings
    """What the outputs were to be."""
    recipe_sha256: str
    """Of `recipe`."""
    recipe: str
    """The recipe in YAML, `extends` and overrides worked in."""
    versions: dict[str, str]
    """The libraries' versions when the work began."""
    classes: tuple[str, ...] = ()
    """The names of the classes, in the order of their numbers."""
    weights: dict[str, str] = {}
    """The SHA-256 of each file of weights that the recipe names."""

    def dump(self) -> bytes:
        """Returns the content of job.json."""
        return self.model_dump_json(indent=2).encode() + b"\n"

    @property
    def outputs(self) -> int:
        """Returns how many outputs there are to be, if no image is skipped."""
        return self.images * (self.settings.copies + self.settings.keep_originals)

    def differences(self, other: Record) -> list[str]:
        """Returns, in words, why the outputs of another job are not those of this one."""
        found = []
        if self.recipe_sha256 != other.recipe_sha256:
            found.append(f"the recipe ({_first_difference(self.recipe, other.recipe)})")
        mine, theirs = _telling(self.settings), _telling(other.settings)
        found += [
            f"{name} ({_shown(mine.get(name))}, now {_shown(theirs.get(name))})"
            for name in dict.fromkeys((*mine, *theirs))
            if mine.get(name) != theirs.get(name)
        ]
        if self.images != other.images:
            found.append(f"the images ({self.images}, now {other.images})")
        elif self.listing_sha256 != other.listing_sha256:
            found.append("the images (their names or sizes)")
        found += self.other_weights(other.weights)
        return found

    def other_weights(self, now: Mapping[str, str]) -> list[str]:
        """Returns, in words, which files of weights are not what they were."""
        return [
            f"the weights {name} (their content)"
            for name, digest in self.weights.items()
            if now.get(name, digest) != digest
        ]


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
    """

    recipe: Recipe
    left_out: tuple[str, ...]
    listing: Listing
    sources: tuple[Source, ...]
    names: Names
    record: Record

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

    def tasks(self) -> Iterator[Task]:
        """Yields what there is to do: the same tasks each time.

        Where images share a batch, each copy's batches are drawn by the seed anew, of sizes that
        differ by one at most.
        """
        count = len(self.sources)
        if not self.together or self.settings.keep_originals:
            yield from (Task((index,)) for index in range(count))
        if not self.together or not count:
            return
        parts = -(-count // self.settings.batch_size)
        for copy in range(self.settings.copies):
            draws = Draws(self.recipe.seed, np.array([copy]), op="expand")
            order = draws.permutation("batches", count)[0]
            for part in np.array_split(order, parts):
                yield Task(tuple(np.sort(part).tolist()), copy)

    def outputs(self, task: Task) -> list[tuple[int, Output]]:
        """Returns a task's outputs, each with its source's index."""
        if task.copy is not None:
            return [(index, self.names.copy(index, task.copy)) for index in task.indices]
        (index,) = task.indices
        own = self.names.original(index) if self.together else self.names.outputs(index)
        return [(index, each) for each in own]


@dataclass(frozen=True, slots=True)
class Task:
    """What is done in one go.

    Args:
        indices: The sources.
        copy: The copy of all of them that is made in one batch; None where all that is made of
            one source without others is.
    """

    indices: tuple[int, ...]
    copy: int | None = None


def key_of(index: int, output: Output) -> Key:
    """Returns the key of an output's row."""
    return index, -1 if output.copy is None else output.copy


def prepare(recipe: Recipe, source: Path, settings: Settings) -> Job:
    """Lists the images and names the outputs.

    Raises:
        UsageError: If the recipe cannot be expanded, or the source cannot be named or listed.
        DataError: If the source cannot be read or holds no image.
    """
    runnable, left_out = for_files(recipe)
    listing = scan(source, settings.split)
    said = recipe.classes
    if said is not None and runnable.batch and said < len(listing.classes):
        raise UsageError(f"the recipe says classes: {said}, the dataset has {len(listing.classes)}")
    origin = str(source.expanduser().resolve())
    try:
        origin.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{origin!r}: the path is not UTF-8: rename the folder") from None
    sources = (*listing.sources, *generated.sources(recipe.gan_generate, listing))
    names = choose(
        [each.relative for each in sources],
        settings.copies,
        EXTENSIONS[settings.format],
        settings.keep_originals,
        OWN_FILES,
    )
    text = recipe.dump(defaults=True)
    record = Record(
        source=origin,
        images=len(sources),
        listing_sha256=_fingerprint(listing),
        settings=settings,
        recipe_sha256=hashlib.sha256(text.encode()).hexdigest(),
        recipe=text,
        versions=versions_for(runnable),
        classes=listing.classes,
        weights=digests(runnable),
    )
    return Job(runnable, left_out, listing, sources, names, record)


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


def _telling(settings: Settings) -> dict[str, Any]:
    """Returns the settings that make a difference: PNG has no quality."""
    out = asdict(settings)
    if not settings.scaled_decoding:
        del out["scaled_decoding"]
    if settings.format == "png":
        del out["quality"]
    if settings.batch_size == 64:
        del out["batch_size"]
    return out


def _shown(value: object) -> str:
    return "not given" if value is None else str(value)


def _first_difference(old: str, new: str) -> str:
    """Returns in words where two recipes, as `Recipe.dump` writes them, part."""
    before, after = yaml.safe_load(old), yaml.safe_load(new)
    for key in dict.fromkeys((*before, *after)):
        mine, theirs = before.get(key), after.get(key)
        if isinstance(mine, list) and isinstance(theirs, list):
            pairs = zip_longest(mine, theirs)
            number = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
            if number is not None:
                a, b = (_item(ops, number) for ops in (mine, theirs))
                return f"{key}[{number}] {a}, now {b}"
        elif mine != theirs:
            return f"{key} {_shown(mine)}, now {_shown(theirs)}"
    return "its text"


def _item(ops: list[Any], number: int) -> str:
    return str(ops[number]) if number < len(ops) else "nothing"
