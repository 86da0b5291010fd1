"""Where residual branches end: what a block adds to its shortcut is the output of which modules.

A block is known in one of three ways, asked in this order: it says so itself, by a class
attribute `branches = ("bn2",)` of names of modules inside it; its type stands in `BRANCHES`; or
it has a place for stochastic depth of its own, a module under one of the names in `PLACES`.
Types are known by their full names, so that no library is imported, and so that another block of
the same short name is not taken for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from augpipe.errors import UsageError
from augpipe.regularizers import select
from augpipe.regularizers.base import AUTO
from augpipe.regularizers.select import Named

_TV, _TIMM, _HF = "torchvision.models", "timm.models", "transformers.models"

BRANCHES: dict[str, tuple[str, ...]] = {
    "torch.nn.modules.transformer.TransformerEncoderLayer": ("dropout1", "dropout2"),
    "torch.nn.modules.transformer.TransformerDecoderLayer": ("dropout1", "dropout2", "dropout3"),
    f"{_TV}.resnet.BasicBlock": ("bn2",),
    f"{_TV}.resnet.Bottleneck": ("bn3",),
    f"{_TV}.regnet.ResBottleneckBlock": ("f",),
    f"{_TV}.mobilenetv2.InvertedResidual": ("conv",),
    f"{_TV}.mobilenetv3.InvertedResidual": ("block",),
    f"{_TV}.vision_transformer.EncoderBlock": ("dropout", "mlp"),
    f"{_TV}.video.resnet.BasicBlock": ("conv2",),
    f"{_TV}.video.resnet.Bottleneck": ("conv3",),
    f"{_TIMM}.resnet.BasicBlock": ("drop_path|se|bn2",),
    f"{_TIMM}.resnet.Bottleneck": ("drop_path|se|bn3",),
    f"{_HF}.bert.modeling_bert.BertLayer": ("attention.output.dropout", "output.dropout"),
    f"{_HF}.roberta.modeling_roberta.RobertaLayer": ("attention.output.dropout", "output.dropout"),
    f"{_HF}.vit.modeling_vit.ViTLayer": ("dropout",),
    f"{_HF}.deit.modeling_deit.DeiTLayer": ("dropout",),
    f"{_HF}.swin.modeling_swin.SwinLayer": ("drop_path", "dropout"),
    f"{_HF}.gpt2.modeling_gpt2.GPT2Block": ("attn.resid_dropout", "mlp.dropout"),
    f"{_HF}.llama.modeling_llama.LlamaDecoderLayer": ("self_attn", "mlp"),
}
"""The ends of the branches by the block's type; of `a|b` the first that the block has."""

PLACES = (
    *("drop_path", "drop_path1", "drop_path2", "drop_path3"),
    *("stochastic_depth", "stochastic_dropout"),
)
"""Names under which torchvision, timm and others keep a block's own stochastic depth. They
call it on the branch also where its rate is 0, once for each branch or one module for all."""

_NO_SHORTCUT = (
    ("use_res_connect", False),
    ("has_skip", False),
    ("shortcut", None),
    ("identity", None),
)  # attributes by which a block says that, of its stride or widths, it adds nothing
_OWN = ("drop_prob", "p")  # the rate of a DropPath, of a StochasticDepth


@dataclass(frozen=True, slots=True)
class Block:
    """A residual block.

    Args:
        name: Its dotted name in the model.
        ends: The modules whose outputs are its branches, by their names in the model.
        axis: Which axis of the branches counts the samples.
        own: The rate of stochastic depth that the model itself has there.
    """

    name: str
    ends: tuple[Named, ...]
    axis: int
    own: float

    @property
    def words(self) -> str:
        """Says where it acts, and beside what: ", on bn2, beside its own 0.1"."""
        inside = [name.removeprefix(f"{self.name}.") for name, _ in self.ends]
        on = f", on {' and '.join(inside)}" if inside != [self.name] else ""
        return on + (f", beside its own {self.own:.3g}" if self.own else "")


def blocks(model: nn.Module) -> list[Block]:
    """Returns the residual blocks of a model, in its order. Those without a shortcut are not."""
    known = (_block(name, module) for name, module in model.named_modules())
    return [block for block in known if block is not None]


