"""Policies: tables, draws, pixels and targets, against torchvision and closed forms."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import autoaugment

import augpipe
from augpipe import targets
from augpipe.backends import batched, opencv, reference
from augpipe.backends.batched import pieces
from augpipe.errors import DataError, RecipeError
from augpipe.ir import Alone, Blend, Color, Curve, Warp
from augpipe.ops.augmix import Augmix
from augpipe.ops.policy import KINDS, AutoAugment, RandAugment, TrivialAugment
from augpipe.ops.policy_tables import (
    AT,
    GEOMETRY,
    MIXED,
    NAMES,
    SIGNED,
    STANDARD,
    TABLES,
    WIDE,
    Space,
)
from augpipe.pipeline import Pipeline
from augpipe.plan.nodes import realise
from augpipe.plan.rules import plan
from augpipe.recipe import Recipe
from augpipe.rng import Draws, Trace
from augpipe.targets import Sample
from augpipe.types import Array, Frame
from tests.harness import build, drawn, meanings, photo, run
from tests.policies import apply, chain, found, torchvision_name

MANY = 20_000
SIZES = [(32, 32), (224, 224), (96, 128), (375, 500), (331, 662)]
LEVEL = 1e-3  # of significance, of each test of a distribution
POLICIES: list[Any] = [
    "rand_augment",
    "trivial_augment",
    "auto_augment",
    {"auto_augment": "cifar10"},
    {"auto_augment": "svhn"},
]


def draws(op: Any, n: int = MANY) -> tuple[Array, Array]:
    return op.drawn(Draws(12, np.arange(n), 3).at("policy#0"))


def agrees(counts: Any, shares: Any) -> bool:
    shares = np.asarray(shares, float)
    return bool(stats.chisquare(counts, shares / shares.sum() * np.sum(counts)).pvalue > LEVEL)


# Tables.


def spaces() -> list[Any]:
    rand, wide = autoaugment.RandAugment(), autoaugment.TrivialAugmentWide()
    auto, mix = autoaugment.AutoAugment(), autoaugment.AugMix()
    bins = (2, 3, 5, 9, 10, 11, 16, 31, 101)
    return [
        pytest.param(STANDARD, rand._augmentation_space, bins, id="rand_augment"),
        pytest.param(WIDE, lambda b, size: wide._augmentation_space(b), bins, id="trivial_augment"),
        pytest.param(STANDARD, auto._augmentation_space, (10,), id="auto_augment"),
        pytest.param(MIXED, mix._augmentation_space, (10,), id="augmix"),
    ]


@pytest.mark.parametrize(("space", "torchvision", "bins"), spaces())
def test_magnitudes_are_torchvisions(space: Space, torchvision: Any, bins: Any) -> None:
    """To float32, in which torchvision counts them; what is cut to integers is compared so."""
    for count in bins:
        for size in SIZES:
            table = torchvision(count, size)
            for name in NAMES:
                if torchvision_name(name) not in table:
                    continue
                magnitudes, signed = table[torchvision_name(name)]
                assert signed == SIGNED[AT[name]]
                want = np.broadcast_to(magnitudes.double().numpy(), count)
                level = np.arange(count) / (count - 1)
                got = space.magnitudes(np.full(count, AT[name]), level)
                if name.startswith("translate"):
                    got = got if space.in_pixels else got * size[name == "translate_x"]
                    # Of 31 wide bins, torchvision's middle one is 15.999999 pixels: cut to 15.
                    assert (np.floor(got + 1e-6) == np.floor(want + 1e-4)).all(), (name, size)
                if name == "solarize":
                    assert (np.ceil(got) == np.ceil(want)).all(), (name, count)
                if name == "posterize":
                    assert (got == want).all(), (name, count)
                assert abs(got - want).max() < 1e-6 * max(1.0, want.max()), (name, count, size)


@pytest.mark.parametrize("name", TABLES)
def test_learned_tables_are_torchvisions(name: Any) -> None:
    def rule(name: str, p: float, level: int) -> Any:
        strong = SIGNED[AT[name]] or name in ("posterize", "solarize")
        return torchvision_name(name), p, level if strong else None

    known = autoaugment.AutoAugmentPolicy(name)
    want = autoaugment.AutoAugment()._get_policies(known)
    assert [tuple(rule(*each) for each in pair) for pair in TABLES[name]] == want


# Pixels.


def one(name: str, magnitude: float, shape: tuple[int, ...], space: Space = WIDE) -> Alone:
    """What one transform means, alone, read by nearest pixels."""

    class Alone1(TrivialAugment):
        pass

    Alone1.space = space
    policy = Alone1(interpolation="nearest")
    (kind,) = [kind for kind in KINDS if name in kind.names]
    frame = Frame(np.array([shape[:2]]))
    return kind(policy=policy).mean(np.array([AT[name]]), np.array([magnitude]), frame)


def strengths(name: str, space: Space) -> list[float]:
    levels = np.array([0.0, 1.0, 4.0, 9.0, 15.0, 22.0, 30.0]) / 30.0
    out = space.magnitudes(np.full(7, AT[name]), levels)
    return list(dict.fromkeys((*out, *(-out if SIGNED[AT[name]] else ()))))


@pytest.mark.parametrize("space", [STANDARD, WIDE], ids=["standard", "wide"])
@pytest.mark.parametrize("name", NAMES[1:])
def test_levels_are_torchvisions(name: str, space: Space) -> None:
    """Exact where torchvision does not cut levels off; where it does, 2 levels at most."""
    image = photo(height=97, width=130)
    cuts = name in ("brightness", "color", "contrast", "sharpness", "autocontrast")
    edge = 1 if name == "sharpness" else 0  # there torchvision leaves the outermost pixels
    for magnitude in strengths(name, space):
        got = opencv.render(one(name, magnitude, image.shape, space), 0, image)
        want = chain(image, np.array([AT[name]]), np.array([magnitude]), not space.in_pixels)
        inside = slice(edge, -edge or None)
        away = abs(got - want)[inside, inside]
        assert np.isfinite(away).mean() > 0.7, magnitude  # half of a 0.99 shear lies on ties
        assert np.nanmax(away) <= (2.0 if cuts else 0.0), magnitude
        assert np.nanmean(away) <= (1.1 if cuts else 0.0), magnitude


@pytest.mark.parametrize("name", [name for name in NAMES[1:] if name[:5] not in ("poste", "equal")])
def test_float_levels_are_torchvisions(name: str) -> None:
    """To 0.04 grey levels, of torchvision's 0.2989 for red; posterize and equalize take uint8."""
    image = photo(height=97, width=130)
    tensor = torch.from_numpy(image.astype(np.float32) / 255.0).permute(2, 0, 1)
    edge = 1 if name == "sharpness" else 0
    inside = slice(edge, -edge or None)
    for magnitude in strengths(name, WIDE):
        got = opencv.render(one(name, magnitude, image.shape), 0, image.astype(np.float32))
        strength = magnitude / 255.0 if name == "solarize" else magnitude
        want = apply(tensor, name, strength, share=False).permute(1, 2, 0).numpy() * 255.0
        sure = np.isfinite(chain(image, np.array([AT[name]]), np.array([magnitude]), False))
        away = np.where(sure, abs(got - want), 0.0)[inside, inside]
        assert away.max() < 0.04, magnitude


