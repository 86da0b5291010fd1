"""Images and their masks, in two folders, matched by name.

Written as `images/[SPLIT/]NAME` and `masks/[SPLIT/]STEM.png`, with the classes of the mask's
numbers in `classes.txt`, a line each from 0 on. Of a dataset of outlines a mask is drawn, its
numbers the categories' ids, 0 where nothing is, later objects over earlier ones.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from augpipe.data.annotated import (
    AnnotatedImage,
    Category,
    Dataset,
    Entry,
    Meta,
    safe_name,
    stem_of,
)
from augpipe.data.claim import make_folder
from augpipe.data.content import Content, FileContent, text_of
from augpipe.data.decode import MAX_PIXELS
from augpipe.data.encode import write_atomic
from augpipe.data.header import Refused, check_data, parse
from augpipe.data.places import (
    image_at,
    is_image,
    kind_of,
    mask_ending,
    size_of,
    split_path,
    visible,
    walk,
)
from augpipe.data.rle import decode_rle
from augpipe.data.shapes import Notes, object_of
from augpipe.data.sidecar import Found, SidecarWriter, read_sidecar
from augpipe.errors import DataError, UsageError

NAME = "masks"
LOOKS = "a folder of images beside one of masks of the same names"
PACKED = False

_IMAGES = ("images", "image", "imgs", "img", "img_dir", "jpegimages", "rgb")
_MASKS = ("masks", "mask", "labels", "annotations", "ann_dir", "segmentation", "gt", "labelids")
_ENDINGS = (".png", ".bmp", ".tif", ".tiff")
_TAILS = ("", "_mask", "_label", "_labelIds")


def sniff(path: Path) -> bool:
    """Tells whether a folder has images and masks of the same names."""
    for _, images, masks in _pairs(path):
        stems = [stem_of(name) for name in _first(images)]
        files = set(_first(masks))
        if any(_mask_in(files, stem) for stem in stems):
            return True
    return False


def _first(folder: Path, most: int = 200) -> list[str]:
    names = (name for name in walk(folder) if is_image(name))
    return [name for name, _ in zip(names, range(most), strict=False)]


def _mask_in(files: set[str], stem: str) -> str | None:
    names = (f"{stem}{tail}{end}" for tail in _TAILS for end in _ENDINGS)
    return next((name for name in names if name in files), None)


def _pairs(root: Path) -> Iterator[tuple[str | None, Path, Path]]:
    """Yields each split, its folder of images and its folder of masks."""
    if not root.is_dir():
        return
    folders = visible(root)[0]
    images = next((root / n for n in folders if n.lower() in _IMAGES), None)
    masks = next((root / n for n in folders if n.lower() in _MASKS), None)
    if images and masks:
        inner = [n for n in visible(images)[0] if kind_of(n) and (masks / n).is_dir()]
        for name in inner:
            yield name, images / name, masks / name
        if not inner:
            yield None, images, masks
    elif not images and not masks:
        for name in (n for n in folders if kind_of(n)):
            for _, own, others in _pairs(root / name):
                yield name, own, others


def read(path: Path, images: Path | None = None) -> Dataset:
    """Opens a dataset of images and masks.

    An image without a mask has none; a mask without an image is an error when its turn comes.

    Args:
        path: The folder around both.
        images: Not used.

    Raises:
        UsageError: If there are no such folders.
        DataError: If one cannot be read.
    """
    found: list[Found] = []
    places: dict[str, tuple[Path, str, Path | None]] = {}
    for split, home, masks in _pairs(path):
        files = {name for name in walk(masks) if is_image(name)}
        left = set(files)
        for name in (each for each in walk(home) if is_image(each)):
            mask = _mask_in(files, stem_of(name))
            left.discard(mask or "")
            _note(
                found,
                places,
                Entry(safe_name(name, home), split),
                (home, name, masks / mask if mask else None),
            )
        for name in sorted(left):
            _note(found, places, Entry(safe_name(name, masks), split), (home, name, masks / name))
    if not found:
        raise UsageError(f"{path}: no images with masks ({LOOKS})")
    names: list[str] = []
    if (path / "classes.txt").is_file():
        names = [line.strip() for line in text_of(path / "classes.txt").splitlines()]
        names = [name for name in names if name]
    sidecar = read_sidecar(path)
    meta = Meta(tuple(Category(k, name) for k, name in enumerate(names)))
    if names:
        sidecar, meta = sidecar.by_number(meta)
    else:
        meta = sidecar.meta or meta
    order = sidecar.arranged(found)

    def load(index: int) -> AnnotatedImage:
        one = order[index]
        home, name, mask = places[one.key]
        content = image_at(home, name, mask or path)
        kept = sidecar.image(one.key, "", content)
        if kept is not None:
            return kept
        own = FileContent(mask) if mask else None
        return AnnotatedImage(one.entry.name, content, one.entry.split, mask=own)

    return Dataset(path, NAME, meta, [each.entry for each in order], load, sidecar.last)


def _note(
    found: list[Found],
    places: dict[str, tuple[Path, str, Path | None]],
    entry: Entry,
    where: tuple[Path, str, Path | None],
) -> None:
    found.append(Found(entry.relative, entry))
    places[entry.relative] = where


def place(image: AnnotatedImage) -> str:
    """Returns where an image lies in the dataset."""
    return split_path("images", image)


def place_mask(image: AnnotatedImage) -> str:
    """Returns where an image's mask lies in the dataset."""
    return split_path("masks", image, mask_ending(image))


