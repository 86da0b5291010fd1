"""The small networks, and networks by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from augpipe.errors import UsageError
from augpipe.networks.building import build
from augpipe.networks.small import RowReader, SmallTransformer, WideBlock, WideResNet
from augpipe.settings import SMALL_NETS


def counted(depth: int, k: int, classes: int, channels: int) -> int:
    """Parameters by the paper's table: three stages of (depth - 4) / 6 blocks of two 3 x 3 layers.

    A block has 9 in out + 9 out^2 weights, 2 in + 2 out of normalization, and in out of the
    shortcut where the width changes.
    """
    blocks, total = (depth - 4) // 6, 9 * channels * 16
    come = 16
    for width in (16 * k, 32 * k, 64 * k):
        for first in [True] + [False] * (blocks - 1):
            total += 9 * come * width + 9 * width**2 + 2 * come + 2 * width
            total += come * width if first and come != width else 0
            come = width
    return total + 2 * come + come * classes + classes


@pytest.mark.parametrize(("depth", "k"), [(10, 1), (16, 1), (10, 2), (28, 2), (16, 4)])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_wide_resnet_has_the_papers_parameters(depth: int, k: int, channels: int) -> None:
    net = WideResNet(depth, k, 10, channels)
    assert sum(each.numel() for each in net.parameters()) == counted(depth, k, 10, channels)
    assert sum(isinstance(each, nn.Conv2d) for each in net.modules()) >= depth - 3


def test_the_count_is_the_papers() -> None:
    # arXiv 1605.07146, table 4: WRN-40-4 has 8.9 M and WRN-28-10 36.5 M parameters.
    assert round(counted(40, 4, 10, 3) / 1e6, 1) == 8.9
    assert round(counted(28, 10, 10, 3) / 1e6, 1) == 36.5


def test_the_sides_are_halved_twice_and_any_size_fits() -> None:
    net = WideResNet(10, 1, 5).eval()
    shapes = []
    for stage in (net.layer1, net.layer2, net.layer3):
        stage.register_forward_hook(lambda m, a, out: shapes.append(tuple(out.shape[1:])))
    assert net(torch.zeros(2, 3, 28, 28)).shape == (2, 5)
    assert shapes == [(16, 28, 28), (32, 14, 14), (64, 7, 7)]
    assert net(torch.zeros(1, 3, 45, 31)).shape == (1, 5)


def test_the_named_branches_are_the_residual_ones() -> None:
    block = WideBlock(4, 4, 1).eval()
    assert WideBlock.branches == ("conv2",)
    x = torch.randn(2, 4, 6, 6)
    assert not torch.equal(block(x), x)
    nn.init.zeros_(block.conv2.weight)  # without its branch a block is the identity
    assert torch.equal(block(x), x)
    wider = WideBlock(4, 8, 2).eval()
    nn.init.zeros_(wider.conv2.weight)
    expected = wider.shortcut(torch.relu(wider.bn1(x)))
    assert torch.equal(wider(x), expected)


def test_convolutions_start_from_hes_distribution() -> None:
    torch.manual_seed(0)
    net = WideResNet(10, 4, 10)
    for each in net.modules():
        if isinstance(each, nn.Conv2d) and each.weight.numel() > 10_000:
            fan_out = each.out_channels * each.kernel_size[0] * each.kernel_size[1]
            # The spread of n normal numbers is known to 1 / sqrt(2 n) < 0.008; five of these.
            assert each.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.04)


@pytest.mark.parametrize("name", SMALL_NETS)
def test_every_small_net_is_built_and_learns(name: str) -> None:
    torch.manual_seed(0)
    net = build(name, 4, 3)
    out = net(torch.randn(2, 3, 28, 28).clamp(-1, 1))
    assert out.shape == (2, 4)
    out.square().sum().backward()
    assert all(each.grad is not None for each in net.parameters())


@pytest.mark.parametrize("name", ["wrn_10_1", "vit_small", "row_lstm"])
def test_small_nets_take_grey_images(name: str) -> None:
    assert build(name, 4, 1)(torch.zeros(2, 1, 28, 28)).shape == (2, 4)


def test_the_transformer_knows_where_a_patch_is() -> None:
    torch.manual_seed(0)
    net = SmallTransformer(3).eval()
    x = torch.randn(1, 3, 16, 16)
    moved = x.roll(4, dims=3)  # the same patches, elsewhere: without positions it is the same sum
    assert not torch.allclose(net(x), net(moved), atol=1e-4)
    assert net(torch.zeros(1, 3, 28, 44)).shape == (1, 3)


def test_the_row_reader_reads_rows_in_order() -> None:
    torch.manual_seed(0)
    net = RowReader(3).eval()
    x = torch.rand(1, 1, 28, 28) * 2 - 1
    assert not torch.allclose(net(x), net(x.flip(2)), atol=1e-5)
    assert torch.isfinite(net(torch.full((1, 1, 28, 28), 9.0))).all()  # beyond the last word


@pytest.mark.parametrize(
    ("name", "shape"),
    [("torchvision.resnet18", (2, 3, 32, 32)), ("torchvision.googlenet", (2, 3, 64, 64))],
)
def test_torchvisions_give_logits_in_training_too(name: str, shape: tuple[int, ...]) -> None:
    net = build(name, 7, 3).train()
    assert net(torch.zeros(shape)).shape == (2, 7)


def test_timms_take_any_number_of_channels() -> None:
    assert build("timm.resnet10t", 7, 1)(torch.zeros(2, 1, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("wrn_16_2", "did you mean 'wrn_1"),
        ("resnet18", "others are torchvision.X and timm.X"),
        ("nonesuch", "known: wrn_10_1"),
        ("torchvision.resnet19", "did you mean 'resnet1"),
        ("torchvision.raft_large", "torchvision has no classifier 'raft_large'"),
        ("torchvision.fcn_resnet50", "torchvision has no classifier"),
        ("timm.resnet19", "timm has no model 'resnet19' (did you mean"),
        ("keras.resnet18", "there is no model 'keras.resnet18' here (known: wrn_10_1"),
        ("torchvision.", "torchvision has no classifier ''"),
    ],
)
def test_an_unknown_name_is_told_with_a_hint(name: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        build(name, 10)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("build_one", "words"),
    [
        (lambda: build("torchvision.resnet18", 10, 1), "takes RGB images, these have one channel"),
        (lambda: build("timm.test_vit", 10, -1), "timm.test_vit cannot be built: .*negative"),
    ],
)
def test_what_cannot_be_built_so_is_refused(build_one: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        build_one()
