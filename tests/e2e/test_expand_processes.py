"""Expansion in processes of its own: whatever becomes of one, the result is what it would be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from augpipe.data.children import forks
from augpipe.errors import AugpipeError
from augpipe.expansion import expand, expanding, job_of, verify
from tests.e2e import clusters
from tests.e2e.expansion import start, tree, wait_for_lines
from tests.harness import SAMPLES

pytestmark = pytest.mark.skipif(not forks(), reason="processes are not forked here")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for label in ("bag", "coat"):
        (tmp_path / "in" / label).mkdir(parents=True)
        for path in sorted((SAMPLES / "garments" / label).iterdir()):
            for k in range(5):
                shutil.copy(path, tmp_path / "in" / label / f"{path.stem}_{k}.png")
    (tmp_path / "in" / "coat" / "broken.png").write_bytes(b"nothing")
    return tmp_path / "in"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text("version: 1\nsample:\n  - rotate: [-9, 9]\n  - gaussian_noise: [4, 4]\n")
    return path


def test_a_process_that_dies_changes_nothing(
    source: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(*given: Any) -> clusters.TaskKills:
        return clusters.TaskKills(*given, index=3, times=1, mark=str(tmp_path / "died"))

    whole = expand(recipe, source, tmp_path / "whole", copies=2)
    monkeypatch.setattr(expanding, "Making", deadly)
    done = expand(recipe, source, tmp_path / "out", copies=2, workers=2)
    assert (tmp_path / "died0").exists()
    assert (done.written, done.skipped) == (whole.written, 1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_a_file_that_ends_its_process_is_listed(
    source: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(*given: Any) -> clusters.TaskKills:
        return clusters.TaskKills(*given, index=3)

    whole = expand(recipe, source, tmp_path / "whole")
    monkeypatch.setattr(expanding, "Making", deadly)
    done = expand(recipe, source, tmp_path / "out", workers=2)
    assert (done.written, done.skipped) == (whole.written - 1, 2)
    errors = [json.loads(line) for line in (tmp_path / "out/errors.jsonl").read_text().splitlines()]
    lost = next(each for each in errors if not each["source"].endswith("broken.png"))
    assert lost["reason"] == "the process that works on it dies (SIGKILL)"
    name = lost["source"].removesuffix(".png") + "__0.png"
    assert not (tmp_path / "out" / name).exists()
    monkeypatch.undo()
    again = expand(recipe, source, tmp_path / "out", workers=2)
    assert (again.written, again.kept, again.skipped) == (1, whole.written - 1, 1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


def test_verify_in_processes_says_the_same_in_the_same_order(
    source: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    expand(recipe, source, out, copies=2, keep_originals=True, workers=2)
    made = sorted(out.glob("*/*__1.png"))
    for path in made[::4]:
        path.write_bytes(made[1].read_bytes())
    made[2].unlink()
    (source / "bag" / "bag_01_2.png").write_bytes(b"another")
    alone = verify(out)
    assert len(alone.findings) > len(made) // 4
    assert {each.kind for each in alone.findings} == {"altered", "missing", "source"}
    assert verify(out, workers=2) == alone
    assert [each.where for each in alone.findings if each.kind == "altered"] == [
        each.relative_to(out).as_posix() for each in made[::4]
    ]


def test_many_copies_of_one_image_are_many_tasks(recipe: Path, tmp_path: Path) -> None:
    """Done by several processes, and kept as they are done."""
    source = SAMPLES / "garments" / "bag" / "bag_01.png"
    what: dict[str, Any] = {"copies": 300, "keep_originals": True}
    expand(recipe, source, tmp_path / "whole", **what)
    process = start(
        "never", 0, recipe=recipe, source=source, out=tmp_path / "out", workers=2, **what
    )
    wait_for_lines(process, tmp_path / "out" / "manifest.jsonl", 64)
    process.kill()
    process.communicate(timeout=60)
    job = job_of(recipe, source, **what)
    assert [len(job.outputs(task)) for task in job.tasks()] == [64, 64, 64, 64, 45]
    done = expand(recipe, source, tmp_path / "out", workers=2, **what)
    assert done.kept >= 64 and done.written + done.kept == 301
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    assert verify(tmp_path / "out", workers=2).checked == 301


def test_an_image_that_changes_between_its_copies_is_told(recipe: Path, tmp_path: Path) -> None:
    Image.new("RGB", (20, 30), "teal").save(tmp_path / "a.bmp")
    out = tmp_path / "out"
    expand(recipe, tmp_path / "a.bmp", out, copies=100)
    lines = (out / "manifest.jsonl").read_text().splitlines(keepends=True)
    (out / "manifest.jsonl").write_text("".join(lines[:64]))  # the first task's alone
    (tmp_path / "a.bmp").write_bytes((tmp_path / "a.bmp").read_bytes()[:-1] + b"x")
    with pytest.raises(AugpipeError, match="changed since some of its copies were made"):
        expand(recipe, tmp_path / "a.bmp", out, copies=100)