# Draws.


@pytest.mark.parametrize("item", ["trivial_augment", {"rand_augment": {"num_ops": 3}}])
def test_transforms_are_drawn_evenly_and_independently(item: Any) -> None:
    (op,) = build(item)
    ops, _ = draws(op)
    for place in ops.T:
        assert agrees(np.bincount(place, minlength=14), np.ones(14))
    for first, second in zip(ops.T, ops.T[1:], strict=False):
        assert agrees(np.bincount(first * 14 + second, minlength=196), np.ones(196))


@pytest.mark.parametrize("item", POLICIES)
def test_signs_are_even(item: Any) -> None:
    ops, magnitudes = draws(build(item)[0])
    assert (magnitudes[~SIGNED[ops]] >= 0).all()
    drawn = (SIGNED[ops] & (magnitudes != 0)).ravel()
    up = (magnitudes.ravel()[drawn] > 0).sum()
    assert stats.binomtest(int(up), int(drawn.sum())).pvalue > LEVEL


def test_trivial_augment_draws_every_bin_alike() -> None:
    ops, magnitudes = draws(TrivialAugment())
    for name, most in (("shear_x", 0.99), ("rotate", 135.0), ("color", 0.99)):
        bins = abs(magnitudes[ops == AT[name]]) / most * 30
        assert abs(bins - np.rint(bins)).max() < 1e-9
        assert agrees(np.bincount(np.rint(bins).astype(int), minlength=31), np.ones(31))
    few = draws(TrivialAugment(num_magnitude_bins=2))
    assert set(abs(few[1][few[0] == AT["translate_x"]])) == {0.0, 32.0}


