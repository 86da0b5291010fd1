"""Checkpoints: what is saved comes back, and nothing that a file says is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import stat
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from augpipe.errors import DataError
from augpipe.tensors import load_tree, read_tensors, save_tree
from augpipe.training.checkpoint import SafeCheckpoints
from augpipe.training.models import load_model

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)
tensors = st.builds(
    lambda shape, dtype, seed: torch.randint(
        -9, 9, tuple(shape), generator=torch.Generator().manual_seed(seed)
    ).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
    st.integers(0, 99),
)
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
keys = st.text(max_size=4) | st.integers() | st.tuples(st.integers(), st.text(max_size=2))
trees = st.recursive(
    plain | tensors | st.sets(st.integers(), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(keys, inner, max_size=3)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    match a:
        case torch.Tensor():
            return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
        case float():
            return a == b or (a != a and b != b)
        case dict():
            # Order too: optimizers number their parameters by it.
            return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
        case list() | tuple():
            return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@settings(max_examples=80)
@given(tree=trees, about=st.dictionaries(st.text(max_size=4), st.text(max_size=9), max_size=3))
def test_a_tree_comes_back(
    tmp_path_factory: pytest.TempPathFactory, tree: Any, about: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("trees") / "deep" / "x.safetensors"
    save_tree(path, tree, about)
    back, header = load_tree(path)
    assert same(back, tree)
    for name in set(about) - {"format", "tree"}:
        assert header[name] == about[name]
    assert list(path.parent.iterdir()) == [path]


def test_tensors_that_share_memory_and_views_come_back(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tree = {"a": base, "b": base, "c": base.T, "d": base[:, 1], "e": torch.nn.Parameter(base)}
    save_tree(tmp_path / "x", tree)
    back, _ = load_tree(tmp_path / "x")
    assert all(torch.equal(back[name], tree[name]) for name in tree)


def test_numpys_numbers_and_paths_become_plain(tmp_path: Path) -> None:
    save_tree(tmp_path / "x", [np.float64(0.5), np.int64(3), Path("a/b")])
    assert load_tree(tmp_path / "x")[0] == [0.5, 3, "a/b"]


@pytest.mark.parametrize("value", [object(), b"bytes", lambda: 0, np.zeros(3), 1j, torch.float32])
def test_what_a_checkpoint_cannot_hold_is_named_and_nothing_left(
    tmp_path: Path, value: Any
) -> None:
    with pytest.raises(TypeError, match=f"cannot hold a {type(value).__name__}"):
        save_tree(tmp_path / "x", {"deep": [value]})
    assert list(tmp_path.iterdir()) == []


def test_an_older_file_stays_where_the_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x"
    save_tree(path, [1])
    (tmp_path / f".x.{os.getpid()}.part").mkdir()  # in the way, as a full disk would be
    with pytest.raises((DataError, OSError)):
        save_tree(path, [2])
    assert load_tree(path)[0] == [1]


def test_others_may_read_it_as_they_may_what_open_makes(tmp_path: Path) -> None:
    save_tree(tmp_path / "x", [torch.zeros(2)])
    (tmp_path / "y").touch()
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in "xy"]
    assert modes[0] == modes[1]


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.witness}'",)


def hostile(path: Path, witness: Path, kind: str) -> None:
    match kind:
        case "torch":
            torch.save({"state_dict": Hostile(witness)}, path)
        case "legacy":
            torch.save(Hostile(witness), path, _use_new_zipfile_serialization=False)
        case "zip":
            with zipfile.ZipFile(path, "w") as file:
                file.writestr("archive/data.pkl", pickle.dumps(Hostile(witness)))
        case _:
            path.write_bytes(pickle.dumps(Hostile(witness), protocol=int(kind)))


@pytest.mark.parametrize("kind", ["torch", "legacy", "zip", "0", "2", "3", "4", "5"])
@pytest.mark.parametrize(
    "reader", [load_tree, read_tensors, load_model, SafeCheckpoints().load_checkpoint]
)
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, kind: str, reader: Any) -> None:
    path, witness = tmp_path / "weights.safetensors", tmp_path / "witness"
    hostile(path, witness, kind)
    if kind == "4":  # the witness would tell
        pickle.loads(path.read_bytes())
        assert witness.exists()
        witness.unlink()
    with pytest.raises(DataError) as caught:
        reader(path)
    assert caught.value.where == str(path)
    if kind != "0":  # text, which looks like nothing in particular
        assert "is a pickle, as torch.save writes them" in caught.value.reason
    assert not witness.exists()


def tensors_file(path: Path, header: dict[str, str]) -> None:
    save_file({"0": torch.arange(6.0)}, path, header)


def tree_file(path: Path, tree: str) -> None:
    tensors_file(path, {"format": "augpipe checkpoint 1", "tree": tree})


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda p: p.write_bytes(b""), "is not a whole safetensors file"),
        (lambda p: p.write_bytes(b"\0" * 100), "is not a whole safetensors file"),
        (lambda p: p.write_bytes(b"\xff" * 100), "is not a whole safetensors file"),
        (lambda p: p.mkdir(), "is a directory"),
        (lambda p: None, "no such file or directory"),
        (lambda p: tensors_file(p, {}), "is not a checkpoint of augpipe's"),
        (lambda p: tensors_file(p, {"format": "pt"}), "is not a checkpoint of augpipe's"),
        (lambda p: tree_file(p, "{"), "is not a whole checkpoint"),
        (lambda p: tree_file(p, '{"tensor": "1"}'), "is not a whole checkpoint"),
        (lambda p: tree_file(p, '{"tensor": []}'), "is not a whole checkpoint"),
        (lambda p: tree_file(p, '{"nonesuch": 1}'), "is not a whole checkpoint"),
        (lambda p: tree_file(p, '{"dict": [[1]]}'), "is not a whole checkpoint"),
        (lambda p: tree_file(p, '{"list": 5}'), "is not a whole checkpoint"),
        (lambda p: tree_file(p, '{"set": [{"list": []}]}'), "is not a whole checkpoint"),
        (lambda p: tree_file(p, "{}"), "is not a whole checkpoint"),
        (lambda p: tree_file(p, "[" * 100_000 + "]" * 100_000), "is not a whole checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, write: Any, words: str) -> None:
    path = tmp_path / "x.safetensors"
    write(path)
    with pytest.raises(DataError) as caught:
        load_tree(path)
    assert caught.value.where == str(path) and words in caught.value.reason


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tree(path, {"a": torch.arange(50.0), "b": [1, 2]})
    whole = path.read_bytes()
    for length in range(0, len(whole), 13):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match="is not a whole safetensors file"):
            load_tree(path)


def test_a_foreign_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    about = {"classes": '["a", "b"]', "model": "wrn_10_1", "channels": "3"}
    for change in (
        {"classes": None},
        {"classes": "3"},
        {"classes": "{"},
        {"model": "wrn_11_1"},
        {"channels": "three"},
        {},  # all told, but the tensors are others
    ):
        header = {k: v for k, v in {**about, **change}.items() if v is not None}
        tensors_file(path, header)
        with pytest.raises(DataError, match="is not a model of augpipe train") as caught:
            load_model(path)
        assert caught.value.where == str(path)


def test_the_plugin_keeps_what_lightning_gives_it(tmp_path: Path) -> None:
    plugin = SafeCheckpoints({"recipe": "version: 1"})
    plugin.save_checkpoint({"epoch": 3, "weights": torch.ones(2)}, tmp_path / "x")
    back = plugin.load_checkpoint(tmp_path / "x")
    assert back["epoch"] == 3 and torch.equal(back["weights"], torch.ones(2))
    header = json.loads(_header(tmp_path / "x"))["__metadata__"]
    assert header["recipe"] == "version: 1"
    plugin.remove_checkpoint(tmp_path / "x")
    plugin.remove_checkpoint(tmp_path / "x")
    assert not (tmp_path / "x").exists()


def _header(path: Path) -> bytes:
    file = io.BytesIO(path.read_bytes())
    return file.read(int.from_bytes(file.read(8), "little"))
