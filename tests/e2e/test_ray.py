"""Expansion on a Ray cluster of two nodes: the bytes of one machine, whoever dies on the way."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from augpipe.errors import AugpipeError, UsageError
from augpipe.expansion import cluster, convert, expand, expanding
from augpipe.expansion.jobs import prepare
from augpipe.expansion.making import Making
from augpipe.expansion.record import Settings
from augpipe.expansion.skipped import SkippedFile
from augpipe.recipe import load
from tests.e2e import clusters
from tests.e2e.expansion import start, tree, wait_for_lines

MIXED = """\
version: 1
seed: 7
sample:
  - rotate: {degrees: [-20, 20]}
batch:
  - mixup: {alpha: 0.4}
"""


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    ray = pytest.importorskip("ray")
    with clusters.two_nodes() as nodes:
        # Its workers serve all tests of this module, as a user's own session would have it.
        ray.init(address=nodes.address, log_to_driver=False)
        ray.cloudpickle.register_pickle_by_value(clusters)
        yield ray


pytestmark = pytest.mark.xdist_group("ray")


def test_two_nodes_make_what_one_machine_makes(
    ray: Any, source: Path, recipe: Path, tmp_path: Path
) -> None:
    (source / "coat" / "coat_01.png").write_bytes(b"not an image")
    (source / "bag" / "bag_01.png").write_bytes(b"not an image")
    options: dict[str, Any] = {"copies": 3, "keep_originals": True}
    done = expand(recipe, source, tmp_path / "ray", engine="ray", **options)
    assert (done.written, done.skipped) == (40, 2)
    expand(recipe, source, tmp_path / "local", **options)
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
    again = expand(recipe, source, tmp_path / "ray", engine="ray", **options)
    assert (again.written, again.kept) == (0, 40)


def test_batches_and_shards_at_an_address(ray: Any, source: Path, tmp_path: Path) -> None:
    """`file://` is reached through fsspec, as s3:// is, and from every process."""
    (tmp_path / "mixed.yaml").write_text(MIXED)
    options: dict[str, Any] = {"copies": 2, "batch_size": 5}
    expand(tmp_path / "mixed.yaml", source, tmp_path / "mixed", **options)
    there = (tmp_path / "mixed ray").as_uri().replace("%20", " ")
    expand(tmp_path / "mixed.yaml", source, there, engine="ray", **options)
    assert tree(tmp_path / "mixed ray") == tree(tmp_path / "mixed")


