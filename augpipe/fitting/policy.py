"""`augpipe fit policy`: from folders of classes to a plain recipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

import augpipe
from augpipe import recipe as recipes
from augpipe.data.claim import claimed
from augpipe.data.encode import write_atomic
from augpipe.errors import UsageError, printable
from augpipe.fitting.choices import Item, choices_for
from augpipe.fitting.controls import ControlTable
from augpipe.fitting.labelled import Divided
from augpipe.fitting.pictures import draw_policy, grid
from augpipe.fitting.relaxed import RelaxedPolicy
from augpipe.fitting.task import CONTROL_STEPS, LR, SEEDS, check_counts, open_task
from augpipe.fitting.teaching import Augmenter, Lessons, Setting, Tick
from augpipe.rng import Draws

STEPS, SLOTS = 1000, 2
STRENGTHS = (0.5, 1.0)
"""How much of what was learned is tried; images held out choose."""
_TEMPERATURES = (1.0, 0.1)  # of the relaxed choice, from the first step to the last
_ENTROPIES = (0.1, 0.01)  # weights of the entropy, likewise
_MIDDLE = 0.1  # weight of what pulls strengths to the middle
_SHOWN = 8


@dataclass(frozen=True)
class PolicyReport:
    """What a learned policy is worth.

    Args:
        images: How many it was learned on.
        seconds: Of learning it.
        table: The controls.
    """

    images: int
    seconds: float
    table: ControlTable

    def __str__(self) -> str:
        return f"learned on {self.images} images in {self.seconds:.0f} s\n{self.table}"


class PolicyAugmenter(Augmenter):
    """A relaxed policy, as what is taught.

    Penalties: -β H(π) + κ Σ_o π_o (s_o - 1/2)²; β falls from 0.1 to 0.01, the temperature of the
    choice from 1 to 0.1, both as powers; κ is 0.1.

    Args:
        policy: The policy.
    """

    rate = 0.02

    def __init__(self, policy: RelaxedPolicy) -> None:
        super().__init__()
        self.policy = policy

    def show(self, images: Tensor, classes: Tensor, draws: Draws) -> Tensor:
        """Returns images with one op in each slot."""
        out: Tensor = self.policy(images, draws, self.policy.hard_shares(draws))
        return out

    def attempt(
        self, images: Tensor, classes: Tensor, draws: Draws, done: float
    ) -> tuple[Tensor, Tensor]:
        """Returns images with ops mixed in each slot, and the penalties."""
        shares = self.policy.soft_shares(draws, _between(_TEMPERATURES, done))
        chosen = self.policy.probabilities[:, 1:]
        away = (chosen * (self.policy.strengths - 0.5).square()).sum(dim=1).mean()
        penalty = _MIDDLE * away - _between(_ENTROPIES, done) * self.policy.entropy()
        return self.policy(images, draws, shares), penalty

    def told(self) -> dict[str, Any]:
        """Returns the probabilities and strengths."""
        return {
            "probabilities": self.policy.probabilities.tolist(),
            "strengths": self.policy.strengths.tolist(),
        }


def _between(ends: tuple[float, float], done: float) -> float:
    return float(ends[0] * (ends[1] / ends[0]) ** done)


def fit_policy(
    data: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    size: int | None = None,
    side: int | None = None,
    slots: int = SLOTS,
    steps: int = STEPS,
    lr: float = LR,
    seed: int = 0,
    seeds: int = SEEDS,
    control_steps: int = CONTROL_STEPS,
    controls: str | Path | None = None,
    jobs: int | None = None,
    tick: Tick | None = None,
    say: Callable[[str], None] | None = None,
) -> PolicyReport:
    """Learns a policy from images of classes and writes it as a recipe.

    `slots` ops one after another, each chosen among 17 (15 of grey images) with learned
    probabilities and learned ranges (see `relaxed`), after the base's. In a folder beside `out`
    (policy-fit for policy.yaml) are: samples/ (images as the policy makes them, each 100 steps),
    policy.png (probabilities and ranges over the steps), state.safetensors, from which the same
    call goes on to the same policy, and controls/, the runs of the table.

    The table: no augmentation, the base, TrivialAugment, the policy with all probabilities and
    ranges as they were at first, the learned one at half its strength and whole; trained on the
    same images and measured on those held out, paired by seed. Of these two the more accurate one
    is written: what is hard to the end for the classifier of the lessons may be too hard for a
    training of `control_steps`.

    Args:
        data: Class folders, in splits or not, or IDX files; a tenth is held out if there is no
            validation split. Test images are not looked at.
        out: The recipe to write.
        base: A recipe whose sample section stands before the policy; `horizontal_flip` and
            `random_crop` with a padding of an eighth of the side when left out.
        size: How many training images, in the classes' proportions; all when left out.
        side: Of the square images are shrunk and cut to, in pixels; their own when left out.
        slots: How many ops are done one after another.
        steps: Of the classifier that the policy is learned by.
        lr: The highest learning rate of that classifier.
        seed: Of first weights, order and draws.
        seeds: Of each row of the table.
        control_steps: Of each of its runs.
        controls: Where these runs are kept; what another fit to the same images left there is not
            run again. In the folder beside `out` when left out.
        jobs: Of these runs, how many at a time; one a core when left out.
        tick: Is told of each step.
        say: Is told, line by line, what goes on.

    Raises:
        UsageError: The data or the settings cannot be used, or the kept state is of another fit.
        DataError: An image cannot be read, or a class has fewer than ten images.
        DivergedError: A loss became NaN or infinite; the state of before is kept.
    """
    check_counts(steps, control_steps, seeds, lr)
    if not 1 <= slots <= 4:
        raise UsageError(f"slots {slots}: from 1 to 4")
    say = say or (lambda line: None)
    out = Path(out)
    task = open_task(data, out, base, size, side, seed, controls)
    choices = choices_for(task.channels)
    policy = RelaxedPolicy(choices, slots)
    uniform = RelaxedPolicy(choices, slots).items()
    with claimed(task.folder):
        setting = Setting(steps, lr=lr, seed=seed)
        about = [slots, *(each.name for each in choices)]
        taught = PolicyAugmenter(policy)
        lessons = Lessons(task.data, taught, task.base, setting, task.folder, about)
        lessons.looks.append(lambda step: _look(step, lessons, policy, task.data, task.folder))
        task.teach(lessons, tick, say, control_steps, jobs)
        learned = policy.items()
        found = {_named(strength): _weaker(learned, strength) for strength in STRENGTHS}
        rows = {name: (items, ()) for name, items in {"uniform policy": uniform, **found}.items()}
        table = task.judge(rows, seeds, control_steps, jobs, say, list(found))
        report = PolicyReport(len(task.data.train), lessons.seconds, table)
        text = written(
            Path(data),
            task.data,
            task.base,
            found[table.learned],
            f"seed {seed}, {steps} steps, lr {lr:g}, {slots} ops, base {base or 'flip and crop'}; "
            f"controls of {control_steps} steps",
            report,
        )
        recipes.load(yaml.safe_load(text))  # what is written is read again
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out, text.encode())
    return report


def _named(strength: float) -> str:
    return "learned policy" if strength == 1.0 else f"learned, at {strength:g}"


def _weaker(items: Sequence[Item], strength: float) -> list[Item]:
    """Returns slots that act `strength` as much, see `ops.base.Op.at_strength`; numbers are short.

    What is said of an op is said again, be it the op's default now: it was learned.
    """
    if strength == 1.0:
        return list(items)
    slots: Any = recipes.load({"version": 1, "sample": list(items)}).at_strength(strength).sample
    found: list[Item] = []
    for item, slot in zip(items, slots, strict=True):
        ops = []
        for own, op in zip(item["one_of"]["ops"], slot.ops, strict=True):
            ((name, fields),) = own.items()
            every, new = op.item(defaults=True)[name], op.item()
            said = {*fields, *(new[name] if isinstance(new, dict) else ())}
            ops.append({name: _short({key: every[key] for key in every if key in said})})
        found.append({"one_of": {**item["one_of"], "ops": ops}})
    return found


def _short(value: Any) -> Any:
    match value:
        case dict():
            return {key: _short(each) for key, each in value.items()}
        case list() | tuple():
            return [_short(each) for each in value]
        case float():
            return round(value, 3)
    return value


def _look(step: int, lessons: Lessons, policy: RelaxedPolicy, data: Divided, folder: Path) -> None:
    """Draws images as the policy makes them now, and its way so far."""
    images = data.train.images[torch.linspace(0, len(data.train) - 1, _SHOWN).long()].float()
    rows = [images]
    with torch.no_grad():
        for epoch in range(_SHOWN - 1):
            draws = Draws(0, np.arange(_SHOWN), epoch)
            rows.append(policy(images, draws, policy.hard_shares(draws)))
    laid = torch.stack(rows, dim=1).flatten(0, 1).round().to(torch.uint8)
    path = folder / "samples" / f"{step:06d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    grid(laid, _SHOWN).save(path)
    noted = [each for each in lessons.history if "probabilities" in each]
    if len(noted) > 1:
        draw_policy(
            folder / "policy.png",
            [each["step"] for each in noted],
            policy.names,
            [each["probabilities"] for each in noted],
            [each["strengths"] for each in noted],
        )


def written(
    data: Path,
    divided: Divided,
    base: Sequence[Any],
    learned: Sequence[Item],
    how: str,
    report: PolicyReport,
) -> str:
    """Returns the recipe as text, with what it is made of in comments."""
    edge = divided.train.images.shape[-1]
    head = [
        f"augpipe fit policy, augpipe {augpipe.__version__}",
        f"{len(divided.train)} images of {len(divided.train.classes)} classes, {edge} × {edge} "
        f"(from {printable(data.name)}, {divided.identity})",
        how,
        *str(report).splitlines(),
    ]
    lines = [f"# {line}".rstrip() for line in head]
    lines += ["version: 1", "sample:" if base or learned else "sample: []"]
    lines += [f"  - {_item(item)}" for item in base]
    for item in learned:
        fields = item["one_of"]
        lines += ["  - one_of:", f"      p: {fields.get('p', 1.0)}", "      ops:"]
        lines += [f"        - {_item(each)}" for each in fields["ops"]]
        lines += [f"      weights: {_flow(fields['weights'])}"]
    return "\n".join([*lines, ""])


def _item(item: Any) -> str:
    """Returns an op as YAML on one line."""
    if not isinstance(item, dict):
        return str(item)
    ((name, fields),) = item.items()
    return f"{name}: {_flow(fields)}"


def _flow(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10_000)
    return text.removesuffix("...\n").strip()
