"""The networks of the GAN and their steps, against the equations."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from augpipe.fitting import adversarial as fitting
from augpipe.fitting.adversarial import gradient_penalty, relativistic_loss
from augpipe.fitting.discriminator import Discriminator
from augpipe.fitting.labelled import Divided, open_labelled
from augpipe.learned.generator import Generator


def small(data: Divided, folder: Path) -> fitting.AdversarialFit:
    sizes = fitting.Preset(4, 8, 8, 100)
    return fitting.AdversarialFit(data, sizes, 10, 8, 0.1, 0, "float32", "cpu", folder)


@pytest.mark.parametrize("side", [8, 9, 12, 28, 33, 64, 96])
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_of_any_side(side: int, channels: int) -> None:
    net = Generator(3, channels, side, width=4, most=8)
    images = net(torch.randn(2, 64), torch.tensor([0, 2]))
    assert images.shape == (2, channels, side, side)
    assert images.min() >= 0 and images.max() <= 1
    assert 4 <= net.base <= 7
    scores = Discriminator(3, channels, side, 4, 8)(2 * images - 1, torch.tensor([0, 2]))
    assert scores.shape == (2,)


def test_a_generator_tells_noise_and_classes_apart() -> None:
    net = Generator(3, width=4, most=8)
    noise = torch.randn(2, 64)
    one, other = net(noise[:1], torch.tensor([0])), net(noise[1:], torch.tensor([0]))
    assert not torch.equal(one, other)
    assert not torch.equal(one, net(noise[:1], torch.tensor([1])))


def test_the_class_enters_by_projection() -> None:
    """D(x, y) - D(x, y') = (e_y - e_y')' h(x): linear in the embedding."""
    net = Discriminator(3, 1, 12, 4, 8)
    images = torch.randn(5, 1, 12, 12)
    scores = [net(images, torch.full((5,), k)) for k in range(3)]
    assert not torch.allclose(scores[0], scores[1], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        net.embedding.weight[2] = 2 * net.embedding.weight[0] - net.embedding.weight[1]
    third = net(images, torch.full((5,), 2))
    torch.testing.assert_close(third, 2 * scores[0] - scores[1], rtol=1e-4, atol=1e-5)


def test_losses_are_the_equations() -> None:
    real, made = torch.randn(8), torch.randn(8)
    want = np.log1p(np.exp(made.numpy() - real.numpy())).mean()
    assert float(relativistic_loss(made, real)) == pytest.approx(float(want), rel=1e-5)
    images = torch.randn(6, 2, 3, 3, requires_grad=True)
    scores = 0.5 * images.square().sum(dim=(1, 2, 3))  # its gradient is the image
    squares = images.detach().square().sum(dim=(1, 2, 3))
    penalty = gradient_penalty(scores, images)
    assert penalty.item() == pytest.approx(float(squares[:3].mean() + squares[3:].mean()), rel=1e-5)
    penalty.backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def descend(net: torch.nn.Module, loss: torch.Tensor) -> None:
    own = list(net.parameters())
    with torch.no_grad():
        for each, grad in zip(own, torch.autograd.grad(loss, own), strict=True):
            each -= 0.1 * grad


def test_a_step_of_each_network_is_the_equations_step(folder: Path, tmp_path: Path) -> None:
    """What one step does to both networks, written out anew with plain SGD in Adam's place."""
    data = open_labelled(folder, None, None, 0)
    fit, again = small(data, tmp_path), small(data, tmp_path)
    for each in (fit, again):
        each._optimizers = [
            torch.optim.SGD(net.parameters(), 0.1) for net in (each.generator, each._discriminator)
        ]
    fit._advance()
    d, g = again._discriminator, again.generator
    real, classes = again._next()
    made = g(again._noise(0), classes).detach()
    halves = again._augmented(torch.cat([real, made]), 0).split(8)
    x, x_made = (each.detach().requires_grad_() for each in halves)
    on_real, on_made = d(x, classes), d(x_made, classes)
    penalty = sum(
        torch.autograd.grad(scores.sum(), images, create_graph=True)[0]
        .square()
        .sum((1, 2, 3))
        .mean()
        for scores, images in ((on_real, x), (on_made, x_made))
    )
    loss = torch.log1p((on_made - on_real).exp()).mean() + 4 * fitting._GAMMA / 2 * penalty
    with torch.no_grad():
        for p, grad in zip(
            d.parameters(), torch.autograd.grad(loss, [*d.parameters()]), strict=True
        ):
            p -= 0.1 * grad
    made = g(again._noise(1), classes)
    real_seen, made_seen = again._augmented(torch.cat([real, made]), 1).split(8)
    loss = torch.log1p((d(real_seen, classes) - d(made_seen, classes)).exp()).mean()
    with torch.no_grad():
        for p, grad in zip(
            g.parameters(), torch.autograd.grad(loss, [*g.parameters()]), strict=True
        ):
            p -= 0.1 * grad
    for mine, theirs in ((fit.generator, g), (fit._discriminator, d)):
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)  # sums in another order


