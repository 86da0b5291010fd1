"""`compare`: which recipe helps on this data, and how sure that is."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

import augpipe
from augpipe import recipe as recipes
from augpipe.data.encode import write_atomic
from augpipe.errors import DataError, UsageError
from augpipe.recipe import Recipe
from augpipe.training.data import Splits, hold_out, open_splits
from augpipe.training.running import Result, train

_LEVEL = 0.95


@dataclass(frozen=True)
class Row:
    """One recipe's results, and their paired difference to the first recipe's.

    Args:
        name: The recipe.
        results: Of each seed.
        difference: Mean of accuracy less that of the first recipe with the same seed; None for
            the first.
        half: Half the width of the difference's 95 % interval, Student's t over the seeds: t s /
            sqrt(n); infinite for one seed.
    """

    name: str
    results: tuple[Result, ...]
    difference: float | None = None
    half: float | None = None

    def mean(self, value: str) -> float:
        """Returns the mean of one of the results' values over the seeds."""
        return float(np.mean([getattr(each, value) for each in self.results]))

    @property
    def verdict(self) -> str:
        """Says what the interval says."""
        if self.difference is None or self.half is None:
            return ""
        if abs(self.difference) <= self.half:
            return "no evidence"
        return "better" if self.difference > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """The rows, the first recipe's on top."""

    rows: tuple[Row, ...]
    measured_on: str

    def __str__(self) -> str:
        wide = max(len("recipe"), *(len(row.name) for row in self.rows))
        seeds = len(self.rows[0].results)
        head = f"{'recipe'.ljust(wide)}  accuracy  training     gap  difference (95 %)  seconds"
        lines = [f"{self.measured_on} accuracy in %, means of {seeds} seeds", head]
        for row in self.rows:
            by = "-".rjust(17)
            if row.difference is not None and row.half is not None:
                by = f"{100 * row.difference:+.2f} ± {100 * row.half:.2f}".rjust(17)
            shares = (row.mean("accuracy"), row.mean("train_accuracy"), row.mean("gap"))
            a, b, c = (f"{100 * each:.2f}" for each in shares)
            figures = f"{a:>8}  {b:>8}  {c:>6}  {by}  {row.mean('seconds'):>7.0f}"
            lines.append(f"{row.name.ljust(wide)}  {figures}  {row.verdict}".rstrip())
        return "\n".join(lines)


def compare(
    sources: Sequence[str | Path | Recipe],
    data: str | Path,
    out: str | Path,
    *,
    seeds: int = 5,
    steps: int = 2000,
    size: int | None = None,
    jobs: int | None = None,
    on: str = "test",
    overrides: Iterable[str] = (),
    names: Sequence[str] | None = None,
    tell: Callable[[str, int, Result], None] | None = None,
) -> Comparison:
    """Trains the same network by each recipe and compares them, paired by seed.

    With seed s every recipe gets the same subset of the training images, the same first weights
    and the same order of images; it differs in what it does with them. What is measured is the
    test split, or where there is none the held-out validation images, without augmentation. Each
    finished run is kept in `out`: the same call goes on where it stopped, and more seeds or
    recipes are added to those that are there.

    Args:
        sources: Recipes; the first is what the others are compared with.
        data: As for `train`.
        out: Where the runs, comparison.json, comparison.txt and comparison.png go.
        seeds: How many, 0 to seeds - 1.
        steps: Optimizer steps of every run.
        size: How many training images, in the classes' proportions; all when left out.
        jobs: Runs at a time; on a CPU each takes one core: one a core when left out, one on a GPU.
        on: What to measure on: "test" (validation where there is none), or "validation", to
            choose settings by: then the test split is not touched.
        overrides: Settings for all recipes.
        names: What to call the recipes; their files' names when left out.
        tell: Is told of each run: the recipe's name, the seed and the result.

    Raises:
        UsageError: Fewer than two recipes, two of a name, different networks, or too large a size.
    """
    loaded = _load(sources, tuple(overrides), steps)
    called = list(names or (Path(str(each)).stem for each in sources))
    _check(loaded, called, seeds, size, on, open_splits(Path(data), 0.0, 0))
    folder = Path(out)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    work: dict[Path, _Job] = {}
    for name, recipe in zip(called, loaded, strict=True):
        for seed in range(seeds):
            job = _Job(name, recipe.model_copy(update={"seed": seed}), str(data), size, on)
            work[folder / "runs" / f"{name}-{seed}-{job.digest}.json"] = job
    done = {path: found for path in work if (found := _read(path)) is not None}
    todo = {path: job for path, job in work.items() if path not in done}
    done.update(_run(todo, jobs, tell))
    rows: list[Row] = []
    paths = list(work)
    for k, name in enumerate(called):
        results = tuple(done[path] for path in paths[k * seeds : (k + 1) * seeds])
        rows.append(_row(name, results, rows[0].results if rows else None))
    comparison = Comparison(tuple(rows), rows[0].results[0].measured_on)
    _write(folder, comparison)
    return comparison


