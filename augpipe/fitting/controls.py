"""What a learned augmenter is worth to a classifier, beside what costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from augpipe import recipe as recipes
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

_BATCH, _LR, _DECAY = 64, 0.1, 5e-3
_DRAWS = 4  # of each held-out image, for the affinity
NONE, TRIVIAL = "no augmentation", "TrivialAugment"

Items = Sequence[Any]


@dataclass(frozen=True)
class ControlTable:
    """The learned augmenter beside its controls.

    Args:
        comparison: Paired seeds, on the images held out; no augmentation is the first row.
        affinity: Of each row: accuracy of a network trained without augmentation on held-out images
            that are augmented, over that on them as they are (arXiv 2002.08973).
        diversity: Of each row: the loss at the end of a training, over that of a training without
            augmentation (likewise).
        learned: The name of the learned row.
        by: Its accuracy less TrivialAugment's, in paired seeds.
        half: Half of Student's 95 % interval of that.
    """

    comparison: Comparison
    affinity: tuple[float, ...]
    diversity: tuple[float, ...]
    learned: str
    by: float
    half: float

    @property
    def verdict(self) -> str:
        """The honest sentence."""
        by = f"{100 * self.by:+.2f} ± {100 * self.half:.2f} points"
        if self.by > self.half:
            return f"{self.learned} beats {TRIVIAL} here: {by}"
        if self.by < -self.half:
            return f"{self.learned} is worse than {TRIVIAL} here: {by}"
        return f"no evidence that {self.learned} beats {TRIVIAL} here: {by}"

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
                by = f"{100 * row.difference:+.2f} ± {100 * row.half:.2f}"
            lines.append(
                f"{row.name.ljust(wide)}  {100 * row.mean('accuracy'):8.2f}  {by:>17}  "
                f"{affinity:8.2f}  {diversity:9.2f}  {row.mean('seconds'):7.0f}"
            )
        return "\n".join([*lines, self.verdict])

    def noted(self) -> dict[str, Any]:
        """Returns it as JSON holds it."""
        rows = zip(self.comparison.rows, self.affinity, self.diversity, strict=True)
        return {
            "rows": [
                {
                    "name": row.name, "accuracy": row.mean("accuracy"),
                    "difference": row.difference, "half": row.half, "affinity": affinity,
                    "diversity": diversity, "runs": [asdict(each) for each in row.results],
                }
                for row, affinity, diversity in rows
            ],
            "by": self.by, "half": self.half, "verdict": self.verdict,
        }  # fmt: skip


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
) -> ControlTable:
    """Trains a small network with each and measures it on `data.unseen`.

    Args:
        data: Its test images are not looked at.
        base: The ops that all but the first row have, of the sample section.
        learned: Rows beside the controls by name, each ops of the sample and of the batch section;
            the last is the one to be judged.
        folder: Where the runs are kept.
        seeds: Of each row.
        steps: Of each run.
        jobs: Runs at a time; one a core when left out.
        tell: Is told of each run.
    """
    told = "flip and crop" if len(base) == 2 else "base"
    rows: dict[str, tuple[Items, Items]] = {
        NONE: ((), ()),
        told: (base, ()),
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
    clean = replace(splits, validation=_empty(data), test=splits.validation)
    with one_thread():
        train(made[NONE], clean, folder / "clean", workers=0, accelerator="cpu", devices=1)
    net = load_model(folder / "clean" / "model.safetensors")
    losses = [
        float(np.mean([each.train_loss or 0.0 for each in row.results])) for row in comparison.rows
    ]
    last = list(rows)[-1]
    by_name = {row.name: [each.accuracy for each in row.results] for row in comparison.rows}
    plain = _told(net, made[NONE], data, 1)
    return ControlTable(
        comparison,
        tuple(_told(net, each, data, _DRAWS) / plain for each in made.values()),
        tuple(each / max(losses[0], 1e-12) for each in losses),
        last,
        *paired(by_name[TRIVIAL], by_name[last]),
    )


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
