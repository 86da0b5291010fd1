"""What each technique does on small data: docs/evidence.md, one run at a time.

python -m benchmarks.evidence --data DIR

DIR holds Fashion-MNIST's four IDX files. Every finished run is kept: the same command goes on
where it stopped, and writes docs/evidence.md once all are there. With --only NAME[,NAME] some of
its sections, the others staying as they stand there; with --jobs N so many runs at a time (each
takes one core). The section of learned augmenters fits a generator first (benchmarks.gan).
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import augpipe
from augpipe import recipe as recipes
from augpipe.fitting.gan import fit_gan
from augpipe.recipe import Recipe
from augpipe.training.comparing import compare
from augpipe.training.comparison import Comparison, paired
from augpipe.training.results import Result
from benchmarks.gan import write_garments
from benchmarks.techniques import GAN, NETS, PROBE, SEEDS, SIZE, Net, Row, shown

NONE: Mapping[str, Path] = {}
DOCS = Path(__file__).parents[1] / "docs"


def recipe_of(
    net: Net, row: Row, rate: float, decay: float, steps: int, files: Mapping[str, Path] = NONE
) -> Recipe:
    """Builds a row's recipe upon the baseline."""
    regularize = list(row.regularize)
    if decay and row.decay:
        regularize.append({"weight_decay": {"strength": decay}})
    content = {
        "version": 1,
        "sample": [*net.sample, *row.sample],
        "batch": [*(_filled(each, files) for each in row.batch), {"normalize": "half"}],
        "regularize": regularize,
        "train": {"model": net.model, "lr": rate, "steps": row.longer * steps, **net.train},
    }
    return recipes.load({key: value for key, value in content.items() if value})


def _filled(item: Any, files: Mapping[str, Path]) -> Any:
    """Puts files in the place of their names."""
    if not isinstance(item, dict):
        return item
    ((name, fields),) = item.items()
    if not isinstance(fields, dict):
        return item
    own = {key: str(files.get(v, v)) if isinstance(v, str) else v for key, v in fields.items()}
    return {name: own}


def watches(net: Net, row: Row) -> bool:
    """Tells whether a row needs images to choose by, on which nothing is trained."""
    return any(each.watches for each in recipe_of(net, row, 0.1, 0.0, 1).regularize)


def tell(name: str, seed: int, result: Result) -> None:
    """Says what came of a run."""
    print(f"{name}, seed {seed}: {result}", flush=True)


def tuned(net: Net, data: Path, out: Path, jobs: int | None, steps: int) -> tuple[float, float]:
    """Chooses the baseline's learning rate and weight decay on held-out training images."""
    grid = [(rate, decay) for rate in net.rates for decay in net.decays]
    if len(grid) == 1:
        return grid[0]
    found = compare(
        [recipe_of(net, Row(""), rate, decay, steps) for rate, decay in grid],
        data,
        out / "tuning",
        seeds=3,
        steps=steps,
        size=None if net.learned else SIZE,
        jobs=jobs,
        on="validation",
        names=[f"lr-{rate:g}-decay-{decay:g}" for rate, decay in grid],
        tell=tell,
    )
    best = max(range(len(grid)), key=lambda k: found.rows[k].mean("accuracy"))
    return grid[best]


def file_name(name: str) -> str:
    """Makes a row's name fit for a file."""
    return "".join(c if c.isalnum() or c in "._" else "-" for c in name).strip("-")[:80]


def table(comparison: Comparison, names: Sequence[str]) -> list[str]:
    """Returns the rows in Markdown."""
    lines = [
        "| recipe | accuracy | training | gap | difference (95 %) | | seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in zip(names, comparison.rows, strict=True):
        by = ""
        if row.difference is not None and row.half is not None:
            by = f"{100 * row.difference:+.2f} ± {100 * row.half:.2f}"
        said = f"**{row.verdict}**" if row.verdict in ("better", "worse") else row.verdict
        figures = (100 * row.mean(each) for each in ("accuracy", "train_accuracy", "gap"))
        shown = " | ".join(f"{each:.2f}" for each in figures)
        lines.append(f"| {name} | {shown} | {by} | {said} | {row.mean('seconds'):.0f} |")
    return lines


def stacks(comparison: Comparison, names: Sequence[str]) -> list[str]:
    """Says how rows of several techniques stand to the best of one."""
    rows = list(zip(names, comparison.rows, strict=True))
    several = [(name, row) for name, row in rows if name.startswith("stack")]
    if not several:
        return []
    best, top = max(
        (each for each in rows[1:] if each not in several),
        key=lambda pair: pair[1].mean("accuracy"),
    )
    lines = [f"The best row of one technique is {best}. Against it:", ""]
    first = [each.accuracy for each in top.results]
    for name, row in several:
        mean, half = paired(first, [each.accuracy for each in row.results])
        lines.append(f"- {name}: {100 * mean:+.2f} ± {100 * half:.2f}")
    return [*lines, ""]


def edge(net: Net, rate: float, decay: float) -> str:
    """Says whether the best of the grid lies at its edge: a better one may lie beyond."""
    found = [
        f"{name} {value:g}"
        for name, value, tried in (("lr", rate, net.rates), ("weight_decay", decay, net.decays))
        if value in (max(tried), min(tried)) and value
    ]
    return f"; at the edge of the grid: {', '.join(found)}" if found else ""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="Fashion-MNIST's IDX files")
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"), help="keeps the runs")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where evidence.md goes")
    parser.add_argument("--jobs", type=int, help="runs at a time; one a core when left out")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, help="of each run, for a quick look")
    parser.add_argument("--only", default=",".join(net.called for net in NETS))
    args = parser.parse_args(argv)
    sections = standing(args.docs / "evidence.md")
    for net in (net for net in NETS if net.called in args.only.split(",")):
        machine = (
            f"Machine: {platform.machine()}, one core a run; Python {platform.python_version()}, "
            f"torch {torch.__version__}, augpipe {augpipe.__version__}."
        )
        sections[net.called] = [*section_of(net, args), machine, ""]
    page = [line for net in NETS for line in sections.get(net.called, ())]
    text = "\n".join([*INTRODUCTION, *page])
    (args.docs / "evidence.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    return 0


def standing(page: Path) -> dict[str, list[str]]:
    """Returns the sections of a page that is there, by their names."""
    if not page.exists():
        return {}
    _, *parts = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.split(r"\W", part)[0]: [f"## {part.rstrip()}", ""] for part in parts}


