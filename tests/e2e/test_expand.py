"""Expansion of real images: what is written, the same bytes killed or not, on any workers."""

import hashlib
import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image

from augpipe.data.decode import decode
from augpipe.errors import UsageError
from augpipe.expansion import expand, verify
from augpipe.pipeline import Pipeline
from augpipe.recipe import load
from tests.e2e.expansion import rows, start, tree, wait_for_lines


def test_the_outputs_are_what_the_pipeline_makes(
    source: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = expand(recipe, source, out, copies=2, workers=2)
    assert (summary.written, summary.kept, summary.skipped, summary.exit_code) == (24, 0, 0, 0)
    pipe = Pipeline(load(recipe))
    samples = torchvision.datasets.ImageFolder(source).samples
    assert len(samples) == 12
    for index, (name, _) in enumerate(samples):
        path = Path(name)
        image = decode(path)
        for copy in range(2):
            made = decode(out / path.parent.name / f"{path.stem}__{copy}.png")
            np.testing.assert_array_equal(made, pipe(image, index=index, epoch=copy))
    pixels = {path.read_bytes() for path in out.rglob("*.png")}
    assert len(pixels) == 24  # so that none of this holds because all are alike


def test_the_manifest(source: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expand(recipe, source, out, copies=2)
    found = rows(out)
    assert len(found) == 24
    first = found[1]
    assert first["output"] == "bag/bag_00__1.png"
    assert first["sha256"] == hashlib.sha256((out / first["output"]).read_bytes()).hexdigest()
    assert first["source"] == "bag/bag_00.png"
    assert (
        first["source_sha256"]
        == hashlib.sha256((source / first["source"]).read_bytes()).hexdigest()
    )
    assert (first["index"], first["copy"], first["epoch"], first["seed"]) == (0, 1, 1, 7)
    assert first["label"] == "bag"
    angles = [row["parameters"]["rotate#0"]["angle"] for row in found]
    assert len(set(angles)) == 24
    assert all(-20 <= each <= 20 for each in angles)
    assert set(first["versions"]) == {
        "augpipe",
        "python",
        "numpy",
        "opencv",
        "pillow",
        "simplejpeg",
    }
    assert [(row["index"], row["copy"]) for row in found] == [
        (i, k) for i in range(12) for k in (0, 1)
    ]
    assert str(tmp_path) not in (out / "manifest.jsonl").read_text()


def test_originals_are_kept_byte_for_byte(source: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    before = tree(source)
    summary = expand(recipe, source, out, copies=1, keep_originals=True)
    assert summary.written == 24
    after = tree(out)
    assert {name: data for name, data in after.items() if name in before} == before
    assert [row["copy"] for row in rows(out)] == [None, 0] * 12
    assert tree(source) == before
    assert verify(out).exit_code == 0


def test_a_source_is_read_once(
    source: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, real = [], Path.open

    def noted(self: Path, *args: Any, **options: Any) -> Any:
        opened.append(self)
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "open", noted)
    expand(recipe, source, tmp_path / "out", keep_originals=True)
    read = [path for path in opened if path.is_relative_to(source)]
    assert sorted(read) == sorted(source.glob("*/*")), "the hash is of the bytes that were decoded"


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_other_formats(source: Path, recipe: Path, tmp_path: Path, form: Any) -> None:
    out = tmp_path / "out"
    expand(recipe, source, out, format=form, quality=80)
    with Image.open(out / rows(out)[0]["output"]) as image:
        assert image.format == form.upper()
    assert verify(out).findings == ()


def test_names_that_clash(source: Path, recipe: Path, tmp_path: Path) -> None:
    with Image.open(source / "bag" / "bag_00.png") as image:
        image.save(source / "bag" / "bag_00.jpg")
    expand(recipe, source, tmp_path / "out", keep_originals=True)
    names = {row["output"] for row in rows(tmp_path / "out") if "bag_00" in row["output"]}
    assert names == {
        "bag/bag_00.jpg",
        "bag/bag_00.png",
        "bag/bag_00__i0__0.png",
        "bag/bag_00__i1__0.png",
    }


def test_split(source: Path, recipe: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    shutil.copytree(source, root / "test")
    with pytest.raises(UsageError, match="--split test"):
        expand(recipe, root, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    source.rename(root / "train")
    expand(recipe, root, tmp_path / "out")
    assert all(row["output"].startswith("train/") for row in rows(tmp_path / "out"))
    assert verify(tmp_path / "out").exit_code == 0


def test_a_single_file(source: Path, recipe: Path, tmp_path: Path) -> None:
    expand(recipe, source / "bag" / "bag_00.png", tmp_path / "out", copies=2)
    assert sorted(tree(tmp_path / "out")) == [
        "bag_00__0.png",
        "bag_00__1.png",
        "job.json",
        "manifest.jsonl",
    ]
    assert verify(tmp_path / "out").exit_code == 0


def test_many_copies_are_those_of_few(source: Path, recipe: Path, tmp_path: Path) -> None:
    one = source / "bag" / "bag_00.png"
    expand(recipe, one, tmp_path / "few", copies=3)
    expand(recipe, one, tmp_path / "many", copies=80)
    few, many = rows(tmp_path / "few"), rows(tmp_path / "many")
    assert many[:3] == few
    assert len({row["sha256"] for row in many}) > 70


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_change_nothing(source: Path, recipe: Path, tmp_path: Path, workers: int) -> None:
    (source / "coat" / "broken.png").write_bytes(b"nothing")
    for name, count in (("alone", 0), ("together", workers)):
        expand(recipe, source, tmp_path / name, copies=3, workers=count, keep_originals=True)
    assert tree(tmp_path / "alone") == tree(tmp_path / "together")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("moment", "count"),
    [("before", 1), ("after", 1), ("before", 2), ("after", 8), ("before", 25), ("after", 49)],
)
def test_killed_and_resumed(
    source: Path, recipe: Path, tmp_path: Path, moment: str, count: int, workers: int
) -> None:
    (source / "coat" / "broken.png").write_bytes(b"nothing")
    arguments: dict[str, Any] = {
        "recipe": recipe,
        "source": source,
        "copies": 3,
        "keep_originals": True,
    }
    expand(**arguments, out=tmp_path / "whole")
    out = tmp_path / "out"
    process = start(moment, count, **arguments, out=out, workers=workers)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert tree(out) != tree(tmp_path / "whole")
    summary = expand(**arguments, out=out, workers=2 - workers)
    assert summary.written + summary.kept == 48
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize("lines", [1, 20, 100])
def test_killed_at_no_particular_moment(
    source: Path, recipe: Path, tmp_path: Path, lines: int
) -> None:
    arguments: dict[str, Any] = {"recipe": recipe, "source": source, "copies": 60, "workers": 2}
    out = tmp_path / "out"
    for more in (lines, lines + 60):  # killed twice
        process = start("never", 0, **arguments, out=out)
        wait_for_lines(process, out / "manifest.jsonl", more)
        process.kill()
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
    summary = expand(**arguments, out=out)
    assert summary.kept >= lines
    expand(**arguments, out=tmp_path / "whole")
    assert tree(out) == tree(tmp_path / "whole")


def test_a_torn_manifest_line(source: Path, recipe: Path, tmp_path: Path) -> None:
    expand(recipe, source, tmp_path / "out", copies=2)
    whole = tree(tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.jsonl"
    for cut in (10, 900, 5000, len(whole["manifest.jsonl"]) - 1):
        manifest.write_bytes(whole["manifest.jsonl"][:-cut])
        expand(recipe, source, tmp_path / "out", copies=2)
        assert tree(tmp_path / "out") == whole


def test_a_finished_job_is_left_alone(source: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expand(recipe, source, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    summary = expand(recipe, source, out)
    assert (summary.written, summary.kept) == (0, 12)
    assert "all 12 images are done already" in str(summary)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_outputs_that_were_lost_come_back(source: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expand(recipe, source, out, copies=2)
    whole = tree(out)
    (out / "bag" / "bag_01__0.png").unlink()
    (out / "coat" / "coat_00__1.png").write_bytes(b"short")
    assert expand(recipe, source, out, copies=2).written == 4
    assert tree(out) == whole


@pytest.mark.parametrize(
    "change",
    [
        {"source": "bag/bag_01.png"},
        {"label": "coat"},
        {"seed": 8},
        {"epoch": 1},
        {"index": 1},
        {"source_sha256": ""},
    ],
)
def test_rows_that_say_another_thing_are_not_trusted(
    source: Path, recipe: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    expand(recipe, source, out)
    whole = tree(out)
    lines = whole["manifest.jsonl"].decode().splitlines(keepends=True)
    lines[0] = json.dumps({**json.loads(lines[0]), **change}) + "\n"
    (out / "manifest.jsonl").write_text("".join(lines))
    summary = expand(recipe, source, out)
    assert summary.written == 1
    assert tree(out) == whole


def test_the_summary_counts_in_words(source: Path, recipe: Path, tmp_path: Path) -> None:
    one, out = source / "bag" / "bag_00.png", tmp_path / "out"
    assert str(expand(recipe, one, out)) == f"wrote 1 image from 1 to {out}"
    assert str(expand(recipe, one, out)) == f"the one image is done already in {out}"
    assert str(verify(out)) == f"the one image in {out} is as the recipe makes it"
    for name in ("a.txt", "b\x1b[2J.txt", "c.txt", "d.txt"):
        (source / "bag" / name).touch()
    (source / "bag" / "e.png").touch()
    said = str(expand(recipe, source, tmp_path / "all"))
    words = r"passed over 4 files that are not named as images: "
    assert words + r"bag/a.txt, bag/b\x1b[2J.txt, bag/c.txt, ..." in said
    assert str(verify(tmp_path / "all")).endswith("; 1 image was skipped")


def test_large_photos_are_decoded_no_finer_than_needed_only_when_asked(tmp_path: Path) -> None:
    recipe = load({"version": 1, "sample": [{"resize": [48, 64]}]})
    photo = Path("samples/photos/china.jpg")
    (tmp_path / "in").mkdir()
    shutil.copy(photo, tmp_path / "in" / "china.jpg")
    made = {}
    for scaled in (False, True):
        out = tmp_path / f"out{scaled}"
        assert expand(recipe, tmp_path / "in", out, scaled_decoding=scaled).written == 1
        assert verify(out).exit_code == 0
        made[scaled] = decode(out / rows(out)[0]["output"]).astype(float)
    [plain] = Pipeline(recipe).apply([decode(photo)], [0], 0)
    assert (made[False] == plain).all()
    assert 0 < abs(made[True] - plain).mean() < 2  # libjpeg's smaller inverse DCT; see test_jpeg
