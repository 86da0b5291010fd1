"""The relaxed policy against the recipe that comes of it, and against closed forms."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from augpipe.fitting.choices import CHOICES, choices_for
from augpipe.fitting.policy import PolicyAugmenter, _weaker, written
from augpipe.fitting.relaxed import GROUP, SHOWN, RelaxedPolicy
from augpipe.pipeline import load
from augpipe.rng import Draws, Trace
from tests.harness import ROOT


def policy(channels: int = 3, slots: int = 2, seed: int = 0) -> RelaxedPolicy:
    """Returns a policy with weights and ranges of its own, none so rare that it is left out."""
    made = RelaxedPolicy(choices_for(channels), slots)
    own = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made.logits += 0.2 * torch.randn(made.logits.shape, generator=own)
        made.levels += 1.5 * torch.randn(made.levels.shape, generator=own)
    return made


def images(count: int, channels: int = 3) -> torch.Tensor:
    own = torch.Generator().manual_seed(1)
    small = torch.rand(count, channels, 9, 9, generator=own)
    return torch.nn.functional.interpolate(small, (32, 28), mode="bicubic").clamp(0, 1)


def forced(made: RelaxedPolicy, trace: Trace, count: int) -> torch.Tensor:
    """Returns shares: what a recipe drew, by its own trace."""
    shares = torch.zeros(count, made.slots, 1 + len(made.choices))
    for slot in range(made.slots):
        drawn = trace[f"one_of#{slot}"]
        acts = drawn.get("on", np.ones(count, bool))
        at = np.where(acts, 1 + drawn["branch"], 0)
        shares[torch.arange(count), slot, torch.from_numpy(at)] = 1
    return shares


@pytest.mark.parametrize("channels", [1, 3])
def test_the_recipe_is_the_policy_with_its_choices_forced(channels: int) -> None:
    made, count = policy(channels), 400
    given = images(count, channels)
    recipe: dict[str, Any] = {"version": 1, "seed": 5, "fuse": False, "batch": made.items()}
    trace: Trace = {}
    want = load(recipe).batch(given, index=range(count), trace=trace)
    shares = forced(made, trace, count)
    assert (shares.sum(dim=0) > 0).all()  # every op of every slot was drawn
    with torch.no_grad():
        out = made(255 * given, Draws(5, np.arange(count)), shares)
    assert (out / 255 - want).abs().max() <= 1 / 255
    pipe = load({**{k: v for k, v in recipe.items() if k != "batch"}, "sample": made.items()})
    some = [pipe(each.permute(1, 2, 0).numpy(), index=k) for k, each in enumerate(given[:64])]
    shown = torch.from_numpy(np.stack(some).reshape(64, 32, 28, channels)).permute(0, 3, 1, 2)
    # What is next to a threshold or a bin's edge may fall on either side of it.
    assert ((out[:64] / 255 - shown).abs() > 1 / 255).float().mean() < 1e-3


def test_gradients_of_ranges_are_those_of_the_drawn_numbers() -> None:
    """Brightness: x (1 - 0.9 s + 1.8 s u), so d/ds is x (1.8 u - 0.9), u the number drawn."""
    made = RelaxedPolicy([each for each in CHOICES if each.name == "brightness"], slots=1)
    given, draws = 100 * images(6), Draws(3, np.arange(6))
    shares = torch.tensor([[[0.0, 1.0]]]).expand(6, 1, 2)
    out = made(given, draws, shares)
    u = torch.from_numpy(draws.at("brightness#0").uniforms("factor", 1)[:, 0]).float()
    slope = given * (1.8 * u - 0.9)[:, None, None, None]
    weights = torch.rand(out.shape, generator=torch.Generator().manual_seed(2))
    (out * weights).sum().backward()
    want = (slope * weights).sum() * 0.25  # d sigmoid at 0
    torch.testing.assert_close(made.levels.grad[0, 0], want, rtol=2e-3, atol=0)  # three decimals


def test_gradients_of_choices_are_those_of_the_mixture() -> None:
    made = policy(slots=1)
    given, draws = 255 * images(4), Draws(3, np.arange(4))
    shares = made.soft_shares(draws, 0.5)
    assert ((shares > 0).sum(dim=2) == SHOWN).all()
    torch.testing.assert_close(shares.sum(dim=2), torch.ones(4, 1))
    ones = [
        made(given, draws, torch.eye(shares.shape[2])[k].expand(4, 1, -1))
        for k in range(shares.shape[2])
    ]
    want = sum(shares[:, 0, k, None, None, None] * each for k, each in enumerate(ones))
    torch.testing.assert_close(made(given, draws, shares), want, rtol=1e-5, atol=1e-3)


def test_what_passes_no_gradient_passes_it_straight() -> None:
    made = RelaxedPolicy([each for each in CHOICES if each.name == "posterize"], slots=1)
    given = (255 * images(2)).requires_grad_()
    out = made(given, Draws(0, np.arange(2)), torch.tensor([[[0.0, 1.0]]]).expand(2, 1, 2))
    assert not torch.equal(out, given)
    out.sum().backward()
    assert torch.equal(given.grad, torch.ones_like(given))


def test_choices_are_drawn_by_their_probabilities() -> None:
    made, count = policy(), 20_000
    drawn = made.hard_shares(Draws(0, np.arange(count))).mean(dim=0)
    want = made.probabilities.detach()
    assert ((drawn - want).abs() < 4 * (want * (1 - want) / count).sqrt()).all()  # 4 sigma
    groups = made.soft_shares(Draws(0, np.arange(count)), 1e-4).detach()[::GROUP]
    assert groups.amax(dim=2).mean() > 0.999  # one op, where the temperature is next to none
    share, wide = groups.round().mean(dim=0), 4 * (want * (1 - want) / len(groups)).sqrt()
    assert ((share - want).abs() < wide).all()


def test_rare_choices_are_left_out_and_weights_add_up() -> None:
    made = RelaxedPolicy(choices_for(3), slots=2)
    with torch.no_grad():
        made.logits[0, 1:] = -20.0  # nothing but the identity
        made.logits[1] = torch.log(torch.tensor([0.2, 0.5, 0.28, *[0.02 / 15] * 15]))
    (only,) = made.items()
    fields = only["one_of"]
    assert [next(iter(each)) for each in fields["ops"]] == ["shear", "shear"]
    assert fields["weights"] == [0.641, 0.359] and fields["p"] == 0.796  # 0.78 / 0.98
    load({"version": 1, "sample": [only]})


def test_at_the_least_and_the_most_every_op_is_one() -> None:
    for choice in CHOICES:
        for strength in (0.0, 1.0):
            op = choice.op(strength)
            assert op.name() == next(iter(choice.item(strength)))
    assert (ROOT / "samples").exists()


@pytest.mark.parametrize(("done", "share"), [(0.0, 1.0), (0.5, 10**-0.5), (1.0, 0.1)])
def test_penalties_and_temperature_are_those_that_are_said(
    done: float, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """-β H(π) + 0.1 Σ π (s - 1/2)²; β falls from 0.1 to 0.01, the temperature from 1 to 0.1."""
    made = RelaxedPolicy(choices_for(3), slots=2)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for each in made.parameters():
            each.copy_(torch.randn(each.shape, generator=generator))
    asked: list[float] = []
    soft = made.soft_shares

    def noted(draws: Draws, temperature: float) -> torch.Tensor:
        asked.append(temperature)
        return soft(draws, temperature)

    monkeypatch.setattr(made, "soft_shares", noted)
    images = torch.full((3, 3, 16, 16), 100.0)
    draws = Draws(0, np.arange(3))
    _, penalty = PolicyAugmenter(made).attempt(images, torch.zeros(3).long(), draws, done)
    logits = made.logits.detach().double().numpy()
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    entropy = -(chances * np.log(chances)).sum(axis=1).mean()
    strengths = made.strengths.detach().double().numpy()
    away = (chances[:, 1:] * (strengths - 0.5) ** 2).sum(axis=1).mean()
    assert asked == [pytest.approx(share)]
    assert float(penalty.detach()) == pytest.approx(0.1 * away - 0.1 * share * entropy, rel=1e-5)


def test_what_acts_on_every_image_is_written_too_and_names_stay_in_their_comment() -> None:
    ops = [{"equalize": {"p": 1}}, {"rotate": {"degrees": [-8, 8]}}]
    always = {"one_of": {"p": 1.0, "ops": ops, "weights": [0.5, 0.5]}}
    train = _Train(torch.zeros(4, 3, 8, 8), ["a", "b"])
    divided: Any = SimpleNamespace(train=train, identity="x")
    items = _weaker([always], 0.5)
    text = written(Path("in\nseed: 5"), divided, [], items, "how", "what it is worth")  # type: ignore[arg-type]
    found = load(yaml.safe_load(text)).recipe
    assert found.seed == 0 and "      p: 1.0\n" in text
    (op,) = found.sample
    assert op.p == 1.0


class _Train(list[Any]):
    def __init__(self, images: torch.Tensor, classes: list[str]) -> None:
        super().__init__(images)
        self.images, self.classes = images, classes
