"""`augpipe fit autoencoder`: it beats the principal components, goes on, refuses what it must."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from augpipe.cli.main import main
from augpipe.errors import AugpipeError, DataError, UsageError
from augpipe.fitting import autoencoder as fitting
from augpipe.fitting.autoencoder import fit_autoencoder, moved_in_part, quality
from augpipe.fitting.images import divided, open_sources
from augpipe.learned.autoencoder import Autoencoder
from augpipe.learned.weights import load_net
from augpipe.tensors import read_tensors

SMALL: dict[str, Any] = {"steps": 4, "batch_size": 4}


def smooth(height: int, width: int, seed: int) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Twenty images of several sizes, some of them grey."""
    found = tmp_path / "things"
    found.mkdir()
    for k in range(20):
        image = smooth(60 + 3 * (k % 4), 70, k)
        (image.convert("L") if k % 5 == 0 else image).save(found / f"{k}.png")
    return found


def stop_at(step: int) -> Callable[[int, int, float], None]:
    def tick(now: int, last: int, loss: float) -> None:
        if now == step:
            raise KeyboardInterrupt

    return tick


def test_it_beats_the_principal_components(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "ae.safetensors"
    report = fit_autoencoder([folder], out, steps=60, batch_size=16)
    assert [row.side for row in report.rows] == [32, 64]
    assert all(row.psnr > row.pca + 0.2 for row in report.rows)
    net, about = load_net(out, "autoencoder", Autoencoder)
    assert report.parameters == sum(each.numel() for each in net.parameters())
    assert about["fitted"]["images"] == {f"{tmp_path.name}/things": 19}
    assert about["rows"][0]["psnr"] == report.rows[0].psnr
    assert (net.std > 0).all()


def test_psnr_is_scikit_images(folder: Path) -> None:
    net = Autoencoder()
    net.start(torch.rand(200, 48))
    images = torch.rand(3, 3, 24, 20)
    levels = (net(images).clamp(0, 1) * 255).round() / 255
    each = [
        peak_signal_noise_ratio(one.numpy(), other.detach().numpy(), data_range=1)
        for one, other in zip(images, levels, strict=True)
    ]
    psnr, ssim = quality(net, images)
    assert psnr == pytest.approx(np.mean(each), abs=1e-4)  # float32
    assert 0 < ssim < 1


def test_an_interrupted_fit_goes_on_to_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_KEPT_EVERY", 3)
    whole, parts = tmp_path / "whole.safetensors", tmp_path / "parts.safetensors"
    fit_autoencoder([folder], whole, steps=8, batch_size=4)
    with pytest.raises(KeyboardInterrupt):
        fit_autoencoder([folder], parts, steps=8, batch_size=4, tick=stop_at(5))
    assert not parts.exists()
    seen: list[int] = []
    fit_autoencoder(
        [folder], parts, steps=8, batch_size=4, tick=lambda now, last, loss: seen.append(now)
    )
    assert seen == [4, 5, 6, 7, 8]
    one, other = read_tensors(whole)[0], read_tensors(parts)[0]
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert sorted(each.name for each in tmp_path.glob("*.safetensors*")) == [parts.name, whole.name]


def test_what_is_left_of_another_fit_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_KEPT_EVERY", 1)
    out = tmp_path / "ae.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit_autoencoder([folder], out, tick=stop_at(2), **SMALL)
    with pytest.raises(UsageError, match=r"ae\.safetensors\.part: is of another fit"):
        fit_autoencoder([folder], out, seed=1, **SMALL)


def test_a_loss_that_is_no_number_stops_with_the_last_state_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "_KEPT_EVERY", 1)
    out = tmp_path / "ae.safetensors"
    with pytest.raises(AugpipeError, match=r"the loss is (nan|inf) at step \d: lower the lr"):
        fit_autoencoder([folder], out, lr=1e30, **SMALL)
    assert not out.exists()
    assert out.with_name("ae.safetensors.part").exists()


def test_latents_of_images_from_anywhere_in_the_batch_are_moved() -> None:
    latents = torch.randn(64, 8, 4, 4, generator=torch.Generator().manual_seed(1))
    hits = torch.zeros(64)
    for seed in range(300):
        difference = moved_in_part(latents, seed) - latents
        moved = difference.abs().amax(dim=(1, 2, 3)) > 0
        assert moved.sum() == 16
        hits += moved
        spread = difference[moved].std(dim=(1, 2, 3)) / latents.std()
        assert spread.amax() < 0.65  # 0.5 and five standard errors of it, and of the channels'
    # Each image is hit in a quarter of 300 cases; five standard deviations.
    assert (hits - 75).abs().max() < 5 * (300 * 0.25 * 0.75) ** 0.5


def test_held_out_images_are_no_others(folder: Path) -> None:
    (source,) = open_sources([folder])
    kept, out = divided(source, 0.05, 0)
    assert len(out) == 1
    assert sorted(kept + out) == list(range(20))
    assert divided(source, 0.05, 1)[1] != out or divided(source, 0.05, 2)[1] != out


def test_files_and_folders_together(folder: Path, tmp_path: Path) -> None:
    files = sorted(folder.glob("1*.png"))
    report = fit_autoencoder([folder, *files], tmp_path / "ae.safetensors", test=files[:2], **SMALL)
    assert [row.source for row in report.rows] == [f"2 files of {tmp_path.name}/things"] * 2
    assert "PSNR dB" in str(report)


def test_what_cannot_be_fitted_on(folder: Path, tmp_path: Path) -> None:
    out, empty = tmp_path / "ae.safetensors", tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="no such file or folder"):
        fit_autoencoder([tmp_path / "none"], out)
    with pytest.raises(UsageError, match="name a folder of images"):
        fit_autoencoder([], out)
    with pytest.raises(DataError, match="empty"):
        fit_autoencoder([empty], out)
    with pytest.raises(UsageError, match="batch_size 1: 2 folders have a share"):
        fit_autoencoder([folder, folder], out, batch_size=1)
    with pytest.raises(UsageError, match="precision float16: float32 or bfloat16"):
        fit_autoencoder([folder], out, precision="float16")
    with pytest.raises(UsageError, match="steps 0"):
        fit_autoencoder([folder], out, steps=0)
    (folder / "7.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"7\.png"):
        fit_autoencoder([folder], out, **SMALL)
    assert not out.exists()


def test_on_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "weights" / "ae.safetensors"
    args = ["fit", "autoencoder", str(folder), "-o", str(out)]
    assert main([*args, "--steps", "2", "--batch-size", "4", "--precision", "bfloat16"]) == 0
    said = capsys.readouterr()
    assert "928,240 parameters, 2 steps" in said.out
    assert said.err == ""
    about = json.loads(read_tensors(out)[1]["about"])
    assert about["fitted"]["precision"] == "bfloat16"
    assert main(["fit", "autoencoder", str(tmp_path / "x"), "-o", str(out)]) == 2
    assert "no such file or folder" in capsys.readouterr().err
