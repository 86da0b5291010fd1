"""Augmented datasets under a DataLoader, and the keys of calls that have no index."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import sys
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
)

from augpipe.data import dataset as module
from augpipe.data.dataset import AugmentedDataset, RepeatedIndexError, distinct_keys
from augpipe.data.workers import CallCounter
from augpipe.errors import DataError, UsageError

FORK = "fork"
SPAWN = "spawn"


class Stamp:
    """A stand-in for a pipeline: writes index and epoch beside the item."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, items: Sequence[Any], indices: Sequence[int], epoch: int) -> list[Any]:
        self.calls.append(len(items))
        if 13 in items:
            raise ValueError("an unlucky number")
        return [(item, index, epoch) for item, index in zip(items, indices, strict=True)]


class Numbers(Dataset[int]):
    """Item i is 100 + i."""

    def __init__(self, length: int = 12, first: int = 100) -> None:
        self.length = length
        self.first = first

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        assert type(index) is int
        if not 0 <= index < self.length:
            raise IndexError(index)
        return self.first + index


def numbers(length: int = 12, **options: Any) -> AugmentedDataset:
    return AugmentedDataset(Numbers(length), Stamp(), **options)


def row(index: int, epoch: int = 0) -> tuple[int, int, int]:
    return (100 + index, index, epoch)


def rows(loader: DataLoader[Any]) -> list[tuple[int, int, int]]:
    try:
        return [item for batch in loader for item in batch]
    except Exception as error:
        # torch's frames make a cycle of a worker's exception and the loader's iterator, whose
        # workers, when the garbage collector finds them, take five seconds each to end.
        raise error.with_traceback(None) from None


def loader(data: Dataset[Any], workers: int = 0, **options: Any) -> DataLoader[Any]:
    if workers:
        options.setdefault("multiprocessing_context", FORK)
        options["num_workers"] = workers
    return DataLoader(data, collate_fn=list, **options)


# --- one process ------------------------------------------------------------------------


def test_items_are_given_their_index_and_the_epoch() -> None:
    data = numbers()
    assert len(data) == 12
    assert data.epoch == 0
    assert data[3] == row(3)
    data.set_epoch(5)
    assert data.epoch == 5
    assert data.__getitems__([3, 0]) == [row(3, 5), row(0, 5)]


def test_items_of_a_batch_are_transformed_together() -> None:
    apply = Stamp()
    list(loader(AugmentedDataset(Numbers(12), apply), batch_size=5))
    assert apply.calls == [5, 5, 2]


def test_a_base_that_gives_batches_is_asked_for_batches() -> None:
    class Batches(Numbers):
        def __getitems__(self, indices: list[int]) -> list[int]:
            return [self.first + index for index in indices]

        def __getitem__(self, index: int) -> int:
            raise AssertionError

    data = AugmentedDataset(Batches(), Stamp())
    assert data.__getitems__([4, 2]) == [row(4), row(2)]


@pytest.mark.parametrize("index", [-2, np.int64(10), np.uint8(10), torch.tensor(10)])
def test_indices_may_be_negative_or_of_numpy_or_torch(index: Any) -> None:
    assert numbers()[index] == row(10)


@pytest.mark.parametrize("index", [12, -13, 2**40])
def test_an_index_out_of_range_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError, match=f"index {index} is out of range: .* 12 samples"):
        numbers()[index]


@pytest.mark.parametrize("index", [1.0, "1", slice(2)])
def test_an_index_is_an_integer(index: Any) -> None:
    with pytest.raises(TypeError):
        numbers()[index]


def test_a_dataset_ends_under_a_plain_for() -> None:
    assert list(numbers(3)) == [row(0), row(1), row(2)]


@pytest.mark.parametrize("epoch", [-1, 2**32])
def test_an_epoch_has_32_bits(epoch: int) -> None:
    data = numbers()
    with pytest.raises(UsageError, match="an epoch is from 0"):
        data.set_epoch(epoch)
    data.set_epoch(2**32 - 1)
    assert data[0] == row(0, 2**32 - 1)


