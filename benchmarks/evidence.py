"""What each technique does on small data: docs/evidence.md, one run at a time.

python -m benchmarks.evidence --data DIR

DIR holds Fashion-MNIST's four IDX files. Every finished run is kept: the same command goes on
where it stopped, and writes docs/evidence.md once all are there. With --only NAME[,NAME] some of
its sections, the others staying as they stand there; with --jobs N so many runs at a time (each
takes one core). The section of learned augmenters fits a generator first (benchmarks.gan), others a
policy and an augmentation network; clothing10's folder is --clothing DIR.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import yaml

import augpipe
from augpipe import recipe as recipes
from augpipe.fitting.gan import fit_gan
from augpipe.fitting.labelled import open_labelled
from augpipe.fitting.meta import fit_meta
from augpipe.fitting.policy import fit_policy
from augpipe.recipe import Recipe
from augpipe.training.comparing import compare
from augpipe.training.comparison import Comparison, paired
from augpipe.training.data import Splits
from augpipe.training.results import Result
from benchmarks.gan import write_garments
from benchmarks.published import PUBLISHED
from benchmarks.sections import HELD_OUT, WORDS, introduction
from benchmarks.techniques import (
    FLIP_CROP,
    FLIP_SHIFT,
    GAN,
    META,
    NETS,
    POLICY,
    PROBE,
    SIDE,
    SIZE,
    Net,
    Row,
    shown,
)

DOCS = Path(__file__).parents[1] / "docs"


@dataclass(frozen=True)
class Material:
    """What a section is made from.

    Args:
        data: What to train on.
        size: How many of its images; None for all.
        files: What stands for the names of weights.
        ops: What stands for the names of lists of ops.
    """

    data: Path | Splits
    size: int | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    ops: Mapping[str, Sequence[Any]] = field(default_factory=dict)


NOTHING = Material(Path())


def recipe_of(
    net: Net, row: Row, rate: float, decay: float, steps: int, material: Material = NOTHING
) -> Recipe:
    """Builds a row's recipe upon the baseline."""
    regularize = list(row.regularize)
    if decay and row.decay:
        regularize.append({"weight_decay": {"strength": decay}})
    sample = [op for each in row.sample for op in material.ops.get(str(each), [each])]
    content = {
        "version": 1,
        "sample": [*net.sample, *sample],
        "batch": [*(_filled(each, material.files) for each in row.batch), {"normalize": "half"}],
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
    plain = replace(row, sample=(), batch=())
    return any(each.watches for each in recipe_of(net, plain, 0.1, 0.0, 1).regularize)


def tell(name: str, seed: int, result: Result) -> None:
    """Says what came of a run."""
    print(f"{name}, seed {seed}: {result}", flush=True)


def tuned(
    net: Net,
    row: Row,
    grid: Sequence[tuple[float, float]],
    material: Material,
    out: Path,
    jobs: int | None,
    steps: int,
) -> tuple[float, float]:
    """Chooses a row's learning rate and weight decay on held-out training images."""
    if len(grid) == 1:
        return grid[0]
    found = compare(
        [recipe_of(net, row, rate, decay, steps, material) for rate, decay in grid],
        material.data,
        out,
        seeds=3,
        steps=steps,
        size=material.size,
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


CONTROLS = {"flip and crop: ": "flip and crop", "flip and crop, trivial": "TrivialAugment"}
LEARNED = ("learned policy", "meta", "stack")


def against_controls(comparison: Comparison, names: Sequence[str]) -> list[str]:
    """Says how what was learned stands to flip and crop, and to TrivialAugment."""
    rows = list(zip(names, comparison.rows, strict=True))
    found = {
        words: row for start, words in CONTROLS.items() for name, row in rows if start in name[:22]
    }
    learned = [(name, row) for name, row in rows if any(each in name for each in LEARNED)]
    if len(found) < len(CONTROLS) or not learned:
        return []
    lines = [f"What was learned against {' and '.join(found)}:", ""]
    for name, row in learned:
        own = [each.accuracy for each in row.results]
        said = []
        for words, other in found.items():
            mean, half = paired([each.accuracy for each in other.results], own)
            sure = " (no evidence)" if abs(mean) <= half else ""
            said.append(f"{100 * mean:+.2f} ± {100 * half:.2f} to {words}{sure}")
        lines.append(f"- {name}: {', '.join(said)}")
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
    parser.add_argument("--clothing", type=Path, help="clothing10's folder, for its section")
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"), help="keeps the runs")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where evidence.md goes")
    parser.add_argument("--jobs", type=int, help="runs at a time; one a core when left out")
    parser.add_argument("--seeds", type=int, help="of each row, for a quick look")
    parser.add_argument("--steps", type=int, help="of each run, for a quick look")
    parser.add_argument("--only", default=",".join(net.called for net in NETS))
    args = parser.parse_args(argv)
    chosen = [net for net in NETS if net.called in args.only.split(",")]
    if args.clothing is None and any(net.images == "clothing10" for net in chosen):
        parser.error("the section clothing10 needs --clothing DIR")
    sections = standing(args.docs / "evidence.md")
    for net in chosen:
        machine = (
            f"Machine: {platform.machine()}, one core a run; Python {platform.python_version()}, "
            f"torch {torch.__version__}, augpipe {augpipe.__version__}."
        )
        sections[net.called] = [*section_of(net, args), machine, ""]
    page = [line for net in NETS for line in sections.get(net.called, ())]
    shown = sum(len(net.rows) for net in NETS if net.called in sections)
    text = "\n".join([*introduction(shown), *page, *PUBLISHED])
    (args.docs / "evidence.md").write_text(text.rstrip() + "\n", encoding="utf-8")
    return 0


def standing(page: Path) -> dict[str, list[str]]:
    """Returns the sections of a page that is there, by their names."""
    if not page.exists():
        return {}
    _, *parts = re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.split(r"\W", part)[0]: [f"## {part.rstrip()}", ""] for part in parts}


