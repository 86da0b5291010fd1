"""The contract of an op, a clause a function. Each raises AssertionError where it is broken.

test_contract.py holds every op of the catalogue to every clause; test_teeth.py holds a
sabotaged op to each and expects the error.
"""

from __future__ import annotations

import dataclasses
import pickle
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import yaml

from augpipe import targets
from augpipe.errors import RecipeError
from augpipe.ir import Flow, Meaning, Normalize, Warp
from augpipe.ops.base import Combinator, Op
from augpipe.ops.geometry import Resize
from augpipe.pipeline import Pipeline
from augpipe.plan.nodes import realise
from augpipe.plan.rules import plan
from augpipe.recipe import Recipe, load
from augpipe.rng import Draws
from augpipe.targets import Sample
from augpipe.types import Frame
from tests.harness import photo

SIZES = ((24, 40), (33, 17), (24, 40), (8, 9), (50, 51), (24, 40), (31, 64))


def arrays(value: Any) -> list[Any]:
    """Flattens a meaning to what it is made of."""
    if dataclasses.is_dataclass(value):
        return [a for f in dataclasses.fields(value) for a in arrays(getattr(value, f.name))]
    if isinstance(value, (tuple, list)):
        return [a for each in value for a in arrays(each)]
    return [value]


def same(one: Any, other: Any) -> bool:
    """Whether two meanings are equal to the last bit."""
    pairs = list(zip(arrays(one), arrays(other), strict=True))
    return all(
        np.array_equal(a, b, equal_nan=getattr(a, "dtype", "").__str__() != "")
        if isinstance(a, np.ndarray) and a.dtype.kind == "f"
        else np.all(a == b)
        for a, b in pairs
    )


