"""Layers that their parents read the weights of, and do not call: no hook would fire on them."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
from timm.models.beit import Attention
from timm.models.eva import EvaAttention
from timm.models.swin_transformer_v2 import WindowAttention
from torch import nn
from torchvision.models.swin_transformer import ShiftedWindowAttention, ShiftedWindowAttentionV2
from torchvision.models.video.swin_transformer import ShiftedWindowAttention3d

import augpipe
from augpipe.regularizers.select import UNCALLED

Call = Callable[[nn.Module], object]
X = torch.zeros(2, 4, 8)
FLAT: Call = lambda m: m(X)  # noqa: E731
MAP: Call = lambda m: m(X.view(2, 2, 2, 8))  # noqa: E731
SELF: Call = lambda m: m(X, X, X)  # noqa: E731
VIDEO: Call = lambda m: m(X.view(2, 1, 2, 2, 8))  # noqa: E731

MODULES: list[tuple[str, Callable[[], nn.Module], Call]] = [
    ("torch", lambda: nn.MultiheadAttention(8, 2, batch_first=True), SELF),
    ("torch-apart", lambda: nn.MultiheadAttention(8, 2, kdim=8, vdim=8, bias=False), SELF),
    ("swin", lambda: ShiftedWindowAttention(8, [2, 2], [0, 0], 2), MAP),
    ("swin-v2", lambda: ShiftedWindowAttentionV2(8, [2, 2], [0, 0], 2), MAP),
    ("swin-3d", lambda: ShiftedWindowAttention3d(8, [1, 2, 2], [0, 0, 0], 2), VIDEO),
    ("beit", lambda: Attention(8, 2, qkv_bias=True), FLAT),
    ("beit-no-bias", lambda: Attention(8, 2, qkv_bias=False), FLAT),
    ("beit-apart", lambda: Attention(8, 2, qkv_bias=True, qkv_bias_separate=True), FLAT),
    (
        "eva",
        lambda: EvaAttention(8, 2, scale_norm=False, qkv_fused=True, num_prefix_tokens=0),
        FLAT,
    ),
    (
        "eva-no-bias",
        lambda: EvaAttention(8, 2, scale_norm=False, qkv_bias=False, num_prefix_tokens=0),
        FLAT,
    ),
    ("eva-apart", lambda: EvaAttention(8, 2, scale_norm=False, qkv_bias_separate=True), FLAT),
    ("eva-unfused", lambda: EvaAttention(8, 2, scale_norm=False, qkv_fused=False), FLAT),
    ("swin-v2-timm", lambda: WindowAttention(8, (2, 2), 2), FLAT),
    ("swin-v2-timm-no-bias", lambda: WindowAttention(8, (2, 2), 2, qkv_bias=False), FLAT),
]


@pytest.mark.parametrize(
    ("make", "call"), [each[1:] for each in MODULES], ids=[each[0] for each in MODULES]
)
def test_a_layer_is_refused_if_and_only_if_it_is_not_called(
    make: Callable[[], nn.Module], call: Call
) -> None:
    model = make().train()
    called: set[nn.Module] = set()
    for each in model.modules():
        each.register_forward_hook(lambda module, *_: called.add(module))
    call(model)
    layers = [(name, each) for name, each in model.named_modules() if isinstance(each, nn.Linear)]
    assert layers
    for name, layer in layers:
        if layer in called:
            augpipe.regularize(model, [{"dropout": {"on": name}}]).remove()
            continue
        with pytest.raises(augpipe.UsageError, match=f"^dropout: {name} is never called"):
            augpipe.regularize(model, [{"dropout": {"on": name}}])


def test_every_type_of_the_table_is_tried() -> None:
    tried = {cls for _, make, _ in MODULES for cls in type(make()).__mro__}
    for path in UNCALLED:
        module, name = path.rsplit(".", 1)
        assert getattr(importlib.import_module(module), name) in tried
