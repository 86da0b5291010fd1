"""`augpipe fit gan`: from folders of classes to the generator of `gan_replace` and `gan_generate`.

A discriminator D and a generator G, each told the class y of a real image x:

    L_D = E softplus(D(T x', y) - D(T x, y)) + γ/2 E(|∇D(T x, y)|² + |∇D(T x', y)|²),  x' = G(z, y)
    L_G = E softplus(D(T x, y) - D(T x', y))

Relativistic pairs of one class with both gradient penalties: R3GAN (arXiv 2501.05441); T are
differentiable augmentations, drawn anew for every image: DiffAugment (arXiv 2006.10738), with its
colour, translation and cutout through the batch section of a recipe. The penalties are taken every
fourth step at four times their strength (StyleGAN2, arXiv 1912.04958). What is kept of G is an
average of its weights over the steps.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import augpipe
from augpipe import recipe as recipes
from augpipe.data.claim import claimed
from augpipe.errors import AugpipeError, UsageError
from augpipe.fitting.discriminator import Discriminator
from augpipe.fitting.judging import GanReport, Judge, Make, to_levels
from augpipe.fitting.labelled import Divided, open_labelled
from augpipe.learned.generator import Generator
from augpipe.learned.weights import save_net
from augpipe.pipeline import Pipeline
from augpipe.rng import Draws, stream_key
from augpipe.tensors import load_tree, save_tree

_GAMMA, _LAZY = 0.2, 4
_LAST_RATE = 0.15  # of the learning rate: where its cosine ends
_HALF_LIFE, _RAMP = 20_000, 0.05  # images, of the averaged weights; and a share of those seen
_KEPT_EVERY = 500  # steps
_LEAST_APART = 0.8  # of `GanReport.memorisation`
_EARLY = 0.25  # share of the steps in which images are too far from real ones to say
_SHOWN, _PART = 10, 250
_LATENTS = 64
_DIFFERENTIABLE = (
    {"translate": {"x": [-0.125, 0.125], "y": [-0.125, 0.125]}},
    {"cutout": {"size": 0.5}},
)
_COLOUR = {"color_jitter": {"brightness": 0.5, "contrast": 0.5, "saturation": 1.0}}


@dataclass(frozen=True)
class Preset:
    """Sizes that fit a device.

    Args:
        width: Channels of the generator at full resolution.
        most: Channels of both networks, at most.
        batch_size: Real images in a step.
        images: Real images seen in all.
    """

    width: int
    most: int
    batch_size: int
    images: int


PRESETS = {
    "cpu": Preset(32, 128, 64, 448_000),
    "gpu": Preset(64, 256, 256, 2_000_000),
}


def fit_gan(
    data: str | Path,
    out: str | Path,
    *,
    size: int | None = None,
    side: int | None = None,
    preset: str = "cpu",
    steps: int | None = None,
    batch_size: int | None = None,
    lr: float = 1e-3,
    seed: int = 0,
    precision: str | None = None,
    device: str | None = None,
    tick: Callable[[int, int, float], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> GanReport:
    """Fits a class-conditional GAN to images and writes the generator's weights.

    In the folder named as `out` without its ending are: samples/ (a grid of the classes each 500
    steps), state.safetensors, from which the same call goes on to the same weights, real/ and
    generated/, the classifiers that judge (`real/model.safetensors` fits an op's `probe`).

    It stops early where generated images lie nearer to training images than 0.8 times what
    unseen real ones do, and keeps the weights of the last look at which they did not.

    Args:
        data: Class folders, in splits or not, or IDX files. A tenth is held out if there is no
            validation split.
        out: The safetensors file to write.
        size: How many training images, in the classes' proportions; all when left out.
        side: Of the square images are shrunk and cut to, in pixels; their own when left out.
        preset: cpu or gpu, see `PRESETS`.
        steps: Optimizer steps; the preset's when left out.
        batch_size: Real images in a step, likewise.
        lr: The highest learning rate.
        seed: Of first weights, batches, noise and augmentation.
        precision: float32 or bfloat16; what is fast on the device when left out.
        device: Where to compute; cpu or cuda by the preset when left out.
        tick: Is told of each step: its number, how many there are, and the discriminator's loss.
        say: Is told, line by line, what goes on.

    Raises:
        UsageError: The data or the settings cannot be used, or the kept state is of another fit.
        DataError: An image cannot be read, or a class has one image.
        AugpipeError: A loss became NaN or infinite: the last good weights are kept.
    """
    if preset not in PRESETS:
        raise UsageError(f"preset {preset}: one of {', '.join(PRESETS)}")
    if precision not in (None, "float32", "bfloat16"):
        raise UsageError(f"precision {precision}: float32 or bfloat16")
    sizes = PRESETS[preset]
    batch = batch_size or sizes.batch_size
    count = steps or max(1, sizes.images // batch)
    if count < 1 or batch < 1 or not lr > 0:
        raise UsageError(f"steps {count}, batch_size {batch}, lr {lr}: must be above 0")
    device = device or ("cuda" if preset == "gpu" else "cpu")
    precision = precision or ("bfloat16" if _has_bfloat16(device) else "float32")
    say = say or (lambda line: None)
    out = Path(out)
    folder = out.with_suffix("")
    if folder == out:
        raise UsageError(f"{out}: name a file, such as {out}.safetensors")
    divided = open_labelled(Path(data), size, side, seed)
    if batch > len(divided.train):
        raise UsageError(f"batch_size {batch} is more than the {len(divided.train)} images")
    with claimed(folder):
        fit = _Fit(divided, sizes, count, batch, lr, seed, precision, device, folder)
        fit.go_on()
        kind = "grey" if fit.channels == 1 else "RGB"
        say(
            f"{len(divided.train)} {kind} images of {fit.side} × {fit.side}, "
            f"{len(divided.train.classes)} classes; {count} steps of {batch} in {precision}"
        )
        say("a classifier of the real images, to judge by")
        judge = Judge(divided, folder, seed)
        if fit.step:
            say(f"going on after step {fit.step} of {count}")
        fit.run(judge, tick)
        if fit.stopped:
            say(f"stopped: {fit.stopped}")
        say("a classifier of generated images")
        report = judge.report(
            fit.make,
            steps=fit.step,
            seconds=fit.seconds,
            parameters=sum(each.numel() for each in fit.generator.parameters()),
            stopped=fit.stopped,
        )
        about = {"classes": list(divided.train.classes), "fitted": fit.about}
        told = {key: each for key, each in asdict(report).items() if key != "classes"}
        save_net(out, "gan", fit.best, {**about, "report": told})
    return report


def _has_bfloat16(device: str) -> bool:
    if device.startswith("cuda"):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return device == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class _Fit:
    """A fit on its way."""

    def __init__(
        self,
        data: Divided,
        sizes: Preset,
        steps: int,
        batch_size: int,
        lr: float,
        seed: int,
        precision: str,
        device: str,
        folder: Path,
    ) -> None:
        self.steps, self.seed, self.device, self.folder = steps, seed, device, folder
        self._batch, self._lr, self._precision = batch_size, lr, precision
        self._images, self._targets = data.train.images, data.train.targets
        self._classes = len(data.train.classes)
        self.channels, self.side = self._images.shape[1], self._images.shape[2]
        self.about: dict[str, Any] = {
            "images": len(data.train), "identity": data.identity, "side": self.side,
            "steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed,
            "precision": precision, "gamma": _GAMMA, "augpipe": augpipe.__version__,
        }  # fmt: skip
        self.step, self.seconds, self.stopped = 0, 0.0, ""
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)  # noqa: TID251 - first weights
            self.generator = Generator(
                self._classes, self.channels, self.side, _LATENTS, sizes.width, sizes.most
            )
            self._discriminator = Discriminator(
                self._classes, self.channels, self.side, 2 * sizes.width, sizes.most
            )
        for net in (self.generator, self._discriminator):
            net.to(device).to(memory_format=torch.channels_last)
        self._averaged = copy.deepcopy(self.generator)
        self.best = copy.deepcopy(self.generator)
        self._optimizers = [
            torch.optim.Adam(net.parameters(), lr, betas=(0.0, 0.99))
            for net in (self.generator, self._discriminator)
        ]
        colour = [_COLOUR] if self.channels == 3 else []
        content = {"version": 1, "seed": seed, "batch": [*colour, *_DIFFERENTIABLE]}
        self._augment = Pipeline(recipes.load(content)).batch.to(device)

    @property
    def _parts(self) -> dict[str, Any]:
        return {
            "generator": self.generator, "discriminator": self._discriminator,
            "averaged": self._averaged, "best": self.best,
            "generator_steps": self._optimizers[0], "discriminator_steps": self._optimizers[1],
        }  # fmt: skip

    @property
    def _kept(self) -> Path:
        return self.folder / "state.safetensors"

    def go_on(self) -> None:
        """Takes up what an interrupted fit has left.

        Raises:
            UsageError: It is of another fit.
        """
        if not self._kept.exists():
            return
        state, _ = load_tree(self._kept)
        if state.get("about") != self.about:
            raise UsageError(
                f"{self.folder}: holds another fit: finish or remove it, or name another out"
            )
        for name, each in self._parts.items():
            each.load_state_dict(state[name])
        self.step, self.seconds, self.stopped = state["step"], state["seconds"], state["stopped"]

    def _keep(self) -> None:
        state = {name: each.state_dict() for name, each in self._parts.items()}
        own = {"step": self.step, "seconds": self.seconds, "stopped": self.stopped}
        save_tree(self._kept, {"about": self.about, **state, **own})

    def run(self, judge: Judge, tick: Callable[[int, int, float], None] | None) -> None:
        """Does the steps that are left."""
        begun, before = time.monotonic(), self.seconds
        while self.step < self.steps and not self.stopped:
            loss = self._advance()
            self.seconds = before + time.monotonic() - begun
            if not math.isfinite(loss):
                raise AugpipeError(
                    f"the loss is {loss} at step {self.step + 1}: lower the lr ({self._lr:g}); "
                    f"the last good weights are in {self._kept}"
                )
            self.step += 1
            if self.step % _KEPT_EVERY == 0 or self.step == self.steps:
                self._look(judge)
                self._keep()
            if tick is not None:
                tick(self.step, self.steps, loss)

    def _look(self, judge: Judge) -> None:
        """Draws a grid; takes the averaged weights for the best, unless images are copies."""
        apart = judge.memorisation(self._made_by(self._averaged), self.step)
        early = self.step < _EARLY * self.steps
        if early or apart >= _LEAST_APART:
            self.best.load_state_dict(self._averaged.state_dict())
        else:
            self.stopped = (
                f"at step {self.step} images lie {apart:.2f} times as far from training images as "
                f"unseen ones do, below {_LEAST_APART}: the weights are those of "
                f"{_KEPT_EVERY} steps before"
            )
        classes = torch.arange(self._classes).repeat_interleave(_SHOWN)
        images = to_levels(self._made_by(self._averaged)(classes, 0))
        path = self.folder / "samples" / f"{self.step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grid(images, _SHOWN).save(path)

    def _advance(self) -> float:
        """Does one step of each network; returns the discriminator's loss without penalties."""
        real, classes = self._next()
        pair = torch.cat([classes, classes])
        rate = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        for each in self._optimizers:
            each.param_groups[0]["lr"] = self._lr * (_LAST_RATE + (1 - _LAST_RATE) * rate)
        with self._fast():
            with torch.no_grad():
                made = self.generator(self._noise(0), classes)
            seen = self._augmented(torch.cat([real, made.float()]), 0)
            penalized = self.step % _LAZY == 0
            scores = self._discriminator(seen.requires_grad_(penalized), pair).float()
            loss = relativistic(scores[self._batch :], scores[: self._batch])
            total = loss + _LAZY * _GAMMA / 2 * slopes(scores, seen) if penalized else loss
        self._descend(1, total)
        self._discriminator.requires_grad_(False)
        with self._fast():
            made = self.generator(self._noise(1), classes)
            seen = self._augmented(torch.cat([real, made.float()]), 1)
            scores = self._discriminator(seen, pair).float()
            total = relativistic(scores[: self._batch].detach(), scores[self._batch :])
        self._descend(0, total)
        self._discriminator.requires_grad_(True)
        self._average()
        return float(loss.detach() + 0 * total.detach())  # NaN where either is

    def _descend(self, which: int, loss: Tensor) -> None:
        optimizer = self._optimizers[which]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    @torch.no_grad()
    def _average(self) -> None:
        half_life = min(_HALF_LIFE, _RAMP * (self.step + 1) * self._batch)
        share = 1 - 0.5 ** (self._batch / half_life)
        pairs = zip(self._averaged.parameters(), self.generator.parameters(), strict=True)
        for mean, own in pairs:
            mean.lerp_(own, share)

    def _next(self) -> tuple[Tensor, Tensor]:
        """Returns this step's real images in 0..1 and their classes."""
        per_epoch = len(self._images) // self._batch
        epoch, at = divmod(self.step, per_epoch)
        draws = Draws(self.seed, np.array([epoch]), op="gan")
        order = draws.permutation("order", len(self._images))[0]
        rows = torch.from_numpy(order[at * self._batch :][: self._batch].copy())
        real = self._images[rows].to(self.device).float() / 255.0
        return real, self._targets[rows].to(self.device)

    def _noise(self, turn: int) -> Tensor:
        seed = stream_key(self.seed, "gan", f"noise {self.step} {turn}")
        generator = torch.Generator().manual_seed(seed >> 1)
        return torch.randn(self._batch, _LATENTS, generator=generator).to(self.device)

    def _augmented(self, images: Tensor, turn: int) -> Tensor:
        """Returns images in 0..1 as the discriminator sees them, from -1 to 1."""
        count = len(images)
        first = (2 * self.step + turn) * count
        seen: Tensor = self._augment(images, index=range(first, first + count))
        return 2.0 * seen - 1.0

    @contextmanager
    def _fast(self) -> Iterator[None]:
        kind = torch.device(self.device).type
        with torch.autocast(kind, torch.bfloat16, enabled=self._precision == "bfloat16"):
            yield

    @property
    def make(self) -> Make:
        """What makes images by the best weights."""
        return self._made_by(self.best)

    def _made_by(self, net: Generator) -> Make:
        @torch.no_grad()
        def make(classes: Tensor, seed: int) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            noise = torch.randn(len(classes), _LATENTS, generator=generator)
            parts = zip(*(torch.split(each, _PART) for each in (noise, classes)), strict=True)
            made = [net(z.to(self.device), y.to(self.device)).cpu() for z, y in parts]
            return torch.cat(made)

        return make


def relativistic(worse: Tensor, better: Tensor) -> Tensor:
    """Returns E softplus(worse - better), which is low where each pair is told apart."""
    return F.softplus(worse - better).mean()


def slopes(scores: Tensor, images: Tensor) -> Tensor:
    """Returns E |∇D(x, y)|² + E |∇D(x', y)|² of a batch of which half is real, half made.

    Args:
        scores: (2 n,), of which each depends on its own image alone.
        images: (2 n, C, h, w), what was scored.
    """
    (slope,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return 2 * slope.float().square().sum(dim=(1, 2, 3)).mean()


def grid(images: Tensor, columns: int) -> Image.Image:
    """Returns uint8 images (n, C, h, w) as one picture, `columns` of them in a row."""
    count, channels, height, width = images.shape
    rows = images.view(count // columns, columns, channels, height, width)
    laid = rows.permute(0, 3, 1, 4, 2).reshape(-1, columns * width, channels)
    return Image.fromarray(laid.squeeze(2).numpy() if channels == 1 else laid.numpy())