def test_rand_augment_draws_a_normal_magnitude() -> None:
    still = draws(RandAugment())
    assert set(abs(still[1][still[0] == AT["rotate"]])) == {9.0}
    ops, magnitudes = draws(RandAugment(magnitude=15, magnitude_std=3))
    angle = abs(magnitudes[ops == AT["rotate"]])
    assert stats.kstest(angle, stats.norm(15, 3).cdf).pvalue > LEVEL
    wild = draws(RandAugment(magnitude=9, magnitude_std=1000))
    assert set(abs(wild[1][wild[0] == AT["rotate"]]).round(9)) >= {0.0, 30.0}
    assert abs(wild[1][wild[0] == AT["rotate"]]).max() == 30.0


@pytest.mark.parametrize("name", TABLES)
def test_auto_augment_draws_pairs_evenly_and_each_rule_by_its_probability(name: Any) -> None:
    op = AutoAugment(policy=name)
    own = Draws(12, np.arange(MANY), 3).at("policy#0")
    pair = np.floor(own.uniforms("pair", 1)[:, 0] * 25).astype(int)
    assert agrees(np.bincount(pair, minlength=25), np.ones(25))
    ops, magnitudes = op.drawn(own)
    score = 0.0
    count = 0
    for k, rules in enumerate(TABLES[name]):
        rows = pair == k
        for place, (transform, p, level) in enumerate(rules):
            acts = ops[rows, place] == AT[transform]
            assert (ops[rows, place][~acts] == AT["identity"]).all()
            want = STANDARD.magnitudes(np.array(AT[transform]), np.array(level / 9))
            assert np.allclose(abs(magnitudes[rows, place][acts]), want, atol=1e-12)
            if p in (0.0, 1.0):
                assert acts.mean() == p
                continue
            score += (acts.sum() - rows.sum() * p) ** 2 / (rows.sum() * p * (1 - p))
            count += 1
    assert stats.chi2(count).sf(score) > LEVEL


def test_augmix_draws_chains() -> None:
    op = Augmix(severity=4, width=2)
    ops, magnitudes = draws(op)
    assert ops.shape == (MANY, 2, 3)
    acts = ops != AT["identity"]
    for chain_acts in acts.transpose(1, 0, 2):
        depth = chain_acts.sum(axis=1)
        assert (chain_acts == (np.arange(3) < depth[:, None])).all()
        assert agrees(np.bincount(depth, minlength=4)[1:], np.ones(3))
    counts = np.bincount(ops[acts], minlength=15)
    assert counts[AT["invert"]] == 0
    assert agrees(counts[1:14], np.ones(13))
    angles = abs(magnitudes[ops == AT["rotate"]]) / 30.0 * 9
    assert agrees(np.bincount(np.rint(angles).astype(int), minlength=4), np.ones(4))
    assert (magnitudes[~acts] == 0).all()


def unrelated(*columns: Array) -> bool:
    """Whether no two of the columns (n,) are correlated, to five standard errors."""
    related = np.corrcoef(np.stack(columns)) - np.eye(len(columns))
    return bool(abs(related).max() < 5.0 / np.sqrt(len(columns[0])))


