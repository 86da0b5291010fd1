"""Parameters that are one, or nearly one: hard tying, tied blocks, and soft sharing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from augpipe.errors import UsageError
from augpipe.regularizers import select
from augpipe.regularizers.base import AUTO, Regularizer
from augpipe.regularizers.effect import Effect, Site
from augpipe.regularizers.rate import Rate
from augpipe.spec import Choice, Declaration, Json, Refused, Text

Groups = tuple[tuple[str, ...], ...]
Named = dict[str, nn.Parameter]


@dataclass(frozen=True)
class Ties(Declaration):
    """What is tied: a list of groups, each a list of names and patterns; or `auto`."""

    def allowed(self) -> str:
        return "auto, or a list of groups [[a.weight, b.weight], [encoder.layers.*]]"

    def parse(self, value: Any) -> str | Groups:
        if value == AUTO:
            return AUTO
        if not isinstance(value, (list, tuple)) or not value:
            raise Refused
        groups = []
        for group in value:
            if not isinstance(group, (list, tuple)) or not group:
                raise Refused("each group is a list of names or patterns")
            names = tuple(Text("").parse(each) for each in group)
            if any(each.startswith("!") for each in names):
                raise Refused("a group names what is tied, and leaves nothing out")
            groups.append(names)
        return tuple(groups)

    def schema(self) -> Json:
        name: Json = {"type": "string", "minLength": 1}
        group: Json = {"type": "array", "items": name, "minItems": 1}
        return {"anyOf": [{"const": AUTO}, {"type": "array", "items": group, "minItems": 1}]}

    def bad_values(self) -> Iterable[Any]:
        yield from ("fc", "", 1, None, [], [[]], ["a.weight", "b.weight"], [["a", 1]], [["!a"]])


class Share(Regularizer):
    """Ties parameters: those of a group become one, with one gradient and one step.

    w_a = w_b = ... = w, so that dL/dw is the sum over the places where w stands. A group names
    parameters (`[embedding.weight, decoder.weight]`), or modules (`[encoder.layers.*]`), whose
    parameters are then tied place by place, as ALBERT does with its blocks. The first one's
    values are taken. Buffers, such as running statistics, stay each layer's own.

    Suggested: embedding and decoder of a language model (Press and Wolf, arXiv 1608.05859); all
    blocks of a transformer, which costs accuracy at the same width and saves most of the
    parameters. Wrap first and build the optimizer from `wrapped.param_groups()`, which has each
    parameter once. The state keeps every key; `safetensors.torch.save_model` writes a tied
    tensor once. `eval()` differs from the untied model, as it must. `remove()` unties: with what
    was trained as the value of each, or with their former values if nothing was.

    `auto` is the longest row of blocks that are built alike: layers of an encoder.

    Paper: Lan et al., "ALBERT", arXiv 1909.11942 (blocks).
    """

    main: ClassVar[str] = "tie"
    structural: ClassVar[bool] = True

    tie: Annotated[str | Groups, Ties()] = AUTO
    """The groups: parameters, or modules, by name or pattern."""

    @property
    def keeps_eval(self) -> bool:
        return False

    def attach(self, model: nn.Module) -> Effect:
        rows = _rows(model, self.tie, self.name())
        for row in rows:
            (first, one), *others = row.items()
            for name, other in others:
                if (one.dtype, one.requires_grad) != (other.dtype, other.requires_grad):
                    has, have = _kind(one), _kind(other)
                    raise UsageError(f"{self.name()}: {first} is {has}, {name} is {have}")
        return _Share(model, rows)


def _kind(parameter: nn.Parameter) -> str:
    return f"{parameter.dtype}, {'trained' if parameter.requires_grad else 'frozen'}"


class _Share(Effect):
    def __init__(self, model: nn.Module, rows: list[Named]) -> None:
        super().__init__([Site(name, f"is {next(iter(r))}") for r in rows for name in [*r][1:]])
        self.trained = False
        places: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
        for module in model.modules():
            for own, parameter in module._parameters.items():
                if parameter is not None:
                    places.setdefault(parameter, []).append((module, own))
        # In a tuple and a list within: a copy of the model copies the ties with it.
        self._tied: tuple[tuple[nn.Parameter, nn.Parameter, Any], ...] = ()
        self._first: list[tuple[nn.Parameter, Tensor]] = []
        for row in rows:
            shared, *others = row.values()
            self._first.append((shared, shared.detach().clone()))
            for former in others:
                self._tied += ((shared, former, tuple(places[former])),)
        for shared, _, where in self._tied:
            _place(shared, where)

    def after_step(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.trained = True

    def extra(self) -> dict[str, Any]:
        return {"trained": self.trained}

    def load_extra(self, state: Mapping[str, Any]) -> None:
        self.trained = bool(state["trained"])

    def remove(self) -> None:
        super().remove()
        # Values may also have been loaded, without a step.
        changed = any(not torch.equal(now.detach(), was.to(now)) for now, was in self._first)
        for shared, former, where in self._tied:
            trained = self.trained or changed
            value = shared.detach().clone() if trained else former.detach().to(shared)
            former.data = value
            _place(former, where)
        self._tied, self._first = (), []


def _place(parameter: nn.Parameter, where: Sequence[tuple[nn.Module, str]]) -> None:
    for module, name in where:
        module._parameters[name] = parameter  # in place: the order of the names stays


class SoftShare(Regularizer):
    """Draws parameters towards each other: a penalty on how far they are apart.

    loss' = loss + strength / 2 sum over pairs a < b of ||w_a - w_b||^2, or, with `to: mean`,
    strength / 2 sum over a of ||w_a - mean||^2, which is the former divided by the size of the
    group. Groups are those of `share`: parameters, or modules whose parameters are matched place
    by place. In `eval()` nothing changes.

    Suggested: strength 1e-4 to 1e-2; as a schedule from 0 to let layers part first. At a large
    strength it is `share`. Blocks that start as copies of one, as those of
    nn.TransformerEncoder do, have no penalty until they part.

    `auto` is the longest row of blocks that are built alike: layers of an encoder.

    Paper: Nowlan and Hinton, "Simplifying Neural Networks by Soft Weight-Sharing", Neural
    Computation 4 (1992), had a mixture of Gaussians; the pairwise form is that of Duong et al.,
    "Low Resource Dependency Parsing: Cross-lingual Parameter Sharing in a Neural Network
    Parser", ACL 2015.
    """

    main: ClassVar[str] = "strength"

    tie: Annotated[str | Groups, Ties()] = AUTO
    """The groups: parameters, or modules, by name or pattern."""
    strength: Annotated[Any, Rate(0)] = 1e-3
    """Factor of the penalty."""
    to: Annotated[str, Choice(("pairs", "mean"))] = "pairs"
    """What a parameter is drawn to: each other one, or the group's mean."""

    def attach(self, model: nn.Module) -> Effect:
        return _SoftShare(self, _rows(model, self.tie, self.name()))