def test_samplers_of_torch_work() -> None:
    data = numbers()
    assert rows(loader(Subset(data, [7, 1]), batch_size=2)) == [row(7), row(1)]
    data.set_epoch(1)
    assert sorted(rows(loader(data, shuffle=True))) == [row(i, 1) for i in range(12)]
    data.set_epoch(2)
    assert sorted(rows(loader(data, sampler=RandomSampler(data)))) == [row(i, 2) for i in range(12)]
    data.set_epoch(3)
    ranks = [DistributedSampler(data, num_replicas=2, rank=rank) for rank in range(2)]
    seen = [item for rank in ranks for item in rows(loader(data, sampler=rank))]
    assert sorted(seen) == [row(i, 3) for i in range(12)]


def test_pickles_and_copies() -> None:
    data = numbers()
    data.set_epoch(4)
    for twin in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
        assert twin[1] == row(1, 4)
        assert twin._now.is_shared()
        twin.set_epoch(5)
    assert data.epoch == 4


class Endless(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


class NoLength(Dataset[int]):
    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize("base", [Endless(), NoLength(), iter(range(3)), 7])
def test_a_base_that_is_no_map_is_refused(base: Any) -> None:
    with pytest.raises(UsageError, match=f"needed, and {type(base).__name__} is none"):
        AugmentedDataset(base, Stamp())


@pytest.mark.parametrize("base", ["samples/garments", {"a": 1}])
def test_a_path_is_no_dataset(base: Any) -> None:
    with pytest.raises(UsageError, match=r"ImageFolder\(path\)"):
        AugmentedDataset(base, Stamp())


# --- what fails -------------------------------------------------------------------------


class Broken(Numbers):
    def __getitem__(self, index: int) -> int:
        if index == 5:
            raise DataError("five.jpg", "image is truncated")
        return super().__getitem__(index)


class BrokenBatches(Broken):
    def __getitems__(self, indices: list[int]) -> list[int]:
        return [self[index] for index in indices]


@pytest.mark.parametrize("base", [Broken(), BrokenBatches()])
def test_a_sample_that_cannot_be_loaded_is_named(base: Numbers) -> None:
    data = AugmentedDataset(base, Stamp())
    with pytest.raises(DataError, match=r"sample 5 \(five.jpg\): image is truncated") as caught:
        data.__getitems__([3, 4, 5, 6])
    assert isinstance(caught.value.__cause__, DataError)


def test_a_sample_that_cannot_be_transformed_is_named() -> None:
    data = AugmentedDataset(Numbers(first=10), Stamp())
    with pytest.raises(DataError, match="sample 3: ValueError: an unlucky number"):
        data.__getitems__([1, 2, 3, 4])


def test_a_failure_of_no_one_sample_stays_as_it_is() -> None:
    def apply(items: Sequence[Any], indices: Sequence[int], epoch: int) -> list[Any]:
        if len(items) > 1:
            raise ZeroDivisionError
        return list(items)

    with pytest.raises(ZeroDivisionError):
        AugmentedDataset(Numbers(), apply).__getitems__([1, 2])


def test_a_usage_error_is_not_the_samples_fault() -> None:
    def apply(items: Sequence[Any], indices: Sequence[int], epoch: int) -> list[Any]:
        raise UsageError("not like this")

    with pytest.raises(UsageError, match=r"^not like this$"):
        AugmentedDataset(Numbers(), apply)[1]


def test_a_worker_names_the_sample_too() -> None:
    data = AugmentedDataset(Broken(), Stamp())
    with pytest.raises((DataError, RuntimeError), match=r"sample 5 \(five.jpg\): image is trunc"):
        rows(loader(data, workers=1, batch_size=4))


# --- an index twice in an epoch ---------------------------------------------------------


def test_an_index_twice_in_an_epoch_is_an_error_with_its_remedy() -> None:
    data = numbers()
    rows(loader(data))
    with pytest.raises(RepeatedIndexError, match=r"sample 0 .* twice in epoch 0.*call set_epoch"):
        rows(loader(data))
    data.set_epoch(0)
    assert len(rows(loader(data))) == 12
    with pytest.raises(RepeatedIndexError, match="allow_repeats=True"):
        data[-1]


def test_an_index_twice_in_a_batch_is_an_error() -> None:
    with pytest.raises(RepeatedIndexError, match="sample 7 "):
        numbers().__getitems__([1, 7, 2, -5])


def test_repeats_may_be_allowed() -> None:
    data = numbers(allow_repeats=True)
    assert data.__getitems__([7, 7]) == [row(7), row(7)]
    sampler = RandomSampler(data, replacement=True, num_samples=50)
    assert len(rows(loader(data, workers=2, sampler=sampler))) == 50


def test_each_epoch_of_set_epoch_is_new() -> None:
    data = numbers()
    for epoch in (0, 1, 2, 1):
        data.set_epoch(epoch)
        assert rows(loader(data, workers=2, batch_size=5)) == [row(i, epoch) for i in range(12)]


def test_workers_notice_an_index_that_another_worker_served() -> None:
    # Sample 0 is the first worker's, and ten batches later the second one's.
    sampler = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0]
    with pytest.raises(RepeatedIndexError, match="sample 0 was asked for twice"):
        rows(loader(numbers(), workers=2, sampler=sampler))


