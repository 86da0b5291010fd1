"""What the fit of an augmentation network shows the classifier, and how it measures a tint."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from augpipe.fitting import meta
from augpipe.fitting.meta import Guards, MetaAugmenter
from augpipe.learned.augmentation import AugmentationNetwork
from augpipe.rng import Draws

GROUP, KEPT = 8, 8  # images that see one network, and how many past ones there are


def made_by_order(taken: int, monkeypatch: pytest.MonkeyPatch) -> MetaAugmenter:
    """Returns an augmenter whose k-th network makes every level k; `taken` are of the past."""
    augmenter = MetaAugmenter(AugmentationNetwork(2, 1), Guards())

    def mark(level: int) -> None:
        augmenter.net.embedding.weight.data[:] = level

    for level in range(taken):
        mark(level)
        augmenter.take()
    mark(taken)

    def made(net: Any, images: torch.Tensor, *_: Any) -> Any:
        level = net.embedding.weight[0, 0].item()
        return SimpleNamespace(images=torch.full_like(images, level) / 255)

    monkeypatch.setattr(meta, "_made", made)
    return augmenter


@pytest.mark.parametrize("taken", [0, 3, KEPT, 2 * KEPT + 3])
def test_the_later_a_network_the_more_often_it_is_shown(
    taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By 0.9 to the power of its age, in groups of eight images, of the last eight and its own."""
    augmenter = made_by_order(taken, monkeypatch)
    count = 20_000 * GROUP
    images, classes = torch.zeros(count, 1, 1, 1), torch.zeros(count, dtype=torch.int64)
    shown = augmenter.show(images, classes, Draws(0, np.arange(count)))
    groups = shown.reshape(-1, GROUP).round().long()
    assert bool((groups == groups[:, :1]).all())
    ages = np.arange(min(taken, KEPT) + 1)
    want = 0.9**ages / (0.9**ages).sum()
    found = torch.bincount(taken - groups[:, 0], minlength=len(ages)).numpy()
    assert len(found) == len(ages)
    # Five standard deviations of a count of 20,000 draws.
    off = 5 * np.sqrt(want * (1 - want) / (count // GROUP))
    assert np.all(np.abs(found / (count // GROUP) - want) <= off)


def test_a_batch_that_ends_within_a_group_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    augmenter = made_by_order(2, monkeypatch)
    images = torch.zeros(13, 1, 2, 2)
    shown = augmenter.show(images, torch.zeros(13, dtype=torch.int64), Draws(0, np.arange(13)))
    assert shown.shape == images.shape and len(shown[8:].unique()) == 1


def test_what_is_taken_does_not_learn() -> None:
    augmenter = MetaAugmenter(AugmentationNetwork(2, 1), Guards())
    assert not any(each.requires_grad for each in augmenter.past.parameters())


def test_the_tint_of_a_shift_is_its_square() -> None:
    """Every projection of grey levels moves by the shift: ten times its square."""
    augmenter = MetaAugmenter(AugmentationNetwork(2, 1), Guards())
    images = torch.rand(5, 1, 16, 16)
    draws = Draws(0, np.arange(5))
    assert float(augmenter.tint(images, images + 0.2, draws)) == pytest.approx(0.4, rel=1e-4)
    assert float(augmenter.tint(images, images, draws)) == 0
    weak = MetaAugmenter(AugmentationNetwork(2, 1), Guards(tint=1.0))
    assert float(weak.tint(images, images + 0.2, draws)) == pytest.approx(0.04, rel=1e-4)


def test_the_tint_of_colours_is_the_mean_over_directions() -> None:
    """A shift t of all colours moves a projection by w · t: |t|² / 3 in the mean."""
    augmenter = MetaAugmenter(AugmentationNetwork(2, 3), Guards(tint=1.0))
    images, shift = torch.rand(4, 3, 16, 16), torch.tensor([0.3, -0.1, 0.2]).view(3, 1, 1)
    found = [
        float(augmenter.tint(images, images + shift, Draws(0, np.array([k, 1, 2, 3]))))
        for k in range(200)
    ]
    # 6,400 directions; the square of a cosine has a variance of 4/45: five standard deviations.
    size = float(shift.square().sum())
    assert np.mean(found) == pytest.approx(size / 3, abs=5 * size * np.sqrt(4 / 45 / 6400))
    assert len(set(found)) > 150  # new directions at each step


def test_colours_that_change_places_are_no_tint() -> None:
    """Where each colour is does not count, only how often it is there."""
    augmenter = MetaAugmenter(AugmentationNetwork(2, 3), Guards(tint=1.0))
    one = torch.rand(3, 1, 1)
    images = one.expand(2, 3, 16, 16).clone()
    images[:, :, :8] = 1 - one
    turned = images.flip(2)
    draws = Draws(0, np.arange(2))
    # Only how many of the 4,096 pixels that are looked at are above the middle differs.
    assert float(augmenter.tint(images, turned, draws)) < 0.1 * float(
        augmenter.tint(images, one.expand_as(images), draws)
    )
