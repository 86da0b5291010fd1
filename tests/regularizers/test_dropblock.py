"""DropBlock, against torchvision's and against the rate that its formula gives."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import drop_block2d, drop_block3d

import augpipe
from tests.regularizers.nets import MLP, RESNET


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def on_identity(**fields: Any) -> nn.Module:
    return augpipe.regularize(nn.Sequential(nn.Identity()), [{"dropblock": {"on": "0", **fields}}])


def realised(p: float, size: int, sides: tuple[int, ...]) -> float:
    """Returns the probability that a place lies under a block, counted block by block."""
    size = min(size, *sides)
    starts = [range(side - size + 1) for side in sides]
    gamma = p * math.prod(sides) / (size ** len(sides) * math.prod(map(len, starts)))
    total = 0.0
    for place in itertools.product(*map(range, sides)):
        over = [
            sum(s <= at < s + size for s in start) for at, start in zip(place, starts, strict=True)
        ]
        total += 1 - (1 - min(gamma, 1.0)) ** math.prod(over)
    return total / math.prod(sides)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((8, 6, 14, 14), 7),
        ((8, 6, 9, 12), 3),
        ((8, 6, 5, 8), 7),
        ((8, 6, 6, 6), 1),
        ((4, 3, 5, 6, 7), 3),
    ],
)
def test_with_torchvisions_seeds_it_is_torchvisions(
    shape: tuple[int, ...], size: int, p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[Tensor] = []
    draw = torch.Tensor.bernoulli_

    def recorded(self: Tensor, rate: float) -> Tensor:
        seeds.append(draw(self, rate).clone())
        return self

    x = torch.randn(shape)
    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "bernoulli_", recorded)
        expected = (drop_block2d if len(shape) == 4 else drop_block3d)(x, p, size)

    def rand(drawn: Any, **where: Any) -> Tensor:
        assert tuple(drawn) == tuple(seeds[0].shape)
        return torch.where(seeds[0] == 1, 1 - 1e-6, 0.0)

    monkeypatch.setattr(torch, "rand", rand)
    y = on_identity(p=p, block_size=size)(x)
    assert 0 < (y == 0).sum() < y.numel()
    assert torch.equal(y, expected)


@pytest.mark.parametrize("channels", ["each", "shared"])
@pytest.mark.parametrize(
    ("sides", "size"), [((14, 14), 7), ((10, 13), 4), ((4, 4), 7), ((16,), 3), ((4, 5, 6), 2)]
)
def test_the_rate_is_that_of_the_formula(sides: tuple[int, ...], size: int, channels: str) -> None:
    samples = 20_000
    shape = (samples // 4, 4, *sides) if channels == "each" else (samples, 2, *sides)
    y = on_identity(p=0.2, block_size=size, channels=channels)(torch.ones(shape))
    dropped = (y == 0).double().flatten(2).mean(2)
    if channels == "shared":
        assert torch.equal(dropped[:, 0], dropped[:, 1])
        dropped = dropped[:, :1]
    # Places of one map depend on each other, maps do not: the spread is that among maps.
    sigma = dropped.std().item() / math.sqrt(samples)
    assert abs(dropped.mean().item() - realised(0.2, size, sides)) < 4 * sigma
    torch.testing.assert_close(y.double().mean().item(), 1.0, rtol=1e-5, atol=0)  # renormalised


def test_what_the_card_says_of_overlaps() -> None:
    assert round(realised(0.1, 7, (14, 14)), 3) == 0.093


def test_blocks_are_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def rand(drawn: Any, **where: Any) -> Tensor:
        seed = torch.zeros(drawn)
        seed[0, 0, 1, 2] = 1 - 1e-6
        return seed

    monkeypatch.setattr(torch, "rand", rand)
    y = on_identity(p=0.2, block_size=2)(torch.ones(1, 1, 4, 5))
    expected = torch.ones(4, 5)
    expected[1:3, 2:4] = 0
    assert torch.equal(y[0, 0], expected * (20 / 16))


def test_the_ends() -> None:
    x = torch.randn(2, 3, 6, 6)
    assert torch.equal(on_identity(p=0, block_size=3)(x), x)
    assert not on_identity(p=1, block_size=6)(x).any()
    assert not on_identity(p=1, block_size=1)(x).any()
    assert on_identity(p=1, block_size=3)(x).isfinite().all()
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        y = on_identity(p={"start": 0.1, "end": 0.2, "steps": 5}, block_size=3)(x.to(dtype))
        assert y.dtype == dtype
    big = torch.ones(40, 40, 16, 16, dtype=torch.float16)  # more places than float16 counts
    assert abs(on_identity(p=0.1, block_size=3)(big).double().mean().item() - 1) < 1e-3


def test_gradients() -> None:
    wrapped = on_identity(p=0.3, block_size=2)

    def same_noise(x: Tensor) -> Tensor:
        torch.manual_seed(0)
        return wrapped(x)

    x = torch.randn(2, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(same_noise, (x,))


def test_a_schedule_raises_the_rate() -> None:
    wrapped = on_identity(p={"start": 0, "end": 0.5, "steps": 2}, block_size=3)
    x, dropped = torch.ones(50, 20, 8, 8), []
    for _ in range(4):
        dropped.append((wrapped(x) == 0).double().mean().item())
        wrapped.after_step()
    assert dropped[0] == 0
    assert 0.15 < dropped[1] < 0.3 < dropped[2] < 0.5  # 0.22 and 0.38 by the formula
    assert abs(dropped[3] - dropped[2]) < 0.05


def test_sites_and_refusals() -> None:
    wrapped = augpipe.regularize(RESNET.build(), ["dropblock"])
    assert [site.name for site in wrapped.effects[0].sites] == ["layer3.0", "layer4.0"]
    with pytest.raises(augpipe.UsageError, match="no convolutional residual block of its own"):
        augpipe.regularize(MLP.build(), ["dropblock"])
    with pytest.raises(augpipe.UsageError) as caught:
        augpipe.regularize(MLP.build(), [{"dropblock": {"on": "0"}}])(MLP.inputs())
    assert str(caught.value) == (
        "dropblock needs feature maps (n, channels, ...); Linear returns (8, 16)"
    )
