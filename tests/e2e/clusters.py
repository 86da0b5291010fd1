"""A Ray cluster of two nodes on this machine, and what happens to it on the way."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from augpipe.data.encode import TEMPORARY_PREFIX
from augpipe.expansion.jobs import Task
from augpipe.expansion.making import Making, Outcome

_MARK = "AUGPIPE_TEST_CLUSTER"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_health_check_initial_delay_ms": "0",
    "RAY_health_check_period_ms": "300",  # a node that is gone is known to be within seconds
    "NO_ALBUMENTATIONS_UPDATE": "1",
}


@contextmanager
def two_nodes() -> Iterator[Any]:
    """Begins a cluster of two nodes with a core each; ends it, and says what it left behind."""
    import ray
    from ray.cluster_utils import Cluster

    home = tempfile.mkdtemp(prefix="ap-", dir="/tmp")  # sockets have short names only
    before = dict(os.environ)
    (Path(home) / "ray").mkdir()
    os.environ.update({**QUIET, _MARK: home, "RAY_TMPDIR": home})
    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    cluster = None
    try:
        cluster = Cluster(initialize_head=True, head_node_args=node)
        cluster.add_node(**node)
        os.environ["RAY_ADDRESS"] = cluster.address
        yield cluster
    finally:
        ray.shutdown()
        if cluster is not None:
            cluster.shutdown()
        os.environ.clear()
        os.environ.update(before)
        left = until(lambda: not _marked(home), lambda: _marked(home), seconds=60)
        for process in left:
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)
    assert not left, f"processes left behind: {left}"


def until(
    done: Callable[[], bool], what: Callable[[], Any] = lambda: None, seconds: int = 300
) -> Any:
    """Waits until something is so; returns what is then, or was in the end."""
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        Event().wait(0.05)
    return what()


def _marked(home: str) -> list[int]:
    """Returns the processes that a cluster began, and theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            marked = f"{_MARK}={home}".encode() in path.read_bytes()
        except OSError:
            continue
        if marked and int(path.parent.name) != os.getpid():
            found.append(int(path.parent.name))
    return found


@dataclass(frozen=True, slots=True)
class NodeDies(Making):
    """The second node dies when it has done a task, and before anyone hears of it."""

    mark: str = ""
    head: str = ""

    def begin(  # type: ignore[override]
        self, stop: Event
    ) -> Callable[[Sequence[Task]], list[Outcome]]:
        import ray

        make, second = (
            Making.begin(self, stop),
            ray.get_runtime_context().get_node_id() != self.head,
        )

        def make_or_die(tasks: Sequence[Task]) -> list[Outcome]:
            if second:
                list(make(tasks[:1]))
                (self.out / f"{TEMPORARY_PREFIX}{'0' * 16}").write_bytes(b"the next one, begun")
                Path(self.mark).touch()
                os.kill(os.getppid(), signal.SIGKILL)
                os.kill(os.getpid(), signal.SIGKILL)
            until(Path(self.mark).exists)
            return list(make(tasks))

        return make_or_die


@dataclass(frozen=True, slots=True)
class TaskKills(Making):
    """One source ends the process that works on it, with an output written.

    Args:
        index: Which.
        times: How often; each time a file `mark` and its number is made.
    """

    index: int = -1
    times: int = 1000
    mark: str = ""

    def begin(  # type: ignore[override]
        self, stop: Event
    ) -> Callable[[Sequence[Task]], Iterator[Outcome]]:
        make = Making.begin(self, stop)

        def make_or_die(tasks: Sequence[Task]) -> Iterator[Outcome]:
            for task in tasks:
                made = list(make([task]))
                if self.index in task.indices and self._again():
                    os.kill(os.getpid(), signal.SIGKILL)
                yield from made

        return make_or_die

    def _again(self) -> bool:
        marks = [Path(f"{self.mark}{k}") for k in range(self.times)] if self.mark else [None]
        left = [each for each in marks if each is None or not each.exists()]
        if left and left[0] is not None:
            left[0].touch()
        return bool(left)
