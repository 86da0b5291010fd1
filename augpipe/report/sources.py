"""The images of an input that are looked at: those of folders, or of an annotated dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from augpipe.data.annotated import AnnotatedImage, Category, Dataset, Meta
from augpipe.data.content import Content, FileContent
from augpipe.data.folder import Listing, scan
from augpipe.data.formats import APART, chosen, detect_annotated, open_dataset
from augpipe.errors import DataError, UsageError
from augpipe.expansion.sources import plan_for
from augpipe.report.annotations import Marks, marks_of
from augpipe.types import Array


@dataclass(frozen=True, slots=True)
class Source:
    """An image of the input.

    Args:
        name: Its path there.
        split: Its split, or None.
        label: Its class, or None.
        content: Where its bytes are.
        record: What is known of it; None where that is its class alone.
    """

    name: str
    split: str | None
    label: str | None
    content: Content
    record: AnnotatedImage | None = None

    @property
    def marked(self) -> bool:
        """Tells whether there is something to draw on it."""
        known = self.record
        return known is not None and bool(known.annotations or known.mask)


class Sources:
    """The images of an input: first those of the job, by their index, then those of other splits.

    Args:
        listing: The job's images, of folders.
        dataset: The job's images, of an annotated dataset; then `listing` is None.
        whole: The input with all its splits; None where there are no others.
        masks: A folder with a mask `NAME.png` for an image `NAME.*`, instead of its own, or None.
    """

    def __init__(
        self,
        listing: Listing | None,
        dataset: Dataset | None = None,
        whole: Dataset | None = None,
        masks: Path | None = None,
    ) -> None:
        self.listing, self.dataset, self.whole, self.masks = listing, dataset, whole, masks
        images = listing.sources if listing is not None else dataset.entries if dataset else ()
        own = [(each.relative, each.split) for each in images]
        known = {split for _, split in own}
        self.own = len(own)
        self.others = [
            k for k, each in enumerate(whole.entries if whole else ()) if each.split not in known
        ]

    def __len__(self) -> int:
        return self.own + len(self.others)

    def __getitem__(self, index: int) -> Source:
        """Returns an image.

        Raises:
            DataError: Its record cannot be used.
        """
        if index < self.own and self.listing is not None:
            each = self.listing.sources[index]
            content, mask = FileContent(each.path), self._mask(each.relative)
            record = AnnotatedImage(each.relative, content, each.split, mask=mask) if mask else None
            return Source(each.relative, each.split, each.label, content, record)
        if index < self.own:
            assert self.dataset is not None
            image, entry = self.dataset[index], self.dataset.entries[index]
            if mask := self._mask(entry.name):
                image = replace(image, mask=mask)
        else:
            assert self.whole is not None
            at = self.others[index - self.own]
            image, entry = self.whole[at], self.whole.entries[at]
        return Source(entry.relative, image.split, image.label, image.content, image)

    def _mask(self, name: str) -> FileContent | None:
        path = self.masks / f"{Path(name).stem}.png" if self.masks else None
        return FileContent(path) if path and path.is_file() else None

    def where(self, index: int) -> str:
        """Returns what errors call an image."""
        if index < self.own and self.listing is not None:
            return str(self.listing.sources[index].path)
        dataset, at = self.dataset, index
        if index >= self.own:
            dataset, at = self.whole, self.others[index - self.own]
        assert dataset is not None
        return dataset.entries[at].relative

    def label(self, index: int) -> str | None:
        """Returns an image's class; None too where its record cannot be used."""
        try:
            return self[index].label
        except DataError:
            return None

    @property
    def classes(self) -> Sequence[str]:
        """Returns the classes of the images, in the order of their numbers."""
        return self.listing.classes if self.listing is not None else self._meta.classes

    @property
    def categories(self) -> Sequence[Category]:
        """Returns the classes of the objects; the first is number 1 where they are drawn."""
        return self._meta.categories

    @property
    def _meta(self) -> Meta:
        return Meta() if self.dataset is None else self.dataset.meta

    def marks(self, source: Source, image: Array) -> Marks | None:
        """Returns what is drawn on one of them, or None; see `marks_of`."""
        return marks_of(source.record, image, self.categories) if source.marked else None


def open_sources(
    path: Path,
    split: str | None = None,
    *,
    format: str | None = None,
    annotations: Path | None = None,
    masks: Path | None = None,
) -> Sources:
    """Opens what a preview shows: plain images, or an annotated dataset, told by its content.

    Args:
        path: A dataset, a folder of images, or one image.
        split: Which split; by default train, never a validation or test split.
        format: The dataset's format, if what it holds does not tell.
        annotations: The file or folder that describes the images of `path`, if it lies elsewhere.
        masks: A folder with a mask `NAME.png` for an image `NAME.*`; it takes the place of the
            images' own.

    Raises:
        UsageError: If one is not there, or the format is not clear.
        DataError: If it cannot be used as a whole.
    """
    if masks is not None and not masks.is_dir():
        raise UsageError(f"{masks}: no such folder of masks")
    if annotations is None:
        plan = plan_for(path, format, None, None, split)
        if plan is None:
            return Sources(scan(path, split), masks=masks)
        return Sources(None, plan.dataset, masks=masks)
    if not annotations.exists():
        raise UsageError(f"{annotations}: no such file or folder of annotations")
    name = format or detect_annotated(annotations)
    if name not in APART:
        raise UsageError(
            f"{annotations}: {name or 'a folder, or no dataset'}: images that lie elsewhere are "
            f"described by {', '.join(APART)}"
        )
    dataset = open_dataset(annotations, name, path)
    return Sources(None, chosen(dataset, split), masks=masks)