class _SoftShare(Effect):
    def __init__(self, spec: SoftShare, rows: list[Named]) -> None:
        said = (
            f"strength {spec.strength}, to {'each other' if spec.to == 'pairs' else 'their mean'}"
        )
        super().__init__([Site(" ~ ".join(row), said) for row in rows])
        self.strength = self.dial(spec.strength)
        self.pairs = spec.to == "pairs"
        self._rows = tuple(tuple(row.values()) for row in rows)

    def penalty(self, output: Any, target: Any) -> Tensor:
        terms = []
        for row in self._rows:
            each = torch.stack(row)
            # The squares of all pairs are the squares to the mean times the number of members.
            apart = (each - each.mean(dim=0)).square().sum()
            terms.append(apart * len(row) if self.pairs else apart)
        return self.strength * 0.5 * torch.stack(terms).sum()


def _rows(model: nn.Module, tie: str | Groups, who: str) -> list[Named]:
    """Returns the parameters that belong together, by name, each row of one shape.

    Raises:
        UsageError: A name is of nothing, a group has one member, shapes differ, or a parameter
            is in two groups.
    """
    if isinstance(tie, str):
        blocks = _alike(model)
        if not blocks:
            kind = type(model).__name__
            raise UsageError(
                f"{who}: {kind} has no blocks that are built alike: name them, tie: ..."
            )
        found = _by_place(model, blocks, who)
    else:
        found = [row for group in tie for row in _group(model, group, who)]
    rows = [row for row in map(_distinct, found) if len(row) > 1]
    if not rows:
        raise UsageError(f"{who}: these parameters are one already: {', '.join(found[0])}")
    seen: dict[nn.Parameter, str] = {}
    for name, parameter in itertools.chain.from_iterable(row.items() for row in rows):
        if parameter in seen:
            raise UsageError(f"{who}: {name} is in two groups: put all that is tied to it in one")
        seen[parameter] = name
    for row in rows:
        (first, one), *others = row.items()
        for name, other in others:
            if other.shape != one.shape:
                raise UsageError(
                    f"{who}: {first} is {tuple(one.shape)} and {name} is {tuple(other.shape)}: "
                    "only parameters of one shape can be tied"
                )
    return rows


