import threading
from contextlib import closing

import pytest

from augpipe.data.threads import ordered
from augpipe.errors import AugpipeError


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_order_and_few_items_are_read_ahead(workers: int) -> None:
    read: list[int] = []
    most = 0

    def items() -> object:
        for number in range(500):
            read.append(number)
            yield number

    with closing(ordered(lambda n: n * n, items(), workers, threading.Event())) as results:  # type: ignore[arg-type, operator]
        for count, result in enumerate(results):
            assert result == count * count
            most = max(most, len(read) - count)
    assert count == 499
    assert most <= 8 * workers + 1


def test_giving_up_stops_the_workers() -> None:
    stop, begun = threading.Event(), threading.Event()
    told: list[bool] = []

    def work(item: int) -> int:
        if item:
            begun.set()
            told.append(stop.wait(10))  # ends early only because the iterator is closed
        return item

    def give_up() -> None:
        with closing(ordered(work, range(1000), 2, stop)) as results:
            next(results)
            assert begun.wait(10)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give_up()
    assert told in ([True], [True, True])
    assert not [t for t in threading.enumerate() if t.name.startswith("augpipe")]


def test_an_error_comes_at_its_place() -> None:
    def work(item: int) -> int:
        if item == 5:
            raise AugpipeError("five")
        return item

    results = ordered(work, range(100), 3, threading.Event())
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(AugpipeError, match="five"):
        next(results)
