"""A classifier and its teacher tune an augmenter: the steps, the guards, the way back."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from augpipe.errors import DataError, DivergedError, UsageError
from augpipe.fitting import teaching
from augpipe.fitting.choices import Choice, choices_for
from augpipe.fitting.labelled import Divided, open_labelled
from augpipe.fitting.meta import Guards, MetaAugmenter, _made
from augpipe.fitting.policy import PolicyAugmenter
from augpipe.fitting.relaxed import RelaxedPolicy
from augpipe.fitting.teaching import Augmenter, Lessons, Setting, difficulty
from augpipe.learned.augmentation import LATENTS, AugmentationNetwork
from augpipe.rng import Draws
from augpipe.tensors import load_tree
from tests.harness import ROOT


class Gain(Augmenter):
    """Scales levels by one number."""

    rate = 0.01

    def __init__(self) -> None:
        super().__init__()
        self.gain = torch.nn.Parameter(torch.tensor(0.9))

    def show(self, images: Tensor, classes: Tensor, draws: Draws) -> Tensor:
        return images * self.gain

    def attempt(
        self, images: Tensor, classes: Tensor, draws: Draws, done: float
    ) -> tuple[Tensor, Tensor]:
        return images * self.gain, 3 * self.gain + done


def lessons(data: Divided, folder: Path, augmenter: Augmenter, **fields: Any) -> Lessons:
    setting = Setting(**{"steps": 8, "batch_size": 16, "every": 1, **fields})
    folder.mkdir(exist_ok=True)
    return Lessons(data, augmenter, [], setting, folder)


def test_difficulty_is_the_equation() -> None:
    logits, classes = torch.randn(7, 4), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    p = np.exp(logits.numpy()) / np.exp(logits.numpy()).sum(axis=1, keepdims=True)
    want = -np.log(1 - p[np.arange(7), classes.numpy()]).mean()
    assert float(difficulty(logits, classes)) == pytest.approx(float(want), rel=1e-5)
    sure = torch.tensor([[1e4, 0.0]], requires_grad=True)
    difficulty(sure, torch.tensor([0])).backward()
    assert sure.grad.tolist() == [[1.0, -1.0]]  # the surer, the more there is to be made hard


@pytest.mark.parametrize("fair", [True, False])
@pytest.mark.parametrize("hard", [True, False])
def test_a_step_of_the_augmenter_is_the_equations_step(
    folder: Path, tmp_path: Path, fair: bool, hard: bool
) -> None:
    data = open_labelled(folder, None, None, 0)
    own = lessons(data, tmp_path / "fit", Gain(), fair=fair, hard=hard, steps=10)
    own.step, own.weight, own._fast = 5, 1.5, False
    images, classes, _ = own._next(again=1)
    nets = [copy.deepcopy(net).train() for net in (own.student, own.teacher)]
    with torch.no_grad():
        for weight in own.teacher.parameters():
            weight.mul_(1.05)  # else the two are one
        for weight in nets[1].parameters():
            weight.mul_(1.05)
    with torch.no_grad():
        logits = [net(images * 0.9 / 127.5 - 1) for net in nets]
        plain = [net(images / 127.5 - 1) for net in nets]
    costs = [F.cross_entropy(each, classes, reduction="none") for each in logits]
    before = [F.cross_entropy(each, classes, reduction="none") for each in plain]
    right = logits[0].softmax(dim=1)[torch.arange(16), classes]
    want = 3 * 0.9 + 0.5
    want += fair * 1.5 * float(costs[1].mean()) - hard * float(torch.log(1 - right).mean())
    buffers = {k: v.clone() for k, v in own.student.state_dict().items()}
    noted = own._augment()
    assert noted["augmenter"] == pytest.approx(want, rel=1e-4)
    score = (costs[0] - before[0]).relu() - 1.5 * (costs[1] - before[1]).relu()
    assert noted["score"] == pytest.approx(float(score.mean()), abs=1e-4)
    told, kept = ((each.argmax(dim=1) == classes).float().mean() for each in (plain[1], logits[1]))
    assert own.weight == pytest.approx(1.5 + 0.05 * float(0.9 * told - kept))
    after = own.student.state_dict()
    assert all(torch.equal(buffers[name], after[name]) for name in after if "tracked" not in name)
    assert all(each.requires_grad and each.grad is None for each in own.student.parameters())


def test_the_teacher_is_the_mean_of_the_classifier(folder: Path, tmp_path: Path) -> None:
    own = lessons(open_labelled(folder, None, None, 0), tmp_path / "fit", Gain(), steps=2000)
    own.step = 1500  # where the share kept is what it stays
    before = own.teacher.fc.weight.clone()
    own._learn()
    want = 0.99 * before + 0.01 * own.student.fc.weight
    torch.testing.assert_close(own.teacher.fc.weight, want.detach())
    assert not torch.equal(before, own.student.fc.weight)


def test_it_goes_on_to_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teaching, "_KEPT_EVERY", 3)
    data = open_labelled(folder, None, None, 0)

    def fresh(name: str) -> Lessons:
        torch.manual_seed(0)
        own = MetaAugmenter(AugmentationNetwork(2, 1), Guards())
        made = lessons(data, tmp_path / name, own, steps=10)
        made.looks.append(lambda step: own.take())
        return made

    def stop(step: int, last: int, loss: float) -> None:
        if step == 8:
            raise KeyboardInterrupt

    whole, cut, later = fresh("whole"), fresh("cut"), fresh("cut")
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        cut.run(stop)
    later.go_on()
    assert later.step == 6
    later.run()
    assert later.history == whole.history
    for one, other in ((whole.augmenter, later.augmenter), (whole.student, later.student)):
        kept = other.state_dict()
        assert all(torch.equal(each, kept[name]) for name, each in one.state_dict().items())
    other = lessons(data, tmp_path / "cut", Gain(), steps=11)
    with pytest.raises(UsageError, match="holds another fit: finish or remove it"):
        other.go_on()
    state = tmp_path / "whole" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"state\.safetensors: is not a whole safetensors"):
        fresh("whole").go_on()


def test_a_loss_that_is_no_number_stops_it(folder: Path, tmp_path: Path) -> None:
    data = open_labelled(folder, None, None, 0)
    own = lessons(data, tmp_path / "fit", Gain(), lr=1e12, steps=40)
    with pytest.raises(DivergedError, match=r"loss is (nan|inf) at step \d+: remove .*fit and low"):
        own.run()
    assert not (tmp_path / "fit" / "state.safetensors").exists()


def test_weights_that_are_no_numbers_are_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of a step is of before it: at a look the weights are seen to be fine, too."""
    monkeypatch.setattr(teaching, "_KEPT_EVERY", 2)
    data = open_labelled(folder, None, None, 0)
    own = lessons(data, tmp_path / "fit", Gain(), steps=8)
    looked: list[int] = []
    own.looks.append(looked.append)
    plain = own._learn

    def broken() -> float:
        loss = plain()
        if own.step == 3:
            own.student.fc.bias.data.fill_(torch.inf)
        return loss

    monkeypatch.setattr(own, "_learn", broken)
    monkeypatch.setattr(own, "_augment", dict)
    with pytest.raises(DivergedError, match="weights are NaN or infinite at step 4"):
        own.run()
    assert looked == [2]
    state, _ = load_tree(tmp_path / "fit" / "state.safetensors")
    assert state["step"] == 2 and bool(state["student"]["fc.bias"].isfinite().all())


