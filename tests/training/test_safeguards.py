"""What `train` and `compare` notice before it costs: other data, other networks, half a file."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from augpipe.data.claim import claimed
from augpipe.errors import DataError, DivergedError, UsageError
from augpipe.tensors import load_tree, save_tree
from augpipe.training import comparing, running
from augpipe.training.comparing import compare
from augpipe.training.data import open_splits
from augpipe.training.results import Result
from tests.training.support import NOISY, Broken, recipe, sourced, whole, write_idx_set
from tests.training.test_running import go, same_run

SHORT = recipe(epochs=1)


@pytest.fixture
def own(garments: Path, tmp_path: Path) -> Path:
    """The images, to be changed."""
    return Path(shutil.copytree(garments, tmp_path / "images"))


# ---------------------------------------------------------------- whose run it is


def test_changed_images_are_other_data(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = go(SHORT, out, own)
    monkeypatch.chdir(tmp_path)
    assert go(SHORT, out, "images") == first  # the same by another path
    images = sorted((own / "bag").iterdir())
    shutil.copy(images[1], images[0])
    with pytest.raises(UsageError, match="holds a run of another data: name another folder"):
        go(SHORT, out, own)


def test_the_bytes_of_idx_files_tell_data_apart(tmp_path: Path) -> None:
    write_idx_set(tmp_path)
    before = open_splits(tmp_path, 0.2, 0).named
    assert open_splits(tmp_path, 0.2, 0).named == before
    path = next(tmp_path.glob("train-images*"))
    path.unlink()
    write_idx_set(tmp_path)
    assert open_splits(tmp_path, 0.2, 0).named == before  # written anew
    other = next(tmp_path.glob("t10k-labels*"))
    other.unlink()
    from tests.training.support import write_idx

    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.arange(15)[::-1] % 3, packed=False)
    assert open_splits(tmp_path, 0.2, 0).named != before


def test_a_result_alone_says_whose_it_is(garments: Path, tmp_path: Path) -> None:
    go(SHORT, tmp_path, whole(garments))
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UsageError, match="holds a run of another recipe"):
        go({**SHORT, "seed": 9}, tmp_path, whole(garments))


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": "high"},
        {"accuracy": None},
        {"train_accuracy": 7.0},
        {"accuracy": True},
        {"loss": float("nan")},
        {"seconds": -1},
        {"measured_on": "hearsay"},
        {"more": 1},
        "[" * 100_000,
        "[]",
    ],
    ids=lambda change: str(change)[:20],
)
def test_an_edited_result_is_named(tmp_path: Path, change: Any) -> None:
    path = tmp_path / "result.json"
    result = Result(0.5, 1.0, 0.75, "test", 3, 1, 2.0, 7)
    result.keep(path, {"recipe": "a"})
    assert Result.read(path) == (result, {"recipe": "a"})
    said = {**json.loads(path.read_text()), **change} if isinstance(change, dict) else change
    path.write_text(said if isinstance(said, str) else json.dumps(said))
    with pytest.raises(DataError, match=r"result\.json: is not a result .*; remove it"):
        Result.read(path)


def test_two_at_once_are_refused(garments: Path, tmp_path: Path) -> None:
    with claimed(tmp_path), pytest.raises(UsageError, match="another process is at work"):
        go(SHORT, tmp_path, whole(garments))
    with running._alone, pytest.raises(UsageError, match="another thread is training"):
        go(SHORT, None, whole(garments))
    go(SHORT, tmp_path, whole(garments))


# ---------------------------------------------------------------- what does not fit


def test_images_that_a_network_does_not_take(garments: Path, tmp_path: Path) -> None:
    words = r"squeezenet1_1 does not take images of 8 x 8: .*; add a resize, or take another"
    with pytest.raises(UsageError, match=words):
        go(recipe(model="torchvision.squeezenet1_1"), tmp_path / "out", whole(garments))
    assert not (tmp_path / "out").exists()


def test_a_size_that_evaluation_cannot_know(garments: Path) -> None:
    crops = {"one_of": [{"random_crop": 6}, {"random_resized_crop": 6}]}
    words = "training sees images of 6 x 6, validation and test of 8 x 8: .* end with a resize"
    with pytest.raises(UsageError, match=words):
        go(recipe(sample=[crops]), None, whole(garments))
    go(recipe(sample=[crops, {"resize": 8}], epochs=1), None, whole(garments))


def test_spawned_processes_are_refused(garments: Path) -> None:
    with pytest.raises(UsageError, match=r"strategy ddp_spawn: .*: take ddp"):
        go(SHORT, None, whole(garments), strategy="ddp_spawn")


def test_what_watches_validation_needs_some(splits_folder: Path, garments: Path) -> None:
    watching = recipe("early_stopping", validation=0.0, batch_size=4)
    shutil.rmtree(splits_folder / "val")
    with pytest.raises(UsageError, match="early_stopping watches val_loss, and there are no"):
        go(watching, None, splits_folder)
    with pytest.raises(UsageError, match=r"nothing to measure on: .* train\.validation is 0"):
        go(recipe(validation=0.0), None, garments)


def test_a_test_loss_that_is_no_number_is_no_result(splits_folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(splits_folder / "val")
    astray = recipe(validation=0.0, batch_size=4, steps=1, lr=1e20)
    with pytest.raises(DivergedError, match=r"the (test|training) loss is .* at step 1"):
        go(astray, tmp_path / "out", splits_folder)
    assert not (tmp_path / "out" / "result.json").exists()


# ---------------------------------------------------------------- going on


@pytest.fixture
def broken_off(garments: Path, tmp_path: Path) -> Path:
    """A run that broke off after two epochs."""
    splits = whole(garments)
    with pytest.raises(DataError):
        go(NOISY, tmp_path / "out", sourced(splits, Broken(splits.train.source, 60, OSError())))
    return tmp_path / "out"


def test_on_other_devices_a_run_does_not_go_on(broken_off: Path, garments: Path) -> None:
    last = broken_off / "checkpoints" / "last.safetensors"
    tree, about = load_tree(last)
    assert about["devices"] == "1"
    save_tree(last, tree, {**about, "devices": "2"})
    with pytest.raises(UsageError, match="holds a run on 2 devices, which cannot go on on 1"):
        go(NOISY, broken_off, whole(garments))


@pytest.mark.parametrize("tree", [1, {}, "a network's"], ids=str)
def test_a_checkpoint_of_something_else(broken_off: Path, garments: Path, tree: Any) -> None:
    last = broken_off / "checkpoints" / "last.safetensors"
    own, about = load_tree(last)
    if isinstance(tree, str):
        name = next(iter(own["state_dict"]))
        tree = {**own, "state_dict": {**own["state_dict"], name: own["state_dict"][name][:1]}}
    save_tree(last, tree, about)
    words = r"last\.safetensors: (is not a checkpoint|holds another network's weights)"
    with pytest.raises(DataError, match=words):
        go(NOISY, broken_off, whole(garments))


def test_half_a_line_of_metrics_is_left_out(
    broken_off: Path, garments: Path, tmp_path: Path
) -> None:
    path = broken_off / "metrics.csv"
    path.write_bytes(path.read_bytes() + b"0.1,\xff")
    go(NOISY, broken_off, whole(garments))
    go(NOISY, tmp_path / "whole", whole(garments))
    same_run(broken_off, tmp_path / "whole")


def test_a_run_that_had_stopped_stops_where_it_had(garments: Path, tmp_path: Path) -> None:
    # Nothing is ever better by 100: it stops after the second epoch.
    stops = recipe({"early_stopping": {"patience": 1, "min_delta": 100.0}})
    first = go(stops, tmp_path, whole(garments))
    assert first.epochs == 2
    (tmp_path / "result.json").unlink()
    again = go(stops, tmp_path, whole(garments))
    assert {**asdict(again), "seconds": 0} == {**asdict(first), "seconds": 0}


def test_without_tensorboard(
    garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "find_spec", lambda name: None)
    go(SHORT, tmp_path, whole(garments))
    assert not (tmp_path / "tensorboard").exists() and (tmp_path / "metrics.csv").exists()


# ---------------------------------------------------------------- compare


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": ["a"]}, "1 names for 2 recipes"),
        ({"names": ["../../esc", "b"]}, "'../../esc' is no name"),
        ({"names": ["", "b"]}, "'' is no name"),
        ({"overrides": ["train.validation=0.6"], "changed": True}, "hold out different shares"),
    ],
    ids=str,
)
def test_comparisons_that_are_none(
    garments: Path, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    changed = options.pop("changed", False)
    sources = [tmp_path / "a.json", tmp_path / "b.json"]
    sources[0].write_text(json.dumps(recipe(validation=0.4 if changed else 0.2)))
    sources[1].write_text(json.dumps(recipe("l2")))
    if changed:
        options.pop("overrides")
    with pytest.raises(UsageError, match=words):
        compare(sources, garments, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


COMPARE = [sys.executable, "-m", "augpipe", "compare", "a.yaml", "b.yaml", "--seeds", "2"]
FOREVER = ["--steps", "1000000", "--jobs", "2", "--set", "train.batch_size=4"]


def started(garments: Path, folder: Path) -> subprocess.Popen[str]:
    """Starts a comparison that would take for ever, and waits until it trains."""
    (folder / "a.yaml").write_text(json.dumps(recipe()))
    (folder / "b.yaml").write_text(json.dumps(recipe("l2")))
    (folder / "sitecustomize.py").write_text(
        "import multiprocessing, sys\n"
        "if 'spawn_main' in ' '.join(sys.orig_argv):\n"
        "    import os\n"
        "    os.write(2, b'child\\n')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}
    process = subprocess.Popen(
        [*COMPARE, *FOREVER, "--data", str(garments), "--out", "out"],
        cwd=folder,
        env=environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "child\n"
    return process


@pytest.mark.parametrize("everyone", [True, False])
def test_ctrl_c_ends_a_comparison_with_all_its_processes(
    garments: Path, tmp_path: Path, everyone: bool
) -> None:
    process = started(garments, tmp_path)
    try:
        (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=60)  # whoever is left would hold the pipe open
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
    words = err.replace("child\n", "")
    assert words.startswith("stopped") and words.count("\n") == 1, words
    assert process.returncode == 1


def test_a_comparison_that_is_killed_leaves_no_process(garments: Path, tmp_path: Path) -> None:
    process = started(garments, tmp_path)
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL


def test_a_killed_run_is_told(
    garments: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from concurrent.futures import Future
    from concurrent.futures.process import BrokenProcessPool

    from augpipe.errors import AugpipeError

    class Dying:
        _processes = None

        def __init__(self, *ignored: Any) -> None: ...

        def submit(self, *ignored: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(BrokenProcessPool())
            return future

        def shutdown(self, cancel_futures: bool) -> None: ...

    monkeypatch.setattr(comparing, "ProcessPoolExecutor", Dying)
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text(json.dumps(recipe()))
    with pytest.raises(AugpipeError, match=r"^a, seed 0, or one beside it, was killed: is there"):
        compare([tmp_path / "a.yaml", tmp_path / "b.yaml"], garments, tmp_path / "out", steps=1)