@pytest.mark.parametrize("name", TABLES)
def test_auto_augment_decides_over_its_two_rules_apart(name: Any) -> None:
    own = Draws(12, np.arange(MANY), 3).at("policy#0")
    pair = np.floor(own.uniforms("pair", 1)[:, 0] * 25).astype(int)
    ops, _ = AutoAugment(policy=name).drawn(own)
    acts = ops != AT["identity"]
    chance = np.array([[p for _, p, _ in rules] for rules in TABLES[name]])[pair]
    open_ = ((chance > 0) & (chance < 1)).all(axis=1)
    off = ((acts - chance) / np.sqrt(np.maximum(chance * (1 - chance), 1e-9)))[open_]
    # Of mean 0 and variance 1 whatever the pair is.
    assert abs(off.prod(axis=1).mean()) < 5.0 / np.sqrt(open_.sum())
    assert open_.mean() > 0.3


def test_rand_augment_draws_each_place_its_own_magnitude_and_sign() -> None:
    ops, magnitudes = draws(RandAugment(num_ops=3, magnitude=15, magnitude_std=3))
    linear = [*(AT[name] for name in GEOMETRY), AT["brightness"], AT["color"], AT["contrast"]]
    level = abs(magnitudes) / np.maximum(STANDARD.magnitudes(ops, np.ones(ops.shape)), 1e-9)
    both = np.isin(ops, linear).all(axis=1)
    assert both.sum() > 2000
    assert unrelated(*level[both].T)
    assert unrelated(*np.sign(magnitudes[both]).T)
    assert unrelated(level[both, 0], np.sign(magnitudes[both, 0]))


def test_augmix_draws_each_chain_its_own_depth() -> None:
    ops, _ = draws(Augmix(width=4, depth=(1, 8)))
    assert unrelated(*(ops != AT["identity"]).sum(axis=2).T)


def test_augmix_leaves_out_what_it_is_told_to() -> None:
    assert set(draws(Augmix(geometry=False))[0].ravel()).isdisjoint(AT[n] for n in GEOMETRY)
    corrupting = {"brightness", "color", "contrast", "sharpness"}
    few = {NAMES[k] for k in np.unique(draws(Augmix(all_ops=False))[0])}
    assert few.isdisjoint(corrupting)
    assert few == {*NAMES[:14]} - corrupting
    assert draws(Augmix(depth=(2, 2)))[0].min() > 0


@pytest.mark.parametrize("alpha", [0.1, 1.0, 7.0])
def test_augmix_weighs_by_beta_and_dirichlet(alpha: float) -> None:
    op = Augmix(alpha=alpha, width=4)
    (blend,) = meanings((op,), (8, 8), tuple(range(4000)))
    assert isinstance(blend, Blend)
    weights = blend.weights
    assert (weights >= 0).all()
    assert np.allclose(weights.sum(axis=1), 1.0, atol=1e-12)
    assert stats.kstest(weights[:, 0], stats.beta(alpha, alpha).cdf).pvalue > LEVEL
    sure = weights[:, 0] < 1 - 1e-6  # of what is left, the shares
    for share in (weights[sure, 1:] / weights[sure, 1:].sum(axis=1, keepdims=True)).T:
        assert stats.kstest(share, stats.beta(alpha, 3 * alpha).cdf).pvalue > LEVEL


def test_a_policy_moves_no_other_stream() -> None:
    turn = {"rotate": [-40, 40]}
    alone = drawn(turn, photo(), 3)["angle"]
    for item in (*POLICIES, "augmix"):
        trace: Trace = {}
        meanings(build(item, turn, item), (96, 128), (3,), trace=trace)
        assert trace["rotate#0"]["angle"][0] == alone
        name = item if isinstance(item, str) else "auto_augment"
        assert set(trace) == {f"{name}#0", "rotate#0", f"{name}#1"}
        assert (trace[f"{name}#0"]["op"].shape == trace[f"{name}#1"]["op"].shape) and len(
            trace
        ) == 3


