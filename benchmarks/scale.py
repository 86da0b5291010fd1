"""What expansion costs per image, and a billion of them: fills the tables of docs/scale.md.

    python -m benchmarks.scale [--data DIR] [--rounds 5] [--seconds 6] [--page docs/scale.md]
                               [--only rates bars driver memory] [--core-hour 0.04] ...

Rates: decode, transform and encode of the same images, one thread, timed apart. Bars: expansion by
one worker against these three done alone, and by two against one; the measures take turns,
each in a fresh process, and a ratio is of one round. Driver: what the machine that hands out the
work holds and does for each image. Memory: the most that an expansion of small images takes, by
their number. Photos are DIR/photos_500x375, photos_1024x768 and photos_12mp,
or else samples/photos. Let nothing else run meanwhile.
"""

from __future__ import annotations

import argparse
import functools
import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from augpipe.data.decode import decode
from augpipe.data.encode import Format, encode
from augpipe.expansion import expand
from augpipe.expansion.jobs import prepare
from augpipe.expansion.manifest import Manifest, Row, line_of
from augpipe.expansion.record import Settings
from augpipe.pipeline import Pipeline
from augpipe.recipe import as_recipe
from augpipe.targets import Sample
from benchmarks.measuring import (
    ROOT,
    Place,
    Results,
    Series,
    in_fresh_process,
    interleaved,
    machine,
)

