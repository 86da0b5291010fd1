"""A policy whose choices and ranges have gradients; what comes of it is a plain recipe.

It stands for `slots` ops one after another, each chosen among many. In a slot the image is

    x' = Σ_o w_o O_o(x; s_o),   w = softmax((a_o + g_o) / τ) over the `SHOWN` highest a_o + g_o,

g Gumbel noise, one for each group of images, so that for τ to 0 the slot is one op, drawn with
probability π = softmax(a) (arXiv 1611.01144). O_o are the package's own ops on its own batched
backend, with the draws that a recipe gives them: the number u that an op draws for an image stays
the same while its range changes, so the change of pixels with the range is

    dO/ds ≈ (O(x; s + h, u) - O(x; s - h, u)) / 2h,

for any op, tables and histograms too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from augpipe.backends import batched
from augpipe.fitting.choices import Choice, Item
from augpipe.ops.base import Op
from augpipe.rng import Draws
from augpipe.types import Frame, Ints

SHOWN = 3
"""Ops that are mixed in a slot."""
GROUP = 16
"""Images that see the same ops."""
IDENTITY = "identity"
_STEP = 0.1  # of strength, to either side
_LEAST = 0.03  # probability of an op that is written down


class RelaxedPolicy(nn.Module):
    """Slots of weighted choices, each with a strength.

    Args:
        choices: The ops; that nothing is done is a choice more, the first.
        slots: How many are done one after another.
        strength: Of all at first, 0 to 1.

    Attributes:
        logits: (slots, 1 + choices), a.
        levels: (slots, choices), the strengths' logits: s = sigmoid(levels).
    """

    def __init__(self, choices: Sequence[Choice], slots: int = 2, strength: float = 0.5) -> None:
        super().__init__()
        self.choices = tuple(choices)
        self.slots = slots
        first = float(np.log(strength / (1 - strength)))
        self.logits = nn.Parameter(torch.zeros(slots, 1 + len(choices)))
        self.levels = nn.Parameter(torch.full((slots, len(choices)), first))
        seen: Counter[str] = Counter()
        self._keys: list[list[str]] = []
        for _ in range(slots):
            names = [next(iter(each.item(strength))) for each in choices]
            self._keys.append([f"{name}#{_next(seen, name)}" for name in names])

    @property
    def names(self) -> tuple[str, ...]:
        """What may be chosen, as the columns of `logits`."""
        return (IDENTITY, *(each.name for each in self.choices))

    @property
    def probabilities(self) -> Tensor:
        """(slots, 1 + choices), which sum to 1 in each slot."""
        return self.logits.softmax(dim=1)

    @property
    def strengths(self) -> Tensor:
        """(slots, choices), from 0 to 1."""
        return self.levels.sigmoid()

    def soft_shares(self, draws: Draws, temperature: float) -> Tensor:
        """Returns (n, slots, 1 + choices): w, with gradients."""
        out = []
        for slot in range(self.slots):
            u = self._uniforms(draws, slot)[::GROUP]
            score = self.logits[slot] - torch.log(-torch.log(u))
            top = score.topk(min(SHOWN, score.shape[1]), dim=1)
            own = (top.values / temperature).softmax(dim=1)
            shares = torch.zeros_like(score).scatter(1, top.indices, own)
            out.append(shares.repeat_interleave(GROUP, dim=0)[: len(draws)])
        return torch.stack(out, dim=1)

    @torch.no_grad()
    def hard_shares(self, draws: Draws) -> Tensor:
        """Returns (n, slots, 1 + choices): one op in each slot, drawn for each image."""
        out = []
        for slot in range(self.slots):
            score = self.logits[slot] - torch.log(-torch.log(self._uniforms(draws, slot)))
            chosen = score.argmax(dim=1)
            out.append(nn.functional.one_hot(chosen, score.shape[1]).float())
        return torch.stack(out, dim=1)

    def _uniforms(self, draws: Draws, slot: int) -> Tensor:
        u = draws.at(f"policy#{slot}").uniforms("choice", 1 + len(self.choices))
        return torch.from_numpy(u).float().clamp(1e-6, 1 - 1e-6)

    def forward(self, images: Tensor, draws: Draws, shares: Tensor) -> Tensor:
        """Does the policy.

        Args:
            images: (n, C, h, w), floats of grey levels 0..255.
            draws: Of the n images, those of a recipe that holds the ops in the same order.
            shares: (n, slots, 1 + choices), of what is mixed.

        Returns:
            (n, C, h, w), with gradients for images, shares and strengths where they ask for them.
        """
        for slot in range(self.slots):
            own = shares[:, slot]
            out = own[:, :1, None, None] * images
            for k, choice in enumerate(self.choices):
                rows = own[:, 1 + k].detach().nonzero()[:, 0]
                if len(rows):
                    done = self._done(slot, k, choice, images[rows], draws, rows.numpy())
                    share = own[rows, 1 + k, None, None, None]
                    out = out.index_add(0, rows, share * done)
            images = out
        return images

    def _done(
        self, slot: int, k: int, choice: Choice, images: Tensor, draws: Draws, rows: Ints
    ) -> Tensor:
        """Does one op to some of the images."""
        key, strength = self._keys[slot][k], self.strengths[slot, k]
        some = Draws(draws.seed, draws.indices[rows], draws.epoch, key)
        now = strength.item()
        done = _render(choice.op(now), some, images)
        if not choice.smooth:
            done = images + (done - images).detach()
        if not torch.is_grad_enabled() or not strength.requires_grad:
            return done
        low, high = max(now - _STEP, 0.0), min(now + _STEP, 1.0)
        with torch.no_grad():
            ends = [_render(choice.op(each), some, images.detach()) for each in (low, high)]
        slope = (ends[1] - ends[0]) / (high - low)
        return done + (strength - strength.detach()) * slope

    def entropy(self) -> Tensor:
        """Returns the mean entropy of the slots' probabilities, in nats."""
        log = self.logits.log_softmax(dim=1)
        return -(log.exp() * log).sum(dim=1).mean()

    @torch.no_grad()
    def items(self) -> list[Item]:
        """Returns the policy as a recipe's ops: a `one_of` for each slot.

        What is drawn with a probability below 3 % is left out; that nothing is done is the
        `one_of`'s p.
        """
        out: list[Item] = []
        for own, strengths in zip(
            self.probabilities.tolist(), self.strengths.tolist(), strict=True
        ):
            kept = [k for k, each in enumerate(own[1:]) if each >= _LEAST]
            whole = sum(own[1 + k] for k in kept)
            if not kept:
                continue
            items = [self.choices[k].item(strengths[k]) for k in kept]
            weights = [round(own[1 + k] / whole, 3) for k in kept]
            p = round(whole / (whole + own[0]), 3)
            out.append({"one_of": {"ops": items, "weights": weights, "p": p}})
        return out


def _next(seen: Counter[str], name: str) -> int:
    seen[name] += 1
    return seen[name] - 1


def _render(op: Op, draws: Draws, images: Tensor) -> Tensor:
    sizes = np.broadcast_to(np.array([images.shape[2:]], np.int64), (len(images), 2))
    meaning = op.means(draws, Frame(sizes))
    return batched.render([meaning], images)  # type: ignore[list-item]