def test_a_policy_gates_as_a_whole() -> None:
    """With p, and among the ops of a combinator; its draws stay what they were."""
    image = photo()
    whole, seen = {"rand_augment": {"num_ops": 3, "magnitude": 25}}, Counter[bool]()
    half = {"rand_augment": {"num_ops": 3, "magnitude": 25, "p": 0.5}}
    for index in range(24):
        full, out = run(whole, image, index=index), run(half, image, index=index)
        acts = not np.array_equal(out, image)
        seen[acts] += 1
        assert not acts or np.array_equal(out, full)
        branch = run({"one_of": ["horizontal_flip", whole]}, image, index=index)
        flipped = np.array_equal(branch, image[:, ::-1]) or np.array_equal(branch, image)
        assert flipped or np.array_equal(branch, full)
    assert min(seen[True], seen[False]) > 4


# The plan.


def test_the_plan_says_what_may_be_drawn() -> None:
    text = str(augpipe.load({"version": 1, "sample": ["rand_augment"]}).explain(size=(64, 80)))
    assert "1 op in 12 passes" in text
    assert "draw 1: shear_x, shear_y, translate_x, translate_y or rotate" in text
    assert "draw 2: brightness, color or contrast" in text
    assert "64 × 80" in text
    text = str(augpipe.load({"version": 1, "sample": [{"auto_augment": "svhn"}]}).explain())
    assert "draw 1: shear_x or shear_y" in text
    assert "translate" not in text.split("draw 2")[0]
    assert "sharpness" not in text


def test_what_was_drawn_is_told() -> None:
    """As a preview words it; a transform that did nothing is not named."""
    op = np.array([AT["rotate"], AT["identity"], AT["equalize"]])
    noted = {"op": op, "magnitude": np.array([-9.0, 0.0, 0.0])}
    assert RandAugment().tell(noted) == "rotate -9, equalize"
    assert RandAugment().inner()[0].tell(noted) == "rotate -9, equalize"
    noted = {key: np.stack([each, 0 * each]) for key, each in noted.items()}
    noted["weights"] = np.array([0.25, 0.5, 0.25])
    assert Augmix().tell(noted) == "0.25 + 0.5 (rotate -9, equalize) + 0.25 (identity)"


def test_geometry_of_the_first_draw_joins_the_crop_before_it() -> None:
    ops = build({"random_resized_crop": 64}, "horizontal_flip", "rand_augment")
    first = plan(ops, Counter())[0]
    assert [step.key for step in first.steps] == [
        "random_resized_crop#0",
        "horizontal_flip#0",
        "rand_augment#0",
    ]


@pytest.mark.parametrize("item", [*POLICIES, {"one_of": ["rand_augment", "rotate"]}])
def test_what_does_not_act_may_be_left_out(item: Any) -> None:
    """The same pixels, to the bit, with the steps that act on no image and without."""
    ops = build({"resize": [40, 50]}, item, {"color_jitter": {"brightness": 0.4, "p": 0.4}})
    nodes = plan(ops, Counter())
    image = photo(height=48, width=64)
    frame, left_out = Frame(np.array([image.shape[:2]])), 0
    for index in range(30):
        own = Draws(5, np.array([index]))
        parts = realise(nodes, own, frame), realise(nodes, own, frame, sparse=True)
        outs = []
        for part in parts:
            out = image
            for meaning in part:
                out = opencv.render(meaning, 0, out)  # type: ignore[arg-type]
            outs.append(out)
        assert np.array_equal(*outs), index
        assert torch.equal(*(batched.render(part, batch([image])) for part in parts)), index  # type: ignore[arg-type]
        left_out += len(parts[0]) - len(parts[1])
    assert left_out > 30
    many = Pipeline(Recipe(seed=5, sample=ops)).run([Sample(image)] * 30, np.arange(30))
    assert np.array_equal(many[29].image, outs[0])


def test_leaving_out_keeps_the_trace_and_the_count_where_asked() -> None:
    nodes = plan(build("rand_augment"), Counter())
    frame = Frame(np.array([[8, 8]]))
    assert len(realise(nodes, Draws(5, np.array([1])), frame)) == len(nodes)
    trace: Trace = {}
    traced = realise(nodes, Draws(5, np.array([1]), trace=trace), frame, sparse=True)
    assert len(traced) == len(nodes)
    assert "op" in trace["rand_augment#0"]


# Targets.


