"""A recipe's `cache`: the same pixels, the files read once, whoever loads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import augpipe
from augpipe.data import cached
from augpipe.data.dataset import FolderImages
from augpipe.data.processes import forks
from augpipe.errors import AugpipeError, RecipeError, UsageError
from tests.harness import photo

pytestmark = pytest.mark.skipif(not forks(), reason="forks")

COUNT = 11
WORKERS = [("threads", 0), ("threads", 2), ("processes", 0), ("processes", 1), ("processes", 2)]
BOTH = [("threads", 2), ("processes", 2)]
WHERES = ["memory", "folder"]
RANDOM = [{"random_resized_crop": {"size": 32}}, {"horizontal_flip": {"p": 0.5}}]
RESIZED = [{"resize": 40}, *RANDOM]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Photos in two classes: JPEGs of several sizes, a grey one, and a PNG with alpha."""
    for index in range(COUNT):
        image = Image.fromarray(photo(height=60 + 5 * index, width=90))
        path = tmp_path / "in" / ("even", "odd")[index % 2] / f"{index:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        match index:
            case 3:
                image.convert("L").save(path)
            case 4:
                image.convert("RGBA").save(path.with_suffix(".png"))
            case _:
                image.rotate(17 * index).save(path, quality=90)
    for path in (tmp_path / "in").rglob("*.*"):
        os.utime(path, (10**9, 10**9))  # else the content is looked at, it may yet change
    return tmp_path / "in"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Any:
    """How many files were read to be decoded, in this process and those it forks."""
    count = multiprocessing.get_context("fork").Value("i", 0)
    original = cached.read

    def read(path: Path) -> bytes:
        with count.get_lock():
            count.value += 1
        return original(path)

    monkeypatch.setattr(cached, "read", read)
    return count


def load(sample: list[Any], where: Any = None, **more: Any) -> Any:
    cache = {} if where is None else {"cache": where}
    return augpipe.load({"version": 1, "seed": 3, "sample": sample, **cache, **more})


def at(where: str, tmp_path: Path) -> str:
    return where if where == "memory" else str(tmp_path / "cache")


def seen(loader: Any) -> list[Any]:
    """An epoch's images, as bytes, and targets."""
    return [
        (image.numpy().tobytes(), int(target))
        for images, targets in loader
        for image, target in zip(images, targets, strict=True)
    ]


def options(backend: str, workers: int, **more: Any) -> dict[str, Any]:
    own = {"backend": backend, "workers": workers, "shuffle": False}
    return {**own, "batch_size": 4, "scaled_decoding": False, **more}


@pytest.mark.parametrize(("backend", "workers"), WORKERS)
@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("sample", [RANDOM, RESIZED])
def test_pixels_are_those_of_the_images_one_by_one(
    folder: Path, tmp_path: Path, where: str, backend: str, workers: int, sample: list[Any]
) -> None:
    pipe = load(sample, at(where, tmp_path))
    plain = load(sample)
    images = FolderImages(folder)
    loader = pipe.loader(folder, **options(backend, workers))
    without = plain.loader(folder, **options(backend, workers))
    for epoch in range(3):
        expected = [
            (pipe(images[i][0], index=i, epoch=epoch).transpose(2, 0, 1).tobytes(), images[i][1])
            for i in range(COUNT)
        ]
        assert seen(loader) == expected
        if sample is RANDOM:  # where only decoding is kept, nothing else is done apart
            assert seen(without) == expected
    assert loader.cache.entries == COUNT
    assert not loader.cache.full


@pytest.mark.parametrize(("backend", "workers"), WORKERS)
@pytest.mark.parametrize("where", WHERES)
def test_files_are_read_in_the_first_epoch_alone(
    folder: Path, tmp_path: Path, where: str, backend: str, workers: int, reads: Any
) -> None:
    pipe = load(RESIZED, at(where, tmp_path))
    loader = pipe.loader(folder, **options(backend, workers, shuffle=True, batch_size=2))
    for _ in range(3):
        assert len(seen(loader)) == COUNT
        assert reads.value == COUNT
    # What comes after the first draw may be another.
    again = load([*RESIZED, {"rotate": {"degrees": [-9, 9]}}], at(where, tmp_path))
    seen(again.loader(folder, **options(backend, workers)))
    assert reads.value == (COUNT if where == "folder" else 2 * COUNT)


