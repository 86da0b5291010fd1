"""`augpipe fit gan`: it goes on, stops in time, is judged, refuses what it must."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from augpipe.cli.main import main
from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.fitting import adversarial as fitting
from augpipe.fitting import judging, labelled
from augpipe.fitting.adversarial import DivergedError, gradient_penalty, grid, relativistic_loss
from augpipe.fitting.discriminator import Discriminator
from augpipe.fitting.gan import fit_gan
from augpipe.fitting.judging import Judge, to_levels
from augpipe.fitting.labelled import open_labelled
from augpipe.learned.generator import Generator
from augpipe.learned.weights import load_net
from augpipe.pipeline import load
from augpipe.tensors import load_tree, read_tensors
from tests.harness import ROOT

GARMENTS = ROOT / "samples" / "garments"
SMALL: dict[str, Any] = {"steps": 6, "batch_size": 8, "precision": "float32"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "_EPOCHS", 1)
    monkeypatch.setattr(judging, "_FEWEST", 2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of grey images of 12 × 12."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("dark", "light")):
        (tmp_path / "in" / name).mkdir(parents=True)
        for j in range(20):
            pixels = rng.integers(0, 100, (12, 12)) + 150 * k
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(tmp_path / "in" / name / f"{j}.png")
    return tmp_path / "in"


def stop_at(step: int) -> Callable[[int, int, torch.Tensor], None]:
    def tick(now: int, last: int, loss: torch.Tensor) -> None:
        if now == step:
            raise KeyboardInterrupt

    return tick


# ---------------------------------------------------------------- networks and losses


@pytest.mark.parametrize("side", [8, 9, 12, 28, 33, 64, 96])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_of_any_side(side: int, channels: int) -> None:
    net = Generator(3, channels, side, width=4, most=8)
    images = net(torch.randn(2, 64), torch.tensor([0, 2]))
    assert images.shape == (2, channels, side, side)
    assert images.min() >= 0 and images.max() <= 1
    assert 4 <= net.base <= 7
    scores = Discriminator(3, channels, side, 4, 8)(2 * images - 1, torch.tensor([0, 2]))
    assert scores.shape == (2,)


def test_a_generator_tells_noise_and_classes_apart() -> None:
    net = Generator(3, width=4, most=8)
    noise = torch.randn(2, 64)
    one, other = net(noise[:1], torch.tensor([0])), net(noise[1:], torch.tensor([0]))
    assert not torch.equal(one, other)
    assert not torch.equal(one, net(noise[:1], torch.tensor([1])))


def test_the_class_enters_by_projection() -> None:
    """D(x, y) - D(x, y') = (e_y - e_y')' h(x): linear in the embedding."""
    net = Discriminator(3, 1, 12, 4, 8)
    images = torch.randn(5, 1, 12, 12)
    scores = [net(images, torch.full((5,), k)) for k in range(3)]
    with torch.no_grad():
        net.embedding.weight[2] = 2 * net.embedding.weight[0] - net.embedding.weight[1]
    third = net(images, torch.full((5,), 2))
    torch.testing.assert_close(third, 2 * scores[0] - scores[1], rtol=1e-4, atol=1e-5)


def test_losses_are_the_equations() -> None:
    real, made = torch.randn(8), torch.randn(8)
    want = np.log1p(np.exp(made.numpy() - real.numpy())).mean()
    assert float(relativistic_loss(made, real)) == pytest.approx(float(want), rel=1e-5)
    images = torch.randn(6, 2, 3, 3, requires_grad=True)
    scores = 0.5 * images.square().sum(dim=(1, 2, 3))  # its gradient is the image
    squares = images.detach().square().sum(dim=(1, 2, 3))
    penalty = gradient_penalty(scores, images)
    assert penalty.item() == pytest.approx(float(squares[:3].mean() + squares[3:].mean()), rel=1e-5)
    penalty.backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def descend(net: torch.nn.Module, loss: torch.Tensor) -> None:
    own = list(net.parameters())
    with torch.no_grad():
        for each, grad in zip(own, torch.autograd.grad(loss, own), strict=True):
            each -= 0.1 * grad


