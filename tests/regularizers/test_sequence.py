"""Dropout on sequences, against PyTorch's own functions with the masks put in."""

from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torchvision.models import swin_t, vit_b_16
from torchvision.models.swin_transformer import ShiftedWindowAttention

import augpipe
from augpipe.regularizers.wrapper import Regularized
from tests.regularizers.nets import LM, TRANSFORMER, drawn, seeded


def wrap(model: nn.Module, item: object) -> Regularized:
    return augpipe.regularize(model, [item])


class Seen(nn.Module):
    """A recurrent layer that shows its input, beside it."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, batch_first: bool = True) -> None:
        super().__init__()
        self.rnn = kind(40, 40, batch_first=batch_first)

    def forward(self, x):
        seen = []
        handle = self.rnn.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        output, hidden = self.rnn(x)
        handle.remove()
        return seen[0], output, hidden


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_one_mask_for_all_time_steps(kind, batch_first) -> None:
    time, n = (1, 0) if batch_first else (0, 1)
    model = seeded(lambda: Seen(kind, batch_first))
    wrapped = wrap(model, {"variational_dropout": 0.4})
    x = torch.ones(6, 5, 40)
    torch.manual_seed(0)
    seen, output, hidden = wrapped(x)
    mask = seen.select(time, 0)
    assert torch.equal(seen, mask.unsqueeze(time).expand_as(seen))
    assert set(mask.unique().tolist()) == {0.0, torch.tensor(1 / 0.6).item()}
    assert not torch.equal(seen.select(n, 0), seen.select(n, 1)), "each sequence has its own"
    plain, state = model.rnn.forward(seen)
    factor = (output / plain).detach()
    torch.testing.assert_close(factor, factor.select(time, 0).unsqueeze(time).expand_as(factor))
    off = factor.select(time, 0) == 0
    assert not torch.equal(off, mask == 0), "input and output have their own masks"
    torch.testing.assert_close(factor[factor != 0], torch.full_like(factor[factor != 0], 1 / 0.6))
    own = state if kind is nn.GRU else state[0]
    assert torch.equal(hidden if kind is nn.GRU else hidden[0], own), "states are left alone"


@pytest.mark.parametrize("at", ["input", "output", "both"])
def test_locked_dropout_where_it_is_asked_for(at) -> None:
    model = seeded(Seen)
    wrapped = wrap(model, {"variational_dropout": {"p": 0.5, "at": at}})
    seen, output, _ = wrapped(torch.ones(2, 3, 40))
    assert bool((seen == 0).any()) == (at != "output")
    assert bool((output == 0).any()) == (at != "input")


def test_locked_dropout_of_packed_sequences_is_that_of_the_sequences() -> None:
    model = seeded(Seen)
    wrapped = wrap(model, {"variational_dropout": 0.5})
    lengths = torch.tensor([2, 6, 4])
    packed = pack_padded_sequence(
        torch.ones(3, 6, 40), lengths, batch_first=True, enforce_sorted=False
    )
    seen, output, _ = wrapped(packed)
    for each in (seen, output):
        padded, got = pad_packed_sequence(each, batch_first=True)
        assert torch.equal(got, lengths)
        for row, length in zip(padded, lengths, strict=True):
            off = row[:length] == 0
            assert torch.equal(off, off[:1].expand_as(off))
            assert 0 < off[0].sum() < 40
    padded, _ = pad_packed_sequence(seen, batch_first=True)
    assert not torch.equal(padded[0, 0], padded[1, 0])


def test_locked_dropout_of_one_sequence_without_a_batch() -> None:
    seen, _, _ = wrap(seeded(Seen), {"variational_dropout": 0.5})(torch.ones(6, 40))
    assert torch.equal(seen, seen[:1].expand_as(seen))
    assert 0 < (seen[0] == 0).sum() < 40


@pytest.mark.parametrize("name", ["variational_dropout", "embedding_dropout", "weight_drop"])
def test_at_0_it_is_the_plain_model_and_at_1_finite(name) -> None:
    plain = LM.build()
    assert torch.equal(wrap(LM.build(), {name: 0})(LM.inputs()), plain(LM.inputs()))
    assert wrap(LM.build(), {name: 1})(LM.inputs()).isfinite().all()


def test_locked_dropout_moments() -> None:
    wrapped = wrap(nn.Sequential(nn.RNN(1, 1)), {"variational_dropout": {"p": 0.3, "at": "input"}})
    seen: list[Tensor] = []
    wrapped.model[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    n = 100_000
    torch.manual_seed(0)
    with torch.no_grad():
        wrapped(torch.ones(1, n, 1))
    variance = 0.3 / 0.7
    assert abs(seen[0].mean().item() - 1) < 4 * (variance / n) ** 0.5


def test_embedding_dropout_is_an_embedding_with_a_masked_weight() -> None:
    layer = seeded(lambda: nn.Embedding(50, 6, padding_idx=0))
    wrapped = wrap(nn.Sequential(layer), {"embedding_dropout": 0.4})
    x = torch.randint(50, (8, 30), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    got = wrapped(x)
    got.square().sum().backward()
    torch.manual_seed(1)
    mask = (torch.rand(50, 1) < 0.6).float()
    weight = layer.weight.detach().clone().requires_grad_()
    expected = F.embedding(x, weight * mask / 0.6, padding_idx=0)
    expected.square().sum().backward()
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(layer.weight.grad, weight.grad)
    dropped = (got == 0).all(-1)
    for word in x.unique()[1:]:
        of_word = dropped[x == word]
        assert of_word.all() or not of_word.any(), "all occurrences or none"


def test_embedding_dropout_leaves_a_sparse_gradient_sparse() -> None:
    layer = nn.Embedding(50, 6, sparse=True)
    wrap(nn.Sequential(layer), {"embedding_dropout": 0.4})(torch.arange(5)).sum().backward()
    assert layer.weight.grad.is_sparse


def test_embedding_dropout_rate() -> None:
    n = 100_000
    layer = nn.Embedding(n, 1)
    nn.init.ones_(layer.weight)
    wrapped = wrap(nn.Sequential(layer), {"embedding_dropout": 0.2})
    torch.manual_seed(0)
    with torch.no_grad():
        y = wrapped(torch.arange(n))
    assert abs(y.mean().item() - 1) < 4 * (0.2 / 0.8 / n) ** 0.5


def attend(layer: nn.MultiheadAttention, x: Tensor, p: float) -> Tensor:
    """Attention from F.scaled_dot_product_attention."""
    n, t, d = x.shape
    qkv = F.linear(x, layer.in_proj_weight, layer.in_proj_bias)
    q, k, v = qkv.view(n, t, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)
    y = F.scaled_dot_product_attention(q, k, v, dropout_p=p)
    return layer.out_proj(y.transpose(1, 2).reshape(n, t, d))


class SelfAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize("p", [0.0, 0.3])
def test_attention_dropout_is_that_of_scaled_dot_product_attention(p) -> None:
    model = seeded(SelfAttention)
    wrapped = wrap(model, {"attention_dropout": p})
    x = drawn(3, 5, 8)
    torch.manual_seed(1)
    got = wrapped(x)
    torch.manual_seed(1)
    torch.testing.assert_close(got, attend(model.attention, x, p))
    if p:
        assert not torch.equal(got, seeded(SelfAttention)(x))
    else:
        assert torch.equal(got, seeded(SelfAttention)(x))


@pytest.mark.parametrize("fused", [True, False])
def test_attention_dropout_in_timm_is_timms(fused) -> None:
    model, other = (seeded(lambda p=p: Attention(8, 2, attn_drop=p)) for p in (0.0, 0.3))
    model.fused_attn = other.fused_attn = fused
    wrapped = wrap(nn.Sequential(model), {"attention_dropout": 0.3})
    x = drawn(3, 5, 8)
    torch.manual_seed(1)
    got = wrapped(x)
    torch.manual_seed(1)
    assert torch.equal(got, other(x))


def test_attention_dropout_in_swin_is_torchvisions() -> None:
    model, other = (
        seeded(lambda p=p: ShiftedWindowAttention(8, [2, 2], [1, 1], 2, attention_dropout=p))
        for p in (0.0, 0.3)
    )
    wrapped = wrap(nn.Sequential(model), {"attention_dropout": 0.3})
    x = drawn(3, 4, 4, 8)
    torch.manual_seed(1)
    got = wrapped(x)
    torch.manual_seed(1)
    assert torch.equal(got, other(x))


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (swin_t, 12),
        (vit_b_16, 12),
        (lambda: timm.create_model("vit_tiny_patch16_224"), 12),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224"), 12),
    ],
)
def test_attention_dropout_finds_the_attentions_of_known_models(make, count) -> None:
    with torch.device("meta"):
        model = make()
    wrapped = wrap(model, "attention_dropout")
    assert len(wrapped.effects[0].sites) == count


def test_a_block_that_keeps_the_number_it_built_its_attention_with_is_none() -> None:
    block = SelfAttention()
    block.attention_dropout = 0.2
    wrapped = wrap(nn.Sequential(block), "attention_dropout")
    assert [site.name for site in wrapped.effects[0].sites] == ["0.attention"]
    assert block.attention_dropout == 0.2


def test_attention_dropout_follows_its_schedule_and_gives_back_what_was_there() -> None:
    model = seeded(lambda: nn.Sequential(nn.MultiheadAttention(8, 2, dropout=0.25)))
    rate = {"start": 0.5, "end": 0.1, "steps": 4}
    wrapped = wrap(model, {"attention_dropout": {"p": rate}})
    found = [model[0].dropout]
    for _ in range(5):
        wrapped.after_step()
        found.append(model[0].dropout)
    assert found == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.1])
    wrapped.remove()
    assert model[0].dropout == 0.25


def test_what_is_no_attention_is_refused_by_name() -> None:
    with pytest.raises(augpipe.UsageError, match=r"attention_dropout: head \(Linear\)"):
        wrap(TRANSFORMER.build(), {"attention_dropout": {"on": "head"}})
    with pytest.raises(augpipe.UsageError, match="no recurrent layer"):
        wrap(TRANSFORMER.build(), {"variational_dropout": {"on": "head"}})
    with pytest.raises(augpipe.UsageError, match="no embedding"):
        wrap(LM.build(), {"embedding_dropout": {"on": "decoder"}})


def test_two_rates_for_one_attention_are_refused() -> None:
    model = TRANSFORMER.build()
    own = [each.dropout for each in model.modules() if isinstance(each, nn.MultiheadAttention)]
    both = [
        {"attention_dropout": {"p": p, "on": f"encoder.layers.{on}.self_attn"}}
        for p, on in ((0.1, "*"), (0.2, "1"))
    ]
    with pytest.raises(augpipe.UsageError, match=r"^attention_dropout: two of them"):
        augpipe.regularize(model, both)
    now = [each.dropout for each in model.modules() if isinstance(each, nn.MultiheadAttention)]
    assert now == own
    apart = [{"attention_dropout": {"on": f"encoder.layers.{i}.self_attn"}} for i in (0, 1)]
    augpipe.regularize(model, apart)
