"""Expansion on real images: killed, resumed, with any number of workers, the same bytes."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torchvision
from PIL import Image

from augpipe.data.decode import decode
from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.expansion import expand, expanding, verify
from augpipe.pipeline import Pipeline
from augpipe.recipe import load

GARMENTS = Path(__file__).parents[2] / "samples" / "garments"
CLASSES = ("bag", "coat", "sandal")
RECIPE = """\
version: 1
seed: 7
sample:
  - random_resized_crop: {size: 28, scale: [0.6, 1.0]}
  - horizontal_flip: {p: 0.5}
  - rotate: {degrees: [-20, 20]}
  - color_jitter: {brightness: 0.4, contrast: 0.4, saturation: 0.4, hue: 0.1}
"""

DRIVER = """\
import json, os, resource, signal, sys
from augpipe.expansion import expand

arguments, moment, count = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
replace, calls = os.replace, 0

def counted(*args, **options):
    global calls
    calls += 1
    if (calls, moment) == (count, "before"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*args, **options)
    if (calls, moment) == (count, "after"):
        os.kill(os.getpid(), signal.SIGKILL)

os.replace = counted
if moment == "file size":
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, count))
expand(**arguments)
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for label in CLASSES:
        (tmp_path / "in" / label).mkdir(parents=True)
        for path in sorted((GARMENTS / label).iterdir())[:4]:
            shutil.copy(path, tmp_path / "in" / label)
    return tmp_path / "in"


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def tree(out: Path) -> dict[str, bytes]:
    files = (path for path in out.rglob("*") if path.is_file())
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in files}


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


