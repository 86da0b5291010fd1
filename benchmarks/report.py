"""What a run measured, on the terminal, as docs/benchmarks.md and as its plot.

    python -m benchmarks.report [FIGURES.json] [--out DIR]

makes page and plot anew from the figures that a complete run left in runs/benchmarks.json.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import plot
from benchmarks.measuring import ROOT, Results, Series

SIZES = ("500 × 375", "1024 × 768", "12 megapixels")
CACHED = "imagenet, 500 × 375, second epoch with cache: memory"
SMALL = "small, 28 × 28 in memory"
RECIPES = {
    "imagenet": SIZES,
    "strong": SIZES,
    "randaugment": SIZES[:1],
    "trivialaugment": SIZES[:1],
}


NOTES = (
    "albumentations, with OpenCV's decoder (`IMREAD_COLOR_RGB`) and `cv2.setNumThreads(0)` in "
    "the workers, reads its crops with `INTER_LINEAR`, its default: shrinking is not antialiased, "
    "which torchvision and augpipe do. Its posterize keeps 7 bits at most. It has no RandAugment "
    "and no TrivialAugment.",
    "torchvision's `v2` transforms: on PIL images, opened as torchvision's own datasets do, and "
    "on uint8 tensors from `torchvision.io.decode_jpeg`. It has no random gamma: a function draws "
    "the exponent and calls `adjust_gamma`. `RandomPosterize` and `RandomSolarize` take one "
    "strength: the middle of the recipe's range.",
    "timm is `timm.data.create_transform` on PIL images in a DataLoader. It has no affine, gamma, "
    "posterize and solarize outside its policies, so **its strong recipe is imagenet and erasing, "
    "which is less work**. It has no TrivialAugment, and its transforms are for photos: "
    "no 28 × 28.",
    "kornia: the workers decode and crop to one size (`torchvision.io.decode_jpeg`, "
    "`v2.RandomResizedCrop`); the rest is done to the float batch in the main process, on the CPU, "
    "as its documentation shows.",
    "torch computes with one thread in each process (`OMP_NUM_THREADS=1`), for all.",
)


@dataclass(frozen=True, slots=True)
class Bar:
    """A ratio that augpipe is to reach.

    Args:
        words: What is compared, in the page's words.
        part: Where it is measured.
        other: Against what.
        least: The ratio.
        ours: Whose figure counts; the best, if several do.
    """

    words: str
    part: str
    other: str
    least: float
    ours: tuple[str, ...] = ("augpipe",)


ONE = {
    "pipe(image)": "augpipe, pipe(image)",
    "pipe(image, index=i, epoch=e)": "augpipe, pipe(image, index=i, epoch=e)",
    "pipe.loader(list, workers=0)": "augpipe, pipe.loader(list, workers=0)",
}
BARS = (
    Bar("imagenet, 500 × 375", "imagenet, 500 × 375", "albumentations", 2.5),
    Bar("strong, 500 × 375", "strong, 500 × 375", "albumentations", 2.5),
    Bar("imagenet, 12 megapixels", "imagenet, 12 megapixels", "albumentations", 3.0),
    Bar(
        "28 × 28 in memory, the better of both sections",
        SMALL,
        "albumentations",
        4.0,
        ("augpipe, all under sample:", "augpipe, all under batch:"),
    ),
    Bar("imagenet, second epoch, cached", CACHED, "albumentations", 6.0),
    Bar("imagenet, 500 × 375", "imagenet, 500 × 375", "torchvision, PIL", 6.0),
    Bar("strong, 500 × 375", "strong, 500 × 375", "torchvision, PIL", 6.0),
    *(
        Bar(
            f"{recipe}, one image, `{call}`",
            f"{recipe}, one image in memory",
            "albumentations",
            least,
            (name,),
        )
        for recipe, least in (("imagenet", 2.5), ("strong", 2.0))
        for call, name in ONE.items()
    ),
    *(
        Bar(f"peak memory, {size}", f"peak memory, imagenet, {size}", "albumentations", 1.0)
        for size in (SIZES[0], SIZES[2])
    ),
)  # fmt: skip


def show(rows: Sequence[Series]) -> None:
    """Prints one part, with what augpipe's figure is to each of the others."""
    for at in dict.fromkeys(row.at for row in rows):
        _show([row for row in rows if row.at == at])


