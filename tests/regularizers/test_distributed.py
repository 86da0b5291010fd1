"""Two processes under DistributedDataParallel train as one does on the whole batch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.harness import ROOT
from tests.regularizers import ranks

pytestmark = pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="PyTorch without gloo"
)


Weights = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Weights, Weights]:
    """Trains in two processes; returns the weights of each, by stack."""
    folder = tmp_path_factory.mktemp("ranks")
    # Not by the host's name, which need not resolve.
    interface = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    env = {**os.environ, **interface, "PYTHONPATH": str(ROOT)}
    script = ROOT / "tests/regularizers/ranks.py"
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), "2", str(folder)],
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for each in processes:
            _, errors = each.communicate(timeout=120)
            assert each.returncode == 0, errors
    finally:
        for each in processes:
            each.kill()
    return torch.load(folder / "0.pt"), torch.load(folder / "1.pt")


@pytest.mark.parametrize("stack", ["exact", "sam"])
def test_two_ranks_train_as_one(stack: str, two: tuple[Weights, Weights]) -> None:
    one = ranks.train(0, 1, stack)
    first, second = (each[stack] for each in two)
    outer = {name.replace("kept.", "kept.module.") for name in one}
    assert set(first) == outer and list(first) == list(second)
    for name, each in first.items():
        assert torch.equal(each, second[name]), name
        # The mean of two means of 4 rounds otherwise than the mean of 8, a few float32 steps
        # (6e-8) a gradient, which six steps of learning rate 0.1 with momentum carry along.
        torch.testing.assert_close(
            each, one[name.replace("kept.module.", "kept.")], rtol=1e-5, atol=2e-6, msg=name
        )


def test_ranks_with_noise_of_their_own_stay_together(two: tuple[Weights, Weights]) -> None:
    """Dropout differs, as it should; the weights may not, to the bit."""
    first, second = (each["noise"] for each in two)
    one = ranks.train(0, 1, "noise")
    for name, each in first.items():
        assert torch.equal(each, second[name]), name
    assert not torch.allclose(first["own.0.weight"], one["own.0.weight"], atol=1e-3)