def start(moment: str, count: int, **arguments: Any) -> subprocess.Popen[str]:
    arguments = {k: str(v) if isinstance(v, Path) else v for k, v in arguments.items()}
    command = [sys.executable, "-c", DRIVER, json.dumps(arguments), moment, str(count)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def wait_for_lines(process: subprocess.Popen[str], manifest: Path, count: int) -> None:
    deadline = time.monotonic() + 60
    while not manifest.exists() or manifest.read_bytes().count(b"\n") < count:
        assert process.poll() is None, "it ended before it could be interrupted"
        assert time.monotonic() < deadline


# What is written


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
    assert set(first["versions"]) == {"augpipe", "python", "numpy", "opencv", "pillow"}
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


# The same bytes


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


# What is refused


def test_another_job_is_never_mixed_in(source: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expand(recipe, source, out)
    whole = tree(out)
    with pytest.raises(UsageError, match=r"copies \(1, now 2\).*new folder"):
        expand(recipe, source, out, copies=2)
    with pytest.raises(UsageError, match=r"the recipe \(sample\[2\] .*-20.*20.*, now .*-9"):
        expand(recipe, source, out, overrides=["sample.2.rotate.degrees=[-9, 20]"])
    shutil.copy(source / "bag" / "bag_00.png", source / "bag" / "new.png")
    with pytest.raises(UsageError, match=r"the images \(12, now 13\)"):
        expand(recipe, source, out)
    assert tree(out) == whole


def test_other_versions_are_not_mixed_in(
    source: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    expand(recipe, source, out)
    monkeypatch.setattr("PIL.__version__", "1.0")
    assert expand(recipe, source, out).kept == 12
    (out / "bag" / "bag_01__0.png").unlink()
    with pytest.raises(UsageError, match=r"pillow .* is now 1\.0"):
        expand(recipe, source, out)


def test_a_folder_with_other_things_is_left_alone(
    source: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty, and not an expansion"):
        expand(recipe, source, out)
    assert tree(out) == {"thesis.txt": b"mine"}
    with pytest.raises(UsageError, match="is a file"):
        expand(recipe, source, out / "thesis.txt")


def test_input_and_output_stay_apart(source: Path, recipe: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    for out in (source, source / "bag", source / "new", tmp_path):
        with pytest.raises(UsageError, match="input"):
            expand(recipe, source, out)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "bag").symlink_to(source / "bag")
    with pytest.raises(UsageError, match="inside the input"):
        expand(recipe, linked, source / "bag" / "out")
    assert tree(tmp_path) == {**before, **{f"linked/{k}": v for k, v in tree(linked).items()}}


def test_a_link_out_of_the_output_is_not_followed(
    source: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    expand(recipe, source, out)
    shutil.rmtree(out / "bag")
    (out / "bag").symlink_to(source / "bag")
    before = tree(source)
    with pytest.raises(AugpipeError, match="leads out of the output folder"):
        expand(recipe, source, out)
    assert tree(source) == before


def test_a_batch_section_is_refused(source: Path, tmp_path: Path) -> None:
    mixed = load({"version": 1, "sample": ["horizontal_flip"], "batch": [{"rotate": [-5, 5]}]})
    with pytest.raises(UsageError, match="batch section has rotate"):
        expand(mixed, source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_ends_in_floats_is_left_out(source: Path, recipe: Path, tmp_path: Path) -> None:
    whole = load(
        {"version": 1, "sample": ["horizontal_flip"], "batch": [{"normalize": "imagenet"}]}
    )
    summary = expand(whole, source, tmp_path / "out")
    assert summary.left_out == ("normalize",)
    assert "normalize" in str(summary)
    assert verify(tmp_path / "out").exit_code == 0


# What goes wrong


def test_unreadable_images_are_skipped_and_listed(
    source: Path, recipe: Path, tmp_path: Path
) -> None:
    (source / "bag" / "empty.png").touch()
    (source / "coat" / "text.jpg").write_text("hello")
    (source / "coat" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    out = tmp_path / "out"
    summary = expand(recipe, source, out, copies=2, workers=2)
    assert (summary.written, summary.skipped, summary.exit_code) == (24, 3, 1)
    errors = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert [each["source"] for each in errors] == [
        "bag/empty.png",
        "coat/gone.jpg",
        "coat/text.jpg",
    ]
    assert errors[0]["reason"] == "empty file"
    assert "skipped 3 of 15" in str(summary)
    whole = tree(out)
    again = expand(recipe, source, out, copies=2)
    assert (again.written, again.kept, again.skipped, again.exit_code) == (0, 24, 3, 1)
    assert tree(out) == whole
    report = verify(out)
    assert (report.findings, report.skipped) == ((), 3)


def test_an_image_the_format_cannot_hold_is_skipped_whole(
    source: Path, recipe: Path, tmp_path: Path
) -> None:
    Image.new("RGBA", (20, 20)).save(source / "bag" / "clear.png")
    summary = expand(recipe, source, tmp_path / "out", format="jpeg", keep_originals=True)
    assert (summary.written, summary.skipped) == (24, 1)
    assert "clear" not in "".join(name for name in tree(tmp_path / "out") if "errors" not in name)


@pytest.mark.parametrize("workers", [0, 2])
def test_strict_stops_at_the_first(
    source: Path, recipe: Path, tmp_path: Path, workers: int
) -> None:
    (source / "coat" / "broken.png").write_bytes(b"nothing")
    out = tmp_path / "out"
    with pytest.raises(
        AugpipeError, match=r"coat/broken\.png: .*: 4 of 13 written and kept"
    ) as error:
        expand(recipe, source, out, strict=True, workers=workers)
    assert error.value.exit_code == 1
    assert len(rows(out)) == 4
    expand(recipe, source, out)
    expand(recipe, source, tmp_path / "whole")
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_disk_that_cannot_be_written(
    source: Path,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    code: int,
) -> None:
    out, replace, left = tmp_path / "out", os.replace, list(range(10))

    def full(*args: Any, **options: Any) -> None:
        if not left:
            raise OSError(code, os.strerror(code))
        left.pop()
        replace(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        words = re.escape(os.strerror(code).lower())
        with pytest.raises(
            AugpipeError, match=rf"{words}.* of 24 written and kept; run the same"
        ) as error:
            expand(recipe, source, out, copies=2, workers=workers)
    assert error.value.exit_code == 1
    assert "\n" not in str(error.value)
    assert not list(out.rglob(".augpipe-*"))
    expand(recipe, source, out, copies=2)
    expand(recipe, source, tmp_path / "whole", copies=2)
    assert tree(out) == tree(tmp_path / "whole")


def test_a_manifest_that_cannot_grow(source: Path, recipe: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"recipe": recipe, "source": source, "copies": 2}
    out = tmp_path / "out"
    process = start("file size", 4000, **arguments, out=out)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(
        r"manifest\.jsonl: cannot be written \(file too large\): \d of 24 written", said
    )
    torn = (out / "manifest.jsonl").read_bytes()
    assert len(torn) == 4000
    assert not torn.endswith(b"\n")
    expand(**arguments, out=out)
    expand(**arguments, out=tmp_path / "whole")
    assert tree(out) == tree(tmp_path / "whole")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(source: Path, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(AugpipeError, match="permission denied"):
        expand(recipe, source, tmp_path / "closed" / "out")
    with pytest.raises(AugpipeError, match="permission denied"):
        expand(recipe, source, tmp_path / "closed")


def test_an_interrupt_from_the_keyboard(source: Path, recipe: Path, tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"recipe": recipe, "source": source, "copies": 200, "workers": 2}
    out = tmp_path / "out"
    process = start("never", 0, **arguments, out=out)
    wait_for_lines(process, out / "manifest.jsonl", 1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=10)
    assert process.returncode == -signal.SIGINT
    assert re.search(r"KeyboardInterrupt\n\d+ of 2400 written and kept", said)
    assert not list(out.rglob(".augpipe-*"))
    done = len(rows(out))
    assert 0 < done < 2400
    assert expand(**arguments, out=out).kept == done
    expand(**arguments, out=tmp_path / "whole")
    assert tree(out) == tree(tmp_path / "whole")


def test_progress(
    source: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expanding, "INTERVAL", 0.0)
    (source / "coat" / "broken.png").touch()
    calls: list[tuple[int, int, int]] = []
    expand(recipe, source, tmp_path / "out", copies=2, progress=lambda *a: calls.append(a))
    assert calls[0] == (0, 26, 0)
    assert calls[-1] == (26, 26, 1)
    assert [each[0] for each in calls] == sorted(each[0] for each in calls)
    assert len(calls) == 15


def test_an_image_that_changed_between_runs(recipe: Path, tmp_path: Path) -> None:
    source = tmp_path / "in" / "cat" / "tom.ppm"
    source.parent.mkdir(parents=True)
    Image.new("RGB", (20, 20), "red").save(source)
    expand(recipe, tmp_path / "in", tmp_path / "out", copies=2)
    (tmp_path / "out" / "cat" / "tom__1.png").unlink()
    Image.new("RGB", (20, 20), "blue").save(source)  # as many bytes
    with pytest.raises(AugpipeError, match=r"tom\.ppm: changed since"):
        expand(recipe, tmp_path / "in", tmp_path / "out", copies=2)


def test_nothing_to_expand(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="no image"):
        expand(recipe, tmp_path / "in", tmp_path / "out")
    with pytest.raises(UsageError, match="no such file"):
        expand(recipe, tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Verification


@pytest.fixture
def expanded(source: Path, recipe: Path, tmp_path: Path) -> Path:
    expand(recipe, source, tmp_path / "out", copies=2, keep_originals=True)
    return tmp_path / "out"


def test_verify_finds_nothing_wrong(expanded: Path) -> None:
    before = tree(expanded)
    for workers in (0, 3):
        report = verify(expanded, workers=workers)
        assert (report.checked, report.findings, report.exit_code) == (36, (), 0)
        assert "all 36 images" in str(report)
    assert tree(expanded) == before


def test_verify_finds_what_was_done_to_the_outputs(expanded: Path) -> None:
    altered, missing = expanded / "bag" / "bag_01__1.png", expanded / "coat" / "coat_02__0.png"
    pixels = decode(altered)[:, :, 0]
    pixels[3, 4] ^= 64
    Image.fromarray(pixels).save(altered)
    missing.unlink()
    (expanded / "coat" / "new.png").write_bytes(b"x")
    report = verify(expanded, workers=2)
    assert [(each.kind, each.where) for each in report.findings] == [
        ("altered", "bag/bag_01__1.png"),
        ("missing", "coat/coat_02__0.png"),
        ("extra", "coat/new.png"),
    ]
    assert "by up to 64 grey levels" in report.findings[0].detail
    assert report.exit_code == 1
    assert "1 altered, 1 missing, 1 extra" in str(report)


def test_verify_finds_what_was_done_to_the_input(expanded: Path, source: Path) -> None:
    shutil.copy(source / "bag" / "bag_00.png", source / "coat" / "coat_00.png")
    (source / "coat" / "coat_01.png").unlink()
    report = verify(expanded)
    assert [(each.kind, each.where) for each in report.findings] == [
        ("source", "coat/coat_00.png"),
        ("source", "coat/coat_01.png"),
    ]
    assert "changed" in report.findings[0].detail
    assert "no such file" in report.findings[1].detail


def test_verify_where_the_input_was_moved(expanded: Path, source: Path) -> None:
    source.rename(source.parent / "elsewhere")
    with pytest.raises(UsageError, match="not there"):
        verify(expanded)
    assert verify(expanded, source.parent / "elsewhere").exit_code == 0


def test_verify_finds_what_was_done_to_the_manifest(expanded: Path) -> None:
    manifest = expanded / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    row = json.loads(lines[1])
    row["parameters"]["rotate#0"]["angle"] = 0.5
    lines[1] = json.dumps(row) + "\n"
    row = json.loads(lines[4])
    row["output"] = "../../secret.png"
    lines[4] = json.dumps(row) + "\n"
    lines[7] = "{}\n"
    lines[10] = lines[11]
    manifest.write_text("".join(lines))
    report = verify(expanded)
    where = sorted((each.kind, Path(each.where).name) for each in report.findings)
    assert where == [
        ("extra", "bag_01__0.png"),
        ("extra", "bag_02__0.png"),
        ("extra", "bag_03__0.png"),
        ("row", "bag_00__0.png"),
        ("row", "manifest.jsonl:12"),
        ("row", "manifest.jsonl:5"),
        ("row", "manifest.jsonl:8"),
        ("unfinished", "out"),
    ]


def test_verify_with_other_versions_says_how_far_apart_the_pixels_are(expanded: Path) -> None:
    manifest = expanded / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    row = json.loads(lines[1])
    path = expanded / row["output"]
    pixels = decode(path)[:, :, 0]
    pixels[5, 5] ^= 1
    Image.fromarray(pixels).save(path)
    row["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    row["versions"]["opencv"] = "4.9"
    lines[1] = json.dumps(row) + "\n"
    manifest.write_text("".join(lines))
    (finding,) = verify(expanded).findings
    assert finding.kind == "differs"
    assert "opencv 4.9 is now" in finding.detail
    assert "by up to 1 grey levels" in finding.detail


def test_verify_an_expansion_that_was_interrupted(expanded: Path) -> None:
    manifest = expanded / "manifest.jsonl"
    manifest.write_bytes(b"".join(manifest.read_bytes().splitlines(keepends=True)[:30]))
    report = verify(expanded)
    kinds = [each.kind for each in report.findings]
    assert kinds == ["extra"] * 6 + ["unfinished"]
    assert "6 images not made" in report.findings[-1].detail


def test_verify_refuses_what_is_no_expansion(tmp_path: Path, expanded: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        verify(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="not an expansion"):
        verify(tmp_path)
    job = expanded / "job.json"
    job.write_text(job.read_text().replace("-20", "-21"))
    with pytest.raises(UsageError, match="recipe in it was altered"):
        verify(expanded)
    job.write_text("{}")
    with pytest.raises(UsageError, match="job file"):
        verify(expanded)
