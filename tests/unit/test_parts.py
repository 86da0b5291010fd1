"""One batch: what is fetched, who is blamed, what targets become."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from augpipe.data.parts import Maker, Part, UnevenError
from augpipe.data.threads import Stopped
from augpipe.errors import DataError, UsageError


def stack(items: Sequence[Any], keys: Sequence[int], epoch: int, room: Any) -> Any:
    shapes = {np.shape(image) for image, _ in items}
    if len(shapes) > 1:
        raise ValueError("differ")
    out = room((len(items), *shapes.pop()), np.dtype(np.uint8))
    for row, (image, _) in enumerate(items):
        if np.max(image) == 99:
            raise ValueError("ninety-nine")
        out[row] = image
    return out, [(None, target) for _, target in items]


def maker(base: Any, on_error: Any = "raise", **options: Any) -> Maker:
    return Maker(base, stack, np.empty, on_error, **options)


def part(*indices: int) -> Part:
    return Part(list(indices), [100 + index for index in indices], 3)


def pairs(*levels: int, targets: Sequence[Any] | None = None) -> list[Any]:
    marks = levels if targets is None else targets
    return [(np.full((1, 2, 2), level), mark) for level, mark in zip(levels, marks, strict=True)]


class Several:
    """A dataset that gives several items at once."""

    def __init__(self, items: list[Any], short: bool = False) -> None:
        self.items = items
        self.short = short
        self.asked: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        raise AssertionError

    def __getitems__(self, indices: list[int]) -> list[Any]:
        self.asked.append(list(indices))
        if any(isinstance(self.items[index], Exception) for index in indices):
            raise next(e for e in (self.items[i] for i in indices) if isinstance(e, Exception))
        found = [self.items[index] for index in indices]
        return found[:1] if self.short else found


def test_several_items_are_asked_for_at_once() -> None:
    base = Several(pairs(1, 2, 3))
    made = maker(base).make(part(2, 0))
    assert base.asked == [[2, 0]]
    assert made.images is not None
    assert made.images[:, 0, 0, 0].tolist() == [3, 1]
    assert made.targets.tolist() == [3, 1]
    assert made.keys == [102, 100]


def test_of_several_items_the_one_that_fails_is_named() -> None:
    base = Several([*pairs(1), KeyError("x"), *pairs(3)])
    made = maker(base).make(part(0, 1, 2))
    assert str(made.error) == "sample 1: KeyError: 'x'"
    made = maker(base, "skip").make(part(0, 1, 2))
    assert made.error is None
    assert made.keys == [100, 102]
    assert [str(each) for each in made.failed] == ["sample 1: KeyError: 'x'"]


def test_items_that_come_in_another_number_are_asked_for_one_by_one() -> None:
    base = Several(pairs(1, 2, 3), short=True)
    made = maker(base).make(part(0, 1, 2))
    assert made.targets.tolist() == [1, 2, 3]
    assert base.asked == [[0, 1, 2], [0], [1], [2]]


def test_the_samples_that_fail_to_stack_are_named() -> None:
    base = pairs(1, 99, 3, 99)
    assert str(maker(base).make(part(0, 1, 2, 3)).error) == "sample 1: ValueError: ninety-nine"
    made = maker(base, "skip").make(part(3, 2, 1, 0))
    assert made.images is not None
    assert made.images[:, 0, 0, 0].tolist() == [3, 1]
    assert [each.where for each in made.failed] == ["sample 3", "sample 1"]
    nothing = maker(base, "skip").make(part(1, 3))
    assert nothing.images is None
    assert len(nothing.failed) == 2


def test_both_kinds_of_failure_come_in_the_samples_order() -> None:
    class Missing(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            if index == 2:
                raise OSError("gone")
            return super().__getitem__(index)

    base = Missing(pairs(1, 99, 3, 4))
    made = maker(base, "skip").make(part(2, 1, 0))
    assert [str(each) for each in made.failed] == [
        "sample 2: OSError: gone",
        "sample 1: ValueError: ninety-nine",
    ]
    assert str(maker(base).make(part(3, 2, 1)).error) == "sample 2: OSError: gone"


def test_sizes_that_differ_are_no_samples_fault() -> None:
    base = [(np.zeros((3, 2, 2)), 0), (np.zeros((3, 2, 2)), 0), (np.zeros((3, 4, 2)), 0)]
    for on_error in ("raise", "skip"):
        error = maker(base, on_error).make(part(0, 1, 2)).error
        assert isinstance(error, UnevenError)
        assert str(error).startswith("sample 2: the image is 4 × 2 with 3 channels, that of sample")


def test_what_fails_only_together_is_raised_as_it_is() -> None:
    def moody(items: Sequence[Any], keys: Any, epoch: int, room: Any) -> Any:
        if len(items) > 1:
            raise ZeroDivisionError("together")
        return stack(items, keys, epoch, room)

    for on_error in ("raise", "skip"):
        with pytest.raises(ZeroDivisionError, match="together"):
            Maker(pairs(1, 2), moody, np.empty, on_error).make(part(0, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("item", [{"image": 1}, np.zeros(3), (1, 2, 3), (1,), "ab"])
def test_what_is_no_pair_is_refused(item: Any) -> None:
    for on_error in ("raise", "skip"):
        error = maker([*pairs(1), item], on_error).make(part(0, 1)).error
        assert isinstance(error, UsageError)
        assert str(error).startswith(f"sample 1 is no (image, target) but {type(item).__name__}")


def test_usage_errors_are_no_samples_fault() -> None:
    class Wrong(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            raise UsageError("no such column")

    for on_error in ("raise", "skip"):
        assert str(maker(Wrong([1, 2]), on_error).make(part(0, 1)).error) == "no such column"


def test_the_batch_section_is_given_keys_and_epoch_and_may_fail() -> None:
    seen = []

    def finish(images: Any, targets: Any, **key: Any) -> Any:
        seen.append(key)
        if images.sum() > 100:
            raise DataError("labels", "too many")
        return images + 1, targets

    made = maker(pairs(1, 2, 90), finish=finish).make(part(1, 0))
    assert seen == [{"index": [101, 100], "epoch": 3}]
    assert made.images is not None
    assert made.images[:, 0, 0, 0].tolist() == [3, 2]
    assert str(maker(pairs(1, 2, 90), finish=finish).make(part(2)).error) == "labels: too many"
    seen.clear()
    assert maker(pairs(99), "skip", finish=finish).make(part(0)).images is None
    assert not seen


def test_it_stops_between_samples() -> None:
    stop = threading.Event()
    asked = []

    class Stopping(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            asked.append(index)
            stop.set()
            return super().__getitem__(index)

    with pytest.raises(Stopped):
        maker(Stopping(pairs(1, 2, 3))).make(part(0, 1, 2), stop)
    assert asked == [0]


@pytest.mark.parametrize(
    ("targets", "dtype"),
    [
        ([1, 2], torch.int64),
        ([True, False], torch.bool),
        ([2.5, 1], torch.float64),
        ([np.uint16(1), np.uint16(2)], torch.uint16),
        ([np.zeros(2, np.float32)] * 2, torch.float32),
        ([torch.zeros(2, dtype=torch.bfloat16)] * 2, torch.bfloat16),
    ],
)
def test_numbers_become_a_tensor(targets: list[Any], dtype: torch.dtype) -> None:
    made = maker(pairs(1, 2, targets=targets)).make(part(0, 1))
    assert made.targets.dtype == dtype
    for got, given in zip(made.targets, targets, strict=True):
        assert torch.equal(got, torch.as_tensor(given).to(dtype))


@pytest.mark.parametrize(
    "targets",
    [
        [2**70, 1],
        [2**63, 2**63],
        [1, torch.zeros(2)],
        [np.zeros(2), 1],
        [np.datetime64("2020-01-01")] * 2,
        [torch.zeros(2).to_sparse()] * 2,
        ["a", 1],
        [None, None],
        [(1, 2), (3, 4)],
    ],
)
def test_what_makes_no_tensor_stays_a_list(targets: list[Any]) -> None:
    made = maker(pairs(1, 2, targets=targets)).make(part(0, 1))
    assert type(made.targets) is list
    assert all(a is b for a, b in zip(made.targets, targets, strict=True))