def write(out: Path, meta: Meta, images: Iterable[AnnotatedImage], notes: Notes) -> None:
    """Writes masks that have to be drawn, for images and masks that lie where they should.

    Args:
        out: The dataset's folder.
        meta: Categories and the rest.
        images: They are not kept in memory.
        notes: Where objects that are boxes alone are counted: nothing is drawn of them.

    Raises:
        DataError: If an image's size cannot be read, or two would share a mask.
        AugpipeError: If a file cannot be written.
    """
    names = [each.name for each in meta.categories]
    numbered = [each.id for each in meta.categories] == list(range(len(names)))
    listed = (
        names if numbered and all([name.strip()] == name.splitlines() for name in names) else []
    )
    native = Meta(tuple(Category(k, name) for k, name in enumerate(listed)))
    seen: set[str] = set()
    make_folder(out / "masks")
    with SidecarWriter(out, NAME, meta, native) as sidecar:
        for image in images:
            key = Entry(image.name, image.split).relative
            if stem_of(key) in seen:
                raise DataError(image.name, "a second image of this name but for its ending")
            seen.add(stem_of(key))
            mask = image.mask
            if mask is None:
                data = draw_mask(image, notes)
                if data is not None:
                    path = out / place_mask(image)
                    make_folder(path.parent)
                    write_atomic(path, data)
                    mask = FileContent(path)
            found = mask if mask_ending(image) in _ENDINGS else None
            restored = AnnotatedImage(image.name, image.content, image.split, mask=found)
            own = None if image.mask is None else place_mask(image)
            sidecar.add(key, "", image, restored, own)
    if listed:
        write_atomic(out / "classes.txt", "".join(f"{name}\n" for name in listed).encode())


def draw_mask(image: AnnotatedImage, notes: Notes) -> bytes | None:
    """Returns a PNG of an image's objects: 8 bits a pixel, 16 where an id needs them.

    Args:
        image: The image; its objects' outlines and masks are drawn.
        notes: Where objects without either are counted.

    Raises:
        DataError: If the size is not known and cannot be read, or a mask is of another size.
    """
    shapes = [each for each in image.annotations if each.polygons or each.rle]
    for position, each in enumerate(image.annotations):
        if not (each.polygons or each.rle):
            notes.add("object without an outline", object_of(image, position))
    if not shapes:
        return None
    size = image.size or size_of(image.content, image.name)
    if size[0] * size[1] > MAX_PIXELS:
        raise DataError(image.name, f"too large: its record says {size[0]} x {size[1]} pixels")
    lowest, highest = (way(each.category for each in shapes) for way in (min, max))
    if lowest < 0 or highest > 65535:
        number = lowest if lowest < 0 else highest
        raise DataError(image.name, f"a mask cannot hold the class id {number}: 0 to 65535")
    deep = highest > 255
    canvas = np.zeros(size, np.uint16 if deep else np.uint8)
    for each in shapes:
        if each.rle is not None:
            filled = decode_rle(each.rle, image.name)
            if filled.shape != size:
                raise DataError(image.name, f"a mask of {filled.shape} pixels for {size}")
        else:
            filled = fill(each.polygons, size)
        canvas[filled > 0] = each.category
    buffer = io.BytesIO()
    Image.fromarray(canvas).save(buffer, "PNG", compress_level=2)
    return buffer.getvalue()


def fill(polygons: Iterable[Sequence[float]], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Returns (H, W), 1 where a pixel's centre lies in a polygon (x and y in turn), else 0."""
    layer = Image.new("L", size[::-1])
    pen = ImageDraw.Draw(layer)
    for part in polygons:
        # Pillow counts from pixel centres.
        pen.polygon([value - 0.5 for value in part], fill=1)
    return np.asarray(layer)


def open_mask(content: Content, where: str) -> Image.Image:
    """Returns a mask's image with its numbers as they are: a palette's stay places in it.

    Raises:
        DataError: If it is no image, is truncated or too large, or has numbers of another kind.
    """
    stream = io.BytesIO(content.read())
    try:
        image = parse(stream, MAX_PIXELS)
        check_data(image, stream)
        image.load()
    except Refused as refusal:
        raise DataError(where, f"its mask: {refusal}") from None
    except Exception as error:  # Pillow raises a dozen types on broken files
        raise DataError(where, f"its mask cannot be read ({type(error).__name__})") from error
    if image.mode not in ("L", "P", "1", "I;16", "RGB"):
        raise DataError(where, f"its mask is of Pillow's mode {image.mode}")
    return image