def test_shards_to_shards(ray: Any, source: Path, recipe: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "shards", "webdataset")
    shards, out = (tmp_path / "shards").as_uri(), (tmp_path / "ray").as_uri()
    expand(recipe, shards, out, copies=2, to="parquet", engine="ray")
    expand(recipe, shards, tmp_path / "local", copies=2, to="parquet")
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def test_a_file_that_ends_its_process_is_listed(
    ray: Any, source: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deadly(*given: Any) -> clusters.TaskKills:
        return clusters.TaskKills(*given, index=5)

    expand(recipe, source, tmp_path / "local")
    monkeypatch.setattr(expanding, "Making", deadly)
    monkeypatch.setattr(cluster, "_TRIES", 1)
    done = expand(recipe, source, tmp_path / "ray", engine="ray")
    assert (done.written, done.skipped) == (11, 1)
    made, whole = tree(tmp_path / "ray"), tree(tmp_path / "local")
    (row,) = [json.loads(line) for line in made.pop("errors.jsonl").splitlines()]
    assert row["source"] == "coat/coat_01.png"
    assert row["reason"].startswith("the process that works on it dies (")
    del whole["coat/coat_01__0.png"]
    lines = whole["manifest.jsonl"].splitlines(keepends=True)
    assert made == {**whole, "manifest.jsonl": b"".join(lines[:5] + lines[6:])}


def test_errors_of_a_node_come_through(
    ray: Any, source: Path, recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    expand(recipe, source, tmp_path / "out")
    (tmp_path / "out" / "manifest.jsonl").unlink()
    for path in (tmp_path / "out" / "bag").iterdir():
        path.unlink()
    (tmp_path / "out" / "bag").rmdir()
    (tmp_path / "out" / "bag").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AugpipeError, match=r"leads out of the output folder.*run the same command"):
        expand(recipe, source, tmp_path / "out", engine="ray")


def test_a_killed_driver_goes_on(ray: Any, source: Path, recipe: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"copies": 60, "engine": "ray"}
    process = start("never", 0, recipe=recipe, source=source, out=tmp_path / "ray", **options)
    try:
        wait_for_lines(process, tmp_path / "ray" / "manifest.jsonl", 60, seconds=300)
    finally:
        process.kill()
        process.communicate()
    done = expand(recipe, source, tmp_path / "ray", **options)
    assert 60 <= done.kept < 720 and done.written == 720 - done.kept
    expand(recipe, source, tmp_path / "local", copies=60)
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")


def test_a_node_that_dies_has_its_work_done_by_the_other(
    ray: Any, source: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last test here: one node is left behind it."""
    tried = []
    again = cluster._Shard.again
    mark, head = tmp_path / "dead", ray.get_runtime_context().get_node_id()

    def deadly(*given: Any) -> clusters.NodeDies:
        return clusters.NodeDies(*given, mark=str(mark), head=head)

    def noted(shard: Any) -> Any:
        tried.append(shard)
        return again(shard)

    expand(recipe, source, tmp_path / "local", copies=2)
    monkeypatch.setattr(expanding, "Making", deadly)
    monkeypatch.setattr(cluster._Shard, "again", noted)
    done = expand(recipe, source, tmp_path / "ray", copies=2, engine="ray")
    assert (done.written, done.skipped) == (24, 0)
    assert tree(tmp_path / "ray") == tree(tmp_path / "local")
    assert mark.exists() and tried, "no node died in the middle"
    alive = clusters.until(
        lambda: sum(each["Alive"] for each in ray.nodes()) == 1,
        lambda: [each["NodeID"] for each in ray.nodes() if each["Alive"]],
    )
    assert alive == [head]


def test_errors_are_told_in_the_order_of_the_sources(tmp_path: Path) -> None:
    errors = SkippedFile(tmp_path / "errors.jsonl")
    for index in (5, 0, 3):
        errors.add(index, f"image {index}", "bad", None)
    errors.close()
    lines = (tmp_path / "errors.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == ["image 0", "image 3", "image 5"]
    assert errors.count == 3


def test_shards_are_small_and_many(source: Path, recipe: Path) -> None:
    """Each task in one shard, in order; several for each core, of 256 outputs at most."""
    for copies, cores in ((1, 1), (1, 2), (200, 2), (1, 100), (300, 1)):
        job = prepare(load(recipe), source, Settings(copies))
        work, tasks = Making(job, source, {}), list(job.tasks())
        shards = list(cluster._shards(work, tasks, cores))
        assert [task for shard in shards for task in shard.tasks] == tasks
        assert len(shards) >= min(3 * cores, len(tasks))
        sizes = [sum(map(work.size, shard.tasks)) for shard in shards]
        assert sum(sizes) == copies * job.record.images
        assert max(sizes) <= 256


def test_what_is_missing_is_said_in_a_line(
    source: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(**options: Any) -> str:
        with pytest.raises(UsageError) as caught:
            expand(recipe, source, tmp_path / "out", **options)
        assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
        return str(caught.value)

    assert refusal(engine="rey") == "no engine 'rey' (did you mean 'ray'?)"
    with pytest.raises(UsageError, match="in the memory of this process"):
        expand(recipe, "memory://in", tmp_path / "out", engine="ray")
    ray = pytest.importorskip("ray")
    with monkeypatch.context() as patch:
        patch.setattr(ray, "is_initialized", lambda: False)
        patch.setattr(ray, "init", lambda **_: (_ for _ in ()).throw(ConnectionError("none")))
        patch.delenv("RAY_ADDRESS", raising=False)
        assert "found: begin one with `ray start --head`" in refusal(engine="ray")
        with socket.create_server(("127.0.0.1", 0)) as server:
            where = f"127.0.0.1:{server.getsockname()[1]}"
        patch.setenv("RAY_ADDRESS", where)
        assert f"answers at RAY_ADDRESS={where} (connection refused)" in refusal(engine="ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    assert refusal(engine="ray").endswith("not installed: pip install 'augpipe[scale]'")


def test_a_node_that_would_do_other_work_says_so(
    source: Path, recipe: Path, tmp_path: Path
) -> None:
    job = prepare(load(recipe), source, Settings())
    with pytest.raises(UsageError, match="is not seen there: use a shared folder or an address"):
        Making(job, tmp_path / "out", {}).begin(Event())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "job.json").touch()
    Making(job, tmp_path / "out", {}).begin(Event())
    job.record.versions["numpy"] = "1.0"
    with pytest.raises(UsageError, match=r"has other versions: numpy 1\.0 is now .*: install"):
        Making(job, tmp_path / "out", {}).begin(Event())
