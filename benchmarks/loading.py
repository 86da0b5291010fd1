"""From files to training batches: augpipe against what else a user could pick.

    python -m benchmarks.loading [--rounds N] [--only NAME ...] [--data DIR] [--quick]

A complete run writes docs/benchmarks.md and its plot. With --only, --peers or --quick nothing is
written unless --out says where. `python -m benchmarks.report` makes the page anew from the
figures of a run (runs/benchmarks.json).

Names for --only, or how they begin: imagenet-500x375, strong-1024x768, ... (recipe and size),
small, cached, one-imagenet, one-strong, ops, sizes, workers, memory.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import argparse
import gzip
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import growth, peers, report
from benchmarks.jobs import Arrays, Job
from benchmarks.jobs import recipe as recipe_of
from benchmarks.measuring import (
    ROOT,
    Place,
    Results,
    UnsupportedError,
    in_fresh_process,
    interleaved,
    machine,
    steady_rate,
)

SAMPLES = ROOT / "samples"
DATA = ROOT.parent / "shared" / "data"


@dataclass(frozen=True)
class Size:
    """Photos of one size, and how they are measured.

    Args:
        width: In pixels, of photos made from samples/.
        height: Likewise.
        batch: Images in a batch.
        most: Batches that are counted at most.
        words: How the page calls it.
    """

    width: int
    height: int
    batch: int
    most: int
    words: str


SIZES = {
    "500x375": Size(500, 375, 64, 48, "500 × 375"),
    "1024x768": Size(1024, 768, 32, 36, "1024 × 768"),
    "12mp": Size(4000, 3000, 8, 18, "12 megapixels"),
}
# The policies act on 224 × 224, whatever was decoded: one size is enough for them.
CASES = {
    f"{recipe}-{size}": (recipe, size)
    for recipe, sizes in {
        "imagenet": SIZES,
        "strong": SIZES,
        "randaugment": ["500x375"],
        "trivialaugment": ["500x375"],
    }.items()
    for size in sizes
}
SMALL_BATCH, SMALL_MOST = 128, 400
ONE_IMAGE = (
    "albumentations",
    "augpipe, pipe(image)",
    "augpipe, pipe(image, index=i, epoch=e)",
    "augpipe, pipe.loader(list, workers=0)",
)


def rate(peer: str, job: Job, warm: int, seconds: float) -> float:
    """Returns a library's images per second; run in a process of its own.

    Raises:
        ValueError: If what it yields is no batch of normalized floats.
    """
    stream = peers.batches(peer, job)
    first = next(stream)
    side, channels = (28, 1) if job.work == "small" else (224, 3)
    wanted = ((job.batch, channels, side, side), "torch.float32")
    if (tuple(first.shape), str(first.dtype)) != wanted:
        raise ValueError(f"{peer}, {job.recipe}: {first.shape} {first.dtype}, not {wanted}")
    if not -4 < float(first.min()) < 0 < float(first.max()) < 4:
        raise ValueError(f"{peer}, {job.recipe}: from {first.min()} to {first.max()}")
    del first
    return steady_rate(stream, warm - 1, job.batches - warm, seconds, job.step)


def milliseconds(way: str, recipe: str, images: Sequence[NDArray[np.uint8]]) -> float:
    """Returns what one image in memory takes in one thread; run in a process of its own."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    run = _calls(way, recipe, images)
    run(0)
    turns = 3
    start = time.perf_counter()
    for turn in range(turns):
        run(1 + turn)
    return (time.perf_counter() - start) / (turns * len(images)) * 1e3


def _calls(way: str, recipe: str, images: Sequence[NDArray[np.uint8]]) -> Callable[[int], Any]:
    """Returns a function of the epoch that augments each image."""
    import augpipe

    pipe = augpipe.load(recipe_of(recipe))
    match way:
        case "albumentations":
            compose = peers.albumentations(recipe, tensor=False)
            return lambda _: [compose(image=image) for image in images]
        case "augpipe, pipe(image)":
            return lambda _: [pipe(image) for image in images]
        case "augpipe, pipe(image, index=i, epoch=e)":
            return lambda e: [pipe(image, index=i, epoch=e) for i, image in enumerate(images)]
        case _:
            loader = pipe.loader(Arrays(images), batch_size=64, workers=0)
            return lambda _: [len(batch) for batch in loader]