def paired(first: Sequence[float], other: Sequence[float]) -> tuple[float, float]:
    """Returns the mean difference other - first, and half its 95 % interval (Student's t)."""
    differences = np.subtract(other, first)
    mean = float(differences.mean())
    if len(differences) < 2:
        return mean, float("inf")
    spread = float(differences.std(ddof=1)) / len(differences) ** 0.5
    return mean, float(stats.t.ppf((1 + _LEVEL) / 2, len(differences) - 1)) * spread


def subset(splits: Splits, size: int | None, seed: int) -> Splits:
    """Returns the splits with `size` training images drawn by the seed, each class by its share."""
    part = splits.train
    if size is None or size >= len(part):
        return splits
    labels = np.asarray(part.targets)[part.indices]
    rest, chosen = hold_out(labels.tolist(), size / len(part), seed)
    # A class never gives its last image: close to all of them, some of the rest are needed.
    more = _trimmed(part.indices[rest], max(size - len(chosen), 0), seed)
    indices = np.sort(np.concatenate([_trimmed(part.indices[chosen], size, seed), more]))
    return replace(splits, train=replace(part, indices=indices))


def with_validation(splits: Splits, share: float, seed: int) -> Splits:
    """Returns the splits with a share of the training images held out, if there is no other."""
    if len(splits.validation):
        return splits
    part = splits.train
    kept, out = hold_out(np.asarray(part.targets)[part.indices].tolist(), share, seed)
    train, validation = (replace(part, indices=part.indices[each]) for each in (kept, out))
    return replace(splits, train=train, validation=validation)


