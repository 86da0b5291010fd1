"""`augpipe fit policy` and `augpipe fit meta`: what they leave, what they refuse, their table."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from augpipe.cli.main import main
from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.fitting import controls, task, teaching
from augpipe.fitting.controls import ControlTable, control
from augpipe.fitting.labelled import Divided, open_labelled
from augpipe.fitting.meta import fit_meta
from augpipe.fitting.policy import fit_policy
from augpipe.learned.augmentation import AugmentationNetwork
from augpipe.learned.weights import load_net
from augpipe.pipeline import load
from augpipe.tensors import read_tensors
from augpipe.training.comparison import Comparison, row_of
from augpipe.training.results import Result
from tests.harness import ROOT

GARMENTS = ROOT / "samples" / "garments"
SMALL: dict[str, Any] = {"steps": 12, "seeds": 2, "control_steps": 2, "jobs": 1}


def table(*gains: float, name: str = "learned") -> ControlTable:
    """Returns a table: TrivialAugment, and what is learned with these gains on it, seed by seed."""

    def results(*accuracies: float) -> tuple[Result, ...]:
        return tuple(Result(a, 1.0, a, "validation", 1, 1, 1.0, 9, 0.5) for a in accuracies)

    none = results(*[0.5] * len(gains))
    rows = {
        "no augmentation": none,
        "TrivialAugment": results(*[0.6] * len(gains)),
        name: results(*(0.6 + gain for gain in gains)),
    }
    made = [row_of(row, each, none if k else None) for k, (row, each) in enumerate(rows.items())]
    first, last = ([each.accuracy for each in rows[row]] for row in [*rows][1:])
    comparison = Comparison(tuple(made), "validation")
    ones = (1.0,) * 3
    return ControlTable(comparison, ones, ones, name, *controls.paired(first, last))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the runs of the table out."""

    def control(*_: Any, candidates: Any = (), **__: Any) -> ControlTable:
        return table(0.0, 0.01, -0.01, 0.0, name=candidates[-1] if candidates else "learned")

    monkeypatch.setattr(task, "control", control)
    monkeypatch.setattr(teaching, "_KEPT_EVERY", 2)


def stop_at(step: int) -> Callable[[int, int, float], None]:
    def tick(now: int, last: int, loss: float) -> None:
        if now == step:
            raise KeyboardInterrupt

    return tick


def test_the_verdict_is_honest() -> None:
    assert (
        table(0.02, 0.03, 0.02, 0.03).verdict
        == "learned beats TrivialAugment here: +2.50 ± 0.92 points"
    )
    assert "learned is worse than TrivialAugment" in table(-0.02, -0.03, -0.02, -0.03).verdict
    doubt = table(0.02, -0.03, 0.02, 0.01)
    assert doubt.verdict.startswith("no evidence that learned beats TrivialAugment here: +0.50 ±")
    assert str(doubt).endswith(doubt.verdict)


@pytest.mark.usefixtures("quick")
def test_a_policy_is_a_plain_recipe_with_where_it_comes_from(tmp_path: Path) -> None:
    out = tmp_path / "policy.yaml"
    said: list[str] = []
    fit_policy(GARMENTS, out, **SMALL, say=said.append)
    text = out.read_text()
    sentence = "no evidence that learned policy beats TrivialAugment here"
    of = "210 images of 10 classes, 28 × 28 (from garments"
    for words in (of, "seed 0, 12 steps", sentence, "TrivialAugment"):
        assert words in text
    assert all(line.startswith("#") for line in text[: text.index("version: 1")].splitlines())
    recipe = load(out).recipe
    assert [op.name() for op in recipe.sample] == [
        "horizontal_flip",
        "random_crop",
        "one_of",
        "one_of",
    ]
    assert not recipe.batch and all(not op.files for op in recipe.sample)  # no network in it
    image = np.asarray(Image.open(next(GARMENTS.rglob("*.png"))))
    assert load(out)(image, index=0).shape == (28, 28)
    folder = tmp_path / "policy-fit"
    shown = sorted(path.name for path in (folder / "samples").iterdir())
    assert shown == [f"{step:06d}.png" for step in range(2, 13, 2)]
    with Image.open(folder / "policy.png") as plot:
        assert plot.size[0] > 1000
    assert json.loads((folder / "report.json").read_text())["verdict"].startswith("no evidence")
    assert said[0] == "210 images of 28 × 28, 10 classes; 12 steps; 30 images held out"


