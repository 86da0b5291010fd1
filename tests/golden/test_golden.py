"""What users read, word for word: error messages, and the plan of each config.

`pytest tests/golden --update-golden` writes the files anew: read the diff before committing.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import augpipe
from augpipe.rng import Trace
from tests.cases import CASES
from tests.harness import ROOT, build, meanings

HERE = Path(__file__).parent
BROKEN = sorted(p for p in (HERE / "recipes").glob("*.yaml") if not p.stem.endswith("_2"))
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


def compare(got: str, golden: Path, update: bool) -> None:
    if update:
        golden.write_text(got, encoding="utf-8")
    assert golden.exists(), f"no {golden.name}: run with --update-golden\n{got}"
    assert got == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", BROKEN, ids=lambda p: p.stem)
def test_error_messages(path: Path, request: pytest.FixtureRequest, monkeypatch) -> None:
    monkeypatch.chdir(path.parent)
    with pytest.raises(augpipe.RecipeError) as caught:
        augpipe.load(path.name)
    assert caught.value.exit_code == 2
    compare(f"{caught.value}\n", path.with_suffix(".txt"), request.config.option.update_golden)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_explanations(path: Path, request: pytest.FixtureRequest) -> None:
    text = str(augpipe.load(path).explain(size=(375, 500)))
    golden = HERE / "explain" / f"{path.stem}.txt"
    golden.parent.mkdir(exist_ok=True)
    compare(text + "\n", golden, request.config.option.update_golden)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_opens_with_the_command_that_runs_it(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith("# augpipe ") and str(path.relative_to(ROOT)) in first


def test_random_streams(request: pytest.FixtureRequest) -> None:
    """Seed to pixels is public API: what each op draws for two samples, to ten digits."""
    lines = []
    for case in CASES:
        trace: Trace = {}
        meanings(
            build(case.item, section=case.section), (96, 128), (0, 2**40 + 1), epoch=1, trace=trace
        )
        for op, own in trace.items():
            for name, values in sorted(own.items()):
                shown = np.array2string(values, precision=10, threshold=12, separator=", ")
                lines.append(f"{op}.{name}: {' '.join(shown.split())}")
    compare(
        "\n".join(dict.fromkeys(lines)) + "\n",
        HERE / "streams.txt",
        request.config.option.update_golden,
    )