@pytest.mark.parametrize("persistent", [False, True])
def test_a_second_pass_of_workers_without_set_epoch_is_an_error(persistent: bool) -> None:
    batches = loader(numbers(), workers=2, batch_size=4, persistent_workers=persistent)
    assert len(rows(batches)) == 12
    with pytest.raises(RepeatedIndexError, match="epoch 0"):
        rows(batches)


@pytest.mark.parametrize("context", [FORK, pytest.param(SPAWN, marks=pytest.mark.slow)])
def test_set_epoch_reaches_workers_that_run(context: str) -> None:
    data = numbers()
    batches = loader(
        data, workers=2, batch_size=4, persistent_workers=True, multiprocessing_context=context
    )
    for epoch in (0, 3):
        data.set_epoch(epoch)
        assert rows(batches) == [row(i, epoch) for i in range(12)]
    with pytest.raises(RepeatedIndexError, match="epoch 3"):
        data[0]  # the marks were made by the workers
    with pytest.raises(RepeatedIndexError, match="epoch 3"):
        rows(batches)


class Gated(Numbers):
    """Item 2 waits for the gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = multiprocessing.get_context(FORK).Event()

    def __getitem__(self, index: int) -> int:
        if index == 2:
            assert self.gate.wait(60)
        return super().__getitem__(index)


def test_a_loop_that_broke_off_leaves_no_marks_on_the_next_epoch() -> None:
    base = Gated()
    data = AugmentedDataset(base, Stamp())
    batches = loader(data, workers=1, persistent_workers=True, prefetch_factor=4)
    for item in batches:
        assert item == [row(0)]
        break
    data.set_epoch(1)
    base.gate.set()  # only now does the worker do 2, 3 and 4 of the epoch that was left
    assert rows(batches) == [row(i, 1) for i in range(12)]
    with pytest.raises(RepeatedIndexError, match="epoch 1"):
        rows(batches)


def test_only_workers_that_outlive_an_epoch_are_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    data = numbers()
    data.__getitems__([0, 1])
    data.set_epoch(1)
    data.__getitems__([0, 5])
    with pytest.raises(RepeatedIndexError):
        data[5]  # the main process does nothing late
    monkeypatch.setattr(module, "get_worker_info", lambda: SimpleNamespace(seed=0))
    data.set_epoch(2)
    data.__getitems__([0, 7])
    with pytest.raises(RepeatedIndexError):
        data[0]  # the epoch before served it
    assert data[7] == row(7, 2)  # once more,
    with pytest.raises(RepeatedIndexError):
        data[7]  # and no more


# --- workers and cv2 --------------------------------------------------------------------


def cv2_threads(items: Sequence[Any], indices: Sequence[int], epoch: int) -> list[Any]:
    return [cv2.getNumThreads()] * len(items)


def test_cv2_has_one_thread_in_a_worker_and_is_left_alone_elsewhere() -> None:
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        data = AugmentedDataset(Numbers(), cv2_threads, allow_repeats=True)
        assert data[0] == 2
        assert set(rows(loader(data, workers=1))) == {1}
        assert cv2.getNumThreads() == 2
    finally:
        cv2.setNumThreads(before)


# --- calls without an index -------------------------------------------------------------


def call() -> tuple[int, int]:
    seed, indices = CallCounter().next()
    return seed, int(indices[0])


class Called(Numbers):
    """Someone's dataset with a transform: item i is (i, what its call was keyed by)."""

    def __getitem__(self, index: int) -> Any:
        return index, call()


