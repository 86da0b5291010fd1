"""Expansion class by class: how many copies each image gets, and how strong they are."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from augpipe.errors import UsageError
from augpipe.expansion import expand, verify
from augpipe.expansion.balance import count_copies
from augpipe.expansion.record import Settings
from augpipe.pipeline import load
from augpipe.recipe import Recipe
from augpipe.rng import Draws
from tests.e2e.conftest import GARMENTS
from tests.e2e.expansion import rows, start, tree

SIZES = {"bag": 2, "coat": 7, "sandal": 4}
PLAIN: dict[str, Any] = {
    "version": 1,
    "seed": 3,
    "sample": [{"rotate": [-20, 20]}, {"brightness": [0.6, 1.4]}, "horizontal_flip"],
}


@pytest.fixture
def uneven(tmp_path: Path) -> Path:
    for label, count in SIZES.items():
        (tmp_path / "in" / label).mkdir(parents=True)
        for path in sorted((GARMENTS / label).iterdir())[:count]:
            shutil.copy(path, tmp_path / "in" / label)
    return tmp_path / "in"


def counted(out: Path) -> dict[str, int]:
    return dict(Counter(row["label"] for row in rows(out)))


def apiece(out: Path) -> dict[str, set[int]]:
    """How many copies the images of each class have."""
    copies = Counter((row["label"], row["source"]) for row in rows(out) if row["copy"] is not None)
    found: dict[str, set[int]] = {}
    for (label, _), count in copies.items():
        found.setdefault(label, set()).add(count)
    return found


@pytest.mark.parametrize(
    ("target", "copies", "originals", "want", "each"),
    [
        ("max", 1, False, {"bag": 7, "coat": 7, "sandal": 7}, {"bag": {3, 4}, "sandal": {1, 2}}),
        ("max", 2, False, {"bag": 14, "coat": 14, "sandal": 14}, {"bag": {7}, "coat": {2}}),
        ("max", 0, True, {"bag": 7, "coat": 7, "sandal": 7}, {"bag": {2, 3}, "sandal": {1}}),
        ("median", 1, False, {"bag": 4, "coat": 7, "sandal": 4}, {"bag": {2}, "coat": {1}}),
        (5, 0, True, {"bag": 5, "coat": 7, "sandal": 5}, {"bag": {1, 2}, "sandal": {1}}),
        (9, 0, False, {"bag": 9, "coat": 9, "sandal": 9}, {"bag": {4, 5}, "coat": {1, 2}}),
    ],
)
def test_each_class_comes_to_the_target(
    uneven: Path,
    tmp_path: Path,
    target: Any,
    copies: int,
    originals: bool,
    want: dict[str, int],
    each: dict[str, set[int]],
) -> None:
    recipe, out = {**PLAIN, "balance": target}, tmp_path / "out"
    summary = expand(recipe, uneven, out, copies=copies, keep_originals=originals)
    assert counted(out) == want
    found = apiece(out)
    assert {label: found[label] for label in each} == each
    assert all(max(some) - min(some) <= 1 for some in found.values())
    above = [f"{label} ({count})" for label, count in want.items() if count > min(want.values())]
    assert ("left as they are: " + ", ".join(above) in str(summary)) == bool(above)
    assert verify(out).exit_code == 0


def test_copies_are_those_of_the_pipeline_and_counted_from_nothing(
    uneven: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    expand({**PLAIN, "balance": "max"}, uneven, out)
    pipe, files = load(PLAIN), sorted(uneven.rglob("*.png"))
    by_source: dict[int, list[int]] = {}
    for row in rows(out):
        made = pipe(Image.open(files[row["index"]]), index=row["index"], epoch=row["copy"])
        assert np.array_equal(np.asarray(made), np.asarray(Image.open(out / row["output"])))
        by_source.setdefault(row["index"], []).append(row["copy"])
    assert all(copies == list(range(len(copies))) for copies in by_source.values())


def test_who_gets_one_more_is_drawn_by_the_seed_for_each_image_alone() -> None:
    labels = ["a"] * 50 + ["b"] * 8
    recipe = Recipe.model_validate({"balance": 75})
    first, *others = (
        count_copies(recipe.model_copy(update={"seed": seed}), Settings(), labels, ["a", "b"])
        for seed in (1, 1, 2)
    )
    again, other = others
    assert np.array_equal(first.counts, again.counts)
    assert not np.array_equal(first.counts, other.counts)
    assert first.counts[:50].sum() == 75 == first.counts[50:].sum()
    alone = np.array(
        [Draws(1, np.array([k]), op="balance").uniforms("more", 1)[0, 0] for k in range(58)]
    )
    for own, each, more in ((slice(0, 50), 1, 25), (slice(50, 58), 9, 3)):
        lowest = alone[own] <= np.sort(alone[own])[more - 1]
        assert np.array_equal(first.counts[own], each + lowest)
    renamed = count_copies(
        recipe.model_copy(update={"seed": 1}), Settings(), labels, ["b", "a", "z"]
    )
    assert np.array_equal(first.counts, renamed.counts)
    assert renamed.notes == ("no image to make copies of: z",)


def test_killed_and_resumed_to_the_same_bytes(uneven: Path, tmp_path: Path) -> None:
    (uneven / "bag" / "broken.png").write_bytes(b"nothing")
    recipe = tmp_path / "recipe.yaml"
    content = {**PLAIN, "balance": "max", "per_class": {"bag": {"strength": 0.5}}}
    recipe.write_text(json.dumps(content))
    arguments: dict[str, Any] = {"recipe": recipe, "source": uneven, "keep_originals": True}
    whole = expand(**arguments, out=tmp_path / "whole")
    assert whole.skipped == 1
    process = start("after", 9, **arguments, out=tmp_path / "out", workers=2)
    process.communicate(timeout=120)
    assert process.returncode == -signal.SIGKILL
    assert tree(tmp_path / "out") != tree(tmp_path / "whole")
    expand(**arguments, out=tmp_path / "out", workers=1)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    report = verify(tmp_path / "out")
    assert (report.findings, report.skipped) == ((), 1)


def test_another_balance_is_another_job(uneven: Path, tmp_path: Path) -> None:
    expand({**PLAIN, "balance": "max"}, uneven, tmp_path / "out")
    with pytest.raises(UsageError, match=r"balance .*'max'.*now .*9"):
        expand({**PLAIN, "balance": 9}, uneven, tmp_path / "out")
    with pytest.raises(UsageError, match=r"balance .*, now not given"):
        expand(PLAIN, uneven, tmp_path / "out")
    with pytest.raises(UsageError, match=r"per_class not given, now .*bag"):
        expand({**PLAIN, "balance": "max", "per_class": {"bag": 3}}, uneven, tmp_path / "out")


def test_verify_knows_how_many_there_are_to_be(uneven: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    expand({**PLAIN, "balance": "max"}, uneven, out)
    manifest = out / "manifest.jsonl"
    lines = manifest.read_text().splitlines(keepends=True)
    manifest.write_text("".join(lines[:-1]))
    kinds = {each.kind for each in verify(out).findings}
    assert kinds == {"unfinished", "extra"}
    row = json.loads(lines[0])
    manifest.write_text(json.dumps({**row, "copy": 4, "epoch": 4}) + "\n" + "".join(lines[1:]))
    assert any("a copy that the job does not have" in each.detail for each in verify(out).findings)


def test_copies_and_strength_by_class(uneven: Path, tmp_path: Path) -> None:
    rules = {"bag": {"copies": 5, "strength": 0.25}, "coat": 0}
    expand({**PLAIN, "per_class": rules}, uneven, tmp_path / "out", copies=2)
    assert counted(tmp_path / "out") == {"bag": 10, "sandal": 8}
    expand(PLAIN, uneven, tmp_path / "plain", copies=5)
    drawn = {(row["source"], row["copy"]): row["parameters"] for row in rows(tmp_path / "plain")}
    for row in rows(tmp_path / "out"):
        full, own = drawn[row["source"], row["copy"]], row["parameters"]
        share = 0.25 if row["label"] == "bag" else 1.0
        assert own["rotate#0"]["angle"] == pytest.approx(share * full["rotate#0"]["angle"])
        factor = full["brightness#0"]["factor"]
        assert own["brightness#0"]["factor"] == pytest.approx(1 + share * (factor - 1))
        # A flip has no range: it acts a quarter as often, and never where it did not.
        assert share == 1.0 or ("horizontal_flip#0" in own) <= ("horizontal_flip#0" in full)
    assert verify(tmp_path / "out").exit_code == 0


def test_batches_hold_the_images_that_have_such_a_copy(uneven: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    recipe = {**PLAIN, "batch": [{"mixup": {"alpha": 1.0}}], "balance": "max"}
    expand(recipe, uneven, out, batch_size=4)
    assert counted(out) == dict.fromkeys(SIZES, 7)
    copies = Counter((row["index"]) for row in rows(out))
    for row in rows(out):
        assert all(copies[index] > row["copy"] for index in row["batch"])
    assert verify(out).exit_code == 0


def test_copies_of_an_annotated_dataset_go_by_its_images_labels(
    uneven: Path, tmp_path: Path
) -> None:
    lines = [
        f"{path.relative_to(uneven)},{path.parent.name}" for path in sorted(uneven.rglob("*.png"))
    ]
    (uneven / "list.csv").write_text("file_name,label\n" + "\n".join(lines) + "\n")
    out = tmp_path / "out"
    expand({**PLAIN, "balance": "max"}, uneven / "list.csv", out, to="csv")
    assert counted(out) == dict.fromkeys(SIZES, 7)
    assert verify(out).exit_code == 0


@pytest.mark.parametrize(
    ("rules", "copies", "words"),
    [
        ({"per_class": {"sandel": 3}}, 1, r"per_class\.sandel: .*did you mean 'sandal'\?"),
        ({"per_class": {"x": 3}}, 1, r"no such class \(there are bag, coat, sandal\)"),
        ({"per_class": {"bag": {"strength": 9}}}, 1, r"per_class\.bag: strength 9 is too much"),
        ({"balance": "max"}, 0, "nothing to write"),
        (
            {"per_class": {"bag": {"strength": 0.5}}, "batch": ["mixup"]},
            1,
            "a class's strength does not reach",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    uneven: Path, tmp_path: Path, rules: Any, copies: int, words: str
) -> None:
    recipe = {**PLAIN, "sample": [{"rotate": [-90, 90]}], **rules}
    with pytest.raises(UsageError, match=words):
        expand(recipe, uneven, tmp_path / "out", copies=copies)
    assert not (tmp_path / "out").exists()


def test_images_without_a_class_cannot_be_balanced(uneven: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="these images have none"):
        expand({**PLAIN, "balance": "max"}, uneven / "bag", tmp_path / "out")
    with pytest.raises(UsageError, match="these images have none"):
        expand({**PLAIN, "per_class": {"cat": 2}}, "samples", tmp_path / "out", to="coco")
