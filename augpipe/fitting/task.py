"""What the fits of a policy and of an augmentation network share: their data, lessons and table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from augpipe import recipe as recipes
from augpipe.data.encode import write_atomic
from augpipe.errors import UsageError
from augpipe.fitting.controls import ControlTable, Items, clean_beside, control, flip_and_crop
from augpipe.fitting.labelled import Divided, check_apart, open_labelled
from augpipe.fitting.teaching import Lessons, Tick
from augpipe.training.results import Result

SEEDS, CONTROL_STEPS, LR = 3, 1000, 0.1
FEWEST = 10
"""Images that a class needs."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """Images to learn from, and where what is learned of them is kept.

    Args:
        data: The images.
        base: The ops that are done to every image before.
        folder: Of the fit.
        controls: Of the runs of its table.
    """

    data: Divided
    base: list[Any]
    folder: Path
    controls: Path

    @property
    def side(self) -> int:
        """Of the images, in pixels."""
        return self.data.train.images.shape[-1]

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.data.train.images.shape[1]

    def teach(
        self, lessons: Lessons, tick: Tick | None, say: Say, control_steps: int, jobs: int | None
    ) -> None:
        """Does the steps that are left, and says what on; beside it what the table needs anyway."""
        data, steps = self.data, lessons.setting.steps
        lessons.go_on()
        say(
            f"{len(data.train)} images of {self.side} × {self.side}, {len(data.train.classes)} "
            f"classes; {steps} steps; {len(data.unseen)} images held out"
        )
        if lessons.step:
            say(f"going on after step {lessons.step} of {steps}")
        with clean_beside(data, self.controls, control_steps, jobs):
            lessons.run(tick)

    def judge(
        self,
        rows: Mapping[str, tuple[Items, Items]],
        seeds: int,
        steps: int,
        jobs: int | None,
        say: Say,
        candidates: Sequence[str] = (),
    ) -> ControlTable:
        """Returns the table of controls (see `control`), which report.json keeps too."""

        def tell(name: str, seed: int, result: Result) -> None:
            say(f"{name}, seed {seed}: {result}")

        say("controls")
        table = control(
            self.data,
            self.base,
            rows,
            self.controls,
            seeds=seeds,
            steps=steps,
            jobs=jobs,
            tell=tell,
            candidates=candidates,
        )
        write_atomic(self.folder / "report.json", json.dumps(table.noted(), indent=1).encode())
        return table


def open_task(
    data: str | Path,
    out: Path,
    base: str | Path | None,
    size: int | None,
    side: int | None,
    seed: int,
    controls: str | Path | None,
) -> Task:
    """Reads the images, and finds the folders beside `out`.

    Raises:
        UsageError: The data, the base or the folders cannot be used.
        DataError: An image cannot be read, or a class has fewer than `FEWEST`.
    """
    folder = out.with_name(f"{out.stem}-fit")
    kept = Path(controls or folder / "controls")
    for each in (folder, kept):
        check_apart(Path(data), each)
    own = read_base(base)
    divided = open_labelled(Path(data), size, side, seed, fewest=FEWEST, tested=False)
    before = flip_and_crop(divided.train.images.shape[-1]) if own is None else own
    return Task(divided, before, folder, kept)


def read_base(base: str | Path | None) -> list[Any] | None:
    """Returns the ops of a recipe that are to stand before what is learned; None for the default.

    Raises:
        RecipeError: The recipe does not hold.
        UsageError: It says more than ops of single images, or ends in what nothing may follow.
    """
    if base is None:
        return None
    recipe = recipes.load(Path(base))
    plain = recipes.Recipe(sample=recipe.sample)
    alike = all("batch" in op.sections for op in recipe.sample)
    if recipe != plain or not alike or any(op.last for op in recipe.sample):
        raise UsageError(
            f"{base}: a base has a sample section of the package's own ops and nothing else, "
            "without normalize or to_float"
        )
    return [op.item() for op in recipe.sample]


def check_counts(steps: int, control_steps: int, seeds: int, lr: float) -> None:
    """Refuses counts that nothing can be done by.

    Raises:
        UsageError: One is not above 0.
    """
    if min(steps, control_steps, seeds) < 1 or not 0 < lr < float("inf"):
        raise UsageError(
            f"steps {steps}, control_steps {control_steps}, seeds {seeds}, lr {lr:g}: above 0"
        )