def section_of(net: Net, args: argparse.Namespace) -> list[str]:
    """Does the runs of a section; returns its lines."""
    out, steps, data, files = args.out / net.called, args.steps or net.steps, args.data, NONE
    if net.learned:
        data = write_garments(args.data, args.out / "gan")
        weights = args.out / "gan" / "gan.safetensors"
        if not weights.exists():
            print(fit_gan(data, weights, say=print))
        files = {GAN: weights, PROBE: args.out / "gan" / "gan-fit" / "real" / "model.safetensors"}
    rate, decay = tuned(net, data, out, args.jobs, steps)
    base = Row(f"baseline: lr {rate:g}, weight_decay {decay:g}")
    tried = len(net.rates) * len(net.decays)
    chosen = (
        f"The baseline's learning rate and weight decay are the best of {len(net.rates)} × "
        f"{len(net.decays)} by mean accuracy on 200 images held out of the {SIZE}, 3 seeds"
        f"{edge(net, rate, decay)}."
    )
    page = [
        f"## {net.called}: {steps} steps of 64 images",
        "",
        *(LEARNED_WORDS if net.learned else ()),
        *((chosen, "") if tried > 1 else ()),
    ]
    watching = [row for row in net.rows if watches(net, row)]
    for rows in ([row for row in net.rows if row not in watching], watching):
        if not rows:
            continue
        everyone = (base, *rows)
        comparison = compare(
            [recipe_of(net, row, rate, decay, steps, files) for row in everyone],
            data,
            out,
            seeds=args.seeds,
            steps=None,
            size=None if net.learned else SIZE,
            jobs=args.jobs,
            names=[file_name(row.name) for row in everyone],
            tell=tell,
        )
        print(comparison)
        if rows is not watching:
            page += [f"{comparison.rows[0].results[0].parameters:,} parameters.", ""]
        else:
            page += [f"With 200 of the {SIZE} images held out, to watch:", ""]
        page += [*table(comparison, [shown(row) for row in everyone]), ""]
        page += stacks(comparison, [row.name for row in everyone])
        if rows is not watching:
            picture = f"evidence-{net.called}.png"
            args.docs.mkdir(parents=True, exist_ok=True)
            (args.docs / picture).write_bytes((out / "comparison.png").read_bytes())
            page += [f"![differences to the baseline]({picture})", ""]
    return page


LEARNED_WORDS = (
    "Learned augmenters on wrn_10_1, 5,000 images, upon flip and shift (`horizontal_flip`, "
    "`random_crop` with padding 2), which all rows have. The generator is that of "
    "docs/learned.md, fitted to the very 5,000 images; its fitting is not in the seconds. "
    "PROBE is the classifier that was trained beside it on the same images. Controls: an op"
    " that does nothing; a policy that learns nothing; and the baseline with twice as"
    " many steps, which takes about as long as the row of latent_noise up to 0.25. Learning "
    "rate and weight decay are those of wrn_10_1 above.",
    "",
)
INTERVALS = sum(len(net.rows) for net in NETS)
INTRODUCTION = (
    "# Evidence",
    "",
    f"Does it help? Fashion-MNIST with {SIZE} training images, where nothing else is said: "
    f"each technique alone, added to a baseline that was tuned first, {SEEDS} seeds. With "
    "one seed all recipes get the same images, the same first weights and the same order, "
    "so the differences are paired; ± is half of Student's 95 % interval over the seeds. "
    "Where the interval holds 0 the table says so: no evidence. Accuracy is on the 10,000 "
    "test images, with the final weights; *training* is that on the training images without"
    " augmentation, *gap* the difference. Settings are chosen for small networks and short "
    "runs, often milder than the papers', and are not tuned. The stack with rand_augment "
    "was added when the results of the other rows were there. A row says what that setting "
    "does here, not what the technique can do at its best.",
    "",
    f"{INTERVALS} intervals of 95 % are looked at: {0.05 * INTERVALS:.0f} or so exclude 0 by"
    " chance alone.",
    "Seconds are the clock's, of runs side by side on a machine that had other work too.",
    "",
    "    python -m benchmarks.evidence --data DIR    # Fashion-MNIST's IDX files",
    "",
)

if __name__ == "__main__":
    sys.exit(main())
