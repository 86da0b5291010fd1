"""The benchmark of loading, run small from end to end; what it works out, on figures made up."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.jobs import Arrays, Job
from benchmarks.measuring import (
    Results,
    Series,
    UnsupportedError,
    in_fresh_process,
    interleaved,
    steady_rate,
)
from benchmarks.peers import PEERS
from benchmarks.report import write
from tests.harness import ROOT

SMALL = "small, 28 × 28 in memory"


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a run on samples/ wrote: photos, 28 × 28, one image, workers."""
    folder = tmp_path_factory.mktemp("benchmarks")
    command = [sys.executable, "-m", "benchmarks.loading", "--quick", "--seconds", "0.01"]
    command += ["--only", "imagenet-500x375", "small", "one-strong", "workers", "--batch", "8"]
    command += ["--out", str(folder), "--data", str(folder / "nothing")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_library_is_measured(out: Path) -> None:
    results = Results.load(out / "benchmarks.json")
    assert [row.name for row in results.of("imagenet, 500 × 375")] == list(PEERS)
    ours = ["augpipe, all under sample:", "augpipe, all under batch:"]
    others = [peer for peer in PEERS if peer not in ("augpipe", "timm")]
    assert sorted(row.name for row in results.of(SMALL)) == sorted(ours + others)
    assert len(results.of("strong, one image in memory")) == 4
    assert [row.at for row in results.of("growth with workers") if row.name == "augpipe"] == [0, 2]
    assert all(row.median > 0 and len(row.rounds) == 1 for row in results.series)
    assert results.left_out == ["timm: it has no transforms for the recipe small"]
    assert results.failed == []


def test_the_page_has_tables_bars_and_versions(out: Path) -> None:
    page = (out / "benchmarks.md").read_text()
    for words in (
        "## Bars",
        "### imagenet, 500 × 375",
        "## Growth with workers",
        "| kornia |",
        "albumentations 2.",
        "cores",
    ):
        assert words in page
    assert str(ROOT.parent) not in page and str(out) not in page
    assert max(map(len, filter(lambda line: "|" not in line, page.splitlines()))) <= 100
    drawn = importlib.util.find_spec("matplotlib") is not None
    assert (out / "benchmarks.png").exists() == drawn == ("benchmarks.png" in page)


def results(ours: tuple[float, ...]) -> Results:
    part = "imagenet, 500 × 375"
    made = Results(("a machine", "versions"), "a command", {"rounds": 3, "seconds": 1.0})
    made.series += [Series(part, "albumentations", "img/s", (100.0, 50.0, 100.0))]
    made.series += [Series(part, "augpipe", "img/s", ours)]
    return made


def test_ratios_are_of_one_round() -> None:
    theirs, ours = results((260.0, 125.0, 240.0)).series
    assert ours.times_better(theirs) == (2.5, 2.4, 2.6)
    faster, slower = Series("a", "b", "ms", (1.0,)), Series("a", "c", "ms", (4.0,))
    assert faster.times_better(slower) == (4.0, 4.0, 4.0)


@pytest.mark.parametrize(("ours", "reached"), [(250.0, "yes"), (249.0, "no")])
def test_a_bar_is_reached_by_the_median(tmp_path: Path, ours: float, reached: str) -> None:
    write(results((900.0, 1.0, ours)), tmp_path)
    (row,) = [
        line
        for line in (tmp_path / "benchmarks.md").read_text().splitlines()
        if line.startswith("| imagenet, 500 × 375 | albumentations |")
    ]
    assert row.endswith(f"| 2.5× | {reached} |")


def test_figures_survive_saving(tmp_path: Path) -> None:
    made = results((1.0, 2.0, 3.0))
    made.save(tmp_path / "figures.json")
    assert Results.load(tmp_path / "figures.json") == made
    assert json.loads((tmp_path / "figures.json").read_text())["command"] == "a command"


def test_rounds_interleave_and_what_fails_is_left_out() -> None:
    asked = []

    def measure(name: str) -> Callable[[], float]:
        def ask() -> float:
            asked.append(name)
            if name == "c":
                raise UnsupportedError("none")
            return float(len(asked))

        return ask

    rows, raised = interleaved("part", "ms", {(n, None): measure(n) for n in "abc"}, 2)
    assert asked == ["a", "b", "c", "b", "a"]
    assert {row.name: row.rounds for row in rows} == {"a": (1.0, 5.0), "b": (2.0, 4.0)}
    assert [str(error) for error in raised.values()] == ["none"]


def test_warming_up_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])

    def stream():
        for seconds in (50, 50, 1, 1, 1, 1, 1, 1):
            clock[0] += seconds
            yield range(10)

    assert steady_rate(stream(), warm=2, most=6, seconds=100, step=2) == 10.0
    # Over after 3 batches, but two workers deliver in turn: the fourth is counted too.
    monkeypatch.setattr("benchmarks.measuring.islice", counting := _Counting())
    clock[0] = 0.0
    assert steady_rate(stream(), warm=2, most=6, seconds=2.5, step=2) == 10.0
    assert counting.taken == [2, 4]


class _Counting:
    """`itertools.islice`, noting how many items each slice gave."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def __call__(self, items, stop):
        place = len(self.taken)
        self.taken.append(0)
        for _ in range(stop):
            self.taken[place] += 1
            yield next(items)


def test_a_job_asks_for_every_image_equally_often() -> None:
    job = Job("small, batch", Arrays([None] * 12), 6, 8)  # type: ignore[list-item]
    order = job.order()
    assert len(order) == 48
    assert {order.count(k) for k in range(12)} == {4}
    assert order[:12] != sorted(order[:12])
    assert job.work == "small"


@pytest.mark.parametrize(("images", "workers", "step"), [(12, 2, 6), (12, 0, 3), (244, 2, 2)])
def test_a_few_images_are_counted_equally_often(images: int, workers: int, step: int) -> None:
    job = Job("crop", Arrays([None] * images), 8, 60, workers)  # type: ignore[list-item]
    assert job.step == step


def _fails() -> None:
    raise ZeroDivisionError("by the library")


def test_a_measurement_that_fails_says_how() -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError: by the library"):
        in_fresh_process(_fails)
