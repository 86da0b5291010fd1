"""Where a fit computes, and in what numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from augpipe.errors import UsageError, first_sentence


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes in one thread.

    Small networks on small images gain little from a second one, and where the other core has
    other work each of a thousand short sums a step waits for it: thirty times as long was measured.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def check_device(device: str) -> None:
    """Refuses a device that is not there.

    Raises:
        UsageError: Nothing can be made on it.
    """
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {device} cannot be used: {first_sentence(error)}") from None


def has_bfloat16(device: str) -> bool:
    """Tells whether narrow numbers are faster there."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported()
    known = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return device == "cpu" and known is not None and bool(known())
