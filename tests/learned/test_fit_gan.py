"""`augpipe fit gan`: it goes on, stops in time, refuses what it must."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from augpipe.cli.main import main
from augpipe.errors import AugpipeError, DataError, DivergedError, UsageError
from augpipe.fitting import adversarial as fitting
from augpipe.fitting import judging
from augpipe.fitting.gan import fit_gan
from augpipe.fitting.judging import Judge, to_levels
from augpipe.learned.generator import Generator
from augpipe.learned.weights import load_net
from augpipe.pipeline import load
from augpipe.tensors import load_tree, read_tensors

SMALL: dict[str, Any] = {"steps": 6, "batch_size": 8, "precision": "float32"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_EPOCHS", 1)
    monkeypatch.setattr(judging, "_FEWEST", 2)


def stop_at(step: int) -> Callable[[int, int, torch.Tensor], None]:
    def tick(now: int, last: int, loss: torch.Tensor) -> None:
        if now == step:
            raise KeyboardInterrupt

    return tick


def test_a_discriminator_learns_to_tell_classes_apart(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "gan.safetensors"
    fit_gan(folder, out, **{**SMALL, "steps": 60, "batch_size": 32})
    net, about = load_net(out, "gan", Generator)
    assert about["classes"] == ["dark", "light"]
    with torch.no_grad():
        dark, light = (net(torch.randn(50, 64), torch.full((50,), k)).mean() for k in (0, 1))
    assert light > dark + 0.1


def test_an_interrupted_fit_goes_on_to_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_KEPT_EVERY", 2)
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    fit_gan(folder, whole, **SMALL)
    with pytest.raises(KeyboardInterrupt):
        fit_gan(folder, parts, **SMALL, tick=stop_at(5))
    assert not parts.exists()
    seen: list[int] = []
    said: list[str] = []
    fit_gan(folder, parts, **SMALL, tick=lambda now, *_: seen.append(now), say=said.append)
    assert seen == [5, 6] and "going on after step 4 of 6" in said
    one, other = read_tensors(whole)[0], read_tensors(parts)[0]
    assert all(torch.equal(one[name], other[name]) for name in one)
    grids = sorted(path.name for path in (tmp_path / "parts-fit" / "samples").iterdir())
    assert grids == ["000002.png", "000004.png", "000006.png"]


def test_what_is_left_of_another_fit_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_KEPT_EVERY", 1)
    out = tmp_path / "gan.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit_gan(folder, out, **SMALL, tick=stop_at(2))
    with pytest.raises(UsageError, match="gan-fit: holds another fit: finish or remove it"):
        fit_gan(folder, out, **{**SMALL, "batch_size": 4})


def test_a_loss_that_is_no_number_leaves_the_last_good_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_KEPT_EVERY", 1)
    out = tmp_path / "gan.safetensors"
    what = r"(loss is (nan|inf)|weights are NaN or infinite) at step \d+: lower the lr .*has the w"
    with pytest.raises(DivergedError, match=what) as caught:
        fit_gan(folder, out, **{**SMALL, "steps": 40}, lr=1e6)
    _, about = load_net(out, "gan", Generator)
    assert str(caught.value).endswith(f"has the weights of step {about['step']}")
    state, _ = load_tree(tmp_path / "gan-fit" / "state.safetensors")
    assert all(bool(each.isfinite().all()) for each in state["best"].values())


def test_weights_that_are_no_numbers_are_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_KEPT_EVERY", 2)
    plain = fitting.AdversarialFit._average

    def broken(fit: Any) -> None:
        plain(fit)
        if fit.step == 3:
            fit._averaged.last.bias.data.fill_(torch.inf)

    monkeypatch.setattr(fitting.AdversarialFit, "_average", broken)
    with pytest.raises(DivergedError, match="weights are NaN or infinite at step 4"):
        fit_gan(folder, tmp_path / "gan.safetensors", **SMALL)
    state, _ = load_tree(tmp_path / "gan-fit" / "state.safetensors")
    assert state["step"] == state["best_step"] == 2
    assert bool(state["averaged"]["last.bias"].isfinite().all())


def test_it_stops_before_it_copies(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_KEPT_EVERY", 2)
    apart = iter([0.1, 0.95, 0.7, 0.9])  # of the first look, which is early, on
    monkeypatch.setattr(Judge, "memorisation", lambda *_: next(apart))
    judged: list[torch.Tensor] = []
    plain = Judge.report

    def report_on(judge: Judge, make: Any, **about: Any) -> Any:
        judged.append(make(torch.tensor([0, 1]), 7))
        return plain(judge, make, **about)

    monkeypatch.setattr(Judge, "report", report_on)
    out = tmp_path / "gan.safetensors"
    report = fit_gan(folder, out, **{**SMALL, "steps": 9})
    net, _ = load_net(out, "gan", Generator)
    noise = torch.randn(2, 64, generator=torch.Generator().manual_seed(7))
    assert torch.equal(judged[0], to_levels(net(noise, torch.tensor([0, 1]))))
    assert report.steps == 6
    assert report.stopped.startswith("at step 6 images lie 0.70 times as far")
    assert report.stopped.endswith("the weights are those of step 4")
    assert "stopped" in str(report)
    other = tmp_path / "other.safetensors"
    monkeypatch.setattr(Judge, "memorisation", lambda *_: 1.0)
    with pytest.raises(KeyboardInterrupt):
        fit_gan(folder, other, **{**SMALL, "steps": 9}, tick=stop_at(5))
    at_four = load_tree(tmp_path / "other-fit" / "state.safetensors")[0]["averaged"]
    kept = read_tensors(out)[0]
    assert all(torch.equal(kept[name], at_four[name]) for name in kept)


def test_the_preset_of_a_gpu_is_wider(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "gan.safetensors"
    fit_gan(folder, out, preset="gpu", device="cpu", **{**SMALL, "steps": 1})
    net, _ = load_net(out, "gan", Generator)
    assert (net.settings["width"], net.settings["most"]) == (64, 256)


def test_its_own_probe_and_weights_fit_the_op(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "gan.safetensors"
    fit_gan(folder, out, **SMALL)
    probe = str(tmp_path / "gan-fit" / "real" / "model.safetensors")
    item = {"gan_replace": {"p": 1.0, "model": str(out), "probe": probe}}
    pipe = load({"version": 1, "batch": [item]})
    images, labels = next(iter(pipe.loader(folder, batch_size=16, workers=0)))
    assert images.shape == (16, 3, 12, 12) and labels.shape == (16,)


def test_what_cannot_be_fitted_on(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "gan.safetensors"
    lone = tmp_path / "lone"
    shutil.copytree(folder, lone)
    for path in sorted((lone / "dark").iterdir())[1:]:
        path.unlink()
    cases: list[tuple[Any, dict[str, Any], type[AugpipeError], str]] = [
        (lone, {}, DataError, "class dark has one image: a class needs 2 at least"),
        (folder / "dark", {}, DataError, "has no class folders: training needs a folder for each"),
        (tmp_path / "none", {}, UsageError, "no such file or folder"),
        (folder, {"size": 3}, UsageError, "size 3: from 4, two a class, to 36, all"),
        (folder, {"size": 50}, UsageError, "size 50"),
        (folder, {"side": 4}, UsageError, "side 4: from 8 to 512 pixels"),
        (folder, {"batch_size": 99}, UsageError, "batch_size 99 is more than the 36 images"),
        (folder, {"lr": 0.0}, UsageError, "must be above 0"),
        (folder, {"device": "nowhere"}, UsageError, "device nowhere cannot be used"),
        (folder, {"preset": "tpu"}, UsageError, "preset tpu: one of cpu, gpu"),
        (folder, {"precision": "float16"}, UsageError, "precision float16"),
    ]
    for data, more, kind, message in cases:
        with pytest.raises(kind, match=message):
            fit_gan(data, out, **{**SMALL, **more})
    with pytest.raises(UsageError, match="lies inside the images"):
        fit_gan(folder, folder / "gan.safetensors", **SMALL)
    with pytest.raises(UsageError, match="must be above 0"):
        fit_gan(folder, out, steps=0)
    (folder / "light" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.png"):
        fit_gan(folder, out, side=12, **SMALL)
    assert not out.exists()


def test_the_command_ends_with_the_report(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "gan.safetensors"
    call = ["fit", "gan", str(folder), "-o", str(out), "--steps", "4", "--batch-size", "8"]
    assert main(call) == 0
    text = capsys.readouterr().out
    for words in (
        "36 grey images of 12 × 12, 2 classes; 4 steps of 8 in",
        "generated   real",
        "Fréchet distance",
        "distance to the nearest training image",
        str(out),
    ):
        assert words in text
    about = json.loads(read_tensors(out)[1]["about"])
    assert (tmp_path / "gan-fit" / "real" / "model.safetensors").exists()
    assert about["report"]["train_images"] == 36 and about["fitted"]["seed"] == 0
    assert main(["fit", "gan", str(tmp_path / "none"), "-o", str(out)]) == 2
