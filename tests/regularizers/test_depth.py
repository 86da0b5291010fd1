"""Stochastic depth and shake-drop: the blocks by their shortcuts, the noise by its formulas."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import drop_path
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import stochastic_depth

import augpipe
from augpipe.regularizers.blocks import BRANCHES, blocks
from tests.regularizers.nets import MLP, RESNET, Transformer

N = 100_000


@pytest.fixture(autouse=True)
def the_same_noise() -> None:
    torch.manual_seed(0)


class Unit(nn.Module):
    """A block x + f(x) with f = 1 that declares where its branch ends."""

    branches = ("f",)

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.f(torch.ones_like(x))


def near(measured: float, expected: float, sigma: float) -> None:
    assert abs(measured - expected) < 4 * sigma, (measured, expected, sigma)


def on_identity(name: str, module: nn.Module | None = None, **fields: Any) -> nn.Module:
    """Returns a model whose only module is the branch."""
    model = nn.Sequential(module or nn.Identity())
    return augpipe.regularize(model, [{name: {"on": "0", "mode": "uniform", **fields}}])


def listen(model: nn.Module) -> dict[str, Any]:
    """Returns what will hold what each module was given and returned, by its name."""
    heard: dict[str, Any] = {}
    for name, module in model.named_modules():

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            heard[name] = (heard.get(name, (None,))[0], output)

        def before(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            first = args[0] if args else kwargs.get("hidden_states")
            heard[name] = (first.clone() if isinstance(first, Tensor) else first, None)

        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(hook, with_kwargs=True)
    return heard


# Blocks: with every branch left out, what remains is the shortcut.


@dataclass(frozen=True)
class Case:
    """A model with residual blocks.

    Args:
        build: Makes it, without dropout.
        inputs: What it is called with.
        count: How many residual blocks it has.
        shortcut: What a block returns without its branches, where that is not its input.
    """

    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    count: int
    shortcut: Callable[[nn.Module, Tensor], Tensor] = lambda block, x: x


def image(*size: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, 3, *(size or (32, 32)))


def resnet(block: nn.Module, x: Tensor) -> Tensor:
    return F.relu(x if block.downsample is None else block.downsample(x))


def regnet(block: nn.Module, x: Tensor) -> Tensor:
    return F.relu(x if block.proj is None else block.proj(x))


def norms(*names: str) -> Callable[[nn.Module, Tensor], Tensor]:
    def shortcut(block: nn.Module, x: Tensor) -> Tensor:
        for name in names:
            x = block.get_submodule(name)(x)
        return x

    return shortcut


SIZES = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 16, "hidden_dropout_prob": 0.0}


def hugging_face(family: str, **config: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        module = pytest.importorskip("transformers")
        made = getattr(module, f"{family}Config")(**config)
        return getattr(module, f"{family}Model")(made)

    return build


def words() -> Tensor:
    return torch.randint(20, (2, 5))


def torch_transformer(norm_first: bool) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that norm_first rules out nested tensors
        return nn.Transformer(8, 2, 1, 2, 16, 0.0, batch_first=True, norm_first=norm_first)


def both_ends(block: nn.Module, x: Tensor) -> Tensor:
    names = [name for name in ("norm1", "norm2", "norm3") if hasattr(block, name)]
    return norms(*names)(block, x)


class Pair(nn.Module):
    """torch's encoder and decoder, called on one sequence."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.both = torch_transformer(norm_first)

    def forward(self, x: Tensor) -> Tensor:
        return self.both(x, x.flip(1))


def video(depth: str) -> nn.Module:
    block = getattr(models.video.resnet, depth)
    stem, conv = models.video.resnet.BasicStem, models.video.resnet.Conv3DSimple
    return models.video.resnet.VideoResNet(block, [conv] * 4, [1, 1, 1, 1], stem, 5)


MAXVIT = dict(
    input_size=(32, 32),
    stem_channels=8,
    partition_size=2,
    block_channels=[8, 16],
    block_layers=[1, 1],
    head_dim=8,
    stochastic_depth_prob=0.0,
)
SWIN = dict(embed_dim=8, depths=[2, 1], num_heads=[1, 2], window_size=[2, 2], dropout=0.0)
CONVNEXT = [models.convnext.CNBlockConfig(8, 16, 2), models.convnext.CNBlockConfig(16, None, 1)]


