"""`gan_replace`, its bundled generator, and the probe that learned ops may ask."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

import augpipe
from augpipe.cli.main import main
from augpipe.errors import DataError, RecipeError, UsageError
from augpipe.ir import Generated
from augpipe.learned.generator import Generator
from augpipe.learned.noise import normals
from augpipe.learned.probe import Probe
from augpipe.learned.weights import load_net, save_net
from augpipe.networks.building import build
from augpipe.pipeline import Pipeline, load
from augpipe.plan.nodes import realise
from augpipe.rng import Draws
from augpipe.tensors import read_tensors, write_tensors
from augpipe.training.evaluation import seen
from augpipe.types import Frame
from tests.harness import ROOT

GARMENTS = ROOT / "samples" / "garments"
FILES = sorted(GARMENTS.rglob("*.png"))


def garments(count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns images of all classes, and their numbers in the folder's order."""
    chosen = FILES[:: len(FILES) // count][:count]
    names = sorted({path.parent.name for path in FILES})
    arrays = [np.asarray(Image.open(path)) for path in chosen]
    numbers = torch.tensor([names.index(path.parent.name) for path in chosen])
    return torch.from_numpy(np.stack(arrays))[:, None], numbers


def pipe(**fields: Any) -> Pipeline:
    return load({"version": 1, "seed": 4, "batch": [{"gan_replace": fields}]})


def bundled() -> tuple[Generator, dict[str, Any]]:
    return load_net("bundled", "gan", Generator)


def drawn(own: Pipeline, count: int, epoch: int = 0) -> Generated:
    frame = Frame(np.tile([28, 28], (count, 1)))
    (meaning,) = realise(own.batch_nodes, Draws(4, np.arange(count), epoch), frame)
    assert isinstance(meaning, Generated)
    return meaning


# ---------------------------------------------------------------- the bundled weights


def test_the_pages_say_what_the_file_says() -> None:
    net, about = bundled()
    report, docs = about["report"], (ROOT / "docs" / "learned.md").read_text()
    card = (ROOT / "augpipe" / "learned" / "weights" / "README.md").read_text()
    rows = zip(about["classes"], report["synthetic_by_class"], report["real_by_class"], strict=True)
    for name, made, real in rows:
        assert f"| {name} | {100 * made:.1f} | {100 * real:.1f} |" in docs
    assert f"| **all** | **{100 * report['synthetic']:.1f}** | {100 * report['real']:.1f} |" in docs
    distances = f"{report['frechet']:.2f} | {report['frechet_floor']:.2f} |"
    assert f"| Fréchet distance, 1,000 images | {distances}" in docs
    assert f"features | {report['memorisation']:.2f} | 1 |" in docs
    assert f"{report['steps']:,} steps" in card
    assert f"{report['seconds']:,.0f} s on" in card
    assert f"{sum(each.numel() for each in net.parameters()):,}" in card
    assert f"tells {100 * report['synthetic']:.1f} % of" in card


def test_the_bundled_generator_knows_the_samples_classes() -> None:
    _, about = bundled()
    assert sorted(about["classes"]) == sorted({path.parent.name for path in FILES})
    assert about["report"]["train_images"] == 5000
    path = ROOT / "augpipe" / "learned" / "weights" / "gan.safetensors"
    assert path.stat().st_size <= 5_000_000


# ---------------------------------------------------------------- the op


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_images_are_the_generators_for_their_draws_and_classes(scale: float) -> None:
    images, labels = garments()
    own = pipe(p=0.6, truncation=scale)
    out, same = own.batch(images, labels, index=range(12))
    meaning, net = drawn(own, 12), bundled()[0]
    on = torch.from_numpy(meaning.on)
    assert 0 < on.sum() < 12 and torch.equal(same, labels)
    with torch.no_grad():
        want = 255 * net(scale * normals(meaning.key, net.first.weight, (64,)), labels)
    # Rounding; and sums of another batch size in the convolutions.
    assert (out.float() - want)[on].abs().max() <= 0.5 + 1e-2
    assert torch.equal(out[~on], images[~on])
    floats, _ = own.batch(images / 255.0, labels, index=range(12))
    assert (255 * floats - want)[on].abs().max() <= 1e-2


def test_each_image_is_replaced_by_its_own_key(tmp_path: Path) -> None:
    images, labels = garments()
    own = pipe(p=0.7)
    whole, _ = own.batch(images, labels, index=range(12))
    order = [7, 2, 11]
    some, _ = own.batch(images[order], labels[order], index=order)
    assert (some.int() - whole[order].int()).abs().max() <= 1  # sums of another batch size
    later, _ = own.batch(images, labels, index=range(12), epoch=1)
    assert not torch.equal(later, whole)


def test_classes_are_told_by_name(tmp_path: Path) -> None:
    net, about = bundled()
    turned = about["classes"][::-1]
    path = tmp_path / "turned.safetensors"
    save_net(path, "gan", net, {"classes": turned})
    own = pipe(p=1.0, model=str(path))
    batches = own.loader(GARMENTS, batch_size=24, workers=0, shuffle=False)
    images, labels = next(iter(batches))
    names = batches.base.images.classes if hasattr(batches.base, "images") else []
    assert labels.unique().tolist() == [0]
    meaning = drawn(own, 24)
    number = turned.index(names[0] if names else "ankle_boot")
    with torch.no_grad():
        noise = normals(meaning.key, net.first.weight, (64,))
        want = 255 * net(noise, torch.full((24,), number))
    assert (images[:, :1].float() - want).abs().max() <= 0.5 + 1e-2
    save_net(path, "gan", net, {"classes": [*turned[:-1], "hat"]})
    own = pipe(p=1.0, model=str(path))
    with pytest.raises(DataError, match=r"gan_replace#0: the generator knows no class"):
        next(iter(own.loader(GARMENTS, batch_size=24, workers=0)))


def test_a_weight_makes_rows_that_weigh_less() -> None:
    images, labels = garments()
    own = pipe(p=0.5, weight=0.3)
    _, rows = own.batch(images, labels, index=range(12))
    on = torch.from_numpy(drawn(own, 12).on)
    want = F.one_hot(labels, 10).float() * torch.where(on, 0.3, 1.0)[:, None]
    assert torch.equal(rows, want) and 0 < on.sum() < 12
    from augpipe.losses import soft_cross_entropy

    logits = torch.randn(12, 10, generator=torch.Generator().manual_seed(0))
    each = F.cross_entropy(logits, labels, reduction="none") * torch.where(on, 0.3, 1.0)
    torch.testing.assert_close(soft_cross_entropy(logits, rows), each.mean())
    off = pipe(p=0.0, weight=0.3)
    same, rows = off.batch(images, labels, index=range(12))
    assert torch.equal(same, images) and torch.equal(rows, F.one_hot(labels, 10).float())
    mixup = load({"version": 1, "classes": 10, "batch": [{"mixup": {"p": 0.0}}]})
    assert torch.equal(mixup.batch(images, labels, index=range(12))[1], rows)


def test_shares_become_those_of_the_class_that_is_shown() -> None:
    images, labels = garments()
    mixed = 0.7 * F.one_hot(labels, 10).float() + 0.3 * F.one_hot((labels + 1) % 10, 10).float()
    own = pipe(p=0.5)
    out, rows = own.batch(images, mixed, index=range(12))
    on = torch.from_numpy(drawn(own, 12).on)
    assert torch.equal(rows[on], F.one_hot(labels, 10).float()[on])
    assert torch.equal(rows[~on], mixed[~on])
    plain, _ = own.batch(images, labels, index=range(12))
    assert torch.equal(out, plain)


def test_it_acts_in_its_epochs_only() -> None:
    images, labels = garments()
    own = pipe(p=1.0, epochs=[2, 3])
    changed = [
        not torch.equal(own.batch(images, labels, index=range(12), epoch=e)[0], images)
        for e in range(6)
    ]
    assert changed == [False, False, True, True, False, False]


def test_sizes_channels_and_alpha() -> None:
    images, labels = garments(4)
    grey, _ = pipe(p=1.0).batch(images, labels, index=range(4))
    rgb, _ = pipe(p=1.0).batch(images.expand(-1, 3, -1, -1), labels, index=range(4))
    assert torch.equal(rgb, grey.expand(-1, 3, -1, -1))
    alpha = torch.cat([images.expand(-1, 3, -1, -1), torch.zeros_like(images)], dim=1)
    four, _ = pipe(p=1.0).batch(alpha, labels, index=range(4))
    assert torch.equal(four[:, :3], rgb) and bool((four[:, 3] == 255).all())
    floats, _ = pipe(p=1.0).batch(images / 255.0, labels, index=range(4))
    large, _ = pipe(p=1.0).batch(torch.zeros(4, 1, 56, 41), labels, index=range(4))
    want = F.interpolate(floats, (56, 41), mode="bilinear", antialias=True)
    assert (large - want).abs().max() <= 1e-4


def test_what_has_no_class_stays_and_what_cannot_be_done_is_told() -> None:
    images, labels = garments(4)
    some = labels.clone()
    some[1] = -1
    out, same = pipe(p=1.0).batch(images, some, index=range(4))
    assert torch.equal(out[1], images[1]) and torch.equal(same, some)
    with pytest.raises(DataError, match="gan_replace#0: needs the images' classes"):
        pipe(p=1.0).batch(images, index=range(4))
    with pytest.raises(DataError, match="classes are 0 to 9, here is class 12"):
        pipe(p=1.0).batch(images, labels + 12 - labels.max(), index=range(4))
    three = load({"version": 1, "classes": 3, "batch": [{"gan_replace": {"p": 1.0}}]})
    with pytest.raises(DataError, match="knows 10 classes, the labels have 3"):
        three.batch(images, labels.clamp_max(2), index=range(4))
    masks = {"label": labels, "mask": torch.zeros(4, 28, 28, dtype=torch.uint8)}
    with pytest.raises(DataError, match="gan_replace#0: puts other images in place"):
        pipe(p=1.0).batch(images, masks, index=range(4))
    timed = pipe(p=1.0, epochs=[0, 3])
    with pytest.raises(UsageError, match="gan_replace#0 acts in some epochs only: say which"):
        timed.batch(images, labels)
    with pytest.raises(RecipeError, match="gan_replace cannot stand in 'sample:'"):
        load({"version": 1, "sample": ["gan_replace"]})
    with pytest.raises(DataError, match="needs grey or RGB"):
        pipe(p=1.0).batch(torch.zeros(1, 2, 28, 28), torch.zeros(1, dtype=torch.int64), index=[0])


def test_weights_that_are_no_generators(tmp_path: Path) -> None:
    images, labels = garments(2)
    net, about = bundled()
    good = tmp_path / "good.safetensors"
    save_net(good, "gan", net, about)
    data = good.read_bytes()
    state = {k: v.contiguous() for k, v in net.state_dict().items()}
    settings = json.dumps({**net.settings, "width": 16})
    bad = {
        "cut": lambda path: path.write_bytes(data[: len(data) // 2]),
        "pickle": lambda path: torch.save(state, path),
        "text": lambda path: path.write_text("hello"),
        "huge header": lambda path: path.write_bytes(b"\xff" * 8 + data[8:]),
        "another op": lambda path: save_net(path, "autoencoder", net, about),
        "no names": lambda path: save_net(path, "gan", net, {}),
        "few names": lambda path: save_net(path, "gan", net, {"classes": ["a", "b"]}),
        "bare": lambda path: save_file(state, path),
        "another shape": lambda path: write_tensors(
            path, state, {"format": "augpipe gan 1", "settings": settings}
        ),
        "more than it says": lambda path: write_tensors(
            path,
            {**state, "extra": torch.zeros(3)},
            {"format": "augpipe gan 1", "settings": json.dumps(net.settings)},
        ),
        "billions": lambda path: write_tensors(
            path,
            state,
            {"format": "augpipe gan 1", "settings": json.dumps({**net.settings, "side": 10**9})},
        ),
        "twice a name": lambda path: save_net(path, "gan", net, {"classes": ["a"] * 10}),
        "two channels": lambda path: save_net(path, "gan", Generator(10, 2), about),
        "other floats": lambda path: write_tensors(
            path,
            {**state, "last.bias": state["last.bias"].double()},
            {"format": "augpipe gan 1", "settings": json.dumps(net.settings), "about": "{}"},
        ),
        "NaN": lambda path: write_tensors(
            path,
            {**state, "last.bias": torch.full((1,), torch.nan)},
            {"format": "augpipe gan 1", "settings": json.dumps(net.settings)},
        ),
    }
    for name, write in bad.items():
        path = tmp_path / f"{name}.safetensors"
        write(path)
        with pytest.raises(DataError) as caught:
            pipe(p=1.0, model=str(path)).batch(images, labels, index=range(2))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value), name


def test_it_is_previewed_and_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "r.html"
    recipe = str(ROOT / "configs" / "generated.yaml")
    arguments = ["--set", "batch.0.gan_replace.p=1", "-o", str(page)]
    assert main(["preview", recipe, str(GARMENTS), *arguments]) == 0
    assert "left out" not in capsys.readouterr().err
    assert page.read_text().count("gan_replace") > 10
    assert main(["bench", recipe, str(GARMENTS), "--seconds", "0.1"]) == 0
    assert "not measured" not in capsys.readouterr().out


# ---------------------------------------------------------------- the probe


TURN = (3, 1, 4, 0, 5, 9, 2, 6, 8, 7)


def probe_file(
    path: Path,
    always: int | None = None,
    channels: int = 1,
    size: Any = (28, 28),
    sharp: float = 20.0,
    **more: Any,
) -> str:
    """Writes a classifier of garments with fresh weights; `always` has it say one class only.

    Its classes are numbered otherwise than the generator's, by TURN.
    """
    _, about = bundled()
    torch.manual_seed(3)
    net = build("wrn_10_1", 10, channels)
    names = [about["classes"][k] for k in TURN]
    if always is not None:
        net.fc.bias.data[TURN.index(always)] += 1e6
    elif channels == 1:  # fresh weights see one class in all: let them see many
        with torch.no_grad():
            net.fc.bias -= net.eval()(2 * garments()[0] / 255.0 - 1).mean(dim=0)
            net.fc.weight *= sharp
            net.fc.bias *= sharp
    sees = {"size": list(size), "mean": [0.5], "std": [0.5], "after": [], **more}
    header = {
        "format": "augpipe model 1", "model": "wrn_10_1", "channels": str(channels),
        "classes": json.dumps(names), "sees": json.dumps(sees),
    }  # fmt: skip
    write_tensors(path, {k: v.clone() for k, v in net.state_dict().items()}, header)
    return str(path)


def test_generated_images_stay_out_where_the_probe_sees_another_class(tmp_path: Path) -> None:
    images, labels = garments()
    path = probe_file(tmp_path / "p.safetensors", always=3)
    own = pipe(p=1.0, probe=path, weight=0.5)
    out, rows = own.batch(images, labels, index=range(12))
    free, _ = pipe(p=1.0).batch(images, labels, index=range(12))
    three = labels == 3
    assert three.any()
    assert torch.equal(out[three], free[three]) and torch.equal(out[~three], images[~three])
    assert rows.sum(dim=1).tolist() == torch.where(three, 0.5, 1.0).tolist()
    unsure = probe_file(tmp_path / "unsure.safetensors", sharp=1.0)
    strict = pipe(p=1.0, probe=unsure, confidence=0.9)
    assert torch.equal(strict.batch(images, labels, index=range(12))[0], images)


def surely_alike(judge: Probe, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    (first, _), (second, sure) = (judge(each / 255.0) for each in (before, after))
    return (first == second) & (sure >= 0.4)


@pytest.mark.parametrize("section", ["batch", "sample"])
def test_moved_images_stay_where_the_probe_sees_another_class(section: str, tmp_path: Path) -> None:
    images, _ = garments()
    path = probe_file(tmp_path / "p.safetensors")
    judge = Probe(path, "cpu")
    item = {"latent_noise": {"sigma": [1.5, 1.5]}}
    gated = {"latent_noise": {"sigma": [1.5, 1.5], "probe": path, "confidence": 0.4}}

    def run(what: Any) -> torch.Tensor:
        own = load({"version": 1, "seed": 4, section: [what]})
        if section == "batch":
            out: torch.Tensor = own.batch(images, index=range(12))
            return out
        made = [own(image, index=k) for k, image in enumerate(images[:, 0].numpy())]
        return torch.from_numpy(np.stack(made))[:, None]

    free, out = run(item), run(gated)
    agree = surely_alike(judge, images, free)
    assert 0 < agree.sum() < 12
    assert torch.equal(out[agree], free[agree]) and torch.equal(out[~agree], images[~agree])


def test_images_of_one_class_are_gated_too(tmp_path: Path) -> None:
    images, labels = garments()
    labels = labels % 2
    path = probe_file(tmp_path / "p.safetensors")
    judge = Probe(path, "cpu")
    runs = [
        load({"version": 1, "batch": [{"latent_extrapolate": {"lam": [1, 1], **more}}]})
        for more in ({}, {"probe": path, "confidence": 0.4})
    ]
    free, out = (own.batch(images, labels, index=range(12))[0] for own in runs)
    agree = surely_alike(judge, images, free)
    assert 0 < agree.sum() < 12
    assert torch.equal(out[agree], free[agree]) and torch.equal(out[~agree], images[~agree])


def test_a_probe_sees_images_as_it_was_trained(tmp_path: Path) -> None:
    images = torch.rand(9, 3, 40, 33)
    path = probe_file(tmp_path / "p.safetensors", channels=3, size=(24, 24), mean=[0.2], std=[0.7])
    torch.manual_seed(3)
    net = build("wrn_10_1", 10, 3).eval()
    small = F.interpolate(images, (24, 24), mode="bilinear", antialias=True)
    logits = net((small - 0.2) / 0.7)
    want = logits.argmax(dim=1)
    judge = Probe(path, "cpu")
    assert torch.equal(judge(images)[0], want)
    torch.testing.assert_close(judge(images)[1], logits.softmax(dim=1).amax(dim=1))
    grey = images[:, :1]
    assert torch.equal(judge(grey)[0], judge(grey.expand(-1, 3, -1, -1))[0])
    one = Probe(probe_file(tmp_path / "one.safetensors", size=(40, 33)), "cpu")
    luma = 0.299 * images[:, :1] + 0.587 * images[:, 1:2] + 0.114 * images[:, 2:]
    assert torch.equal(one(images)[0], one(luma)[0])


def test_a_probe_tells_what_the_trained_network_does(tmp_path: Path) -> None:
    recipe = {
        "version": 1,
        "sample": [{"resize": [24, 24]}, "horizontal_flip", {"normalize": "fashion_mnist"}],
        "train": {"model": "wrn_10_1", "steps": 3, "batch_size": 16},
    }
    augpipe.train(recipe, GARMENTS, tmp_path / "run", workers=0)
    path = tmp_path / "run" / "model.safetensors"
    model, judge = augpipe.load_model(path), Probe(path, "cpu")
    images = garments(10)[0].expand(-1, 3, -1, -1) / 255.0
    small = F.interpolate(images, (24, 24), mode="bilinear", antialias=True)
    with torch.no_grad():
        want = model((small - 0.2860) / 0.3530).argmax(dim=1)
    assert torch.equal(judge(images)[0], want)
    assert judge.classes == model.classes


def test_a_probe_need_not_know_more_than_the_dataset(tmp_path: Path) -> None:
    some = ["ankle_boot", "bag", "coat"]
    for name in some:
        (tmp_path / "in" / name).mkdir(parents=True)
        for path in sorted((GARMENTS / name).iterdir())[:4]:
            shutil.copy(path, tmp_path / "in" / name)
    path = tmp_path / "p.safetensors"
    net = build("wrn_10_1", 3, 1)
    net.fc.bias.data[1] += 1e6
    sees = {"size": [28, 28], "mean": [0.5], "std": [0.5], "after": []}
    header = {"model": "wrn_10_1", "channels": "1", "classes": json.dumps(some)}
    tensors = {name: each.clone() for name, each in net.state_dict().items()}
    write_tensors(path, tensors, {**header, "sees": json.dumps(sees)})
    own = pipe(p=1.0, probe=str(path))
    options = {"batch_size": 12, "workers": 0, "shuffle": False}
    images, labels = next(iter(own.loader(tmp_path / "in", **options)))
    plain, _ = next(iter(load({"version": 1}).loader(tmp_path / "in", **options)))
    changed = (images != plain).flatten(1).any(dim=1)
    assert changed.tolist() == (labels == 1).tolist()


def test_probes_that_cannot_probe(tmp_path: Path) -> None:
    images, labels = garments(2)
    path = tmp_path / "p.safetensors"
    probe_file(path, after=["equalize", "torchvision.RandomInvert"])
    with pytest.raises(DataError, match=r"sees images after equalize, torchvision\.RandomInvert"):
        Probe(path, "cpu")
    odd: list[dict[str, Any]] = [
        {"size": (0, 0)}, {"size": (28, 10**6)}, {"mean": [0.1, 0.2, 0.3]}, {"std": [0.0]},
        {"mean": [float("nan")]}, {"channels": 2},
    ]  # fmt: skip
    for each in odd:
        with pytest.raises(DataError, match="is not a model of augpipe train that can probe"):
            Probe(probe_file(path, **each), "cpu")
    probe_file(path)
    tensors, header = read_tensors(path)
    write_tensors(path, {**tensors, "fc.bias": torch.full((10,), torch.nan)}, header)
    with pytest.raises(DataError, match="holds weights that are NaN or infinite"):
        Probe(path, "cpu")
    path.write_bytes(b"\x80\x04pickle")
    with pytest.raises(DataError, match="is a pickle"):
        Probe(path, "cpu")
    save_net(path, "gan", *bundled())
    with pytest.raises(DataError, match="is not a model of augpipe train that can probe"):
        pipe(p=1.0, probe=str(path)).batch(images, labels, index=range(2))
    with pytest.raises(DataError, match=r"gone\.safetensors"):
        pipe(p=1.0, probe=str(tmp_path / "gone.safetensors")).batch(images, labels, index=range(2))


def test_what_a_test_sees_is_said() -> None:
    recipe = load(
        {
            "version": 1,
            "sample": [{"random_resized_crop": 24}, "rotate", {"equalize": {"p": 1}}],
            "batch": ["mixup", {"normalize": "cifar10"}],
        }
    ).recipe
    told = seen(recipe, (24, 24))
    assert told["after"] == ["equalize"] and told["size"] == [24, 24]
    assert told["mean"] == (0.4914, 0.4822, 0.4465)
    plain = seen(load({"version": 1, "sample": ["horizontal_flip"]}).recipe, (28, 28))
    assert plain == {"size": [28, 28], "mean": (0.0,), "std": (1.0,), "after": []}
