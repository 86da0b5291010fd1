"""The fit of an augmenter by a classifier and its teacher: its steps, its state.

A classifier f learns from augmented images T(x); a teacher f', the average of its weights, has
seen more and changes slower. The augmenter is to be hard for the one and fair to the other
(TeachAugment, arXiv 2202.12513, from the paper):

    f:  min  CE(f(T(x)), y)                                                     every step
    T:  min  w CE(f'(T(x)), y) - log(1 - p_f(y | T(x))) + penalties of T       every few steps

The first term is what keeps labels; w rises while the teacher tells fewer augmented images than
`_FAIR` of what it tells unaugmented, and falls while it tells more. How good an augmented image is
says the score

    q(x, T(x)) = [CE(f(T(x)), y) - CE(f(x), y)]+ - w [CE(f'(T(x)), y) - CE(f'(x), y)]+ :

what the classifier has yet to learn in it, less what is no longer there to be seen. It is noted.
The augmenter's loss above is TeachAugment's: it has no hinges, no terms of x alone, on which the
augmenter has no say, and in place of the classifier's loss -log(1 - p_f), which is bounded where
that grows without end.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import augpipe
from augpipe import recipe as recipes
from augpipe.errors import DivergedError
from augpipe.fitting.devices import has_bfloat16, one_thread
from augpipe.fitting.labelled import Divided
from augpipe.fitting.state import Resumable
from augpipe.networks.building import build
from augpipe.pipeline import Pipeline
from augpipe.rng import Draws

_MODEL = "wrn_10_1"
_MOMENTUM, _DECAY, _WARMUP = 0.9, 5e-4, 0.05
_AVERAGED = 0.99  # of the teacher's weights, kept at each step
_ALONE = 0.15  # share of the steps before the augmenter takes its first
_FAIR, _PULL = 0.9, 0.05
_WEIGHTS = (0.5, 4.0)  # w, from and to
_KEPT_EVERY = 100  # steps

Tick = Callable[[int, int, float], None]
"""Is told of each step: its number, how many there are, and the classifier's loss."""


class Augmenter(nn.Module):
    """What is fitted: it makes augmented images, and has penalties of its own."""

    rate: float
    """Of Adam's steps."""

    def show(self, images: Tensor, classes: Tensor, draws: Draws) -> Tensor:
        """Returns images (n, C, h, w) of levels 0..255 as the classifier is to learn from them."""
        raise NotImplementedError

    def attempt(
        self, images: Tensor, classes: Tensor, draws: Draws, done: float
    ) -> tuple[Tensor, Tensor]:
        """Returns augmented images and penalties, with gradients.

        Args:
            images: (n, C, h, w), levels.
            classes: (n,).
            draws: Of the n images.
            done: Share of the steps that are done.
        """
        raise NotImplementedError

    def told(self) -> dict[str, Any]:
        """Returns what is noted of its state, as JSON holds it."""
        return {}


@dataclass(frozen=True)
class Setting:
    """How a fit goes.

    Args:
        steps: Of the classifier.
        batch_size: Images in a step.
        every: Steps of the classifier for one of the augmenter.
        lr: The classifier's highest learning rate.
        seed: Of weights, order and draws.
        fair: Whether the teacher has a say (w > 0).
        hard: Whether the classifier's difficulty counts.
    """

    steps: int
    batch_size: int = 64
    every: int = 3
    lr: float = 0.1
    seed: int = 0
    fair: bool = True
    hard: bool = True


