"""The same work, done by each library a user could pick: files or arrays to training batches.

All of them load with the same number of workers (processes of torch's DataLoader, also in
augpipe), in the same order, and yield float32 batches (B, C, H, W), normalized. Where a library
does not offer a part of the work, `report.NOTES` says so, and docs/benchmarks.md with it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.jobs import Arrays, Job, recipe
from benchmarks.measuring import UnsupportedError

PEERS = (
    "albumentations",
    "augpipe",
    "torchvision, PIL",
    "torchvision, tensors",
    "timm",
    "kornia",
)
"""In an order that keeps augpipe beside what it is compared with."""

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_MEAN, GREY_STD = (0.2860,), (0.3530,)  # Fashion-MNIST
JITTER = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}


def batches(peer: str, job: Job) -> Iterator[Tensor]:
    """Yields a job's batches of images as a library's user would get them.

    Raises:
        UnsupportedError: If it does not do this work, or is not installed.
    """
    torch.set_num_threads(1)
    try:
        match peer:
            case "augpipe":
                yield from _augpipe(job)
            case "kornia":
                yield from _kornia(job)
            case _:
                load = _per_image(peer, job)
                yield from _data_loader(Loading(job.items, load), job)
    except ModuleNotFoundError as error:
        raise UnsupportedError(f"{error.name} is not installed") from error


def preload(peers: Sequence[str]) -> None:
    """Imports what the peers need, for the processes that are forked from this one."""
    modules = {
        "albumentations": ("albumentations", "albumentations.pytorch"),
        "augpipe": ("augpipe", "augpipe.batch", "augpipe.data.loader", "augpipe.backends.opencv"),
        "timm": ("timm.data",),
        "kornia": ("kornia.augmentation", "torchvision.transforms.v2"),
    }
    for peer in peers:
        for name in modules.get(peer, ("torchvision.transforms.v2",)):
            try:
                importlib.import_module(name)
            except ModuleNotFoundError:
                print(f"{peer} is left out: {name} is not installed")


class Loading(Dataset[Any]):
    """Items, each loaded and transformed when it is asked for: what a DataLoader is given."""

    def __init__(self, items: Sequence[Any], load: Callable[[Any], Tensor]) -> None:
        self.items = items
        self.load = load

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.load(self.items[index]), index % 10


def _calm(worker: int) -> None:
    import cv2

    cv2.setNumThreads(0)


def _data_loader(dataset: Dataset[Any], job: Job) -> Iterator[Tensor]:
    loader = DataLoader(
        dataset,
        job.batch,
        sampler=job.order(),
        num_workers=job.workers,
        worker_init_fn=_calm,
    )
    if not job.workers:
        _calm(0)
    for images, _ in loader:
        yield images


def _augpipe(job: Job) -> Iterator[Tensor]:
    import augpipe

    try:
        pipe = augpipe.load(recipe(job.recipe))
    except augpipe.RecipeError as error:
        if job.recipe.endswith("cached"):
            raise UnsupportedError(
                f"the recipe with `cache: memory` is refused: {error}"
            ) from error
        raise
    loader = pipe.loader(job.source, batch_size=job.batch, workers=job.workers, sampler=job.order())
    if job.recipe.endswith("cached"):
        for _ in loader:  # the first epoch fills the cache
            pass
    with closing(iter(loader)) as stream:
        for images, _ in stream:
            yield images


def _per_image(peer: str, job: Job) -> Callable[[Any], Tensor]:
    """Returns a library's function from a file or an array to a float tensor (C, H, W)."""
    in_memory = isinstance(job.source, Arrays)
    match peer:
        case "albumentations":
            compose = albumentations(job.work)
            read = _as_it_is if in_memory else _by_cv2
            return lambda item: compose(image=read(item))["image"]
        case "torchvision, PIL":
            open_, transform = (
                _array_to_pil if in_memory else _by_pil,
                torchvision(job.work, pil=True),
            )
        case "torchvision, tensors":
            open_, transform = (
                _to_tensor if in_memory else _by_torch,
                torchvision(job.work, pil=False),
            )
        case "timm":
            open_, transform = _by_pil, _timm(job.work)
        case _:
            raise ValueError(f"no library called {peer!r}: {', '.join(PEERS)}")
    return lambda item: transform(open_(item))


def _as_it_is(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return image


def _by_cv2(path: Path) -> NDArray[np.uint8]:
    import cv2

    with path.open("rb") as file:
        return cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_COLOR_RGB)


def _by_pil(path: Path) -> Any:
    from PIL import Image

    with path.open("rb") as file:
        return Image.open(file).convert("RGB")


def _by_torch(path: Path) -> Tensor:
    from torchvision.io import ImageReadMode, decode_jpeg, read_file

    return decode_jpeg(read_file(str(path)), mode=ImageReadMode.RGB)


def _array_to_pil(image: NDArray[np.uint8]) -> Any:
    from PIL import Image

    return Image.fromarray(image)


def _to_tensor(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image)[None]


