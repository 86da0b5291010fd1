"""Dropout for networks on sequences: recurrent layers, embeddings, attention."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from augpipe.errors import UsageError
from augpipe.regularizers import select
from augpipe.regularizers.base import AUTO, Probability, Regularizer, Sites
from augpipe.regularizers.effect import Effect, Site, keep_mask, rescale
from augpipe.regularizers.rate import Schedule
from augpipe.regularizers.weights import recurrent
from augpipe.spec import Choice


class VariationalDropout(Regularizer):
    """Dropout on recurrent layers with one mask for all time steps ("locked").

    x_t' = x_t m / (1 - p), m ~ Bernoulli(1 - p) of shape (n, features), the same at every t, in
    training; the plain layer in `eval()`. Input and output have masks of their own.

    Suggested: p 0.2 to 0.5; with ordinary dropout at these places the noise differs from step
    to step, and the memory learns to average it out. The layer's `batch_first` says which axis
    is time; packed sequences are taken. Acts on the input of the first and on the output of the
    last layer of a stack; hidden states handed on are left alone. For the recurrence itself
    there is `weight_drop`.

    `auto` is every LSTM, GRU and RNN.

    Paper: Gal and Ghahramani, "A Theoretically Grounded Application of Dropout in Recurrent
    Neural Networks", arXiv 1512.05287. The LockedDropout of AWD-LSTM.
    """

    main: ClassVar[str] = "p"

    on: Sites = AUTO
    """The recurrent layers."""
    p: Probability = 0.3
    """Probability that a feature of a sequence is dropped."""
    at: Annotated[str, Choice(("input", "output", "both"))] = "both"
    """Whether the layers' input, output or both are dropped."""

    def attach(self, model: nn.Module) -> Effect:
        return _VariationalDropout(self, recurrent(model, self.on, self.name()))


class _VariationalDropout(Effect):
    def __init__(self, spec: VariationalDropout, found: list[tuple[str, nn.RNNBase]]) -> None:
        place = "input and output" if spec.at == "both" else spec.at
        super().__init__([Site(name, f"{place}, p {spec.p}") for name, _ in found])
        self.p = self.dial(spec.p)
        for _, module in found:
            if spec.at != "output":
                self.change_input(module, self.drop)
            if spec.at != "input":
                self.change_output(module, self.drop_first)

    def drop(self, module: nn.Module, x: Any) -> Any:
        assert isinstance(module, nn.RNNBase)
        if not module.training:
            return None
        if isinstance(x, PackedSequence):
            return x._replace(data=self.locked(x.data, _packed, x.batch_sizes))
        return self.locked(x, _padded, module.batch_first)

    def drop_first(self, module: nn.Module, output: tuple[Any, Any]) -> Any:
        return (self.drop(module, output[0]), output[1]) if module.training else None

    def locked(self, x: Tensor, lay_out: Any, how: Any) -> Tensor:
        return x * lay_out(functools.partial(keep_mask, x, p=self.p), x, how) * rescale(self.p)


def _padded(draw: Any, x: Tensor, batch_first: bool) -> Tensor:
    """Returns a mask over (n, t, d) or (t, n, d), or over one sequence (t, d)."""
    shape = list(x.shape)
    shape[1 if batch_first and x.ndim == 3 else 0] = 1
    return draw(shape)


def _packed(draw: Any, data: Tensor, batch_sizes: Tensor) -> Tensor:
    """Returns a mask over packed steps, of which each holds the first sequences still running."""
    sizes = batch_sizes.tolist()  # kept on the CPU by PyTorch
    mask: Tensor = draw((sizes[0], data.shape[1]))
    return torch.cat([mask[:size] for size in sizes])


class EmbeddingDropout(Regularizer):
    """Drops whole words: with probability p a word's embedding is 0 all over the batch.

    y = (m[x] / (1 - p)) W[x], m ~ Bernoulli(1 - p) with one number a word of the vocabulary, in
    training; the plain embedding in `eval()`. Every occurrence of a dropped word is dropped.

    Suggested: p 0.1 for language models. With ordinary dropout single numbers of single
    occurrences are dropped, and the rest of the sentence gives the word away. Where decoder and
    embedding share their weight, only the embedding is masked.

    `auto` is every Embedding.

    Paper: Gal and Ghahramani, arXiv 1512.05287, section 4; as in AWD-LSTM (Merity et al., arXiv
    1708.02182). Equal to `F.embedding` on the masked weight.
    """

    main: ClassVar[str] = "p"

    on: Sites = AUTO
    """The embeddings."""
    p: Probability = 0.1
    """Probability that a word is dropped."""

    def attach(self, model: nn.Module) -> Effect:
        kinds = (nn.Embedding,)
        auto = functools.partial(select.of_types, model, kinds)
        found = select.modules(model, self.on, self.name(), auto, kinds, "embedding")
        return _EmbeddingDropout(self, found)