def swin(own: float = 0.0, version: str = "") -> nn.Module:
    kind = getattr(models.swin_transformer, f"SwinTransformerBlock{version}")
    return models.SwinTransformer([4, 4], **SWIN, stochastic_depth_prob=own, block=kind)


def timm_model(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False, num_classes=5, **options)


SMALL_RESNET = dict(layers=[1, 2, 1, 1], channels=[8, 8, 16, 16])
HF_IMAGE = dict(**SIZES, image_size=16, patch_size=4)
CASES = {
    "resnet18": Case(lambda: models.resnet18(num_classes=5), image(), 8, resnet),
    "resnet50": Case(
        lambda: models.ResNet(models.resnet.Bottleneck, [1, 1, 1, 1]), image(), 4, resnet
    ),
    "regnet": Case(lambda: models.regnet_y_400mf(), image(), 16, regnet),
    "mobilenet_v2": Case(lambda: models.mobilenet_v2(width_mult=0.25), image(), 11),
    "mobilenet_v3": Case(lambda: models.mobilenet_v3_small(), image(), 6),
    "efficientnet": Case(lambda: models.efficientnet_b0(stochastic_depth_prob=0.0), image(), 9),
    "convnext": Case(lambda: models.ConvNeXt(CONVNEXT, 0.0), image(), 3),
    "swin": Case(swin, image(), 3),
    "swin_v2": Case(lambda: swin(version="V2"), image(), 3),
    "vit": Case(lambda: models.VisionTransformer(32, 8, 2, 2, 8, 16), image(), 2),
    "video": Case(lambda: video("BasicBlock"), image(2, 16, 16), 4, resnet),
    "video_bottleneck": Case(lambda: video("Bottleneck"), image(2, 16, 16), 4, resnet),
    "transformer": Case(lambda: Pair(False), lambda: torch.randn(2, 5, 8), 3, both_ends),
    "transformer_norm_first": Case(lambda: Pair(True), lambda: torch.randn(2, 5, 8), 3),
    "timm_resnet": Case(timm_model("resnet18", **SMALL_RESNET), image(), 5, resnet),
    "timm_resnet_own": Case(
        timm_model("resnet18", drop_path_rate=1e-9, **SMALL_RESNET), image(), 5, resnet
    ),
    "timm_seresnet": Case(timm_model("seresnet50", **SMALL_RESNET), image(), 5, resnet),
    "timm_vit": Case(
        timm_model("vit_tiny_patch16_224", img_size=32, depth=2, embed_dim=12), image(), 2
    ),
    "timm_convnext": Case(
        timm_model("convnext_atto", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)), image(), 4
    ),
    "timm_mixer": Case(timm_model("mixer_s32_224", img_size=64), image(64, 64), 8),
    "hf_vit": Case(hugging_face("ViT", **HF_IMAGE), image(16, 16), 2),
    "hf_deit": Case(hugging_face("DeiT", **HF_IMAGE), image(16, 16), 2),
    "hf_swin": Case(
        hugging_face(
            "Swin",
            image_size=16,
            patch_size=2,
            embed_dim=8,
            depths=[2, 1],
            num_heads=[1, 2],
            window_size=2,
            drop_path_rate=0.0,
        ),
        image(16, 16),
        3,
    ),
    "hf_bert": Case(
        hugging_face("Bert", **SIZES, vocab_size=20),
        words,
        2,
        norms("attention.output.LayerNorm", "output.LayerNorm"),
    ),
    "hf_roberta": Case(
        hugging_face("Roberta", **SIZES, vocab_size=20),
        words,
        2,
        norms("attention.output.LayerNorm", "output.LayerNorm"),
    ),
    "hf_gpt2": Case(
        hugging_face("GPT2", **SIZES, vocab_size=20, resid_pdrop=0.0, embd_pdrop=0.0), words, 2
    ),
    "hf_llama": Case(
        hugging_face("Llama", **SIZES, vocab_size=20, num_key_value_heads=1), words, 2
    ),
}
EACH = pytest.mark.parametrize("name", list(CASES))


