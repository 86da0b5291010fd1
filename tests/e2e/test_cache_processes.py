"""A cache folder that several processes build, one is killed over, or a fork leaves behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from augpipe.data.cache import Cache, Stamp, open_cache

IMAGES = 60
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills and forks")


def image(index: int) -> NDArray[np.uint8]:
    pixels = np.arange(120 * 160 * 3) * 7 + index * 13
    return pixels.astype(np.uint8).reshape(120, 160, 3)


def make_sources(folder: Path) -> list[Path]:
    folder.mkdir()
    sources = [folder / f"{i}.jpg" for i in range(IMAGES)]
    for i, source in enumerate(sources):
        source.write_bytes(b"%d" % i)
        os.utime(source, (10**9, 10**9))
    return sources


def step(store: Cache, sources: list[Path], index: int) -> bool:
    """Gets or puts an image, and returns whether it was there. What is there must be right."""
    found = store.get(sources[index])
    if found is not None:
        np.testing.assert_array_equal(found, image(index))
        return True
    stamp = Stamp.of(sources[index])
    assert stamp is not None
    store.put(sources[index], image(index), sources[index].read_bytes(), stamp)
    return False


def build(store: Cache, sources: list[Path], first: int, turns: int = 2) -> None:
    for turn in range(turns):
        for k in range(len(sources)):
            assert step(store, sources, (first + k) % len(sources)) or turn == 0


def hits(store: Cache, sources: list[Path]) -> int:
    return sum(step(store, sources, index) for index in range(len(sources)))


def open_and_build(folder: Path, sources: list[Path], first: int) -> None:
    build(open_cache(folder, "decode", 0.05), sources, first)


def ended_well(process: multiprocessing.process.BaseProcess) -> bool:
    process.join(60)
    return process.exitcode == 0


def test_processes_build_one_folder_at_once(tmp_path: Path) -> None:
    sources = make_sources(tmp_path / "images")
    context = multiprocessing.get_context("spawn")
    # None of them finds a folder: each may be the one that makes it.
    processes = [
        context.Process(target=open_and_build, args=(tmp_path / "cache", sources, first))
        for first in (0, 30, 45)
    ]
    for process in processes:
        process.start()
    assert all([ended_well(process) for process in processes])
    assert hits(open_cache(tmp_path / "cache", "decode", 0.05), sources) == IMAGES


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_a_pickled_cache_works_in_a_spawned_process(tmp_path: Path, where: str) -> None:
    sources = make_sources(tmp_path / "images")
    store = open_cache(where if where == "memory" else tmp_path / "cache", "decode", 0.05)
    step(store, sources, 0)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=build, args=(store, sources, 0))
    process.start()
    assert ended_well(process)
    assert hits(store, sources) == (1 if where == "memory" else IMAGES)


BUILDER = """
import sys
from pathlib import Path
from augpipe.data.cache import open_cache
sys.path.insert(0, sys.argv[1])
from test_cache_processes import step
folder, sources = Path(sys.argv[2]), sorted(Path(sys.argv[3]).iterdir())
sources.sort(key=lambda path: int(path.stem))
store = open_cache(folder, "decode", 0.05)
print("open", flush=True)
index = 0
while True:
    step(store, sources, index % len(sources))
    print(index, flush=True)
    index += 1
    if index % 7 == 0:  # so that there is always something to write
        path = sources[index % len(sources)]
        path.write_bytes(path.read_bytes() + b" ")