def row(meaning: Meaning, index: int) -> Meaning:
    """One image's part of a meaning."""

    def cut(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value[index : index + 1]
        if isinstance(value, tuple):
            return tuple(cut(each) for each in value)
        return row(value, index) if isinstance(value, Meaning) else value

    fields = dataclasses.fields(meaning)
    return dataclasses.replace(meaning, **{f.name: cut(getattr(meaning, f.name)) for f in fields})


def meanings(op: Op, indices: Any, sizes: Any, epoch: int = 0) -> list[Meaning]:
    frame = Frame(np.array(sizes, np.int64).reshape(-1, 2))
    return realise(
        plan([op], Counter(), fused=False), Draws(3, np.asarray(indices, np.int64), epoch), frame
    )


def recipe(op: Op) -> Recipe:
    """Returns the recipe of one op, in the section where it may stand."""
    return Recipe(seed=3, classes=10, **{op.sections[0]: (op,)})


def pipeline(op: Op) -> Pipeline:
    return Pipeline(recipe(op))


def mixes(op: Op) -> bool:
    """Tells whether an op stands in batches only."""
    return "sample" not in op.sections


def sizes(op: Op) -> Any:
    """The sizes of seven images that an op can be given together."""
    return (SIZES[0],) * 7 if mixes(op) else SIZES


def through(op: Op, images: Sequence[np.ndarray], indices: Any, pipe: Any = None) -> list[Any]:
    """Runs images (H, W, C) through an op's pipeline; those of a batch have a box each."""
    pipe = pipe or pipeline(op)
    if not mixes(op):
        done = pipe.run([Sample(image) for image in images], np.asarray(indices, np.int64))
        return [each.image for each in done]
    stack = np.stack(images) if len(images) else np.zeros((0, 8, 8, 3), np.uint8)
    given = torch.from_numpy(stack).permute(0, 3, 1, 2)
    floats = stack.dtype != np.uint8
    boxes = [np.array([[2.0, 3.0, 20.0, 15.0]])] * len(images)
    targets = {"label": torch.arange(len(images)) % 2}
    if not op.misplaced:
        targets["boxes"] = boxes
    out, _ = pipe.batch(given / 255.0 if floats else given, targets, index=indices, epoch=0)
    return list((out * 255.0 if floats else out).permute(0, 2, 3, 1).numpy())


def is_pure(op: Op) -> None:
    """Two calls give the same meaning, and no global generator is read or moved."""
    before = (random.getstate(), repr(np.random.get_state()))
    first = meanings(op, range(7), SIZES)
    np.random.seed(1), random.seed(1)
    moved = (random.getstate(), repr(np.random.get_state()))
    second = meanings(op, range(7), SIZES)
    assert moved == (random.getstate(), repr(np.random.get_state())), "moves a global generator"
    random.setstate(before[0])
    assert all(map(same, first, second)), "two calls differ"


def rows_stand_alone(op: Op) -> None:
    """Row k of n images is that image's meaning alone, bit for bit."""
    many = meanings(op, range(100, 107), SIZES)
    for k, size in enumerate(SIZES):
        alone = meanings(op, [100 + k], [size])
        for whole, one in zip(many, alone, strict=True):
            assert same(row(whole, k), one), f"row {k} of {len(SIZES)} is not the row alone"


def kind_is_declared(op: Op) -> None:
    """It means what its class says it means, and reads pixels as it says."""
    if isinstance(op, Combinator):
        return
    (meaning,) = meanings(op, range(7), SIZES)
    assert type(meaning) is op.kind, f"declares {op.kind}, means {type(meaning)}"
    if isinstance(meaning, (Warp, Flow)):
        assert meaning.sampling == op.sampling


def p_zero_is_identity(op: Op) -> None:
    """With p = 0 every target is untouched."""
    if op.last:
        return
    off = op.model_copy(update={"p": 0.0})
    image = photo(height=24, width=40)
    mask = np.arange(24 * 40, dtype=np.int32).reshape(24, 40, 1)
    # With a trace, what does not act is realised all the same.
    (out,) = pipeline(off).run([Sample(image, [mask])], np.array([5]), trace={})
    assert np.array_equal(out.image, image) and np.array_equal(out.masks[0], mask)


def strength_leads_to_nothing(op: Op) -> None:
    """At strength 1 it is itself; towards 0 the same draws leave the pixels, nearly, as they were.

    What gives images their size stays what it is, or leads to all of the image at that size.
    """
    assert op.at_strength(1.0) == op
    weak = op.at_strength(1e-6)
    inner = op.inner() if isinstance(op, Combinator) and not op.private else ()
    if op.last or (op.sizes and weak == op) or any(each.sizes for each in inner):
        return
    image = photo(height=40, width=40)
    for index in range(4):
        (out,) = through(weak, [image], [index])
        want = image
        if out.shape != image.shape:
            how = getattr(op, "interpolation", "bilinear")
            (want,) = through(Resize(size=out.shape[:2], interpolation=how), [image], [index])
        far = np.abs(out.astype(float) - want).mean()
        assert far < 1.0, f"{far:.2f} grey levels away at no strength"


def input_is_untouched(op: Op) -> None:
    """The arrays that go in are the same afterwards."""
    images = [np.array(photo(height=h, width=w)) for h, w in sizes(op)]
    before = [image.copy() for image in images]
    through(op, images, range(len(images)))
    assert all(map(np.array_equal, images, before)), "the input was written to"


def kind_is_kept(op: Op) -> None:
    """uint8 stays uint8, float stays float32, channels stay channels."""
    image = photo(height=24, width=40)
    last = isinstance(meanings(op, [0], [(24, 40)])[-1], Normalize)
    for given in (image, image.astype(np.float32)):
        out = through(op, [given, given], [1, 2])[0]
        want = np.float32 if last else given.dtype
        assert out.dtype == want, f"{given.dtype} became {out.dtype}"
        assert out.ndim == 3 and out.shape[2] == 3
        if given.dtype == np.float32 and not last:
            assert out.min() >= 0 and out.max() <= 255.001, "leaves 0..255"


def empty_batch(op: Op) -> None:
    """No images: nothing, and no error."""
    assert through(op, [], []) == []
    for meaning in meanings(op, [], []):
        assert all(len(a) == 0 for a in arrays(meaning) if isinstance(a, np.ndarray))


def pickles(op: Op) -> None:
    """The op and its pipeline survive pickling."""
    assert pickle.loads(pickle.dumps(op)) == op
    pipe = pickle.loads(pickle.dumps(pipeline(op)))
    images = [photo(height=24, width=40)] * 2
    a, b = (through(op, images, [2, 3], p) for p in (pipe, pipeline(op)))
    assert all(map(np.array_equal, a, b))


def round_trips(op: Op) -> None:
    """What it dumps builds it again."""
    whole = recipe(op)
    for defaults in (False, True):
        assert load(yaml.safe_load(whole.dump(defaults))) == whole


def refuses_bad_values(op: Op) -> None:
    """Each declared field's bad values are refused by the field's name."""
    good = op.item()
    fields = dict(good[op.name()]) if isinstance(good, dict) else {}
    for name, declared in type(op).declared().items():
        refused = 0
        for bad in declared.bad_values():
            item = {op.name(): {**fields, name: bad}}
            text = _refusal(item, op.sections[0])
            assert text, f"{op.name()}.{name} takes {bad!r}"
            assert op.name() in text and name in text, f"unnamed: {text}"
            refused += 1
        assert refused, f"{name} declares no bad value"


def _refusal(item: Any, section: str) -> str:
    try:
        load({"version": 1, section: [item]})
    except RecipeError as error:
        return str(error)
    return ""


def targets_agree_with_pixels(op: Op) -> None:
    """What is drawn on an image, its mask, its box and its corners move alike.

    The centre of a rectangle and of its box's outline agree to 0.1 pixel (of maps that are
    affine; a perspective map moves the centre of mass). Hulls agree to 1.6 pixels: a corner of
    the drawn rectangle is rounded off by bilinear interpolation. The mask is the image's
    bright part, to a pixel. Keypoints at the corners are the outline's corners.
    """
    height, width = 160, 200
    x0, y0, x1, y1 = 70, 56, 118, 100
    image = np.zeros((height, width, 1), np.float32)
    image[y0:y1, x0:x1] = 255
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)
    box = targets.outline(np.array([[x0, y0, x1, y1]]))
    given = Sample(image, [(image > 0).astype(np.uint8)], [targets.Points.of(corners)], [box])
    for index in range(6):
        (meaning,) = meanings(op, [index], [(height, width)])
        if not isinstance(meaning, (Warp, Flow)):
            return
        (out,) = pipeline(op).run([given], np.array([index]))
        moved, whole, seen = out.image[:, :, 0], out.boxes[0].whole[0], out.boxes[0].seen[0]
        found = abs(whole[:, None] - out.points[0].at[None]).max(axis=2).min(axis=0)
        near = 1e-6 if isinstance(meaning, Warp) else 0.05  # a flow is inverted to 0.001 pixel
        assert found.max() < near, f"keypoints {out.points[0].at}, the outline has {whole}"
        if not len(seen) or moved.sum() < 255 * 30:
            continue
        hull, drawn = _hull(moved > 127), np.concatenate([seen.min(0), seen.max(0)])
        assert abs(hull - drawn).max() < 1.6, f"pixels at {hull}, box at {drawn}"
        masked = _hull(out.masks[0][:, :, 0] > 0)
        assert abs(hull - masked).max() <= 1.0, f"pixels at {hull}, mask at {masked}"
        projective = isinstance(meaning, Warp) and meaning.matrix[0, 2, :2].any()
        cut = (hull[:2] == 0).any() or hull[2] == moved.shape[1] or hull[3] == moved.shape[0]
        if cut or isinstance(meaning, Flow) or projective:
            continue
        at = (np.indices(moved.shape) + 0.5).reshape(2, -1) @ moved.ravel() / moved.sum()
        centre = seen[:4].mean(axis=0)
        assert abs(at[::-1] - centre).max() < 0.1, f"centre at {at[::-1]}, outline's at {centre}"


def _hull(bright: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(bright)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


CLAUSES = [
    is_pure,
    rows_stand_alone,
    kind_is_declared,
    p_zero_is_identity,
    strength_leads_to_nothing,
    input_is_untouched,
    kind_is_kept,
    empty_batch,
    pickles,
    round_trips,
    refuses_bad_values,
    targets_agree_with_pixels,
]


def applies(clause: Any, op: Op) -> bool:
    """Whether a clause speaks of this op."""
    if op.company and clause is rows_stand_alone:
        return False  # an image needs its batch: tests/unit/test_mix.py
    if mixes(op) and clause in (targets_agree_with_pixels, strength_leads_to_nothing):
        return False
    if clause is strength_leads_to_nothing and op.name() == "rand_augment":
        return False  # autocontrast and equalize, among its transforms, have no magnitude
    return not (clause is targets_agree_with_pixels and isinstance(op, Combinator))
