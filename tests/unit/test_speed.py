"""What bench measures: passes, waits, and recipes that may be faster."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from augpipe.data.dataset import FolderImages, FolderPictures
from augpipe.errors import DataError
from augpipe.pipeline import Pipeline, load
from augpipe.report.advice import Part
from augpipe.report.speed import measure
from augpipe.report.timing import Clock, Timed, TimedPicture
from augpipe.report.variants import cached, from_where, in_memory, movable, moved

SAMPLES = Path(__file__).resolve().parents[2] / "samples"
CROP = {"random_resized_crop": {"size": 24}}
NORMALIZE = {"normalize": "half"}


def pipe(sample: list, batch: list | None = None, **more) -> Pipeline:
    return load({"version": 1, "sample": sample, "batch": batch or [], **more})


def speed(sample: list, batch: list | None = None, folder: str = "photos", **more):
    return measure(pipe(sample, batch, **more), SAMPLES / folder, 0.01, workers=0)


def names(done) -> list[str]:
    return [name for name, _ in done.parts]


# ---------------------------------------------------------------- passes


def test_a_row_for_each_pass_of_both_sections() -> None:
    threads, others = cv2.getNumThreads(), torch.get_num_threads()
    torch.set_num_threads(others + 1)
    try:
        done = speed([CROP], ["rotate", "mixup", "hue", NORMALIZE])
        assert (cv2.getNumThreads(), torch.get_num_threads()) == (threads, others + 1)
    finally:
        torch.set_num_threads(others)
    assert names(done) == [
        "decode",
        "draw and compose",
        "1 warp: random_resized_crop#0",
        "make a batch",
        "batch 1 warp: rotate#0",
        "batch 2 mix: mixup#0",
        "batch 3 colour matrix: hue#0, normalize#0",
    ]
    assert not done.unmeasured
    assert all(ms > 0 for _, ms in done.parts)
    assert done.rounds >= 3
    assert f"{1000 / done.total:,.0f} images/s in one thread" in str(done)


def test_normalizing_stands_with_the_pass_it_is_folded_into() -> None:
    done = speed([CROP, "saturation", NORMALIZE])
    assert "2 colour matrix: saturation#0, normalize#0" in names(done)


def test_another_librarys_transform_is_a_pass() -> None:
    done = speed([CROP, "hue", "albumentations.RandomFog", "rotate"])
    assert names(done)[2:6] == [
        "1 warp: random_resized_crop#0",
        "2 colour matrix: hue#0",
        "3 other library: albumentations.RandomFog#0",
        "4 warp: rotate#0",
    ]
    assert all(ms > 0 for _, ms in done.parts)


@pytest.mark.parametrize(
    ("sample", "batch", "why"),
    [
        ({"resize": 40}, "mosaic", r"the images differ in size: \d+ × \d+, "),
        (CROP, "copy_paste", "copy_paste#0: pastes objects, but"),
    ],
)
def test_a_batch_section_that_is_not_measured_is_said(sample, batch: str, why: str) -> None:
    done = speed([sample], ["horizontal_flip", batch])
    assert [name.split(":")[0] for name in names(done)] == [
        "decode",
        "draw and compose",
        "1 warp",
        "make a batch",
    ]
    line = rf"\nnot measured: the batch section \(horizontal_flip, {batch}\): {why}"
    assert re.search(line, str(done))
    assert done.unloaded
    assert not done.figures.loads
    assert f"not loaded: {done.unloaded}" in str(done)


def test_a_pass_does_what_the_loader_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock stands beside the work, and does not change it."""
    pictures = FolderPictures(FolderImages(SAMPLES / "photos"), scaled=True)
    own = pipe([CROP, "color_jitter", "albumentations.Blur", {"rotate": {"p": 0.5}}, NORMALIZE])
    rooms = []

    def room(shape, dtype):
        rooms.append(np.empty(shape, dtype))
        return rooms[-1]

    timed = Timed.of(own, pictures)
    timed._room = room  # type: ignore[assignment]
    indices = list(range(len(pictures)))
    timed.round(indices, epoch=5)
    expected, _ = own.stack([pictures[i] for i in indices], indices, 5)
    (got,) = rooms
    np.testing.assert_array_equal(got, expected)
    assert timed.size == (24, 24)


