"""`compare`: which recipe helps on this data, and how sure that is."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import augpipe
from augpipe import recipe as recipes
from augpipe.data.children import end_with, interrupts_held_back, leave_interrupts
from augpipe.data.encode import write_atomic
from augpipe.errors import AugpipeError, Problem, RecipeError, UsageError
from augpipe.learned.files import digest_of
from augpipe.recipe import Recipe
from augpipe.training.comparison import LEVEL, Comparison, Row, row_of
from augpipe.training.curve import draw_differences
from augpipe.training.data import Splits, open_splits, subset, unvalidated, with_validation
from augpipe.training.results import Result
from augpipe.training.running import prepare, train
from augpipe.wrapping import placed


def compare(
    sources: Sequence[str | Path | Recipe],
    data: str | Path | Splits,
    out: str | Path,
    *,
    seeds: int = 5,
    steps: int | None = 2000,
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
        steps: Optimizer steps of every run; None: each recipe's own.
        size: How many training images, in the classes' proportions; all when left out.
        jobs: Runs at a time; on a CPU each takes one core: one a core when left out, one on a GPU.
        on: What to measure on: "test" (validation where there is none), or "validation", to
            choose settings by: then the test split is not touched.
        overrides: Settings for all recipes.
        names: What to call the recipes; their files' names when left out.
        tell: Is told of each run: the recipe's name, the seed and the result.

    Raises:
        UsageError: Fewer than two recipes, two of a name, different networks or shares held out,
            or too large a size.
        AugpipeError: A run failed: the others were done, and what they say is written.
    """
    overrides = tuple(overrides)
    loaded = _load(sources, overrides, steps)
    called = list(names or (_name(each, k) for k, each in enumerate(sources)))
    splits = _opened(data, 0)
    _check(loaded, called, seeds, size, on, splits)
    _try_out(sources, overrides, loaded, splits)
    # If one recipe chooses by images that are not trained on, no recipe is trained on them.
    validated = any(each.watches for recipe in loaded for each in recipe.regularize)
    unlike = _unlike(loaded)
    folder = Path(out)
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    work: dict[Path, _Job] = {}
    for name, recipe in zip(called, loaded, strict=True):
        for seed in range(seeds):
            seeded = recipe.model_copy(update={"seed": seed})
            job = _Job(name, seeded, data, splits.named, size, on, validated)
            work[folder / "runs" / f"{name}-{seed}-{job.digest}.json"] = job
    done = {path: Result.read(path)[0] for path in work if path.exists()}
    todo = {path: job for path, job in work.items() if path not in done}
    kept, failed = _run(todo, jobs, tell)
    done.update(kept)
    rows: list[Row] = []
    paths = list(work)
    for k, name in enumerate(called):
        own = paths[k * seeds : (k + 1) * seeds]
        if all(path in done for path in own):
            results = tuple(done[path] for path in own)
            rows.append(row_of(name, results, rows[0].results if rows else None))
        elif not rows:
            break  # there is nothing to compare with
    if failed:
        more = f"; {len(failed) - 1} more failed" if len(failed) > 1 else ""
        kept_words = f"{len(done)} of {len(work)} runs are kept in {out}"
        if len(rows) > 1:
            _write(folder, Comparison(tuple(rows), rows[0].results[0].measured_on, unlike))
        raise AugpipeError(f"{failed[0]}{more} ({kept_words})")
    comparison = Comparison(tuple(rows), rows[0].results[0].measured_on, unlike)
    _write(folder, comparison)
    return comparison


@dataclass(frozen=True)
class _Job:
    """One run: a recipe with its seed on some data."""

    name: str
    recipe: Recipe
    data: str | Path | Splits
    identity: str
    size: int | None
    on: str
    validated: bool = False

    @property
    def digest(self) -> str:
        """Names what the result depends on."""
        own = [augpipe.__version__, self.recipe.dump(), self.identity, self.size, self.on]
        ops = (*self.recipe.sample, *self.recipe.batch)
        # The recipe has the names of weights alone, and a file may be written anew.
        own += [digest_of(source, kind) for op in ops for kind, source in op.files]
        said = " ".join(map(str, (*own, "validated") if self.validated else own))
        return hashlib.blake2b(said.encode(), digest_size=6).hexdigest()

    def run(self) -> Result:
        """Trains."""
        recipe, seed = self.recipe, self.recipe.seed
        splits = subset(_opened(self.data, seed), self.size, seed)
        measured = "validation" if self.on == "validation" or splits.test is None else "test"
        if measured == "validation":
            splits = with_validation(splits, recipe.train.validation, seed)
            splits = replace(unvalidated(splits), test=splits.validation)
        if self.validated:  # what a run chooses by must not be what it is judged by
            splits = with_validation(splits, recipe.train.validation, seed)
        else:
            splits = unvalidated(splits)
        return replace(train(recipe, splits, workers=0), measured_on=measured)

    def keep(self, path: Path) -> Result:
        """Trains, and writes the result: here, so that it is kept whatever becomes of others."""
        result = self.run()
        result.keep(path, {"recipe": self.recipe.dump(), "data": self.identity})
        return result


def _opened(data: str | Path | Splits, seed: int) -> Splits:
    return data if isinstance(data, Splits) else open_splits(Path(data), 0.0, seed)