class Lessons(Resumable):
    """A fit on its way.

    Args:
        data: The images.
        augmenter: What is fitted.
        base: A recipe's ops that are done to every image before.
        setting: How.
        folder: Where the state is kept.
        about: What else decides the fit.

    Attributes:
        looks: Are called each 100 steps with the step.
    """

    plain = ("step", "seconds", "weight", "history")

    def __init__(
        self,
        data: Divided,
        augmenter: Augmenter,
        base: Sequence[Any],
        setting: Setting,
        folder: Path,
        about: Any = None,
    ) -> None:
        self.augmenter, self.setting, self.folder = augmenter, setting, folder
        self._images, self._targets = data.train.images, data.train.targets
        classes, channels = len(data.train.classes), self._images.shape[1]
        self.about: dict[str, Any] = {
            "images": len(data.train), "identity": data.identity, "setting": vars(setting),
            "base": json.dumps(list(base)), "augpipe": augpipe.__version__, "about": about,
        }  # fmt: skip
        self.step, self.seconds, self.weight = 0, 0.0, 1.0
        self.history: list[dict[str, Any]] = []
        self.looks: list[Callable[[int], None]] = []
        self._order: tuple[int, NDArray[np.int64]] = (-1, np.zeros(0, np.int64))
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(setting.seed)  # noqa: TID251 - first weights
            self.student = build(_MODEL, classes, channels)
        self.teacher = copy.deepcopy(self.student)
        self.teacher.requires_grad_(False)
        for net in (self.student, self.teacher):
            net.to(memory_format=torch.channels_last)
        self._learning = torch.optim.SGD(
            self.student.parameters(), setting.lr, _MOMENTUM, nesterov=True, weight_decay=_DECAY
        )
        self._augmenting = torch.optim.Adam(augmenter.parameters(), augmenter.rate)
        self._fast = has_bfloat16("cpu")
        content = {"version": 1, "seed": setting.seed, "batch": list(base)}
        self._base = Pipeline(recipes.load(content)).batch if base else None

    @property
    def parts(self) -> dict[str, Any]:
        """The networks and their optimizers."""
        return {
            "student": self.student, "teacher": self.teacher, "augmenter": self.augmenter,
            "learning": self._learning, "augmenting": self._augmenting,
        }  # fmt: skip

    def run(self, tick: Tick | None = None) -> None:
        """Does the steps that are left.

        Raises:
            DivergedError: A loss became NaN or infinite; the state of before is kept.
        """
        with one_thread():
            self._run(tick)

    def _run(self, tick: Tick | None) -> None:
        begun, before, last = time.monotonic(), self.seconds, self.setting.steps
        while self.step < last:
            loss = self._learn()
            begins = _ALONE * last <= self.step
            noted: dict[str, float] = {}
            if begins and self.step % self.setting.every == 0:
                noted = self._augment()
            looks = (self.step + 1) % _KEPT_EVERY == 0 or self.step + 1 == last
            self._check((loss, *noted.values()), weights=looks)
            self.step += 1
            self.seconds = before + time.monotonic() - begun
            if noted:
                self.history.append({"step": self.step, "loss": loss, **noted})
            if looks:
                if self.history:
                    self.history[-1].update(self.augmenter.told())
                for look in self.looks:
                    look(self.step)
                self.keep()
            if tick is not None:
                tick(self.step, last, loss)

    def _check(self, values: Sequence[float], weights: bool) -> None:
        """Stops a fit that has become NaN or infinite, before anything of it is kept.

        Raises:
            DivergedError: One of the values is, or some of the weights are.
        """
        nets = (self.student, self.teacher, self.augmenter) if weights else ()
        fine = all(bool(each.isfinite().all()) for net in nets for each in net.parameters())
        odd = [value for value in values if not math.isfinite(value)]
        if fine and not odd:
            return
        what = f"the loss is {odd[0]}" if odd else "weights are NaN or infinite"
        raise DivergedError(
            f"{what} at step {self.step + 1}: remove {self.folder} and lower the lr "
            f"({self.setting.lr:g})"
        )

    def _learn(self) -> float:
        """Does a step of the classifier; returns its loss."""
        images, classes, draws = self._next()
        rate = self.setting.lr * _share_of_rate(self.step, self.setting.steps)
        self._learning.param_groups[0]["lr"] = rate
        with torch.no_grad():
            shown = self.augmenter.show(images, classes, draws)
        self.student.train()
        loss = F.cross_entropy(self._told(self.student, shown), classes)
        self._learning.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._learning.step()
        with torch.no_grad():
            kept = min(_AVERAGED, (1 + self.step) / (10 + self.step))
            pairs = zip(self.teacher.parameters(), self.student.parameters(), strict=True)
            for mean, own in pairs:
                mean.lerp_(own, 1 - kept)
        return loss.item()

    def _augment(self) -> dict[str, float]:
        """Does a step of the augmenter; returns what is noted of it."""
        images, classes, draws = self._next(again=1)
        made, penalty = self.augmenter.attempt(
            images, classes, draws, self.step / self.setting.steps
        )
        with _still(self.student), _still(self.teacher):
            seen = [self._told(net, made) for net in (self.student, self.teacher)]
            with torch.no_grad():
                plain = [self._told(net, images) for net in (self.student, self.teacher)]
        hard, fair = (F.cross_entropy(each, classes, reduction="none") for each in seen)
        before = [F.cross_entropy(each, classes, reduction="none") for each in plain]
        loss = penalty
        if self.setting.fair:
            loss = loss + self.weight * fair.mean()
        if self.setting.hard:
            loss = loss + difficulty(seen[0], classes)
        self._augmenting.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._augmenting.step()
        right, kept = (
            float((each.argmax(dim=1) == classes).float().mean()) for each in (plain[1], seen[1])
        )
        score = (hard.detach() - before[0]).clamp_min(0) - self.weight * (
            fair.detach() - before[1]
        ).clamp_min(0)
        noted = {
            "augmenter": loss.item(), "score": score.mean().item(), "teacher": right,
            "teacher_augmented": kept, "weight": self.weight,
        }  # fmt: skip
        moved = self.weight + _PULL * (_FAIR * right - kept)
        self.weight = min(max(moved, _WEIGHTS[0]), _WEIGHTS[1])
        return noted

    def _told(self, net: nn.Module, levels: Tensor) -> Tensor:
        """Returns the logits of images of levels, computed in narrow numbers where that is fast."""
        shown = (levels / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._fast):
            logits: Tensor = net(shown)
        return logits.float()

    def _next(self, again: int = 0) -> tuple[Tensor, Tensor, Draws]:
        """Returns this step's images as levels, their classes and their draws."""
        count = min(self.setting.batch_size, len(self._images))
        per_epoch = max(len(self._images) // count, 1)
        epoch, at = divmod(self.step, per_epoch)
        if self._order[0] != epoch:
            draws = Draws(self.setting.seed, np.array([epoch]), op="lessons")
            self._order = epoch, draws.permutation("order", len(self._images))[0]
        rows = torch.from_numpy(self._order[1][at * count :][:count].copy())
        images = self._images[rows]
        first = (2 * self.step + again) * count
        index = np.arange(first, first + count)
        if self._base is not None:
            images = self._base(images, index=index)
        # The base drew in epoch 0: ops of one name would else draw the same numbers here.
        return images.float(), self._targets[rows], Draws(self.setting.seed, index, epoch=1)


def difficulty(logits: Tensor, classes: Tensor) -> Tensor:
    """Returns the mean of -log(1 - p(y)): low where a classifier fails.

    As log Σ_k exp(l_k) - log Σ_{k ≠ y} exp(l_k), whose gradient holds where p(y) is next to 1.
    """
    others = logits.scatter(1, classes[:, None], -torch.inf)
    return (logits.logsumexp(dim=1) - others.logsumexp(dim=1)).mean()


def _share_of_rate(step: int, steps: int) -> float:
    """Returns the learning rate as a share of the highest: it rises, then falls as a cosine."""
    rise = max(round(_WARMUP * steps), 1)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))


@contextmanager
def _still(net: nn.Module) -> Iterator[None]:
    """Has a network take the batch's statistics and not note them; weights get no gradient."""
    norms = [each for each in net.modules() if isinstance(each, nn.BatchNorm2d)]
    before = [each.momentum for each in norms]
    own = [each for each in net.parameters() if each.requires_grad]
    for each in norms:
        each.momentum = 0.0
    for weight in own:
        weight.requires_grad_(False)
    net.train()
    try:
        yield
    finally:
        for each, momentum in zip(norms, before, strict=True):
            each.momentum = momentum
        for weight in own:
            weight.requires_grad_(True)
