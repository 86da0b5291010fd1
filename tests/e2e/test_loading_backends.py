"""What both of the loader's backends promise: one result, batches that last, and a clean end."""

from __future__ import annotations

import gc
import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler, WeightedRandomSampler

import augpipe
from augpipe.data.dataset import image_tensor
from augpipe.data.loader import Loader
from augpipe.data.processes import forks
from augpipe.errors import AugpipeError, DataError, UsageError
from tests.harness import SAMPLES, interrupt

pytestmark = pytest.mark.skipif(not forks(), reason="forks")

GARMENTS = SAMPLES / "garments"
WORKERS = [("threads", 0), ("threads", 1), ("threads", 2), ("processes", 1), ("processes", 2)]
BOTH = ["threads", "processes"]


class Pictures(Dataset[Any]):
    """Images of numbers that follow from their index, and a target of each."""

    def __init__(self, count: int, kind: str = "uint8", target: str = "class") -> None:
        self.count = count
        self.kind = kind
        self.target = target

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        grid = np.arange(20 * 18 * 3, dtype=np.int64).reshape(20, 18, 3)
        pixels = (grid * 7 + index * 31) % 256
        pixels = pixels[:, :, 0] if self.kind == "grey" else pixels
        image = pixels.astype(np.uint8)
        box = np.array([[index % 4 + 1.0, 2.0, 12.0, 15.0]])
        target = {
            "class": index % 3,
            "row": np.eye(3, dtype=np.float32)[index % 3],
            "mask": (image[:, :, 0] > 100).astype(np.uint8) if image.ndim == 3 else None,
            "boxes": {"boxes": box, "labels": np.array([index % 3])},
            "text": f"number {index}",
            "uneven": np.arange(index % 3 + 1),
        }[self.target]
        return image / np.float32(255) if self.kind == "float" else image, target


def told(value: Any) -> Any:
    """The bytes of a batch, whatever it is made of."""
    match value:
        case Tensor():
            return "tensor", str(value.dtype), value.shape, value.contiguous().numpy().tobytes()
        case np.ndarray():
            return "array", str(value.dtype), value.shape, value.tobytes()
        case dict():
            return {name: told(each) for name, each in value.items()}
        case list() | tuple():
            return [told(each) for each in value]
        case _:
            return value


CROP = {"random_resized_crop": {"size": 16}}
MIXUP = {"mixup": {"alpha": 0.4}}
CASES: dict[str, tuple[dict[str, Any], tuple[str, str], dict[str, Any]]] = {
    "nothing": ({}, ("uint8", "class"), {}),
    "uint8": ({"sample": [CROP, {"rotate": {"degrees": [-9, 9]}}]}, ("uint8", "class"), {}),
    "float32": ({"sample": [CROP, {"normalize": "imagenet"}]}, ("uint8", "class"), {}),
    "of floats": ({"sample": [CROP]}, ("float", "class"), {}),
    "grey": ({"sample": [CROP, {"color_jitter": {"brightness": 0.4}}]}, ("grey", "class"), {}),
    "mixup": ({"sample": [CROP], "batch": [MIXUP], "classes": 3}, ("uint8", "class"), {}),
    "mixed rows": (
        {"sample": [CROP], "batch": [MIXUP, {"normalize": "imagenet"}]},
        ("uint8", "row"),
        {},
    ),
    "boxes": ({"sample": [{"horizontal_flip": {"p": 0.5}}]}, ("uint8", "boxes"), {}),
    "boxes in a batch": ({"batch": [{"horizontal_flip": {"p": 0.5}}]}, ("uint8", "boxes"), {}),
    "masks": ({"sample": [CROP]}, ("uint8", "mask"), {"names": ("image", "mask")}),
    "texts": ({"sample": [CROP]}, ("uint8", "text"), {}),
    "uneven": ({"sample": [CROP]}, ("uint8", "uneven"), {}),
}
COUNT = 23


