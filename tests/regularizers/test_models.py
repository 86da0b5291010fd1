"""The recipes of configs/regularize/ on their models, by the lines that each opens with."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import augpipe
from tests.harness import ROOT
from tests.regularizers import nets

RECIPES = ROOT / "configs" / "regularize"


@dataclass(frozen=True)
class Case:
    """A batch of two for a recipe's model."""

    x: Callable[[], Tensor]
    target: Callable[[], Tensor]


def images(side: int) -> Case:
    return Case(lambda: nets.drawn(2, 3, side, side), lambda: nets.picked(10, 2))


CASES = {
    "resnet18": images(64),
    "convnext_tiny": images(32),
    "vit_b_16": images(224),  # the only size that it takes
    "swin_t": images(32),
    "timm_efficientnet_b0": images(32),
    "lstm_language_model": Case(nets.LM.inputs, nets.LM.targets),
    "transformer_encoder": Case(nets.TRANSFORMER.inputs, nets.TRANSFORMER.targets),
}
EACH = pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)


def lines(path: Path) -> list[str]:
    """Returns the lines of Python at the top of a recipe."""
    return [
        line.removeprefix("#   ") for line in path.read_text().splitlines() if line[:4] == "#   "
    ]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def seen(model: Callable[[Tensor], Tensor], case: Case) -> Tensor:
    torch.manual_seed(4)
    return model(case.x()).detach()


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: each.clone() for name, each in model.state_dict().items()}


def test_each_recipe_has_its_model() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(CASES)


@EACH
@pytest.mark.slow
def test_a_recipe_trains_its_model_and_comes_off_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    case = CASES[path.stem]
    names: dict[str, Any] = {"torch": torch, "torchvision": torchvision, "timm": timm}
    names |= {"augpipe": augpipe, **vars(nets)}
    first, *rest = lines(path)
    torch.manual_seed(1)
    exec(first, names)
    model = names["model"]
    before = copied(model)
    # Plain, ViT computes the same in training, and takes its time for it.
    modes = (False,) if path.stem == "vit_b_16" else (False, True)
    outputs = [seen(model.train(mode), case) for mode in modes]
    model.load_state_dict(before)  # running statistics moved

    exec("\n".join(rest), names)
    wrapped, optimizer = names["wrapped"], names["optimizer"]
    assert len(wrapped.effects) == len(wrapped.regularizers) >= 5
    assert str(path.relative_to(ROOT)) in rest[0]
    if all(each.keeps_eval for each in wrapped.regularizers):
        assert torch.equal(seen(wrapped.eval(), case), outputs[0])

    wrapped.train()
    losses = []

    def closure() -> None:
        optimizer.zero_grad()
        loss = wrapped.loss(wrapped(case.x()), case.target())
        loss.backward()
        losses.append(loss.item())

    closure()
    wrapped.before_step(optimizer, closure)
    optimizer.step()
    wrapped.after_step()
    after = wrapped.state_dict()
    assert list(after) == list(before)
    assert all(bool(torch.isfinite(each).all()) for each in [torch.tensor(losses), *after.values()])
    assert any(not torch.equal(each, before[name]) for name, each in model.named_parameters())
    assert all(each.grad is not None for each in wrapped.parameters())
    metrics = {"val_loss": 1.0, "val_accuracy": 0.5, "val_perplexity": 3.0}
    with wrapped.averaged():
        assert list(wrapped.state_dict()) == list(before)
    assert not wrapped.end_epoch(metrics)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "swa: nothing was averaged")  # in one epoch
        wrapped.finish([case.x()])

    assert wrapped.remove() is model
    assert hooks(model) == 0
    assert list(model.state_dict()) == list(before)
    model.load_state_dict(before)
    for mode, expected in zip(modes, outputs, strict=True):
        assert torch.equal(seen(model.train(mode), case), expected)


@EACH
def test_a_recipe_names_its_model_where_it_does_not_fit(path: Path) -> None:
    """On a network of another kind, each of these recipes has a technique without a site."""
    with pytest.raises(augpipe.UsageError, match=r"^\S+:\d+:5: regularize\[\d\]: \w+: .*Seq"):
        augpipe.regularize(nets.MLP.build(), path)