SIZES = {"500 × 375": "photos_500x375", "1024 × 768": "photos_1024x768", "12 MP": "photos_12mp"}
RECIPES = {
    "crop": {"version": 1, "sample": [{"random_resized_crop": 224}, "horizontal_flip"]},
    "photos": ROOT / "configs" / "photos.yaml",
    "quickstart": ROOT / "configs" / "quickstart.yaml",
}
BILLION = 1e9
WARM = 8  # images before the clock starts: imports, and tables made at first use


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured.

    Args:
        images: What they are called.
        files: The images.
        recipe: See `RECIPES`.
        format: What is written.
    """

    images: str
    files: tuple[Path, ...]
    recipe: str
    format: Format

    @property
    def part(self) -> str:
        return f"{self.images}, {self.recipe}, {self.format}"

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline(as_recipe(RECIPES[self.recipe]))


def cases(data: Path) -> Iterator[Case]:
    garments = sorted((ROOT / "samples" / "garments").glob("*/*.png"))
    yield Case("28 × 28", tuple(garments), "quickstart", "png")
    for name, folder in SIZES.items():
        files = tuple(sorted((data / folder).glob("*.jpg")))
        for recipe, form in (("crop", "jpeg"), ("photos", "jpeg"), ("photos", "png")):
            if files:
                yield Case(name, files, recipe, form)
    if not any((data / folder).is_dir() for folder in SIZES.values()):
        yield Case("samples", tuple(samples()), "photos", "jpeg")


def samples() -> list[Path]:
    return sorted((ROOT / "samples" / "photos").glob("*.jpg"))


def stages(case: Case, seconds: float) -> tuple[float, float, float, float]:
    """Returns ms to decode, transform and encode an image, and the bytes that come out.

    Times of the processor, which are what core-hours are made of: who else is at work on the
    machine counts little.
    """
    pipeline = case.pipeline
    spent, size, count, warm = np.zeros(3), 0, 0, WARM
    stop = 0.0
    while count <= warm or time.perf_counter() < stop:
        path = case.files[count % len(case.files)]
        times = [time.process_time()]
        pixels = decode(path.read_bytes())
        times.append(time.process_time())
        (made,) = pipeline.run([Sample(pixels)], np.array([count]), 0)
        times.append(time.process_time())
        data = encode(made.image, case.format)
        times.append(time.process_time())
        count += 1
        if count == warm:
            stop = time.perf_counter() + seconds
        elif count > warm:
            spent += np.diff(times)
            size += len(data)
    done = count - warm
    return *(1000 * spent / done).tolist(), size / done


def alone(case: Case) -> float:
    """Returns images/s of decode, transform and encode of all files, in one thread."""
    pipeline = case.pipeline

    def work(files: Sequence[Path]) -> None:
        for index, path in enumerate(files):
            pixels = decode(path.read_bytes())
            (made,) = pipeline.run([Sample(pixels)], np.array([index]), 0)
            encode(made.image, case.format)

    work(case.files[:WARM])
    begin = time.perf_counter()
    work(case.files)
    return len(case.files) / (time.perf_counter() - begin)


def expanded(case: Case, root: Path, workers: int) -> float:
    """Returns images/s of a whole expansion, from its call to its end."""
    recipe = as_recipe(RECIPES[case.recipe])
    with (
        tempfile.TemporaryDirectory(prefix="augpipe-scale-") as out,
        folder(case, WARM) as (_, few),
    ):
        expand(recipe, few, Path(out) / "warm", workers=workers, format=case.format)
        begin = time.perf_counter()
        expand(recipe, root, Path(out) / "out", workers=workers, format=case.format)
        return len(case.files) / (time.perf_counter() - begin)


@contextmanager
def folder(case: Case, count: int) -> Iterator[tuple[Case, Path]]:
    """Yields the case with as many files as asked for, and the folder that they lie in."""
    with tempfile.TemporaryDirectory(prefix="augpipe-scale-") as home:
        root = Path(home)
        for k in range(count):
            path = case.files[k % len(case.files)]
            shutil.copy(path, root / f"{k:06d}{path.suffix}")
        yield replace(case, files=tuple(sorted(root.iterdir()))), root


def bars(case: Case, seconds: float, rounds: int) -> list[Series]:
    """Measures an expansion against its parts, and two workers against one."""
    count = max(16, int(seconds * in_fresh_process(alone, case)))
    with folder(case, count) as (longer, root):
        measures: dict[Place, Callable[[], float]] = {
            ("decode + transform + encode alone", None): functools.partial(
                in_fresh_process, alone, longer
            )
        }
        for workers in (1, 2):
            measures[("expand", workers)] = functools.partial(
                in_fresh_process, expanded, longer, root, workers
            )
        rows, raised = interleaved(f"bars: {case.part}", "img/s", measures, rounds)
    if raised:
        raise next(iter(raised.values()))
    return rows


def driver(count: int) -> list[float]:
    """Returns bytes held and µs spent an image by what hands out the work; bytes of a row."""
    with tempfile.TemporaryDirectory(prefix="augpipe-scale-") as home:
        root = Path(home) / "in" / "class"
        root.mkdir(parents=True)
        for k in range(count):
            (root / f"image_{k:09d}.jpg").touch()
        (row,) = rows_of_one()
        before, begin = resident(), time.perf_counter()
        job = prepare(as_recipe(RECIPES["photos"]), root.parent, Settings())
        listed = time.perf_counter() - begin
        held = resident() - before
        begin = time.perf_counter()
        with Manifest(Path(home) / "manifest.jsonl") as manifest:
            for k in reversed(range(count)):
                (out,) = job.names.outputs(k)
                made = replace(row, index=k, output=out.path)
                manifest.append([(made.key, line_of(made))])
            manifest.settle()
            kept = resident() - before - held
            size = manifest.path.stat().st_size
        noted = time.perf_counter() - begin
    return [held / count, kept / count, 1e6 * listed / count, 1e6 * noted / count, size / count]


def memory(count: int) -> list[float]:
    """Returns the most MB that the process of an expansion takes, and a worker of two."""
    source = sorted((ROOT / "samples" / "garments").glob("*/*.png"))[0]
    with tempfile.TemporaryDirectory(prefix="augpipe-scale-") as home:
        root = Path(home) / "in" / "class"
        root.mkdir(parents=True)
        for k in range(count):
            if k % 10_000 == 0:  # a file system bounds how many names a file has
                one = shutil.copy(source, Path(home) / f"{k}.png")
            os.link(one, root / f"image_{k:09d}.png")
        expand(as_recipe(RECIPES["quickstart"]), root.parent, Path(home) / "out", workers=2)
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return [resource.getrusage(each).ru_maxrss / 1024 for each in who]


def rows_of_one() -> list[Row]:
    from augpipe.expansion.manifest import rows_of

    with tempfile.TemporaryDirectory(prefix="augpipe-scale-") as home:
        expand(as_recipe(RECIPES["photos"]), samples()[0], Path(home) / "out")
        return [row for _, row in rows_of(Path(home) / "out" / "manifest.jsonl") if row]


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def measured(options: argparse.Namespace) -> Results:
    results = Results(machine(), " ".join(sys.argv), vars(options) | {"page": str(options.page)})
    results.settings["data"] = str(options.data)
    chosen = list(cases(options.data))
    if "rates" in options.only:
        for case in chosen:
            rounds = [
                in_fresh_process(stages, case, options.seconds) for _ in range(options.rounds)
            ]
            for name, values in zip(STAGES, zip(*rounds, strict=True), strict=True):
                unit = "bytes" if name == "size" else "ms"
                results.series.append(Series(case.part, name, unit, values))
            print(case.part, *(f"{row.median:.3f}" for row in results.of(case.part)), flush=True)
    if "bars" in options.only:
        for case in [each for each in chosen if each.recipe != "crop" and each.format == "jpeg"][
            :1
        ]:
            results.series += bars(case, options.seconds, options.rounds)
    if "driver" in options.only:
        rounds = [in_fresh_process(driver, options.listed) for _ in range(options.rounds)]
        for name, values in zip(DRIVER, zip(*rounds, strict=True), strict=True):
            results.series.append(Series("driver", name, "each", values))
    if "memory" in options.only:
        for count in options.images:
            values = zip(MEMORY, in_fresh_process(memory, count), strict=True)
            results.series += [Series(f"memory: {count:,}", name, "MB", (v,)) for name, v in values]
    return results


MEMORY = ("the process", "a worker")
STAGES = ("decode", "transform", "encode", "size")
DRIVER = ("listing, bytes", "manifest, bytes", "listing, µs", "manifest, µs", "row, bytes")


def rates(results: Results, prices: argparse.Namespace) -> Iterator[str]:
    parts = [row.part for row in results.series if row.name == "decode"]
    yield "| images, recipe, written as | decode | transform | encode | images/s a core | kB |"
    yield "|---|---|---|---|---|---|"
    for part in parts:
        found = {row.name: row.median for row in results.of(part)}
        times = [found[name] for name in STAGES[:3]]
        cells = [f"{each:.2f} ms" for each in times]
        cells += [f"{1000 / sum(times):,.0f}", f"{found['size'] / 1000:.1f}"]
        yield f"| {part} | {' | '.join(cells)} |"
    yield ""
    yield "A billion of them:"
    yield ""
    yield "| images, recipe, written as | core-hours | TB | cores, $ | a month on disk, $ |"
    yield "|---|---|---|---|---|"
    for part in parts:
        found = {row.name: row.median for row in results.of(part)}
        hours = BILLION * sum(found[name] for name in STAGES[:3]) / 3.6e6
        gigabytes = BILLION * found["size"] / 1e9
        cells = [f"{hours:,.0f}", f"{gigabytes / 1000:,.1f}"]
        cells += [f"{hours * prices.core_hour:,.0f}", f"{gigabytes * prices.gb_month:,.0f}"]
        yield f"| {part} | {' | '.join(cells)} |"
    yield ""
    puts, gets = (BILLION / 1000 * each for each in (prices.put_1000, prices.get_1000))
    yield (
        f"At {prices.core_hour} $ a core-hour, {prices.gb_month} $ a GB and month, "
        f"{prices.put_1000} $ for 1,000 files written and {prices.get_1000} $ for 1,000 read. A "
        f"billion files of their own in object storage: {puts:,.0f} $ to write and {gets:,.0f} $ "
        "to read, each time."
    )


def told_bars(results: Results) -> Iterator[str]:
    for part in dict.fromkeys(row.part for row in results.series if row.part.startswith("bars")):
        rows = results.of(part)
        base = next(row for row in rows if row.at is None)
        one, two = (next(row for row in rows if row.at == workers) for workers in (1, 2))
        yield f"{part.removeprefix('bars: ')} (median of {len(base.rounds)} rounds; least, most):"
        yield ""
        yield "| | images/s | ratio | bar |"
        yield "|---|---|---|---|"
        yield f"| {base.name} | {base.median:.1f} | | |"
        for row, other, bar in ((one, base, "85 %"), (two, one, "1.8")):
            ratio, least, most = row.times_better(other)
            workers = f"expand, {row.at} worker{'s' if row.at == 2 else ''}"
            words = f"{ratio:.2f} of {'one' if other is one else 'that'} ({least:.2f}, {most:.2f})"
            yield f"| {workers} | {row.median:.1f} | {words} | {bar} |"


def told_driver(results: Results) -> Iterator[str]:
    rows = results.of("driver")
    if rows:
        yield "| what hands out the work | an image | a billion |"
        yield "|---|---|---|"
    for row in rows:
        name, _, unit = row.name.partition(", ")
        each = f"{row.median:,.0f} {unit}"
        whole = f"{row.median:,.0f} GB" if unit == "bytes" else f"{row.median * 1000 / 3600:.1f} h"
        what = "memory" if unit == "bytes" and name != "row" else "time"
        yield f"| {name}{'' if name == 'row' else ': ' + what} | {each} | {whole} |"


def told_memory(results: Results) -> Iterator[str]:
    parts = [row for row in results.series if row.part.startswith("memory")]
    if parts:
        yield "| images | the process | each of two workers |"
        yield "|---|---|---|"
    for own, worker in zip(parts[::2], parts[1::2], strict=True):
        count = own.part.removeprefix("memory: ")
        yield f"| {count} | {own.median:.0f} MB | {worker.median:.0f} MB |"


def write(page: Path, sections: dict[str, Sequence[str]]) -> None:
    """Puts tables between a page's marks `<!-- NAME -->` and `<!-- /NAME -->`."""
    text = page.read_text(encoding="utf-8")
    for name, lines in sections.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, found, rest = text.partition(begin)
        _, ends, after = rest.partition(end)
        assert found, f"{page} has no place for {name}"
        assert ends, f"{page} has no end of {name}"
        if lines:
            text = "\n".join([before + begin, *lines, end + after])
    page.write_text(text, encoding="utf-8")


PARTS = ("rates", "bars", "driver", "memory")
PRICES = {"core-hour": 0.04, "gb-month": 0.02, "put-1000": 0.005, "get-1000": 0.0004}
"""Dollars: round figures to calculate with, no one's quotation."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT / "samples")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--listed", type=int, default=20_000)
    parser.add_argument("--only", nargs="+", default=list(PARTS))
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--page", type=Path)
    for name, price in PRICES.items():
        parser.add_argument(f"--{name}", type=float, default=price)
    options = parser.parse_args()
    busy = os.getloadavg()[0]
    results = measured(options)
    made = "; ".join(results.machine)
    if busy > 1.5:  # what was there before fades from the average within minutes
        made += f". It was busy with other work (load {busy:.0f}): no measure of bars and times"
    sections: dict[str, Sequence[str]] = {
        "rates": list(rates(results, options)) if "rates" in options.only else [],
        "bars": list(told_bars(results)),
        "driver": list(told_driver(results)),
        "memory": list(told_memory(results)),
        "machine": [f"Measured by `python -m benchmarks.scale` on {made}."],
    }
    for lines in sections.values():
        print(*lines, sep="\n", end="\n\n")
    if options.page is not None:
        write(options.page, sections)


if __name__ == "__main__":
    main()