@EACH
def test_without_its_branches_a_block_is_its_shortcut(name: str) -> None:
    case = CASES[name]
    model = case.build().train()
    with torch.no_grad():
        for each in model.parameters():  # of no layer does nothing come out where nothing goes in
            each.add_(torch.randn_like(each), alpha=0.1)
    found = {block.name: model.get_submodule(block.name) for block in blocks(model)}
    assert len(found) == case.count
    item = {"p": 1, "mode": "uniform", "per": "batch"}
    wrapped = augpipe.regularize(model, [{"stochastic_depth": item}])
    heard = listen(model)
    with torch.no_grad():
        wrapped(case.inputs())
        heard = dict(heard)  # the shortcuts below call modules again
        for at, block in found.items():
            given, output = heard[at]
            output = output[0] if isinstance(output, tuple) else output
            torch.testing.assert_close(output, case.shortcut(block, given), rtol=0, atol=0)


@EACH
def test_with_all_its_branches_it_is_the_plain_model(name: str) -> None:
    model = CASES[name].build().train()
    for each in model.modules():
        if isinstance(each, nn.Dropout):
            each.p = 0.0
    x, state = CASES[name].inputs(), torch.get_rng_state()
    first = lambda y: y if isinstance(y, Tensor) else y[0]  # noqa: E731
    with torch.no_grad():
        plain = first(model(x))
        torch.set_rng_state(state)
        wrapped = augpipe.regularize(model, [{"stochastic_depth": 0}])
        assert torch.equal(first(wrapped(x)), plain)
        wrapped.eval()
        other = augpipe.regularize(wrapped.remove(), [{"stochastic_depth": 0.9}])
        assert other.effects[0].sites
        # PyTorch's encoder layer sums in another order where nothing hangs on it (its fast path).
        torch.testing.assert_close(first(other(x)), first(other.remove()(x)))


def test_every_type_in_the_table_is_met_above() -> None:
    met, unknown = set(), set()
    for case in CASES.values():
        try:
            model = case.build()
        except pytest.skip.Exception:
            continue
        met |= {f"{type(m).__module__}.{type(m).__qualname__}" for m in model.modules()}
    for kind in BRANCHES:
        module, _, name = kind.rpartition(".")
        try:
            known = hasattr(importlib.import_module(module), name)
        except ImportError:
            continue
        if not known or kind not in met:
            unknown.add(kind)
    assert not unknown


def test_blocks_that_say_what_they_are() -> None:
    class Wrong(Unit):
        branches = ("g",)

    class Listed(Unit):
        def __init__(self) -> None:
            super().__init__()
            self.branches = ["f"]

    class Single(Unit):
        branches = "f"

    class Bare(Unit):
        branches = ()

        def __init__(self) -> None:
            super().__init__()
            self.drop_path = nn.Identity()

    class Branched(nn.Module):
        """Has `branches` of another meaning."""

        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList([nn.Identity()])

    found = blocks(nn.Sequential(Unit(), Branched(), Listed(), Bare(), Single()))
    assert [block.name for block in found] == ["0", "2", "4"]
    assert [[name for name, _ in block.ends] for block in found] == [["0.f"], ["2.f"], ["4.f"]]
    with pytest.raises(augpipe.UsageError) as caught:
        blocks(nn.Sequential(Wrong()))
    assert str(caught.value) == "Wrong.branches names 'g', which is no module inside it"


def test_a_branch_ends_after_its_attention() -> None:
    """Which scaling before squeeze-and-excitation would not do: se(2 x) is not 2 se(x)."""
    for rate, end in ((0.0, "se"), (0.1, "drop_path")):
        model = timm_model("seresnet50", drop_path_rate=rate, **SMALL_RESNET)()
        assert [name for name, _ in blocks(model)[-1].ends] == [f"layer4.0.{end}"]


