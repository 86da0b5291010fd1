"""The benchmark of expansion: its arithmetic on figures made up, and the page that it fills."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import scale
from benchmarks.measuring import Results, Series
from tests.harness import ROOT

PRICES = argparse.Namespace(core_hour=0.1, gb_month=0.02, put_1000=0.005, get_1000=0.0004)


def results(*series: Series) -> Results:
    return Results(("a machine",), "", {}, list(series))


def test_what_a_billion_costs() -> None:
    """36 ms an image are 36 million core-seconds, 10,000 hours; 50 kB are 50 TB."""
    values = {"decode": (9.0, 10.0, 99.0), "transform": (20.0,), "encode": (6.0,)}
    rows = [Series("photos", name, "ms", value) for name, value in values.items()]
    rows.append(Series("photos", "size", "bytes", (50_000.0,)))
    lines = list(scale.rates(results(*rows), PRICES))
    assert "| photos | 10.00 ms | 20.00 ms | 6.00 ms | 28 | 50.0 |" in lines
    assert "| photos | 10,000 | 50.0 | 1,000 | 1,000 |" in lines
    assert "5,000 $ to write and 400 $ to read" in lines[-1]


def test_the_bars_are_ratios_of_one_round() -> None:
    """The machine halves its clock from round to round: the ratios stay."""
    rows = [
        Series("bars: photos", "alone", "img/s", (100.0, 50.0, 25.0)),
        Series("bars: photos", "expand", "img/s", (90.0, 44.0, 20.0), 1),
        Series("bars: photos", "expand", "img/s", (171.0, 88.0, 38.0), 2),
    ]
    lines = list(scale.told_bars(results(*rows)))
    assert "| expand, 1 worker | 44.0 | 0.88 of that (0.80, 0.90) | 85 % |" in lines
    assert "| expand, 2 workers | 88.0 | 1.90 of one (1.90, 2.00) | 1.8 |" in lines


def test_a_page_without_a_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("a\n<!-- rates -->\nold\n<!-- /rates -->\nb\n")
    scale.write(tmp_path / "page.md", {"rates": ["new"]})
    assert (tmp_path / "page.md").read_text() == "a\n<!-- rates -->\nnew\n<!-- /rates -->\nb\n"
    with pytest.raises(AssertionError, match="no place for bars"):
        scale.write(tmp_path / "page.md", {"bars": ["new"]})


def test_it_fills_the_page(tmp_path: Path) -> None:
    page = tmp_path / "scale.md"
    page.write_text((ROOT / "docs" / "scale.md").read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.scale", "--rounds", "1", "--seconds", "0.05"]
    command += [
        "--listed",
        "50",
        "--images",
        "20",
        "40",
        "--data",
        str(tmp_path),
        "--page",
        str(page),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = page.read_text(encoding="utf-8")
    for words in (
        "| samples, photos, jpeg |",
        "| expand, 2 workers |",
        "| row | ",
        "a core-hour",
        "| 40 | ",
    ):
        assert words in text
    assert text.count("<!-- ") == 10