class Run:
    """Measures what was asked for, and tells it as it goes."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.seconds = options.seconds
        self.warm = 2 if options.quick else 4
        self.results = Results(machine(), options.command, vars(options).copy())
        for name in ("data", "out", "command", "figures"):
            self.results.settings.pop(name)
        self.peers = tuple(options.peers or peers.PEERS)

    def batch(self, usual: int) -> int:
        """Returns how many images a batch has."""
        return self.options.batch or usual

    def wants(self, name: str) -> bool:
        """Whether a part was asked for."""
        only = self.options.only
        return not only or any(name.startswith(each) for each in only)

    def measure(
        self,
        part: str,
        unit: str,
        measures: Mapping[Place, Callable[[], float]],
        rounds: int | None = None,
    ) -> None:
        """Measures one part, round by round, and prints it."""
        rows, raised = interleaved(part, unit, measures, rounds or self.options.rounds)
        self.results.series += rows
        report.show(rows)
        for (name, _), error in raised.items():
            if isinstance(error, UnsupportedError):
                note, notes = f"{name}: {error}", self.results.left_out
            else:
                print(error)
                note, notes = f"{part}, {name}", self.results.failed
            if note not in notes:
                notes.append(note)
        if self.options.figures is not None:
            self.results.save(self.options.figures)

    def photos(self, size: str) -> Path:
        """Returns a flat folder of JPEGs of a size: the data's, or made from samples/photos."""
        given = self.options.data / f"photos_{size}"
        if given.is_dir():
            return given
        made = self.folder / size
        if not made.exists():
            growth.make_photos(made, SIZES[size].width, SIZES[size].height)
        return made

    def garments(self) -> Arrays:
        """Returns 28 × 28 grey images in memory."""
        found = self.options.data / "fashion_mnist" / "train-images-idx3-ubyte.gz"
        if found.exists():
            data = bytearray(gzip.decompress(found.read_bytes()))  # torch warns of read-only arrays
            return Arrays(np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28))
        files = sorted((SAMPLES / "garments").rglob("*.png"))
        return Arrays(np.stack([np.array(Image.open(file).convert("L")) for file in files]))

    def throughput(
        self, part: str, jobs: Mapping[Place, tuple[str, Job]], rounds: int | None = None
    ) -> None:
        """Measures images per second of (peer, job)s."""
        measures = {
            place: partial(in_fresh_process, rate, peer, job, self.warm, self.seconds)
            for place, (peer, job) in jobs.items()
        }
        self.measure(part, "img/s", measures, rounds)

    def loading(self) -> None:
        """Photos: each recipe at each size."""
        for name, (recipe, size) in CASES.items():
            if self.wants(name):
                own = SIZES[size]
                job = Job(recipe, self.photos(size), self.batch(own.batch), self.warm + own.most)
                self.throughput(
                    f"{recipe}, {own.words}", {(peer, None): (peer, job) for peer in self.peers}
                )

    def small(self) -> None:
        """28 × 28 in memory; augpipe's lines under sample: and under batch:."""
        base = self.garments()
        jobs: dict[Place, tuple[str, Job]] = {}
        for peer in self.peers:
            own = peer == "augpipe"
            for where in ("sample", "batch") if own else ("",):
                job = Job(f"small, {where}", base, self.batch(SMALL_BATCH), self.warm + SMALL_MOST)
                jobs[f"augpipe, all under {where}:" if own else peer, None] = (peer, job)
        self.throughput("small, 28 × 28 in memory", jobs)

    def cached(self) -> None:
        """The second epoch of a recipe with a cache; albumentations has none."""
        size = SIZES["500x375"]
        folder, count = self.photos("500x375"), self.warm + size.most
        plain, kept = (
            Job(r, folder, self.batch(size.batch), count) for r in ("imagenet", "imagenet, cached")
        )
        jobs = {
            ("albumentations", None): ("albumentations", plain),
            ("augpipe", None): ("augpipe", kept),
        }
        self.throughput("imagenet, 500 × 375, second epoch with cache: memory", jobs)

    def one_image(self, recipe: str) -> None:
        """One decoded image, one thread."""
        files = sorted(self.photos("500x375").glob("*.jpg"))[:64]
        images = [np.array(Image.open(file).convert("RGB")) for file in files]
        measures = {
            (way, None): partial(in_fresh_process, milliseconds, way, recipe, images)
            for way in ONE_IMAGE
        }
        self.measure(f"{recipe}, one image in memory", "ms", measures)

    def everything(self) -> Results:
        """Measures all parts that were asked for."""
        self.loading()
        for name, part in {
            "small": self.small,
            "cached": self.cached,
            "one-imagenet": partial(self.one_image, "imagenet"),
            "one-strong": partial(self.one_image, "strong"),
            "ops": partial(growth.ops, self),
            "sizes": partial(growth.sizes, self),
            "workers": partial(growth.workers, self),
            "memory": partial(growth.memory, self),
        }.items():
            if self.wants(name):
                part()
        return self.results


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help="default 5; 1 with --quick")
    parser.add_argument("--seconds", type=float, help="a measurement, about; default 2")
    parser.add_argument("--batch", type=int, help="images in a batch; default 8 to 128, by size")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="only these parts")
    parser.add_argument("--peers", nargs="+", metavar="NAME", choices=peers.PEERS)
    parser.add_argument("--data", type=Path, default=DATA, help="has photos_500x375, ...")
    parser.add_argument("--quick", action="store_true", help="a rough look in 2 minutes")
    parser.add_argument("--out", type=Path, help="the folder for the page; docs if complete")
    options = parser.parse_args(arguments)
    complete = not (options.quick or options.only or options.peers)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (0.4 if options.quick else 2.0)
    options.command = "python -m benchmarks.loading"
    for name in ("rounds", "seconds", "batch"):
        if getattr(options, name):
            options.command += f" --{name} {getattr(options, name):g}"
    out = options.out or (ROOT / "docs" if complete else None)
    figures = (ROOT / "runs" if complete and not options.out else out) if out else None
    options.figures = figures / "benchmarks.json" if figures else None
    start = time.perf_counter()
    peers.preload(options.peers or peers.PEERS)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(options, Path(folder))
        print("\n".join(run.results.machine))
        if os.getloadavg()[0] > 0.5:
            print(
                f"something else runs here (load {os.getloadavg()[0]:.1f}): figures will not hold"
            )
        run.results.settings["data"] = "real" if options.data.is_dir() else "samples"
        results = run.everything()
    report.show_left_out(results)
    print(f"\n{(time.perf_counter() - start) / 60:.1f} minutes")
    if out is not None:
        report.write(results, out)
    if results.failed:
        raise SystemExit(f"failed: {'; '.join(results.failed)}")


if __name__ == "__main__":
    main()
