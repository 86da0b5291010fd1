"""What the table of a fit needs is trained beside the lessons, and no more than once."""

from __future__ import annotations

from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from augpipe.errors import AugpipeError
from augpipe.fitting import controls
from augpipe.fitting.controls import clean_beside, control
from augpipe.fitting.labelled import Divided, open_labelled
from augpipe.tensors import read_tensors
from tests.harness import ROOT


@pytest.fixture
def data() -> Divided:
    return open_labelled(ROOT / "samples" / "garments", None, 12, 0)


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes that are begun meanwhile; other tests' may be there still."""
    found: list[Any] = []
    start = SpawnProcess.start

    def noted(process: Any) -> None:
        found.append(process)
        start(process)

    monkeypatch.setattr(SpawnProcess, "start", noted)
    return found


def weights(folder: Path) -> dict[str, torch.Tensor]:
    (found,) = folder.glob("clean-*/model.safetensors")
    return read_tensors(found)[0]


def test_it_is_the_network_that_the_table_would_train(
    data: Divided, tmp_path: Path, begun: list[Any]
) -> None:
    beside, after = tmp_path / "beside", tmp_path / "after"
    with clean_beside(data, beside, 3, jobs=2):
        (child,) = begun
        assert child.is_alive()
    assert not child.is_alive()
    own = weights(beside)
    made = (beside / next(beside.glob("clean-*")) / "result.json").stat().st_mtime_ns
    rows = {"plain": (["horizontal_flip"], ())}
    for folder in (beside, after):
        control(data, [], rows, folder, seeds=1, steps=3, jobs=1)
    assert (next(beside.glob("clean-*")) / "result.json").stat().st_mtime_ns == made
    other = weights(after)
    assert own.keys() == other.keys() and all(torch.equal(own[key], other[key]) for key in own)


def test_one_job_has_no_process_beside_it(data: Divided, tmp_path: Path, begun: list[Any]) -> None:
    with clean_beside(data, tmp_path / "one", 3, jobs=1):
        assert not begun
    assert not (tmp_path / "one").exists()


def test_what_ends_the_lessons_ends_it_without_a_word(
    data: Divided, tmp_path: Path, begun: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    def lessons() -> None:
        with clean_beside(data, tmp_path, 100_000, jobs=2):
            while not list(tmp_path.glob("clean-*/metrics.csv")):  # it is at work
                assert begun[0].is_alive()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lessons()
    assert not begun[0].is_alive()
    assert capfd.readouterr() == ("", "")


def test_what_is_there_is_not_trained_again(
    data: Divided, tmp_path: Path, begun: list[Any]
) -> None:
    for _ in range(2):
        with clean_beside(data, tmp_path, 2, jobs=2):
            assert len(begun) == 1


def test_what_goes_wrong_beside_is_said_by_the_table(
    data: Divided, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    controls._clean(data, tmp_path, 3)[1].write_text("")  # where a folder should be
    with clean_beside(data, tmp_path, 3, jobs=2):
        pass
    assert capfd.readouterr() == ("", "")
    rows = {"plain": (["horizontal_flip"], ())}
    with pytest.raises((OSError, AugpipeError), match="clean-"):
        control(data, [], rows, tmp_path, seeds=1, steps=3, jobs=1)
