"""What an expansion was asked for, as it stands in job.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field

from augpipe.data.encode import Format
from augpipe.errors import UsageError

JOB = "job.json"
MANIFEST = "manifest.jsonl"
ERRORS = "errors.jsonl"
REPORT = "report.html"
SIMILAR = "similar.jsonl"
OWN_FILES = (JOB, MANIFEST, ERRORS, REPORT, SIMILAR)
"""The files in an output folder that are no images."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the outputs beside the recipe and the images.

    Args:
        copies: How many augmented copies of each image, where the recipe says nothing else.
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
        if not 0 <= self.copies <= 2**32:
            raise UsageError(f"copies is {self.copies}: it goes from 0 to {2**32}")
        if self.format not in get_args(Format):
            allowed = ", ".join(get_args(Format))
            raise UsageError(f"format is {self.format!r}: it is one of {allowed}")
        if not 1 <= self.quality <= 100:
            raise UsageError(f"quality is {self.quality}: it goes from 1 to 100")
        if not 1 <= self.batch_size <= 1024:  # every row names those that share its batch
            raise UsageError(f"batch_size is {self.batch_size}: it goes from 1 to 1024")


class DatasetRecord(BaseModel):
    """What job.json holds of an annotated dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    format: str
    """The format it is read in."""
    to: str
    """The format that it is expanded to."""
    images: str | None = None
    """The absolute path of its images, where they do not lie beside it."""


class CountsRecord(BaseModel):
    """What job.json holds of copies that are more of some classes than of others."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    outputs: Annotated[int, Field(ge=0, lt=2**63)]
    """How many outputs there are to be, if no image is skipped."""
    most: Annotated[int, Field(ge=0, le=2**32)]
    """The most copies that an image gets."""


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
    dataset: DatasetRecord | None = None
    """What is said of an annotated dataset; null for folders of images."""
    counts: CountsRecord | None = None
    """What the recipe's `balance` and `per_class` come to; null without them."""

    def dump(self) -> bytes:
        """Returns the content of job.json."""
        without = {name for name in ("dataset", "counts") if getattr(self, name) is None}
        return self.model_dump_json(indent=2, exclude=without).encode() + b"\n"

    @property
    def most(self) -> int:
        """Returns the most copies that an image gets."""
        return self.settings.copies if self.counts is None else self.counts.most

    @property
    def outputs(self) -> int:
        """Returns how many outputs there are to be, if no image is skipped."""
        if self.counts is not None:
            return self.counts.outputs
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
        if self.dataset != other.dataset:
            found.append(f"the formats ({_formats(self)}, now {_formats(other)})")
        if self.images != other.images:
            found.append(f"the images ({self.images}, now {other.images})")
        elif self.listing_sha256 != other.listing_sha256:
            found.append("the images (their names or sizes)")
        elif self.counts != other.counts and self.recipe_sha256 == other.recipe_sha256:
            found.append("the classes of the images (another number of copies)")
        found += self.other_weights(other.weights)
        return found

    def other_weights(self, now: Mapping[str, str]) -> list[str]:
        """Returns, in words, which files of weights are not what they were."""
        return [
            f"the weights {name} (their content)"
            for name, digest in self.weights.items()
            if now.get(name, digest) != digest
        ]


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


def _formats(record: Record) -> str:
    said = record.dataset
    return "folders" if said is None else f"{said.format} to {said.to}"


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
