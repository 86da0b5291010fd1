"""Fits the autoencoder of the latent ops and judges it.

python -m benchmarks.autoencoder --data DIR --out DIR

The data are clothing10/, photos_500x375/ and fashion_mnist/. Of the photos every fifth scene is
held out (a scene's crops are named SCENE_0, SCENE_1, ...). A classifier of Fashion-MNIST, which has
nothing to do with the autoencoder, says how often an image keeps its label when its latents are
moved: freely, and where another classifier, as `probe`, has to agree. What was interrupted goes
on; with --weights nothing is fitted.
"""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import augpipe
from augpipe.fitting.autoencoder import fit_autoencoder
from augpipe.fitting.images import open_sources, whole
from augpipe.learned.autoencoder import Autoencoder
from augpipe.learned.noise import KINDS, noised
from augpipe.learned.weights import load_net

STEPS, SEED = 24_000, 0
SCALES = (0.1, 0.25, 0.5, 1.0)
CONFIDENCE = 0.8  # the default of the ops
NAMES = ("judge", "probe")  # each with a seed, and a fifth of the images held out, of its own
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
def kept(
    net: Autoencoder,
    judge: nn.Module,
    images: Tensor,
    scale: float,
    kind: str,
    delta: bool,
    probe: nn.Module | None = None,
) -> float:
    """Returns how many of the judge's labels stay under latent noise; moves a probe may refuse."""
    same = 0
    for k, part in enumerate(images.split(100)):
        keys = np.arange(100 * k, 100 * k + len(part), dtype=np.uint64)
        moved = noised(net, part, keys, torch.full((len(part),), scale), kind, delta)
        if probe is not None:
            sure, shown = probe(moved).softmax(1).max(1)
            agrees = (shown == probe(part).argmax(1)) & (sure >= CONFIDENCE)
            moved = torch.where(agrees[:, None, None, None], moved, part)
        same += int((judge(moved).argmax(1) == judge(part).argmax(1)).sum())
    return same / len(images)


def main() -> None:
    """Fits, judges and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_RAW)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--weights", type=Path, help="of a fit that is done")
    chosen = parser.parse_args()
    data, out, garments = chosen.data, chosen.out, chosen.data / "fashion_mnist"
    fitted, held = photos(data / "photos_500x375")
    weights = chosen.weights or out / "autoencoder.safetensors"
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
    judge, probe = (classifier(garments, out / name, seed) for seed, name in enumerate(NAMES))
    net, _ = load_net(weights, "autoencoder", Autoencoder)
    (test,) = open_sources([garments], measure=True)
    images = whole(test, range(2000), None)
    print("labels kept, in %, by x + D(z') - D(z), by D(z'), and by the first where a probe agrees")
    for kind, scale in itertools.product(KINDS, SCALES):
        ways = ((True, None), (False, None), (True, probe))
        shares = (kept(net, judge, images, scale, kind, *way) for way in ways)
        said = "  ".join(f"{100 * each:5.1f}" for each in shares)
        print(f"{kind.rjust(8)} {scale:.2f}  {said}", flush=True)


def classifier(garments: Path, folder: Path, seed: int) -> nn.Module:
    """Returns a classifier of Fashion-MNIST, trained if it is not there."""
    if not (folder / "model.safetensors").exists():
        augpipe.train({**JUDGE, "seed": seed}, garments, folder)
    return augpipe.load_model(folder / "model.safetensors")


def _told(step: int, steps: int, loss: float) -> None:
    if step % 500 == 0:
        print(f"{step}/{steps}  log MSE {loss:.3f}", file=sys.stderr, flush=True)


_RAW = argparse.RawDescriptionHelpFormatter

if __name__ == "__main__":
    main()
