"""The fit of a conditional GAN: its steps, its state, when it stops.

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
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import augpipe
from augpipe import recipe as recipes
from augpipe.errors import DivergedError
from augpipe.fitting.discriminator import Discriminator
from augpipe.fitting.judging import Judge, Make, to_levels
from augpipe.fitting.labelled import Divided
from augpipe.fitting.pictures import grid
from augpipe.fitting.state import Resumable
from augpipe.learned.generator import Generator
from augpipe.pipeline import Pipeline
from augpipe.rng import Draws, stream_key

_GAMMA, _LAZY = 0.05, 4
_LAST_RATE = 0.15  # of the learning rate: where its cosine ends
_HALF_LIFE, _RAMP = 20_000, 0.05  # images, of the averaged weights; and a share of those seen
_KEPT_EVERY = 500  # steps
_LEAST_APART = 0.8  # of `GanReport.memorisation`
_EARLY = 0.25  # share of the steps in which images are too far from real ones to say
_SHOWN, _PART = 10, 250
_LATENTS = 64
_CHECKED_EVERY = 50  # steps, on a device that a check would wait for
_DIFFERENTIABLE = (
    {"translate": {"x": [-0.125, 0.125], "y": [-0.125, 0.125]}},
    {"cutout": {"size": 0.5, "p": 0.5}},
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


class AdversarialFit(Resumable):
    """A fit on its way."""

    plain = ("step", "seconds", "stopped", "best_step")

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
            "precision": precision, "gamma": _GAMMA, "width": sizes.width, "most": sizes.most,
            "augpipe": augpipe.__version__,
        }  # fmt: skip
        self.step, self.seconds, self.stopped, self.best_step = 0, 0.0, "", 0
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))
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
    def parts(self) -> dict[str, Any]:
        """The networks and their optimizers."""
        return {
            "generator": self.generator, "discriminator": self._discriminator,
            "averaged": self._averaged, "best": self.best,
            "generator_steps": self._optimizers[0], "discriminator_steps": self._optimizers[1],
        }  # fmt: skip

    @property
    def named(self) -> str:
        """Names the fit, for what is made of it."""
        said = json.dumps(self.about, sort_keys=True)
        return hashlib.blake2b(said.encode(), digest_size=8).hexdigest()

    def run(self, judge: Judge, tick: Callable[[int, int, Tensor], None] | None) -> None:
        """Does the steps that are left."""
        begun, before = time.monotonic(), self.seconds
        while self.step < self.steps and not self.stopped:
            told = self._advance()
            self.seconds = before + time.monotonic() - begun
            looks = (self.step + 1) % _KEPT_EVERY == 0 or self.step + 1 == self.steps
            if looks or self.device == "cpu" or self.step % _CHECKED_EVERY == 0:
                self._check(told, weights=looks)
            self.step += 1
            if looks:
                self._look(judge)
                self.keep()
            if tick is not None:
                tick(self.step, self.steps, told)

    def _check(self, loss: Tensor, weights: bool) -> None:
        """Stops a fit that has become NaN or infinite, before anything of it is kept.

        Raises:
            DivergedError: The loss is, or some of the weights are.
        """
        nets = (self.generator, self._discriminator, self._averaged) if weights else ()
        fine = all(bool(each.isfinite().all()) for net in nets for each in net.parameters())
        value = float(loss)
        if fine and math.isfinite(value):
            return
        what = f"the loss is {value}" if fine else "weights are NaN or infinite"
        raise DivergedError(f"{what} at step {self.step + 1}: lower the lr ({self._lr:g})")

    def _look(self, judge: Judge) -> None:
        """Draws a grid; takes the averaged weights for the best, unless images are copies."""
        apart = judge.memorisation(self._made_by(self._averaged), self.step)
        early = self.step < _EARLY * self.steps or not self.best_step
        if early or apart >= _LEAST_APART:
            self.best.load_state_dict(self._averaged.state_dict())
            self.best_step = self.step
        else:
            self.stopped = (
                f"at step {self.step} images lie {apart:.2f} times as far from training images as "
                f"unseen ones do, below {_LEAST_APART}: the weights are those of step "
                f"{self.best_step}"
            )
        classes = torch.arange(self._classes).repeat_interleave(_SHOWN)
        images = self._made_by(self._averaged)(classes, 0)
        path = self.folder / "samples" / f"{self.step:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        grid(images, _SHOWN).save(path)

    def _advance(self) -> Tensor:
        """Does one step of each network.

        Returns:
            The discriminator's loss without penalties; NaN where the generator's is NaN, or its
            images are.
        """
        real, classes = self._next()
        pair = torch.cat([classes, classes])
        rate = 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        for each in self._optimizers:
            each.param_groups[0]["lr"] = self._lr * (_LAST_RATE + (1 - _LAST_RATE) * rate)
        with self._fast():
            with torch.no_grad():
                made = self.generator(self._noise(0), classes).float()
            if self.device == "cpu" and not made.isfinite().all():
                return made.sum()  # which no augmentation takes
            seen = self._augmented(torch.cat([real, made]), 0)
            penalized = self.step % _LAZY == 0
            scores = self._discriminator(seen.requires_grad_(penalized), pair).float()
            loss = total = relativistic_loss(scores[self._batch :], scores[: self._batch])
            if penalized:
                total = loss + _LAZY * _GAMMA / 2 * gradient_penalty(scores, seen)
        self._descend(1, total)
        self._discriminator.requires_grad_(False)
        with self._fast():
            made = self.generator(self._noise(1), classes).float()
            seen_real, seen_made = self._augmented(torch.cat([real, made]), 1).chunk(2)
            with torch.no_grad():
                on_real = self._discriminator(seen_real, classes).float()
            on_made = self._discriminator(seen_made, classes).float()
            total = relativistic_loss(on_real, on_made)
        self._descend(0, total)
        self._discriminator.requires_grad_(True)
        self._average()
        return loss.detach() + 0 * total.detach()

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
        if self._order[0] != epoch:
            draws = Draws(self.seed, np.array([epoch]), op="gan")
            self._order = epoch, draws.permutation("order", len(self._images))[0]
        rows = torch.from_numpy(self._order[1][at * self._batch :][: self._batch].copy())
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
            made = (net(z.to(self.device), y.to(self.device)) for z, y in parts)
            return torch.cat([to_levels(each).cpu() for each in made])

        return make


def relativistic_loss(worse: Tensor, better: Tensor) -> Tensor:
    """Returns E softplus(worse - better), which is low where each pair is told apart."""
    return F.softplus(worse - better).mean()


def gradient_penalty(scores: Tensor, images: Tensor) -> Tensor:
    """Returns E |∇D(x, y)|² + E |∇D(x', y)|² of a batch of which half is real, half made.

    Args:
        scores: (2 n,), of which each depends on its own image alone.
        images: (2 n, C, h, w), what was scored.
    """
    (slope,) = torch.autograd.grad(scores.sum(), images, create_graph=True)
    return 2 * slope.float().square().sum(dim=(1, 2, 3)).mean()
