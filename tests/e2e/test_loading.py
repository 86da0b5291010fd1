"""One recipe and one seed: the same bytes whoever loads, in whatever batches, after a restart."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    Subset,
    WeightedRandomSampler,
)

import augpipe
from augpipe.data import threads as pool
from augpipe.data.dataset import FolderImages, RepeatedIndexError, image_tensor
from augpipe.data.loader import Loader
from augpipe.errors import DataError, UsageError
from tests.harness import interrupt

ROOT = Path(__file__).resolve().parents[2]
GARMENTS = ROOT / "samples" / "garments"
COUNT = 70
EPOCH = 3
RECIPE = {
    "version": 1,
    "seed": 7,
    "sample": [
        {"random_resized_crop": {"size": 28, "scale": [0.6, 1.0]}},
        {"horizontal_flip": {"p": 0.5}},
        {"rotate": {"degrees": [-15, 15]}},
        {"color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}},
    ],
}


class Garments(Dataset[Any]):
    """The first images of the samples; the target of each is its index."""

    def __init__(self, count: int = COUNT) -> None:
        images = FolderImages(GARMENTS)
        self.images = [images[3 * index][0] for index in range(count)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Any:
        return self.images[index], index


@pytest.fixture(scope="module")
def pipe() -> Any:
    return augpipe.load(RECIPE)


@pytest.fixture(scope="module")
def base() -> Garments:
    return Garments()


@pytest.fixture(scope="module")
def expected(pipe: Any, base: Garments) -> dict[int, bytes]:
    """Each image's pixels, when it is augmented alone."""
    alone = {i: pipe(base[i], index=i, epoch=EPOCH)[0].tobytes() for i in range(COUNT)}
    assert len(set(alone.values())) > COUNT - 5
    return alone


def pixels(image: Tensor) -> bytes:
    """The bytes of the (H, W, C) array that the image of a batch was."""
    return image.permute(1, 2, 0).contiguous().numpy().tobytes()


def seen(batches: Any) -> dict[int, bytes]:
    """Each sample's pixels, by its index, in the order of delivery."""
    return {
        int(index): pixels(image)
        for images, targets in batches
        for image, index in zip(images, targets, strict=True)
    }


def seen_items(batches: Any) -> dict[int, bytes]:
    return {index: image.tobytes() for batch in batches for image, index in batch}


# --- the same bytes: processes ----------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("workers", "batch_size"), [(0, 1), (0, 7), (0, 64), (1, 7), (2, 7), (4, 7), (2, 64)]
)
def test_forked_workers_give_the_bytes_of_one_by_one(
    pipe: Any,
    base: Garments,
    expected: dict[int, bytes],
    workers: int,
    batch_size: int,
    shuffle: bool,
) -> None:
    data = pipe.dataset(base)
    data.set_epoch(EPOCH)
    context = "fork" if workers else None
    loader = DataLoader(
        data,
        batch_size,
        shuffle=shuffle,
        num_workers=workers,
        collate_fn=list,
        multiprocessing_context=context,
    )
    got = seen_items(loader)
    assert got == expected
    assert (list(got) == sorted(got)) is not shuffle


@pytest.mark.slow
def test_spawned_workers_give_the_bytes_of_one_by_one(
    pipe: Any, base: Garments, expected: dict[int, bytes]
) -> None:
    data = pipe.dataset(base)
    loader = DataLoader(
        data,
        7,
        num_workers=2,
        collate_fn=list,
        multiprocessing_context="spawn",
        persistent_workers=True,
    )
    assert not set(seen_items(loader).values()) & set(expected.values())
    data.set_epoch(EPOCH)
    assert seen_items(loader) == expected


def test_the_rest_of_an_epoch_is_the_same_in_a_new_dataset(
    pipe: Any, base: Garments, expected: dict[int, bytes]
) -> None:
    order = np.argsort(np.arange(COUNT) * 29 % COUNT)
    data = pipe.dataset(base)
    data.set_epoch(EPOCH)
    rest = DataLoader(Subset(data, order[33:].tolist()), 7, collate_fn=list)
    assert seen_items(rest) == {int(i): expected[int(i)] for i in order[33:]}


def test_a_forgotten_epoch_is_an_error(pipe: Any, base: Garments) -> None:
    loader = DataLoader(pipe.dataset(base), 64)
    list(loader)
    with pytest.raises(RepeatedIndexError, match="set_epoch"):
        list(loader)


