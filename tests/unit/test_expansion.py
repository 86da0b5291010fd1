import errno
import json
import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from augpipe.data.claim import claimed
from augpipe.errors import AugpipeError, UsageError
from augpipe.expansion.jobs import for_files, prepare
from augpipe.expansion.manifest import LineFile, Manifest, Row, changes, line_of, parameters
from augpipe.expansion.names import choose
from augpipe.expansion.progress import Meter
from augpipe.expansion.record import Settings
from augpipe.recipe import Recipe, as_recipe, load


def all_paths(sources: list[str], copies: int = 2, originals: bool = False) -> list[str]:
    names = choose(sources, [copies] * len(sources), ".png", originals, ["job.json"])
    return [out.path for index in range(len(sources)) for out in names.outputs(index)]


def assert_distinct(paths: list[str]) -> None:
    folded = {unicodedata.normalize("NFC", path.casefold()) for path in paths}
    assert len(folded) == len(paths)


def test_names_mirror_the_input() -> None:
    assert all_paths(["cat/deep/tom.jpg", "dog/rex.tar.PNG"], originals=True) == [
        "cat/deep/tom.jpg",
        "cat/deep/tom__0.png",
        "cat/deep/tom__1.png",
        "dog/rex.tar.PNG",
        "dog/rex.tar__0.png",
        "dog/rex.tar__1.png",
    ]


def test_names_that_clash_get_the_index() -> None:
    assert all_paths(["c/a.jpg", "c/a.png", "c/b.png", "d/a.png"], 1) == [
        "c/a__i0__0.png",
        "c/a__i1__0.png",
        "c/b__0.png",
        "d/a__0.png",
    ]


@pytest.mark.parametrize(
    "sources",
    [
        ["c/A.png", "c/a.png"],
        ["c/\u00e9.png", "c/e\u0301.png"],
        ["c/a.png", "c/a__0.png", "c/a__1.png"],
        ["c/a.jpg", "c/a.png", "c/a__i0.png", "c/a__i0__0.png", "c/a__i0__i0__0.png"],
        ["c/a.png", "c/a__0.png/b.png", "C/a.png"],
        ["c/" + "x" * 250 + ".jpg", "c/" + "x" * 250 + ".png", "c/" + "é" * 125 + ".png"],
        ["job.json", "job__0.png"],
    ],
)
@pytest.mark.parametrize("originals", [False, True])
def test_no_two_outputs_share_a_name(sources: list[str], originals: bool) -> None:
    paths = all_paths(sources, 2, originals)
    assert_distinct([*paths, "job.json", *{p.rpartition("/")[0].lower() for p in sources} - {""}])
    assert max(len(part.encode()) for path in paths for part in path.split("/")) <= 255
    assert len(paths) == len(sources) * (2 + originals)


def test_a_number_beyond_the_copies_clashes_with_nothing() -> None:
    paths = all_paths(["c/a.png", "c/a__2.png", "c/a__01.png"], 2, originals=True)
    assert not any("__i" in path for path in paths)


def test_settings_refuse_what_makes_no_sense() -> None:
    for bad in ({"copies": -1}, {"quality": 0}, {"quality": 101}, {"format": "gif"}):
        with pytest.raises(UsageError, match=next(iter(bad))):
            Settings(**bad)  # type: ignore[arg-type]


def recipe(**sections: object) -> Recipe:
    return load({"version": 1, "seed": 3, **sections})