def rectangle() -> Sample:
    image = np.zeros((160, 200, 1), np.float32)
    image[56:100, 70:118] = 255
    corners = np.array([[70, 56], [118, 56], [118, 100], [70, 100]], float)
    points = targets.Points.of(corners)
    box = targets.outline(np.array([[70, 56, 118, 100]]))
    return Sample(image, [(image > 0).astype(np.uint8)], [points], [box])


def hull(bright: Array) -> Array:
    rows, columns = np.nonzero(bright)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("item", ["trivial_augment", "rand_augment", {"auto_augment": "svhn"}])
def test_targets_move_with_the_image(item: Any) -> None:
    """As the contract's targets_agree_with_pixels, where geometry alone was drawn."""
    moving = [k for k in found(item, {*GEOMETRY, "identity"}.issuperset)[:60]]
    pipe = Pipeline(Recipe(seed=7, sample=build(item)))
    compared = moved = 0
    for index in moving:
        (out,) = pipe.run([rectangle()], np.array([index]))
        whole, seen = out.boxes[0].whole[0], out.boxes[0].seen[0]
        corners = abs(whole[:, None] - out.points[0].at[None]).max(axis=2).min(axis=0)
        assert corners.max() < 1e-6
        bright = out.image[:, :, 0] > 127
        if bright.sum() < 30 or not len(seen):
            continue
        box = np.concatenate([seen.min(axis=0), seen.max(axis=0)])
        assert abs(hull(bright) - box).max() < 1.6, index
        assert abs(hull(bright) - hull(out.masks[0][:, :, 0] > 0)).max() <= 1.0, index
        compared += 1
        moved += bool(abs(hull(bright) - [70, 56, 118, 100]).max() > 3)
    assert compared > 20
    assert moved > 15


