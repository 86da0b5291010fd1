"""Processes of one's own, from their first moment on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import multiprocessing
import signal

from augpipe.data.children import interrupts_held_back


def tell():
    print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))


if __name__ == "__main__":
    context = multiprocessing.get_context("METHOD")
    with interrupts_held_back(spawned=context.get_start_method() != "fork"):
        child = context.Process(target=tell)
        child.start()
    child.join()
    tell()
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_first_process_of_a_program_is_born_deaf_to_interrupts(
    method: str, tmp_path: Path
) -> None:
    """Spawned ones too, with whose first the standard library begins a process of its own."""
    script = tmp_path / "first.py"
    script.write_text(SCRIPT.replace("METHOD", method))
    said = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert (said.stdout.split(), said.stderr) == (["True", "False"], "")