@pytest.mark.parametrize(
    ("on", "names"),
    [
        ("layer[34]", ["layer3.0", "layer4.0"]),
        ("layer[34].*", ["layer3.0", "layer4.0"]),
        ("BasicBlock", ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]),
        ("**", ["layer1.0", "layer2.0", "layer3.0", "layer4.0"]),
        (["**", "!layer[12]"], ["layer3.0", "layer4.0"]),
        (["layer2.0", "layer1"], ["layer1.0", "layer2.0"]),
        ("layer1.0.bn1", ["layer1.0.bn1"]),
        (["layer3", "bn1"], ["bn1", "layer3.0"]),
    ],
)
def test_selectors(on: Any, names: list[str]) -> None:
    wrapped = augpipe.regularize(RESNET.build(), [{"stochastic_depth": {"on": on}}])
    assert [site.name for site in wrapped.effects[0].sites] == names


def test_refusals() -> None:
    with pytest.raises(augpipe.UsageError, match="has no residual block of its own accord"):
        augpipe.regularize(MLP.build(), ["stochastic_depth"])
    on = {"on": "features.1"}
    with pytest.raises(augpipe.UsageError) as caught:
        augpipe.regularize(models.mobilenet_v2(), [{"stochastic_depth": on}])
    expected = "stochastic_depth: features.1 has no shortcut: without its branch it is 0"
    assert str(caught.value) == expected
    with pytest.raises(augpipe.UsageError) as caught:
        on_identity("stochastic_depth")({"x": torch.ones(2)})
    assert str(caught.value) == "stochastic_depth: at 0 there are no floats, but dict"


def test_the_models_own_stochastic_depth_is_named() -> None:
    wrapped = augpipe.regularize(swin(own=0.1), ["stochastic_depth"])
    assert [site.words for site in wrapped.effects[0].sites] == [
        "p 0.0333 a row, on stochastic_depth",
        "p 0.0667 a row, on stochastic_depth, beside its own 0.05",
        "p 0.1 a row, on stochastic_depth, beside its own 0.1",
    ]
    vit = timm_model("vit_tiny_patch16_224", img_size=32, depth=2, drop_path_rate=0.2)()
    wrapped = augpipe.regularize(vit, [{"stochastic_depth": {"mode": "uniform"}}])
    assert "blocks.1: p 0.1 a row, on drop_path1 and drop_path2, beside its own 0.2" in repr(
        wrapped
    )


# Stochastic depth.


@pytest.mark.parametrize("p", [0.1, 0.5, 0.7])
@pytest.mark.parametrize("per", ["row", "batch"])
def test_with_torchvisions_and_timms_mask_it_is_theirs(
    per: str, p: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.randn(32, 3, 4, 5)
    for kept in (torch.rand(32) < 1 - p, torch.ones(32) > 0, torch.ones(32) < 0):
        kept = (kept if per == "row" else kept[:1]).view(-1, 1, 1, 1)
        with monkeypatch.context() as patched:
            patched.setattr(
                torch.Tensor, "bernoulli_", lambda self, rate, kept=kept: self.copy_(kept)
            )
            theirs = [stochastic_depth(x, p, per)]
            theirs += [drop_path(x, p, True)] if per == "row" else []
            forced(patched, torch.where(kept, 0.0, 1 - 1e-6))
            y = on_identity("stochastic_depth", p=p, per=per)(x)
        for expected in theirs:
            # They scale by m / (1 - p), here it is m (1 / (1 - p)): the last bit may differ.
            torch.testing.assert_close(y, expected, rtol=2.4e-7, atol=0)


@pytest.mark.parametrize("mode", ["linear", "uniform"])
def test_the_loss_grows_with_the_depth(mode: str) -> None:
    model = nn.Sequential(Unit(), Unit(), Unit(), Unit())
    wrapped = augpipe.regularize(model, [{"stochastic_depth": {"p": 0.6, "mode": mode}}])
    heard = listen(model)
    wrapped(torch.zeros(N, 1))
    for place in range(1, 5):
        p = 0.6 * place / 4 if mode == "linear" else 0.6
        branch = heard[f"{place - 1}.f"][1].double()
        near((branch == 0).double().mean().item(), p, math.sqrt(p * (1 - p) / N))
        near(branch.mean().item(), 1, math.sqrt(p / (1 - p) / N))


def test_branches_of_one_block_share_its_rate_but_not_its_draw() -> None:
    model = Transformer()
    wrapped = augpipe.regularize(model, [{"stochastic_depth": {"p": 0.8}}])
    assert [site.words for site in wrapped.effects[0].sites] == [
        "p 0.4 a row, on dropout1 and dropout2",
        "p 0.8 a row, on dropout1 and dropout2",
    ]
    heard = listen(model)
    count = 20_000
    wrapped(torch.randn(count, 2, 8))
    left = {}
    for place in (0, 1):
        for end in ("dropout1", "dropout2"):
            zero = heard[f"encoder.layers.{place}.{end}"][1].flatten(1) == 0
            assert torch.equal(zero.all(1), zero.any(1))
            p = 0.4 * (place + 1)
            left[place, end] = zero[:, 0].double()
            near(left[place, end].mean().item(), p, math.sqrt(p * (1 - p) / count))
    both = left[0, "dropout1"] * left[0, "dropout2"]
    near(both.mean().item(), 0.16, math.sqrt(0.16 * 0.84 / count))


def test_rows_are_samples_also_where_time_comes_first() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0)
    model = nn.Sequential(layer)
    wrapped = augpipe.regularize(model, [{"stochastic_depth": 0.5}])
    heard = listen(model)
    wrapped(torch.randn(5, 64, 8))
    zero = (heard["0.dropout1"][1] == 0).all(2)
    assert torch.equal(zero.all(0), zero.any(0))
    assert 0 < zero[0].sum() < 64
    wrapped(torch.randn(5, 8))  # one sequence
    zero = heard["0.dropout1"][1] == 0
    assert bool(zero.all()) == bool(zero.any())


