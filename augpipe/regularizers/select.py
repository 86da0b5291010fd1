"""From `on:` to modules and parameters.

A selector is a pattern of dotted names, where `*` stands for any letters between two dots, `?`
for one, `[34]` for one of these, `[!34]` for one of the others and `**` for anything, dots too;
or the name of a type, with its subclasses: `Conv2d`. In a list, `!selector` leaves out what the
others found. So `layer[34]` is two modules, `layer4.*.conv2` one a block, `**.bn2` all of them.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from torch import nn

from augpipe.errors import UsageError
from augpipe.regularizers.base import AUTO

Named = tuple[str, nn.Module]
NORMS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.RMSNorm,
)
"""Normalization layers: their parameters are not decayed, and nothing is measured on them."""
UNCALLED: dict[str, tuple[str, ...]] = {
    "torch.nn.modules.activation.MultiheadAttention": ("out_proj",),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": ("qkv", "proj"),
    "torchvision.models.video.swin_transformer.ShiftedWindowAttention3d": ("qkv", "proj"),
    "timm.models.beit.Attention": ("qkv",),
    "timm.models.eva.EvaAttention": ("qkv",),
    "timm.models.swin_transformer_v2.WindowAttention": ("qkv",),
}
"""The layers that a type reads the weights of, and does not call: no hook fires."""


@functools.lru_cache(maxsize=256)
def pattern(selector: str, who: str = "", field: str = "on") -> re.Pattern[str]:
    """Translates a selector of names.

    Raises:
        UsageError: It is none, as `[9-1]`.
    """
    out, i = "", 0
    while i < len(selector):
        rest = selector[i:]
        closed = rest.find("]", 2)
        if rest.startswith("**."):
            out, i = out + r"(?:.*\.)?", i + 3
        elif rest.startswith("**"):
            out, i = out + ".*", i + 2
        elif rest[0] == "*":
            out, i = out + r"[^.]*", i + 1
        elif rest[0] == "?":
            out, i = out + r"[^.]", i + 1
        elif rest[0] == "[" and closed > 0:
            inside = rest[1:closed].replace("\\", r"\\").replace("[", r"\[")
            negated = inside.startswith("!")
            inside = inside[1:] if negated else inside.replace("^", r"\^")
            out, i = out + f"[{'^.' if negated else ''}{inside}]", i + closed + 1
        else:
            out, i = out + re.escape(rest[0]), i + 1
    try:
        return re.compile(out)
    except re.error as error:
        said = f"{who}: " if who else ""
        raise UsageError(f"{said}{field}: '{selector}' is not a pattern: {error}") from None


def types_of(module: nn.Module) -> list[str]:
    """Returns the names of a module's type and of what it derives from."""
    return [cls.__name__ for cls in type(module).__mro__ if cls not in (nn.Module, object)]


def _matches(selector: str, name: str, module: nn.Module | None) -> bool:
    if module is not None and selector in types_of(module):
        return True
    return pattern(selector).fullmatch(name) is not None


def _chosen(selectors: Sequence[str], name: str, module: nn.Module | None) -> bool:
    wanted = any(_matches(each, name, module) for each in selectors if not each.startswith("!"))
    out = any(_matches(each[1:], name, module) for each in selectors if each.startswith("!"))
    return wanted and not out


def modules(
    model: nn.Module,
    on: str | tuple[str, ...],
    who: str,
    auto: Callable[[], Iterable[Named]],
    accepts: Collection[type[nn.Module]] = (nn.Module,),
    what: str = "module",
) -> list[Named]:
    """Returns the modules that `on` selects, in the model's order.

    Args:
        model: The model.
        on: The selectors; `auto` takes what `auto()` finds.
        who: The regularizer, for the error.
        auto: Finds the sites where the user named none.
        accepts: The types that can be a site. A pattern may name others beside: they are passed
            over, unless they are all that it names.
        what: What a site is, in a word or two, for the error.

    Raises:
        UsageError: Nothing is selected, with the names that come nearest; or nothing that is
            called in a forward.
    """
    silent = _never_called(model)
    if on == AUTO:
        found = [each for each in auto() if each[1] not in silent]
        if not found:
            raise UsageError(
                f"{who}: {type(model).__name__} has no {what} of its own accord: name it, on: ..."
            )
        return found
    selectors = (on,) if isinstance(on, str) else on
    named: list[Named] = [(name, each) for name, each in model.named_modules() if name]
    for selector in selectors:
        pattern(selector.lstrip("!"), who)
        if not any(_matches(selector.lstrip("!"), name, each) for name, each in named):
            raise UsageError(f"{who}: {_no_site(model, selector.lstrip('!'), 'module', named)}")
    chosen = [(name, each) for name, each in named if _chosen(selectors, name, each)]
    fit = [(name, each) for name, each in chosen if isinstance(each, tuple(accepts))]
    if fit and all(each in silent for _, each in fit):
        raise UsageError(
            f"{who}: {fit[0][0]} is never called: the attention around it reads its weights"
        )
    fit = [(name, each) for name, each in fit if each not in silent]
    if not fit:
        inside = f" ({chosen[0][0]} is a {type(chosen[0][1]).__name__})" if chosen else ""
        raise UsageError(f"{who}: on: {_said(on)} selects no {what}{inside}")
    return fit


