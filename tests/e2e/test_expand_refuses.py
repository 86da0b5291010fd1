"""Expansion that cannot start, cannot go on, or skips images."""

import errno
import hashlib
import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.expansion import expand, progress, verify
from augpipe.pipeline import Pipeline
from augpipe.recipe import load
from tests.e2e.expansion import rows, start, tree, wait_for_lines
from tests.harness import interrupt


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


def test_a_batch_section_of_ops_on_one_image_is_done(source: Path, tmp_path: Path) -> None:
    early = load({"version": 1, "sample": ["vertical_flip", "brightness"]})
    late = load({"version": 1, "sample": ["vertical_flip"], "batch": ["brightness"]})
    for recipe, out in ((early, tmp_path / "early"), (late, tmp_path / "late")):
        expand(recipe, source, out)
        assert verify(out).exit_code == 0
    made = [path for path in (tmp_path / "early").rglob("*.png")]
    assert made
    for path in made:
        other = tmp_path / "late" / path.relative_to(tmp_path / "early")
        assert other.read_bytes() == path.read_bytes()


def test_what_ends_in_floats_is_left_out(source: Path, recipe: Path, tmp_path: Path) -> None:
    whole = load(
        {"version": 1, "sample": ["horizontal_flip"], "batch": [{"normalize": "imagenet"}]}
    )
    summary = expand(whole, source, tmp_path / "out")
    assert summary.left_out == ("normalize",)
    assert "normalize" in str(summary)
    assert verify(tmp_path / "out").exit_code == 0


def test_unreadable_images_are_skipped_and_listed(
    source: Path, recipe: Path, tmp_path: Path
) -> None:
    (source / "bag" / "empty.png").touch()
    (source / "coat" / "text.jpg").write_text("hello")
    (source / "coat" / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (source / "coat" / "notes.txt").touch()
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
    assert "passed over 1 file that is not named as an image: coat/notes.txt" in str(summary)
    whole = tree(out)
    again = expand(recipe, source, out, copies=2)
    assert (again.written, again.kept, again.skipped, again.exit_code) == (0, 24, 3, 1)
    assert tree(out) == whole
    report = verify(out)
    assert (report.findings, report.skipped) == ((), 3)


def test_a_skipped_image_is_tried_again(source: Path, recipe: Path, tmp_path: Path) -> None:
    expand(recipe, source, tmp_path / "whole")
    path = source / "bag" / "bag_01.png"
    good = path.read_bytes()
    path.write_bytes(bytes(len(good)))
    assert expand(recipe, source, tmp_path / "out").skipped == 1
    path.write_bytes(good)
    summary = expand(recipe, source, tmp_path / "out")
    assert (summary.written, summary.kept, summary.skipped) == (1, 11, 0)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


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
    said = interrupt(process)
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
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
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


def test_where_no_image_can_be_used_nothing_is_said_to_be_done(
    recipe: Path, tmp_path: Path
) -> None:
    for count, words in ((1, "the one image could"), (3, "none of the 3 images could")):
        source = tmp_path / f"in{count}"
        source.mkdir()
        for number in range(count):
            (source / f"{number}.png").write_text("no image")
        said = str(expand(recipe, source, tmp_path / f"out{count}")).splitlines()
        assert said[0].startswith(f"nothing written: {words}")
        assert said[1].startswith(f"skipped {count} of {count}: ")
    assert "there is no image in" in str(verify(tmp_path / "out3"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("error", [ZeroDivisionError("no\nluck"), MemoryError(), KeyError()])
def test_an_image_that_breaks_the_pipeline_is_skipped(
    source: Path,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    workers: int,
) -> None:
    run = Pipeline.run

    def failing(self: Pipeline, samples: Any, indices: Any, *args: Any) -> Any:
        if 2 in indices:
            raise error
        return run(self, samples, indices, *args)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(Pipeline, "run", failing)
        summary = expand(recipe, source, out, workers=workers)
        assert (summary.written, summary.skipped) == (11, 1)
        (line,) = (out / "errors.jsonl").read_text().splitlines()
        words = {"ZeroDivisionError": "ZeroDivisionError: no", "KeyError": "KeyError: no message"}
        assert json.loads(line) == {
            "source": "bag/bag_02.png",
            "reason": words.get(type(error).__name__, "not enough memory"),
        }
        with pytest.raises(AugpipeError, match=r"bag_02\.png: .*\(without --strict it would"):
            expand(recipe, source, out, strict=True)
    expand(recipe, source, out)
    expand(recipe, source, tmp_path / "whole")
    assert tree(out) == tree(tmp_path / "whole")


def _with_recipe(text: str) -> dict[str, str]:
    return {"recipe": text, "recipe_sha256": hashlib.sha256(text.encode()).hexdigest()}


@pytest.mark.parametrize(
    "change",
    [
        {"images": -1},
        {"images": "many"},
        {"images": 10**30},
        {"source": 7},
        {"settings": []},
        {"settings": {"copies": -1}},
        {"settings": {"copies": 2**40}},
        {"settings": {"format": "gif"}},
        {"versions": {"a": {}}},
        {"new\nkey": 1},
        _with_recipe("- 1"),
        _with_recipe(""),
        _with_recipe("{"),
        _with_recipe("version: 1\nsample: [rotat, shea]"),
        _with_recipe("version: 1\nsample: &a [*a]"),
        _with_recipe("[" * 5000),
        _with_recipe("version: 1\nsample: " + "[" * 5000 + "]" * 5000),
    ],
)
def test_a_damaged_job_file_is_a_line(
    source: Path, recipe: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    out = tmp_path / "out"
    expand(recipe, source, out)
    job = out / "job.json"
    job.write_text(json.dumps({**json.loads(job.read_text()), **change}))
    for call in (lambda: verify(out), lambda: expand(recipe, source, out)):
        with pytest.raises(UsageError, match=re.escape(f"{job}: ")) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_job_file_that_is_nested_absurdly_or_a_pipe_is_a_line(
    source: Path, recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    expand(recipe, source, out)
    job = out / "job.json"
    job.write_text('{"a":' * 100_000)
    with pytest.raises(UsageError, match=r"job\.json: not a job file"):
        verify(out)
    job.unlink()
    os.mkfifo(job)
    for call in (lambda: verify(out), lambda: expand(recipe, source, out)):
        with pytest.raises(UsageError, match=r"job\.json: not a regular file"):
            call()


def test_a_manifest_that_is_a_pipe_is_a_line(source: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expand(recipe, source, out)
    (out / "manifest.jsonl").unlink()
    os.mkfifo(out / "manifest.jsonl")
    for call in (lambda: verify(out), lambda: expand(recipe, source, out)):
        with pytest.raises(UsageError, match=r"manifest\.jsonl: not a regular file"):
            call()
