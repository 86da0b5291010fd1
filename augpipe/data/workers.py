"""What must be seen to in a DataLoader's worker. Importing this does not import torch."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch.utils.data._utils.worker import WorkerInfo


class CallCounter:
    """Numbers the calls that come without an index, as in `ImageFolder(transform=pipe)`.

    The count is kept by torch's own generator, from which each call takes one number, as any
    torchvision transform does. So `torch.manual_seed` starts it again, even with the seed it
    had; a DataLoader's workers, which torch seeds each for itself and for each epoch, never
    repeat one another; persistent workers and the main process go on from epoch to epoch; and
    a restored generator state resumes. As long as nothing has imported torch, calls are
    counted from 0, and are the same each time a program runs.

    Child processes that are no DataLoader's are told apart by their names (`ForkPoolWorker-1`):
    a fork copies the generator.
    """

    def __init__(self) -> None:
        self._count = itertools.count()

    def __reduce__(self) -> tuple[type[CallCounter], tuple[()]]:
        return type(self), ()

    def next(self, n: int = 1) -> tuple[int, NDArray[np.int64]]:
        """Returns what the next n calls are keyed by; n at once are as n one by one.

        Returns:
            A seed, the same for all calls of a worker until it is seeded anew; and (n,)
            indices, from 0 to 2**63 - 2.
        """
        worker = _worker()
        seed, indices = self._draw(n)
        if worker is not None:
            return worker.seed, indices
        if multiprocessing.parent_process() is not None:
            text = f"{seed} {multiprocessing.current_process().name}".encode()
            seed = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")
        return seed, indices

    def _draw(self, n: int) -> tuple[int, NDArray[Any]]:
        if "torch" not in sys.modules:
            return 0, np.array([next(self._count) for _ in range(n)], np.int64)
        import torch

        generator = torch.default_generator
        indices = torch.randint(2**63 - 1, (n,), generator=generator, device="cpu")
        return generator.initial_seed(), indices.numpy()


def calm_cv2() -> None:
    """Turns OpenCV's own threads off in a DataLoader's worker, where after a fork they hang."""
    if _worker() is not None and (cv2 := sys.modules.get("cv2")):
        cv2.setNumThreads(0)


def _worker() -> WorkerInfo | None:
    """Returns what torch says of the worker that this process is; None if it is none."""
    if "torch" not in sys.modules:
        return None
    from torch.utils.data import get_worker_info

    return get_worker_info()