"""


def test_a_killed_builder_leaves_only_right_entries(tmp_path: Path) -> None:
    sources = make_sources(tmp_path / "images")
    here = str(Path(__file__).parent)
    folder = tmp_path / "cache"
    arguments = [sys.executable, "-c", BUILDER, here, str(folder), str(tmp_path / "images")]
    for lines in (1, 2, 5, 17, 60, 100, 150):
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(lines):
                assert process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        store = open_cache(folder, "decode", 0.05)
        entries = store.entries
        assert hits(store, sources) <= entries
        assert hits(store, sources) == IMAGES
        del store


def test_a_killed_builder_among_others(tmp_path: Path) -> None:
    """It may hold the lock of the writers, or a reader's slot, when it dies."""
    sources = make_sources(tmp_path / "images")
    store = open_cache(tmp_path / "cache", "decode", 0.05)
    here = str(Path(__file__).parent)
    arguments = [sys.executable, "-c", BUILDER, here, str(tmp_path / "cache")]
    for lines in (3, 20, 41):
        with subprocess.Popen(
            [*arguments, str(tmp_path / "images")], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            for _ in range(lines):
                assert process.stdout.readline()
                step(store, sources, lines)
            process.kill()
        assert hits(store, sources) >= 1
        assert hits(store, sources) == IMAGES


def in_a_fork(work: object) -> int:
    """Runs work in a forked process that ends at once, as torch's workers do."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()  # type: ignore[operator]
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_a_fork_goes_on_in_both(tmp_path: Path, where: str) -> None:
    sources = make_sources(tmp_path / "images")
    store = open_cache(where if where == "memory" else tmp_path / "cache", "decode", 0.05)
    for index in range(20):
        step(store, sources, index)
    held = store.get(sources[3])

    def child() -> None:
        np.testing.assert_array_equal(held, image(3))
        assert step(store, sources, 5)  # kept before the fork
        assert not step(store, sources, 25)
        build(store, sources, 10)
        open_cache(tmp_path / "cache", "other", 0.05)

        def grandchild() -> None:
            assert hits(store, sources) == IMAGES

        assert in_a_fork(grandchild) == 0
        assert hits(store, sources) == IMAGES

    assert in_a_fork(child) == 0
    np.testing.assert_array_equal(held, image(3))
    assert hits(store, sources) == (20 if where == "memory" else IMAGES)
    assert hits(store, sources) == IMAGES
    if where == "folder":
        del store
        assert hits(open_cache(tmp_path / "cache", "decode", 0.05), sources) == IMAGES


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_forks_among_busy_threads(tmp_path: Path, where: str) -> None:
    """No child inherits a lock or a transaction of a thread that it does not have."""
    sources = make_sources(tmp_path / "images")
    # Room for what is written while a child that waits for a core keeps old pages in use.
    store = open_cache(where if where == "memory" else tmp_path / "cache", "decode", 0.5)
    stop = threading.Event()
    errors: list[BaseException] = []

    def busy(first: int) -> None:
        turn = 0
        try:
            while not stop.is_set():
                index = (first + turn) % IMAGES
                step(store, sources, index)
                if turn % 3 == 0:
                    stamp = Stamp.of(sources[index])
                    assert stamp is not None
                    data = sources[index].read_bytes()
                    store.put(sources[index], image(index), data, stamp)
                turn += 1
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=busy, args=(first,)) for first in (0, 20, 40)]
    for thread in threads:
        thread.start()
    try:
        codes = [in_a_fork(lambda: build(store, sources, 7)) for _ in range(15)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert codes == [0] * 15
    assert not errors
    assert hits(store, sources) == IMAGES


def test_a_process_that_lets_the_file_grow(tmp_path: Path) -> None:
    sources = make_sources(tmp_path / "images")
    small = open_cache(tmp_path / "cache", "decode", 0.0005)
    hits(small, sources)
    assert small.full
    assert hits(small, sources) < IMAGES

    # In a process of its own: in this one the later bound counts for both.
    def child() -> None:
        build(open_cache(tmp_path / "cache", "decode", 0.05), sources, 0)

    assert in_a_fork(child) == 0
    assert hits(small, sources) == IMAGES


def fill_in_turn(folder: Path, sources: list[Path]) -> None:
    store = open_cache(folder, "two", 0.002)
    counts = [hits(store, sources) for _ in range(4)]
    assert counts[-1] == counts[-2] > 0


def test_two_processes_that_fill_a_folder_in_turn(tmp_path: Path) -> None:
    """Each drops what the other kept at most once."""
    sources = make_sources(tmp_path / "images")
    store = open_cache(tmp_path / "cache", "one", 0.002)
    hits(store, sources)
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=fill_in_turn, args=(tmp_path / "cache", sources))
    process.start()
    assert ended_well(process)
    counts = [hits(store, sources) for _ in range(4)]
    assert counts[-1] == counts[-2]