def called(loader: DataLoader[Any]) -> list[tuple[int, int]]:
    return [key for _, key in rows(loader)]


def test_calls_differ_and_manual_seed_begins_anew() -> None:
    torch.manual_seed(3)
    first = [call() for _ in range(20)]
    assert len(set(first)) == 20
    torch.manual_seed(3)
    assert [call() for _ in range(20)] == first
    torch.manual_seed(4)
    assert not set(first) & {call() for _ in range(20)}


def test_many_calls_at_once_are_the_same_calls() -> None:
    torch.manual_seed(3)
    single = [call() for _ in range(5)]
    torch.manual_seed(3)
    seed, indices = CallCounter().next(5)
    assert indices.dtype == np.int64
    assert indices.min() >= 0
    assert [(seed, int(index)) for index in indices] == single


def test_a_restored_generator_goes_on() -> None:
    torch.manual_seed(3)
    call()
    state = torch.get_rng_state()
    second = call()
    torch.manual_seed(5)
    torch.set_rng_state(state)
    assert call() == second


def test_the_default_device_has_no_say() -> None:
    torch.manual_seed(3)
    first = call()
    torch.manual_seed(3)
    with torch.device("meta"):
        assert call() == first


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_and_epochs_never_repeat_a_call(workers: int, persistent: bool) -> None:
    def run() -> list[tuple[int, int]]:
        torch.manual_seed(11)
        options = {"persistent_workers": True} if workers and persistent else {}
        batches = loader(Called(), workers=workers, batch_size=5, **options)
        return called(batches) + called(batches)

    first = run()
    assert len(set(first)) == 24
    assert run() == first


def test_calls_are_counted_where_torch_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch")
    counter = CallCounter()
    assert [counter.next()[1].tolist(), counter.next(2)[1].tolist()] == [[0], [1, 2]]
    assert counter.next()[0] == counter.next()[0]
    assert pickle.loads(pickle.dumps(counter)).next()[1].tolist() == [0]


def put_call(queue: Any) -> None:
    queue.put(call())


def test_forked_processes_do_not_repeat_one_another() -> None:
    context = multiprocessing.get_context(FORK)
    queue = context.SimpleQueue()
    processes = [context.Process(target=put_call, args=(queue,)) for _ in range(3)]
    for process in processes:
        process.start()
    calls = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    assert len({*calls, call()}) == 4


# --- keys -------------------------------------------------------------------------------


def test_an_index_that_comes_again_gets_a_key_of_its_own() -> None:
    order = np.array([3, 0, 3, 1, 3, 0])
    assert distinct_keys(order, 4).tolist() == [3, 0, 7, 1, 11, 4]
    assert distinct_keys(np.arange(4), 4).tolist() == [0, 1, 2, 3]
    assert distinct_keys(np.zeros(0, np.int64), 4).tolist() == []
    many = np.random.default_rng(0).integers(0, 9, 500)
    assert max(Counter(distinct_keys(many, 9).tolist()).values()) == 1