def test_decoding_in_a_warp_counts_as_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that jumps a second in decoding, and stands still elsewhere."""
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    pictures = FolderPictures(FolderImages(SAMPLES / "photos"), scaled=True)
    kind = type(pictures[0][0])
    part, reduced = kind.part, kind.reduced

    def slow(real):
        def decode(*args):
            nonlocal now
            now += 1.0
            return real(*args)

        return decode

    monkeypatch.setattr(kind, "part", slow(part))
    monkeypatch.setattr(kind, "reduced", slow(reduced))
    timed = Timed.of(pipe([{"resize": [20, 20]}, "hue"]), pictures)
    files = [path.suffix for path in pictures.images.paths]
    spent = timed.round(list(range(len(files))), 0).spent
    assert spent.pop("decode") == files.count(".jpg") > 5
    assert set(spent.values()) == {0.0}
    clock = Clock({"decode": 0.0})
    index = files.index(".jpg")
    TimedPicture(pictures[index][0], clock).reduced(1, (0.0, 0.0, 9.0, 9.0))
    assert clock.halved == 1


def test_parts_are_of_the_middle_half_of_the_rounds() -> None:
    timed = Timed.of(pipe(["hue"]), FolderPictures(FolderImages(SAMPLES / "photos"), True))
    for seconds in (1.0, 2.0, 4.0, 100.0):
        clock = timed.clock()
        clock.spent["decode"] = seconds
        timed.clocks.append(clock)
    assert timed.parts(10)[0] == Part("decode", 300.0, "decode")
    assert {part.ms for part in timed.parts(10)[1:]} == {0.0}


def test_a_cache_is_read_and_is_never_on_disk(tmp_path: Path) -> None:
    done = speed([{"resize": 40}, CROP], cache=str(tmp_path / "cache"))
    assert not list(tmp_path.iterdir())
    assert names(done)[:3] == [
        "read from the cache",
        "draw and compose",
        "2 warp: random_resized_crop#0",
    ]
    assert done.once is not None
    assert "once an image, then kept" in str(done)
    shapes = [image.shape for image, _ in FolderPictures(FolderImages(SAMPLES / "photos"), False)]
    kept = sum(40 * (40 * max(shape[:2]) // min(shape[:2])) * 3 for shape in shapes)
    assert done.figures.room is not None
    # Objects take some memory too, in small images a tenth.
    assert kept < done.figures.room.needs * 1e9 < 1.2 * kept
    assert done.figures.room.has == 10.0


def test_an_error_names_the_image(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "9.png")
    with pytest.raises(DataError, match=r"9\.png: random_crop#0: "):
        measure(pipe([{"random_crop": 20}]), tmp_path, 0.01)


# ---------------------------------------------------------------- waits


def test_the_loader_is_measured_as_asked_and_otherwise() -> None:
    own = pipe([CROP])
    done = measure(own, SAMPLES / "garments", 0.05, workers=1)
    first, *others = done.figures.loads
    assert first.workers == 1
    tried = {(load.workers, load.backend) for load in others}
    assert all(load.ms > 0 for load in done.figures.loads)
    assert {each for each in tried if each[0] == 1} <= {(1, "threads"), (1, "processes")}
    assert {workers for workers, _ in tried} - {1} == ({2} if done.figures.cores > 1 else set())


# ---------------------------------------------------------------- what may be faster


@pytest.mark.parametrize(
    ("sample", "starts", "why"),
    [
        ([CROP, "color_jitter", "cutout", NORMALIZE], [1, 2, 3], ""),
        ([CROP, "color_jitter", "rotate"], [1, 2], ""),
        ([CROP, "horizontal_flip", "hue"], [1, 2], ""),
        ([CROP, "hue", {"center_crop": 20}, "gamma", {"one_of": ["hue", "rotate"]}], [3, 4], ""),
        ([CROP, "hue", "albumentations.Blur", "gamma"], [3], ""),
        ([CROP, "rand_augment"], [1], ""),  # of which one pass joins the crop's
        ([], [], "the sample section is empty"),
        (["hue", CROP], [], "after `sample[1] random_resized_crop`, which must stay, no line "),
        (
            [CROP, "horizontal_flip"],
            [],
            "`sample[1] horizontal_flip` shares a pass with `sample[0] random_resized_crop`, which",
        ),
        ([CROP, "hue", {"one_of": ["gamma", "albumentations.Blur"]}], [], "after `sample[2] one_"),
    ],
)
def test_which_lines_may_move(sample: list, starts: list[int], why: str) -> None:
    found, said = movable(pipe(sample), (24, 24))
    assert (found, said[: len(why)]) == (starts, why)
    assert bool(said) is not bool(found)


def test_lines_move_only_to_batches() -> None:
    why = "the images it leaves differ in size, and are no batch"
    assert movable(pipe(["hue"]), None) == ([], why)


def test_images_of_one_size_may_be_cropped_in_the_batch() -> None:
    own = pipe([CROP, "hue"])
    assert movable(own, (24, 24))[0] == [1]
    assert movable(own, (24, 24), alike=True)[0] == [0, 1]
    assert movable(pipe([CROP, {"resize": 30}]), (30, 30), alike=True)[1]


def test_what_is_cached_does_not_move() -> None:
    own = pipe([{"equalize": {"p": 1}}, "hue"], cache="memory")
    assert movable(own, (24, 24))[0] == [1]


def test_moving_the_dear_lines_is_enough() -> None:
    own = pipe([CROP, "hue", "gaussian_blur", "cutout"])
    assert from_where(own, [1, 2, 3], [9.0, 1.0, 5.0, 0.1]) == 2
    assert from_where(own, [1, 2, 3], [9.0, 5.0, 1.0, 0.1]) == 1
    assert from_where(own, [1, 2, 3], [9.0, 0.1, 0.1, 5.0]) == 3
    # The flip is done in the crop's pass: to move it too saves nothing more.
    assert from_where(pipe([CROP, "horizontal_flip", "hue"]), [1, 2], [9.0, 1.0]) == 2


def test_a_moved_recipe_gives_the_same_pixels() -> None:
    own = pipe([CROP, "horizontal_flip", "hue"], ["invert"], seed=3)
    other = Pipeline(moved(own.recipe, 2))
    assert [op.name() for op in other.recipe.batch] == ["hue", "invert"]
    image = np.asarray(Image.open(SAMPLES / "photos" / "chelsea.jpg"))
    both = []
    for each in (own, other):
        images = torch.from_numpy(each(image, index=7).transpose(2, 0, 1)[None].copy())
        both.append(each.batch(images, index=[7]).int())
    assert (both[0] - both[1]).abs().max() <= 1  # rounded once more, between the sections


@pytest.mark.parametrize(
    ("sample", "size", "short", "side"),
    [
        ([{"random_resized_crop": 224}], (224, 224), 375, 256),
        ([{"random_resized_crop": 224}], (224, 224), 256, None),
        ([{"resize": 300}, {"random_crop": 224}], (224, 224), 375, None),
        (["equalize", {"random_resized_crop": 28}], (28, 28), 375, 32),
        (["hue"], None, 375, None),
    ],
)
def test_what_a_cache_would_keep(sample: list, size, short: int, side: int | None) -> None:
    recipe, found = cached(pipe(sample).recipe, size, short)
    assert found == side
    assert recipe.cache is not None
    assert recipe.cache.where == "memory"
    first = [] if side is None else [{"resize": {"size": side}}]
    before = [op.item() for op in pipe(sample).recipe.sample]
    assert [op.item() for op in recipe.sample] == [*first, *before]


def test_in_memory_leaves_a_recipe_without_a_cache_alone() -> None:
    recipe = pipe(["hue"]).recipe
    assert in_memory(recipe) is recipe
