"""Latent noise: moments, independence of the batch, strength 0, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from augpipe.learned.autoencoder import Autoencoder
from augpipe.learned.noise import KINDS, noised
from augpipe.rng import normal_field
from tests.learned.test_autoencoder import shaken


class Bare(Autoencoder):
    """Latents are the images: what noise does to them can be read off."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__(channels, 8, 0, 0)
        self.std.copy_(torch.tensor([0.1, 0.02, 0.05])[:channels])
        self.level_std.copy_(torch.tensor([0.03, 0.01, 0.02])[:channels])
        self.spread_std.copy_(torch.tensor([0.02, 0.01, 0.03])[:channels])

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, latents: Tensor, like: Tensor) -> Tensor:
        return latents


def keys(count: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 2**63, count).astype(np.uint64)


def grey(count: int, size: int) -> Tensor:
    return torch.full((count, 3, size, size), 0.5)


def test_iid_noise_is_the_field_of_the_key_in_latent_deviations() -> None:
    net, key = Bare(), keys(2)
    out = noised(net, grey(2, 6), key, torch.tensor([0.5, 1.0]), "iid", True)
    for row, s in enumerate((0.5, 1.0)):
        field = normal_field(int(key[row]), 3 * 36).reshape(3, 6, 6)
        expected = 0.5 + s * net.std.numpy()[:, None, None] * field
        assert np.allclose(out[row].numpy(), expected, atol=1e-6)  # float32


def test_smooth_noise_has_deviation_one_everywhere_and_neighbours_agree() -> None:
    count, size = 4000, 9
    out = noised(Bare(), grey(count, size), keys(count), torch.ones(count), "lowfreq", True)
    n = (out - 0.5) / Bare().std[:, None, None]
    # The deviation of 4,000 normals is within 4 standard errors of 1: 4 / sqrt(8000).
    assert (n.std(dim=0) - 1).abs().max() < 0.06  # of 243 places at 4.2 standard errors
    assert n[..., 1:].mul(n[..., :-1]).mean() > 0.7
    far = n[:, 0, 0, 0] * n[:, 0, 8, 8]
    assert abs(far.mean()) < 4 / count**0.5
    assert abs((n[:, 0] * n[:, 1]).mean(dim=0)).max() < 4.5 / count**0.5


def test_style_noise_moves_means_and_deviations_alone() -> None:
    net, count = Bare(), 4000
    images = 0.5 + 0.1 * torch.rand(1, 3, 8, 8).sub(0.5).expand(count, -1, -1, -1)
    out = noised(net, images, keys(count), torch.ones(count), "style", True)
    mean, spread = out.mean(dim=(2, 3)), out.std(dim=(2, 3), correction=0)
    middle, deviation = images.mean(dim=(2, 3)), images.std(dim=(2, 3), correction=0)
    moved = (mean - middle) / net.level_std
    for c in range(3):
        assert stats.kstest(moved[:, c].numpy(), "norm").pvalue > 1e-3
    own, own_before = out - mean[..., None, None], images - middle[..., None, None]
    factor = (own * own_before).sum((2, 3)) / own_before.square().sum((2, 3))
    assert torch.allclose(own, factor[..., None, None] * own_before, atol=1e-6)  # float32
    assert torch.allclose(spread, factor.abs() * deviation, atol=1e-6)
    gain = (factor - 1) * deviation / net.spread_std
    assert (gain.std(dim=0) - 1).abs().max() < 4.5 / (2 * count) ** 0.5  # standard errors
    assert gain.mean(dim=0).abs().max() < 4.5 / count**0.5
    assert (gain * moved).mean(dim=0).abs().max() < 4.5 / count**0.5  # drawn apart


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("channels", [1, 3])
def test_strength_0_is_the_identity_to_the_bit(kind: str, delta: bool, channels: int) -> None:
    images = torch.rand(3, channels, 13, 10)
    out = noised(shaken(), images, keys(3), torch.tensor([0.0, 0.5, 0.0]), kind, delta)
    assert torch.equal(out[[0, 2]], images[[0, 2]])
    assert not torch.allclose(out[1], images[1], atol=0.01)
    assert out.amin() >= 0
    assert out.amax() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_gets_the_same_noise_in_any_batch(kind: str) -> None:
    net, images, key = shaken(), torch.rand(5, 3, 12, 16), keys(5)
    strength = torch.linspace(0.1, 0.5, 5)
    whole = noised(net, images, key, strength, kind, True)
    order = [3, 1]
    part = noised(net, images[order], key[order], strength[order], kind, True)
    assert torch.allclose(part, whole[order], atol=1e-5)  # convolutions sum in another order


def test_plain_decoding_is_the_autoencoders_image() -> None:
    net, images = shaken(), torch.rand(2, 3, 16, 16)
    out = noised(net, images, keys(2), torch.full((2,), 1e-9), "iid", False)
    assert torch.allclose(out, net(images).clamp(0, 1), atol=1e-5)  # order of sums
    delta = noised(net, images, keys(2), torch.full((2,), 1e-9), "iid", True)
    assert torch.allclose(delta, images, atol=1e-5)


def test_moments_of_style_are_those_over_images() -> None:
    net = Bare()
    images = torch.rand(7, 3, 5, 4)
    net.measure([images[:3], images[3:]])
    assert torch.allclose(net.level_std, images.mean(dim=(2, 3)).std(dim=0, correction=0))
    each = images.std(dim=(2, 3), correction=0)
    assert torch.allclose(net.spread_std, each.std(dim=0, correction=0), atol=1e-6)