def _trimmed(indices: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Leaves out, at random, what rounding up class by class gave too many."""
    order = np.argsort([hashlib.blake2b(f"{seed} {k}".encode()).digest() for k in indices.tolist()])
    return np.sort(indices[order[:size]])


@dataclass(frozen=True)
class _Job:
    """One run: a recipe with its seed on some data."""

    name: str
    recipe: Recipe
    data: str
    size: int | None
    on: str

    @property
    def digest(self) -> str:
        """Names what the result depends on."""
        said = f"{augpipe.__version__} {self.recipe.dump()} {self.data} {self.size} {self.on}"
        return hashlib.blake2b(said.encode(), digest_size=6).hexdigest()

    def run(self) -> Result:
        """Trains."""
        recipe, seed = self.recipe, self.recipe.seed
        splits = subset(open_splits(Path(self.data), 0.0, seed), self.size, seed)
        measured = "validation" if self.on == "validation" or splits.test is None else "test"
        if measured == "validation":
            splits = with_validation(splits, recipe.train.validation, seed)
            splits = replace(_unvalidated(splits), test=splits.validation)
        if any("monitor" in type(each).model_fields for each in recipe.regularize):
            # What a run chooses by must not be what it is judged by.
            splits = with_validation(splits, recipe.train.validation, seed)
        else:
            splits = _unvalidated(splits)
        return replace(train(recipe, splits, workers=0), measured_on=measured)

    def keep(self, path: Path) -> Result:
        """Trains, and writes the result: here, so that it is kept whatever becomes of others."""
        result = self.run()
        write_atomic(path, json.dumps(asdict(result), indent=1).encode())
        return result


def _unvalidated(splits: Splits) -> Splits:
    """Returns the splits without validation images: nobody looks at them."""
    return replace(splits, validation=replace(splits.validation, indices=_NONE))


_NONE = np.zeros(0, np.int64)


def _load(
    sources: Sequence[str | Path | Recipe], overrides: tuple[str, ...], steps: int
) -> list[Recipe]:
    found = []
    for each in sources:
        recipe = each if isinstance(each, Recipe) else recipes.load(each, overrides)
        rule = recipe.train.model_copy(update={"steps": steps})
        found.append(recipe.model_copy(update={"train": rule}))
    return found


def _check(
    loaded: Sequence[Recipe],
    names: Sequence[str],
    seeds: int,
    size: int | None,
    on: str,
    splits: Splits,
) -> None:
    if on not in ("test", "validation"):
        raise UsageError(f"on {on!r}: test or validation")
    if len(loaded) < 2:
        raise UsageError("compare needs two recipes or more; the first is the one to beat")
    if seeds < 1:
        raise UsageError(f"seeds {seeds}: one at least, and five for an interval worth the name")
    double = next((name for name in names if names.count(name) > 1), None)
    if double:
        raise UsageError(f"two recipes are called {double}: rename one")
    models = dict.fromkeys(each.train.model for each in loaded)
    if len(models) > 1:
        raise UsageError(
            f"the recipes train different networks ({', '.join(models)}): --set train.model=..."
        )
    if size is not None and not len(splits.classes) <= size <= len(splits.train):
        raise UsageError(
            f"size {size}: from {len(splits.classes)}, one a class, to {len(splits.train)}, all"
        )


def _run(
    todo: Mapping[Path, _Job],
    jobs: int | None,
    tell: Callable[[str, int, Result], None] | None,
) -> dict[Path, Result]:
    """Does the runs, each in a process; keeps each as it ends."""
    if not todo:
        return {}
    count = jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1)
    done = {}
    # One thread each: sums then do not depend on how many run beside.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(count, len(todo)), context, torch.set_num_threads, (1,))
    try:
        started: dict[Future[Result], Path] = {
            pool.submit(job.keep, path): path for path, job in todo.items()
        }
        for future in as_completed(started):
            path = started[future]
            done[path] = future.result()
            if tell is not None:
                tell(todo[path].name, todo[path].recipe.seed, done[path])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return done


def _read(path: Path) -> Result | None:
    if not path.exists():
        return None
    try:
        return Result(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise DataError(path, f"is not a run: {error}; remove it to do it again") from None


def _row(name: str, results: tuple[Result, ...], first: tuple[Result, ...] | None) -> Row:
    if first is None:
        return Row(name, results)
    pairs = ([each.accuracy for each in group] for group in (first, results))
    return Row(name, results, *paired(*pairs))


def _write(folder: Path, comparison: Comparison) -> None:
    rows: list[dict[str, Any]] = [
        {
            "recipe": row.name,
            "accuracy": row.mean("accuracy"),
            "train_accuracy": row.mean("train_accuracy"),
            "gap": row.mean("gap"),
            "seconds": row.mean("seconds"),
            "difference": row.difference,
            "half_interval": None if row.half is None or np.isinf(row.half) else row.half,
            "verdict": row.verdict,
            "runs": [asdict(each) for each in row.results],
        }
        for row in comparison.rows
    ]
    content = {"measured_on": comparison.measured_on, "level": _LEVEL, "rows": rows}
    write_atomic(folder / "comparison.json", json.dumps(content, indent=1).encode())
    write_atomic(folder / "comparison.txt", f"{comparison}\n".encode())
    _draw(folder / "comparison.png", comparison)


def _draw(out: Path, comparison: Comparison) -> None:
    """Draws each recipe's difference with its interval, the first recipe's as the line at 0."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = comparison.rows
    figure, axis = plt.subplots(figsize=(8, 1.5 + 0.35 * len(rows)), layout="constrained")
    base = [each.accuracy for each in rows[0].results]
    for k, row in enumerate(rows):
        own = [100 * (each.accuracy - b) for each, b in zip(row.results, base, strict=True)]
        axis.plot(own, [k] * len(own), ".", color="0.7", zorder=1)
        if row.difference is not None and row.half is not None:
            half = 0.0 if np.isinf(row.half) else 100 * row.half
            color = {"better": "tab:green", "worse": "tab:red"}.get(row.verdict, "tab:gray")
            axis.errorbar(100 * row.difference, k, xerr=half, fmt="o", color=color, capsize=3)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(rows)), [row.name for row in rows])
    axis.invert_yaxis()
    axis.set_xlabel(f"{comparison.measured_on} accuracy less that of {rows[0].name}, in points")
    axis.set_title(f"{len(base)} paired seeds, 95 % intervals", fontsize=10)
    figure.savefig(out, dpi=100)
    plt.close(figure)
