"""The short run of the fuzzing: the same mutants each time. `make fuzz` is the long one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tests.safety.fuzz import run
from tests.safety.fuzzing import NAMES, Target, check_image, check_recipe, target

EXAMPLES = 150


@pytest.mark.parametrize("name", NAMES)
def test_mutants_are_fine_or_refused(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    made = target(name)
    folder = tmp_path_factory.mktemp("mutants")

    @settings(
        max_examples=max(8, round(EXAMPLES * made.share)),
        derandomize=True,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(made.mutants)
    def check(mutant: Any) -> None:
        made.check(folder, mutant)

    check()


def test_a_failure_is_found_and_can_be_repeated() -> None:
    """A check that fails at one byte is found by the long run, and again by its seed."""
    import hypothesis.strategies as st

    def fragile(folder: Any, data: bytes) -> str:
        assert b"\xff" not in data
        return "fine"

    made = Target("made", st.binary(max_size=30), fragile, 1.0)
    for _ in range(2):
        with pytest.raises(AssertionError):
            run(made, 2000, 7, 20.0)
    came = run(Target("made", st.binary(max_size=3), lambda *_: "fine", 1.0), 30, 7, 20.0)
    assert came["fine"] >= 30


def test_what_is_not_a_mutant_is_fine(tmp_path: Any) -> None:
    """So that "refused" is not all that ever comes of a target."""
    from tests.safety.fuzzing import _images, _recipes

    assert {check_image(tmp_path, data) for data in _images()} == {"fine"}
    came = [check_recipe(tmp_path, data) for data in _recipes()[::9]]
    assert came.count("fine") > 0.9 * len(came)