@pytest.mark.parametrize("case", CASES)
def test_all_backends_give_the_same_bytes(case: str) -> None:
    recipe, (kind, target), options = CASES[case]
    pipe = augpipe.load({"version": 1, "seed": 5, **recipe})
    base = Pictures(COUNT, kind, target)
    found: list[Any] = []
    for backend, workers in WORKERS:
        loader = pipe.loader(base, backend=backend, workers=workers, batch_size=5, **options)
        # The second epoch is made in memory that the first had.
        found.append([told(batch) for _ in range(2) for batch in loader])
        assert len(found[-1]) == 2 * 5
        assert found[-1] == found[0], (backend, workers)
    kinds = {
        "nothing": "torch.uint8",
        "uint8": "torch.uint8",
        "float32": "torch.float32",
        "of floats": "torch.float32",
        "mixed rows": "torch.float32",
    }
    assert found[0][0][0][1] == kinds.get(case, "torch.uint8")
    if case == "mixup":
        assert found[0][0][1][1:3] == ("torch.float32", (5, 3))


@pytest.mark.parametrize("backend", BOTH)
@pytest.mark.parametrize("case", ["float32", "masks"])
def test_a_batch_size_changes_no_bytes(case: str, backend: str) -> None:
    recipe, (kind, target), options = CASES[case]
    pipe = augpipe.load({"version": 1, "seed": 5, **recipe})
    found = []
    for size in (1, 7, 64):
        loader = pipe.loader(
            Pictures(COUNT, kind, target), backend=backend, batch_size=size, **options
        )
        pairs = [(image, mark) for images, marks in loader for image, mark in zip(images, marks)]  # noqa: B905
        found.append(told(pairs))
    assert len(found[0]) == COUNT
    assert found[0] == found[1] == found[2]


SPAWNED = """
import multiprocessing, sys
sys.path[:0] = sys.argv[1:]
import augpipe
from tests.e2e.test_loading_backends import CASES, COUNT, Pictures, told

if __name__ == "__main__":
    for case in ("float32", "mixup", "boxes"):
        recipe, (kind, target), options = CASES[case]
        pipe = augpipe.load({"version": 1, "seed": 5, **recipe})
        found = []
        for backend in ("threads", "processes"):
            loader = pipe.loader(
                Pictures(COUNT, kind, target), backend=backend, batch_size=5, workers=1, **options
            )
            if backend == "threads":
                found.append([told(batch) for _ in range(2) for batch in loader])
                # Neither the import nor a loader has settled it.
                multiprocessing.set_start_method("spawn", force=case != "float32")
                assert pipe.loader(Pictures(1))._backend == "threads"
            else:
                found.append([told(batch) for _ in range(2) for batch in loader])
        assert found[0] == found[1] and len(found[0]) == 10, case
    print("same")
"""