def chosen(model: nn.Module, on: str | tuple[str, ...], who: str) -> list[Block]:
    """Returns the blocks that `on` selects, in the model's order; `auto` takes all.

    A selector that names blocks, or modules that hold blocks, means these, and whatever it names
    beside is passed over, so that `layer[34]` is the blocks of two stages. One that names none
    means the modules themselves: their outputs are the branches.

    Args:
        model: The model.
        on: The selectors.
        who: The regularizer, for the error.

    Raises:
        UsageError: Nothing is selected, or blocks that have no shortcut only.
    """
    every = {block.name: block for block in blocks(model)}
    if on == AUTO:
        found = [(name, model.get_submodule(name)) for name in every]
        select.modules(model, on, who, lambda: found, what="residual block")
        return list(every.values())
    selectors = (on,) if isinstance(on, str) else on
    out = tuple(each for each in selectors if each.startswith("!"))
    negative = tuple(each[1:] for each in out)
    left_out = select.modules(model, negative, who, lambda: ()) if out else []
    taken: dict[str, Block] = {}
    for selector in selectors:
        if selector in out:
            continue
        modules = select.modules(model, (selector, *out), who, lambda: ())
        inside = [
            block
            for name, block in every.items()
            if _within(name, modules) and not _within(name, left_out)
        ]
        if not inside:
            bare = [name for name, module in modules if _ends(module) and name not in every]
            if bare:
                raise UsageError(f"{who}: {bare[0]} has no shortcut: without its branch it is 0")
            inside = [Block(n, ((n, m),), rows_axis(m), 0.0) for n, m in modules]
        taken.update({block.name: block for block in inside})
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    return sorted(taken.values(), key=lambda block: order[block.name])


def rows_axis(module: nn.Module) -> int:
    """Returns the axis that counts the samples in what a module takes and returns.

    It is 0, or 1 for PyTorch's recurrent, attention and transformer layers without `batch_first`.
    """
    # A recurrent layer inside a block does not tell of the block, which may turn what it takes.
    inside = [each for each in module.children() if not isinstance(each, nn.RNNBase)]
    for each in (module, *inside):
        if getattr(each, "batch_first", True) is False:
            return 1
    return 0


def rows(x: Tensor, axis: int) -> list[int]:
    """Returns the shape of one number a sample, to be broadcast over x."""
    shape = [1] * x.ndim
    # A layer that takes (time, batch, width) takes (time, width) too, which is one sample.
    if axis == 0 or x.ndim > 2:
        shape[axis] = x.shape[axis]
    return shape


def on_tensor(change: Callable[[Tensor], Tensor], output: Any, who: str, name: str) -> Any:
    """Changes what a module takes or returns, or the first of it: attention returns (x, weights).

    Raises:
        UsageError: It is no tensor of floats.
    """
    match output:
        case Tensor() if output.is_floating_point():
            return change(output)
        case (Tensor() as first, *rest) if isinstance(output, tuple) and first.is_floating_point():
            changed = (change(first), *rest)
            return type(output)(*changed) if hasattr(output, "_fields") else changed
    what = str(output.dtype) if isinstance(output, Tensor) else type(output).__name__
    raise UsageError(f"{who}: at {name} there are no floats, but {what}")


def _block(name: str, module: nn.Module) -> Block | None:
    ends = _ends(module)
    missing = object()
    bare = any(getattr(module, own, missing) is value for own, value in _NO_SHORTCUT)
    if not ends or bare:
        return None
    prefix = f"{name}." if name else ""
    named = tuple((prefix + end, module.get_submodule(end)) for end in ends)
    return Block(name, named, rows_axis(module), _own_rate(module))


def _ends(module: nn.Module) -> tuple[str, ...]:
    """Returns the names, inside a block, of the modules that end its branches; none of another."""
    declared = getattr(module, "branches", None)
    declared = (declared,) if isinstance(declared, str) else declared
    if isinstance(declared, (tuple, list)) and all(isinstance(each, str) for each in declared):
        for end in declared:
            if not _has(module, end):
                kind = type(module).__name__
                raise UsageError(f"{kind}.branches names '{end}', which is no module inside it")
        return tuple(declared)
    for cls in type(module).__mro__:
        ends = BRANCHES.get(f"{cls.__module__}.{cls.__qualname__}")
        if ends is not None:
            there = [next((a for a in end.split("|") if _has(module, a)), "") for end in ends]
            return tuple(there) if all(there) else ()
    return tuple(place for place in PLACES if _has(module, place))


def _has(module: nn.Module, path: str) -> bool:
    inside: Any = module
    for part in path.split("."):
        inside = getattr(inside, part, None)
    return isinstance(inside, nn.Module)


def _own_rate(module: nn.Module) -> float:
    rates = [0.0]
    for place in PLACES:
        inside = getattr(module, place, None)
        rates += [float(getattr(inside, name, None) or 0.0) for name in _OWN]
    return max(rates)


def _within(name: str, modules: Iterable[Named]) -> bool:
    return any(name == each or name.startswith(f"{each}.") for each, _ in modules)
