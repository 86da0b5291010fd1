"""A folder's images with what is always done alike to them, kept from epoch to epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

from augpipe.data.arena import SharedCache
from augpipe.data.cache import Cache, Stamp, open_cache
from augpipe.data.dataset import FolderPictures
from augpipe.data.decode import read
from augpipe.types import Array, Picture

_DECIDE = ("augpipe", "numpy", "opencv-python-headless", "pillow", "simplejpeg")


@dataclass(frozen=True)
class Keep:
    """What to keep, and where.

    Args:
        fix: What is always done alike to an image.
        ops: The same in words.
        where: `memory` or a folder.
        max_gb: The most to keep, in 10⁹ bytes.
    """

    fix: Callable[[Array | Picture], Array]
    ops: str
    where: str
    max_gb: float

    def open(self, scaled: bool, forks: bool) -> Cache:
        """Opens the cache.

        Args:
            scaled: Whether JPEGs are decoded at a fraction of their size.
            forks: Whether forked processes are to share it.
        """
        packages = ", ".join(f"{name} {version(name)}" for name in _DECIDE)
        prefix = f"{self.ops}; scaled {scaled}; {packages}"
        if self.where == "memory" and forks:
            return SharedCache(self.where, prefix, self.max_gb)
        return open_cache(self.where, prefix, self.max_gb)


@dataclass(frozen=True)
class CachedPictures:
    """A folder's images, decoded and with all that is always done alike: (array, class index).

    Args:
        pictures: The folder.
        keep: What to do to them.
        cache: Where they are kept.
    """

    pictures: FolderPictures
    keep: Keep
    cache: Cache

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Array, int]:
        path, target = self.pictures.images.paths[index], self.pictures.images.targets[index]
        image = self.cache.get(path)
        if image is None:
            stamp = Stamp.of(path)
            data = read(path)
            image = self.keep.fix(self.pictures.open(data, str(path)))
            if stamp is not None:
                self.cache.put(path, image, data, stamp)
        return image, target