def test_the_base_and_the_augmenter_draw_apart(folder: Path, tmp_path: Path) -> None:
    data = open_labelled(folder, None, None, 0)
    _, _, draws = lessons(data, tmp_path / "fit", Gain())._next()
    based = Draws(0, draws.indices)  # as a recipe's batch section draws
    one, other = (each.at("rotate#0").uniforms("degrees", 1) for each in (draws, based))
    assert not np.allclose(one, other)


@pytest.fixture
def shades(tmp_path: Path) -> Divided:
    """Two classes that differ in how light they are, and in nothing else."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(("dark", "light")):
        (tmp_path / "shades" / name).mkdir(parents=True)
        for j in range(20):
            pixels = 90 + 60 * k + rng.integers(-20, 21, (12, 12))
            image = Image.fromarray(pixels.astype(np.uint8))
            image.save(tmp_path / "shades" / name / f"{j}.png")
    return open_labelled(tmp_path / "shades", None, None, 0)


class Against(NamedTuple):
    """What a network came to against a classifier that had learned before and learns no more."""

    before: Tensor
    after: Tensor
    again: Tensor
    coloured: Tensor
    residual: Tensor
    kept: float


def against(
    data: Divided, folder: Path, guards: Guards, gates: float = 4.0, **fields: Any
) -> Against:
    torch.manual_seed(0)
    net = AugmentationNetwork(2, 1, lowpass=int(guards.lowpass))
    net.gates.weight.data[:] = gates  # 4: all parts act, nearly always
    own = lessons(data, folder, MetaAugmenter(net, guards), steps=10_000, lr=0.05, **fields)
    for _ in range(60):
        own._learn()
        own.step += 1
    own.teacher.load_state_dict(own.student.state_dict())
    for _ in range(100):
        own.history.append(own._augment())
        own.step += 1
    images, classes = data.train.images.float(), data.train.targets
    told = torch.cat([torch.randn(len(images), LATENTS), net.embedding(classes)], dim=1)
    with torch.no_grad():
        one, other = (
            _made(net, images, classes, Draws(1, np.arange(len(images)), epoch), "test")
            for epoch in (0, 1)
        )
        residual = net._residual(images / 255, told)
    kept = float(np.mean([each["teacher_augmented"] for each in own.history[-20:]]))
    return Against(images / 255, one.images, other.images, one.coloured, residual, kept)


def test_without_the_teachers_word_labels_are_destroyed(shades: Divided, tmp_path: Path) -> None:
    with_it, without = (
        against(shades, tmp_path / str(fair), Guards(), fair=fair).kept for fair in (True, False)
    )
    assert with_it > 0.75 and without < 0.3  # of two classes


def test_without_the_classifiers_difficulty_nothing_is_augmented(
    shades: Divided, tmp_path: Path
) -> None:
    with_it = against(shades, tmp_path / "with", Guards())
    without = against(shades, tmp_path / "without", Guards(spread=0.0), hard=False)
    moved = [float((each.after - each.before).abs().mean()) for each in (with_it, without)]
    assert moved[0] > 0.08 > 0.04 > moved[1]


def test_without_variety_draws_are_alike(shades: Divided, tmp_path: Path) -> None:
    found = [against(shades, tmp_path / str(k), Guards(spread=k)) for k in (20.0, 0.0)]
    apart = [float((each.after - each.again).abs().mean()) for each in found]
    assert apart[0] > 1.3 * apart[1]


def test_without_the_colours_distance_all_takes_a_tint(shades: Divided, tmp_path: Path) -> None:
    found = [against(shades, tmp_path / str(k), Guards(tint=k)) for k in (10.0, 0.0)]
    levels = [[each.flatten().sort().values for each in (f.before, f.coloured)] for f in found]
    away = [float((before - after).square().mean()) for before, after in levels]
    assert away[1] > 2.5 * away[0]  # in the squared distance of all levels


def test_without_the_lowpass_the_residual_is_noise(shades: Divided, tmp_path: Path) -> None:
    found = [against(shades, tmp_path / str(k), Guards(lowpass=k)) for k in (True, False)]
    steps = [(f.residual[..., 1:] - f.residual[..., :-1]).square().mean() for f in found]
    rough = [float(s / f.residual.square().mean()) for s, f in zip(steps, found, strict=True)]
    assert rough[1] > 2 * rough[0]


def test_an_op_that_destroys_labels_is_chosen_less(tmp_path: Path) -> None:
    """Of four ops one makes every image black: the teacher tells it from those that are hard."""
    data = open_labelled(ROOT / "samples" / "garments", None, 14, 0)
    black = Choice("black", lambda s: {"brightness": {"factor": [0.0, 0.0]}})
    kept = [each for each in choices_for(1) if each.name in ("rotate", "scale", "cutout")]
    found = []
    for fair in (True, False):
        policy = RelaxedPolicy([*kept, black], slots=1)
        own = lessons(
            data, tmp_path / str(fair), PolicyAugmenter(policy), steps=300, batch_size=32, every=2,
            fair=fair,
        )  # fmt: skip
        own.run()
        found.append(float(policy.probabilities[0, -1].detach()))
    assert found[0] < 0.1 < 0.5 < found[1]  # of five choices, each 0.2 at first
