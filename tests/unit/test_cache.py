"""The store of decoded images: what is served, and what must never be."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from augpipe.data import cache as module
from augpipe.data.cache import Cache, Stamp, open_cache
from augpipe.errors import DataError, UsageError

LONG_AGO = 1_000_000_000 * 10**9


def image(value: int, height: int = 9, width: int = 7, channels: int = 3) -> NDArray[np.uint8]:
    pixels = np.arange(height * width * channels) * 7 + value * 13
    return pixels.astype(np.uint8).reshape(height, width, channels)


def file(path: Path, data: bytes, modified: int | None = LONG_AGO) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    if modified is not None:
        os.utime(path, ns=(modified, modified))
    return path


def keep(store: Cache, source: Path, pixels: NDArray[np.uint8]) -> bool:
    stamp = Stamp.of(source)
    assert stamp is not None
    return store.put(source, pixels, source.read_bytes(), stamp)


@pytest.fixture(params=["memory", "folder"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "memory" if request.param == "memory" else str(tmp_path / "cache")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return file(tmp_path / "images" / "a.jpg", b"content")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The files whose content was looked at."""
    seen: list[bytes] = []
    true = module._content
    monkeypatch.setattr(module, "_content", lambda path: [seen.append(path), true(path)][1])
    return seen


@pytest.mark.parametrize("shape", [(9, 7, 3), (1, 1, 1), (40, 30, 4), (375, 500, 3)])
def test_what_was_put_is_served(where: str, source: Path, shape: tuple[int, int, int]) -> None:
    store = open_cache(where, "decode", 0.01)
    assert store.get(source) is None
    assert (store.entries, store.full) == (0, False)
    pixels = image(1, *shape)
    assert keep(store, source, pixels)
    pixels_before = pixels.copy()
    pixels[:] = 0  # what the caller does next must not reach the cache
    found = store.get(source)
    assert found is not None
    np.testing.assert_array_equal(found, pixels_before)
    assert found.dtype == np.uint8 and found.flags.c_contiguous
    assert store.entries == 1 and store.nbytes >= pixels.nbytes


def test_a_view_that_is_not_contiguous_is_kept_as_seen(where: str, source: Path) -> None:
    store = open_cache(where, "decode", 0.01)
    pixels = image(1)[::-1, :, ::-1]
    keep(store, source, pixels)
    np.testing.assert_array_equal(store.get(source), pixels)


@pytest.mark.parametrize("bad", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 3), np.float32)])
def test_only_uint8_images_are_taken(where: str, source: Path, bad: object) -> None:
    store = open_cache(where, "decode", 0.01)
    with pytest.raises(UsageError, match=r"\(H, W, C\) uint8"):
        keep(store, source, bad)  # type: ignore[arg-type]


def test_a_users_write_is_refused(where: str, source: Path) -> None:
    store = open_cache(where, "decode", 0.01)
    keep(store, source, image(1))
    found = store.get(source)
    assert found is not None
    with pytest.raises(ValueError, match="read-only"):
        found[0, 0, 0] = 1


def test_memory_cannot_be_made_writable(source: Path) -> None:
    store = open_cache("memory", "decode", 0.01)
    keep(store, source, image(1))
    found = store.get(source)
    while isinstance(found, np.ndarray):
        with pytest.raises(ValueError, match="WRITEABLE"):
            found.flags.writeable = True
        found = found.base  # type: ignore[assignment]


def test_an_array_outlives_its_entry_and_its_cache(tmp_path: Path, source: Path) -> None:
    store = open_cache(tmp_path / "cache", "decode", 0.01)
    pixels = image(1, 300, 300)
    keep(store, source, pixels)
    found = store.get(source)
    for value in range(5):
        keep(store, source, image(value, 300, 300))
    del store
    np.testing.assert_array_equal(found, pixels)


def test_other_content_is_a_miss_until_it_is_put(where: str, source: Path) -> None:
    store = open_cache(where, "decode", 0.01)
    keep(store, source, image(1))
    file(source, b"longer content")
    assert store.get(source) is None
    keep(store, source, image(2))
    np.testing.assert_array_equal(store.get(source), image(2))
    assert store.entries == 1


def test_content_of_the_same_size_and_time_is_a_miss(where: str, source: Path) -> None:
    store = open_cache(where, "decode", 0.01)
    keep(store, source, image(1))
    file(source, b"CONTENT")  # utime puts the time back; that of the inode shows
    assert store.get(source) is None
    keep(store, source, image(2))
    other = file(source.with_name("b.jpg"), b"cONTENt")
    other.replace(source)
    assert store.get(source) is None