def test_a_step_of_each_network_is_the_equations_step(folder: Path, tmp_path: Path) -> None:
    """What one step does to both networks, written out anew with plain SGD in Adam's place."""
    data = open_labelled(folder, None, None, 0)
    sizes = fitting.Preset(4, 8, 8, 100)
    fit, again = (
        fitting.AdversarialFit(data, sizes, 10, 8, 0.1, 0, "float32", "cpu", tmp_path)
        for _ in range(2)
    )
    for each in (fit, again):
        each._optimizers = [
            torch.optim.SGD(net.parameters(), 0.1) for net in (each.generator, each._discriminator)
        ]
    fit._advance()
    d, g = again._discriminator, again.generator
    real, classes = again._next()
    made = g(again._noise(0), classes).detach()
    halves = again._augmented(torch.cat([real, made]), 0).split(8)
    x, x_made = (each.detach().requires_grad_() for each in halves)
    on_real, on_made = d(x, classes), d(x_made, classes)
    penalty = sum(
        torch.autograd.grad(scores.sum(), images, create_graph=True)[0]
        .square()
        .sum((1, 2, 3))
        .mean()
        for scores, images in ((on_real, x), (on_made, x_made))
    )
    loss = torch.log1p((on_made - on_real).exp()).mean() + 4 * fitting._GAMMA / 2 * penalty
    with torch.no_grad():
        for p, grad in zip(
            d.parameters(), torch.autograd.grad(loss, [*d.parameters()]), strict=True
        ):
            p -= 0.1 * grad
    made = g(again._noise(1), classes)
    real_seen, made_seen = again._augmented(torch.cat([real, made]), 1).split(8)
    loss = torch.log1p((d(real_seen, classes) - d(made_seen, classes)).exp()).mean()
    with torch.no_grad():
        for p, grad in zip(
            g.parameters(), torch.autograd.grad(loss, [*g.parameters()]), strict=True
        ):
            p -= 0.1 * grad
    for mine, theirs in ((fit.generator, g), (fit._discriminator, d)):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)  # sums in another order


def test_every_step_draws_anew(folder: Path, tmp_path: Path) -> None:
    data = open_labelled(folder, None, None, 0)
    fit = fitting.AdversarialFit(
        data, fitting.Preset(4, 8, 8, 100), 10, 8, 0.1, 0, "float32", "cpu", tmp_path
    )
    images = torch.rand(16, 1, 12, 12)
    noise, seen, orders = [], [], []
    for fit.step in (0, 1, 4, 5):  # 4 batches of 8 in an epoch of 36
        noise += [fit._noise(0), fit._noise(1)]
        seen += [fit._augmented(images, 0), fit._augmented(images, 1)]
        orders.append(fit._next()[0])
    for many in (noise, seen, orders):
        pairs = [(a, b) for k, a in enumerate(many) for b in many[:k]]
        assert not any(torch.equal(a, b) for a, b in pairs)
    fit.step = 1
    assert torch.equal(fit._noise(0), noise[2]) and torch.equal(fit._next()[0], orders[1])


def test_weights_are_averaged_and_rates_fall(folder: Path, tmp_path: Path) -> None:
    data = open_labelled(folder, None, None, 0)
    fit = fitting.AdversarialFit(
        data, fitting.Preset(4, 8, 8, 100), 10, 8, 0.1, 0, "float32", "cpu", tmp_path
    )
    before = [each.clone() for each in fit._averaged.parameters()]
    fit.step = 999  # half-life: a twentieth of the 8,000 images seen
    fit._advance()
    kept = 0.5 ** (8 / 400)
    own = fit.generator.parameters()
    for mean, old, new in zip(fit._averaged.parameters(), before, own, strict=True):
        torch.testing.assert_close(mean, kept * old + (1 - kept) * new, rtol=1e-4, atol=1e-6)
    rates = []
    for fit.step in (0, 5, 10):
        fit._advance()
        rates += [each.param_groups[0]["lr"] for each in fit._optimizers]
    middle = 0.1 * (0.15 + 0.85 / 2)
    assert rates == pytest.approx([0.1, 0.1, middle, middle, 0.015, 0.015])


def test_what_is_augmented_before_it_is_told_apart(folder: Path, tmp_path: Path) -> None:
    sizes = fitting.Preset(4, 8, 8, 100)
    data = open_labelled(folder, None, None, 0)
    colour = replace(data.train, images=data.train.images.expand(-1, 3, -1, -1))
    names = []
    for each in (data, replace(data, train=colour)):
        fit = fitting.AdversarialFit(each, sizes, 10, 8, 0.1, 0, "float32", "cpu", tmp_path)
        names.append([op.name() for op in fit._augment.recipe.batch])
    assert names == [["translate", "cutout"], ["color_jitter", "translate", "cutout"]]


