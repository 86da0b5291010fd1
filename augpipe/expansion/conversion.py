"""Conversion: a dataset to another format, image by image, its pixels as they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from augpipe.data.address import place_of
from augpipe.data.annotated import AnnotatedImage, Dataset, stem_of
from augpipe.data.claim import claimed
from augpipe.data.content import BytesContent, FileContent
from augpipe.data.formats import (
    BY_STEM,
    SIZED,
    Format,
    check_reach,
    format_of,
    layout_for,
    note_unsaid,
    open_dataset,
    placed,
    placed_mask,
)
from augpipe.data.places import check_size, size_of
from augpipe.data.shapes import Notes, check_shapes
from augpipe.errors import AugpipeError, DataError, UsageError, printable
from augpipe.expansion.claim import Writer, check_apart
from augpipe.expansion.progress import Meter, Progress
from augpipe.expansion.staging import SEAL, Stage, stage_in
from augpipe.plan.explain import plural

_SHOWN = 20


@dataclass(slots=True)
class Conversion:
    """What a conversion came to.

    Args:
        out: The new dataset.
        source: The name of the format it was in.
        format: The name of the format it is in.
        written: Images in it.
        notes: What was found and is no error, counted.
        skipped: Images that could not be used.
        reasons: Why, for the first of them.
        found: What its reader noted.
    """

    out: Path
    source: str
    format: str
    written: int = 0
    notes: Notes = field(default_factory=Notes)
    skipped: int = 0
    reasons: list[str] = field(default_factory=list)
    found: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """Returns 1 if images were skipped."""
        return int(self.skipped > 0)

    def __str__(self) -> str:
        lines = [*self.reasons]
        if self.skipped > len(self.reasons):
            lines.append(f"... and {self.skipped - len(self.reasons)} more")
        if self.skipped:
            lines.append(f"skipped {plural(self.skipped, 'image')}")
        lines += [*self.found, *str(self.notes).splitlines()]
        what = f"{plural(self.written, 'image')} from {self.source} to {self.format}"
        lines.append(f"converted {what} in {self.out}")
        return "\n".join(map(printable, lines))


def convert(
    source: str | Path,
    out: str | Path,
    to: str,
    *,
    source_format: str | None = None,
    images: str | Path | None = None,
    split: str | None = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Conversion:
    """Writes a dataset in another format: every image's bytes as they are, every field kept.

    What the format cannot hold goes into its sidecar (see `augpipe.data.sidecar`), so that the way
    back brings it again. Splits stay apart, in the order in which they come. Memory holds an index
    of the images, never their bytes.

    Args:
        source: The dataset's folder, or the file that describes it.
        out: A new or empty folder.
        to: "coco", "yolo", "voc", "masks", "webdataset", "parquet", "csv" or "folder".
        source_format: The source's format; by default it is found out.
        images: Where the source's images are; by default they are looked for.
        split: One split of it; by default all of them.
        strict: Whether an image that cannot be used ends the work; else it is left out and told.
        progress: Called with the images done, their number, and how many could not be used.

    Raises:
        UsageError: If the source is of no known format, the folder is not empty, or another process
            is at work in it.
        DataError: If the source cannot be used as a whole.
        AugpipeError: If the work cannot go on.
    """
    format_of(to)
    out = place_of(out)
    check_reach(out, to)
    own = None if images is None else Path(images)
    dataset = open_dataset(place_of(source), source_format, own)
    if split is not None:
        dataset = dataset.only(split)
    elif dataset.missing:
        one = dataset.splits[0] if dataset.splits else "none"
        words = next(iter(dataset.missing.values()))
        raise DataError(dataset.root, f"{words} (--split {one} takes what is there)")
    check_apart(dataset.root, out, [own.expanduser()] if own else [])
    command = {
        "source": str(place_of(source).resolve()),
        "format": dataset.format,
        "to": to,
        "images": None if images is None else str(Path(images).expanduser().resolve()),
        "split": split,
    }
    with claimed(out):
        stage = stage_in(out)
        seal = stage.sealed()
        if seal is None:
            begun = Conversion(out, dataset.format, to, found=dataset.notes)
            done = _made(dataset, stage, begun, progress, strict)
            said = _SEALED.dump_python(replace(done, out=Path()), mode="json")
            stage.show(json.dumps([command, said]).encode())
        else:
            done = _unsealed(seal, command, out)
            stage.show()
    Meter(progress, len(dataset))(len(dataset), done.skipped, last=True)
    return done


def _made(
    dataset: Dataset, stage: Stage, done: Conversion, progress: Progress | None, strict: bool
) -> Conversion:
    """Makes the whole dataset on a stage."""
    target = layout_for(done.format, dataset.entries)
    meter = Meter(progress, len(dataset))
    with stage.making() as folder:
        images = _placed(dataset, folder, target, done, meter, strict)
        target.write(folder, dataset.meta, images, done.notes)
    return done


def _unsealed(seal: bytes, command: dict[str, str | None], out: Path) -> Conversion:
    """Returns what came of a conversion that was killed when its dataset was whole.

    Raises:
        UsageError: If it was another one.
    """
    try:
        said, done = json.loads(seal)
        if said == command:
            return replace(_SEALED.validate_python(done), out=out)
        what = f"another conversion (of {said['source']} to {said['to']})"
    except (ValueError, TypeError, KeyError, RecursionError, ValidationError):
        what = f"what is no conversion of this version ({SEAL} says so)"
    raise UsageError(
        f"{out}: holds the end of {printable(what)} that was killed: run that again, choose a new "
        "folder, or delete this one"
    )


_SEALED = TypeAdapter(Conversion)


def _placed(
    dataset: Dataset, out: Path, target: Format, done: Conversion, meter: Meter, strict: bool
) -> Iterator[AnnotatedImage]:
    """Yields each image that can be used, its bytes copied to where the format has them."""
    writer = Writer(out)
    taken: set[bytes] = set()
    for index in range(len(dataset)):
        entry = dataset.entries[index]
        try:
            image = dataset[index]
            _check_places(image, target, taken)
            check_shapes(image)
            kept = _packed(image) if target.PACKED else _copied(image, out, target, writer)
            if target.NAME in SIZED or (image.size is None and target.NAME == "coco"):
                kept = _sized(kept)
        except DataError as error:
            if strict:
                raise
            done.skipped += 1
            if len(done.reasons) < _SHOWN:
                done.reasons.append(str(DataError(f"left out {entry.relative}", str(error))))
            continue
        done.notes.check(kept)
        note_unsaid(target.NAME, kept, done.notes)
        done.written += 1
        meter(index, done.skipped)
        yield kept
    if not done.written:
        raise AugpipeError("none of the images could be used: " + "; ".join(done.reasons[:3]))


def _sized(image: AnnotatedImage) -> AnnotatedImage:
    """Returns an image with its size, by its header.

    Raises:
        DataError: If that cannot be read, or its record says another.
    """
    size = size_of(image.content, image.name)
    check_size(image.size, size, image.name)
    return replace(image, size=size)


def _check_places(image: AnnotatedImage, target: Format, taken: set[bytes]) -> None:
    """Makes sure that an image's files lie in the dataset, where no other's do.

    Args:
        image: The image.
        target: The format it will be in.
        taken: Grows: what the files written so far are called, shortened.

    Raises:
        DataError: If they do not.
    """
    where = placed(target, image)
    names = {"image": stem_of(where) if target.NAME in BY_STEM else where}
    if image.mask is not None:
        names["mask"] = placed_mask(target, image)
    own = {
        what: hashlib.sha256(f"{what} {name.casefold()}".encode()).digest()[:12]
        for what, name in names.items()
    }
    for what, short in own.items():
        if short in taken:
            raise DataError(image.name, f"a second {what} would be {names[what]}")
    taken.update(own.values())


def _packed(image: AnnotatedImage) -> AnnotatedImage:
    """Returns an image with its bytes, read here: where they cannot be, it alone is left out."""
    if image.mask is not None:
        image.mask.read()
    return replace(image, content=BytesContent(image.content.read()))


def _copied(image: AnnotatedImage, out: Path, target: Format, writer: Writer) -> AnnotatedImage:
    place = target.place(image)
    data = image.content.read()
    mask = None if image.mask is None else image.mask.read()
    writer.write(place, data)
    if mask is None:
        return replace(image, content=FileContent(out / place))
    where = target.place_mask(image)
    writer.write(where, mask)
    return replace(image, content=FileContent(out / place), mask=FileContent(out / where))
