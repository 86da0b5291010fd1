"""A log in shared memory, which forked processes write, read, and are killed over."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from augpipe.data.arena import SharedCache
from augpipe.data.cache import Record, Stamp
from augpipe.errors import UsageError
from augpipe.types import Array

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")

IMAGES = 40


def image(index: int) -> Array:
    pixels = np.arange((20 + index) * 30 * 3) * 7 + index * 13
    return pixels.astype(np.uint8).reshape(20 + index, 30, 3)


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    found = [tmp_path / f"{index}.jpg" for index in range(IMAGES)]
    for index, source in enumerate(found):
        source.write_bytes(b"%d" % index)
        os.utime(source, (10**9, 10**9))
    return found


@pytest.fixture
def store() -> SharedCache:
    return SharedCache("memory", "decode", 0.01)


def put(store: SharedCache, source: Path, pixels: Array) -> bool:
    stamp = Stamp.of(source)
    assert stamp is not None
    return store.put(source, pixels, source.read_bytes(), stamp)


def put_all(store: SharedCache, sources: list[Path], first: int = 0) -> None:
    for k in range(IMAGES):
        index = (first + k) % IMAGES
        found = store.get(sources[index])
        if found is None:
            put(store, sources[index], image(index))
        else:
            np.testing.assert_array_equal(found, image(index))


def hits(store: SharedCache, sources: list[Path]) -> int:
    found = [store.get(source) for source in sources]
    for index, each in enumerate(found):
        if each is not None:
            np.testing.assert_array_equal(each, image(index))
    return sum(each is not None for each in found)


def forked(work: Callable[[], object]) -> int:
    """Starts a process that does some work and ends with 0 if it went well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def in_time(work: Callable[[], object]) -> None:
    """Does some work, which must not wait for ever."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


def test_what_one_process_puts_all_are_served(store: SharedCache, sources: list[Path]) -> None:
    assert ended(forked(lambda: put(store, sources[0], image(0)))) == 0
    assert hits(store, sources) == store.entries == 1
    put(store, sources[1], image(1))

    def child() -> None:
        assert hits(store, sources) == 2
        found = store.get(sources[1])
        assert found is not None
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 0

    assert ended(forked(child)) == 0


def test_an_array_outlives_the_cache(sources: list[Path]) -> None:
    store = SharedCache("memory", "decode", 0.01)
    put(store, sources[3], image(3))
    found = store.get(sources[3])
    del store
    assert found is not None
    np.testing.assert_array_equal(found, image(3))


def test_several_writers_at_once(store: SharedCache, sources: list[Path]) -> None:
    children = [forked(lambda first=first: put_all(store, sources, first)) for first in (0, 13, 26)]  # type: ignore[misc]
    put_all(store, sources, 33)
    assert [ended(child) for child in children] == [0, 0, 0]
    assert hits(store, sources) == store.entries == IMAGES


def test_threads_and_forks_among_them(store: SharedCache, sources: list[Path]) -> None:
    """No child inherits the lock of a thread that it does not have."""
    stop = threading.Event()
    errors: list[BaseException] = []

    def busy(first: int) -> None:
        try:
            for turn in itertools.count(first):
                if stop.is_set():
                    return
                index = turn % IMAGES
                put(store, sources[index], image(index))
                hits(store, sources[:3])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=busy, args=(first,)) for first in (0, 20)]
    for thread in threads:
        thread.start()
    try:
        codes = [ended(forked(lambda: put_all(store, sources, 7))) for _ in range(10)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert codes == [0] * 10
    assert not errors


class Deadly:
    """Pixels at which a process is killed while it copies them to the log."""

    size = 300

    def __array__(self, *_: Any, **__: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_writer_killed_in_the_midst_hinders_nobody(
    store: SharedCache, sources: list[Path]
) -> None:
    put(store, sources[0], image(0))
    stamp = Stamp.of(sources[1])
    assert stamp is not None
    record = Record(stamp, b"0" * 16, (10, 10, 3), 0, os.fsencode(sources[1]))
    before = store.nbytes
    child = forked(lambda: store._append(record, Deadly()))  # type: ignore[arg-type]
    assert ended(child) == -signal.SIGKILL
    assert store.nbytes == before
    in_time(lambda: put_all(store, sources))
    assert hits(store, sources) == store.entries == IMAGES
    assert ended(forked(lambda: put_all(store, sources))) == 0


@pytest.mark.parametrize("moment", range(6))
def test_writers_killed_at_any_moment(store: SharedCache, sources: list[Path], moment: int) -> None:
    begun = multiprocessing.get_context("fork").Semaphore(0)

    def endless() -> None:
        for index in itertools.cycle(range(IMAGES)):
            begun.release()
            if not put(store, sources[index], image(index)):
                store._told[0] = 64  # begins anew, for there to be always something to write

    child = forked(endless)
    for _ in range(3 + 17 * moment):
        begun.acquire()
    os.kill(child, signal.SIGKILL)
    assert ended(child) == -signal.SIGKILL
    in_time(lambda: put_all(store, sources))
    assert hits(store, sources) >= 1


def test_the_bound_holds_and_all_are_told(sources: list[Path]) -> None:
    store = SharedCache("memory", "decode", 0.00004)

    def child() -> None:
        put_all(store, sources)
        assert store.full

    assert not store.full
    assert ended(forked(child)) == 0
    assert store.full
    kept = hits(store, sources)
    assert 0 < kept == store.entries < IMAGES
    assert store.nbytes <= 0.00004e9 + 4096
    put_all(store, sources)
    assert hits(store, sources) == kept


def test_a_changed_file_is_a_miss_until_it_is_put(store: SharedCache, sources: list[Path]) -> None:
    put(store, sources[0], image(0))
    sources[0].write_bytes(b"other")
    assert store.get(sources[0]) is None
    assert ended(forked(lambda: put(store, sources[0], image(1)))) == 0
    found = store.get(sources[0])
    assert found is not None
    np.testing.assert_array_equal(found, image(1))
    assert store.entries == 1


def test_a_touch_is_noted_once_for_all(
    store: SharedCache, sources: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, sources[5], image(5))
    before = store.nbytes
    os.utime(sources[5], (10**9 + 5, 10**9 + 5))
    assert ended(forked(lambda: store.get(sources[5]))) == 0
    assert before < store.nbytes < before + 512  # a record, and not the pixels again
    after = store.nbytes
    monkeypatch.setattr("augpipe.data.cache._content", lambda path: None)  # is not looked at
    found = store.get(sources[5])
    assert found is not None
    np.testing.assert_array_equal(found, image(5))
    assert store.nbytes == after


def test_a_renewal_leaves_what_was_put_meanwhile(store: SharedCache, sources: list[Path]) -> None:
    put(store, sources[0], image(0))
    old, _ = store._read(os.fsencode(sources[0])) or (None, None)
    assert old is not None
    sources[0].write_bytes(b"other")
    put(store, sources[0], image(1))
    store._renew(os.fsencode(sources[0]), old, old._replace(content=b"1" * 16))
    found = store.get(sources[0])
    assert found is not None
    np.testing.assert_array_equal(found, image(1))


@pytest.mark.parametrize("max_gb", [0.0, -1.0, float("nan"), float("inf"), 1e9, 1e300])
def test_a_bound_that_is_none_or_too_large_is_refused(max_gb: float) -> None:
    with pytest.raises(UsageError, match="max_gb"):
        SharedCache("memory", "decode", max_gb)


def test_files_are_closed_with_it(sources: list[Path]) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208

    before = opened()
    stores = [SharedCache("memory", "decode", 0.001) for _ in range(5)]
    assert opened() > before
    stores.clear()
    assert opened() == before
