"""The batch section of every config runs on fake CUDA tensors: nothing waits for the device.

A tensor left on the CPU, an `.item()` or any other value asked back raises there.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from augpipe.batch import BatchSection
from augpipe.learned import latent, replacing, taught
from augpipe.learned.augmentation import AugmentationNetwork
from augpipe.learned.autoencoder import Autoencoder
from augpipe.learned.generator import Generator
from augpipe.ops.base import Combinator, Op
from augpipe.pipeline import Pipeline, load
from augpipe.recipe import Recipe
from tests.harness import ROOT

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
CUDA = torch.device("cuda", 0)

GARMENTS = replacing.ClassGenerator("bundled", "cpu")
CLOTHES = taught.NamedNetwork("bundled", "cpu")

LOOKED_AT = {(CUDA, floats, labels) for floats in (False, True) for labels in (False, True)}

# Where a wait is meant, and why. Everything else must do without.
EXCEPTIONS = {
    "first batch": "values outside 0..1 and classes that do not exist are refused in it",
    "objects": "what is left of an instance mask under what is pasted decides over its box",
    "foreign": "other libraries wait as they like: some of Kornia's checks call .item()",
}


def foreign(op: Op) -> bool:
    inside = op.inner() if isinstance(op, Combinator) else ()
    return "." in op.name() or any(map(foreign, inside))


def sections() -> list[Any]:
    """Each config's batch section, and its sample section moved there."""
    out = []
    for path in CONFIGS:
        recipe = load(path).recipe
        if recipe.batch:
            out.append(pytest.param(recipe, id=f"{path.stem}-batch"))
        moved = tuple(op for op in (*recipe.sample, *recipe.batch) if not foreign(op))
        if recipe.sample and not recipe.batch:
            whole = recipe.model_copy(update={"sample": (), "batch": moved})
            out.append(pytest.param(whole, id=f"{path.stem}-moved"))
    learned = [
        {"latent_extrapolate": {}},
        {"latent_class_resample": {}},
        {"gan_replace": {"p": 0.5, "weight": 0.4}},
        {"meta": {}},
    ]
    for item in learned:
        recipe = load({"version": 1, "batch": [item, {"normalize": "half"}]}).recipe
        out.append(pytest.param(recipe, id=next(iter(item))))
    return out


def prepared(recipe: Recipe) -> BatchSection:
    """A section for which the first batch has been."""
    own = recipe.model_copy(
        update={"batch": tuple(op for op in recipe.batch if not foreign(op)), "classes": 10}
    )
    section = Pipeline(own).batch
    section._looked_at |= LOOKED_AT
    return section


def fake_net(*_: Any) -> Autoencoder:
    with torch.device(CUDA):
        return Autoencoder()


def fake_generator(*_: Any) -> replacing.ClassGenerator:
    found = copy.copy(GARMENTS)
    with torch.device(CUDA):
        found.net = Generator(10).requires_grad_(False)
        found._device, found._tables = str(CUDA), {}
    return found