def of_types(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[Named]:
    """Returns the modules of some types that are called in a forward, with their names."""
    silent = _never_called(model)
    found = [(name, each) for name, each in model.named_modules() if isinstance(each, kinds)]
    return [(name, each) for name, each in found if each not in silent]


def last_linear(model: nn.Module) -> list[Named]:
    """Returns the last linear layer of a model, in a list: the classifier of most."""
    return of_types(model, (nn.Linear,))[-1:]


def _never_called(model: nn.Module) -> set[nn.Module]:
    """Returns the layers whose weights their parent reads without calling them: no hook fires."""
    found: set[nn.Module] = set()
    for module in model.modules():
        if getattr(module, "q_bias", 0) is None or getattr(module, "qkv_bias_separate", False):
            continue  # timm's call the layer where they add no bias to it, or add it apart
        for cls in type(module).__mro__:
            for name in UNCALLED.get(f"{cls.__module__}.{cls.__qualname__}", ()):
                inside = getattr(module, name)
                found.update([inside] if isinstance(inside, nn.Module) else [])
    return found


def parameters(
    model: nn.Module,
    on: str | tuple[str, ...],
    who: str,
    auto: Callable[[], Iterable[str]] | None = None,
    field: str = "on",
) -> dict[str, nn.Parameter]:
    """Returns the parameters that `on` selects, by name, each tensor once.

    A selector may name parameters, modules (all parameters inside) or types of modules (their
    own). `auto` are the weights: of two dimensions at least, not of normalization layers, not
    what the model's `no_weight_decay()` names (as timm's models have it).

    Args:
        model: The model.
        on: The selectors.
        who: The regularizer, for the error.
        auto: Other parameters to take for `auto`, by name.
        field: The field of the regularizer that holds them, for the error.

    Raises:
        UsageError: Nothing is selected; with the names that come nearest.
    """
    every = dict(model.named_parameters())
    if on == AUTO:
        names = set(auto() if auto else _weights(model))
        found = {name: each for name, each in every.items() if name in names}
        if not found:
            raise UsageError(f"{who}: {type(model).__name__} has no weights: name some, on: ...")
        return found
    selectors = (on,) if isinstance(on, str) else on
    places: list[tuple[str, nn.Module | None]] = [(name, None) for name in every]
    places += [(name, each) for name, each in model.named_modules() if name]
    for selector in selectors:
        pattern(selector.lstrip("!"), who, field)
        if not any(_matches(selector.lstrip("!"), name, each) for name, each in places):
            problem = _no_site(model, selector.lstrip("!"), "parameter or module", places, field)
            raise UsageError(f"{who}: {problem}")
    positive = tuple(each for each in selectors if not each.startswith("!"))
    negative = tuple(each[1:] for each in selectors if each.startswith("!"))
    names = _below(model, positive) - _below(model, negative)
    found = {name: each for name, each in every.items() if name in names}
    if not found:
        raise UsageError(f"{who}: {field}: {_said(on)} selects no parameters")
    return found


def _below(model: nn.Module, selectors: Sequence[str]) -> set[str]:
    """Returns the names of the parameters that selectors name, or that lie in what they name."""
    names: set[str] = set()
    for selector in selectors:
        names |= {n for n, _ in model.named_parameters() if pattern(selector).fullmatch(n)}
        for name, module in model.named_modules():
            prefix = f"{name}." if name else ""
            by_name = bool(name) and pattern(selector).fullmatch(name) is not None
            if by_name or selector in types_of(module):
                names |= {prefix + n for n, _ in module.named_parameters(recurse=by_name)}
    return names


def _weights(model: nn.Module) -> Iterable[str]:
    exempt = getattr(model, "no_weight_decay", None)
    left_out = set(exempt()) if callable(exempt) else set()
    for prefix, module in model.named_modules():
        if isinstance(module, NORMS):
            continue
        for own, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{own}" if prefix else own
            if parameter.ndim >= 2 and "bias" not in own and name not in left_out:
                yield name


def _no_site(
    model: nn.Module,
    selector: str,
    what: str,
    named: Sequence[tuple[str, nn.Module | None]],
    field: str = "on",
) -> str:
    first: dict[Any, str] = {}
    for name, each in (
        *model.named_modules(remove_duplicate=False),
        *model.named_parameters(remove_duplicate=False),
    ):
        if first.setdefault(each, name) != name and pattern(selector).fullmatch(name):
            return f"{field}: '{selector}' is {first[each]}: call it by that name"
    known = dict.fromkeys(name for name, _ in named)
    known.update(dict.fromkeys(type(each).__name__ for _, each in named if each is not None))
    near = difflib.get_close_matches(selector, list(known), n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(each) for each in near)}?" if near else ""
    if not hint:
        top = ", ".join(name for name, _ in model.named_children()) or "no module inside"
        hint = f"it has {top}"
    return f"{field}: '{selector}' matches no {what} of {type(model).__name__} ({hint})"


def _said(on: str | tuple[str, ...]) -> str:
    return f"'{on}'" if isinstance(on, str) else str(list(on))
