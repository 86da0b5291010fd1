"""How images leave: as float32, normalized or not. These ops end a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np

from augpipe import ir
from augpipe.ir import Meaning
from augpipe.ops.base import Op
from augpipe.rng import Draws
from augpipe.spec import Choice, Number, Numbers
from augpipe.types import Frame

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

STATISTICS: dict[str, Statistics] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "half": ((0.5,), (0.5,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    "cifar100": ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
    "mnist": ((0.1307,), (0.3081,)),
    "fashion_mnist": ((0.2860,), (0.3530,)),
}
"""Mean and standard deviation of levels / 255, by name: one number a channel, or one for all."""


@dataclass(frozen=True)
class Always(Number):
    """The probability of an op that must not leave some images as they are: 1."""

    low: float | None = 1.0
    high: float | None = 1.0

    def allowed(self) -> str:
        return "1: images of one batch must leave in one form"


class _Output(Op):
    """An op after which there are no grey levels any more."""

    kind: ClassVar[type[Meaning] | None] = ir.Normalize
    last: ClassVar[bool] = True

    p: Annotated[float, Always()] = 1.0
    """Always 1."""


class Normalize(_Output):
    """Centres and scales: out = (in / 255 - mean) / std, float32, a channel at a time.

    Matches torchvision's normalize after to_dtype(float32, scale=True). Statistics of three
    numbers need three channels; those of one number serve any image.
    """

    main: ClassVar[str] = "stats"

    stats: Annotated[str | None, Choice(tuple(STATISTICS))] = None
    """Which published mean and std; "half" maps 0..255 to -1..1."""
    mean: Annotated[
        float | tuple[float, ...] | None, Numbers(0, 1, "of full range", scalar=True)
    ] = None
    """Mean, in place of `stats`: one number a channel, or one for all."""
    std: Annotated[
        float | tuple[float, ...] | None, Numbers(1e-6, 1e6, "of full range", scalar=True)
    ] = None
    """Standard deviation, in place of `stats`."""

    def model_post_init(self, context: object) -> None:
        """Refuses half of the statistics, two kinds of them, and lengths that do not fit."""
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std are given together")
        if (self.mean is None) == (self.stats is None):
            raise ValueError("give either stats, such as imagenet, or mean and std")
        lengths = {len(each) for each in self.statistics if len(each) > 1}
        if len(lengths) > 1:
            raise ValueError("mean and std have different numbers of channels")

    @property
    def statistics(self) -> Statistics:
        """Returns mean and std, each one number a channel or one for all."""
        if self.stats is not None:
            return STATISTICS[self.stats]
        mean, std = np.atleast_1d(np.asarray(self.mean)), np.atleast_1d(np.asarray(self.std))
        return tuple(mean.tolist()), tuple(std.tolist())

    def means(self, draw: Draws, frame: Frame) -> ir.Normalize:
        mean, std = np.broadcast_arrays(*self.statistics)
        on = np.ones(len(draw), np.bool_)
        return ir.Normalize(on, tuple(mean.tolist()), tuple(std.tolist()))


class ToFloat(_Output):
    """Scales levels to 0..1: out = in / 255, float32.

    Matches torchvision's to_dtype(float32, scale=True).
    """

    def means(self, draw: Draws, frame: Frame) -> ir.Normalize:
        return ir.Normalize(np.ones(len(draw), np.bool_), (0.0,), (1.0,))