def fake_network(*_: Any) -> taught.NamedNetwork:
    found = copy.copy(CLOTHES)
    with torch.device(CUDA):
        found.net = AugmentationNetwork(10).requires_grad_(False)
        found._device, found._tables = str(CUDA), {}
    return found


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("recipe", sections())
def test_a_batch_never_waits_for_the_device(
    recipe: Recipe, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = prepared(recipe)
    # Weights are on the device since the first batch; a file gives no fake ones.
    monkeypatch.setattr(latent, "held", fake_net)
    monkeypatch.setattr(replacing, "held", fake_generator)
    monkeypatch.setattr(taught, "held", fake_network)
    with FakeTensorMode():
        images = torch.empty(6, 3, 256, 256, dtype=dtype, device=CUDA)
        labels = torch.empty(6, dtype=torch.int64, device=CUDA)
        masks = torch.empty(6, 256, 256, dtype=torch.int64, device=CUDA)
        fits = not any(op.misplaced for op in recipe.batch)
        given: dict[str, Any] = {"label": labels, **({"mask": masks} if fits else {})}
        if any(op.name() == "copy_paste" for op in recipe.batch):
            given["boxes"] = [np.array([[10.0, 20.0, 100.0, 90.0]])] * 6
        out, targets = section(images, given, index=range(6))
    assert out.device.type == "cuda" and len(out) == 6
    assert {targets[key].device.type for key in given if key != "boxes"} == {"cuda"}


def test_it_moves_with_to() -> None:
    """Moved once, it takes batches to its device."""
    with FakeTensorMode():
        section = prepared(load(CONFIGS[0]).recipe.model_copy(update={"batch": ()}))
        there = section.to(CUDA)
        out = there(torch.empty(2, 3, 8, 8, dtype=torch.uint8), index=range(2))
    assert out.device.type == "cuda"


@pytest.mark.parametrize("form", [list, tuple])
def test_it_moves_targets_of_each_image(form: Any) -> None:
    """A dict an image, as detection models take them; boxes are read on the CPU."""
    recipe = load({"version": 1, "batch": ["horizontal_flip"]}).recipe
    with FakeTensorMode():
        there = prepared(recipe).to(CUDA)
        rows = form(
            {
                "boxes": np.array([[2.0, 3.0, 6.0, 7.0]]),
                "labels": torch.zeros(1, dtype=torch.int64),
                "masks": torch.zeros(1, 8, 8, dtype=torch.uint8),
                "mask": torch.zeros(8, 8, dtype=torch.uint8),
            }
            for _ in range(3)
        )
        images, targets = there(torch.empty(3, 3, 8, 8, dtype=torch.uint8), rows, index=range(3))
    assert images.device.type == "cuda" and type(targets) is form
    for row in targets:
        assert isinstance(row["boxes"], np.ndarray)
        assert {row[key].device.type for key in ("labels", "masks", "mask")} == {"cuda"}


def test_a_wait_would_be_noticed() -> None:
    with FakeTensorMode(), pytest.raises(Exception, match="_local_scalar_dense"):
        torch.empty(3, device=CUDA).sum().item()


def run_exception(name: str) -> None:
    images = torch.empty(4, 3, 32, 32, dtype=torch.uint8, device=CUDA)
    boxes = [np.array([[2.0, 3.0, 20.0, 25.0]])] * 4
    masks = [torch.empty(1, 32, 32, dtype=torch.uint8, device=CUDA)] * 4
    items = {
        "first batch": "to_float",
        "objects": "copy_paste",
        "foreign": "kornia.RandomMotionBlur",
    }
    op: Any = items[name]
    if name == "foreign":
        op = {op: {"kernel_size": 3, "angle": 20.0, "direction": 0.5, "p": 1.0}}
    section = Pipeline(load({"version": 1, "batch": [op]}).recipe).batch
    if name != "first batch":
        section._looked_at |= LOOKED_AT
    given = images / 255.0 if name == "first batch" else images
    section(given, {"boxes": boxes, "masks": masks} if name == "objects" else None, index=range(4))


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_is_one(name: str) -> None:
    """What need not wait any more leaves the list."""
    with (
        FakeTensorMode(),
        pytest.raises(Exception, match=r"_local_scalar_dense|_to_copy|numpy|Fake"),
    ):
        run_exception(name)


def test_the_first_floats_are_looked_at_whatever_came_before() -> None:
    """Whole levels need no look, and do not stand for the floats that follow."""
    section = Pipeline(load({"version": 1, "batch": ["horizontal_flip"]}).recipe).batch
    with FakeTensorMode():
        images = torch.empty(2, 3, 8, 8, dtype=torch.uint8, device=CUDA)
        section(images, index=range(2))
        with pytest.raises(Exception, match="_local_scalar_dense"):
            section(images / 255.0, index=range(2))