def _group(model: nn.Module, group: tuple[str, ...], who: str) -> list[Named]:
    """Returns the rows of one group: one for parameters, one a place for modules."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    row: Named = {}
    blocks: list[str] = []
    for selector in group:
        matches = select.pattern(selector, who, "tie").fullmatch
        own = {name: each for name, each in parameters.items() if matches(name)}
        inside = [
            name
            for name, each in model.named_modules()
            if name and (matches(name) or selector in select.types_of(each)) and not own
        ]
        if not own and not inside:
            select.parameters(model, selector, who, field="tie")  # it words what is wrong
        row.update(own)
        blocks += [name for name in inside if name not in blocks]
    said = f"{who}: [{', '.join(group)}]"
    if row and blocks:
        raise UsageError(f"{said} names parameters ({next(iter(row))}) and modules ({blocks[0]})")
    if len(row) + len(blocks) < 2:
        raise UsageError(f"{said} is {(*row, *blocks)[0]} alone: a group has at least two members")
    return _by_place(model, blocks, who) if blocks else [row]


def _by_place(model: nn.Module, blocks: Sequence[str], who: str) -> list[Named]:
    """Returns, for each parameter of the first block, those at the same place in the others."""
    within = [
        dict(model.get_submodule(name).named_parameters(remove_duplicate=False)) for name in blocks
    ]
    for name, own in zip(blocks, within, strict=True):
        odd = sorted(own.keys() ^ within[0].keys())
        if odd or not own:
            what = f"only one of them has {odd[0]}" if odd else "they have no parameters"
            raise UsageError(f"{who}: {blocks[0]} and {name} are not built alike: {what}")
    places = [f"{name}." for name in blocks]
    return [
        {place + key: own[key] for place, own in zip(places, within, strict=True)}
        for key in within[0]
    ]


def _distinct(row: Named) -> Named:
    seen: dict[nn.Parameter, str] = {}
    for name, parameter in row.items():
        seen.setdefault(parameter, name)
    return {name: parameter for parameter, name in seen.items()}


def _alike(model: nn.Module) -> list[str]:
    """Returns the names of the longest row of siblings of one type and the same parameters."""
    longest: list[str] = []
    for prefix, module in model.named_modules():
        rows: dict[Any, list[str]] = {}
        for name, child in module.named_children():
            shapes = tuple((n, tuple(p.shape)) for n, p in child.named_parameters())
            if len(shapes) > 2:  # a block, not a single layer
                rows.setdefault((type(child), shapes), []).append(f"{prefix}.{name}".lstrip("."))
        for row in rows.values():
            if len(row) > max(1, len(longest)):
                longest = row
    return longest