def test_a_pipeline_as_someones_transform(pipe: Any) -> None:
    class Own(Garments):
        def __getitem__(self, index: int) -> Any:
            return pipe(Image.fromarray(self.images[0])).tobytes(), index

    def run() -> list[bytes]:
        torch.manual_seed(5)
        loader = DataLoader(
            Own(24), 4, num_workers=2, collate_fn=list, multiprocessing_context="fork"
        )
        return [image for _ in range(2) for batch in loader for image, _ in batch]

    first = run()
    assert len(set(first)) > 44  # one image, in two workers and two epochs
    assert run() == first


# --- the same bytes: threads ------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(
    ("backend", "workers", "batch_size"),
    [
        *[
            ("threads", *each)
            for each in ((0, 1), (0, 64), (1, 7), (2, 1), (2, 7), (4, 7), (4, 64))
        ],
        *[("processes", *each) for each in ((0, 7), (1, 64), (2, 7), (2, 64))],
    ],
)
def test_workers_give_the_bytes_of_one_by_one(
    pipe: Any,
    base: Garments,
    expected: dict[int, bytes],
    backend: str,
    workers: int,
    batch_size: int,
    shuffle: bool,
) -> None:
    options = {"backend": backend, "workers": workers, "batch_size": batch_size}
    loader = pipe.loader(base, epoch=EPOCH, shuffle=shuffle, **options)
    assert len(loader) == -(-COUNT // batch_size)
    got = seen(loader)
    assert got == expected
    assert (list(got) == sorted(got)) is not shuffle


def test_the_order_is_that_of_the_seed_and_the_epoch(pipe: Any, base: Garments) -> None:
    def order(**options: Any) -> list[int]:
        torch.manual_seed(len(options))
        return list(seen(pipe.loader(base, **options)))

    assert order(epoch=1) == order(epoch=1, workers=0, batch_size=7)
    assert order(epoch=1) != order(epoch=2)


@pytest.mark.parametrize("batch_size", [7, 10])
def test_threads_resume_in_mid_epoch_at_the_next_batch(
    pipe: Any, base: Garments, expected: dict[int, bytes], batch_size: int
) -> None:
    whole = list(seen(pipe.loader(base, batch_size=7, epoch=EPOCH)).items())
    first = pipe.loader(base, batch_size=7, epoch=EPOCH)
    batches = iter(first)
    done = seen(next(batches) for _ in range(4))
    state = first.state_dict()
    assert state["samples"] == 28
    second = pipe.loader(base, batch_size=batch_size, workers=1)
    second.load_state_dict(state)
    assert second.epoch == EPOCH
    assert [*done.items(), *seen(second).items()] == whole
    assert second.epoch == EPOCH + 1
    assert second.state_dict() == {**state, "epoch": EPOCH + 1, "samples": 0}


def test_a_folder_is_loaded_as_imagefolder_does(pipe: Any) -> None:
    folder = pipe.loader(GARMENTS, batch_size=100, shuffle=False)
    batches = list(folder)
    targets = torch.cat([targets for _, targets in batches])
    assert [len(images) for images, _ in batches] == [100, 100, 40]
    assert batches[0][0].shape == (100, 3, 28, 28)
    assert batches[0][0].dtype == torch.uint8
    assert targets.tolist() == folder.base.targets == sorted(folder.base.targets)
    assert targets.dtype == torch.int64
    assert folder.base.classes[:2] == ("ankle_boot", "bag")


# --- the loader by itself ---------------------------------------------------------------


def same(items: Sequence[Any], indices: Sequence[int], epoch: int) -> list[Any]:
    return list(items)


def keyed(items: Sequence[Any], indices: Sequence[int], epoch: int) -> list[Any]:
    """Gives each image its key and its epoch for pixels."""
    return [
        (np.array([[[index, epoch]]]), target)
        for (_, target), index in zip(items, indices, strict=True)
    ]


class Targets(Dataset[Any]):
    """Small black images with these targets."""

    def __init__(self, targets: Sequence[Any], shape: tuple[int, ...] = (2, 3, 3)) -> None:
        self.targets = targets
        self.shape = shape

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        return np.zeros(self.shape, np.uint8), self.targets[index]


def stacked(apply: Any) -> Any:
    """Makes one array of the images that `apply` returns."""

    def stack(items: Sequence[Any], keys: Sequence[int], epoch: int, room: Any) -> Any:
        done = apply(items, keys, epoch)
        images = [image_tensor(0, item[0]).numpy() for item in done]
        out = room((len(images), *images[0].shape), images[0].dtype)
        return np.stack(images, out=out), [(None, target) for _, target in done]

    return stack


def plain(base: Any, apply: Any = same, **options: Any) -> Loader:
    return Loader(base, stacked(apply), **{"seed": 0, "backend": "threads", **options})


def epochs(loader: Loader) -> set[int]:
    return {int(epoch) for images, _ in loader for epoch in images[:, 1, 0, 0]}


def test_each_iteration_is_the_next_epoch() -> None:
    loader = plain(Targets(range(5)), keyed, epoch=2)
    assert loader.epoch == 2
    assert epochs(loader) == {2}
    assert epochs(loader) == {3}
    for _ in loader:
        break
    assert epochs(loader) == {5}
    loader.set_epoch(1)
    assert epochs(loader) == {1}
    assert loader.epoch == 2


def test_drop_last_and_length() -> None:
    for count, drop, sizes in [(10, False, [4, 4, 2]), (10, True, [4, 4]), (3, True, [])]:
        loader = plain(Targets(range(count)), batch_size=4, drop_last=drop)
        assert [len(images) for images, _ in loader] == sizes
        assert len(loader) == len(sizes)


def test_an_empty_dataset_gives_no_batch() -> None:
    assert list(plain(Targets([]))) == []


def test_a_state_after_the_last_batch_leaves_no_batch_and_then_the_next_epoch() -> None:
    first = plain(Targets(range(5)), keyed, batch_size=4)
    batches = iter(first)
    next(batches)
    next(batches)
    state = first.state_dict()
    assert (state["epoch"], state["samples"]) == (0, 5)
    second = plain(Targets(range(5)), keyed, batch_size=4)
    second.load_state_dict(state)
    assert epochs(second) == set()
    assert epochs(second) == {1}
    assert list(batches) == []
    assert first.state_dict()["epoch"] == 1


def test_only_the_iteration_begun_last_says_where_the_loader_stands() -> None:
    loader = plain(Targets(range(5)), batch_size=2)
    old = iter(loader)
    next(old)
    new = iter(loader)
    next(new)
    assert len(list(old)) == 2
    assert (loader.state_dict()["epoch"], loader.state_dict()["samples"]) == (1, 2)


def test_a_state_of_something_else_is_refused() -> None:
    state = plain(Targets(range(5))).state_dict()
    with pytest.raises(UsageError, match="the saved state has length 5, this loader has 6"):
        plain(Targets(range(6))).load_state_dict(state)
    with pytest.raises(UsageError, match="has shuffle True, this loader has False"):
        plain(Targets(range(5)), shuffle=False).load_state_dict(state)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": None}, "has no epoch"),
        ({"samples": None}, "has no samples"),
        ({"seed": None}, "has no seed"),
        ({"samples": "5"}, "samples '5': not whole numbers"),
        ({"epoch": 1.5}, r"epoch 1\.5"),
        ({"epoch": -1}, "epoch -1"),
        ({"samples": 6}, "samples 6: 0 to 5"),
        ({"samples": -1}, "samples -1: 0 to 5"),
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, Any], message: str) -> None:
    loader = plain(Targets(range(5)))
    state = {k: v for k, v in {**loader.state_dict(), **change}.items() if v is not None}
    with pytest.raises(UsageError, match=message):
        loader.load_state_dict(state)
    with pytest.raises(UsageError, match="not list"):
        loader.load_state_dict([1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize("device", ["gpu", "cuda:99", 3.5, "cpu:x"])
def test_a_device_that_is_none_is_named(device: Any) -> None:
    with pytest.raises(UsageError, match=f"device '{device}' cannot be used: ."):
        plain(Targets(range(5)), device=device)


def test_a_sampler_without_a_length_is_refused() -> None:
    with pytest.raises(UsageError, match="sampler generator has no length"):
        plain(Targets(range(5)), sampler=(i for i in range(5)))


def test_a_sampler_gives_the_order_and_is_told_the_epoch() -> None:
    base = Targets(range(10))
    sampler = DistributedSampler(base, num_replicas=2, rank=1)  # type: ignore[var-annotated]
    loader = plain(base, sampler=sampler, batch_size=4, epoch=6)
    assert len(loader) == 2
    for epoch in (6, 7):
        sampler.set_epoch(epoch)
        order = list(sampler)
        sampler.set_epoch(0)
        assert [int(i) for _, targets in loader for i in targets] == order
    with pytest.raises(UsageError, match="not from both"):
        plain(base, sampler=sampler, shuffle=True)


def test_an_index_that_a_sampler_repeats_is_augmented_anew() -> None:
    sampler = WeightedRandomSampler([0.0, 1.0], 5)
    images, targets = next(iter(plain(Targets(range(2)), keyed, sampler=sampler)))
    assert targets.tolist() == [1, 1, 1, 1, 1]
    assert images[:, 0, 0, 0].tolist() == [1, 3, 5, 7, 9]


@pytest.mark.parametrize(
    ("targets", "dtype"),
    [
        ([1, 2], torch.int64),
        ([np.int32(1), np.int32(2)], torch.int32),
        ([0.5, 1.5], torch.float64),
        ([torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])], torch.float32),
        ([np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8)], torch.uint8),
    ],
)
def test_targets_that_are_numbers_become_a_tensor(targets: list[Any], dtype: torch.dtype) -> None:
    _, got = next(iter(plain(Targets(targets), shuffle=False)))
    assert got.dtype == dtype
    assert torch.equal(got, torch.as_tensor(np.array(targets)).to(dtype))