def material_of(net: Net, args: argparse.Namespace) -> Material:
    """Fits what a section needs, if it is not there."""
    match net.images:
        case "garments":
            data = write_garments(args.data, args.out / "gan")
            weights = args.out / "gan" / "gan.safetensors"
            if not weights.exists():
                print(fit_gan(data, weights, say=print))
            probe = args.out / "gan" / "gan-fit" / "real" / "model.safetensors"
            return Material(data, files={GAN: weights, PROBE: probe})
        case "clothing10":
            material = Material(open_labelled(args.clothing, None, SIDE, 0).splits)
            return taught(net, material, args.clothing, SIDE, args)
    material = Material(args.data, SIZE)
    return taught(net, material, args.data, None, args) if net.fitted else material


def taught(
    net: Net, material: Material, data: Path, side: int | None, args: argparse.Namespace
) -> Material:
    """Adds what is learned from a section's images: a policy, an augmentation network."""
    ops = FLIP_CROP if side else FLIP_SHIFT
    folder = args.out / ("fitted" if side else net.called)
    base, policy = folder / "base.yaml", folder / "policy.yaml"
    meta = folder / "meta.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    base.write_text(yaml.safe_dump({"version": 1, "sample": ops}), encoding="utf-8")
    options: dict[str, Any] = {
        "base": base,
        "size": material.size,
        "side": side,
        "controls": folder / "controls",
        "jobs": args.jobs,
        "say": print,
    }
    if not policy.exists():
        print(fit_policy(data, policy, **options))
    if not meta.exists():
        print(fit_meta(data, meta, **options))
    learned = [op.item() for op in recipes.load(policy).sample][len(ops) :]
    return replace(material, files={META: meta}, ops={POLICY: learned})


def section_of(net: Net, args: argparse.Namespace) -> list[str]:
    """Does the runs of a section; returns its lines."""
    out, steps = args.out / net.called, args.steps or net.steps
    material = material_of(net, args)
    grid = [(rate, decay) for rate in net.rates for decay in net.decays]
    most = min(steps, net.tuning or steps)
    best = tuned(net, Row(""), grid, material, out / "tuning", args.jobs, most)
    rate, decay = best
    base = Row(f"baseline: lr {rate:g}, weight_decay {decay:g}")
    chosen = (
        f"The baseline's learning rate and weight decay are the best of {len(net.rates)} × "
        f"{len(net.decays)} by mean accuracy on {HELD_OUT.get(net.images)}, 3 seeds"
        f"{edge(net, rate, decay)}."
    )
    upon = best
    if net.settings:
        first, place = net.rows[0], out / "tuning-upon"
        upon = tuned(net, first, net.settings, material, place, args.jobs, steps)
        chosen += (
            f" All other rows have lr {upon[0]:g} and weight_decay {upon[1]:g}, the best for "
            f"{first.name} of {len(net.settings)} settings, likewise, after {steps} steps."
        )
    page = [
        f"## {net.called}: {steps} steps of 64 images",
        "",
        *WORDS.get(net.called, WORDS.get(net.images, ())),
        *((chosen, "") if len(grid) > 1 else ()),
    ]
    watching = [row for row in net.rows if watches(net, row)]
    for rows in ([row for row in net.rows if row not in watching], watching):
        if not rows:
            continue
        everyone = (base, *rows)
        comparison = compare(
            [
                recipe_of(net, row, *(best if row is base else upon), steps, material)
                for row in everyone
            ],
            material.data,
            out,
            seeds=args.seeds or net.seeds,
            steps=None,
            size=material.size,
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
        page += against_controls(comparison, [row.name for row in everyone])
        if rows is not watching:
            picture = f"evidence-{net.called}.png"
            args.docs.mkdir(parents=True, exist_ok=True)
            (args.docs / picture).write_bytes((out / "comparison.png").read_bytes())
            page += [f"![differences to the baseline]({picture})", ""]
    return page


if __name__ == "__main__":
    sys.exit(main())
