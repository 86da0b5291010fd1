"""Calls one at a time, drawn ahead: to the bit what they give drawn alone."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import augpipe
from augpipe import ahead
from augpipe.data.workers import CallCounter
from augpipe.errors import DataError
from augpipe.rng import stream_key

Image = NDArray[np.uint8]

RECIPE = {
    "version": 1,
    "sample": [
        {"random_resized_crop": 12},
        "horizontal_flip",
        {"rotate": {"p": 0.5}},
        {"color_jitter": {"brightness": 0.4, "hue": 0.1}},
        {"one_of": ["gaussian_blur", {"gaussian_noise": {"p": 0.5}}]},
        {"posterize": {"p": 0.1}},
        {"random_erasing": {"p": 0.3}},
        {"normalize": "imagenet"},
    ],
}
FORK = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"


def images(sizes: Sequence[tuple[int, int]]) -> list[Image]:
    noise = np.random.default_rng(0)
    return [noise.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


ALIKE = images([(20, 30)] * 150)
CHANGING = images([(20, 30)] * 12 + [(30, 20), (20, 30)] * 4 + [(16, 16)] * 90 + [(20, 30)] * 3)


def pipeline() -> augpipe.Pipeline:
    return augpipe.load(RECIPE)


def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_MOST", 1)


def equal(got: Sequence[Image], wanted: Sequence[Image]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(got, wanted, strict=True))


def keyed(pipe: augpipe.Pipeline, given: Sequence[Image], epoch: int = 0) -> list[Image]:
    return [pipe(image, index=k, epoch=epoch) for k, image in enumerate(given)]


def unkeyed(pipe: augpipe.Pipeline, given: Sequence[Image], seed: int = 3) -> list[Image]:
    torch.manual_seed(seed)
    return [pipe(image) for image in given]


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that is told how many images are drawn each time."""
    counts: list[int] = []
    real = ahead.Ahead._draw

    def draw(self: ahead.Ahead, group: ahead.Group, indices: Sequence[int]) -> Any:
        counts.append(len(indices))
        return real(self, group, indices)

    monkeypatch.setattr(ahead.Ahead, "_draw", draw)
    return counts