class _EmbeddingDropout(Effect):
    def __init__(self, spec: EmbeddingDropout, found: list[select.Named]) -> None:
        super().__init__([Site(name, f"words, p {spec.p}") for name, _ in found])
        self.p = self.dial(spec.p)
        for _, module in found:
            self.change_answer(module, self.drop)

    def drop(self, module: nn.Module, x: Tensor, output: Tensor) -> Tensor | None:
        assert isinstance(module, nn.Embedding)
        if not module.training:
            return None
        # On what was looked up, not on the weight: no product over the whole vocabulary, and a
        # sparse gradient stays sparse.
        words = keep_mask(output, (module.num_embeddings, 1), self.p)
        return output * F.embedding(x, words) * rescale(self.p)


class AttentionDropout(Regularizer):
    """Dropout on the attention weights, after the softmax.

    y = dropout_p(softmax(q k^T / sqrt(d))) v, in training; the plain attention in `eval()`.
    What is left is scaled by 1 / (1 - p), not made to sum to 1 again.

    Suggested: p 0.1. Takes the place of the dropout that the attention has already; `remove()`
    brings that back. The rate is a number in the layer, as PyTorch's fused attention wants it,
    so a compiled model is compiled anew when a schedule changes it: schedule with
    `shape: step`, or compile without.

    `auto` is every attention known: nn.MultiheadAttention, torchvision's ShiftedWindowAttention,
    and layers with an `attn_drop` (timm) or a number `attention_dropout`.

    Paper: Vaswani et al., "Attention Is All You Need", arXiv 1706.03762 (as it is in their
    code). Equal to `F.scaled_dot_product_attention(dropout_p=p)`. DropAttention (Zehui et al.,
    arXiv 1907.11065), which renormalizes, is another technique.
    """

    main: ClassVar[str] = "p"

    on: Sites = AUTO
    """The attention layers."""
    p: Probability = 0.1
    """Probability that an attention weight is dropped."""

    def attach(self, model: nn.Module) -> Effect:
        who, what = self.name(), "attention"
        found = select.modules(
            model, self.on, who, functools.partial(_attentions, model), what=what
        )
        fit = [(name, each) for name, each in found if _rate_in(each)]
        if not fit:
            name, module = found[0]
            raise UsageError(
                f"{who}: {name} ({type(module).__name__}) is no attention with a dropout rate: "
                "nn.MultiheadAttention, or a layer with attn_drop or attention_dropout"
            )
        return _AttentionDropout(self, fit)


class _AttentionDropout(Effect):
    def __init__(self, spec: AttentionDropout, found: list[select.Named]) -> None:
        super().__init__([Site(name, f"attention weights, p {spec.p}") for name, _ in found])
        self.p: float | Schedule = spec.p
        self._layers = tuple(holder for _, each in found for holder in _rate_in(each))
        self._own = tuple(getattr(module, name) for module, name in self._layers)
        self._set(self.p.at(0) if isinstance(self.p, Schedule) else self.p)

    def joined(self, whole: nn.Module) -> None:
        effects = [each for each in whole.modules() if isinstance(each, _AttentionDropout)]
        for other in effects[: effects.index(self)]:
            if set(other._layers) & set(self._layers):
                raise UsageError("attention_dropout: two of them have a layer in common")

    def tick(self, step: int) -> None:
        if isinstance(self.p, Schedule):
            self._set(self.p.at(step))

    def remove(self) -> None:
        super().remove()
        for (module, name), own in zip(self._layers, self._own, strict=True):
            setattr(module, name, own)

    def _set(self, p: float) -> None:
        for module, name in self._layers:
            setattr(module, name, p)


def _rate_in(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Returns what holds an attention's dropout rate, and under which name; nothing for others."""
    if isinstance(module, nn.MultiheadAttention):
        return [(module, "dropout")]
    held = getattr(module, "attn_drop", None)
    if isinstance(held, nn.Dropout):
        return [(held, "p")]
    names = ("attn_drop", "attention_dropout")
    return [(module, name) for name in names if isinstance(getattr(module, name, None), float)]


def _attentions(model: nn.Module) -> Iterable[select.Named]:
    found = [(name, each) for name, each in model.named_modules() if name and _rate_in(each)]
    # Some blocks and models keep the number that they built their attentions with.
    outer = {name for name, _ in found for other, _ in found if other.startswith(f"{name}.")}
    return [(name, each) for name, each in found if name not in outer]
