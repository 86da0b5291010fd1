"""`augpipe train` and `augpipe compare`, as they are typed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from augpipe.cli.main import main
from augpipe.recipe import load
from augpipe.training.comparing import _Job
from augpipe.training.results import Result
from tests.harness import interrupt
from tests.training.support import ROOT, recipe

CPU = ("--workers", "0", "--accelerator", "cpu", "--devices", "1")


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    code = main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe("label_smoothing", epochs=2)))
    return tmp_path / "tiny.yaml"


@pytest.mark.parametrize("command", ["train", "compare"])
def test_help_has_an_example_and_needs_no_lightning(
    capsys: pytest.CaptureFixture[str], command: str
) -> None:
    code, out, _ = run(capsys, command, "-h")
    assert code == 0 and f"  augpipe {command} configs/" in out
    script = (
        "import sys\nfrom augpipe.cli.main import main\n"
        f"code = main(['{command}', '-h'])\n"
        "assert not {'torch', 'pytorch_lightning', 'numpy'} & set(sys.modules)\nsys.exit(code)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_it_says_what_it_does_and_what_came_of_it(
    capsys: pytest.CaptureFixture[str], source: Path, garments: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    code, said, err = run(capsys, "train", source, garments, "--out", out, *CPU)
    assert (code, err) == (0, "")
    lines = said.splitlines()
    assert lines[0] == "wrn_10_1, 77,395 parameters, on cpu"
    assert lines[1].startswith("sgd, lr 0.1 cosine after 5% of warm-up, float32, 6 steps of 8")
    assert lines[2].startswith("24 images of 3 classes to train on, 6 to validate on, no test")
    assert "label_smoothing  loss: epsilon 0.1" in said
    assert lines[-2].startswith("validation accuracy ") and "6 steps in" in lines[-2]
    assert lines[-1] == f"{out}: model.safetensors, curve.png, metrics.csv"
    # The same command again: the same result, at once.
    again = run(capsys, "train", source, garments, "--out", out, *CPU)
    assert again == (0, "\n".join([f"{out}: finished already", *lines[-2:], ""]), "")


def test_out_is_named_after_the_recipe(
    capsys: pytest.CaptureFixture[str],
    source: Path,
    garments: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "train", source, garments, *CPU, "--set", "train.epochs=1")[0] == 0
    assert (tmp_path / "runs" / "tiny" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--set", "train.model=wrn_11_1"), 2, "train.model: must be a small net"),
        (("--set", "train.lr=1.0e+35"), 1, "lower train.lr (now 1e+35)"),
        (("--set", "train.batch_size=100"), 2, "train.batch_size 100 is more than the 24"),
        (("--set", "train.epochs=0"), 2, "train.epochs"),
        (("--set", "train.precision=int4"), 2, "train.precision"),
        (("--accelerator", "abacus"), 2, "training cannot be set up so: "),
        (("--devices", "many"), 2, "training cannot be set up so: "),
        (("--strategy", "divide"), 2, "training cannot be set up so: "),
        (("--out", "FILE"), 2, "the output folder is a file"),
    ],
    ids=str,
)
def test_what_goes_wrong_is_a_line(
    capsys: pytest.CaptureFixture[str],
    source: Path,
    garments: Path,
    tmp_path: Path,
    args: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    (tmp_path / "file").touch()
    given = [str(tmp_path / "file") if arg == "FILE" else arg for arg in args]
    got, out, err = run(capsys, "train", source, garments, "--out", tmp_path / "o", *CPU, *given)
    assert got == code, err
    assert words in err and err.count("\n") == 1 and "internal error" not in err
    assert "accuracy" not in out


def test_arguments_the_wrong_way_round(
    capsys: pytest.CaptureFixture[str], source: Path, garments: Path
) -> None:
    code, _, err = run(capsys, "train", garments, source)
    assert code == 2 and "RECIPE DATA" in err


def test_a_pickled_checkpoint_is_refused(
    capsys: pytest.CaptureFixture[str], source: Path, garments: Path, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save({}, tmp_path / "checkpoints" / "last.safetensors")
    code, _, err = run(capsys, "train", source, garments, "--out", tmp_path, *CPU)
    assert code == 1 and "last.safetensors: is a pickle, as torch.save writes them" in err


@pytest.mark.parametrize(
    ("command", "missing"),
    [("train", "pytorch_lightning"), ("compare", "pytorch_lightning"), ("train", "torchmetrics")],
)
def test_without_lightning_it_says_what_to_install(
    tmp_path: Path, source: Path, garments: Path, missing: str, command: str
) -> None:
    stub = tmp_path / "stubs" / f"{missing}.py"
    stub.parent.mkdir()
    stub.write_text(f"raise ModuleNotFoundError('no', name='{missing}')\n")
    words = {
        "train": [source, garments],
        "compare": [source, source, "--data", garments],
    }[command]
    # In this process Lightning is loaded: only a fresh one can lack it.
    args = [sys.executable, "-m", "augpipe", command, *map(str, words)]
    child = subprocess.run(
        args,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{stub.parent}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 2
    assert child.stderr == (
        f"training needs {missing}, which is not installed: pip install 'augpipe[train]'\n"
    )
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_is_a_short_message_and_the_run_goes_on(
    source: Path, garments: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    args = ["train", source, garments, "--out", out, *CPU, "--set", "train.epochs=2000"]
    child = subprocess.Popen(
        [sys.executable, "-m", "augpipe", *map(str, args)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / "last.safetensors").exists():
        assert time.monotonic() < deadline and child.poll() is None
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.05)
    err = interrupt(child)
    assert child.returncode == 1
    assert err == "stopped: the same call goes on from the last whole epoch\n"
    assert not (out / "result.json").exists()
    # It goes on, if for the message's sake only: another number of epochs is another recipe.
    code, _, err = run(capsys, "train", source, garments, "--out", out, *CPU)
    assert code == 2 and "holds a run of another recipe" in err


def test_compare_in_processes(
    capfd: pytest.CaptureFixture[str], source: Path, garments: Path, tmp_path: Path
) -> None:
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(recipe()))
    words = ["compare", tmp_path / "plain.yaml", source, "--data", garments]
    more = ["--out", tmp_path / "out", "--seeds", 1, "--steps", 2, "--jobs", 1]
    code = main([str(word) for word in (*words, *more)])
    out, err = capfd.readouterr()
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert sorted(line.split(":")[0] for line in lines[:2]) == ["plain, seed 0", "tiny, seed 0"]
    assert lines[2] == "validation accuracy in %, one seed: no interval"
    assert lines[4].startswith("plain ") and lines[5].startswith("tiny ")
    assert lines[5].endswith("no evidence")
    assert lines[6] == f"{tmp_path / 'out'}: comparison.json, comparison.txt, comparison.png"
    # A spawned process came to what this one comes to.
    (kept,) = (tmp_path / "out" / "runs").glob("plain-0-*.json")
    plain = load(recipe(steps=2)).model_copy(update={"seed": 0})
    here = _Job("plain", plain, str(garments), "", None, "test").run()
    assert replace(Result.read(kept)[0], seconds=0) == replace(here, seconds=0)


def test_compare_refuses_in_a_line(
    capsys: pytest.CaptureFixture[str], source: Path, garments: Path
) -> None:
    code, out, err = run(capsys, "compare", source, "--data", garments)
    assert (code, out) == (2, "") and "compare needs two recipes or more" in err
    code, out, err = run(capsys, "compare", source, source, "--data", garments)
    assert (code, out) == (2, "") and "two recipes are called tiny: rename one" in err