def test_job_differences_say_what_differs(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    first = prepare(recipe(sample=[{"rotate": [-5, 5]}]), tmp_path, Settings(2)).record
    assert first.differences(first) == []
    other = prepare(recipe(sample=[{"rotate": [-5, 9]}]), tmp_path, Settings(3, format="webp"))
    text = "; ".join(first.differences(other.record))
    assert "recipe" in text
    assert "9" in text
    assert "copies (2, now 3)" in text
    assert "format (png, now webp)" in text
    (tmp_path / "a.png").write_bytes(b"xy")
    second = prepare(recipe(sample=[{"rotate": [-5, 5]}]), tmp_path, Settings(2)).record
    assert first.differences(second) == ["the images (their names or sizes)"]
    (tmp_path / "b.png").write_bytes(b"x")
    third = prepare(recipe(sample=[{"rotate": [-5, 5]}]), tmp_path, Settings(2)).record
    assert first.differences(third) == ["the images (1, now 2)"]


def test_quality_makes_no_difference_to_png(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    png = [prepare(recipe(), tmp_path, Settings(quality=q)).record for q in (90, 95)]
    assert png[0].differences(png[1]) == []
    jpeg = [prepare(recipe(), tmp_path, Settings(format="jpeg", quality=q)) for q in (90, 95)]
    assert jpeg[0].record.differences(jpeg[1].record) == ["quality (90, now 95)"]


def test_overrides_reach_a_recipe_object() -> None:
    changed = as_recipe(recipe(sample=[{"rotate": [-5, 5]}]), ["sample.0.rotate.degrees=[-9, 9]"])
    assert changed == recipe(sample=[{"rotate": [-9, 9]}])


def test_nothing_is_left_out_of_a_recipe_that_ends_in_uint8() -> None:
    whole = recipe(sample=["horizontal_flip", {"rotate": [-5, 5]}])
    assert for_files(whole) == (whole, ())


def row(index: int, copy: int | None) -> Row:
    name = f"c/{index}__{copy}.png"
    return Row(name, "ab", 3, f"c/{index}.png", "cd", "c", index, copy, 7, copy, {"r#0": {}}, {})


def write(path: Path, rows: list[tuple[Row, ...]]) -> bytes:
    with Manifest(path) as manifest:
        manifest.load(lambda row: True)
        for group in rows:
            manifest.append([(each.key, line_of(each)) for each in group])
        manifest.settle()
    return path.read_bytes() if path.exists() else b""


def groups(*indices: int) -> list[tuple[Row, ...]]:
    return [(row(index, None), row(index, 0), row(index, 1)) for index in indices]


def test_a_torn_manifest_continues_to_the_same_bytes(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", groups(0, 1, 2))
    assert whole.count(b"\n") == 9
    for cut in range(0, len(whole), 37):
        path = tmp_path / f"cut{cut}"
        path.write_bytes(whole[:cut])
        rows = [r for group in groups(0, 1, 2) for r in group]
        with Manifest(path) as manifest:
            manifest.load(lambda row: True)
            left = [r for r in rows if r.key not in manifest]
            for each in left:
                manifest.append([(each.key, line_of(each))])
            manifest.settle()
        assert path.read_bytes() == whole


def test_rows_out_of_order_twice_or_broken_settle_to_the_same_bytes(tmp_path: Path) -> None:
    whole = write(tmp_path / "whole", groups(0, 1, 2))
    assert write(tmp_path / "shuffled", groups(2, 0, 1)) == whole
    assert write(tmp_path / "twice", groups(0, 1, 1, 2)) == whole
    (tmp_path / "broken").write_bytes(b'{"output": 3}\n\n\xff\n' + whole)
    assert write(tmp_path / "broken", []) == whole


def test_a_manifest_without_rows_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b'{"torn')
    assert write(tmp_path / "m", []) == b""
    assert list(tmp_path.iterdir()) == []


def test_parameters_are_plain_json() -> None:
    trace = {
        "rotate#0": {
            "degrees": np.array([1.5, -0.1]),
            "on": np.array([False, True]),
            "twice": np.array([True, False]),
            "order": np.array([[2, 0, 1], [0, 1, 2]]),
            "key": np.array([1, 2**63 + 5], np.uint64),
            "wild": np.array([np.inf, np.nan]),
            "field": np.zeros((2, 65)),
        }
    }
    first, found = parameters(trace, 2)
    assert found == {
        "rotate#0": {
            "degrees": -0.1,
            "twice": False,
            "order": [0, 1, 2],
            "key": "8000000000000005",
            "wild": None,
        }
    }
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert first == {}, "an op that did not act has no parameters"


def test_changes_name_the_libraries_that_matter() -> None:
    old = {"python": "3.11.1", "opencv": "5.0.0", "numpy": "2.0"}
    assert changes(old, {**old, "python": "3.12.0"}) == ""
    assert changes(old, {**old, "opencv": "5.0.1"}) == "opencv 5.0.0 is now 5.0.1"


def test_a_manifest_on_a_full_disk_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(AugpipeError, match=r"manifest\.jsonl: .*no space left.*free some space"):
        LineFile(tmp_path / "manifest.jsonl").append(b"{}\n")


def test_one_expand_at_a_time(tmp_path: Path) -> None:
    second = claimed(tmp_path / "out")
    with claimed(tmp_path / "out"), pytest.raises(UsageError, match="another process"):
        second.__enter__()
    with claimed(tmp_path / "out"):
        pass
    assert list((tmp_path / "out").iterdir()) == []


def test_the_meter_is_not_called_too_often() -> None:
    calls: list[tuple[int, int, int]] = []
    meter = Meter(lambda *args: calls.append(args), 1000)
    for done in range(1000):
        meter(done, 0)
    meter(1000, 2, last=True)
    assert len(calls) < 10
    assert calls[-1] == (1000, 1000, 2)