@pytest.mark.parametrize("targets", [["a", "b"], [{"n": 1}, {"n": 2}], [(1, 2), (3, 4)], [1, None]])
def test_other_targets_stay_a_list(targets: list[Any]) -> None:
    _, got = next(iter(plain(Targets(targets), shuffle=False)))
    assert got == targets


@pytest.mark.parametrize(
    "targets",
    [
        [np.zeros(2), np.zeros(3)],
        [torch.zeros(2), torch.zeros(3)],
        [np.array(["a"]), np.array(["b"])],
        [np.array([None]), np.array([{}])],
        [1, np.str_("b")],
    ],
)
def test_targets_that_do_not_collate_stay_a_list(targets: list[Any]) -> None:
    _, got = next(iter(plain(Targets(targets), shuffle=False)))
    assert got is not targets
    assert all(a is b for a, b in zip(got, targets, strict=True))


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (4, 5)),
        Image.new("L", (4, 5)),
        np.zeros((5, 4), np.float32),
        np.zeros((5, 4, 3), np.uint8)[::-1],
        torch.zeros(3, 5, 4),
        torch.zeros(5, 4),
    ],
)
def test_images_of_every_kind_become_channels_first(image: Any) -> None:
    images, _ = next(iter(plain([(image, 0), (image, 1)])))
    assert images.shape in ((2, 3, 5, 4), (2, 1, 5, 4))
    assert type(images) is Tensor