def test_augmix_takes_targets_only_where_nothing_is_displaced() -> None:
    mask = np.arange(24 * 40, dtype=np.uint8).reshape(24, 40, 1)
    image = photo(height=24, width=40)
    points = targets.Points.of(np.zeros((1, 2)))
    box = targets.outline(np.array([[1, 2, 3, 4]]))
    pipe = Pipeline(Recipe(sample=build("augmix")))
    pipe.run([Sample(image)], np.array([0]))
    for sample in (
        Sample(image, [mask]),
        Sample(image, [], [points]),
        Sample(image, [], [], [box]),
    ):
        with pytest.raises(DataError, match=r"augmix#0.*set geometry: false"):
            pipe.run([sample], np.array([0]))
        for still in ({"geometry": False}, {"p": 0.0}):
            safe = Pipeline(Recipe(sample=build({"augmix": still})))
            (out,) = safe.run([sample], np.array([0]))
            assert all(np.array_equal(a, mask) for a in out.masks)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (
            {"rand_augment": {"magnitude": 31}},
            "magnitude 31 is beyond the last of the bins 0 to 30",
        ),
        ({"rand_augment": {"num_ops": 0}}, "from 1 to 16"),
        ({"auto_augment": "imagnet"}, "imagenet"),
        ({"trivial_augment": {"ops": ["rotate"]}}, "no parameter 'ops'"),
        ({"augmix": {"alpha": 0}}, "from 0.1 to 100"),
        ({"augmix": {"depth": [3, 1]}}, "reversed"),
    ],
)
def test_what_cannot_be_is_refused(item: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        build(item)


@pytest.mark.parametrize("item", ["rand_augment", "augmix"])
def test_channels_that_do_not_fit_are_refused(item: str) -> None:
    with pytest.raises(DataError, match=f"{item}#0.*2 channels"):
        Pipeline(Recipe(sample=build(item))).run([Sample(np.zeros((8, 8, 2), np.uint8))], [0])
    three = {item: {"fill": [1, 2, 3]}}
    with pytest.raises(DataError, match=f"{item}#0.*fill"):
        Pipeline(Recipe(sample=build(three))).run([Sample(np.zeros((8, 8, 1), np.uint8))], [0])


# Blends.


def blend(n: int = 3, size: tuple[int, int] = (24, 40)) -> Blend:
    """Two chains: a shift and a half brightness; a curve. The middle image is left alone."""
    frame = Frame(np.array([size] * n))
    matrix = np.tile(np.eye(3), (n, 1, 1))
    matrix[:, 0, 2] = -5.0
    moved = Warp.of(matrix, frame, None, build("translate")[0].sampling)
    dark = Color.of(np.tile(np.eye(3) * 0.5, (n, 1, 1)))
    curve = Curve((("solarize", np.full(n, 100.0)),))
    weights = np.array([[0.25, 0.35, 0.4], [1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    return Blend(((moved, dark), (curve,)), np.resize(weights, (n, 3)))


def blended(image: Array, weights: Array) -> Array:
    """By hand: each chain's steps rounded, their mean not."""
    dark = np.zeros_like(image)
    dark[:, 5:] = image[:, :-5]
    dark[..., :3] = np.rint(dark[..., :3] * 0.5)
    solar = image.astype(float)
    solar[..., :3] = np.where(solar >= 100, 255 - solar, solar)[..., :3]
    return weights[0] * image.astype(float) + weights[1] * dark + weights[2] * solar


@pytest.mark.parametrize("backend", [opencv, reference], ids=["opencv", "reference"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_blend_is_the_mean_of_its_chains(backend: Any, channels: int) -> None:
    image = np.resize(photo(height=24, width=40), (24, 40, channels))
    meaning = blend()
    for row in range(3):
        out = backend.render(meaning, row, image)
        assert out.dtype == np.uint8
        assert abs(out - blended(image, meaning.weights[row])).max() < 0.5 + 1e-4
        floats = backend.render(meaning, row, image.astype(np.float32))
        assert floats.dtype == np.float32
        # The half of an odd level was not rounded.
        assert abs(floats - blended(image, meaning.weights[row])).max() < 0.36
    assert np.array_equal(backend.render(meaning, 1, image), image)


def batch(images: list[Array]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_blend_on_a_batch(dtype: Any, channels: int) -> None:
    image = np.resize(photo(height=24, width=40), (24, 40, channels)).astype(dtype)
    meaning = blend()
    out = batched.render([meaning], batch([image] * 3)).permute(0, 2, 3, 1).numpy()
    assert out.dtype == dtype
    for row in range(3):
        want = opencv.render(meaning, row, image)
        assert abs(out[row].astype(float) - want).max() <= (1 if dtype == np.uint8 else 1e-4)
    assert np.array_equal(out[1], image)


def test_a_blend_is_sent_in_one_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []
    true = pieces.parcel
    monkeypatch.setattr(pieces, "parcel", lambda *args: sent.append(args) or true(*args))
    image = photo(height=24, width=40)
    both: list[Alone] = [blend(), Color.of(np.tile(np.eye(3) * 0.9, (3, 1, 1)))]
    batched.render(both, batch([image] * 3))
    assert len(sent) == 1


@pytest.mark.parametrize("item", [*POLICIES, "augmix"])
def test_a_policy_waits_for_no_device(item: Any) -> None:
    """A value read back, or a tensor left on the host, is an error of a fake CUDA device."""
    program = meanings(build(item), (24, 40), range(40))
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty((40, 3, 24, 40), dtype=torch.uint8, device="cuda")
        out = batched.render([*program, blend(40)], images)
    assert out.device.type == "cuda"
    assert out.shape == images.shape


@pytest.mark.parametrize("item", [*POLICIES, "augmix", {"augmix": {"p": 0.5, "severity": 9}}])
def test_a_batch_is_its_images(item: Any) -> None:
    """To the bit those of batches of one; and the opencv backend's, to what rounding makes.

    A level that is rounded the other way is a step of a later posterize or equalize apart.
    """
    image, n = photo(height=64, width=80), 24  # two chunks
    ops = build(item)
    out = batched.render(meanings(ops, image.shape, range(n)), batch([image] * n))
    far = []
    for k in range(n):
        own = meanings(ops, image.shape, (k,))
        assert torch.equal(batched.render(own, batch([image]))[0], out[k]), k
        difference = abs(out[k].permute(1, 2, 0).numpy() - run(item, image, index=k).astype(float))
        far.append(difference.mean())
        assert difference.mean() < 0.5, k
    assert np.median(far) < 0.02
