"""The command line, as a newcomer meets it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from augpipe.cli.main import main, tell
from tests.harness import interrupt

ROOT = Path(__file__).resolve().parents[2]
QUICK = "configs/quickstart.yaml"
GARMENTS = "samples/garments"
COMMANDS = (
    "check",
    "explain",
    "preview",
    "expand",
    "convert",
    "verify",
    "ops",
    "import",
    "schema",
    "bench",
)


@pytest.fixture(autouse=True)
def _at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


class Run:
    """Runs the command line in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *args: object) -> tuple[int, str, str]:
        code = main([str(arg) for arg in args])
        out, err = self.capsys.readouterr()
        return code, out, err

    def refused(self, *args: object, code: int = 2) -> str:
        """Runs what must fail; returns its one line."""
        got, out, err = self(*args)
        assert (got, out) == (code, ""), (out, err)
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        return err


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return Run(capsys)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for k in range(3):
        Image.new("RGB", (12, 10), (40 * k, 90, 200)).save(folder / f"{k}.png")
    return folder


# ---------------------------------------------------------------- help


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, time\nstart = time.perf_counter()\nfrom augpipe.cli.main import main\n"
        "code = main(['--help'])\nprint(f'{time.perf_counter() - start:.3f} s')\n"
        "heavy = {'torch', 'cv2', 'numpy', 'pydantic', 'PIL', 'yaml', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    print("augpipe --help:", done.stdout.splitlines()[-1])
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_helps_with_an_example_that_runs(
    run: Run, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = run(command, "-h")
    assert code == 0
    lines = out.splitlines()
    example = lines[lines.index("  Example:") + 1].split()
    assert example[:2] == ["augpipe", command]
    if command in ("expand", "verify", "bench", "schema"):
        return  # they write, or take long: run below
    for name in ("configs", "samples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    assert run(*example[1:])[0] == 0


def test_version_and_no_command(run: Run) -> None:
    assert run("--version") == (0, "augpipe 0.1.0\n", "")
    assert "Commands:" in "".join(run()[1:])


@pytest.mark.parametrize(
    "args", [["chek"], ["check"], ["check", QUICK, "--nonesuch"], ["expand", QUICK, GARMENTS]]
)
def test_wrong_usage_exits_2(run: Run, args: list[str]) -> None:
    code, _, err = run(*args)
    assert code == 2
    assert "Traceback" not in err


# ---------------------------------------------------------------- recipes


def test_check_says_fine_in_a_line(run: Run) -> None:
    code, out, err = run("check", QUICK, "configs/photos.yaml")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"{QUICK}: fine: 7 ops in 5 passes"
    assert len(out.splitlines()) == 2
    code, out, _ = run("check", "configs/quickstart-train.yaml")
    assert code == 0
    assert out.rstrip().endswith("; 5 regularizers on wrn_10_1")


def test_check_puts_regularizers_on_the_network(run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    text = "version: 1\nregularize:\n  - dropout: {{on: layer9, p: 0.1}}\ntrain: {{model: {}}}\n"
    recipe.write_text(text.format("wrn_10_1"))
    code, out, err = run("check", str(recipe))
    assert (code, out) == (2, "")
    assert err.startswith(f"{recipe}:3:5: regularize[0]: dropout: on: 'layer9' matches no module")
    recipe.write_text(text.format("torchvision.resnet19"))
    code, out, err = run("check", str(recipe))
    assert (code, out) == (2, "")
    assert err.startswith(f"{recipe}: train.model: torchvision has no classifier 'resnet19'")


def test_check_reports_every_problem_with_its_place(run: Run, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text("version: 1\nsample:\n  - rotat\n  - rotate: {degrees: 5}\n")
    code, out, err = run("check", bad, QUICK)
    assert code == 2
    assert "fine" in out
    first, second = err.splitlines()
    assert first.startswith(f"{bad}:3:5: sample[0]: there is no op 'rotat' (did you mean 'rotate'")
    assert second.startswith(f"{bad}:4:")


def test_set_overrides(run: Run) -> None:
    code, out, _ = run("explain", QUICK, "--set", "fuse=false", "--set", "sample.2.rotate.p=0.3")
    assert code == 0
    assert "fuse: false" in out
    assert "p 0.3" in out
    assert "has the items 0 to" in run.refused("check", QUICK, "--set", "sample.99=rotate")


def test_explain_follows_a_size(run: Run) -> None:
    code, out, _ = run("explain", "configs/imagenet.yaml", "--size", 375, 500)
    assert code == 0
    assert "from 375 × 500" in out
    assert "224 × 224" in out


@pytest.mark.parametrize("size", [(0, 5), (5, 65536), (-1, 5)])
def test_explain_refuses_a_size_that_no_image_has(run: Run, size: tuple[int, int]) -> None:
    assert "from 1 to 65535" in run.refused("explain", QUICK, "--size", *size)


def test_ops_lists_and_describes(run: Run) -> None:
    assert "random_resized_crop" in run("ops")[1]
    assert "degrees: [-15, 15]" in run("ops", "rotate")[1]
    assert "did you mean 'rotate'" in run.refused("ops", "rotat")


def test_schema_is_json(run: Run) -> None:
    assert json.loads(run("schema")[1])["title"] == "augpipe recipe"


# ---------------------------------------------------------------- preview, bench


@pytest.mark.parametrize("name", ["a.png", "a.html"])
def test_preview_writes_a_file_and_says_where(run: Run, tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    args = ("preview", QUICK, GARMENTS, "-o", out, "--samples", 1, "--variants", 2, "--epoch", 3)
    assert run(*args) == (0, f"{out}: 1 image of 240, 2 variants each\n", "")
    assert run(*args, "--variants", 1)[1].endswith(", 1 variant each\n")
    assert out.stat().st_size > 1000


def test_preview_draws_annotations(run: Run, tmp_path: Path) -> None:
    args = ("--annotations", "samples/annotations/photos.json", "--masks", "samples/masks")
    recipe, out = "configs/photos.yaml", tmp_path / "a.html"
    assert run("preview", recipe, "samples/photos", "-o", out, "--samples", 2, *args)[0] == 0
    assert "<li>" in out.read_text()


def test_preview_takes_a_dataset_of_any_format(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "in" / "a.png")
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [5, 5, 9, 9]}
    image, name = {"id": 1, "file_name": "a.png"}, {"id": 1, "name": "door"}
    text = json.dumps({"images": [image], "annotations": [box], "categories": [name]})
    (tmp_path / "in" / "a.json").write_text(text)
    (tmp_path / "in" / "a.xml").write_text("<annotation><filename>a.png</filename></annotation>")
    out = tmp_path / "a.html"
    args = ("preview", "configs/photos.yaml", tmp_path / "in", "-o", out, "--variants", 1)
    assert "may be read as coco and voc" in run.refused(*args)
    assert run(*args, "--from", "coco") == (0, f"{out}: 1 image of 1, 1 variant each\n", "")
    assert "</i>door</li>" in out.read_text()
    assert "no split 'val'" in run.refused(*args, "--from", "coco", "--split", "val")


def test_preview_says_what_it_does_not_show(run: Run, tmp_path: Path) -> None:
    args = ("-o", tmp_path / "a.png", "--variants", 1)
    mixed = ("preview", "configs/garments_mixed.yaml", GARMENTS, *args)
    assert run(*mixed)[1].endswith(": 3 images of 240, 1 variant each\n")
    line = "Not shown: mixup, cutmix, fmix: one image alone has no partner to be mixed with.\n"
    assert run(*mixed, "--samples", 1)[1].endswith(line)
    code, out, err = run("preview", "configs/detection_batch.yaml", "samples/photos", *args)
    assert code == 1
    assert out.splitlines()[1].startswith("Not shown: the batch section (copy_paste, mosaic, ")
    assert err.startswith("left out the batch section: copy_paste#0: ")


def test_preview_refuses_before_any_work(run: Run, tmp_path: Path) -> None:
    def refused(out: Path | str) -> str:
        return run.refused("preview", QUICK, GARMENTS, "-o", out)

    assert "must end in .png or .html" in refused(tmp_path / "a.gif")
    assert "must end in .png or .html" in refused(tmp_path / "a")
    (tmp_path / "file").touch()
    assert "cannot make the folder" in refused(tmp_path / "file" / "a.png")
    (tmp_path / "b.png").mkdir()
    assert "is a folder" in refused(tmp_path / "b.png")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_preview_without_permission(run: Run, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    line = run.refused("preview", QUICK, GARMENTS, "-o", tmp_path / "a.png", code=1)
    assert "permission denied" in line


@pytest.mark.parametrize(
    "option",
    [
        ("--epoch", -1),
        ("--epoch", 2**32),
        ("--epoch", 2**32 - 1),
        ("--samples", 0),
        ("--samples", 101),
        ("--variants", 0),
        ("--variants", 101),
    ],
)
def test_preview_numbers_out_of_range(run: Run, tmp_path: Path, option: tuple[str, int]) -> None:
    code, _, err = run("preview", QUICK, GARMENTS, "-o", tmp_path / "a.png", *option)
    assert code == 2
    assert option[0].strip("-") in err.splitlines()[-1]
    assert "Traceback" not in err


def test_bench_leaves_out_what_it_cannot_use(run: Run, images: Path) -> None:
    (images / "bad.png").touch()
    code, out, err = run("bench", QUICK, images, "--seconds", 0.1, "--workers", 0)
    assert (code, err) == (1, f"left out {images}/bad.png: empty file\n")
    assert "3 images of 120 pixels" in out


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    ("recipe", "path", "images"),
    [(QUICK, GARMENTS, 8), ("configs/imagenet.yaml", "samples/photos", 8)],
)
def test_bench_measures_and_advises(
    run: Run, recipe: str, path: str, images: int, workers: int
) -> None:
    """Grey photos count as RGB: a recipe that takes three channels leaves none out."""
    code, out, err = run("bench", recipe, path, "--seconds", 0.1, "--workers", workers)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert "core" in lines[0]
    assert "opencv-python-headless" in lines[1]
    used = re.match(r"(\d+) images of [\d,]+ pixels on average, \d+ rounds$", lines[2])
    assert used and int(used[1]) >= images
    rows = [line.split("  ")[1] for line in lines if re.search(r" ms +\d+%$", line)]
    assert rows[:2] == ["decode", "draw and compose"]
    assert rows[2].startswith("1 warp: random_resized_crop#0, horizontal_flip#0")
    assert rows[-2:] == ["make a batch", "all in all"]
    one = next(i for i, line in enumerate(lines) if line.endswith("images/s in one thread"))
    how = "0 workers" if not workers else r"2 workers \((processes|threads)\)"
    wait = rf"with {how}: a wait of [\d.]+ ms an image, [\d,]+ images/s, in batches of \d+$"
    assert re.match(wait, lines[one + 1])
    advice = out[out.index("\n\n- ") + 2 :]
    assert re.match(r"- .* takes +\d+\s% of the time: ", " ".join(advice.split()))
    assert "`batch:`" in advice
    assert max(map(len, advice.splitlines())) <= 100


def test_bench_measures_the_batch_section_or_says_why_not(run: Run) -> None:
    args = ("samples/photos", "--seconds", 0.1, "--workers", 0)
    code, out, _ = run("bench", "configs/imagenet_batch.yaml", *args)
    assert code == 0
    assert " mix: mixup_or_cutmix#0 " in out
    assert "with 0 workers: " in out  # a folder without classes, which mixing would refuse
    code, out, _ = run("bench", "configs/detection_batch.yaml", *args)
    assert code == 0
    assert "\nnot measured: the batch section (copy_paste, mosaic, " in out
    assert "\nnot loaded: " in out


# ---------------------------------------------------------------- bad input, any command


@pytest.mark.parametrize("command", ["check", "explain", "preview", "expand", "bench"])
@pytest.mark.parametrize(
    ("recipe", "words"),
    [("configs/none.yaml", "there is no recipe"), ("configs", "is a folder")],
)
def test_a_recipe_that_is_not_there(
    run: Run, tmp_path: Path, command: str, recipe: str, words: str
) -> None:
    rest = {
        "preview": [GARMENTS, "-o", tmp_path / "a.png"],
        "expand": [GARMENTS, tmp_path / "o"],
        "bench": [GARMENTS],
    }
    assert words in run.refused(command, recipe, *rest.get(command, []))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["preview", "expand", "bench"])
def test_images_that_are_not_there(run: Run, tmp_path: Path, command: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    rest = {"preview": ["-o", tmp_path / "a.png"], "expand": [tmp_path / "o"], "bench": []}
    line = run.refused(command, QUICK, tmp_path / "none", *rest[command])
    assert "none: no such file or folder" in line
    assert "no image in it" in run.refused(command, QUICK, empty, *rest[command], code=1)


def test_a_broken_image_is_a_line(run: Run, tmp_path: Path) -> None:
    broken = tmp_path / "a.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n")
    line = run.refused("preview", QUICK, broken, "-o", tmp_path / "o.png", code=1)
    assert line.startswith(f"{broken}: ")


# ---------------------------------------------------------------- expand, verify


def test_expand_and_verify(run: Run, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, text, err = run("expand", QUICK, images, out, "--copies", 2, "--workers", 0)
    assert (code, err) == (0, "")  # no progress bar: not a terminal
    assert text.splitlines()[-1] == f"next: augpipe verify {out}"
    assert len(list(out.rglob("*.png"))) == 6
    assert run("verify", out)[0] == 0
    next(out.rglob("*.png")).unlink()
    assert run("verify", out)[0] == 1


def test_expand_makes_batches_where_ops_need_them(run: Run, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = ("expand", "configs/garments_mixed.yaml", images, out, "--batch-size", 3)
    code, text, _ = run(*args)
    assert code == 0 and "left out normalize" in text
    assert run("verify", out)[0] == 0
    assert run(*args[:-1], 2)[0] == 2


def test_expand_skips_what_it_cannot_read_and_exits_1(
    run: Run, images: Path, tmp_path: Path
) -> None:
    (images / "bad.png").write_bytes(b"")
    code, text, _ = run("expand", QUICK, images, tmp_path / "out")
    assert code == 1
    assert "errors.jsonl" in text


def test_expand_refuses_strict_and_odd_values(run: Run, images: Path, tmp_path: Path) -> None:
    (images / "bad.png").write_bytes(b"")
    line = run.refused("expand", QUICK, images, tmp_path / "out", "--strict", code=1)
    assert "bad.png" in line
    assert run("expand", QUICK, images, tmp_path / "o", "--format", "gif")[0] == 2
    assert run("expand", QUICK, images, tmp_path / "o", "--copies", "0")[0] == 2
    assert "no such folder" in run.refused("verify", tmp_path / "none")


def test_expand_of_nothing_readable_has_no_next_step(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "in" / name).touch()
    code, text, _ = run("expand", QUICK, tmp_path / "in", tmp_path / "out")
    assert code == 1
    assert text.startswith("nothing written: none of the 2 images could be used\n")
    assert "next:" not in text


def test_a_recipe_and_a_folder_in_each_others_place(run: Run, images: Path, tmp_path: Path) -> None:
    line = run.refused("expand", images, QUICK, tmp_path / "out")
    assert line == f"{images} is a folder and {QUICK} a recipe: the order is RECIPE IN OUT\n"
    out = ("-o", tmp_path / "a.png")
    assert "order is RECIPE PATH" in run.refused("preview", images, QUICK, *out)
    assert "order is RECIPE PATH" in run.refused("bench", images, QUICK)


def test_control_characters_in_names_are_escaped(run: Run, images: Path, tmp_path: Path) -> None:
    (images / "1\n\x1b[2J.png").touch()
    line = run.refused("expand", QUICK, images, tmp_path / "out", "--strict", code=1)
    assert r"1\n\x1b[2J.png: empty file" in line
    bad = images / "a\nb.yaml"
    assert r"a\nb.yaml" in run.refused("check", bad)
    _, _, err = run("preview", QUICK, images, "-o", tmp_path / "a.png", "--samples", 3)
    assert err == f"left out {images}/1\\n\\x1b[2J.png: empty file\n"


# ---------------------------------------------------------------- what must never show a traceback


def test_an_internal_error_is_a_line_and_debug_shows_the_rest(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object) -> None:
        raise ZeroDivisionError("no luck\nat all")

    monkeypatch.setattr("augpipe.report.catalogue.list_ops", broken)
    line = run.refused("ops", code=1)
    assert line == "internal error: ZeroDivisionError: no luck (--debug shows where)\n"
    code, _, err = run("ops", "--debug")
    assert code == 1
    assert "Traceback" in err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyboardInterrupt(), "stopped\n"),
        (OSError(28, "No space left on device", "x.png"), "x.png: no space left on device\n"),
        (MemoryError(), "not enough memory\n"),
    ],
)
def test_what_the_world_does_is_a_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, words: str
) -> None:
    def broken(*args: object) -> None:
        raise error

    monkeypatch.setattr("augpipe.report.catalogue.list_ops", broken)
    assert run.refused("ops", code=1) == words


def test_a_closed_pipe_is_quiet() -> None:
    command = f"{shlex.quote(sys.executable)} -m augpipe schema | head -c 10"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stderr == ""
    assert len(done.stdout) == 10


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_says_what_was_kept(tmp_path: Path) -> None:
    script = "import sys; from augpipe.cli.main import main; sys.exit(main(sys.argv[1:]))"
    out = tmp_path / "out"
    args = ["expand", QUICK, GARMENTS, str(out), "--copies", "400", "--workers", "1"]
    child = subprocess.Popen(
        [sys.executable, "-c", script, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(out.rglob("*.png")) and time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(0.05)
    err = interrupt(child)
    assert child.returncode == 1
    assert err.startswith("stopped: ")
    assert "run the same command again" in err
    assert err.count("\n") == 1


def test_ctrl_c_in_an_import_is_ctrl_c(capsys: pytest.CaptureFixture[str]) -> None:
    error = ImportError("cannot load module more than once per process")
    error.__context__ = KeyboardInterrupt()
    assert tell(error) == 1
    assert capsys.readouterr().err == "stopped\n"
    assert tell(ImportError("no such thing")) == 1
    assert capsys.readouterr().err.startswith("internal error: ImportError: no such thing")


def test_the_formats_are_those_that_there_are() -> None:
    from augpipe.cli.datasets import DatasetFormat
    from augpipe.data.formats import FORMATS

    assert {each.value for each in DatasetFormat} == set(FORMATS)
