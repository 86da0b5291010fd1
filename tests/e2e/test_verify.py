"""Verification finds what was done to an expansion."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from augpipe.data.decode import decode
from augpipe.errors import UsageError
from augpipe.expansion import expand, verify
from tests.e2e.expansion import tree


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
    summary = str(report).splitlines()[-1]
    assert summary == (
        "checked 36 images: 1 was altered, 1 is missing and 1 file is in no row of the manifest"
    )


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
    with pytest.raises(UsageError, match="--source DIR"):
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
    assert "by up to 1 grey level" in finding.detail


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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"index": -1}, "not a row"),
        ({"index": 2**63}, "not a row"),
        ({"index": 12}, "the job does not have"),
        ({"copy": -1}, "not a row"),
        ({"copy": 2**32}, "not a row"),
        ({"copy": 2}, "the job does not have"),
        ({"epoch": 2**32}, "not a row"),
        ({"bytes": -1}, "not a row"),
        ({"output": "x" * 5000}, "not there|file name too long"),
        ({"output": "x\0.png"}, "not there"),
        ({"source": "x" * 5000}, "too long"),
        ({"source": "x\0.png"}, "corrupt|cannot be read"),
        ({"parameters": "deep"}, "not a row"),
    ],
)
def test_hostile_rows_are_findings(expanded: Path, change: dict[str, Any], words: str) -> None:
    manifest = expanded / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    lines[1] = json.dumps({**json.loads(lines[1]), **change}) + "\n"
    lines[1] = lines[1].replace('"deep"', '{"a":' * 5000 + "1" + "}" * 5000)
    manifest.write_text("".join(lines))
    report = verify(expanded)
    assert any(re.search(words, each.detail) for each in report.findings), report.findings
    assert len(str(report).splitlines()) == len(report.findings) + 1


def test_errors_that_are_a_pipe_or_too_many(expanded: Path) -> None:
    errors = expanded / "errors.jsonl"
    errors.write_text("{}\n" * 3)
    (finding,) = verify(expanded).findings
    assert finding.detail == "with the manifest, 9 more than there are images to make"
    errors.unlink()
    os.mkfifo(errors)
    verify(expanded)


def test_a_finding_moves_no_cursor(expanded: Path) -> None:
    (expanded / "a\n\x1b[2Jb.png").touch()
    report = verify(expanded)
    assert str(report).splitlines()[0].startswith(r"a\n\x1b[2Jb.png: no row")


def test_a_source_that_no_file_can_have(expanded: Path) -> None:
    job = expanded / "job.json"
    for source in ("/" + "x" * 5000, "/x\0y"):
        job.write_text(json.dumps({**json.loads(job.read_text()), "source": source}))
        with pytest.raises(UsageError, match="--source DIR"):
            verify(expanded)
