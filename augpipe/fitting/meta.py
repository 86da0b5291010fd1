"""`augpipe fit meta`: from folders of classes to an augmentation network."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from augpipe.data.claim import claimed
from augpipe.fitting.choices import choices_for
from augpipe.fitting.controls import ControlTable, Items
from augpipe.fitting.labelled import Divided
from augpipe.fitting.pictures import draw_lines, grid
from augpipe.fitting.relaxed import RelaxedPolicy
from augpipe.fitting.task import CONTROL_STEPS, LR, SEEDS, check_counts, open_task
from augpipe.fitting.teaching import Augmenter, Lessons, Setting, Tick
from augpipe.learned.augmentation import LATENTS, PARTS, AugmentationNetwork, Made
from augpipe.learned.noise import normals
from augpipe.learned.weights import save_net
from augpipe.rng import Draws, stream_key

STEPS = 1500
_TINT, _DIRECTIONS, _PIXELS = 10.0, 32, 4096
_APART, _SPREAD = 0.05, 2.0  # least mean difference of two draws, of 0..1; weight of what lacks
_PAST, _GROUP, _FADES = 8, 8, 0.9  # snapshots; images that see one of them; weight by age
_NAMELESS = 0.1  # share of the images that are shown as of no class
_SHOWN = 8


@dataclass(frozen=True)
class MetaReport:
    """What an augmentation network is worth.

    Args:
        images: How many it was fitted to.
        seconds: Of fitting it.
        parameters: Of the network.
        table: The controls.
    """

    images: int
    seconds: float
    parameters: int
    table: ControlTable

    def __str__(self) -> str:
        return (
            f"{self.parameters:,} parameters, fitted to {self.images} images in "
            f"{self.seconds:.0f} s\n{self.table}"
        )


@dataclass(frozen=True)
class Guards:
    """What keeps an augmentation network from the ways in which it can win without being useful.

    Args:
        tint: Weight of the distance between the colours of the images before and after: without
            it all images may take one tint.
        spread: Weight of what two draws of one image lack in difference: without it every draw may
            be the same.
        lowpass: Whether the residual is low-passed: without that it may become adversarial noise.
    """

    tint: float = _TINT
    spread: float = _SPREAD
    lowpass: bool = True


class MetaAugmenter(Augmenter):
    """An augmentation network, and what it was some looks ago.

    The classifier learns from all of them, the later the more: a network that has moved on to
    another trick would else find the classifier forgetful (TeachAugment's buffer).

    Args:
        net: The network.
        guards: Which penalties there are.
    """

    rate = 1e-3

    def __init__(self, net: AugmentationNetwork, guards: Guards) -> None:
        super().__init__()
        self.net, self._guards = net, guards
        self.past = nn.ModuleList(copy.deepcopy(net) for _ in range(_PAST)).requires_grad_(False)
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    def take(self) -> None:
        """Keeps the network as it is now among those that the classifier learns from."""
        taken = self.get_buffer("taken")
        self.past[int(taken) % _PAST].load_state_dict(self.net.state_dict())
        taken += 1

    def show(self, images: Tensor, classes: Tensor, draws: Draws) -> Tensor:
        """Returns images as the network, or one of its past, makes them: by groups of eight."""
        count = int(self.get_buffer("taken"))
        known = min(count, _PAST)
        ages = _FADES ** np.arange(known + 1)
        chosen = draws.at("meta#past").choice("age", ages.tolist())[::_GROUP].repeat(_GROUP)
        out = images.clone()
        for age in np.unique(chosen[: len(images)]).tolist():
            rows = torch.from_numpy(np.flatnonzero(chosen[: len(images)] == age))
            net: Any = self.past[(count - age) % _PAST] if age else self.net
            some = Draws(draws.seed, draws.indices[rows.numpy()], draws.epoch)
            out[rows] = 255 * _made(net, images[rows], classes[rows], some, "shown").images
        return out

    def attempt(
        self, images: Tensor, classes: Tensor, draws: Draws, done: float
    ) -> tuple[Tensor, Tensor]:
        """Returns augmented images and the penalties: of one tint, of no variety."""
        # The same parts act in both: it is the noise that is to make the difference.
        made, other = (
            _made(self.net, images, classes, draws, name, gates="one") for name in ("one", "other")
        )
        penalty = self.tint(images / 255, made.coloured, draws)
        apart = (made.images - other.images).abs().mean(dim=(1, 2, 3))
        return 255 * made.images, penalty + self._guards.spread * (_APART - apart).relu().mean()

    def tint(self, images: Tensor, coloured: Tensor, draws: Draws) -> Tensor:
        """Returns the sliced Wasserstein distance of the batch's colours, squared, weighted.

        The mean over random directions of the mean squared difference of sorted projections.
        """
        generator = torch.Generator().manual_seed(
            stream_key(int(draws.indices[0]), "tint", "") >> 1
        )
        channels = images.shape[1]
        flat = [each.transpose(0, 1).flatten(1) for each in (images, coloured)]
        at = torch.randint(0, flat[0].shape[1], (_PIXELS,), generator=generator)
        ways = torch.randn(_DIRECTIONS, channels, generator=generator)
        ways = ways / ways.norm(dim=1, keepdim=True)
        before, after = ((ways @ each[:, at]).sort(dim=1).values for each in flat)
        return self._guards.tint * (before - after).square().mean()

    @torch.no_grad()
    def told(self) -> dict[str, Any]:
        """Returns how often each part acts, over the classes."""
        shares = self.net.gates.weight[: self.net.classes].sigmoid().mean(dim=0)
        return dict(zip(PARTS, shares.tolist(), strict=True))


def _made(
    net: AugmentationNetwork,
    images: Tensor,
    classes: Tensor,
    draws: Draws,
    name: str,
    gates: str = "",
) -> Made:
    """Returns what a network makes of levels 0..255, by the draws' own noise.

    Some images are shown to it as of no class, so that it knows what to do with those.
    """
    acts = gates or name
    nameless = draws.at("meta#0").uniforms(f"{acts} nameless", 1)[:, 0] < _NAMELESS
    classes = classes.masked_fill(torch.from_numpy(nameless), net.classes)
    noise = normals(draws.at("meta#0").key(name), images, (LATENTS,))
    u = draws.at("meta#0").uniforms(f"{acts} gates", len(PARTS)).clip(1e-6, 1 - 1e-6)
    out: Made = net(images / 255, classes, noise, torch.from_numpy(u).to(noise))
    return out


def fit_meta(
    data: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    size: int | None = None,
    side: int | None = None,
    steps: int = STEPS,
    lr: float = LR,
    seed: int = 0,
    seeds: int = SEEDS,
    control_steps: int = CONTROL_STEPS,
    controls: str | Path | None = None,
    jobs: int | None = None,
    tick: Tick | None = None,
    say: Callable[[str], None] | None = None,
) -> MetaReport:
    """Fits an augmentation network to images of classes and writes its weights.

    In a folder beside `out` (meta-fit for meta.safetensors) are: samples/ (images and what is made
    of them, each 100 steps), meta.png (scores, the teacher's accuracies and how often each part
    acts, over the steps), state.safetensors, from which the same call goes on to the same weights,
    and controls/, the runs of the table.

    The table is that of `fit_policy`, with the op `meta` in every other image for the learned row.

    Args:
        data: Class folders, in splits or not, or IDX files; a tenth is held out if there is no
            validation split. Test images are not looked at.
        out: The safetensors file to write.
        base: A recipe whose sample section stands before; flip and crop when left out.
        size: How many training images, in the classes' proportions; all when left out.
        side: Of the square images are shrunk and cut to, in pixels; their own when left out.
        steps: Of the classifier.
        lr: The highest learning rate of that classifier.
        seed: Of first weights, order and draws.
        seeds: Of each row of the table.
        control_steps: Of each of its runs.
        controls: Where these runs are kept; what another fit to the same images left there is not
            run again. In the folder beside `out` when left out.
        jobs: Of these runs, how many at a time; one a core when left out.
        tick: Is told of each step.
        say: Is told, line by line, what goes on.

    Raises:
        UsageError: The data or the settings cannot be used, or the kept state is of another fit.
        DataError: An image cannot be read, or a class has fewer than ten images.
        DivergedError: A loss or a weight became NaN or infinite: `out` has the weights of the last
            look, if there was one.
    """
    check_counts(steps, control_steps, seeds, lr)
    say = say or (lambda line: None)
    out = Path(out)
    task = open_task(data, out, base, size, side, seed, controls)
    divided, classes = task.data, list(task.data.train.classes)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)  # noqa: TID251 - first weights
        net = AugmentationNetwork(len(classes), task.channels)
    augmenter = MetaAugmenter(net, Guards())
    about = {"classes": classes, "images": len(divided.train), "identity": divided.identity}
    with claimed(task.folder):
        setting = Setting(steps, lr=lr, seed=seed)
        lessons = Lessons(divided, augmenter, task.base, setting, task.folder, "meta")

        def look(step: int) -> None:
            augmenter.take()
            save_net(out, "meta", net, {**about, "step": step, "seed": seed})
            _look(step, lessons, net, divided, task.folder)

        lessons.looks.append(look)
        task.teach(lessons, tick, say, control_steps, jobs)
        save_net(out, "meta", net, {**about, "step": steps, "seed": seed})
        rows: dict[str, tuple[Items, Items]] = {
            "uniform policy": (RelaxedPolicy(choices_for(task.channels)).items(), ()),
            "meta": ((), [{"meta": {"model": str(out), "p": 0.5}}]),
        }
        table = task.judge(rows, seeds, control_steps, jobs, say)
        count = sum(each.numel() for each in net.parameters())
        report = MetaReport(len(divided.train), lessons.seconds, count, table)
        noted = {"step": steps, "seed": seed, "report": table.noted()}
        save_net(out, "meta", net, {**about, **noted})
    return report


@torch.no_grad()
def _look(
    step: int, lessons: Lessons, net: AugmentationNetwork, data: Divided, folder: Path
) -> None:
    """Draws images and what is made of them, and the fit so far."""
    at = torch.linspace(0, len(data.train) - 1, _SHOWN).long()
    images, classes = data.train.images[at].float(), data.train.targets[at]
    rows = [images]
    for epoch in range(_SHOWN - 1):
        draws = Draws(0, np.arange(_SHOWN), epoch)
        rows.append(255 * _made(net, images, classes, draws, "shown").images)
    laid = torch.stack(rows, dim=1).flatten(0, 1).round().to(torch.uint8)
    path = folder / "samples" / f"{step:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    grid(laid, _SHOWN).save(path)
    if len(lessons.history) > 1:
        draw_lines(
            folder / "meta.png",
            lessons.history,
            {
                "score": ("score",),
                "accuracy of the teacher": ("teacher", "teacher_augmented"),
                "its weight": ("weight",),
                "how often a part acts": PARTS,
            },
        )
