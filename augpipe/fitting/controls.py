"""What a learned augmenter is worth to a classifier, beside what costs nothing."""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from augpipe import recipe as recipes
from augpipe.data.children import end_with, interrupts_held_back, leave_interrupts
from augpipe.fitting.devices import has_bfloat16, one_thread
from augpipe.fitting.labelled import Divided
from augpipe.losses import accuracy
from augpipe.pipeline import Pipeline
from augpipe.recipe import Recipe
from augpipe.training.comparing import compare
from augpipe.training.comparison import Comparison, paired
from augpipe.training.models import load_model
from augpipe.training.results import Result
from augpipe.training.running import train

_BATCH = 64
_LR, _DECAY = 0.4, 0.02
"""Best without augmentation, in the mean of clothing10 and of 1,000 images of Fashion-MNIST."""
_DRAWS = 4  # of each held-out image, for the affinity
NONE, TRIVIAL = "no augmentation", "TrivialAugment"

Items = Sequence[Any]


@dataclass(frozen=True)
class ControlTable:
    """The learned augmenter beside its controls.

    Args:
        comparison: Paired seeds, on the images held out; no augmentation is the first row.
        affinity: Of each row: accuracy of a network trained without augmentation on held-out images
            that are augmented, over that on them as they are (arXiv 2002.08973); None where that
            is 0.
        diversity: Of each row: the loss at the end of a training, over that of a training without
            augmentation (likewise).
        learned: The name of the learned row; where there are several, of the most accurate one.
        by: Its accuracy less TrivialAugment's, in paired seeds.
        half: Half of Student's 95 % interval of that.
    """

    comparison: Comparison
    affinity: tuple[float | None, ...]
    diversity: tuple[float, ...]
    learned: str
    by: float
    half: float
    candidates: tuple[str, ...] = ()
    """The learned rows, where there are several."""

    @property
    def verdict(self) -> str:
        """The honest sentence."""
        by = f"{_difference(self.by, self.half)} points"
        if self.by > self.half:
            return f"{self.learned} beats {TRIVIAL} here: {by}"
        if self.by < -self.half:
            return f"{self.learned} is worse than {TRIVIAL} here: {by}"
        return f"no evidence that {self.learned} beats {TRIVIAL} here: {by}"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What costs nothing and is better."""
        accuracies = {
            row.name: [each.accuracy for each in row.results] for row in self.comparison.rows
        }
        out = []
        for name, own in accuracies.items():
            by, half = paired(own, accuracies[self.learned])
            if name not in (TRIVIAL, self.learned, *self.candidates) and by < -half:
                out.append(f"{self.learned} is worse than {name} here: {_difference(by, half)}")
        return tuple(out)

    def __str__(self) -> str:
        rows = self.comparison.rows
        wide = max(len(row.name) for row in rows)
        seeds = len(rows[0].results)
        head = f"{''.ljust(wide)}  accuracy  difference (95 %)  affinity  diversity  seconds"
        lines = [
            f"accuracy in % on images held out ({self.comparison.measured_on}), {seeds} seeds",
            head,
        ]
        for row, affinity, diversity in zip(rows, self.affinity, self.diversity, strict=True):
            by = "-"
            if row.difference is not None and row.half is not None:
                by = _difference(row.difference, row.half)
            near = "-" if affinity is None else f"{affinity:.2f}"
            lines.append(
                f"{row.name.ljust(wide)}  {100 * row.mean('accuracy'):8.2f}  {by:>17}  "
                f"{near:>8}  {diversity:9.2f}  {row.mean('seconds'):7.0f}"
            )
        if self.candidates:
            lines.append(f"chosen by these images: {self.learned}")
        return "\n".join([*lines, self.verdict, *self.warnings])

    def noted(self) -> dict[str, Any]:
        """Returns it as JSON holds it."""
        rows = zip(self.comparison.rows, self.affinity, self.diversity, strict=True)
        return {
            "rows": [
                {
                    "name": row.name, "accuracy": row.mean("accuracy"),
                    "difference": row.difference, "half": _finite(row.half), "affinity": affinity,
                    "diversity": diversity, "runs": [asdict(each) for each in row.results],
                }
                for row, affinity, diversity in rows
            ],
            "learned": self.learned,
            "by": self.by, "half": _finite(self.half), "verdict": self.verdict,
            "warnings": list(self.warnings),
        }  # fmt: skip


def _difference(by: float, half: float) -> str:
    return f"{100 * by:+.2f} ± " + (f"{100 * half:.2f}" if math.isfinite(half) else "?")


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def control(
    data: Divided,
    base: Items,
    learned: Mapping[str, tuple[Items, Items]],
    folder: Path,
    *,
    seeds: int,
    steps: int,
    jobs: int | None = None,
    tell: Callable[[str, int, Result], None] | None = None,
    candidates: Sequence[str] = (),
) -> ControlTable:
    """Trains a small network with each and measures it on `data.unseen`.

    Args:
        data: Its test images are not looked at.
        base: The ops that all but the first two rows have, of the sample section.
        learned: Rows beside the controls by name, each ops of the sample and of the batch section;
            the last is the one to be judged, unless there are `candidates`.
        folder: Where the runs are kept.
        seeds: Of each row.
        steps: Of each run.
        jobs: Runs at a time; one a core when left out.
        tell: Is told of each run.
        candidates: Of which rows the most accurate one is to be judged.
    """
    plain = flip_and_crop(data.train.images.shape[-1])
    rows: dict[str, tuple[Items, Items]] = {
        NONE: ((), ()),
        "flip and crop": (plain, ()),
        **({} if list(base) == plain else {"base": (base, ())}),
        TRIVIAL: ([*base, "trivial_augment"], ()),
        **{name: ([*base, *sample], batch) for name, (sample, batch) in learned.items()},
    }
    made = {name: recipe_of(*each, steps, len(data.train)) for name, each in rows.items()}
    splits = replace(data.splits, test=None)
    comparison = compare(
        list(made.values()),
        splits,
        folder,
        seeds=seeds,
        steps=None,
        jobs=jobs,
        on="validation",
        names=list(made),
        tell=tell,
    )
    net = load_model(_train_clean(data, folder, steps))
    losses = [
        float(np.mean([each.train_loss or 0.0 for each in row.results])) for row in comparison.rows
    ]
    by_name = {row.name: [each.accuracy for each in row.results] for row in comparison.rows}
    # Of rows that are as accurate the last: what was learned, as it was learned.
    judged = max(reversed(candidates or list(rows)[-1:]), key=lambda name: np.mean(by_name[name]))
    clearly = _told(net, made[NONE], data, 1)
    return ControlTable(
        comparison,
        tuple(
            _told(net, each, data, _DRAWS) / clearly if clearly else None for each in made.values()
        ),
        tuple(each / max(losses[0], 1e-12) for each in losses),
        judged,
        *paired(by_name[TRIVIAL], by_name[judged]),
        tuple(candidates),
    )


@contextmanager
def clean_beside(data: Divided, folder: Path, steps: int, jobs: int | None) -> Iterator[None]:
    """Trains the network without augmentation that `control` needs, while something else is done.

    That takes one core; in a process of its own this takes another, if there are two.
    """
    few = (jobs or os.cpu_count() or 1) < 2 or multiprocessing.current_process().daemon
    if few or (_clean(data, folder, steps)[1] / "model.safetensors").exists():
        yield
        return
    child = multiprocessing.get_context("spawn").Process(
        target=_begin_clean, args=(os.getpid(), data, folder, steps), daemon=True
    )
    try:
        with interrupts_held_back(spawned=True):
            child.start()
        yield
        child.join()
    finally:
        if child.pid is not None:
            child.kill()  # what it had is kept
            child.join()


def _begin_clean(parent: int, data: Divided, folder: Path, steps: int) -> None:
    leave_interrupts()
    end_with(parent)
    with suppress(Exception, KeyboardInterrupt):  # `control` does it again, and says what is wrong
        _train_clean(data, folder, steps)


def _clean(data: Divided, folder: Path, steps: int) -> tuple[Recipe, Path]:
    """Returns what the network without augmentation is trained by, and where."""
    recipe = recipe_of((), (), steps, len(data.train))
    of = f"{recipe.dump()} {data.identity}".encode()
    return recipe, folder / f"clean-{hashlib.blake2b(of, digest_size=6).hexdigest()}"


def _train_clean(data: Divided, folder: Path, steps: int) -> Path:
    """Trains without augmentation, unless that is done; returns the weights."""
    recipe, own = _clean(data, folder, steps)
    splits = replace(data.splits, validation=_empty(data), test=data.splits.validation)
    with one_thread():
        train(recipe, splits, own, workers=0, accelerator="cpu", devices=1)
    return own / "model.safetensors"


def flip_and_crop(side: int) -> list[Any]:
    """Returns the ops that cost nothing and nearly always help, on images of a side."""
    return ["horizontal_flip", {"random_crop": {"size": side, "padding": side // 8}}]


def recipe_of(sample: Items, batch: Items, steps: int, count: int) -> Recipe:
    """Returns what the rows train by."""
    content: dict[str, Any] = {
        "version": 1,
        "batch": [*batch, {"normalize": "half"}],
        "regularize": [{"weight_decay": {"strength": _DECAY}}],
        "train": {
            "model": "wrn_10_1", "lr": _LR, "steps": steps, "batch_size": min(_BATCH, count),
            "precision": "bfloat16" if has_bfloat16("cpu") else "float32",
        },
    }  # fmt: skip
    return recipes.load({**content, "sample": list(sample)} if sample else content)


def _empty(data: Divided) -> Any:
    return replace(data.unseen.part(), indices=np.zeros(0, np.int64))


@torch.no_grad()
def _told(net: torch.nn.Module, recipe: Recipe, data: Divided, draws: int) -> float:
    """Returns a network's accuracy on held-out images as a recipe augments them."""
    pipe, part = Pipeline(recipe), data.unseen
    hits = []
    for epoch in range(draws):
        batches = pipe.loader(
            part, batch_size=min(_BATCH, len(part)), workers=0, shuffle=False, epoch=epoch
        )
        hits += [float(accuracy(net(x), y)) * len(x) for x, y in batches]
    return sum(hits) / (draws * len(part))