@pytest.mark.parametrize("given", [ALIKE, CHANGING], ids=["alike", "changing"])
@pytest.mark.parametrize("way", [keyed, unkeyed])
def test_pixels_are_those_of_one_at_a_time(
    way: Any, given: Sequence[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    got = way(pipeline(), given)
    alone(monkeypatch)
    assert equal(got, way(pipeline(), given))


def test_calls_without_an_index_take_one_number_each() -> None:
    got = unkeyed(pipeline(), ALIKE)
    torch.manual_seed(3)
    worker_seed, indices = CallCounter().next(len(ALIKE))
    seed = stream_key(pipeline().recipe.seed, "worker", str(worker_seed))
    assert equal(got, pipeline().apply(ALIKE, indices, seed=seed))


def test_epochs_and_any_order_give_the_same() -> None:
    pipe = pipeline()
    wanted = [pipeline().apply(ALIKE, range(len(ALIKE)), epoch) for epoch in range(2)]
    assert equal(keyed(pipe, ALIKE, 0) + keyed(pipe, ALIKE, 1), wanted[0] + wanted[1])
    for k in (*reversed(range(150)), *range(0, 150, 7), 3, 3, 4, 4, 5):
        assert np.array_equal(pipe(ALIKE[k], index=k), wanted[0][k])


@pytest.mark.parametrize("way", [keyed, unkeyed])
def test_what_is_foreseen_is_drawn_together(way: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = drawn(monkeypatch)
    way(pipeline(), ALIKE)
    assert counts == [1, 8, 64, 64, 64]


def test_without_torch_calls_are_foreseen_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    counts, pipe = drawn(monkeypatch), pipeline()
    got = [pipe(image) for image in ALIKE]
    assert counts == [1, 8, 64, 64, 64]
    alone(monkeypatch)
    pipe = pipeline()
    assert equal(got, [pipe(image) for image in ALIKE])


def test_random_access_draws_one_image_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    counts, pipe = drawn(monkeypatch), pipeline()
    for k in range(0, 140, 2):
        pipe(ALIKE[k], index=k)
    assert counts == [1] * 70


def test_sizes_that_change_draw_one_image_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = drawn(monkeypatch)
    keyed(pipeline(), images([(20, 30), (30, 20)] * 10))
    assert counts == [1] * 20


def test_manual_seed_begins_anew_in_the_middle_of_what_was_drawn() -> None:
    pipe = pipeline()
    first = unkeyed(pipe, ALIKE[:20])
    assert equal(unkeyed(pipe, ALIKE[:20]), first)
    assert not equal(unkeyed(pipe, ALIKE[:20], seed=4), first)


def test_others_may_draw_from_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> list[Image]:
        pipe = pipeline()
        torch.manual_seed(3)
        out = []
        for k, image in enumerate(ALIKE[:40]):
            out.append(pipe(image))
            if k % 11 == 10:
                torch.rand(1)
        return [*out, torch.rand(4).numpy()]  # and find it where it was

    got = run()
    alone(monkeypatch)
    assert equal(got, run())


def test_the_recipes_seed_and_another_are_kept_apart() -> None:
    pipe = pipeline()
    for k in range(12):
        (own,) = pipe.apply([ALIKE[0]], [k])
        (other,) = pipe.apply([ALIKE[0]], [k], seed=8)
        assert not np.array_equal(own, other)
        assert np.array_equal(other, pipeline().apply([ALIKE[0]] * 2, [k, k], seed=8)[1])


def test_threads_share_a_pipeline() -> None:
    pipe = pipeline()
    wanted = pipeline().apply(ALIKE, range(len(ALIKE)))
    got: dict[int, Image] = {}

    def work(first: int) -> None:
        for k in range(first, first + 50):
            got[k] = pipe(ALIKE[k], index=k)

    threads = [threading.Thread(target=work, args=(first,)) for first in (0, 50, 100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal([got[k] for k in range(150)], wanted)


def test_a_pickled_pipeline_goes_on() -> None:
    pipe = pipeline()
    wanted = unkeyed(pipeline(), ALIKE[:40])
    got = unkeyed(pipe, ALIKE[:20])
    once = pipeline()
    once(ALIKE[0], index=0)
    assert len(pickle.dumps(pipe)) == len(pickle.dumps(once))  # nothing drawn is in it
    pipe = pickle.loads(pickle.dumps(pipe))
    assert equal([*got, *(pipe(image) for image in ALIKE[20:40])], wanted)


def answer(pipe: augpipe.Pipeline, queue: Any) -> None:
    queue.put([pipe(image) for image in ALIKE[:10]])


def test_forked_processes_do_not_repeat_one_another() -> None:
    pipe = pipeline()
    unkeyed(pipe, ALIKE[:12])  # of the 64 that are drawn, 3 are used
    context = multiprocessing.get_context(FORK)
    queue = context.SimpleQueue()
    processes = [context.Process(target=answer, args=(pipe, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    found = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    found.append([pipe(image) for image in ALIKE[:10]])
    assert len({image.tobytes() for each in found for image in each}) == 30
    assert equal(found[2], unkeyed(pipeline(), [*ALIKE[:12], *ALIKE[:10]])[12:])


def test_the_last_index_is_taken() -> None:
    pipe = pipeline()
    for k in range(2**63 - 5, 2**63):
        assert np.array_equal(pipe(ALIKE[0], index=k), pipeline().apply([ALIKE[0]] * 2, [k, k])[0])


def test_an_image_is_not_refused_for_those_that_follow() -> None:
    recipe = {"version": 1, "sample": [{"random_crop": {"size": 24, "p": 0.3}}]}
    small = ALIKE[0]  # 20 pixels high

    def taken(pipe: augpipe.Pipeline) -> list[bool]:
        out = []
        for k in range(60):
            try:
                pipe(small, index=k)
            except DataError:
                out.append(False)
            else:
                out.append(True)
        return out

    once = [taken_alone(recipe, small, k) for k in range(60)]
    assert 0 < sum(once) < 60
    assert taken(augpipe.load(recipe)) == once


def taken_alone(recipe: dict[str, Any], image: Image, index: int) -> bool:
    try:
        augpipe.load(recipe)(image, index=index)
    except DataError:
        return False
    return True
