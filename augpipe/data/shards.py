"""Images that lie packed, in WebDataset shards or Parquet files, to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from augpipe.data.dataset import FolderImages, FolderPictures
from augpipe.data.decode import as_rgb, decode
from augpipe.data.formats import chosen, format_of
from augpipe.data.jpeg import open_jpeg
from augpipe.errors import DataError, UsageError
from augpipe.types import Picture


class ShardImages:
    """The images of shards, decoded: (uint8 RGB array (H, W, 3), class index or -1).

    A map-style dataset: the shards' headers are gone through once, and then an image is read where
    it lies. So any order and any share of it can be had, each image once.

    Args:
        root: A folder of WebDataset shards or Parquet files, or one of them; or its address.
        format: "webdataset" or "parquet".
        split: Which split; without it the train split, if there are splits, and never one that is
            kept for measuring.
        scaled: Whether JPEGs may be decoded at a fraction of their size.
        whole: Whether images are decoded at once; else as far as they are looked at.

    Raises:
        DataError: If a shard cannot be used.
        UsageError: If there is no such split.
    """

    def __init__(
        self,
        root: Path,
        format: str,
        split: str | None = None,
        scaled: bool = False,
        whole: bool = True,
    ) -> None:
        self._made_of = (root, format, split, scaled, whole)
        self._dataset = chosen(format_of(format).read(root), split)
        self.classes = self._dataset.meta.classes
        self._numbers = {name: number for number, name in enumerate(self.classes)}

    def __reduce__(
        self,
    ) -> tuple[type[ShardImages], tuple[Path, str, str | None, bool, bool]]:
        return type(self), self._made_of

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> tuple[Picture | NDArray[np.uint8], int]:
        image = self._dataset[index]
        data = image.content.read()
        *_, scaled, whole = self._made_of
        name = f"{self._dataset.root}: {image.name}"
        target = self._numbers.get(image.label or "", -1)
        picture = None if whole else open_jpeg(data, name, rgb=True, scaled=scaled)
        return picture or as_rgb(decode(data, name=name)), target

    def pictures(self, scaled: bool) -> ShardImages:
        """Returns the same, decoded as far as images are looked at."""
        other = object.__new__(ShardImages)
        other.__dict__.update(self.__dict__)
        root, format, split, _, _ = self._made_of
        other._made_of = (root, format, split, scaled, False)
        return other


def open_images(
    root: Path, split: str | None, scaled: bool
) -> tuple[FolderImages | ShardImages, FolderPictures | ShardImages]:
    """Opens a folder of images or of shards, to train on.

    Returns:
        The dataset; and the same, decoded as far as its images are looked at.

    Raises:
        UsageError: If it has no such split.
        DataError: If there is no image in it.
    """
    packed = "webdataset" if format_of("webdataset").sniff(root) else None
    if packed is None:
        try:
            images = FolderImages(root, split)
        except (DataError, UsageError):
            if not format_of("parquet").sniff(root):
                raise
            packed = "parquet"
        else:
            return images, FolderPictures(images, scaled)
    shards = ShardImages(root, packed, split)
    return shards, shards.pictures(scaled)