def test_a_folders_images_become_rgb(tmp_path: Path) -> None:
    for mode, color in [("L", 7), ("RGBA", (1, 2, 3, 4)), ("RGB", (4, 5, 6))]:
        Image.new(mode, (4, 5), color).save(tmp_path / f"{mode}.png")
    images, targets = next(iter(plain(tmp_path, shuffle=False)))
    assert images[:, :, 0, 0].tolist() == [[7, 7, 7], [4, 5, 6], [1, 2, 3]]
    assert targets.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(
    ("base", "options", "message"),
    [
        ([(0, 0)], {"batch_size": 0}, "batch_size 0"),
        ([(0, 0)], {"workers": -1}, "workers -1"),
        ([(0, 0)], {"on_error": "stop"}, "on_error 'stop'"),
        ([(0, 0)], {"epoch": -1}, "epoch -1"),
        ([(0, 0)], {"split": "val"}, "only a folder has splits"),
        ("/no/such/folder", {}, "no such file or folder"),
        (iter([]), {}, "list_iterator is none"),
    ],
)
def test_bad_arguments_are_refused(base: Any, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plain(base, **options)


def test_a_dataset_of_something_else_is_refused() -> None:
    for on_error in ("raise", "skip"):
        with pytest.raises(UsageError, match=r"sample 0 is no \(image, target\) but dict"):
            list(plain([{"image": 1}], on_error=on_error))


# --- what fails -------------------------------------------------------------------------


class Faulty(Targets):
    """Samples 3 and 8 cannot be loaded."""

    def __getitem__(self, index: int) -> Any:
        if index in (3, 8):
            raise DataError(f"{index}.png", "image is truncated")
        return super().__getitem__(index)


def threads() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("augpipe")]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failing_sample_is_named_after_the_batches_before_it(workers: int) -> None:
    loader = plain(Faulty(range(10)), batch_size=2, workers=workers, shuffle=False)
    batches = iter(loader)
    assert next(batches)[1].tolist() == [0, 1]
    with pytest.raises(DataError, match=r"sample 3 \(3.png\): image is truncated"):
        next(batches)
    assert loader.state_dict()["samples"] == 2
    assert not threads()