def _show(rows: Sequence[Series]) -> None:
    at = rows[0].at
    print(f"\n{rows[0].part}" + (f", {at:,.0f}" if at is not None else ""))
    ours = [row for row in rows if row.name.startswith("augpipe")]
    for row in rows:
        ratios = [
            f"{_ratio(own, row)}"
            for own in ours
            if own is not row and not row.name.startswith("augpipe")
        ]
        print(
            f"  {row.name:40} {_figure(row):>10} {row.unit:6} {'   '.join(ratios)}".rstrip(),
            flush=True,
        )


def show_left_out(results: Results) -> None:
    """Prints the bars, and what was not measured."""
    print()
    for cells in _bars(results):
        print("  ".join(cells))
    for note in results.left_out:
        print(f"left out: {note}")


def write(results: Results, folder: Path) -> None:
    """Writes benchmarks.md and, where matplotlib is installed, benchmarks.png."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = plot.draw(results, folder / "benchmarks.png")
    page = "\n\n".join(block for block in _blocks(results, drawn) if block)
    (folder / "benchmarks.md").write_text(page + "\n", encoding="utf-8")
    print(f"wrote {folder / 'benchmarks.md'}" + ("" if drawn else "; no plot without matplotlib"))


def _figure(row: Series) -> str:
    return f"{row.median:,.0f}" if row.unit != "ms" else f"{row.median:.2f}"


def _ratio(ours: Series, other: Series) -> str:
    middle, least, most = ours.times_better(other)
    return f"{middle:.2f}× ({least:.2f}–{most:.2f})"


def _best(results: Results, bar: Bar) -> Series | None:
    other = results.find(bar.part, bar.other)
    found = [results.find(bar.part, name) for name in bar.ours]
    rows = [row for row in found if row is not None]
    if other is None or not rows:
        return None
    return max(rows, key=lambda row: row.times_better(other)[0])


def _bars(results: Results) -> Iterator[tuple[str, ...]]:
    """Yields (what, against, ratio, bar, whether it is reached)."""
    for bar in BARS:
        ours, other = _best(results, bar), results.find(bar.part, bar.other)
        if ours is None or other is None:
            continue
        reached = ours.times_better(other)[0] >= bar.least
        yield (
            bar.words,
            bar.other,
            _ratio(ours, other),
            f"{bar.least:g}×",
            "yes" if reached else "no",
        )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], first: int = 1) -> str:
    if not rows:
        return ""
    rule = ["---"] * first + ["--:"] * (len(head) - first)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 98, subsequent_indent=indent, break_on_hyphens=False)


def _part(results: Results, part: str) -> str:
    """A table of one part: each figure, and how many times better augpipe's is."""
    rows = results.of(part)
    ours = [row for row in rows if row.name.startswith("augpipe")]
    if not rows or not ours:
        return ""
    names = [row.name.removeprefix("augpipe, ") for row in ours]
    heads = ["augpipe is, times"] if len(ours) == 1 else [f"`{name}` is, times" for name in names]
    cells = [
        [row.name, _figure(row), *("" if row in ours else _ratio(own, row) for own in ours)]
        for row in rows
    ]
    return _table(["", rows[0].unit, *heads], cells)


def _growth(results: Results, part: str, column: str) -> str:
    """A table of a growth: a row for each place, a column for each name."""
    rows = results.of(part)
    names = list(dict.fromkeys(row.name for row in rows))
    cells = []
    for at in dict.fromkeys(row.at for row in rows):
        found = [results.find(part, name, at) for name in names]
        ours, other = results.find(part, "augpipe", at), results.find(part, "albumentations", at)
        ratio = _ratio(ours, other) if ours and other else ""
        where = f"{at:g}" if (at or 0) < 100 else f"{(at or 0) / 1e6:.2f}"
        cells.append([where, *("" if row is None else _figure(row) for row in found), ratio])
    head = [column, *names, "augpipe : albumentations"]
    return _table(head, cells)