def test_every_step_draws_anew(folder: Path, tmp_path: Path) -> None:
    data = open_labelled(folder, None, None, 0)
    fit = small(data, tmp_path)
    images = torch.rand(16, 1, 12, 12)
    noise, seen, orders = [], [], []
    for fit.step in (0, 1, 4, 5):  # 4 batches of 8 in an epoch of 36
        noise += [fit._noise(0), fit._noise(1)]
        seen += [fit._augmented(images, 0), fit._augmented(images, 1)]
        orders.append(fit._next()[0])
    for many in (noise, seen, orders):
        pairs = [(a, b) for k, a in enumerate(many) for b in many[:k]]
        assert not any(torch.equal(a, b) for a, b in pairs)
    fit.step = 1
    assert torch.equal(fit._noise(0), noise[2]) and torch.equal(fit._next()[0], orders[1])


def test_weights_are_averaged_and_rates_fall(folder: Path, tmp_path: Path) -> None:
    data = open_labelled(folder, None, None, 0)
    fit = small(data, tmp_path)
    before = [each.clone() for each in fit._averaged.parameters()]
    fit.step = 999  # half-life: a twentieth of the 8,000 images seen
    fit._advance()
    kept = 0.5 ** (8 / 400)
    own = fit.generator.parameters()
    for mean, old, new in zip(fit._averaged.parameters(), before, own, strict=True):
        torch.testing.assert_close(mean, kept * old + (1 - kept) * new, rtol=1e-4, atol=1e-6)
    rates = []
    for fit.step in (0, 5, 10):
        fit._advance()
        rates += [each.param_groups[0]["lr"] for each in fit._optimizers]
    middle = 0.1 * (0.15 + 0.85 / 2)
    assert rates == pytest.approx([0.1, 0.1, middle, middle, 0.015, 0.015])


def test_what_is_augmented_before_it_is_told_apart(folder: Path, tmp_path: Path) -> None:
    data = open_labelled(folder, None, None, 0)
    colour = replace(data.train, images=data.train.images.expand(-1, 3, -1, -1))
    names = []
    for each in (data, replace(data, train=colour)):
        fit = small(each, tmp_path)
        names.append([op.name() for op in fit._augment.recipe.batch])
    assert names == [["translate", "cutout"], ["color_jitter", "translate", "cutout"]]


def test_penalties_are_taken_every_fourth_step(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = open_labelled(folder, None, None, 0)
    fit = small(data, tmp_path)
    taken = []
    plain = fitting.gradient_penalty
    monkeypatch.setattr(
        fitting, "gradient_penalty", lambda *args: taken.append(fit.step) or plain(*args)
    )
    for fit.step in range(9):
        fit._advance()
    assert taken == [0, 4, 8]
