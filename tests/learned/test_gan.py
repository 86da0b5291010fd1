"""`gan_replace` and its bundled generator."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from augpipe.cli.main import main
from augpipe.errors import DataError, RecipeError, UsageError
from augpipe.ir import Generated
from augpipe.learned.generator import Generator
from augpipe.learned.noise import normals
from augpipe.learned.weights import save_net
from augpipe.pipeline import Pipeline, load
from augpipe.plan.nodes import realise
from augpipe.rng import Draws
from augpipe.tensors import write_tensors
from augpipe.types import Frame
from tests.harness import ROOT
from tests.learned.gans import FILES, GARMENTS, bundled, garments, pipe


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
