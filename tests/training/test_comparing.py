"""`compare`: paired runs, their interval, and what is kept of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from augpipe.errors import AugpipeError, DataError, Place, RecipeError, UsageError
from augpipe.recipe import load
from augpipe.regularizers.wrapper import Regularized
from augpipe.training import comparing
from augpipe.training.classifier import Classifier
from augpipe.training.comparing import compare
from augpipe.training.comparison import Comparison, Row, paired
from augpipe.training.data import open_splits, subset, with_validation
from augpipe.training.results import Result
from tests.training.support import recipe

# ---------------------------------------------------------------- figures

figures = st.integers(2, 9).flatmap(
    lambda n: st.tuples(*[st.lists(st.floats(0, 1), min_size=n, max_size=n)] * 2)
)


@given(figures)
def test_the_interval_is_scipys(pair: tuple[list[float], list[float]]) -> None:
    first, other = pair
    mean, half = paired(first, other)
    differences = np.subtract(other, first)
    if differences.std() < 1e-9:  # scipy divides by it
        assert half < 1e-8
        return
    interval = stats.ttest_rel(other, first).confidence_interval(0.95)
    assert mean - half == pytest.approx(interval.low, abs=1e-9)
    assert mean + half == pytest.approx(interval.high, abs=1e-9)


def test_the_interval_holds_the_truth_in_95_of_100() -> None:
    drawn = np.random.default_rng(0).normal(0.3, 1.0, (4000, 5))
    held = [abs(mean - 0.3) <= half for mean, half in (paired([0] * 5, row) for row in drawn)]
    # The standard deviation of such a share is 0.0034; four of these.
    assert np.mean(held) == pytest.approx(0.95, abs=0.014)


def result(accuracy: float, **more: Any) -> Result:
    known = {"loss": 1.0, "train_accuracy": 0.9, "measured_on": "test", "steps": 3, "epochs": 1}
    return Result(accuracy=accuracy, **{**known, "seconds": 2.0, "parameters": 7, **more})


def test_one_seed_says_nothing() -> None:
    assert paired([0.1], [0.9]) == (0.8, float("inf"))
    row = Row("b", (result(0.9),), 0.8, float("inf"))
    assert row.verdict == "no evidence"


@pytest.mark.parametrize(
    ("difference", "half", "verdict"),
    [
        (0.02, 0.01, "better"),
        (-0.02, 0.01, "worse"),
        (0.01, 0.02, "no evidence"),
        (-0.01, 0.01, "no evidence"),
        (0.0, 0.0, "no evidence"),
        (None, None, ""),
    ],
)
def test_verdicts(difference: float | None, half: float | None, verdict: str) -> None:
    assert Row("x", (result(0.5),), difference, half).verdict == verdict


def test_the_table_reads_as_it_should() -> None:
    rows = (
        Row("plain", (result(0.5), result(0.52))),
        Row("a_longer_name", (result(0.55), result(0.59)), 0.06, 0.0127),
    )
    text = str(Comparison(rows, "test"))
    lines = text.splitlines()
    assert lines[0] == "test accuracy in %, means of 2 seeds"
    assert lines[1].split() == (
        ["recipe", "accuracy", "training", "gap", "difference", "(95", "%)", "seconds"]
    )
    assert lines[2].split() == ["plain", "51.00", "90.00", "39.00", "-", "2"]
    expected = ["a_longer_name", "57.00", "90.00", "33.00", "+6.00", "±", "1.27", "2", "better"]
    assert lines[3].split() == expected
    assert lines[2].index("51.00") == lines[3].index("57.00")


# ---------------------------------------------------------------- subsets


@pytest.mark.parametrize("size", [3, 4, 10, 17, 29, 30, 40, None])
def test_a_subset_has_that_size_and_every_class(garments: Path, size: int | None) -> None:
    whole = open_splits(garments, 0.0, 0)
    part = subset(whole, size, seed=1).train
    assert len(part) == len(set(part.indices.tolist())) == min(size or 30, 30)
    assert set(part.indices) <= set(whole.train.indices)
    counts = np.bincount(np.asarray(part.targets)[part.indices], minlength=3)
    assert counts.sum() == len(part) and counts.max() - counts.min() <= 2
    again = subset(whole, size, seed=1).train
    assert np.array_equal(part.indices, again.indices)
    if len(part) < 30 and len(part) > 3:
        other = subset(whole, size, seed=2).train
        assert not np.array_equal(part.indices, other.indices)


def test_validation_is_held_out_only_where_there_is_none(
    garments: Path, splits_folder: Path
) -> None:
    splits = open_splits(splits_folder, 0.2, 0)
    assert with_validation(splits, 0.2, 0) is splits
    some = subset(open_splits(garments, 0.0, 0), 15, 0)
    held = with_validation(some, 0.2, 0)
    both = [*held.train.indices, *held.validation.indices]
    assert sorted(both) == some.train.indices.tolist()
    assert len(held.validation) == 3


# ---------------------------------------------------------------- runs


class Inline:
    """Does in this process what a pool of processes does, in order."""

    def __init__(self, workers: int, context: Any, start: Callable[..., Any], args: Any) -> None:
        self._processes = None

    def submit(self, call: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(call(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def shutdown(self, cancel_futures: bool) -> None: ...


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "ProcessPoolExecutor", Inline)


def written(folder: Path, **recipes: dict[str, Any]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, source in recipes.items():
        (folder / f"{name}.yaml").write_text(json.dumps(source))
    return [folder / f"{name}.yaml" for name in recipes]


class Told(list[tuple[str, int]]):
    def __call__(self, name: str, seed: int, result: Result) -> None:
        self.append((name, seed))


def plain(**train: Any) -> dict[str, Any]:
    return {**recipe(**train), "sample": [{"resize": 8}]}


@pytest.mark.usefixtures("inline")
def test_a_comparison_is_written_and_not_done_twice(garments: Path, tmp_path: Path) -> None:
    sources = written(tmp_path / "r", plain=plain(), smooth=recipe("label_smoothing"))
    out, told = tmp_path / "out", Told()
    options: dict[str, Any] = {"seeds": 2, "steps": 3, "tell": told}
    first = compare(sources, garments, out, **options)
    assert sorted(told) == [("plain", 0), ("plain", 1), ("smooth", 0), ("smooth", 1)]
    assert len(list((out / "runs").iterdir())) == 4
    content = json.loads((out / "comparison.json").read_text())
    assert content["measured_on"] == first.measured_on == "validation" and content["level"] == 0.95
    assert [row["recipe"] for row in content["rows"]] == ["plain", "smooth"]
    base, other = ([each["accuracy"] for each in row["runs"]] for row in content["rows"])
    assert (content["rows"][1]["difference"], content["rows"][1]["half_interval"]) == paired(
        base, other
    )
    assert content["rows"][0]["difference"] is None
    assert all(each["steps"] == 3 for row in content["rows"] for each in row["runs"])
    assert (out / "comparison.txt").read_text() == f"{first}\n"
    with Image.open(out / "comparison.png") as image:
        assert image.width == 800
    # The same again trains nothing; one seed more trains that.
    told.clear()
    assert compare(sources, garments, out, **options) == first and told == []
    more = compare(sources, garments, out, **{**options, "seeds": 3})
    assert sorted(told) == [("plain", 2), ("smooth", 2)]
    assert more.rows[0].results[:2] == first.rows[0].results
    # Other steps, sizes and recipes are other runs.
    told.clear()
    compare(sources, garments, out, **{**options, "seeds": 1, "size": 20})
    assert sorted(told) == [("plain", 0), ("smooth", 0)]
    told.clear()
    compare(sources, garments, out, **{**options, "seeds": 1}, overrides=["train.lr=0.05"])
    assert sorted(told) == [("plain", 0), ("smooth", 0)]


@pytest.mark.usefixtures("inline")
def test_with_one_seed_the_interval_is_infinite(garments: Path, tmp_path: Path) -> None:
    sources = written(tmp_path / "r", a=plain(), b=recipe())
    found = compare(sources, garments, tmp_path / "out", seeds=1, steps=2)
    assert found.rows[1].half == float("inf") and found.rows[1].verdict == "no evidence"
    assert "± ?" in str(found)
    content = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert content["rows"][1]["half_interval"] is None
    assert (tmp_path / "out" / "comparison.png").stat().st_size > 0


@pytest.mark.usefixtures("inline")
def test_every_row_is_paired_with_the_first_by_seed(
    garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = {0.1: [0.5, 0.7, 0.6], 0.2: [0.6, 0.65, 0.9], 0.3: [0.9, 0.4, 0.8]}

    def trained(source: Any, splits: Any, **options: Any) -> Result:
        return result(table[source.train.lr][source.seed])

    monkeypatch.setattr(comparing, "train", trained)
    recipes = {name: recipe(lr=lr) for name, lr in zip("abc", table, strict=True)}
    found = compare(written(tmp_path / "r", **recipes), garments, tmp_path / "out", seeds=3)
    for row, own in zip(found.rows, table.values(), strict=True):
        assert [each.accuracy for each in row.results] == own
        if row is not found.rows[0]:
            assert (row.difference, row.half) == paired(table[0.1], own)
    assert found.unlike == {"lr": (0.1, 0.2, 0.3)}
    assert str(found).endswith("not the same: train.lr 0.1, 0.2, 0.3")


class Seen:
    """What each run began with and was given: weights, and the order of images by their class."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.weights: list[dict[str, torch.Tensor]] = []
        self.orders: list[list[int]] = []
        self.trained: list[Any] = []
        wrap, step, train = Regularized.__init__, Classifier.training_step, comparing.train

        def wrapping(this: Any, model: Any, *args: Any, **kwargs: Any) -> None:
            state = {name: each.clone() for name, each in model.state_dict().items()}
            self.weights.append(state)
            self.orders.append([])
            wrap(this, model, *args, **kwargs)

        def stepping(this: Any, batch: Any, batch_idx: int) -> Any:
            target = batch[1]
            classes = target.argmax(1) if target.is_floating_point() else target
            self.orders[-1] += classes.tolist()
            return step(this, batch, batch_idx)

        def training(source: Any, splits: Any, **options: Any) -> Any:
            del self.weights[len(self.trained) :]  # what was only tried
            del self.orders[len(self.trained) :]
            self.trained.append(splits)
            return train(source, splits, **options)

        monkeypatch.setattr(Regularized, "__init__", wrapping)
        monkeypatch.setattr(Classifier, "training_step", stepping)
        monkeypatch.setattr(comparing, "train", training)