def _unlike(recipes: Sequence[Recipe]) -> dict[str, tuple[Any, ...]]:
    """Returns the settings of training that are not the same; not epochs, for steps count."""
    rules = [recipe.train.model_dump(exclude={"epochs"}) for recipe in recipes]
    values = {name: tuple(rule[name] for rule in rules) for name in rules[0]}
    return {name: each for name, each in values.items() if len(set(each)) > 1}


def _name(source: Any, place: int) -> str:
    return f"recipe {place + 1}" if isinstance(source, Recipe) else Path(source).stem


def _load(
    sources: Sequence[str | Path | Recipe], overrides: tuple[str, ...], steps: int | None
) -> list[Recipe]:
    found = []
    for each in sources:
        recipe = recipes.as_recipe(each, overrides)
        if steps is not None:
            rule = recipe.train.model_copy(update={"steps": steps})
            recipe = recipe.model_copy(update={"train": rule})
        found.append(recipe)
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
    if len(names) != len(loaded):
        raise UsageError(f"{len(names)} names for {len(loaded)} recipes")
    bad = next((name for name in names if not name or Path(name).name != name), None)
    if bad is not None:
        raise UsageError(f"'{bad}' is no name: files are called by it")
    double = next((name for name in names if names.count(name) > 1), None)
    if double:
        raise UsageError(f"two recipes are called {double}: rename one")
    models = dict.fromkeys(each.train.model for each in loaded)
    if len(models) > 1:
        raise UsageError(
            f"the recipes train different networks ({', '.join(models)}): --set train.model=..."
        )
    shares = dict.fromkeys(each.train.validation for each in loaded)
    if len(shares) > 1:
        said = ", ".join(map(str, shares))
        raise UsageError(
            f"the recipes hold out different shares ({said}): --set train.validation=..."
        )
    if size is not None and not len(splits.classes) <= size <= len(splits.train):
        raise UsageError(
            f"size {size}: from {len(splits.classes)}, one a class, to {len(splits.train)}, all"
        )


def _try_out(
    sources: Sequence[Any], overrides: Sequence[str], loaded: Sequence[Recipe], splits: Splits
) -> None:
    """Puts each recipe's techniques on its network, before any is trained for long.

    Raises:
        RecipeError: Some find no site: all of them, of all recipes.
        UsageError: A network does not take the images.
    """
    problems: list[Problem] = []
    for source, recipe in zip(sources, loaded, strict=True):
        try:
            with placed(source, overrides), torch.random.fork_rng(devices=()):
                prepare(recipe, with_validation(splits, recipe.train.validation, 0))
        except RecipeError as error:
            problems += error.problems
    if problems:
        raise RecipeError(problems)


def _run(
    todo: Mapping[Path, _Job],
    jobs: int | None,
    tell: Callable[[str, int, Result], None] | None,
) -> tuple[dict[Path, Result], list[str]]:
    """Does the runs, each in a process; keeps each as it ends, and says which failed and why."""
    if not todo:
        return {}, []
    count = min(jobs or (1 if torch.cuda.is_available() else os.cpu_count() or 1), len(todo))
    done: dict[Path, Result] = {}
    failed: list[str] = []
    waiting = list(todo)[::-1]
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, _begin, (os.getpid(),))
    running: dict[Future[Result], Path] = {}
    try:
        while waiting or running:
            while waiting and len(running) < count:  # what is handed over cannot be taken back
                path = waiting.pop()
                with interrupts_held_back(spawned=True):
                    running[pool.submit(todo[path].keep, path)] = path
            ended = wait(running, return_when=FIRST_COMPLETED).done
            for future in [each for each in running if each in ended]:
                path = running.pop(future)
                job = todo[path]
                try:
                    done[path] = future.result()
                except BrokenProcessPool:
                    raise AugpipeError(
                        f"{job.name}, seed {job.recipe.seed}, or one beside it, was killed: is "
                        "there memory for so many at a time? --jobs says how many"
                    ) from None
                except AugpipeError as error:
                    failed.append(f"{job.name}, seed {job.recipe.seed}: {error}")
                    continue
                if tell is not None:
                    tell(job.name, job.recipe.seed, done[path])
    except BaseException as error:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        if isinstance(error, KeyboardInterrupt):
            error.add_note("the same call goes on: finished runs are kept")
        raise
    finally:
        pool.shutdown(cancel_futures=True)
    return done, failed


def _begin(parent: int) -> None:
    """Readies a process: one thread, so that sums do not depend on how many run beside."""
    leave_interrupts()
    torch.set_num_threads(1)
    end_with(parent)


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
    content = {
        "measured_on": comparison.measured_on,
        "level": LEVEL,
        "unlike": comparison.unlike,
        "rows": rows,
    }
    text = json.dumps(content, indent=1, allow_nan=False)
    write_atomic(folder / "comparison.json", text.encode())
    write_atomic(folder / "comparison.txt", f"{comparison}\n".encode())
    groups = {row.name: [each.accuracy for each in row.results] for row in comparison.rows}
    bars = {row.name: (row.difference, row.half, row.verdict) for row in comparison.rows}
    draw_differences(folder / "comparison.png", comparison.measured_on, groups, bars)
