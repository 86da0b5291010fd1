"""Work in forked processes: all of it done, whatever becomes of them, and none left behind."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from augpipe.data.threads import Stopped
from augpipe.errors import AugpipeError, DataError
from augpipe.expansion.engines import blocks_of
from augpipe.expansion.forks import in_processes

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="no forks here"
)


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def run(
    make: Callable[[Sequence[int]], Any], blocks: Any, workers: int = 3, stop: Event | None = None
) -> Any:
    return in_processes(make, blocks, workers, stop or Event(), lambda item, why: (item, why))


def squares(block: Sequence[int]) -> list[int]:
    return [item * item for item in block]


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 50])
def test_all_is_done_once(workers: int, count: int) -> None:
    found = sorted(run(squares, ([k, k + 1000] for k in range(count)), workers))
    assert found == sorted(n * n for k in range(count) for n in (k, k + 1000))


def test_it_is_done_elsewhere_and_read_little_ahead() -> None:
    read: list[int] = []

    def blocks() -> Iterator[list[int]]:
        for number in range(200):
            read.append(number)
            yield [number]

    done = run(lambda block: [os.getpid()], blocks(), 2)
    with closing(done):
        places = {next(done) for _ in range(3)}
        assert len(read) <= 2 * 2 + 3
    assert os.getpid() not in places


def test_no_more_processes_than_blocks() -> None:
    assert len(set(run(lambda block: [os.getpid()], [[1], [2]], 40))) <= 2
    before = len(multiprocessing.active_children())
    done = run(squares, [[1]], 40)
    next(done)
    assert len(multiprocessing.active_children()) == before + 1
    done.close()


def test_what_a_dead_process_had_begun_is_done_again(tmp_path: Path) -> None:
    def once(block: Sequence[int]) -> Iterator[int]:
        for item in block:
            if item == 17 and not (tmp_path / "died").exists():
                (tmp_path / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            yield item

    blocks = [list(range(k, k + 5)) for k in range(0, 40, 5)]
    assert sorted(run(once, blocks)) == list(range(40))
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGUSR1), "SIGUSR1"),
        (lambda: os._exit(3), "exit status 3"),
    ],
)
def test_an_item_that_ends_its_process_is_lost_alone(end: Callable[[], None], said: str) -> None:
    def deadly(block: Sequence[int]) -> list[int]:
        if 8 in block:
            end()
        return list(block)

    found = list(run(deadly, [[0, 1, 2], [3, 8, 5], [6, 7], [9]], 2))
    (lost,) = [each for each in found if isinstance(each, tuple)]
    assert lost == (8, f"the process that works on it dies ({said})")
    assert sorted(each for each in found if each != lost) == [0, 1, 2, 3, 5, 6, 7, 9]


@pytest.mark.parametrize("deaths", [2, 3])
def test_an_item_that_is_alone_is_tried_three_times(tmp_path: Path, deaths: int) -> None:
    def unlucky(block: Sequence[int]) -> list[int]:
        if 4 in block:
            tries = len(list(tmp_path.glob("try*")))
            if tries < deaths:
                (tmp_path / f"try{tries}").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return list(block)

    found = list(run(unlucky, [[k] for k in range(8)], 2))
    lost = (4, "the process that works on it dies (SIGKILL)")
    assert (lost in found) == (deaths == 3)
    assert sorted(each for each in found if each != lost) == [
        k for k in range(8) if k != 4 or deaths == 2
    ]


def test_where_no_more_can_be_started_those_that_there_are_do_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fork, count = os.fork, 0

    def scarce() -> int:
        nonlocal count
        if count == most:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        count += 1
        return fork()

    monkeypatch.setattr(os, "fork", scarce)
    most = 2
    assert sorted(run(squares, [[k] for k in range(30)], 5)) == [k * k for k in range(30)]
    count, most = 0, 0
    with pytest.raises(AugpipeError, match=r"no process can be started \(.*\): fewer workers"):
        list(run(squares, [[1], [2]], 5))


TWO = """\
import os, sys, threading, time
from threading import Event
from augpipe.expansion.forks import in_processes

def slow(block):
    print(os.getpid(), flush=True)
    time.sleep(0.2)
    return block

def run():
    list(in_processes(slow, ([k] for k in range(10000)), 2, Event(), None))

for _ in range(2):
    threading.Thread(target=run, daemon=True).start()
time.sleep(600)
"""


def test_all_end_with_their_parent_even_if_another_crew_holds_its_pipes() -> None:
    process = subprocess.Popen([sys.executable, "-c", TWO], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    seen: set[int] = set()
    while len(seen) < 4:
        seen.add(int(process.stdout.readline()))
    process.kill()
    process.stdout.read()  # ends when nobody holds its other end
    process.wait(timeout=60)
    process.stdout.close()
    assert [each for each in seen if Path(f"/proc/{each}/exe").exists()] == []


class OddError(Exception):
    """Cannot be sent: it wants two arguments and keeps one."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (DataError("a.png", "is none"), DataError, "a.png: is none"),
        (OSError(5, "no disk"), OSError, "no disk"),
        (EOFError("of a file"), EOFError, "of a file"),
        (OddError("of its own", ""), RuntimeError, "OddError: of its own"),
    ],
)
def test_an_error_arrives_with_where_it_was(
    error: Exception, kind: type[Exception], words: str
) -> None:
    def failing(block: Sequence[int]) -> list[int]:
        if 3 in block:
            raise error
        return list(block)

    with pytest.raises(kind, match=words) as caught:
        list(run(failing, [[k] for k in range(6)], 2))
    if kind is not DataError:  # which says it in a line
        assert any("in failing" in note for note in caught.value.__notes__)


def test_given_up_it_stops_and_what_was_begun_ends(tmp_path: Path) -> None:
    stop = Event()

    def work(block: Sequence[int]) -> list[int]:
        if block[0]:
            (tmp_path / "begun").touch()
            if stop.wait(30):
                (tmp_path / f"told{os.getpid()}").touch()
                raise Stopped
        return [0] * 100_000  # more than a pipe holds

    done = run(work, ([k] for k in range(1000)), 2, stop)
    assert next(done) == 0
    while not (tmp_path / "begun").exists():
        pass
    done.close()
    assert 1 <= len(list(tmp_path.glob("told*"))) <= 2
    assert not stop.is_set()  # that is the processes' own


def test_blocks_hold_some_outputs_each_and_batches_stand_alone() -> None:
    sizes = {"a": 1, "b": 2, "c": 4, "D": 1, "E": 9, "f": 9, "g": 1}
    found = list(blocks_of(list(sizes), sizes.__getitem__, str.isupper, 6))
    assert found == [["a", "b"], ["c"], ["D"], ["E"], ["f"], ["g"]]
    assert list(blocks_of(list("abg"), sizes.__getitem__, str.isupper, 6)) == [["a", "b", "g"]]
    assert list(blocks_of([], len, bool, 6)) == []