def test_of_a_tuple_the_first_is_scaled() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.attention(x, x, x)

    wrapped = augpipe.regularize(Layer(), [{"stochastic_depth": {"on": "attention", "p": 1}}])
    y, weights = wrapped(torch.randn(3, 4, 8))
    assert not y.any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 4))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_padded_sequences_in_eval() -> None:
    """PyTorch's encoder then has a fused path, and nested tensors, which hooks switch off."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x, padded = torch.randn(3, 6, 16), torch.zeros(3, 6, dtype=torch.bool)
    padded[0, 4:] = True
    with torch.no_grad():
        plain, plain_padded = model(x), model(x, src_key_padding_mask=padded)
        wrapped = augpipe.regularize(model, [{"stochastic_depth": 0.9}])
        torch.testing.assert_close(wrapped(x), plain)
        torch.testing.assert_close(wrapped(x, src_key_padding_mask=padded), plain_padded)


def test_a_schedule_moves_every_block() -> None:
    model = nn.Sequential(Unit(), Unit())
    rate = {"start": 0, "end": 1, "steps": 1}
    wrapped = augpipe.regularize(model, [{"stochastic_depth": {"p": rate}}])
    assert [site.words for site in wrapped.effects[0].sites] == [
        "p 0.5 of 0 to 1 over 1 steps (linear) a row, on f",
        "p 0 to 1 over 1 steps (linear) a row, on f",
    ]
    x = torch.zeros(1000, 1)
    assert torch.equal(wrapped(x), x + 2)
    wrapped.after_step()
    assert set(wrapped(x).unique().tolist()) == {0.0, 2.0}  # 1 / (1 - 0.5), and nothing of the last


@pytest.mark.parametrize("name", ["stochastic_depth", "shake_drop"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_type_is_kept_also_with_a_schedule(name: str, dtype: torch.dtype) -> None:
    rate = {"start": 0.1, "end": 0.5, "steps": 3}
    assert on_identity(name, p=rate)(torch.ones(4, 3, dtype=dtype)).dtype == dtype


@pytest.mark.parametrize("per", ["row", "batch"])
def test_gradients(per: str) -> None:
    wrapped = on_identity("stochastic_depth", p=0.5, per=per)

    def same_noise(x: Tensor) -> Tensor:
        torch.manual_seed(1)
        return wrapped(x)

    x = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(same_noise, (x,))


# Shake-drop.


def forced(monkeypatch: pytest.MonkeyPatch, *draws: Tensor) -> None:
    left = list(draws)

    def rand(shape: Any, **where: Any) -> Tensor:
        assert tuple(left[0].shape) == tuple(shape)
        return left.pop(0).clone()

    monkeypatch.setattr(torch, "rand", rand)


@pytest.mark.parametrize("per", ["row", "batch"])
def test_shake_drop_forward_and_backward(per: str, monkeypatch: pytest.MonkeyPatch) -> None:
    u, a, c = (torch.rand(16, 1) for _ in range(3))
    u = u if per == "row" else u[:1] * 0 + 0.9
    wrapped = on_identity("shake_drop", p=0.4, per=per)
    forced(monkeypatch, u, a, c)
    x = torch.randn(16, 5, requires_grad=True)
    y = wrapped(x)
    b, alpha, beta = (u < 0.6).float(), 2 * a - 1, c
    torch.testing.assert_close(y, x * (b + alpha - b * alpha))
    weights = torch.randn(16, 5, generator=torch.Generator().manual_seed(1))
    (y * weights).sum().backward()
    torch.testing.assert_close(x.grad, weights * (b + beta - b * beta))
    assert per == "batch" or 0 < b.sum() < 16


@pytest.mark.parametrize("alpha", [(-1.0, 1.0), (0.0, 0.0), (0.5, 1.5)])
def test_the_expectation_of_shake_drop_is_its_factor_in_eval(alpha: tuple[float, float]) -> None:
    wrapped = on_identity("shake_drop", p=0.3, alpha=list(alpha), per="row")
    x = torch.ones(N, 1, dtype=torch.float64, requires_grad=True)
    y = wrapped(x)
    mean = sum(alpha) / 2
    expected = 0.7 + 0.3 * mean
    square = 0.7 + 0.3 * (mean**2 + (alpha[1] - alpha[0]) ** 2 / 12)
    near(y.mean().item(), expected, math.sqrt((square - expected**2) / N))
    y.sum().backward()
    near(x.grad.mean().item(), 0.7 + 0.3 * 0.5, math.sqrt((0.7 + 0.3 / 3 - 0.85**2) / N))
    wrapped.eval()
    torch.testing.assert_close(wrapped(x), x * expected)


def test_shake_drop_decays_over_the_blocks() -> None:
    model = nn.Sequential(Unit(), Unit())
    wrapped = augpipe.regularize(model, [{"shake_drop": 0.5}]).eval()
    assert wrapped(torch.zeros(1)).item() == 0.75 + 0.5


def test_shake_drop_draws_once_for_the_batch_as_the_paper_does() -> None:
    wrapped, x = on_identity("shake_drop", p=0.5), torch.ones(64, 1)
    kept = [(wrapped(x) == 1).all().item() for _ in range(200)]
    near(sum(kept) / 200, 0.5, math.sqrt(0.25 / 200))
    shaken = next(y for y in iter(lambda: wrapped(x), None) if not (y == 1).any())
    assert len(shaken.unique()) > 60  # with its alpha for each sample


def test_shake_drop_at_the_ends() -> None:
    x = torch.randn(8, 3, requires_grad=True)
    y = on_identity("shake_drop", p=0)(x)
    assert torch.equal(y, x)
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], torch.ones(8, 3))
    y = on_identity("shake_drop", p=1)(x)
    assert y.isfinite().all()
    assert (y.abs() <= x.abs()).all()
    assert torch.equal(on_identity("shake_drop", p=1).eval()(x), x * 0)


def test_a_recurrent_layer_in_a_block_does_not_tell_of_the_block() -> None:
    """It takes time first, in a block whose branch has the samples first."""

    class Block(nn.Module):
        branches = ("f",)

        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.f = nn.LSTM(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.f(self.lstm(x.transpose(0, 1))[0].transpose(0, 1))

    torch.manual_seed(0)
    wrapped = augpipe.regularize(nn.Sequential(Block()), [{"stochastic_depth": 0.5}])
    x = torch.randn(20, 7, 4)
    dropped = (wrapped(x) - x == 0).all(dim=2)
    assert torch.equal(dropped, dropped[:, :1].expand(20, 7)) and 0 < dropped[:, 0].sum() < 20