@pytest.mark.parametrize("workers", [0, 2])
def test_failing_samples_may_be_left_out(workers: int) -> None:
    loader = plain(Faulty(range(10)), batch_size=2, workers=workers, shuffle=False, on_error="skip")
    for _ in range(2):
        got = [targets.tolist() for _, targets in loader]
        assert got == [[0, 1], [2], [4, 5], [6, 7], [9]]
        assert [error.where for error in loader.skipped] == ["sample 3 (3.png)", "sample 8 (8.png)"]


def test_a_batch_that_fails_whole_is_left_out_and_an_epoch_is_not() -> None:
    loader = plain(Faulty(range(4)), batch_size=1, on_error="skip", shuffle=False)
    assert [targets.tolist() for _, targets in loader] == [[0], [1], [2]]

    def failing(items: Sequence[Any], indices: Sequence[int], epoch: int) -> list[Any]:
        raise ValueError("never")

    with pytest.raises(DataError, match="no sample could be loaded; the first: sample 0: ValueErr"):
        list(plain(Targets(range(4)), failing, on_error="skip", shuffle=False))


@pytest.mark.parametrize("workers", [0, 2])
def test_sizes_that_differ_are_named_with_the_remedy(workers: int) -> None:
    base = [(np.zeros((5, 4, 3)), 0), (np.zeros((5, 4, 3)), 1), (np.zeros((6, 4, 3)), 2)]
    with pytest.raises(
        DataError, match=r"sample 2: .* 6 × 4 .* sample 0 is 5 × 4 .* random_resized_crop"
    ):
        list(plain(base, shuffle=False, workers=workers))


# --- threads end ------------------------------------------------------------------------


def interrupted(loader: Loader) -> None:
    for _ in loader:
        raise KeyboardInterrupt


def test_threads_end_when_the_epoch_does() -> None:
    list(plain(Targets(range(10)), batch_size=2))
    assert not threads()


def test_threads_end_when_the_loop_breaks_off() -> None:
    loader = plain(Targets(range(100)), batch_size=2)
    for _ in loader:
        assert threads()
        break
    assert not threads()
    batches: Iterator[Any] = iter(loader)
    next(batches)
    del batches
    assert not threads()
    with pytest.raises(KeyboardInterrupt):
        interrupted(loader)
    assert not threads()


def test_threads_work_only_a_little_ahead() -> None:
    loaded = []

    class Watched(Targets):
        def __getitem__(self, index: int) -> Any:
            loaded.append(index)
            return super().__getitem__(index)

    batches = iter(plain(Watched(range(1000)), batch_size=2, workers=2, shuffle=False))
    for _ in range(3):
        next(batches)
    del batches
    assert 6 <= len(loaded) <= 2 * (3 + 2 * 2)


def test_threads_do_not_finish_a_batch_that_nobody_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = []
    gate = threading.Event()

    class Executor(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            gate.set()
            super().shutdown(wait, cancel_futures=cancel_futures)

    class Gated(Targets):
        def __getitem__(self, index: int) -> Any:
            loaded.append(index)
            assert index < 10 or gate.wait(60)
            return super().__getitem__(index)

    monkeypatch.setattr(pool, "ThreadPoolExecutor", Executor)
    batches = iter(plain(Gated(range(100)), batch_size=10, workers=1, shuffle=False))
    next(batches)
    del batches
    assert loaded[:10] == list(range(10))
    assert loaded[10:] in ([], [10])


@pytest.mark.slow
def test_ctrl_c_ends_a_program_at_once() -> None:
    program = f"""
import itertools
import augpipe
def loader():
    return augpipe.load({{"version": 1}}).loader({str(GARMENTS)!r}, batch_size=8)
held = iter(loader())
next(held)
for epoch in itertools.count():
    for batch in loader():
        if epoch == 1:
            print("ready", flush=True)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        errors = interrupt(process)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