@pytest.mark.usefixtures("quick")
def test_images_held_out_choose_how_strong_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of it has ranges half as wide, about what changes nothing, and the same choices."""
    tried: list[str] = []

    def control(*_: Any, candidates: Any = (), **__: Any) -> ControlTable:
        tried[:] = candidates
        return table(0.0, 0.0, name=candidates[0])

    fit_policy(GARMENTS, tmp_path / "whole.yaml", **SMALL)
    monkeypatch.setattr(task, "control", control)
    fit_policy(GARMENTS, tmp_path / "half.yaml", **SMALL)
    assert tried == ["learned, at 0.5", "learned policy"]
    whole, half = (load(tmp_path / f"{name}.yaml").recipe.sample[2:] for name in ("whole", "half"))
    for one, other in zip(whole, half, strict=True):
        assert (one.p, one.weights) == (other.p, other.weights)
        want = [op.at_strength(0.5).p for op in one.ops]
        assert [op.p for op in other.ops] == want and {0.5, 1.0} <= set(want)
        turn, less = (next(op for op in each.ops if op.name() == "rotate") for each in (one, other))
        assert less.degrees == pytest.approx([v / 2 for v in turn.degrees], abs=1e-3)
        zoom, less = (next(op for op in each.ops if op.name() == "scale") for each in (one, other))
        assert less.factor == pytest.approx([1 + (v - 1) / 2 for v in zoom.factor], abs=1e-3)
    text = (tmp_path / "half.yaml").read_text()
    assert "- autocontrast: {p: 0.5}" in text  # though 0.5 is what it has when nothing is said


def test_the_most_accurate_candidate_is_judged(tmp_path: Path) -> None:
    data = open_labelled(GARMENTS, None, None, 0)
    black = [{"brightness": {"factor": [0.0, 0.0]}}]  # nothing can be learned
    rows = {"dark": (black, ()), "plain": (["horizontal_flip"], ())}
    made = control(data, [], rows, tmp_path, seeds=1, steps=40, jobs=1, candidates=list(rows))
    assert made.learned == "plain" and "chosen by these images: plain" in str(made)
    turned = dict(reversed(rows.items()))
    again = control(data, [], turned, tmp_path, seeds=1, steps=40, jobs=1, candidates=list(turned))
    assert again.learned == "plain"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("fit", "name"), [(fit_policy, "p.yaml"), (fit_meta, "m.safetensors")])
def test_an_interrupted_fit_goes_on_to_the_same_end(fit: Any, name: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole" / name, tmp_path / "parts" / name
    fit(GARMENTS, whole, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        fit(GARMENTS, parts, **SMALL, tick=stop_at(5))
    seen: list[int] = []
    fit(GARMENTS, parts, **SMALL, tick=lambda now, *_: seen.append(now))
    assert seen == [5, 6, 7, 8, 9, 10, 11, 12]
    if name.endswith("yaml"):
        kept = [path.read_text().partition("version")[2] for path in (whole, parts)]
        assert kept[0] == kept[1]
    else:
        one, other = read_tensors(whole)[0], read_tensors(parts)[0]
        assert all(torch.equal(one[key], other[key]) for key in one)
    with pytest.raises(UsageError, match="-fit: holds another fit: finish or remove it"):
        fit(GARMENTS, parts, **{**SMALL, "steps": 8})


def test_a_killed_fit_goes_on_to_the_same_end(quick: None, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from augpipe.fitting import teaching\n"
        "from augpipe.fitting.policy import fit_policy\n"
        "def tick(now, *_):\n"
        "    if now == 5:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "teaching._KEPT_EVERY = 2\n"
        "if __name__ == '__main__':\n"
        "    own = {'steps': 12, 'control_steps': 100_000, 'jobs': 2, 'tick': tick}\n"
        "    fit_policy(sys.argv[1], sys.argv[2], **own)\n"
    )
    whole, parts = tmp_path / "whole" / "p.yaml", tmp_path / "parts" / "p.yaml"
    # What it began has its pipe too: that is at its end when all of them are gone.
    child = subprocess.run(
        [sys.executable, "-c", script, GARMENTS, parts], cwd=ROOT, capture_output=True, timeout=120
    )
    assert (child.returncode, child.stdout, child.stderr) == (-signal.SIGKILL, b"", b"")
    seen: list[int] = []
    for out in (parts, whole):
        fit_policy(GARMENTS, out, **SMALL, tick=lambda now, *_: seen.append(now))
    assert seen == [*range(5, 13), *range(1, 13)]
    first, second = (path.read_text().partition("version")[2] for path in (parts, whole))
    assert first == second


@pytest.mark.usefixtures("quick")
def test_a_network_is_written_with_what_it_was_fitted_to(tmp_path: Path) -> None:
    out = tmp_path / "meta.safetensors"
    report = fit_meta(GARMENTS, out, **SMALL)
    net, about = load_net(out, "meta", AugmentationNetwork)
    assert (net.channels, net.classes, about["images"]) == (1, 10, 210)
    assert about["classes"][0] == "ankle_boot" and about["report"]["verdict"] in str(report)
    assert (tmp_path / "meta-fit" / "meta.png").exists()
    images = np.asarray(Image.open(next(GARMENTS.rglob("*.png"))))[None, None]
    own = load({"version": 1, "batch": [{"meta": {"model": str(out), "p": 1}}]})
    assert own.batch(torch.from_numpy(images.copy()), index=[0]).shape == (1, 1, 28, 28)


def test_one_seed_has_no_interval_and_no_augmentation_may_be_better() -> None:
    one = table(0.1)
    assert one.half == float("inf") and "no evidence" in one.verdict and "± ?" in str(one)
    json.dumps(one.noted(), allow_nan=False)
    bad = table(-0.3, -0.31, -0.3, -0.32)
    assert bad.warnings == ("learned is worse than no augmentation here: -20.75 ± 1.52",)
    assert str(bad).endswith(bad.warnings[0]) and not table(0.1, 0.1, 0.1, 0.1).warnings


def test_other_images_and_slots_are_another_fit(folder: Path, tmp_path: Path, quick: None) -> None:
    out = tmp_path / "p.yaml"
    with pytest.raises(KeyboardInterrupt):
        fit_policy(folder, out, **SMALL, side=12, tick=stop_at(5))
    for fields in ({"side": 16}, {"side": 12, "slots": 1}, {"side": 12, "seed": 1}):
        with pytest.raises(UsageError, match="holds another fit"):
            fit_policy(folder, out, **SMALL, **fields)


def test_a_table_of_real_runs(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The identity beside no augmentation: the same accuracy, the same loss; noise is told less."""
    monkeypatch.setattr(controls, "_LR", 0.1)  # thirty steps are too few for the higher one
    data = open_labelled(folder, None, None, 0)
    still = {"rotate": {"degrees": [0, 0]}}
    rows = {"still": ([still], ()), "noise": ((), [{"solarize": {"threshold": [0, 0]}}])}
    options: dict[str, Any] = {"seeds": 2, "steps": 30, "jobs": 1}
    told: list[str] = []
    found = control(
        data, [], rows, tmp_path / "runs", **options, tell=lambda name, *_: told.append(name)
    )
    names = [row.name for row in found.comparison.rows]
    assert names == ["no augmentation", "flip and crop", "base", "TrivialAugment", "still", "noise"]
    assert sorted(set(told)) == sorted(names) and len(told) == 12
    by_name = dict(zip(names, zip(found.affinity, found.diversity, strict=True), strict=True))
    assert by_name["still"] == pytest.approx((1.0, 1.0)) == by_name["base"]
    assert by_name["flip and crop"][1] > 1.0
    assert by_name["noise"][0] < 0.6  # negatives: dark for light
    assert by_name["TrivialAugment"][1] > 1.0
    assert {each.measured_on for row in found.comparison.rows for each in row.results} == {
        "validation"
    }
    told.clear()
    again = control(data, [], rows, tmp_path / "runs", **options, tell=lambda n, *_: told.append(n))
    assert not told and str(again) == str(found)


