"""How good generated images are: what a classifier learns of them, and how near real ones they lie.

Everything is measured with classifiers of our own, trained on the images that the generator was
fitted on: nothing is downloaded, and figures of different datasets do not compare.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from augpipe.errors import printable
from augpipe.fitting.labelled import Divided, Labelled
from augpipe.fitting.metrics import frechet, memorisation, precision_recall
from augpipe.training.data import Splits
from augpipe.training.models import load_model
from augpipe.training.running import train

_EPOCHS, _FEWEST, _MOST = 20, 300, 5000  # optimizer steps of a classifier
_BATCH = 64
_COUNT = 2000  # images that distances are measured on, at most
_LOOKED_AT = 500  # generated images, while it is fitted
_PART = 500

Make = Callable[[Tensor, int], Tensor]
"""(n,) classes and a seed to (n, C, side, side) uint8 images, on the CPU."""


@dataclass(frozen=True)
class GanReport:
    """What a generator is worth.

    Args:
        classes: The names.
        measured_on: What the classifiers are tested on: "test" or "validation".
        train_images: How many real images the generator and the classifiers saw.
        synthetic: The classification accuracy score (Ravuri & Vinyals, arXiv 1905.10887): accuracy
            of a classifier trained on as many generated images alone.
        real: Accuracy of the same classifier trained on the real images.
        synthetic_by_class: `synthetic` for each class; None where there is no test image of it.
        real_by_class: `real` for each class, likewise.
        agreement: Share of generated images that the classifier of the real ones puts into the
            class they were made for ("GAN-test").
        compared: On how many images of each kind the next four are measured: they depend on it.
        frechet: Distance of generated from unseen real images, in that classifier's features.
        frechet_floor: That of the real training images from the same.
        precision: Share of generated images in the manifold of the real ones.
        recall: Share of the real images in the manifold of the generated ones.
        memorisation: Median distance of generated images to the nearest training image, over
            that of unseen real images, in features.
        memorisation_pixels: The same in pixels, the nearer of an image and its mirror image.
        steps: Of the generator.
        seconds: Of fitting the generator.
        parameters: Of the generator.
        stopped: Why it was stopped early; "" where it was not.
    """

    classes: tuple[str, ...]
    measured_on: str
    train_images: int
    synthetic: float
    real: float
    synthetic_by_class: tuple[float | None, ...]
    real_by_class: tuple[float | None, ...]
    agreement: float
    compared: int
    frechet: float
    frechet_floor: float
    precision: float
    recall: float
    memorisation: float
    memorisation_pixels: float
    steps: int
    seconds: float
    parameters: int
    stopped: str = ""

    def __str__(self) -> str:
        names = [printable(name) for name in self.classes]
        wide = max(5, *map(len, names))
        rows = zip(names, self.synthetic_by_class, self.real_by_class, strict=True)
        lines = [
            f"{self.parameters:,} parameters, {self.steps} steps in {self.seconds:.0f} s"
            + (f"; stopped: {self.stopped}" if self.stopped else ""),
            f"a classifier on {self.measured_on} images, trained on {self.train_images}",
            f"{'class'.ljust(wide)}  generated   real",
            *(f"{name.ljust(wide)}  {_percent(a, 7)} %  {_percent(b, 5)} %" for name, a, b in rows),
            f"{'all'.ljust(wide)}  {_percent(self.synthetic, 7)} %  {_percent(self.real, 5)} %",
            f"told as their class by the real images' classifier: {100 * self.agreement:.1f} %",
            f"{self.compared} of each: Fréchet distance {self.frechet:.2f} (real images among "
            f"themselves {self.frechet_floor:.2f}); precision {self.precision:.2f}, recall "
            f"{self.recall:.2f}",
            f"distance to the nearest training image, against unseen real images: "
            f"{self.memorisation:.2f} in features, {self.memorisation_pixels:.2f} in pixels",
        ]
        return "\n".join(lines)


class Judge:
    """The classifier of the real images, and its features.

    Args:
        data: The images.
        folder: Where classifiers are kept; what is trained there is not trained again.
        seed: Of their weights and batches.
        identity: Names what makes the images, to tell another's classifiers by.
        accelerator: Lightning's: cpu or gpu.
    """

    def __init__(
        self, data: Divided, folder: Path, seed: int, identity: str = "", accelerator: str = "cpu"
    ) -> None:
        self._data, self._folder, self._seed = data, folder, seed
        self._identity, self._accelerator = identity, accelerator
        self.net = self._classifier("real", data.train)
        self._body = copy.deepcopy(self.net)
        self._body.fc = nn.Identity()
        self._train = self.features(data.train.images)
        self._unseen = self.features(_some(data.unseen.images))

    def _classifier(self, name: str, images: Labelled) -> nn.Module:
        data = self._data
        splits = Splits(
            images.part(),
            Labelled(data.test.images[:0], data.test.targets[:0], images.classes).part(),
            data.test.part(),
            images.classes,
            images.images.shape[1],
            f"{name} {data.identity} {self._identity}",
        )
        folder = self._folder / name
        train(
            self._recipe(len(images)),
            splits,
            folder,
            workers=0,
            accelerator=self._accelerator,
            devices=1,
        )
        return load_model(folder / "model.safetensors")

    def _recipe(self, count: int) -> dict[str, Any]:
        side = self._data.train.images.shape[-1]
        batch = min(_BATCH, count)
        return {
            "version": 1,
            "seed": self._seed,
            "sample": ["horizontal_flip", {"random_crop": {"size": side, "padding": side // 14}}],
            "batch": [{"normalize": "half"}],
            "regularize": [{"weight_decay": {"strength": 0.02}}],
            "train": {
                "model": "wrn_10_1",
                "batch_size": batch,
                "lr": 0.2,
                "steps": max(_FEWEST, min(_MOST, _EPOCHS * count // batch)),
            },
        }

    def memorisation(self, make: Make, seed: int) -> float:
        """Returns `GanReport.memorisation` of images made now."""
        targets = self._data.train.targets.sort().values
        at = torch.linspace(0, len(targets) - 1, min(len(targets), _LOOKED_AT)).long()
        return memorisation(self.features(make(targets[at], seed)), self._unseen, self._train)

    @torch.no_grad()
    def _logits(self, net: nn.Module, images: Tensor) -> Tensor:
        return torch.cat([net(part.float() / 127.5 - 1) for part in torch.split(images, _PART)])

    def features(self, images: Tensor) -> Tensor:
        """Returns (n, d) features of uint8 images: what the last layer of the classifier sees."""
        return self._logits(self._body, images)

    def report(self, make: Make, **about: Any) -> GanReport:
        """Trains a classifier on generated images and measures all that a report holds.

        Args:
            make: Makes images.
            about: The report's other fields.
        """
        data = self._data
        targets = data.train.targets
        made = Labelled(make(targets, self._seed + 1), targets, data.train.classes)
        learned = self._classifier("generated", made)
        features = self.features(_some(made.images))
        train, unseen = _some(self._train), self._unseen
        count = min(len(features), len(train), len(unseen))
        hits = [self._hits(net, data.test) for net in (learned, self.net)]
        synthetic, real = (float(each.mean()) for each in hits)
        by_class = [self._by_class(each) for each in hits]
        precision, recall = precision_recall(unseen[:count], features[:count])
        own = data.train.images
        pixels = [_some(made.images), _some(data.unseen.images), own, own.flip(3)]
        return GanReport(
            classes=tuple(data.train.classes),
            measured_on=data.measured_on,
            train_images=len(data.train),
            synthetic=synthetic,
            real=real,
            synthetic_by_class=by_class[0],
            real_by_class=by_class[1],
            agreement=float(self._hits(self.net, made).mean()),
            compared=count,
            frechet=frechet(features[:count], unseen[:count]),
            frechet_floor=frechet(train[:count], unseen[:count]),
            precision=precision,
            recall=recall,
            memorisation=memorisation(features, unseen, self._train),
            memorisation_pixels=memorisation(*(each.flatten(1) for each in pixels)),
            **about,
        )

    def _hits(self, net: nn.Module, images: Labelled) -> Tensor:
        """Returns (n,): 1 where a network tells the class, else 0."""
        return (self._logits(net, images.images).argmax(dim=1) == images.targets).float()

    def _by_class(self, hits: Tensor) -> tuple[float | None, ...]:
        test = self._data.test
        rows = [hits[test.targets == k] for k in range(len(test.classes))]
        return tuple(float(each.mean()) if len(each) else None for each in rows)


def _percent(share: float | None, width: int) -> str:
    return ("-" if share is None else f"{100 * share:.1f}").rjust(width)


def to_levels(images: Tensor) -> Tensor:
    """Returns uint8 images of floats in 0..1, rounded half to even."""
    return (255.0 * images).round().to(torch.uint8)


def _some(rows: Tensor) -> Tensor:
    """Returns at most as many rows as distances are measured on, in an order of their own."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return rows[order[:_COUNT]]