@pytest.mark.parametrize(("backend", "workers"), BOTH)
@pytest.mark.parametrize("where", WHERES)
def test_an_edited_file_is_read_again(
    folder: Path, tmp_path: Path, where: str, backend: str, workers: int, reads: Any
) -> None:
    pipe = load(RESIZED, at(where, tmp_path))
    loader = pipe.loader(folder, **options(backend, workers))
    seen(loader)
    path = FolderImages(folder).paths[2]
    Image.new("RGB", (70, 50), (10, 200, 30)).save(path)
    os.utime(path, (10**9 + 100, 10**9 + 100))
    for epoch in (1, 2):
        expected = pipe(FolderImages(folder)[2][0], index=2, epoch=epoch)
        assert seen(loader)[2][0] == expected.transpose(2, 0, 1).tobytes()
        assert reads.value == COUNT + 1
    path.write_bytes(b"no image")
    with pytest.raises(AugpipeError, match=path.name):
        seen(loader)


def test_another_prefix_is_another_cache(folder: Path, tmp_path: Path, reads: Any) -> None:
    where = str(tmp_path / "cache")
    for count, (sample, scaled) in enumerate(
        [(RESIZED, False), (RESIZED, True), (RANDOM, True), ([{"resize": 41}, *RANDOM], True)], 1
    ):
        for backend, workers in BOTH:
            more = options(backend, workers, scaled_decoding=scaled)
            seen(load(sample, where).loader(folder, **more))
        assert reads.value == count * COUNT


@pytest.mark.parametrize(("backend", "workers"), WORKERS)
@pytest.mark.parametrize("where", WHERES)
def test_a_full_cache_warns_once_and_goes_on(
    folder: Path, tmp_path: Path, where: str, backend: str, workers: int
) -> None:
    small = {"where": at(where, tmp_path), "max_gb": {"memory": 2e-5, "folder": 1e-4}[where]}
    loader = load(RESIZED, small).loader(folder, **options(backend, workers))
    images = FolderImages(folder)
    pipe = load(RESIZED, "memory")
    for epoch in range(3):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = seen(loader)
        assert len(caught) == (epoch == 0)
        if caught:
            assert "the cache is full after" in str(caught[0].message)
            assert "cache.max_gb" in str(caught[0].message)
            assert caught[0].filename == __file__
        assert found == [
            (pipe(images[i][0], index=i, epoch=epoch).transpose(2, 0, 1).tobytes(), images[i][1])
            for i in range(COUNT)
        ]
    assert loader.cache.full
    assert 0 < loader.cache.entries < COUNT


PROGRAM = """
import hashlib, sys
import augpipe
pipe = augpipe.load(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
loader = pipe.loader(sys.argv[2], batch_size=3, backend=sys.argv[3], shuffle=False)
for _ in range(2):
    digest = hashlib.sha256(b"".join(images.numpy().tobytes() for images, _ in loader))
    print(digest.hexdigest(), loader.cache.entries, flush=True)
"""


@pytest.mark.slow
def test_programs_that_build_one_folder_at_once(folder: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"version: 1\ncache: {tmp_path / 'cache'}\nsample:\n"
        "  - resize: 40\n  - random_resized_crop: 32\n"
    )
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(recipe), str(folder), backend],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for backend in ("threads", "processes", "processes")
    ]
    for each in programs:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in programs:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    ends = [each.communicate(timeout=120) for each in programs]
    assert [errors for _, errors in ends] == [""] * 3
    assert len({out for out, _ in ends}) == 1
    first, second = ends[0][0].splitlines()
    assert first.split()[1] == second.split()[1] == str(COUNT)
    assert first.split()[0] != second.split()[0]


