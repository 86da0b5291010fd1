"""Ops made of ops: which of them act on an image, and in what order.

The ops inside keep their own `p`: a chosen op acts with that probability.
"""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np

from augpipe.ops.base import Listed, Weighted, one_hot
from augpipe.rng import Draws
from augpipe.spec import IntPair, Range
from augpipe.types import Bools


class OneOf(Weighted):
    """Does exactly one of its ops, drawn in proportion to `weights`.

    Matches torchvision's RandomChoice; albumentations' OneOf takes the ops' own p for
    weights instead. Of ops that mix, each image draws its own; those listed later find partners
    that an earlier one has mixed already (`mixup_or_cutmix` mixes whole images only).
    """

    def choose(self, draw: Draws) -> Bools:
        branch = draw.choice("branch", self.relative)
        return one_hot(branch[:, None], len(self.ops))


class SomeOf(Weighted):
    """Does several of its ops, drawn without replacement, in the order they are listed.

    How many is uniform over `count`. An op of twice the weight is twice as likely to be
    drawn first, and so on among those left: the `count` largest of log(u) / weight
    (Efraimidis and Spirakis, "Weighted random sampling with a reservoir", 2006). Matches
    albumentations' SomeOf(replace=False).
    """

    count: Annotated[IntPair, Range(0, 64, "ops", integer=True)]
    """How many ops act on an image."""

    def model_post_init(self, context: Any) -> None:
        """Refuses to draw more ops than may be drawn."""
        super().model_post_init(context)
        able = sum(weight > 0 for weight in self.relative)
        if self.count[1] > able:
            text = f"count goes up to {self.count[1]}, but only {able} ops can be drawn"
            raise ValueError(text)

    def choose(self, draw: Draws) -> Bools:
        count = draw.integers("count", *self.count)
        weights = np.asarray(self.relative)
        with np.errstate(divide="ignore", invalid="ignore"):
            score = np.log1p(-draw.uniforms("branches", len(weights))) / weights
        score = np.where(weights > 0, score, -np.inf)
        rank = np.argsort(np.argsort(-score, axis=1, kind="stable"), axis=1)
        return np.asarray(draw.note("chosen", rank < count[:, None]))[:, None, :]


class Sequence(Listed):
    """Does all of its ops in their order, under one `p`.

    Matches torchvision's RandomApply and albumentations' Sequential.
    """

    def choose(self, draw: Draws) -> Bools:
        return np.ones((len(draw), 1, len(self.ops)), bool)


class Shuffle(Listed):
    """Does all of its ops, in a random order, each order equally likely.

    Matches torchvision's RandomOrder. n ops stand n times in the plan, each gated to its
    place, so that a batch may hold every order at once.
    """

    @property
    def slots(self) -> int:
        return len(self.ops)

    def choose(self, draw: Draws) -> Bools:
        return one_hot(draw.permutation("order", len(self.ops)), len(self.ops))
