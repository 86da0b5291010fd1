"""Every command and every block of the README runs, in a folder like a fresh clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from augpipe.recipe import load
from tests.harness import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
SCALE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("a clone")
    for name in ("configs", "samples"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def run(command: list[str], folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def test_bash_blocks_run(clone: Path) -> None:
    (block,) = blocks("bash")
    for line in block.splitlines():
        run(["sh", "-c", line], clone)
    assert (clone / "runs" / "photos.png").stat().st_size > 10_000
    assert (clone / "runs" / "garments" / "manifest.jsonl").exists()


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_blocks_run(clone: Path, number: int) -> None:
    assert run([sys.executable, "-W", "error", "-c", blocks("python")[number]], clone)


def test_the_block_of_docs_scale_runs(clone: Path) -> None:
    (block,) = blocks("python", SCALE)
    assert run([sys.executable, "-W", "error", "-c", block], clone)


@pytest.mark.parametrize("shown", blocks("yaml"))
def test_a_recipe_shown_is_the_one_that_stands_in_configs(shown: str) -> None:
    """Each opens with its file's name and the command that runs it."""
    named = re.match(r"# (configs/\S+)\s+(augpipe .*)", shown)
    assert named
    stands = (ROOT / named[1]).read_text()
    assert yaml.safe_load(shown) == yaml.safe_load(stands)
    assert stands.startswith(f"# {named[2]}\n")


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"`?make ([a-z]+)`?", TEXT + (ROOT / "CONTRIBUTING.md").read_text()))
    named -= {"it", "a", "the"}
    assert named and all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_config_loads(path: Path) -> None:
    recipe = load(path)
    assert recipe.sample or recipe.regularize


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: p.stem)
def test_the_command_that_opens_a_config_runs(path: Path, clone: Path) -> None:
    run(["sh", "-c", path.read_text().splitlines()[0].removeprefix("# ")], clone)