@pytest.mark.parametrize("where", WHERES)
def test_a_worker_killed_at_work_on_the_cache(
    folder: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the midst of putting an image there."""
    pipe = load(RESIZED, at(where, tmp_path))
    loader = pipe.loader(folder, **options("processes", 2, batch_size=1))
    main = os.getpid()
    armed = multiprocessing.get_context("fork").Value("i", 1)
    original = loader.cache._write

    def write(path: bytes, record: Any, pixels: Any) -> Any:
        if path.endswith(b"05.jpg") and armed.value and os.getpid() != main:
            armed.value = 0
            if where == "memory":
                loader.cache._lock.__enter__()
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path, record, pixels)

    monkeypatch.setattr(loader.cache, "_write", write)
    with pytest.raises(AugpipeError, match="a worker process died"):
        seen(loader)
    assert not armed.value
    for _ in range(2):
        assert len(seen(loader)) == COUNT
    assert loader.cache.entries == COUNT


@pytest.mark.parametrize(("backend", "workers"), BOTH)
def test_a_file_that_fails_is_named_and_not_kept(
    folder: Path, backend: str, workers: int, reads: Any
) -> None:
    path = FolderImages(folder).paths[1]
    path.write_bytes(path.read_bytes()[:100])
    loader = load(RESIZED, "memory").loader(folder, **options(backend, workers, on_error="skip"))
    for epoch in (1, 2):
        assert len(seen(loader)) == COUNT - 1
        (error,) = loader.skipped
        assert error.where == f"sample 1 ({path})"
        # Processes try it once more, to find how much memory a batch takes.
        assert reads.value == COUNT + (epoch - 1) + (backend == "processes")
    assert loader.cache.entries == COUNT - 1


def test_a_cache_is_for_folders() -> None:
    base = [(np.zeros((50, 50, 3), np.uint8), 0)]
    with pytest.raises(UsageError, match=r"that is for a folder .* the override cache=null"):
        load(RESIZED, "memory").loader(base)
    recipe = {"version": 1, "sample": RESIZED, "cache": "memory"}
    assert len(list(augpipe.load(recipe, ["cache=null"]).loader(base))) == 1


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        ({"wher": "memory"}, r"cache.*wher.*where"),
        ({"where": "memory", "max_gbs": 3}, r"cache.*max_gbs.*max_gb"),
        ({"where": "memory", "max_gb": 0}, r"cache.*max_gb"),
        ({"max_gb": 3}, r"cache.*where"),
        (3, r"cache"),
        ([], r"cache"),
        (True, r"cache"),
    ],
)
def test_a_cache_that_is_none_is_refused_by_name(cache: Any, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        load(RESIZED, cache)
    with pytest.raises(RecipeError, match=r"cach.*cache"):
        augpipe.load({"version": 1, "cach": "memory"})


def test_a_folder_that_cannot_be_one_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no cache, but holds"):
        load(RESIZED, str(folder)).loader(folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not a folder"):
        load(RESIZED, str(tmp_path / "file")).loader(folder)


def test_other_versions_of_what_decides_pixels_are_another_cache(
    folder: Path, tmp_path: Path, reads: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = str(tmp_path / "cache")
    seen(load(RESIZED, where).loader(folder, **options("threads", 0)))
    real = cached.version
    monkeypatch.setattr(cached, "version", lambda name: real(name) + ".1" * (name == "pillow"))
    seen(load(RESIZED, where).loader(folder, **options("threads", 0)))
    assert reads.value == 2 * COUNT


def test_a_file_edited_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "in" / "a.png"
    path.parent.mkdir()

    def write(level: int, time: int) -> None:
        Image.new("RGB", (50, 40), (level,) * 3).save(path)
        os.utime(path, (time, time))

    def read(path: Path) -> bytes:
        data = original(path)
        write(9, 10**9 + 5)
        return data

    original = cached.read
    write(200, 10**9)
    monkeypatch.setattr(cached, "read", read)
    loader = load([{"resize": 8}], "memory").loader(path.parent, **options("threads", 0))
    assert [int(images[0, 0, 0, 0]) for images, _ in loader] == [200]
    assert [int(images[0, 0, 0, 0]) for images, _ in loader] == [9]
