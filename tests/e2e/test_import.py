"""`augpipe import`, as a newcomer meets it."""

from __future__ import annotations

import io
import pickle
import sys
from pathlib import Path

import pytest

import augpipe
from augpipe.cli.main import main
from tests.imported import photo

ROOT = Path(__file__).resolve().parents[2]
TORCHVISION = "samples/imports/torchvision.txt"
SAMPLES = ("albumentations.json", "timm.txt", "torchvision.txt")


@pytest.fixture(autouse=True)
def _at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


class Run:
    """Runs `augpipe import` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *args: object) -> tuple[int, str, str]:
        code = main(["import", *map(str, args)])
        out, err = self.capsys.readouterr()
        return code, out, err

    def refused(self, *args: object) -> str:
        """Runs what must fail; returns its one line."""
        code, out, err = self(*args)
        assert (code, out) == (2, ""), (out, err)
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        return err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_become_recipes_that_run(run: Run, name: str, tmp_path: Path) -> None:
    code, out, err = run(f"samples/imports/{name}")
    assert code == 0
    assert out.startswith("# augpipe explain recipe.yaml\n")
    for line in err.splitlines():
        assert line.startswith(f"samples/imports/{name}:"), line
        assert any(f": {verdict}: " in line for verdict in ("exact", "changed", "foreign")), line
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(out)
    assert main(["check", str(recipe)]) == 0
    pipe = augpipe.load(recipe)
    assert (pipe(photo(), index=0) == pipe(photo(), index=0)).all()


def test_the_recipe_goes_to_a_file(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.yaml"
    code, printed, _ = run(TORCHVISION, "-o", out)
    assert (code, printed) == (0, "")
    text = out.read_text()
    assert text.startswith(f"# augpipe explain {out}\n")
    assert "--force replaces it" in run.refused("timm.txt", "-o", out)
    assert out.read_text() == text
    assert run("samples/imports/timm.txt", "-o", out, "--force")[0] == 0
    assert "rand_augment" in out.read_text()
    assert "is a folder" in run.refused(TORCHVISION, "-o", tmp_path)


def test_a_folder_that_is_not_there(run: Run, tmp_path: Path) -> None:
    code, _, err = run(TORCHVISION, "-o", tmp_path / "none" / "out.yaml")
    assert code in (1, 2)
    assert "Traceback" not in err


def test_the_text_itself_and_standard_input(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, err = run("rand-m9-mstd0.5-inc1")
    assert code == 0
    assert "magnitude_std: 0.5" in out
    assert err.startswith("rand-m9-mstd0.5-inc1: changed: rand -> 2 x rand_augment: ")
    assert run("Compose(\n    RandomHorizontalFlip(p=0.3)\n)")[0] == 0
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"3a\n")))
    assert "solarize" in run("-")[1]


def test_what_was_dropped_is_in_the_exit_code(run: Run) -> None:
    code, out, err = run("Compose(Lambda() RandomHorizontalFlip(p=0.5))")
    assert code == 1
    assert "horizontal_flip" in out
    assert "Compose(Lambda() RandomHorizontalFlip(p=0.5)):1: dropped: Lambda" in err
    err = run("Compose(\n    Lambda()\n    RandomHorizontalFlip(p=0.5)\n)")[2]
    assert err.startswith("Compose(...:2: dropped: Lambda")


def test_a_recipe_that_would_do_nothing_is_not_written(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.yaml"
    code, printed, err = run("v0", "-o", out)
    assert (code, printed) == (1, "")
    assert err.splitlines()[-1] == f"nothing was carried over: {out} is not written"
    assert not out.exists()
    out.write_text("kept")
    assert run("v0", "-o", out, "--force")[0] == 1
    assert out.read_text() == "kept"
    code, printed, err = run("v0")
    assert (code, printed) == (1, "")
    assert err.endswith("nothing was carried over: there is no recipe\n")
    # What does nothing by itself is a recipe that does nothing.
    code, printed, _ = run("Compose(Identity())")
    assert code == 0
    assert "version: 1" in printed


def test_files_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    def file(name: str, data: bytes) -> Path:
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    assert "is empty" in run.refused(file("empty", b""))
    assert "is a pickle" in run.refused(file("pickle", pickle.dumps([1])))
    assert "is a pickle or an archive" in run.refused(file("model.pt", b"PK\3\4 and so on"))
    assert "is not text in UTF-8" in run.refused(file("binary", bytes(range(256))))
    assert "is not text in UTF-8" in run.refused(file("nul", b"Compose(\0)"))
    assert "is larger than 4 MB" in run.refused(file("large", b"x" * 5_000_000))
    assert "more than a million characters" in run.refused(file("long", b"x" * 1_500_000))
    assert "is nothing that is known here" in run.refused(file("words", b"hello"))
    assert "is a folder" in run.refused(tmp_path)
    assert "did you mean 'torchvision.txt'?" in run.refused("samples/imports/torchvison.txt")
    assert ":1:16: not valid JSON" in run.refused(file("cut.json", b'{"transform": {'))
    assert "this '(' is never closed" in run.refused(file("cut.txt", b"Compose(\n Pad("))
    assert "cannot be read" in run.refused("x" * 5000)
    assert run.refused("").startswith("the argument is empty; known: ")
    assert run.refused("  ").startswith("the argument is empty; known: ")
    assert "there is no file" in run.refused("x\0y")