@pytest.mark.slow
def test_spawned_workers_give_the_same_bytes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SPAWNED)
    done = subprocess.run(
        [sys.executable, script, str(SAMPLES.parent)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "same\n", done.stderr
    assert not done.stderr


def test_the_start_method_stays_the_programs_to_choose() -> None:
    program = """
import multiprocessing
import augpipe
pipe = augpipe.load({"version": 1})
loader = pipe.loader([([[0]], 0)], backend="processes")
multiprocessing.set_start_method("spawn")
"""
    used = """
import multiprocessing
import numpy as np
import augpipe
pipe = augpipe.load({"version": 1})
loader = pipe.loader([(np.zeros((4, 4, 3), np.uint8), 0)] * 9, backend="processes")
assert len(list(loader)) == 1
multiprocessing.set_start_method("spawn")
"""
    for text in (program, used):
        done = subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


# --- the loader by itself ---------------------------------------------------------------


class Numbers(Dataset[Any]):
    """Images that are their index throughout."""

    def __init__(self, count: int, side: int = 4) -> None:
        self.count = count
        self.side = side

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        return np.full((self.side, self.side, 3), index % 256, np.uint8), index


def stack(items: Sequence[Any], keys: Sequence[int], epoch: int, room: Any) -> Any:
    images = [image_tensor(0, item[0]).numpy() for item in items]
    out = room((len(images), *images[0].shape), images[0].dtype)
    return np.stack(images, out=out), [(None, target) for _, target in items]


def keyed(items: Sequence[Any], keys: Sequence[int], epoch: int, room: Any) -> Any:
    """Gives each image its key for pixels."""
    out = room((len(items), 1, 1, 1), np.dtype(np.int64))
    out[:, 0, 0, 0] = keys
    return out, [(None, target) for _, target in items]


def plain(base: Any, of: Any = stack, **options: Any) -> Loader:
    defaults = {"seed": 0, "backend": "processes", "workers": 2, "shuffle": False}
    return Loader(base, of, **{**defaults, **options})


def targets(batches: Any) -> list[list[int]]:
    return [marks.tolist() for _, marks in batches]


def children() -> set[int]:
    """The processes that this one has started and that live."""
    gc.collect()
    return {each.pid for each in multiprocessing.active_children() if each.pid}


def room(loader: Loader) -> int:
    """The bytes for a batch in memory that the workers share."""
    assert loader._processes is not None
    (crew,) = loader._processes._idle
    return min(len(each) for each in crew._slots)


def in_parts(count: int, size: int, start: int = 0) -> list[list[int]]:
    return [list(range(at, min(at + size, count))) for at in range(start, count, size)]


@pytest.mark.parametrize("backend", BOTH)
def test_the_last_batch_may_be_left_out_and_a_sampler_gives_the_order(backend: str) -> None:
    loader = plain(Numbers(11), backend=backend, batch_size=4, drop_last=True)
    assert targets(loader) == in_parts(8, 4)
    sampler = [7, 0, 7, -1, 2]
    loader = plain(Numbers(11), keyed, backend=backend, batch_size=2, sampler=sampler, shuffle=None)
    found = [(images[:, 0, 0, 0].tolist(), marks.tolist()) for images, marks in loader]
    assert found == [([7, 0], [7, 0]), ([18, 10], [7, 10]), ([2], [2])]


@pytest.mark.parametrize("backend", BOTH)
def test_two_iterations_at_once_do_not_meet(backend: str) -> None:
    loader = plain(Numbers(20), backend=backend, batch_size=3)
    list(loader)  # its workers are there
    old = iter(loader)
    first = [next(old), next(old)]
    new = iter(loader)
    both = [*first, next(new), next(old), next(new), *old]
    assert targets(both[:2] + both[3:4] + both[5:]) == in_parts(20, 3)
    assert targets([both[2], both[4], *new]) == in_parts(20, 3)
    for images, marks in both:
        assert (images == marks[:, None, None, None]).all()
    assert targets(loader) == in_parts(20, 3)


def test_the_dataset_is_read_in_the_workers_alone() -> None:
    """A file that it opens when it is first read is not shared by being born with it."""

    class Opened(Numbers):
        opened: int = 0

        def __getitem__(self, index: int) -> Any:
            self.opened = self.opened or os.getpid()
            return super().__getitem__(index)[0], (os.getpid(), self.opened)

    base = Opened(12)
    found = [marks for _, each in plain(base, batch_size=3) for marks in each]
    assert not base.opened
    assert len(found) == 12
    assert all(reader == opener != os.getpid() for reader, opener in found)


def test_the_programs_own_randomness_is_left_alone() -> None:
    found = []
    for backend, workers in WORKERS:
        generator = torch.manual_seed(5)
        list(plain(Numbers(9), backend=backend, workers=workers))
        found.append(torch.rand(1, generator=generator).item())
    assert len(set(found)) == 1


@pytest.mark.parametrize("backend", BOTH)
def test_after_torchs_threads_have_run_and_in_a_thread(backend: str) -> None:
    matrix = torch.rand(300, 300, generator=torch.Generator().manual_seed(1))
    (matrix @ matrix).relu().sum()
    found: list[Any] = []

    def finish(images: Tensor, marks: Any, index: Any, epoch: int) -> Any:
        big = images.float().repeat(8, 1, 64, 64)  # enough for torch to share it out
        return (big * 2)[: len(images), :, :4, :4].clone(), marks

    loader = plain(Numbers(12), backend=backend, batch_size=3)
    loader.finish = finish
    thread = threading.Thread(target=lambda: found.extend(targets(loader)))
    thread.start()
    thread.join(120)
    assert found == in_parts(12, 3)
    assert targets(loader) == in_parts(12, 3)


def test_a_worker_process_of_something_else_loads_in_threads() -> None:
    """It is a daemon, which may have no children."""

    def work(results: Any) -> None:
        loader = plain(Numbers(5), backend="auto")
        results.send((loader._backend, targets(loader)))
        try:
            list(plain(Numbers(5)))
        except UsageError as error:
            results.send(str(error))

    ours, theirs = multiprocessing.get_context("fork").Pipe()
    process = multiprocessing.get_context("fork").Process(target=work, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    assert ours.recv() == ("threads", in_parts(5, 64))
    assert 'load with backend="threads"' in ours.recv()
    process.join(60)
    assert process.exitcode == 0


# --- a batch stays ----------------------------------------------------------------------


def views(images: Tensor) -> list[Any]:
    return [images[1:], images.permute(0, 2, 3, 1), images.numpy(), images[0], images.view(-1)]


@pytest.mark.parametrize("view", range(5))
@pytest.mark.parametrize("backend", BOTH)
def test_a_batch_stays_as_long_as_any_view_of_it(backend: str, view: int) -> None:
    loader = plain(Numbers(60, side=40), backend=backend, batch_size=2)
    held: list[Any] = []
    copies: list[Tensor] = []
    for _ in range(2):
        for images, _ in loader:
            held.append(views(images)[view])
            copies.append(torch.as_tensor(held[-1]).clone())
            del images
    assert len(held) == 60
    assert len({torch.as_tensor(each).data_ptr() for each in held}) == 60
    for mine, copy in zip(held, copies, strict=True):
        assert torch.equal(torch.as_tensor(mine), copy)


@pytest.mark.parametrize("backend", BOTH)
def test_a_held_batch_outlives_its_loader(backend: str) -> None:
    loader = plain(Numbers(6), backend=backend, batch_size=2)
    held = [images for images, _ in loader]
    del loader
    gc.collect()
    loader = plain(Numbers(200), backend=backend, batch_size=2)
    list(loader)
    assert [images[:, 0, 0, 0].tolist() for images in held] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("end", ["whole", "break", "error", "new"])
@pytest.mark.parametrize("backend", BOTH)
def test_memory_is_used_again(backend: str, end: str) -> None:
    """Also after an iteration that broke off, failed, or was begun anew before it ended."""
    workers = 2

    class Failing(Numbers):
        def __getitem__(self, index: int) -> Any:
            if end == "error" and index == 45:
                raise ValueError("no")
            return super().__getitem__(index)

    loader = plain(Failing(60, side=64), backend=backend, batch_size=2, workers=workers)
    places: set[int] = set()

    def run() -> None:
        for number, (images, _) in enumerate(loader):
            places.add(images.data_ptr())
            if end == "break" and number == 3:
                break

    old: Iterator[Any] = iter(())
    for _ in range(10):
        if end == "new":
            old = iter(loader)
            images, _ = next(old)
            places.add(images.data_ptr())
            del images
        elif end == "error":
            with pytest.raises(DataError, match="sample 45"):
                run()
            gc.collect()  # a traceback holds the batch of the loop
        else:
            run()
    del old
    # What is held and what comes next, of each crew of workers; pools keep a few more.
    most = {"threads": 3 * workers + 2, "processes": 2 * workers + 2}[backend]
    assert len(places) <= most * (2 if end == "new" else 1)


def test_what_is_given_back_at_any_moment_is_given_out_once() -> None:
    """Batches that go while an iteration begins, as in a collection of garbage."""
    loader = plain(Numbers(40), batch_size=2)
    held = [images for images, _ in itertools.islice(loader, 6)]
    stop = threading.Event()

    def drop() -> None:
        while held and not stop.is_set():
            held.pop()

    thread = threading.Thread(target=drop)
    thread.start()
    kept = list(loader)
    stop.set()
    thread.join()
    for images, marks in kept:
        assert (images == marks[:, None, None, None]).all()


def test_images_and_targets_of_a_long_epoch_need_no_files() -> None:
    loader = plain(Numbers(300), batch_size=1)
    next(iter(loader))
    before = len(list(Path("/proc/self/fd").iterdir()))
    held = list(loader)
    assert len(held) == 300
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 10


def test_batches_larger_than_the_first_ones_are_right() -> None:
    class Growing(Numbers):
        def __getitem__(self, index: int) -> Any:
            side = 4 if index < 6 else 30
            return np.full((side, side, 3), index, np.uint8), index

    loader = plain(Growing(30), batch_size=3)
    for _ in range(2):
        held = list(loader)
        assert [len(images[0, 0]) for images, _ in held] == [4, 4] + [30] * 8
        for images, marks in held:
            assert (images == marks[:, None, None, None]).all()


# --- resuming and ranks -----------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [BOTH, BOTH[::-1]])
def test_a_state_is_resumed_on_the_other_backend(first: str, second: str) -> None:
    pipe = augpipe.load({"version": 1, "seed": 5, "sample": [CROP, {"normalize": "imagenet"}]})

    def loader(backend: str) -> Any:
        return pipe.loader(Pictures(COUNT), backend=backend, batch_size=4, epoch=2)

    whole = loader("threads")
    expected = [told(batch) for _ in range(2) for batch in whole]
    begun = loader(first)
    batches = iter(begun)
    found = [told(next(batches)) for _ in range(4)]
    state = begun.state_dict()
    begun.set_epoch(9)
    rest = loader(second)
    rest.load_state_dict(state)
    found += [told(batch) for _ in range(2) for batch in rest]
    assert found == expected


def test_a_resume_at_the_last_samples_does_not_narrow_the_epochs_after_it() -> None:
    whole = plain(Numbers(21, side=30), batch_size=10)
    batches = iter(whole)
    next(batches), next(batches)
    state = whole.state_dict()
    loader = plain(Numbers(21, side=30), batch_size=10)
    loader.load_state_dict(state)
    assert targets(loader) == [[20]]
    assert targets(loader) == in_parts(21, 10)
    assert room(loader) == 10 * 30 * 30 * 3


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize(("count", "ranks"), [(24, 3), (23, 3), (22, 3), (2, 5), (3, 7)])
def test_ranks_share_an_epoch_as_a_distributed_sampler(
    count: int, ranks: int, shuffle: bool, drop_last: bool
) -> None:
    shares, keys = [], []
    for rank in range(ranks):
        options = {"rank": rank, "world_size": ranks, "drop_last": drop_last, "shuffle": shuffle}
        loader = plain(Numbers(count), keyed, backend="threads", workers=0, batch_size=1, **options)
        found = list(loader)
        assert len(loader) == len(found)
        shares.append([int(marks) for _, marks in found])
        keys.append([int(images) for images, _ in found])
        if not shuffle:
            theirs = DistributedSampler(  # type: ignore[var-annotated]
                Numbers(count), ranks, rank, shuffle=False, drop_last=drop_last
            )
            if not drop_last or count >= ranks:  # theirs counts below zero
                assert shares[-1] == list(theirs)
    assert len({len(share) for share in shares}) == 1
    every = [index for share in shares for index in share]
    assert len(every) == (count // ranks if drop_last else -(-count // ranks)) * ranks
    if not drop_last:
        assert set(every) == set(range(count))
    if count % ranks == 0 or drop_last:
        assert len(set(every)) == len(every)
    of_keys = [key for share in keys for key in share]
    assert len(set(of_keys)) == len(of_keys)
    assert [key % count for key in of_keys] == every


# --- what fails -------------------------------------------------------------------------


class Faulty(Numbers):
    """Some samples cannot be loaded."""

    def __init__(self, count: int, faults: dict[int, Exception]) -> None:
        super().__init__(count)
        self.faults = faults

    def __getitem__(self, index: int) -> Any:
        if index in self.faults:
            raise self.faults[index]
        return super().__getitem__(index)


@pytest.mark.parametrize(("backend", "workers"), WORKERS)
def test_failing_samples_are_named_or_left_out(backend: str, workers: int) -> None:
    faults: dict[int, Exception] = {
        3: DataError("3.png", "image is truncated"),
        6: KeyError("label"),
        7: ZeroDivisionError("none"),
    }
    options: dict[str, Any] = {"backend": backend, "workers": workers, "batch_size": 2}
    loader = plain(Faulty(10, faults), **options)
    batches = iter(loader)
    assert targets([next(batches)]) == [[0, 1]]
    with pytest.raises(DataError, match=r"^sample 3 \(3.png\): image is truncated$"):
        next(batches)
    assert loader.state_dict()["samples"] == 2

    skipping = plain(Faulty(10, faults), on_error="skip", **options)
    for _ in range(2):
        assert targets(skipping) == [[0, 1], [2], [4, 5], [8, 9]]  # none of 6 and 7
        assert [str(each) for each in skipping.skipped] == [
            "sample 3 (3.png): image is truncated",
            "sample 6: KeyError: 'label'",
            "sample 7: ZeroDivisionError: none",
        ]


@pytest.mark.parametrize(("backend", "workers"), WORKERS)
def test_an_epoch_of_failures_is_one(backend: str, workers: int) -> None:
    base = Faulty(5, dict.fromkeys(range(5), ValueError("bad")))
    loader = plain(base, backend=backend, workers=workers, batch_size=2, on_error="skip")
    with pytest.raises(DataError, match="no sample could be loaded; the first: sample 0: ValueErr"):
        list(loader)
    assert len(loader.skipped) == 5


def test_memory_is_shared_though_the_first_sample_fails() -> None:
    loader = plain(Faulty(40, {0: ValueError("bad")}), batch_size=2, on_error="skip")
    list(loader)
    assert room(loader) == 2 * 4 * 4 * 3


@pytest.mark.parametrize(("backend", "workers"), WORKERS)
def test_usage_errors_come_as_they_are(backend: str, workers: int) -> None:
    for on_error in ("raise", "skip"):
        base = Faulty(9, {4: UsageError("the index has no such column")})
        loader = plain(base, backend=backend, workers=workers, batch_size=2, on_error=on_error)
        with pytest.raises(UsageError, match=r"^the index has no such column$"):
            list(loader)


class OddError(Exception):
    """Cannot be made from its text."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


@pytest.mark.parametrize(("backend", "workers"), WORKERS)
def test_errors_of_the_batch_section_come_as_they_are(backend: str, workers: int) -> None:
    pipe = augpipe.load({"version": 1, "batch": [MIXUP], "classes": 2})
    loader = pipe.loader(Pictures(9), backend=backend, workers=workers, batch_size=4)
    with pytest.raises(DataError, match=r"^labels: classes are 0 to 1, here are 0 to 2"):
        list(loader)
    with pytest.raises(DataError, match=r"^labels: classes are 0 to 1, here are 0 to 2"):
        list(loader)

    for raised, found in [
        (RuntimeError("the size of tensor a"), RuntimeError),
        (IndexError("5"), IndexError),
        (OddError(1, 2), RuntimeError if backend == "processes" else OddError),
    ]:

        def finish(*batch: Any, raised: Exception = raised, **key: Any) -> Any:
            raise raised

        own = plain(Numbers(9), backend=backend, workers=workers)
        own.finish = finish
        with pytest.raises(found, match=str(raised)) as caught:
            list(own)
        assert not isinstance(caught.value, AugpipeError)
        if backend == "processes":
            assert "in finish" in "".join(caught.value.__notes__)


def test_targets_that_cannot_be_sent_are_refused_with_the_remedy() -> None:
    """A queue would lose them, and the loader wait for ever."""

    class Functions(Numbers):
        def __getitem__(self, index: int) -> Any:
            return super().__getitem__(index)[0], (lambda: index)

    assert len(list(plain(Functions(5), backend="threads", batch_size=2))) == 3
    with pytest.raises(UsageError, match=r"targets cannot be sent .*lambda.* backend=.threads"):
        list(plain(Functions(5), batch_size=2))


# --- a clean end ------------------------------------------------------------------------


def test_workers_stay_for_the_next_epoch_and_end_with_the_loader() -> None:
    before = children()
    loader = plain(Numbers(20), batch_size=2)
    list(loader)
    own = children() - before
    assert len(own) == 2
    for images in loader:
        del images
        break
    list(loader)
    assert children() - before == own
    del loader
    assert not children() - before


def test_workers_end_when_the_loop_is_interrupted() -> None:
    before = children()
    loader = plain(Numbers(20), batch_size=2)

    def interrupted(batches: Loader) -> None:
        for _ in batches:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted(loader)
    assert targets(loader) == in_parts(20, 2)
    del loader
    assert not children() - before


def kill(base: Numbers, at: int) -> Numbers:
    """Makes a worker that reads a sample kill itself, once."""

    class Killing(Numbers):
        armed = multiprocessing.get_context("fork").Value("i", 1)

        def __getitem__(self, index: int) -> Any:
            if index == at and self.armed.value:
                self.armed.value = 0
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__getitem__(index)

    return Killing(base.count)


@pytest.mark.parametrize("at", [0, 31])
def test_a_killed_worker_is_told_of_and_the_loader_goes_on(at: int) -> None:
    before = children()
    loader = plain(kill(Numbers(60), at), batch_size=2)
    held = []
    words = r"^a worker process died \(.* worker .*\), perhaps for lack of memory: use fewer"
    with pytest.raises(AugpipeError, match=words) as caught:
        held.extend(loader)
    assert not isinstance(caught.value, DataError | UsageError)
    assert not children() - before
    for _ in range(2):
        again = list(loader)
        assert targets(again) == in_parts(60, 2)
        for images, marks in [*held, *again]:
            assert (images == marks[:, None, None, None]).all()
    held.clear()  # of memory that others wrote to no more
    for images, marks in loader:
        assert (images == marks[:, None, None, None]).all()


def test_a_worker_that_dies_between_epochs_is_replaced() -> None:
    loader = plain(Numbers(20), batch_size=2)
    before = children()
    list(loader)
    one = min(children() - before)
    process = next(each for each in multiprocessing.active_children() if each.pid == one)
    try:
        process.kill()
        process.join(60)
    except RuntimeError as error:  # torch tells it wherever the main thread is
        assert "killed" in str(error)  # noqa: PT017
    process.join(60)
    assert targets(loader) == in_parts(20, 2)


PROGRAM = """
import os, sys
import augpipe
pipe = augpipe.load({"version": 1, "sample": [{"rotate": {"degrees": [-9, 9]}}]})
loader = pipe.loader(sys.argv[1], batch_size=8, backend=sys.argv[2])
def train():
    epoch = 0
    while True:
        for batch in loader:
            if epoch == 1:
                children = open(f"/proc/self/task/{os.getpid()}/children").read()
                print("ready", children, flush=True)
                epoch = 2
        epoch += epoch == 0
"""


def lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("backend", BOTH)
def test_ctrl_c_ends_all_processes_with_one_traceback(backend: str, whole_group: bool) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + "\ntrain()", str(GARMENTS), backend],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        word, *workers = process.stdout.readline().split()
        assert word == "ready"
        assert len(workers) == (2 if backend == "processes" else 0)
        if whole_group:
            os.killpg(process.pid, signal.SIGINT)
            errors = process.communicate(timeout=60)[1]
        else:
            errors = interrupt(process)
    finally:
        process.kill()
    assert errors.count("Traceback") == 1
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert process.returncode == -signal.SIGINT
    assert not [pid for pid in workers if lives(int(pid))]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "\nraise SystemExit(0)", "\ndel held, loader", "\ndel loader"])
@pytest.mark.parametrize("backend", BOTH)
def test_a_program_ends_with_a_live_iterator(backend: str, end: str) -> None:
    program = f"{PROGRAM}\nheld = iter(loader)\nbatch = next(held){end}"
    done = subprocess.run(
        [sys.executable, "-c", program, str(GARMENTS), backend],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("backend", BOTH)
def test_a_sampler_with_replacement(backend: str) -> None:
    draws = torch.Generator().manual_seed(3)
    sampler = WeightedRandomSampler([1.0, 1.0, 8.0], 30, generator=draws)
    loader = plain(Numbers(3), keyed, backend=backend, batch_size=7, sampler=sampler, shuffle=None)
    keys = [int(key) for images, _ in loader for key in images]
    assert len(set(keys)) == 30
    assert {key % 3 for key in keys} == {0, 1, 2}


FORKED = """
import gc, multiprocessing
import augpipe
loader = augpipe.load({recipe!r}).loader({folder!r}, batch_size=16, workers=1, backend="processes")
whole = [len(images) for images, _ in loader]
left = iter(loader)
next(left)
def drop():
    global loader, left
    loader = left = None
    gc.collect()
def use():
    assert [len(images) for images, _ in loader] == whole
for target in (drop, use):
    child = multiprocessing.get_context("fork").Process(target=target)
    child.start()
    child.join()
    assert child.exitcode == 0
assert [len(images) for images, _ in left] == whole[1:]
assert [len(images) for images, _ in loader] == whole
"""


def test_a_forked_program_leaves_its_parents_workers_alone() -> None:
    program = FORKED.format(recipe="configs/garments.yaml", folder="samples/garments")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
