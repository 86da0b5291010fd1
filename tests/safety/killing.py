"""A process that forks itself for each job that is to be killed, so that none waits for imports.

It reads a line of JSON a job, and answers with one: what was killed, or what was changed and said.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.harness import ROOT, SAMPLES
from tests.safety.cases import BATCH, RECIPE


class Forge:
    """The process, for a `with` block."""

    def __enter__(self) -> Forge:
        command = [sys.executable, "-m", "tests.safety.killing"]
        self._process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __call__(self, call: str, moment: int = 0, what: str = "", **arguments: Any) -> Any:
        """Runs `expand` or `convert` in a process of its own.

        Args:
            call: Which of them.
            moment: The number of the change on the disk at which something happens; with "timer"
                the microsecond.
            what: See `Disk`; or "timer": killed by the clock; or "file size": no file may grow
                above so many bytes.
            arguments: The call's.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        plain = {k: str(v) if isinstance(v, Path) else v for k, v in arguments.items()}
        self._process.stdin.write(json.dumps([call, moment, what, plain]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


def _child(call: str, moment: int, what: str, arguments: dict[str, Any], answer: int) -> None:
    import augpipe.expansion
    from tests.safety.disk import Disk

    disk, error, start = (
        Disk(0 if what in ("timer", "file size") else moment, what),
        "",
        time.perf_counter(),
    )
    try:
        with disk.watched():
            if what == "file size":
                resource.setrlimit(resource.RLIMIT_FSIZE, (moment, moment))
            if what == "timer":
                signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process as a kill does
                signal.setitimer(signal.ITIMER_REAL, moment / 1e6)
            getattr(augpipe.expansion, call)(**arguments)
            signal.setitimer(signal.ITIMER_REAL, 0)
    except Exception as caught:
        error = f"{type(caught).__name__}: {caught}"
    spent = int((time.perf_counter() - start) * 1e6)
    said = {"killed": False, "changes": disk.count, "error": error, "microseconds": spent}
    os.write(answer, json.dumps(said).encode())


def _warm() -> None:
    """Does the like of each job once: what is imported on the way takes longer than the job."""
    import cv2
    import pyarrow.parquet  # noqa: F401
    import torch

    from augpipe.expansion import convert, expand

    cv2.setNumThreads(1)  # threads of OpenCV and torch do not live on in a fork
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for name, recipe in (("a", RECIPE), ("b", BATCH)):
            path = Path(folder) / f"{name}.yaml"
            path.write_text(recipe)
            expand(path, SAMPLES / "garments" / "bag", Path(folder) / name)
        convert(SAMPLES, Path(folder) / "c", "coco")


def main() -> None:
    _warm()
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _child(*json.loads(line), writing)
            finally:
                os._exit(0)
        os.close(writing)
        _, status = os.waitpid(child, 0)
        with os.fdopen(reading) as file:
            said = file.read()
        killed = {"killed": True, "signal": os.WTERMSIG(status)}
        print(said or json.dumps(killed), flush=True)


if __name__ == "__main__":
    main()
