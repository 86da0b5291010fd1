"""`latent_noise` and the bundled autoencoder: on batches, on single images, in expansion."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from augpipe.cli.main import main
from augpipe.errors import DataError
from augpipe.ir import Latent
from augpipe.learned.autoencoder import Autoencoder
from augpipe.learned.noise import KINDS, noised, normals
from augpipe.learned.weights import load_net, save_net
from augpipe.pipeline import Pipeline, load
from augpipe.plan.nodes import realise
from augpipe.rng import Draws
from augpipe.types import Frame
from tests.harness import ROOT

GARMENTS = sorted((ROOT / "samples" / "garments").rglob("*.png"))


def garments(count: int = 8) -> torch.Tensor:
    arrays = [np.asarray(Image.open(path).convert("L")) for path in GARMENTS[:count]]
    return torch.from_numpy(np.stack(arrays))[:, None]


def pipe(section: str = "batch", **fields: Any) -> Pipeline:
    return load({"version": 1, "seed": 4, section: [{"latent_noise": fields}]})


def bundled() -> tuple[Autoencoder, dict[str, Any]]:
    return load_net("bundled", "autoencoder", Autoencoder)


# ---------------------------------------------------------------- the bundled weights


def test_the_bundled_file_is_small_and_says_what_it_is() -> None:
    _, about = bundled()
    path = ROOT / "augpipe" / "learned" / "weights" / "autoencoder.safetensors"
    assert path.stat().st_size <= 5_000_000
    assert about["fitted"]["seed"] == 0 and sum(about["fitted"]["images"].values()) == 63_260


def test_the_card_says_what_the_file_says() -> None:
    _, about = bundled()
    card = (ROOT / "augpipe" / "learned" / "weights" / "README.md").read_text()
    for row in about["rows"]:
        figures = [f"{row[name]:.{n}f}" for name, n in (("psnr", 2), ("pca", 2), ("ssim", 3))]
        assert f"| {' | '.join(figures)} |" in card, row


def test_bundled_weights_beat_principal_components_of_the_very_images() -> None:
    images = garments(len(GARMENTS))
    net, _ = bundled()
    with torch.no_grad():
        out = net(images / 255.0).clamp(0, 1).numpy()
    whole = images.numpy() / 255.0
    patches = whole.reshape(-1, 7, 4, 7, 4).transpose(0, 1, 3, 2, 4).reshape(-1, 16)
    model = PCA(8).fit(patches)
    linear = model.inverse_transform(model.transform(patches))
    linear = linear.reshape(-1, 7, 7, 4, 4).transpose(0, 1, 3, 2, 4).reshape(whole.shape)
    ours, theirs = (
        np.mean(
            [
                peak_signal_noise_ratio(a, b, data_range=1.0)
                for a, b in zip(whole, each, strict=True)
            ]
        )
        for each in (out, linear.clip(0, 1))
    )
    assert ours >= 30.0 and ours > theirs + 1.0


# ---------------------------------------------------------------- the op


@pytest.mark.parametrize("section", ["batch", "sample"])
@pytest.mark.parametrize("fields", [{"sigma": [0, 0]}, {"sigma": [0.5, 1.0], "p": 0.0}], ids=str)
def test_nothing_is_the_identity_to_the_bit(section: str, fields: dict[str, Any]) -> None:
    images = garments()
    if section == "batch":
        assert torch.equal(pipe(**fields).batch(images, index=range(8)), images)
        floats = images / 255.0
        assert torch.equal(pipe(**fields).batch(floats, index=range(8)), floats)
    else:
        for k, image in enumerate(images[:, 0].numpy()):
            assert np.array_equal(pipe("sample", **fields)(image, index=k), image)


@pytest.mark.parametrize("noise", KINDS)
@pytest.mark.parametrize("delta", [True, False])
def test_it_is_the_noise_of_its_own_draws(noise: str, delta: bool) -> None:
    images = garments()
    own = pipe(sigma=[0.2, 0.6], noise=noise, delta=delta, p=0.6)
    out = own.batch(images, index=range(8))
    frame = Frame(np.tile([28, 28], (8, 1)))
    (meaning,) = realise(own.batch_nodes, Draws(4, np.arange(8)), frame)
    assert isinstance(meaning, Latent)
    on, sigmas = meaning.on, meaning.amount
    assert 0 < on.sum() < 8 and ((sigmas >= 0.2) & (sigmas <= 0.6)).all()
    strength = torch.from_numpy(np.where(on, sigmas, 0.0)).float()
    expected = 255.0 * noised(bundled()[0], images / 255.0, meaning.key, strength, noise, delta)
    # Rounding; and sums of another batch size in the convolutions.
    assert (out.float() - expected).abs().max() <= 0.5 + 1e-2
    assert torch.equal(out[~on], images[~on])
    assert (out[on] != images[on]).float().mean() > 0.2


def test_sections_orders_batches_and_dtypes_agree() -> None:
    images = garments()
    fields: dict[str, Any] = {"sigma": [0.3, 0.6]}
    whole = pipe(**fields).batch(images, index=range(8))
    order = [5, 2, 7]
    some = pipe(**fields).batch(images[order], index=order)
    alone = [pipe("sample", **fields)(images[k, 0].numpy(), index=k) for k in range(8)]
    floats = pipe(**fields).batch(images / 255.0, index=range(8))
    # Convolutions sum in another order for another batch: a level where that crosses a half.
    assert (some.int() - whole[order].int()).abs().max() <= 1
    assert np.abs(np.stack(alone).astype(int) - whole[:, 0].numpy().astype(int)).max() <= 1
    assert (255 * floats - whole).abs().max() <= 0.5 + 1e-2


def test_an_image_that_may_not_be_written_to_stays_as_it_is() -> None:
    image = garments(1)[0, 0].numpy().copy()
    before = image.copy()
    image.flags.writeable = False
    out = pipe("sample", sigma=[0.5, 0.5])(image, index=0)
    assert np.array_equal(image, before) and not np.array_equal(out, before)


def test_alpha_stays_and_odd_sizes_work() -> None:
    images = torch.randint(0, 256, (2, 4, 13, 22), dtype=torch.uint8)
    out = pipe(sigma=[0.5, 0.5]).batch(images, index=[0, 1])
    assert out.shape == images.shape and torch.equal(out[:, 3], images[:, 3])
    assert not torch.equal(out[:, :3], images[:, :3])
    for size in ((1, 1), (1, 9), (3, 3)):
        pixels = torch.zeros((1, 3, *size), dtype=torch.uint8)
        assert pipe(sigma=[0.5, 0.5]).batch(pixels, index=[0]).shape == pixels.shape


def test_two_channels_are_refused() -> None:
    with pytest.raises(DataError, match=r"latent_noise#0: needs grey or RGB; .* 2 channels"):
        pipe().batch(torch.zeros((1, 2, 8, 8), dtype=torch.uint8), index=[0])


def test_own_weights_are_read_and_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "own.safetensors"
    images = garments(2)
    outs = []
    for scale in (0.5, 1.5):
        net, _ = bundled()
        net.std *= scale
        save_net(path, "autoencoder", net, {"scale": scale})
        outs.append(pipe(sigma=[1, 1], model=str(path)).batch(images, index=[0, 1]))
    assert not torch.equal(*outs)


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04pickle", b"\xff" * 8])
def test_bad_weights_are_named_with_their_place(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        pipe(sigma=[1, 1], model=str(path)).batch(garments(2), index=[0, 1])
    assert str(path) in str(caught.value)
    with pytest.raises(DataError) as caught:
        pipe("sample", sigma=[1, 1], model=str(path))(garments(1)[0, 0].numpy(), index=0)
    assert str(path) in str(caught.value)


# ---------------------------------------------------------------- images of one class


def drawn(own: Pipeline, count: int) -> Latent:
    frame = Frame(np.tile([28, 28], (count, 1)))
    (meaning,) = realise(own.batch_nodes, Draws(4, np.arange(count)), frame)
    assert isinstance(meaning, Latent)
    return meaning


@pytest.mark.parametrize("name", ["latent_interpolate", "latent_extrapolate"])
def test_neighbours_are_scikit_learns(name: str) -> None:
    images, labels = garments(24), torch.arange(24) % 3
    labels[5] = 7  # alone in its class
    item = {name: {"lam": [0.3, 0.6], "neighbours": 3, "delta": False}}
    own = load({"version": 1, "seed": 4, "batch": [item]})
    out, same = own.batch(images, labels, index=range(24))
    assert torch.equal(same, labels) and torch.equal(out[5], images[5])
    net, meaning = bundled()[0], drawn(own, 24)
    with torch.no_grad():
        z = net.encode(images / 255.0)
    sign = 1 if name == "latent_interpolate" else -1
    ranks = set()
    for k in (k for k in range(24) if k != 5):
        rows = np.flatnonzero((labels == labels[k]).numpy())
        flat = z.flatten(1).numpy().astype(np.float64)
        nearest = NearestNeighbors(n_neighbors=4).fit(flat[rows])
        found = rows[nearest.kneighbors(flat[[k]])[1][0]]
        candidates = [row for row in found if row != k]
        errors = []
        for row in candidates:
            with torch.no_grad():
                moved = z[k] + sign * meaning.amount[k] * (z[row] - z[k])
                expected = 255 * net.decode(moved[None].float(), images[:1]).clamp(0, 1)
            errors.append(float((out[k].float() - expected[0]).abs().max()))
        # Rounding; and sums of another batch size in the convolutions.
        assert min(errors) <= 0.5 + 1e-2
        ranks.add(int(np.argmin(errors)))
    assert ranks == {0, 1, 2}  # each of the three is chosen


def test_resampling_is_as_wide_as_the_class() -> None:
    images, labels = garments(24), torch.arange(24) % 2
    labels[7] = 5
    item = {"latent_class_resample": {"sigma": [0.5, 0.5], "delta": False}}
    own = load({"version": 1, "seed": 4, "batch": [item]})
    out, _ = own.batch(images, labels, index=range(24))
    assert torch.equal(out[7], images[7])
    net, meaning = bundled()[0], drawn(own, 24)
    with torch.no_grad():
        z = net.encode(images / 255.0)
        for k in (0, 1, 23):
            own_class = z[labels == labels[k]].double().numpy()
            spread = torch.from_numpy(own_class.std(axis=0)).float()
            n = normals(meaning.key[k : k + 1], z, tuple(z.shape[1:]))[0]
            expected = 255 * net.decode((z[k] + 0.5 * spread * n)[None], images[:1]).clamp(0, 1)
            # Rounding; variances are differences of float32 means.
            assert (out[k].float() - expected[0]).abs().max() <= 0.5 + 0.05


@pytest.mark.parametrize("name", ["latent_interpolate", "latent_extrapolate"])
def test_company_does_not_depend_on_the_order(name: str) -> None:
    images, labels = garments(12), torch.arange(12) % 2
    own = load({"version": 1, "seed": 4, "batch": [{name: [0.3, 0.6]}]})
    first, _ = own.batch(images, labels, index=range(12))
    order = [3, 0, 11, 7, 2, 5, 1, 4, 6, 8, 10, 9]
    again, _ = own.batch(images[order], labels[order], index=order)
    assert (again.int() - first[order].int()).abs().max() <= 1


@pytest.mark.parametrize("name", ["interpolate", "extrapolate", "class_resample"])
def test_company_needs_classes_and_zero_is_the_identity(name: str) -> None:
    images, labels = garments(6), torch.tensor([0, 0, 1, 1, -1, -1])
    own = load({"version": 1, "batch": [{f"latent_{name}": [0.5, 0.5]}]})
    with pytest.raises(DataError, match=f"latent_{name}#0: needs the images' classes"):
        own.batch(images, index=range(6))
    out, _ = own.batch(images, labels, index=range(6))
    changed = (out != images).flatten(1).any(dim=1)
    assert changed.tolist() == [True] * 4 + [False] * 2  # -1 is no class
    rows, _ = own.batch(images, torch.eye(2)[labels.clamp_min(0)], index=range(6))
    assert torch.equal(rows[2:4], out[2:4])
    off = load({"version": 1, "batch": [{f"latent_{name}": [0, 0]}]})
    assert torch.equal(off.batch(images, labels, index=range(6))[0], images)
    assert torch.equal(own.batch(images[:1], labels[:1], index=[0])[0], images[:1])


# ---------------------------------------------------------------- expansion


def test_it_expands_and_verifies(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("version: 1\nbatch:\n  - latent_noise: [0.3, 0.3]\n")
    outs = []
    for workers in ("1", "2"):
        out = tmp_path / workers
        folder = str(ROOT / "samples" / "garments")
        arguments = ["expand", str(recipe), folder, str(out), "--copies", "1"]
        assert main([*arguments, "--workers", workers]) == 0
        assert main(["verify", str(out)]) == 0
        outs.append({p.name: p.read_bytes() for p in out.rglob("*.png")})
    assert outs[0] == outs[1] and len(outs[0]) >= len(GARMENTS)


# ---------------------------------------------------------------- reports


def test_previews_and_rates_give_the_classes_that_are_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text("version: 1\nbatch:\n  - latent_interpolate: [0.4, 0.5]\n")
    folder, page = str(ROOT / "samples" / "garments"), tmp_path / "r.html"
    arguments = ["--samples", "20", "--variants", "1", "-o", str(page)]
    assert main(["preview", str(recipe), folder, *arguments]) == 0
    text = page.read_text()
    assert "Not shown" not in text and text.count("no change") < 10
    assert main(["bench", str(recipe), folder, "--seconds", "0.1"]) == 0
    assert "not measured" not in capsys.readouterr().out


def test_threads_do_not_import_torch_at_once() -> None:
    """They would find it half imported: the pipeline imports it before there are any."""
    code = (
        "import sys, augpipe\n"
        "item = {'latent_noise': [0.3, 0.3]}\n"
        "augpipe.load({'version': 1, 'sample': ['horizontal_flip']})\n"
        "assert 'torch' not in sys.modules\n"
        "augpipe.load({'version': 1, 'sample': [item]})\n"
        "assert 'augpipe.learned.latent' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
