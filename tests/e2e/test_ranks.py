"""Two processes under DistributedDataParallel: each epoch whole, and no image seen by both."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from torch.utils.data import DataLoader, DistributedSampler

import augpipe
from augpipe.data.shards import ShardImages, open_images
from augpipe.errors import DataError, UsageError
from augpipe.expansion import convert
from tests.e2e import ranks
from tests.e2e.conftest import CLASSES, GARMENTS
from tests.harness import ROOT

COUNT = 13  # of which two ranks have 7 each, and one image twice
Seen = dict[str, Any]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("images")
    files = [(label, k) for label in CLASSES for k in range(5)][:COUNT]
    for label, k in files:
        (root / "in" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(GARMENTS / label / f"{label}_{k:02d}.png", root / "in" / label)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("augpipe.data.webdataset._IMAGES", (5, 1 << 30))
        convert(root / "in", root / "shards", "webdataset")
    assert len(list((root / "shards").glob("*.tar"))) == 3
    return root / "shards"


@pytest.fixture(scope="module")
def two(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Seen, Seen]:
    """Trains in two processes; returns what each saw."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("PyTorch without gloo")
    folder = tmp_path_factory.mktemp("ranks")
    # Not by the host's name, which need not resolve.
    interface = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    env = {**os.environ, **interface, "PYTHONPATH": str(ROOT)}
    script = str(ROOT / "tests/e2e/ranks.py")
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(rank), "2", str(folder), str(shards)],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for each in processes:
            _, errors = each.communicate(timeout=120)
            assert each.returncode == 0, errors
    finally:
        for each in processes:
            each.kill()
    first, second = (json.loads((folder / f"{rank}.json").read_text()) for rank in range(2))
    return first, second


def images_of(epoch: list[list[list[Any]]]) -> list[tuple[str, int]]:
    return [(digest, label) for batch in epoch for digest, label in batch]


@pytest.mark.parametrize("case", list(ranks.CASES))
def test_ranks_are_disjoint_and_complete(case: str, two: tuple[Seen, Seen], shards: Path) -> None:
    whole = set(images_of(ranks.train(shards, {"workers": 0})["epochs"][0]))
    assert len(whole) == COUNT
    first, second = (each[case] for each in two)
    orders = []
    for mine, theirs in zip(first["epochs"], second["epochs"], strict=True):
        # As many steps on each rank, or one would wait for the other for good.
        sizes = [[len(batch) for batch in epoch] for epoch in (mine, theirs)]
        assert sizes == ([[4], [4]] if case == "drop_last" else [[4, 3], [4, 3]])
        assert first["length"] == second["length"] == len(sizes[0])
        both = images_of(mine) + images_of(theirs)
        orders.append(both)
        if case == "drop_last":
            assert len(set(both)) == len(both) and set(both) < whole
        else:
            assert set(both) == whole and len(both) == COUNT + 1
    assert orders[0] != orders[1], "each epoch has an order of its own"
    assert first["weights"] == second["weights"]


def test_a_rank_is_asked_of_torch_only_where_none_is_said(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = augpipe.load(ranks.RECIPE)
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 4)
    assert pipe.loader(shards).state_dict()["world_size"] == 4
    assert pipe.loader(shards).state_dict()["rank"] == 1
    assert pipe.loader(shards, rank=0, world_size=1).state_dict()["world_size"] == 1
    assert pipe.loader(shards, sampler=range(COUNT)).state_dict()["world_size"] == 1
    with pytest.raises(UsageError, match="rank 1 of world_size None: give both or neither"):
        pipe.loader(shards, rank=1)


def test_shards_in_a_plain_dataloader(shards: Path) -> None:
    """By torch's own sampler and workers; as a map-style dataset any order may be asked for."""
    images, _ = open_images(shards, None, scaled=False)
    data = augpipe.load(ranks.RECIPE).dataset(images)
    seen: list[int] = []
    for rank in range(2):
        sampler = DistributedSampler(data, 2, rank, shuffle=False)  # type: ignore[var-annotated]
        loader = DataLoader(data, batch_size=2, sampler=sampler, num_workers=2)
        seen += [round(float(each.sum()) * 255) for batch, _ in loader for each in batch]
        data.set_epoch(rank + 1)
    expected = [int(images[k][0].astype(np.int64).sum()) for k in range(COUNT)]
    order = [*range(0, COUNT, 2), *range(1, COUNT, 2), 0]
    assert np.allclose(seen, [expected[k] for k in order], atol=40)


def test_shards_for_another_process(tmp_path: Path) -> None:
    (tmp_path / "in" / "cats").mkdir(parents=True)
    shutil.copy(ROOT / "samples" / "photos" / "chelsea.jpg", tmp_path / "in" / "cats")
    convert(tmp_path / "in", tmp_path / "out", "webdataset")
    images, pictures = open_images(tmp_path / "out", None, scaled=True)
    assert isinstance(images, ShardImages)
    whole, lazy = (pickle.loads(pickle.dumps(each)) for each in (images, pictures))
    assert len(whole) == len(lazy) == 1 and whole.classes == lazy.classes == ("cats",)
    assert isinstance(whole[0][0], np.ndarray) and not isinstance(lazy[0][0], np.ndarray)
    np.testing.assert_array_equal(whole[0][0], images[0][0])
    assert lazy[0][1] == 0


def test_splits_of_shards(shards: Path, tmp_path: Path) -> None:
    for split, source in (("train", "sandal"), ("test", "bag")):
        shutil.copytree(GARMENTS / source, tmp_path / "in" / split / source)
    convert(tmp_path / "in", tmp_path / "out", "webdataset")
    pipe = augpipe.load(ranks.RECIPE)
    for split, label in ((None, "sandal"), ("train", "sandal"), ("test", "bag")):
        loader = pipe.loader(tmp_path / "out", split=split, workers=0)
        assert {loader.base.classes[k] for _, labels in loader for k in labels} == {label}
    with pytest.raises(UsageError, match="no split 'val'"):
        pipe.loader(tmp_path / "out", split="val")
    shutil.copy(next((tmp_path / "out").glob("train-*.tar")), tmp_path / "val-000000.tar")
    (tmp_path / "only").mkdir()
    shutil.copy(next((tmp_path / "out").glob("test-*.tar")), tmp_path / "only")
    with pytest.raises(UsageError, match="a validation or test split is left alone unless named"):
        pipe.loader(tmp_path / "only")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image in it"):
        pipe.loader(tmp_path / "empty")


def test_a_cache_is_for_files_on_disk(shards: Path) -> None:
    with pytest.raises(UsageError, match="the recipe says cache: that is for image files on disk"):
        augpipe.load({**ranks.RECIPE, "cache": "memory"}).loader(shards)
