"""Killed at any moment and begun again, a job ends as if it had never been killed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.safety.cases import Job, tree
from tests.safety.disk import KILLS
from tests.safety.killing import Forge

MOMENTS = 50
SEED = 20261130


@pytest.fixture(scope="module")
def whole(
    forge: Forge, known: dict[str, Job], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[dict[str, Any], dict[str, bytes | None]]]:
    """What each job says and leaves that nothing happens to."""
    out = {}
    for name, (call, arguments) in known.items():
        folder = tmp_path_factory.mktemp("whole") / "out"
        said = forge(call, **arguments, out=folder)
        assert not said["error"], (name, said)
        out[name] = (said, tree(folder))
    return out


def test_killed_at_random_moments(
    forge: Forge,
    known: dict[str, Job],
    whole: dict[str, tuple[dict[str, Any], dict[str, bytes | None]]],
    tmp_path: Path,
) -> None:
    drawn = random.Random(SEED)
    names, killed = list(known), 0
    for k in range(MOMENTS):
        name = names[k % len(names)]
        call, arguments = known[name]
        said, left = whole[name]
        out, times = tmp_path / str(k), 1 + (k % 7 == 0)
        for _ in range(times):  # some are killed twice
            if k % 5 == 4:
                what, moment = "timer", drawn.randrange(1, said["microseconds"])
            else:
                what, moment = drawn.choice(KILLS), drawn.randrange(1, said["changes"] + 1)
            came = forge(call, moment, what, **arguments, out=out)
            killed += came["killed"]
        end = forge(call, **arguments, out=out)
        told = f"seed {SEED}, moment {k}: {name}, {what} {moment} of {said}"
        now = tree(out)
        if call == "convert" and now == left and "not empty" in end.get("error", ""):
            continue  # all was there: what is whole is not begun again
        assert not end.get("error", end), (told, end)
        assert now.keys() == left.keys(), told
        assert [each for each in now if now[each] != left[each]] == [], told
    assert killed >= MOMENTS  # but for the few whose clock came too late