def lone(folder: Path, tmp_path: Path) -> Path:
    shutil.rmtree(folder / "light")
    return folder


def few(folder: Path, tmp_path: Path) -> Path:
    for path in sorted((folder / "light").iterdir())[9:]:
        path.unlink()
    return folder


def unlabelled(folder: Path, tmp_path: Path) -> Path:
    return folder / "dark"


def broken(folder: Path, tmp_path: Path) -> Path:
    (folder / "dark" / "0.png").write_bytes(b"no image")
    return folder


def gone(folder: Path, tmp_path: Path) -> Path:
    return tmp_path / "nowhere"


@pytest.mark.parametrize("fit", [fit_policy, fit_meta])
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lone, DataError, "has one class, 'dark': training needs a folder for each of two"),
        (few, DataError, "class light has 9 images: a class needs 10 at least"),
        (unlabelled, DataError, "has no class folders: training needs a folder for each"),
        (broken, DataError, r"0\.png: "),
        (gone, AugpipeError, "nowhere"),
    ],
)
def test_data_that_does_not_do(
    fit: Any, make: Any, error: Any, message: str, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        fit(make(folder, tmp_path), tmp_path / "out" / "x.yaml", **SMALL)


def test_settings_that_do_not_do(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.yaml"
    for fields in ({"steps": 0}, {"seeds": 0}, {"lr": 0.0}):
        with pytest.raises(UsageError, match="above 0"):
            fit_policy(folder, out, **{**SMALL, **fields})
    with pytest.raises(UsageError, match="slots 5: from 1 to 4"):
        fit_policy(folder, out, **SMALL, slots=5)
    with pytest.raises(UsageError, match=r"steps 0, control_steps 2, seeds 2, lr 0\.1: above 0"):
        fit_meta(folder, out, **{**SMALL, "steps": 0})
    with pytest.raises(UsageError, match="controls: lies inside the images"):
        fit_meta(folder, out, **SMALL, controls=folder / "controls")
    with pytest.raises(UsageError, match=r"size 6: 3 images of class .* are among them"):
        fit_policy(folder, out, **SMALL, size=6)
    with pytest.raises(UsageError, match="lies inside the images"):
        fit_policy(folder, folder / "p.yaml", **SMALL)
    base = tmp_path / "base.yaml"
    base.write_text("version: 1\nsample: [horizontal_flip, {normalize: half}]\n")
    said = "a base has a sample section of the package's own ops and nothing else, without norm"
    odd = (
        "sample: [horizontal_flip, {normalize: half}]",
        "sample: [horizontal_flip]\nregularize: [label_smoothing]",
        "sample: [albumentations.MotionBlur]",
        "batch: [mixup]",
    )
    for text in odd:
        base.write_text(f"version: 1\n{text}\n")
        with pytest.raises(UsageError, match=said):
            fit_policy(folder, out, base=base, **SMALL)


@pytest.mark.usefixtures("quick")
def test_a_base_stands_before_the_policy(folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.yaml"
    base.write_text("version: 1\nsample: [{rotate: {degrees: [-5, 5]}}]\n")
    fit_policy(folder, tmp_path / "p.yaml", base=base, slots=1, **SMALL)
    assert [op.name() for op in load(tmp_path / "p.yaml").recipe.sample] == ["rotate", "one_of"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("command", ["policy", "meta"])
def test_the_command(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.x"
    args = ["fit", command, str(GARMENTS), "-o", str(out), "--steps", "4", "--control-steps", "2"]
    assert main(args) == 0
    printed = capsys.readouterr().out
    name = "learned policy" if command == "policy" else "learned"
    assert f"no evidence that {name} beats TrivialAugment here" in printed
    assert printed.splitlines()[-1] == str(out) and out.exists()
    assert main([*args[:2], str(tmp_path / "none"), *args[3:]]) == 2


def test_images_are_named_by_what_they_are(folder: Path) -> None:
    """Files alone would name other sizes, and other images held out, alike."""
    names = {
        open_labelled(folder, None, side, seed).identity
        for side, seed in ((12, 0), (16, 0), (12, 1))
    }
    assert len(names) == 3 and open_labelled(folder, None, 12, 0).identity in names
    dark = Image.open(folder / "dark" / "0.png")
    before = open_labelled(folder, None, None, 0).identity
    dark.point(lambda level: 255 - level).save(folder / "dark" / "0.png")
    assert open_labelled(folder, None, None, 0).identity != before


def test_images_that_are_measured_on_are_not_learned_from(folder: Path) -> None:
    data: Divided = open_labelled(folder, None, None, 0)
    own = {each.numpy().tobytes() for each in data.train.images}
    assert not own & {each.numpy().tobytes() for each in data.unseen.images}
