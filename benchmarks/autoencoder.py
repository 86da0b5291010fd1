"""Fits the bundled autoencoder and judges it: augpipe/learned/weights/README.md.

python -m benchmarks.autoencoder --data DIR --out DIR

DATA holds clothing10/, photos_500x375/ and fashion_mnist/. Of the photos every fifth scene is held
out (a scene's crops are named SCENE_0, SCENE_1, ...). A classifier of Fashion-MNIST, which has
nothing to do with the autoencoder, says how often an image keeps its label when its latents are
moved. What was interrupted goes on.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import augpipe
from augpipe.fitting.autoencoder import fit_autoencoder
from augpipe.fitting.images import open_sources, whole
from augpipe.learned.autoencoder import Autoencoder
from augpipe.learned.weights import load_net

STEPS, SEED = 20_000, 0
SCALES = (0.1, 0.25, 0.5, 1.0)
JUDGE = {
    "version": 1,
    "sample": ["horizontal_flip", {"random_crop": {"size": 28, "padding": 2}}, "to_float"],
    "train": {"model": "wrn_10_1", "epochs": 3, "batch_size": 64, "lr": 0.1},
}


def photos(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns the photos to fit on and those of every fifth scene."""
    files = sorted(folder.glob("*.jpg"))
    scenes = sorted({_scene(each) for each in files})
    held = set(scenes[::5])
    return [p for p in files if _scene(p) not in held], [p for p in files if _scene(p) in held]


def _scene(path: Path) -> str:
    return re.sub(r"_\d+$", "", path.stem)


@torch.no_grad()
def kept(net: Autoencoder, judge: nn.Module, images: Tensor, scale: float) -> tuple[float, float]:
    """Returns how many labels stay under latent noise: x + D(z') - D(z), and D(z') alone."""
    generator = torch.Generator().manual_seed(SEED)
    delta, plain, count = 0, 0, 0
    for part in images.split(100):
        latents = net.encode(part)
        noise = torch.randn(latents.shape, generator=generator)
        moved = latents + scale * net.std[:, None, None] * noise
        decoded = net.decode(moved, part)
        said = judge(part).argmax(1)
        shifted = (part + decoded - net.decode(latents, part)).clamp(0, 1)
        delta += int((judge(shifted).argmax(1) == said).sum())
        plain += int((judge(decoded.clamp(0, 1)).argmax(1) == said).sum())
        count += len(part)
    return delta / count, plain / count


def main() -> None:
    """Fits, judges and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_RAW)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    chosen = parser.parse_args()
    data, out, garments = chosen.data, chosen.out, chosen.data / "fashion_mnist"
    fitted, held = photos(data / "photos_500x375")
    weights = out / "autoencoder.safetensors"
    if not weights.exists():
        report = fit_autoencoder(
            [data / "clothing10" / "train", *fitted, garments],
            weights,
            test=[data / "clothing10" / "test", *held, garments],
            steps=chosen.steps,
            seed=SEED,
            precision="bfloat16",
            tick=_told,
        )
        print(report, flush=True)
    if not (out / "judge" / "model.safetensors").exists():
        augpipe.train(JUDGE, garments, out / "judge")
    judge = augpipe.load_model(out / "judge" / "model.safetensors")
    net, _ = load_net(weights, "autoencoder", Autoencoder)
    (test,) = open_sources([garments], measure=True)
    images = whole(test, range(2000), None)
    print("latent noise, labels kept: x + D(z') - D(z), D(z')")
    for scale in SCALES:
        print(
            f"{scale:5.2f} "
            + "  ".join(f"{100 * each:5.1f} %" for each in kept(net, judge, images, scale)),
            flush=True,
        )


def _told(step: int, steps: int, loss: float) -> None:
    if step % 500 == 0:
        print(f"{step}/{steps}  log MSE {loss:.3f}", file=sys.stderr, flush=True)


_RAW = argparse.RawDescriptionHelpFormatter

if __name__ == "__main__":
    main()