def test_a_change_just_after_caching_shows(
    where: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a file system whose clock has not ticked: the stat stays, the content does not.
    now = time.time_ns()
    file(source, b"content", now)
    stamp = Stamp.of(source)
    assert stamp is not None and not stamp.settled
    store = open_cache(where, "decode", 0.01)
    keep(store, source, image(1))
    file(source, b"CONTENT", now)
    monkeypatch.setattr(Stamp, "of", lambda path: stamp)
    assert store.get(source) is None


def test_a_touch_costs_one_look_at_the_content(
    where: str, source: Path, hashed: list[bytes]
) -> None:
    store = open_cache(where, "decode", 0.01)
    keep(store, source, image(1))
    assert store.get(source) is not None
    assert not hashed
    os.utime(source, ns=(LONG_AGO + 10, LONG_AGO + 10))
    for _ in range(3):
        np.testing.assert_array_equal(store.get(source), image(1))
    assert hashed == [os.fsencode(source)]


def test_a_renewal_leaves_what_was_put_meanwhile(
    where: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_cache(where, "decode", 0.01)
    keep(store, source, image(1))
    os.utime(source, ns=(LONG_AGO + 10, LONG_AGO + 10))
    true = module._content

    def look(path: bytes) -> bytes | None:
        content = true(path)
        file(source, b"newer content")
        keep(store, source, image(2))
        return content

    with monkeypatch.context() as patched:
        patched.setattr(module, "_content", look)
        store.get(source)
    np.testing.assert_array_equal(store.get(source), image(2))


def test_a_file_that_changed_before_it_was_read_is_looked_at(where: str, source: Path) -> None:
    store = open_cache(where, "decode", 0.01)
    before = Stamp.of(source)
    file(source, b"newer content")
    assert before is not None
    store.put(source, image(1), b"content", before)  # decoded before the change
    assert store.get(source) is None
    store.put(source, image(2), b"newer content", before)  # decoded after it
    np.testing.assert_array_equal(store.get(source), image(2))


def test_a_file_that_is_gone_is_a_miss(where: str, source: Path) -> None:
    store = open_cache(where, "decode", 0.01)
    keep(store, source, image(1))
    source.unlink()
    assert store.get(source) is None
    assert Stamp.of(source) is None


def test_another_prefix_is_never_served(tmp_path: Path, source: Path) -> None:
    one = open_cache(tmp_path / "cache", "decode", 0.01)
    two = open_cache(tmp_path / "cache", "decode resize(7)", 0.01)
    keep(one, source, image(1))
    assert two.get(source) is None
    keep(two, source, image(2))
    np.testing.assert_array_equal(one.get(source), image(1))
    np.testing.assert_array_equal(two.get(source), image(2))


@pytest.mark.parametrize(
    "name",
    [b"a b.jpg", b"a\nb.jpg", b"a\xff\xfe.jpg", "Äß像.jpg".encode(), b"x" * 250, b"\\ '\".jpg"],
)
def test_any_name(where: str, tmp_path: Path, name: bytes) -> None:
    source = file(tmp_path / "images" / os.fsdecode(name), b"content")
    other = file(tmp_path / "images" / "other", b"content")
    store = open_cache(where, "decode", 0.01)
    keep(store, source, image(1))
    assert store.get(other) is None
    np.testing.assert_array_equal(store.get(source), image(1))


def test_a_link_is_its_target(where: str, tmp_path: Path, source: Path) -> None:
    other = file(source.with_name("b.jpg"), b"CONTENT")
    link = source.with_name("link.jpg")
    link.symlink_to(source)
    store = open_cache(where, "decode", 0.01)
    keep(store, link, image(1))
    np.testing.assert_array_equal(store.get(link), image(1))
    link.unlink()
    link.symlink_to(other)  # same size, same time
    assert store.get(link) is None


def test_a_relative_path_is_of_its_folder(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_cache(where, "decode", 0.01)
    for name, data in (("one", b"content"), ("two", b"CONTENT")):
        file(tmp_path / name / "a.jpg", data)
    monkeypatch.chdir(tmp_path / "one")
    keep(store, Path("a.jpg"), image(1))
    np.testing.assert_array_equal(store.get(tmp_path / "one" / "a.jpg"), image(1))
    monkeypatch.chdir(tmp_path / "two")
    assert store.get(Path("a.jpg")) is None


def test_the_bound_holds(where: str, tmp_path: Path) -> None:
    store = open_cache(where, "decode", 0.002)
    sources = [file(tmp_path / "images" / f"{i}", b"%d" % i) for i in range(30)]
    kept = [keep(store, source, image(i, 200, 200)) for i, source in enumerate(sources)]
    assert store.full and not kept[-1]
    assert 8 <= sum(kept) <= 16  # 0.12 MB each, of 2 MB
    assert store.nbytes <= 2_000_000
    for i, source in enumerate(sources):
        found = store.get(source)
        assert (found is not None) == kept[i]
        if found is not None:
            np.testing.assert_array_equal(found, image(i, 200, 200))
    if where != "memory":
        # 4 MB that deleting may take for a moment.
        assert (Path(where) / "data.mdb").stat().st_size <= 2_000_000 + 4_200_000


def test_what_is_full_takes_what_fits(where: str, tmp_path: Path, source: Path) -> None:
    store = open_cache(where, "decode", 0.001)
    assert not keep(store, source, image(1, 600, 600))
    assert store.full and store.get(source) is None
    assert keep(store, source, image(1))
    assert not store.full


def test_replacing_in_memory_frees_what_was_there(source: Path) -> None:
    store = open_cache("memory", "decode", 0.0002)
    for value in range(20):
        file(source, b"%d" % value)
        assert keep(store, source, image(value, 200, 200))
    assert store.nbytes < 121_000


def test_a_full_folder_drops_what_nobody_uses(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    sources = [file(tmp_path / "images" / f"{i}", b"%d" % i) for i in range(60)]
    for prefix in ("old", "older"):
        old = open_cache(folder, prefix, 0.004)
        for i in range(15):
            assert keep(old, sources[i], image(i, 200, 200)) or prefix == "older"
        del old
    new = open_cache(folder, "new", 0.004)
    used = open_cache(folder, "used", 0.004)  # as a validation set's beside it
    keep(used, sources[0], image(9))
    kept = [keep(new, source, image(i, 200, 200)) for i, source in enumerate(sources)]
    assert sum(kept) >= 25
    np.testing.assert_array_equal(used.get(sources[0]), image(9))
    for i, source in enumerate(sources):
        found = new.get(source)
        assert (found is not None) == kept[i]
        if found is not None:
            np.testing.assert_array_equal(found, image(i, 200, 200))
    assert open_cache(folder, "old", 0.004).get(sources[0]) is None
    assert (folder / "data.mdb").stat().st_size <= 4_000_000 + 4_200_000


def test_room_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_cache(tmp_path / "cache", "decode", 0.0005)
    sources = [file(tmp_path / "images" / f"{i}", b"%d" % i) for i in range(12)]
    sweeps: list[object] = []
    monkeypatch.setattr(store._store, "_sweep", sweeps.append)  # type: ignore[attr-defined]
    assert sum(keep(store, source, image(1, 200, 200)) for source in sources) < 5
    assert len(sweeps) == 1


def test_a_full_folder_drops_files_that_are_gone(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    store = open_cache(folder, "decode", 0.002)
    sources = [file(tmp_path / "images" / f"{i}", b"%d" % i) for i in range(24)]
    for i in range(8):
        assert keep(store, sources[i], image(i, 200, 200))
        sources[i].unlink()
    kept = [keep(store, sources[i], image(i, 200, 200)) for i in range(8, 24)]
    assert sum(kept) >= 12
    assert store.entries == sum(kept)


def test_many_small_images_fill_and_make_room(tmp_path: Path) -> None:
    # These lie in the tree's own pages: a full file leaves none for deleting.
    sources = [file(tmp_path / "images" / f"{i}", b"%d" % i) for i in range(400)]
    old = open_cache(tmp_path / "cache", "old", 0.0003)
    kept = [keep(old, source, image(i, 28, 28, 1)) for i, source in enumerate(sources)]
    assert not all(kept)
    del old
    new = open_cache(tmp_path / "cache", "new", 0.0003)
    kept = [keep(new, source, image(i, 28, 28, 1)) for i, source in enumerate(sources)]
    assert sum(kept) > 100
    for i, source in enumerate(sources):
        assert (new.get(source) is not None) == kept[i]


def test_a_folder_outlives_its_cache(tmp_path: Path, source: Path) -> None:
    store = open_cache(tmp_path / "deep" / "cache", "decode", 0.01)
    keep(store, source, image(1))
    del store
    store = open_cache(tmp_path / "deep" / "cache", "decode", 0.01)
    np.testing.assert_array_equal(store.get(source), image(1))


def test_a_later_bound_counts(tmp_path: Path, source: Path) -> None:
    first = open_cache(tmp_path / "cache", "decode", 0.001)
    assert not keep(first, source, image(1, 700, 700))
    second = open_cache(tmp_path / "cache", "decode", 0.01)
    assert keep(second, source, image(1, 700, 700))
    np.testing.assert_array_equal(first.get(source), image(1, 700, 700))


def test_a_folder_deleted_and_made_anew_is_another(tmp_path: Path, source: Path) -> None:
    folder = tmp_path / "cache"
    first = open_cache(folder, "decode", 0.01)
    keep(first, source, image(1))
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    second = open_cache(folder, "decode", 0.01)
    assert second.get(source) is None
    keep(second, source, image(2))
    np.testing.assert_array_equal(first.get(source), image(1))
    np.testing.assert_array_equal(second.get(source), image(2))


def test_threads_share_a_cache(where: str, tmp_path: Path) -> None:
    store = open_cache(where, "decode", 0.05)
    sources = [file(tmp_path / "images" / f"{i}", b"%d" % i) for i in range(40)]
    wrong: list[object] = []

    def work(offset: int) -> None:
        try:
            for turn in range(120):
                i = (turn * 7 + offset) % 40
                found = store.get(sources[i])
                if found is None:
                    keep(store, sources[i], image(i, 60, 60))
                elif not np.array_equal(found, image(i, 60, 60)):
                    wrong.append(i)
                if turn % 40 == 0:  # the map is exchanged under the others
                    open_cache(where, "decode", 0.05 + turn / 1000)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert store.entries == 40


def test_a_pickled_folder_is_the_same(tmp_path: Path, source: Path) -> None:
    store = open_cache(tmp_path / "cache", "decode", 0.01)
    keep(store, source, image(1))
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy.get(source), image(1))


def test_a_pickled_memory_is_empty(source: Path) -> None:
    store = open_cache("memory", "decode", 0.01)
    keep(store, source, image(1))
    copy = pickle.loads(pickle.dumps(store))
    assert copy.entries == 0 and keep(copy, source, image(2))


@pytest.mark.parametrize("max_gb", [0, -1, float("nan"), float("inf")])
def test_a_bound_is_more_than_nothing(where: str, max_gb: float) -> None:
    with pytest.raises(UsageError, match="max_gb"):
        open_cache(where, "decode", max_gb)


def test_a_folder_that_cannot_be_one(tmp_path: Path, source: Path) -> None:
    with pytest.raises(UsageError, match="not a folder"):
        open_cache(source, "decode", 0.01)
    with pytest.raises(UsageError, match="not a folder"):
        open_cache(source / "below", "decode", 0.01)
    with pytest.raises(UsageError, match=r"holds 'a\.jpg': name a new or an empty folder"):
        open_cache(source.parent, "decode", 0.01)
    assert sorted(path.name for path in source.parent.iterdir()) == ["a.jpg"]
    file(tmp_path / "later" / "augpipe-cache", b"augpipe cache 2\n")
    with pytest.raises(UsageError, match="not this version's cache"):
        open_cache(tmp_path / "later", "decode", 0.01)


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Asked of the system, not tried: the superuser may do anything.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")
    with pytest.raises(UsageError, match="locked: no permission to write"):
        open_cache(tmp_path / "locked", "decode", 0.01)


def test_a_foreign_environment_is_left_alone(tmp_path: Path) -> None:
    lmdb = pytest.importorskip("lmdb")
    with lmdb.open(str(tmp_path / "foreign")):
        pass
    with pytest.raises(UsageError, match=r"holds 'data\.mdb'"):
        open_cache(tmp_path / "foreign", "decode", 0.01)


def test_no_lmdb_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(UsageError, match="pip install"):
        open_cache(tmp_path / "cache", "decode", 0.01)


def test_memory_needs_no_lmdb() -> None:
    code = (
        "import sys; from augpipe.data.cache import open_cache; open_cache('memory', '', 1); "
        "assert 'lmdb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def filled(folder: Path, count: int = 12) -> list[Path]:
    """Fills a cache, and returns its sources."""
    store = open_cache(folder, "decode", 0.05)
    names = [folder.parent / "images" / f"{i}" for i in range(count)]
    sources = [file(name, name.name.encode()) for name in names]
    for i, source in enumerate(sources):
        assert keep(store, source, image(i, 90, 80))
    return sources


def served(folder: Path, sources: list[Path]) -> int:
    """Opens the cache, compares what it serves, and returns how much; -1 if it is refused."""
    words = ""
    hits = 0
    try:
        store = open_cache(folder, "decode", 0.05)
        for i, source in enumerate(sources):
            found = store.get(source)
            if found is not None:
                np.testing.assert_array_equal(found, image(i, 90, 80))
                hits += 1
    except DataError as error:
        words = str(error)
    assert ("damaged" in words and "delete the folder" in words) or not words
    return -1 if words else hits


@pytest.mark.parametrize("size", [1, 100, 4096, 8191, 8192, 12288, 100_000, 200_001])
def test_a_cut_file_is_refused(tmp_path: Path, size: int) -> None:
    sources = filled(tmp_path / "cache")
    os.truncate(tmp_path / "cache" / "data.mdb", size)
    assert served(tmp_path / "cache", sources) == -1


def test_an_emptied_file_is_a_new_cache(tmp_path: Path) -> None:
    sources = filled(tmp_path / "cache")
    os.truncate(tmp_path / "cache" / "data.mdb", 0)
    assert served(tmp_path / "cache", sources) == 0


@pytest.mark.parametrize("seed", range(4))
def test_garbage_in_the_file_is_never_a_pixel(tmp_path: Path, seed: int) -> None:
    sources = filled(tmp_path / "cache")
    data = tmp_path / "cache" / "data.mdb"
    good = data.read_bytes()
    assert served(tmp_path / "cache", sources) == 12
    draws = np.random.default_rng(seed)
    results = []
    for turn in range(60):
        bad = bytearray(good)
        # Short and long runs, in the tree's pages (the first and the last) and anywhere.
        length = int(draws.choice([1, 8, 300, 5000]))
        at = int(draws.integers(0, [len(bad), 16384][turn % 2] - length))
        bad[at : at + length] = draws.bytes(length)
        data.write_bytes(bad)
        results.append(served(tmp_path / "cache", sources))
    assert {-1, 11, 12} <= set(results)  # refused; an image missed; in what nothing uses


def test_a_damaged_record_is_a_miss(tmp_path: Path) -> None:
    (source,) = filled(tmp_path / "cache", 1)
    data = tmp_path / "cache" / "data.mdb"
    good = data.read_bytes()
    path = os.fsencode(source)
    ends = [at for at in range(len(good)) if good.startswith(path, at)]
    assert ends
    bad = bytearray(good)
    for at in ends:  # height and width change places: the pixels would still fit
        bad[at - 16 : at - 8] = good[at - 12 : at - 8] + good[at - 16 : at - 12]
    data.write_bytes(bad)
    assert served(tmp_path / "cache", [source]) == 0


def test_an_image_is_compared_only_the_first_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = filled(tmp_path / "cache")
    store = open_cache(tmp_path / "cache", "decode", 0.05)
    compared: list[int] = []
    true = module.zlib.crc32
    monkeypatch.setattr(
        module.zlib, "crc32", lambda data: [compared.append(len(data)), true(data)][1]
    )
    for _ in range(3):
        for source in sources:
            assert store.get(source) is not None
    assert sum(size == 90 for size in compared) == len(sources)  # a memoryview's rows


def test_a_cache_left_in_order_is_not_walked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = pytest.importorskip("lmdb.verify")
    sources = filled(tmp_path / "cache")
    walked: list[object] = []
    true = verify.verify
    monkeypatch.setattr(verify, "verify", lambda path: [walked.append(path), true(path)][1])
    assert served(tmp_path / "cache", sources) == 12
    assert not walked
    os.utime(tmp_path / "cache" / "data.mdb", ns=(LONG_AGO, LONG_AGO))
    assert served(tmp_path / "cache", sources) == 12
    assert len(walked) == 1


def test_a_walk_that_another_process_disturbs_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = pytest.importorskip("lmdb.verify")
    sources = filled(tmp_path / "cache")
    os.utime(tmp_path / "cache" / "data.mdb", ns=(LONG_AGO, LONG_AGO))
    found = [["page 7 is torn"], []]
    monkeypatch.setattr(verify, "verify", lambda path: found.pop(0))
    assert served(tmp_path / "cache", sources) == 12
    assert not found


def test_a_full_disk_keeps_nothing_more(tmp_path: Path) -> None:
    """As the system says it where a file may not grow."""
    lmdb = pytest.importorskip("lmdb")
    sources = filled(tmp_path / "cache", 2)
    store = open_cache(tmp_path / "cache", "decode", 0.05)

    def full(work: object, *, write: bool = False) -> None:
        raise lmdb.DiskError("mdb_txn_commit: No space left on device")

    store._store.run = full  # type: ignore[attr-defined]
    assert not keep(store, sources[0], image(0))
    assert store.full
    del store._store.run  # type: ignore[attr-defined]
    del store
    assert served(tmp_path / "cache", sources) == 2