@pytest.mark.usefixtures("inline")
def test_recipes_of_a_seed_begin_alike(
    garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)
    noisy = recipe({"dropout": {"p": 0.5}}, "label_smoothing")
    sources = written(tmp_path / "r", a=plain(), b=noisy, c={**recipe(), "seed": 77})
    compare(sources, garments, tmp_path / "out", seeds=2, steps=4, size=20)
    runs = {(k // 2, k % 2): k for k in range(6)}  # (recipe, seed), in order
    for seed in range(2):
        first = runs[0, seed]
        for other in (runs[1, seed], runs[2, seed]):
            a, b = seen.weights[first], seen.weights[other]
            assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
            assert seen.orders[first] == seen.orders[other] and len(seen.orders[first]) == 32
            for part in ("train", "test"):
                pair = (getattr(seen.trained[k], part).indices for k in (first, other))
                assert np.array_equal(*pair)
    assert not torch.equal(seen.weights[0]["conv.weight"], seen.weights[1]["conv.weight"])
    assert seen.orders[0] != seen.orders[1]


@pytest.mark.usefixtures("inline")
@pytest.mark.parametrize("on", ["test", "validation"])
@pytest.mark.parametrize("kind", ["whole", "splits"])
def test_what_stops_early_is_not_judged_by_what_it_watched(
    garments: Path,
    splits_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    on: str,
    kind: str,
) -> None:
    seen = Seen(monkeypatch)
    data = garments if kind == "whole" else splits_folder
    watching = recipe({"early_stopping": {"monitor": "val_loss"}}, batch_size=4)
    sources = written(tmp_path / "r", a=plain(batch_size=4), b=watching)
    found = compare(sources, data, tmp_path / "out", seeds=1, steps=2, on=on)
    unwatched, watched = seen.trained
    tested = on == "test" and kind == "splits"
    assert found.measured_on == ("test" if tested else "validation")
    # What one recipe may not be trained on, no recipe is trained on.
    for part in ("train", "validation"):
        pair = [
            {(p.split, int(k)) for k in p.indices}
            for p in (getattr(s, part) for s in (unwatched, watched))
        ]
        assert pair[0] == pair[1] and pair[0]
    assert (watched.test.split, watched.test.source) == (
        unwatched.test.split,
        unwatched.test.source,
    )
    assert np.array_equal(watched.test.indices, unwatched.test.indices)
    for splits in (unwatched, watched):
        names = [
            {(part.split, int(k)) for k in part.indices}
            for part in (splits.train, splits.validation, splits.test)
        ]
        assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    if kind == "splits" and on == "validation":
        assert unwatched.test.split == "val"  # the test split is not touched


@pytest.mark.usefixtures("inline")
def test_a_broken_run_file_is_named(garments: Path, tmp_path: Path) -> None:
    sources = written(tmp_path / "r", a=plain(), b=recipe())
    compare(sources, garments, tmp_path / "out", seeds=1, steps=1)
    path = sorted((tmp_path / "out" / "runs").iterdir())[0]
    whole = path.read_text()
    for text in ("", whole[: len(whole) // 2], "[]", '{"accuracy": 1}'):
        path.write_text(text)
        with pytest.raises(
            DataError, match=r"is not a result .*; remove it to do it again"
        ) as caught:
            compare(sources, garments, tmp_path / "out", seeds=1, steps=1)
        assert caught.value.where == str(path)
    path.unlink()
    compare(sources, garments, tmp_path / "out", seeds=1, steps=1)
    kept, again = json.loads(whole), json.loads(path.read_text())
    assert {**kept, "seconds": 0} == {**again, "seconds": 0}


@pytest.mark.usefixtures("inline")
def test_a_run_that_fails_leaves_the_others(garments: Path, tmp_path: Path) -> None:
    sources = written(tmp_path / "r", a=plain(), b=plain(lr=1e35))
    sources += written(tmp_path / "r", c=recipe("label_smoothing"))
    words = (
        r"^b, seed 0: the loss is .* at step .*; 1 more failed \(4 of 6 runs are kept in .*out\)$"
    )
    with pytest.raises(AugpipeError, match=words):
        compare(sources, garments, tmp_path / "out", seeds=2, steps=6)
    kept = sorted(path.name[:4] for path in (tmp_path / "out" / "runs").iterdir())
    assert kept == ["a-0-", "a-1-", "c-0-", "c-1-"]
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["rows"]
    assert [row["recipe"] for row in rows] == ["a", "c"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"sources": 1}, "needs two recipes or more"),
        ({"seeds": 0}, "seeds 0: one at least"),
        ({"names": ["x", "x", "y"]}, "two recipes are called x"),
        ({"size": 2}, "size 2: from 3, one a class, to 30, all"),
        ({"size": 31}, "size 31: from 3"),
        ({"on": "train"}, "on 'train': test or validation"),
        ({"data": "nonesuch"}, "no such file or folder"),
    ],
    ids=str,
)
def test_what_cannot_be_compared_is_refused(
    garments: Path, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    sources = written(tmp_path / "r", a=plain(), b=recipe(), c=recipe("l2"))
    known: dict[str, Any] = {"data": garments, "out": tmp_path / "out", **change}
    known["sources"] = sources[: change.get("sources", 3)]
    with pytest.raises(UsageError, match=words):
        compare(**known)
    assert not (tmp_path / "out").exists()


def test_different_networks_are_refused(garments: Path, tmp_path: Path) -> None:
    sources = written(tmp_path / "r", a=plain(), b=recipe(model="wrn_16_1"))
    with pytest.raises(UsageError, match=r"different networks \(wrn_10_1, wrn_16_1\): --set train"):
        compare(sources, garments, tmp_path / "out")


def test_a_job_is_named_by_all_that_it_depends_on() -> None:
    job = comparing._Job("a", load(recipe()), "data", "images", None, "test")
    others = [
        replace(job, size=10),
        replace(job, identity="others"),
        replace(job, validated=True),
        replace(job, on="validation"),
        replace(job, recipe=load({**recipe(), "seed": 4})),
        replace(job, recipe=load(recipe(lr=0.2))),
    ]
    assert len({job.digest, *(each.digest for each in others)}) == 7
    assert replace(job, name="b", data="moved").digest == job.digest


def test_sites_are_tried_for_all_recipes_before_any_is_trained(
    garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "_run", lambda *_: pytest.fail("it trains"))
    paths = []
    for name, on in (("a", "nonesuch"), ("b", "**.conv1"), ("c", "layer9")):
        paths.append(tmp_path / f"{name}.yaml")
        paths[-1].write_text(
            "version: 1\ntrain: {model: wrn_10_1, batch_size: 8}\nregularize:\n"
            f"  - label_smoothing\n  - dropout: {{on: '{on}', p: 0.1}}\n"
        )
    with pytest.raises(RecipeError) as caught:
        compare(paths, garments, tmp_path / "out", seeds=1, steps=1)
    first, second = caught.value.problems
    assert (first.place, first.path) == (Place(str(paths[0]), 5, 5), "regularize[1]")
    assert (second.place, second.path) == (Place(str(paths[2]), 5, 5), "regularize[1]")
    assert "'nonesuch' matches no module" in first.message