def albumentations(work: str, tensor: bool = True) -> Callable[..., dict[str, Any]]:
    """Returns albumentations' Compose for a recipe; tensors come out, or else arrays."""
    import albumentations as A
    from albumentations.pytorch import ToTensorV2

    crop = [A.RandomResizedCrop((224, 224)), A.HorizontalFlip(p=0.5)]
    jitter = A.ColorJitter(0.4, 0.4, 0.4, 0.1, p=1)
    end = [A.Normalize(MEAN, STD)]
    ops: list[Any]
    match work:
        case "crop":
            ops = crop
        case "imagenet":
            ops = [*crop, jitter]
        case "strong":
            affine = A.Affine(
                scale=(0.9, 1.1),
                translate_percent=(-0.1, 0.1),
                rotate=(-15, 15),
                shear={"x": (-10, 10), "y": (0, 0)},
                keep_ratio=True,
                p=1,
            )
            ops = [*crop, affine, jitter, A.RandomGamma((70, 150), p=1)]
            ops += [A.Posterize((4, 7), p=0.2), A.Solarize((0.5, 1.0), p=0.2), A.Erasing(p=0.25)]
        case "small":
            ops = [
                A.Pad(2),
                A.RandomCrop(28, 28),
                A.HorizontalFlip(p=0.5),
                A.Rotate((-10, 10), p=1),
            ]
            ops += [A.CoarseDropout((1, 1), (8, 8), (8, 8), p=0.5)]
            end = [A.Normalize(GREY_MEAN, GREY_STD)]
        case _:
            raise UnsupportedError(f"it has no transforms for the recipe {work}")
    return A.Compose([*ops, *end, *[ToTensorV2()] * tensor])


def torchvision(work: str, pil: bool) -> Callable[[Any], Tensor]:
    """Returns torchvision's v2 transforms for a recipe, for PIL images or for tensors."""
    import torchvision.transforms.v2 as T

    bilinear = T.InterpolationMode.BILINEAR
    crop = [T.RandomResizedCrop(224, antialias=True), T.RandomHorizontalFlip()]
    jitter = T.ColorJitter(0.4, 0.4, 0.4, 0.1)
    to_tensor = [T.ToImage()] * pil
    end = [T.ToDtype(torch.float32, scale=True), T.Normalize(MEAN, STD)]

    def gamma(image: Any) -> Any:
        return T.functional.adjust_gamma(image, float(torch.empty(1).uniform_(0.7, 1.5)))

    ops: list[Any]
    match work:
        case "crop":
            ops = [*crop, *to_tensor]
        case "imagenet":
            ops = [*crop, jitter, *to_tensor]
        case "strong":
            affine = T.RandomAffine(15, (0.1, 0.1), (0.9, 1.1), 10, interpolation=bilinear)
            ops = [*crop, affine, jitter, T.Lambda(gamma)]
            ops += [T.RandomPosterize(6, p=0.2), T.RandomSolarize(192, p=0.2)]
            ops += [*to_tensor, T.RandomErasing(p=0.25)]
        case "randaugment":
            ops = [*crop, T.RandAugment(2, 9, interpolation=bilinear), *to_tensor]
        case "trivialaugment":
            ops = [*crop, T.TrivialAugmentWide(interpolation=bilinear), *to_tensor]
        case "small":
            ops = [T.RandomCrop(28, padding=2), T.RandomHorizontalFlip()]
            ops += [T.RandomRotation(10, interpolation=bilinear), *to_tensor]
            ops += [T.RandomErasing(p=0.5, scale=(0.09, 0.09), ratio=(1, 1))]
            end = [T.ToDtype(torch.float32, scale=True), T.Normalize(GREY_MEAN, GREY_STD)]
        case _:
            raise UnsupportedError(f"it has no transforms for the recipe {work}")
    return T.Compose([*ops, *end])


def _timm(work: str) -> Callable[[Any], Tensor]:
    from timm.data import create_transform

    options: dict[str, Any] = {"is_training": True, "interpolation": "bilinear"}
    jitter = tuple(JITTER.values())
    match work:
        case "imagenet":
            return create_transform(224, color_jitter=jitter, **options)
        case "strong":
            return create_transform(224, color_jitter=jitter, re_prob=0.25, **options)
        case "randaugment":
            # Of timm's 10 strengths 3 is what 9 is of torchvision's 30; p is 0.5 unless given.
            return create_transform(224, auto_augment="rand-m3-n2-p1-inc1", **options)
        case _:
            raise UnsupportedError(f"it has no transforms for the recipe {work}")


def _kornia(job: Job) -> Iterator[Tensor]:
    import kornia.augmentation as K
    import torchvision.transforms.v2 as T

    mean, std = (GREY_MEAN, GREY_STD) if job.work == "small" else (MEAN, STD)
    flip, jitter = K.RandomHorizontalFlip(p=0.5), K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=1.0)
    ops: list[Any]
    match job.work:
        case "crop":
            ops = [flip]
        case "imagenet":
            ops = [flip, jitter]
        case "strong":
            affine = K.RandomAffine(15.0, (0.1, 0.1), (0.9, 1.1), 10.0, p=1.0)
            ops = [flip, affine, jitter, K.RandomGamma((0.7, 1.5), p=1.0)]
            ops += [K.RandomPosterize((4.0, 8.0), p=0.2)]
            ops += [K.RandomSolarize((0.5, 1.0), (0.0, 0.0), p=0.2), K.RandomErasing(p=0.25)]
        case "randaugment":
            ops = [flip, K.auto.RandAugment(2, 9)]
        case "trivialaugment":
            ops = [flip, K.auto.TrivialAugment()]
        case "small":
            ops = [K.RandomCrop((28, 28), padding=2), flip, K.RandomRotation(10.0, p=1.0)]
            ops += [K.RandomErasing(p=0.5, scale=(0.09, 0.09), ratio=(1.0, 1.0))]
    augment = K.AugmentationSequential(
        *ops, K.Normalize(torch.tensor(mean), torch.tensor(std)), data_keys=["input"]
    )
    crop = T.RandomResizedCrop(224, antialias=True)
    in_memory = isinstance(job.source, Arrays)
    load = _to_tensor if in_memory else lambda path: crop(_by_torch(path))
    with torch.no_grad():
        for images in _data_loader(Loading(job.items, load), job):
            yield augment(images / 255.0)
