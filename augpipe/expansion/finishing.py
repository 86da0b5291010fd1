"""The annotation files of an expanded dataset: made of the manifest when all images are there.

The images and the manifest's rows are the truth; whatever is written here can be written again. In
a format that packs images, the outputs lie beside until all are there, and are removed when the
archives are whole: a killed run finds either all of them, or the archives.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from augpipe.data.address import Address
from augpipe.data.content import Content
from augpipe.data.encode import unwritable
from augpipe.data.formats import note_unsaid
from augpipe.data.shapes import Notes
from augpipe.errors import AugpipeError, DataError
from augpipe.expansion.claim import Writer
from augpipe.expansion.manifest import Row, rows_of
from augpipe.expansion.sources import Plan, rows_as_images
from augpipe.plan.explain import plural
from augpipe.settings import ConstraintRule


def finish(plan: Plan, manifest: Path, out: Path) -> Notes:
    """Writes the annotation files, or packs the images.

    Args:
        plan: The dataset, and what it becomes.
        manifest: The whole manifest.
        out: The output folder.

    Returns:
        What was found in the source and is no error, and what the format cannot hold.

    Raises:
        AugpipeError: If they cannot be written.
    """
    _check_no_links(out)
    notes = _of_sources(plan, manifest)
    contents = packed_contents(plan, out)
    if not contents or any(row.output not in contents for row in _rows(manifest)):
        _lay_out(contents, manifest, out)
        plan.target.write(
            out, plan.dataset.meta, rows_as_images(_rows(manifest), plan, {}, out), notes
        )
    if plan.target.PACKED:
        _unpack(manifest, out)
    return notes


def drawn_again(rule: ConstraintRule | None, manifest: Path) -> str:
    """Says how often a constraint had images drawn again; "" where it never had to."""
    if rule is None:
        return ""
    again, tries, less = 0, 0, 0
    for row in _rows(manifest):
        retries, share = 0, 1.0
        for section in ("constraint", "constraint in batch"):
            told = row.parameters.get(section, {})
            match told:
                case {"retries": int(more), "visibility": int() | float() as least}:
                    retries, share = retries + more, min(share, least)
        again, tries = again + (retries > 0), tries + retries
        less += share < rule.min_visibility - 1e-9
    if not again:
        return f"constraint: min_visibility {rule.min_visibility:g} held at once"
    words = f"constraint: {plural(again, 'image')} drawn again, {plural(tries, 'time')} in all"
    left = f"; in {less} a box still keeps less than {rule.min_visibility:g}" if less else ""
    return words + left


def _check_no_links(out: Path) -> None:
    """Refuses folders that lead elsewhere: what is written in them would be written there.

    Raises:
        AugpipeError: If there is one.
    """
    for folder, inner, _ in () if isinstance(out, Address) else os.walk(out):
        for name in inner:
            path = Path(folder) / name
            if path.is_symlink():
                raise AugpipeError(f"{path}: leads out of the output folder, to {path.resolve()}")


def _rows(manifest: Path) -> Iterator[Row]:
    return (row for _, row in rows_of(manifest) if row is not None and row.record is not None)


def _of_sources(plan: Plan, manifest: Path) -> Notes:
    notes = Notes()
    last = -1
    for row in _rows(manifest):
        if row.index != last:
            last = row.index
            try:
                image = plan.dataset[row.index]
                notes.check(image)
                note_unsaid(plan.to, image, notes)
            except DataError:  # changed since: `verify` says so
                continue
    return notes


def packed_contents(plan: Plan, out: Path) -> Mapping[str, Content]:
    """Returns where the images, and masks, of an output folder are packed, by their path.

    Empty where the format does not pack, or nothing whole is there.
    """
    target = plan.target
    if not target.PACKED or not target.sniff(out):
        return {}
    found: dict[str, Content] = {}
    try:
        for image in target.read(out):
            found[target.place(image)] = image.content
            if image.mask is not None:
                found[target.place_mask(image)] = image.mask
    except AugpipeError:
        return {}
    return found


def _lay_out(contents: Mapping[str, Content], manifest: Path, out: Path) -> None:
    """Puts what is in archives beside them again: there are more images now, or an end is missing.

    Archives that are written anew are not read from at the same time.
    """
    writer = Writer(out)
    for row in _rows(manifest):
        for path in (row.output, row.mask.path if row.mask else None):
            if path is not None and path in contents and not (out / path).exists():
                writer.write(path, contents[path].read())


def _unpack(manifest: Path, out: Path) -> None:
    """Removes the outputs that are in archives now, and their folders."""
    folders: set[Path] = set()
    try:
        for row in _rows(manifest):
            for path in (row.output, row.mask.path if row.mask else None):
                if path is not None:
                    (out / path).unlink(missing_ok=True)
                    folders.update(each for each in Path(path).parents if each != Path())
        for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
            if (out / folder).is_dir() and not any((out / folder).iterdir()):
                (out / folder).rmdir()
    except OSError as error:
        raise unwritable(out, error) from error


def annotation_files(
    plan: Plan, rows: Iterable[Row], contents: Mapping[str, Content], out: Path
) -> Iterator[tuple[str, str]]:
    """Writes the annotation files again, elsewhere, and compares.

    Args:
        plan: The dataset, and what it became.
        rows: The manifest's.
        contents: See `packed_contents`.
        out: The output folder; nothing is written in it.

    Yields:
        The path of each file that belongs to the dataset beside its images, and what is wrong
        with it: "" where nothing is.

    Raises:
        AugpipeError: If they cannot be written: an image is missing.
    """
    with tempfile.TemporaryDirectory(prefix="augpipe-") as folder:
        again = Path(folder)
        images = rows_as_images(rows, plan, contents, out)
        plan.target.write(again, plan.dataset.meta, images, Notes())
        for inner, _, files in os.walk(again):
            for name in sorted(files):
                path = Path(inner) / name
                relative = path.relative_to(again).as_posix()
                yield relative, _difference(path, out / relative)


def _difference(made: Path, stored: Path) -> str:
    try:
        if not stored.is_file():
            return "not there: run expand again"
        if stored.read_bytes() != made.read_bytes():
            return "is not what the manifest gives"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return ""
