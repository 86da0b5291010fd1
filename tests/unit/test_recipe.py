"""Recipes: reading, extending, overriding, dumping, and the schema."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import augpipe
from augpipe.errors import RecipeError, UsageError
from augpipe.ops import catalogue
from augpipe.recipe import Recipe, load
from augpipe.schema import schema
from augpipe.yamltree import parse, scalar
from tests.cases import CASES
from tests.harness import ROOT

GOOD = "version: 1\nseed: 5\nsample:\n  - rotate: {degrees: [-5, 5]}\n  - horizontal_flip\n"


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_loads_what_it_dumps(tmp_path: Path) -> None:
    recipe = load(write(tmp_path, "a.yaml", GOOD))
    assert recipe.seed == 5 and [op.name() for op in recipe.sample] == ["rotate", "horizontal_flip"]
    assert load(write(tmp_path, "b.yaml", recipe.dump())) == recipe


def test_extends_replaces_lists_and_merges_mappings(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    write(tmp_path, "base.yaml", GOOD + "boxes: {min_area: 4, min_visibility: 0.5}\n")
    middle = "version: 1\nextends: ../base.yaml\nboxes: {min_area: 9}\n"
    write(tmp_path / "sub", "middle.yaml", middle)
    top = "version: 1\nextends: sub/middle.yaml\nsample: [vertical_flip]\n"
    recipe = load(write(tmp_path, "top.yaml", top))
    assert [op.name() for op in recipe.sample] == ["vertical_flip"]
    assert (recipe.seed, recipe.boxes.min_area, recipe.boxes.min_visibility) == (5, 9, 0.5)


def test_a_problem_in_the_base_names_the_base(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", "version: 1\nsample: [rotat]\n")
    top = write(tmp_path, "top.yaml", "version: 1\nextends: base.yaml\nseed: x\n")
    with pytest.raises(RecipeError) as caught:
        load(top)
    assert {Path(p.place.file).name for p in caught.value.problems if p.place} == {
        "base.yaml",
        "top.yaml",
    }


@pytest.mark.parametrize(
    ("setting", "check"),
    [
        ("seed=9", lambda r: r.seed == 9),
        ("sample.0.rotate.degrees=[1, 2]", lambda r: r.sample[0].degrees == (1, 2)),
        ("sample.1.horizontal_flip.p=0.25", lambda r: r.sample[1].p == 0.25),
        ("sample.1=vertical_flip", lambda r: r.sample[1].name() == "vertical_flip"),
        ("boxes.min_area=7", lambda r: r.boxes.min_area == 7),
        ("sample=[]", lambda r: r.sample == ()),
    ],
)
def test_overrides(tmp_path: Path, setting: str, check) -> None:
    path = write(tmp_path, "a.yaml", GOOD + "boxes: {min_area: 1}\n")
    assert check(load(path, [setting]))


@pytest.mark.parametrize(
    "setting",
    ["seed", "=3", "sample.7.rotate.p=1", "sample.0.rotatee.p=1", "seed.x=1", "sample.x.p=1"],
)
def test_overrides_that_reach_nothing(tmp_path: Path, setting: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        load(write(tmp_path, "a.yaml", GOOD), [setting])


def test_an_override_is_checked_like_the_file(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="must be a range"):
        load(write(tmp_path, "a.yaml", GOOD), ["sample.0.rotate.degrees=[9, 2]"])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4),
        ("1_000", "1_000"),
        ("on", "on"),
        ("yes", "yes"),
        ("012", 12),
        ("0x10", 16),
        ("~", None),
        ("1:30", "1:30"),
        ("2026-11-23", "2026-11-23"),
        ("+.5", 0.5),
        (".", "."),
        ("-", "-"),
        ("1.", 1.0),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    got = scalar(text)
    assert got == value and type(got) is type(value)


@given(st.text(max_size=200))
def test_no_text_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(RecipeError):
        parse(text, "x.yaml")


def test_bombs_are_refused_quickly() -> None:
    laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert all("not allowed" in problem.message for problem in parse(laughs, "x.yaml").problems)
    with pytest.raises(RecipeError, match="aliases"):
        parse("a: [" + "*a, " * 1000 + "]", "x.yaml")
    with pytest.raises(RecipeError, match="deeply"):
        parse("[" * 5000, "x.yaml")


def test_what_yaml_allows_and_a_recipe_does_not_is_said_with_the_rest(tmp_path: Path) -> None:
    text = "version: 1\nseed: -1\nsample:\n  - rotate: {p: .nan, p: 3}\n  - rotat\n"
    with pytest.raises(RecipeError) as caught:
        load(write(tmp_path, "a.yaml", text))
    lines = str(caught.value).splitlines()
    assert [line.split("a.yaml:")[1].split(": ")[0] for line in lines] == [
        "2:7",
        "4:17",
        "4:23",
        "4:26",
        "5:5",
    ]


def test_unreadable_files(tmp_path: Path) -> None:
    write(tmp_path, "quick.yaml", GOOD)
    with pytest.raises(RecipeError, match=r"there is no recipe .*did you mean 'quick.yaml'"):
        load(tmp_path / "quik.yaml")
    with pytest.raises(RecipeError, match="is a folder"):
        load(tmp_path)
    (tmp_path / "bin.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="UTF-8"):
        load(tmp_path / "bin.yaml")


def test_python_mappings_are_recipes_too() -> None:
    recipe = load({"version": 1, "sample": [{"rotate": {"degrees": (1, 2)}}]})
    assert recipe.sample[0].degrees == (1.0, 2.0)
    assert load(yaml.safe_load(recipe.dump())) == recipe


def test_schema_is_valid_and_takes_what_the_reader_takes() -> None:
    whole = schema()
    json.dumps(whole)
    jsonschema.Draft202012Validator.check_schema(whole)
    validator = jsonschema.Draft202012Validator(whole)
    for case in CASES:
        document = json.loads(json.dumps({"version": 1, "sample": [case.item]}))
        assert not list(validator.iter_errors(document)), case.item
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        assert not list(validator.iter_errors(parse(path.read_text(), "").plain())), path


@pytest.mark.parametrize(
    "document",
    [
        {"version": 2},
        {"sample": []},
        {"version": 1, "sample": ["rotat"]},
        {"version": 1, "sample": [{"rotate": {"degree": [1, 2]}}]},
        {"version": 1, "sample": [{"rotate": {"degrees": 15}}]},
        {"version": 1, "sample": [{"brightness": {"factor": [-1, 2]}}]},
        {"version": 1, "extra": 1},
    ],
)
def test_schema_refuses_what_the_reader_refuses(document: dict) -> None:
    assert list(jsonschema.Draft202012Validator(schema()).iter_errors(document))
    with pytest.raises(RecipeError):
        load(document)


def test_every_op_stands_in_the_schema() -> None:
    assert set(catalogue()) <= set(schema()["$defs"])


def test_pipeline_of_an_empty_recipe_is_the_identity() -> None:
    import numpy as np

    pipe = augpipe.Pipeline(Recipe())
    image = np.arange(60, dtype=np.uint8).reshape(4, 5, 3)
    assert np.array_equal(pipe(image, index=0), image)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"version": 1, "seed": 10**400}, "seed: must be an integer"),
        ({"version": 1, "extends": "other.yaml"}, "recipe files only"),
        ({"version": 1, "sample": [{"shuffle": ["rotate"] * 65}]}, "at most 4096"),
    ],
)
def test_mappings_that_cannot_be(document: dict, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load(document)


def test_a_mapping_without_end_is_refused() -> None:
    endless: dict = {"version": 1}
    endless["sample"] = [endless]
    with pytest.raises(RecipeError, match="deeply"):
        load(endless)


def test_files_that_are_no_files(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(RecipeError, match="not a regular file"):
        load(tmp_path / "pipe.yaml")
    with pytest.raises(RecipeError, match="cannot read"):
        load("a\0b.yaml")


@pytest.mark.parametrize(
    ("cache", "message"),
    [
        ("memry", "'memry' is not memory; a folder of that name is ./memry"),
        (5, "must be memory, a folder, or a mapping of where and max_gb"),
        ({"max_gb": 2}, "cache needs it: memory, or a folder"),
        ({"where": "memory", "max_gbb": 2}, "did you mean 'max_gb'?"),
        ({"where": "memory", "max_gb": 0}, "must be a number above 0"),
        ("", "must be memory, or a folder; got ''"),
    ],
)
def test_a_cache_that_is_none_is_refused(cache: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        load({"version": 1, "cache": cache})


def test_a_cache_is_memory_or_a_folder() -> None:
    for where in ("memory", "./memry", "runs/cache"):
        rule = load({"version": 1, "cache": where}).cache
        assert rule is not None
        assert (rule.where, rule.max_gb) == (where, 10.0)
    assert load({"version": 1, "cache": None}).cache is None


def test_a_strength_reaches_the_ops_inside_and_leaves_what_gives_the_size() -> None:
    whole = load(
        {
            "version": 1,
            "sample": [
                {"one_of": ["equalize", {"gaussian_blur": [0.0, 2.0]}]},
                {"random_crop": 20},
                {"rand_augment": {"magnitude": 8}},
                {"albumentations.RandomCrop": {"height": 8, "width": 8}},
                {"albumentations.MotionBlur": {"p": 0.8}},
            ],
        }
    )
    weak = whole.at_strength(0.5)
    assert [op.item() for op in weak.sample] == [
        {"one_of": {"ops": [{"equalize": {"p": 0.25}}, {"gaussian_blur": {"sigma": [0.0, 1.0]}}]}},
        {"random_crop": {"size": [20, 20]}},
        {"rand_augment": {"magnitude": 4.0}},
        {"albumentations.RandomCrop": {"height": 8, "width": 8}},
        {"albumentations.MotionBlur": {"p": 0.4}},
    ]
    with pytest.raises(UsageError, match=r"strength 9 is too much for rand_augment"):
        whole.at_strength(9.0)


def test_a_class_has_its_rules_by_name() -> None:
    rules = {"cat": 5, "1": {"strength": 0.5}, "on": {"copies": 0}}
    whole = load({"version": 1, "balance": "median", "per_class": rules})
    assert whole.per_class["cat"].copies == 5
    assert (whole.per_class["1"].copies, whole.per_class["1"].strength) == (None, 0.5)
    assert load(yaml.safe_load(whole.dump(defaults=True))) == whole
    for content, words in (
        ({"per_class": {"cat": {"strenght": 1}}}, r"per_class\.cat\.strenght.*mean 'strength'\?"),
        ({"per_class": {"cat": -2}}, r"per_class\.cat\.copies: must be an integer from 0"),
        ({"per_class": {"dog": [1]}}, r"per_class\.dog: must be a mapping of copies, strength"),
        ({"per_class": 3}, "a mapping of classes"),
        ({"balance": {"target": "maxx"}}, "did you mean 'max'?"),
        ({"balance": {}}, "balance needs it: max or median"),
    ):
        with pytest.raises(RecipeError, match=words):
            load({"version": 1, **content})
    checked = jsonschema.Draft202012Validator(schema())
    assert checked.is_valid({"version": 1, "balance": "max", "per_class": rules})
    assert checked.is_valid({"version": 1, "balance": {"target": 40}})
    for bad in ({"balance": "min"}, {"balance": {}}, {"per_class": {"cat": {"copy": 1}}}):
        assert not checked.is_valid({"version": 1, **bad})
