"""The examples run as their first lines say, learn, and call the wrapper as they should."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from augpipe.regularizers.wrapper import Regularized

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDS = {"huggingface_trainer": ("transformers", "accelerate")}


def needed(path: Path) -> None:
    for name in NEEDS.get(path.stem, ()):
        pytest.importorskip(name)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_by_its_command_and_learns(path: Path, tmp_path: Path) -> None:
    needed(path)
    said = ast.get_docstring(ast.parse(path.read_text()))
    assert said is not None
    command = said.splitlines()[2].split()
    assert command[:3] == ["python", f"examples/{path.name}", "samples/garments"]
    for name in ("examples", "samples"):
        (tmp_path / name).symlink_to(ROOT / name)
    child = subprocess.run(
        [sys.executable, *command[1:3], "--epochs", "15" if path.stem in NEEDS else "6"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    found = [float(each) for each in re.findall(r"(?:val_acc|accuracy)\D*(\d\.\d+)", child.stdout)]
    # 50 images of 10 classes: guessing has 0.1, standard deviation 0.042; three of these.
    assert found[-1] > 0.23


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def counted(name: str, calls: Counter[str]) -> Any:
    own = getattr(Regularized, name)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return own(self, *args, **kwargs)

    return call


@pytest.mark.filterwarnings("ignore")  # of libraries that are not augpipe's
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_calls_what_it_should(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed(path)
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    calls: Counter[str] = Counter()
    for name in ("before_step", "after_step", "end_epoch", "averaged", "finish"):
        monkeypatch.setattr(Regularized, name, counted(name, calls))
    before = {each.name for each in tmp_path.iterdir()}
    loaded(path).main(str(ROOT / "samples" / "garments"), 2)
    # 190 images, of which 32 make a batch: 5 steps an epoch.
    assert calls["before_step"] == calls["after_step"] == 10
    assert calls["end_epoch"] == 2 and calls["averaged"] >= 2 and calls["finish"] >= 1
    assert {each.name for each in tmp_path.iterdir()} - before <= {"runs"}
