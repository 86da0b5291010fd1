"""`augpipe fit autoencoder`: from images to the autoencoder of the latent ops."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from augpipe.data.claim import claimed
from augpipe.errors import AugpipeError, UsageError
from augpipe.fitting.images import Source, Stream, crops, divided, open_sources, whole
from augpipe.learned.autoencoder import FACTOR, Autoencoder
from augpipe.learned.weights import save_net
from augpipe.tensors import load_tree, save_tree

SIDE = 32
"""Of the crops that it is fitted on, in pixels."""
_HELD_OUT = 0.05
_KEPT_EVERY = 500  # steps
_DECAY = 0.999  # of the averaged weights
_NOISY = 0.25  # share of a batch whose latents are moved before they are decoded
_FLOOR = 1e-4  # of the squared error: below it (40 dB) little more is to be won
_PATCHES, _MEASURED = 8, 32  # batches


@dataclass(frozen=True)
class Row:
    """How well images come back.

    Args:
        source: Which images.
        side: Of the square they were shrunk to, in pixels; None: as they are.
        count: How many.
        psnr: Mean over the images of -10 log10 of the mean squared error of uint8 levels / 255,
            in dB.
        ssim: Mean structural similarity, Gaussian window of 11 (Wang et al., 2004).
        pca: `psnr` of as many principal components of 4 x 4 patches.
    """

    source: str
    side: int | None
    count: int
    psnr: float
    ssim: float
    pca: float


@dataclass(frozen=True)
class Report:
    """What a fit came to.

    Args:
        rows: The images it was measured on.
        steps: Optimizer steps.
        seconds: Of fitting, all calls together.
        parameters: Of the network.
    """

    rows: tuple[Row, ...]
    steps: int
    seconds: float
    parameters: int

    def __str__(self) -> str:
        wide = max(6, *(len(row.source) for row in self.rows))
        lines = [
            f"{self.parameters:,} parameters, {self.steps} steps in {self.seconds:.0f} s",
            f"{'images'.ljust(wide)}  count  pixels  PSNR dB  PCA dB   SSIM",
        ]
        for row in self.rows:
            pixels = str(row.side or "all").rjust(6)
            figures = f"{row.psnr:7.2f}  {row.pca:6.2f}  {row.ssim:5.3f}"
            lines.append(f"{row.source.ljust(wide)}  {row.count:>5}  {pixels}  {figures}")
        return "\n".join(lines)


def fit_autoencoder(
    data: Sequence[str | Path],
    out: str | Path,
    *,
    test: Sequence[str | Path] = (),
    steps: int = 20_000,
    batch_size: int = 64,
    lr: float = 1.5e-3,
    seed: int = 0,
    precision: str = "float32",
    device: str = "cpu",
    tick: Callable[[int, int, float], None] | None = None,
) -> Report:
    """Fits an autoencoder to images and writes its weights.

    The loss is mean(log(MSE of each image + 1e-4)), which is the mean PSNR up to a constant and
    a floor; for a quarter of the images latents are moved by noise before they are decoded, so
    that the decoder takes noise. AdamW with a cosine to 0, averaged weights. Each half thousand
    steps the state is kept beside `out`: the same call goes on where an interrupted one stopped.

    Args:
        data: Folders of images, folders of IDX files, or image files; each folder gives as much
            of every batch.
        out: The safetensors file to write.
        test: Images to measure on, likewise; a twentieth of each folder is held out if none.
        steps: Optimizer steps.
        batch_size: Crops of 32 x 32 pixels in a step.
        lr: The highest learning rate.
        seed: Of first weights, crops and noise.
        precision: float32; or bfloat16, faster where the processor has it.
        device: Where to compute.
        tick: Is told of each step: its number, how many there are, and the loss.

    Raises:
        UsageError: The images or the settings cannot be used, or the kept state is of another fit.
        DataError: An image cannot be read.
        AugpipeError: The loss became NaN or infinite: the last state is kept.
    """
    if precision not in ("float32", "bfloat16"):
        raise UsageError(f"precision {precision}: float32 or bfloat16")
    if steps < 1 or batch_size < 1 or not lr > 0:
        raise UsageError(f"steps {steps}, batch_size {batch_size}, lr {lr}: must be above 0")
    sources = open_sources(data)
    if batch_size < len(sources):
        raise UsageError(f"batch_size {batch_size}: {len(sources)} folders have a share in a batch")
    out = Path(out)
    with claimed(out.parent):
        fit = _Fit(sources, steps, batch_size, lr, seed, precision, device, held=not test)
        kept = out.with_name(f"{out.name}.part")
        fit.go_on(kept)
        fit.run(kept, tick)
        net = fit.measured_net()
        tested = (
            [(each, range(len(each))) for each in open_sources(test, True)] if test else fit.out
        )
        rows = fit.rows(net, tested)
        count = sum(each.numel() for each in net.parameters())
        report = Report(tuple(rows), steps, fit.seconds, count)
        about = {"fitted": fit.about, "rows": [vars(row) for row in rows], "seconds": fit.seconds}
        save_net(out, "autoencoder", net, about)
        kept.unlink(missing_ok=True)
    return report


class _Fit:
    """A fit on its way."""

    def __init__(
        self,
        sources: Sequence[Source],
        steps: int,
        batch_size: int,
        lr: float,
        seed: int,
        precision: str,
        device: str,
        held: bool,
    ) -> None:
        self.steps, self.lr, self.seed, self.device = steps, lr, seed, device
        self.precision = precision
        divided_in_two = [divided(each, _HELD_OUT if held else 0.0, seed) for each in sources]
        self.out = [(s, o) for s, (_, o) in zip(sources, divided_in_two, strict=True)]
        shares = [batch_size // len(sources)] * len(sources)
        shares[0] += batch_size - sum(shares)
        self._parts = [
            (source, kept, share)
            for source, (kept, _), share in zip(sources, divided_in_two, shares, strict=True)
        ]
        self.about = {
            "images": {each.name: len(kept) for each, kept, _ in self._parts},
            "steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed,
            "precision": precision,
        }  # fmt: skip
        self.step, self.seconds = 0, 0.0
        with torch.random.fork_rng():
            torch.manual_seed(seed)  # noqa: TID251 - first weights
            self.net = Autoencoder()
        patches = self._stream(seed + 1)
        self.net.start(torch.cat([_patches(next(patches)) for _ in range(_PATCHES)]))
        self._pca = copy.deepcopy(self.net).eval()
        self.net.to(device).to(memory_format=torch.channels_last)
        self._averaged = copy.deepcopy(self.net)
        self._optimizer = torch.optim.AdamW(
            self.net.parameters(), lr, betas=(0.9, 0.99), weight_decay=0.0
        )
        self._batches = self._stream(seed)

    def _stream(self, seed: int) -> Stream:
        return Stream([crops(s, kept, SIDE, share, seed) for s, kept, share in self._parts])

    def go_on(self, path: Path) -> None:
        """Takes up what an interrupted fit has left.

        Raises:
            UsageError: It is of another fit.
        """
        if not path.exists():
            return
        state, _ = load_tree(path)
        if state.get("about") != self.about:
            raise UsageError(f"{path}: is of another fit: finish or remove it, or name another out")
        self.net.load_state_dict(state["net"])
        self._averaged.load_state_dict(state["averaged"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._batches.go_to(state["batches"])
        self.step, self.seconds = state["step"], state["seconds"]

    def keep(self, path: Path) -> None:
        """Writes all that is needed to go on."""
        state = {
            "about": self.about, "net": self.net.state_dict(),
            "averaged": self._averaged.state_dict(), "optimizer": self._optimizer.state_dict(),
            "batches": self._batches.state(), "step": self.step, "seconds": self.seconds,
        }  # fmt: skip
        save_tree(path, state)

    def run(self, path: Path, tick: Callable[[int, int, float], None] | None) -> None:
        """Does the steps that are left."""
        begun, before = time.monotonic(), self.seconds
        while self.step < self.steps:
            loss = self._advance()
            self.seconds = before + time.monotonic() - begun
            if not math.isfinite(loss):
                raise AugpipeError(
                    f"the loss is {loss} at step {self.step + 1}: lower the lr ({self.lr:g})"
                )
            self.step += 1
            if self.step % _KEPT_EVERY == 0:
                self.keep(path)
            if tick is not None:
                tick(self.step, self.steps, loss)

    def _advance(self) -> float:
        images = next(self._batches).to(self.device, memory_format=torch.channels_last)
        rise = min(1.0, (self.step + 1) / 100)
        share = rise * (1 + math.cos(math.pi * self.step / self.steps)) / 2
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr * share
        fast = torch.autocast(images.device.type, torch.bfloat16)
        with fast if self.precision == "bfloat16" else nullcontext():
            latents = self.net.encode(images)
            moved = moved_in_part(latents, self.seed * 2**32 + self.step)
            decoded = self.net.decode(moved, images)
        error = (decoded.float() - images).square().mean(dim=(1, 2, 3))
        loss = (error + _FLOOR).log().mean()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self._optimizer.step()
        decay = min(_DECAY, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for own, new in zip(self._averaged.parameters(), self.net.parameters(), strict=True):
                own.lerp_(new, 1 - decay)
        return loss.item()

    def measured_net(self) -> Autoencoder:
        """Returns the averaged network with the moments of its latents."""
        net: Autoencoder = copy.deepcopy(self._averaged).cpu().float().eval()
        batches = self._stream(self.seed + 2)
        net.measure(next(batches) for _ in range(_MEASURED))
        return net

    def rows(self, net: Autoencoder, parts: Sequence[tuple[Source, Sequence[int]]]) -> list[Row]:
        """Measures the network on some images."""
        found = []
        for source, indices in parts:
            for side in (None,) if source.is_small else (SIDE, 2 * SIDE):
                images = whole(source, indices, side)
                floor, _ = quality(self._pca, images)
                found.append(Row(source.name, side, len(images), *quality(net, images), floor))
        return found


def moved_in_part(latents: Tensor, seed: int) -> Tensor:
    """Moves the latents of some images of a batch by noise of up to half a deviation.

    Args:
        latents: (n, latents, h, w).
        seed: Of the choice of images and of the noise.
    """
    generator = torch.Generator().manual_seed(seed)
    count = round(_NOISY * len(latents))
    # Not the first ones: a batch is laid together source by source.
    rows = torch.randperm(len(latents), generator=generator)[:count].to(latents.device)
    noise = torch.randn((count, *latents.shape[1:]), generator=generator)
    noise *= 0.5 * torch.rand((count, 1, 1, 1), generator=generator)
    std = latents.detach().float().std(dim=(0, 2, 3), keepdim=True)
    return latents.index_add(0, rows, (noise.to(latents.device) * std).to(latents.dtype))


def _patches(images: Tensor) -> Tensor:
    return F.pixel_unshuffle(images, FACTOR).permute(0, 2, 3, 1).flatten(0, 2)


@torch.no_grad()
def quality(net: Autoencoder, images: Tensor) -> tuple[float, float]:
    """Returns the mean PSNR in dB and the mean SSIM of what comes back of (n, C, h, w) images."""
    from kornia.metrics import ssim

    psnr, similar = [], []
    for part in torch.split(images, 64):
        levels = (net(part).clamp(0, 1) * 255).round() / 255
        error = (levels - part).square().mean(dim=(1, 2, 3)).clamp_min(1e-10)
        psnr.append(-10 * error.log10())
        similar.append(ssim(levels, part, 11).mean(dim=(1, 2, 3)))
    return float(torch.cat(psnr).mean()), float(torch.cat(similar).mean())
