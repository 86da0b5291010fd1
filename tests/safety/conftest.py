"""What takes a while to make, once for all of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.safety.cases import Job, jobs
from tests.safety.killing import Forge


@pytest.fixture(scope="session")
def forge() -> Iterator[Forge]:
    with Forge() as made:
        yield made


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Job]:
    return jobs(tmp_path_factory.mktemp("jobs"))