def _blocks(results: Results, drawn: bool) -> Iterator[str]:
    """Yields the page's paragraphs and tables."""
    settings = results.settings
    yield "# Benchmarks"
    yield _wrapped(
        "From files to training batches: augpipe's `pipe.loader` against what else could load "
        f"them. This page is written by `{results.command}`; the figures are this machine's."
    )
    yield "\n".join(_wrapped(f"- {line}.", "  ") for line in results.machine)
    if drawn:
        yield "![images per second, and how cost grows](benchmarks.png)"
    yield "## Bars"
    yield _wrapped(
        "How many times better augpipe's figure is: the median of the rounds' ratios, and the "
        "least and the largest. Of memory, less is better."
    )
    yield _table(
        ["what", "against", "ratio (range)", "bar", "reached"], list(_bars(results)), first=2
    )
    yield "## How it is measured"
    photos = "photos of three sizes" if settings.get("data") == "real" else (
        "the photos of samples/, encoded again at three sizes (JPEG, quality 90)"
    )  # fmt: skip
    batches = "64 images at 500 × 375, 32 at 1024 × 768, 8 at 12 megapixels, 128 at 28 × 28,"
    if settings.get("batch"):
        batches = f"{settings['batch']} images,"
    yield "\n".join(
        _wrapped(f"- {line}", "  ")
        for line in (
            f"The files are {photos}, and lie in the system's cache; 28 × 28 images are "
            "Fashion-MNIST's, as arrays in memory.",
            f"Batches are of {batches} float32, normalized, on the CPU; two workers: processes of "
            "torch's DataLoader, also in augpipe.",
            "Steady state: the clock starts when the workers have delivered their first "
            f"{2 if settings.get('quick') else 4} batches, and stops after a whole number of "
            "turns of the workers (and of the photos, where they are few). Nothing but the loader "
            "works.",
            f"Rounds: {settings['rounds']} ({min(3, settings['rounds'])} of growth and memory). In "
            "a round the libraries follow one another, each in a "
            f"process of its own for about {settings['seconds']:g} s (every second round in "
            "reverse order); a ratio is of two figures of one round. The machine's clock may "
            "change from minute to minute: the images per second are medians, and only the "
            "ratios are to be relied on.",
            *NOTES,
            "augpipe decodes a JPEG at a reduced scale where the crop is larger than needed by "
            "that factor; the others decode in full.",
        )
    )
    yield _wrapped(
        "Recipes: configs/imagenet.yaml and configs/strong.yaml; randaugment and trivialaugment "
        "are random resized crop to 224, flip, the policy (two ops of strength 9; one op of any "
        "strength), normalize; small is random crop with 2 pixels of padding, flip, rotation by "
        "±10°, one hole of 0.3 of the side in every second image, normalize."
    )
    yield "## Files to batches, images per second"
    for recipe, sizes in RECIPES.items():
        for size in sizes:
            table = _part(results, f"{recipe}, {size}")
            yield f"### {recipe}, {size}\n\n{table}" if table else ""
    for title, part in (("28 × 28, in memory", SMALL), ("A second epoch, cached", CACHED)):
        table = _part(results, part)
        yield f"### {title}\n\n{table}" if table else ""
    if any(results.of(f"{recipe}, one image in memory") for recipe in RECIPES):
        yield "## One image in memory, one thread, milliseconds"
        yield _wrapped(
            "Decoded photos of 500 × 375, float arrays (H, W, 3) out; `pipe.loader` also makes "
            "batches of 64."
        )
    for recipe in RECIPES:
        table = _part(results, f"{recipe}, one image in memory")
        yield f"### {recipe}\n\n{table}" if table else ""
    memory = [(size, _part(results, f"peak memory, imagenet, {size}")) for size in SIZES]
    if any(table for _, table in memory):
        yield "## Peak memory, MB"
        yield _wrapped(
            "The largest sum of the proportional set sizes of all processes (what several share "
            "counts once), start-up, libraries and all, recipe imagenet, two workers."
        )
        for size, table in memory:
            yield f"### {size}\n\n{table}" if table else ""
    for title, part, column, words in (
        (
            "Growth with the number of ops, milliseconds an image",
            "growth with ops",
            "ops",
            "Half of them geometric, then half of colour; a decoded photo of 500 × 375 whose size "
            "is kept, one thread, one call an image.",
        ),
        (
            "Growth with image size, images per second",
            "growth with size",
            "megapixels",
            "Random resized crop to 224, flip, normalize; photos of samples/ at each size as JPEG, "
            "two workers.",
        ),
        (
            "Growth with workers, images per second",
            "growth with workers",
            "workers",
            "Recipe imagenet at 500 × 375. With 0 workers the caller's thread does it all.",
        ),
    ):
        table = _growth(results, part, column)
        yield f"## {title}\n\n{_wrapped(words)}\n\n{table}" if results.of(part) else ""
    if results.left_out:
        yield "## Left out"
        yield "\n".join(_wrapped(f"- {note}.", "  ") for note in results.left_out)
    if results.failed:
        yield "## Failed"
        yield "\n".join(_wrapped(f"- {note}.", "  ") for note in results.failed)


def main() -> None:
    """Makes the page anew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("figures", type=Path, nargs="?", default=ROOT / "runs" / "benchmarks.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    write(Results.load(options.figures), options.out)


if __name__ == "__main__":
    main()
