"""Annotated datasets as the source of an expansion: which images, and what they become."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from augpipe.data.annotated import AnnotatedImage, Dataset, image_from, stem_of, to_json
from augpipe.data.content import Content, FileContent
from augpipe.data.folder import Listing, Source
from augpipe.data.formats import (
    BY_STEM,
    Format,
    check_reach,
    chosen,
    detect_annotated,
    format_of,
    layout_for,
    open_dataset,
    placed,
)
from augpipe.data.sidecar import SIDECAR
from augpipe.data.splitfiles import dumped
from augpipe.errors import DataError, UsageError, reason
from augpipe.expansion.manifest import Row


@dataclass(frozen=True, slots=True)
class Plan:
    """An annotated dataset and what it is expanded to.

    Args:
        dataset: The images that are expanded.
        to: The format's name.
        images: Where the user said that the images are.
    """

    dataset: Dataset
    to: str
    images: Path | None = None

    @property
    def target(self) -> Format:
        """Returns the format."""
        return layout_for(self.to, self.dataset.entries)

    def listing(self) -> Listing:
        """Returns the images as an expansion lists them."""
        root = self.dataset.root
        sources = tuple(
            Source(root, each.relative, None, each.split) for each in self.dataset.entries
        )
        return Listing(root, sources, self.dataset.meta.classes, 0)

    def bases(self) -> list[str]:
        """Returns where each image would lie in the target; its own path where it cannot."""
        nowhere, target = FileContent(self.dataset.root), self.target
        out = []
        for index, entry in enumerate(self.dataset.entries):
            image = AnnotatedImage(entry.name, nowhere, entry.split)
            if self.to == "folder":
                image = replace(image, label=self._label(index))
            try:
                out.append(placed(target, image))
            except DataError:  # said when the image's turn comes; nothing is called so
                out.append(f"unusable-{index}")
        return out

    def _label(self, index: int) -> str | None:
        try:
            return self.dataset[index].label
        except DataError:  # said when the image's turn comes
            return None

    def labels(self) -> tuple[str | None, ...]:
        """Returns the class of each image; None where it has none, or its record is no good."""
        return tuple(self._label(index) for index in range(len(self.dataset.entries)))

    def check_originals(self, bases: Sequence[str]) -> None:
        """Refuses originals that would share what belongs to them: labels, masks.

        Raises:
            UsageError: If two are named alike but for the ending.
        """
        seen: dict[str, str] = {}
        for base in bases if self.to in BY_STEM else ():
            if seen.setdefault(stem_of(base).casefold(), base) != base:
                other = seen[stem_of(base).casefold()]
                raise UsageError(
                    f"{other} and {base} differ in ending only, which {self.to} cannot tell apart: "
                    "leave out --keep-originals, or choose another format"
                )

    def fingerprint(self) -> str:
        """Returns a hash of the images' names and ids, and of the categories."""
        digest = hashlib.sha256(dumped(to_json(self.dataset.meta)).encode())
        for each in self.dataset.entries:
            digest.update(f"{each.relative}\0{each.id}\0".encode())
        return digest.hexdigest()


def plan_for(
    source: Path, format: str | None, to: str | None, images: Path | None, split: str | None
) -> Plan | None:
    """Opens the dataset that a path is; None where it is class folders and is to stay such.

    Without `split`, of a dataset in splits the train split is taken, and never a validation or test
    split; "none" takes all images.

    Raises:
        UsageError: If it may be read as more than one format, or has no train split.
        DataError: If it cannot be used as a whole.
    """
    try:
        there = source.exists()
    except OSError as error:
        raise DataError(source, f"cannot be read ({reason(error)})") from error
    if format is None and there:
        format = detect_annotated(source)
    to = to or format or "folder"
    check_reach(source, format or "folder")
    plain = format in (None, "folder") and not (source / SIDECAR).is_file()
    if plain and to == "folder":
        if images is not None:
            raise UsageError(f"{source}: folder has its images in it: leave out --images")
        return None
    format_of(to)
    dataset = open_dataset(source, format or "folder", images)
    return Plan(chosen(dataset, split), to, images)


def rows_as_images(
    rows: Iterable[Row], plan: Plan, contents: Mapping[str, Content], out: Path
) -> Iterator[AnnotatedImage]:
    """Yields the image of each row of a manifest, with new ids for its objects.

    Args:
        rows: In the manifest's order.
        plan: The dataset, and what it became.
        contents: Where outputs are that are no files of their own any more, by their path.
        out: The output folder.
    """
    last = plan.dataset.last[1]
    for row in rows:
        assert row.record is not None
        mask = None
        if row.mask is not None:
            mask = contents.get(row.mask.path) or FileContent(out / row.mask.path)
        content = contents.get(row.output) or FileContent(out / row.output)
        image = image_from(row.record, content, mask)
        objects = []
        for k, each in enumerate(image.annotations):
            # Where images are mixed, one object may be in several, and twice in one.
            mark = f"__i{row.index}__{k}" if row.batch else ""
            if isinstance(each.source, int):
                last += 1
                objects.append(replace(each, id=last))
            elif isinstance(each.source, str):
                objects.append(replace(each, id=f"{each.source}__{row.copy}{mark}"))
            else:
                objects.append(each)
        yield replace(image, annotations=tuple(objects))