def test_penalties_are_taken_every_fourth_step(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_labelled(folder, None, None, 0)
    fit = fitting.AdversarialFit(
        data, fitting.Preset(4, 8, 8, 100), 10, 8, 0.1, 0, "float32", "cpu", tmp_path
    )
    taken = []
    plain = fitting.gradient_penalty
    monkeypatch.setattr(
        fitting, "gradient_penalty", lambda *args: taken.append(fit.step) or plain(*args)
    )
    for fit.step in range(9):
        fit._advance()
    assert taken == [0, 4, 8]


def test_a_discriminator_learns_to_tell_classes_apart(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "gan.safetensors"
    fit_gan(folder, out, **{**SMALL, "steps": 60, "batch_size": 32})
    net, about = load_net(out, "gan", Generator)
    assert about["classes"] == ["dark", "light"]
    with torch.no_grad():
        dark, light = (net(torch.randn(50, 64), torch.full((50,), k)).mean() for k in (0, 1))
    assert light > dark + 0.1


# ---------------------------------------------------------------- the fit


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
    out = tmp_path / "gan.safetensors"
    report = fit_gan(folder, out, **{**SMALL, "steps": 9})
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


# ---------------------------------------------------------------- judging


def test_a_report_knows_good_images_from_bad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(judging, "_FEWEST", 120)
    data = open_labelled(GARMENTS, None, None, 0)
    judge = Judge(data, tmp_path, 0)
    order = data.train.targets.argsort(stable=True)

    def copies(classes: torch.Tensor, seed: int) -> torch.Tensor:
        rows = [order[data.train.targets[order] == k] for k in classes.unique()]
        pools = {int(data.train.targets[each[0]]): list(each) for each in rows}
        picked = [pools[int(k)].pop(0) for k in classes]
        return data.train.images[torch.stack(picked)]

    def noise(classes: torch.Tensor, seed: int) -> torch.Tensor:
        shape = (len(classes), *data.train.images.shape[1:])
        own = torch.Generator().manual_seed(1)
        return torch.randint(0, 256, shape, generator=own).to(torch.uint8)

    assert judge.memorisation(copies, 0) < 0.1 < 1 < judge.memorisation(noise, 0)
    good = judge.report(copies, steps=1, seconds=1.0, parameters=1)
    assert good.memorisation < 0.05 and good.memorisation_pixels < 0.05
    # The same images in the same order: the same classifier.
    assert good.synthetic == good.real and good.synthetic_by_class == good.real_by_class
    assert good.real > 0.5 and len(good.real_by_class) == 10
    assert good.frechet == pytest.approx(good.frechet_floor, rel=0.5)
    turned = Judge(data, tmp_path / "turned", 0)
    monkeypatch.setattr(turned, "_classifier", lambda *_: judge.net)
    flipped = turned.report(
        lambda classes, seed: copies(classes, seed).flip(3), steps=1, seconds=1.0, parameters=1
    )
    assert flipped.memorisation_pixels < 0.05 < flipped.memorisation
    bad = Judge(data, tmp_path / "other", 0).report(noise, steps=1, seconds=1.0, parameters=1)
    assert bad.synthetic < 0.35 < good.real
    assert bad.frechet > 10 * bad.frechet_floor
    assert bad.agreement < 0.35 and bad.memorisation > 1.5
    assert bad.real == good.real
    assert "ankle_boot" in str(bad) and "%" in str(bad)


def test_to_levels_and_the_grid() -> None:
    images = torch.linspace(0, 1, 256).view(1, 1, 16, 16)
    assert to_levels(images).flatten().tolist() == list(range(256))
    many = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 2, 2) * 10
    pixels = np.asarray(grid(many, 3))
    assert pixels.shape == (4, 6, 3)
    assert pixels[::2, ::2, 0].tolist() == [[0, 10, 20], [30, 40, 50]]


# ---------------------------------------------------------------- data


def test_sizes_grey_and_colour(folder: Path, tmp_path: Path) -> None:
    data = open_labelled(folder, None, None, 0)
    assert data.train.images.shape[1:] == (1, 12, 12) and data.measured_on == "validation"
    assert len(data.train) + len(data.unseen) == 40
    Image.new("RGB", (30, 24), (255, 0, 0)).save(folder / "dark" / "red.png")
    with pytest.raises(UsageError, match=r"images differ in size \(12 × 12, 24 × 30\): side says"):
        open_labelled(folder, None, None, 0)
    mixed = open_labelled(folder, None, 16, 0)
    assert mixed.train.images.shape[1:] == (3, 16, 16)
    red = (mixed.train.images[:, 0] > mixed.train.images[:, 1]).flatten(1).all(dim=1)
    assert red.sum() + (mixed.unseen.images[:, 0] > 200).flatten(1).all(1).sum() >= 1
    some = open_labelled(folder, 10, 16, 0)
    assert len(some.train) == 10 and some.train.targets.bincount().tolist() in ([5, 5], [6, 4])


def test_large_images_are_refused_before_they_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in folder.rglob("*.png"):
        Image.open(path).resize((120, 120)).save(path)
    with pytest.raises(UsageError, match="images are 120 × 120: side says"):
        open_labelled(folder, None, None, 0)
    assert open_labelled(folder, None, 120, 0).train.images.shape[2] == 120
    monkeypatch.setattr(labelled, "_MOST", 10_000)
    with pytest.raises(UsageError, match=r"images of 120 × 120 take .* GB: fewer"):
        open_labelled(folder, None, 120, 0)


def test_every_class_needs_an_image_among_those_chosen(folder: Path) -> None:
    for name in ("a", "b", "c"):
        (folder / name).mkdir()
        for k in range(2):
            shutil.copy(folder / "dark" / f"{k}.png", folder / name)
    with pytest.raises(UsageError, match="no image of class a is among them: take more"):
        open_labelled(folder, 10, None, 0)


def test_what_cannot_be_fitted_on(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "gan.safetensors"
    lone = tmp_path / "lone"
    shutil.copytree(folder, lone)
    for path in sorted((lone / "dark").iterdir())[1:]:
        path.unlink()
    cases: list[tuple[Any, dict[str, Any], type[AugpipeError], str]] = [
        (lone, {}, DataError, "class dark has one image: a class needs two at least"),
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
