"""docs/evidence.md: every technique has its row, and the command writes the page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from augpipe import regularizers
from augpipe.training import comparing
from benchmarks import evidence, techniques
from tests.training.support import write_idx_set
from tests.training.test_comparing import Inline

DOCS = Path(__file__).resolve().parents[2] / "docs"


def names(item: Any) -> str:
    return item if isinstance(item, str) else next(iter(item))


def test_every_technique_has_a_row() -> None:
    tried = {names(item) for net in evidence.NETS for row in net.rows for item in row.regularize}
    # The baseline has weight decay, tuned; a row goes without.
    assert set(regularizers.catalogue()) - tried == {"weight_decay"}
    page = (DOCS / "evidence.md").read_text(encoding="utf-8")
    for net in evidence.NETS:
        missing = [row.name for row in net.rows if f"\n| {evidence.shown(row)} | " not in page]
        assert f"\n## {net.called}: " in page and not missing


def test_the_page_is_written_from_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_idx_set(tmp_path / "data", side=28)
    rows = (techniques.one("l2"), techniques.one("early_stopping", patience=1))
    net = replace(techniques.READER, train={"batch_size": 4, "optimizer": "adamw"}, rows=rows)
    net = replace(net, decays=(0.0, 0.1), rates=(0.01,))
    monkeypatch.setattr(evidence, "NETS", (net,))
    monkeypatch.setattr(evidence, "SIZE", 20)
    monkeypatch.setattr(comparing, "ProcessPoolExecutor", Inline)
    folders = ["--data", tmp_path / "data", "--out", tmp_path / "runs", "--docs", tmp_path / "docs"]
    assert evidence.main([str(each) for each in (*folders, "--seeds", 2, "--steps", 2)]) == 0
    page = (tmp_path / "docs" / "evidence.md").read_text(encoding="utf-8")
    assert "## row_lstm: 2 steps of 64 images" in page
    own, _, published = page.partition("## published: ")
    assert "arXiv 1909.13719" in published
    lines = [line for line in own.splitlines() if line.startswith("| ")]
    told = [line.split(" | ")[0].removeprefix("| ").split(":")[0] for line in lines]
    assert told == ["recipe", "baseline", "l2", "recipe", "baseline", "early_stopping"]
    assert (tmp_path / "docs" / "evidence-row_lstm.png").exists()
