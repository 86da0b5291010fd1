"""Options of the test run."""

from __future__ import annotations

import os

import hypothesis
import pytest

# Two test processes with a thread for each core get in one another's way: small networks then
# train ten times slower. Before torch is imported, and for the programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a machine is busy with is not a test's business.
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write golden files anew; read the diff"
    )
    parser.addoption(
        "--update-foreign", action="store_true", help="write foreign/facts.json anew; read the diff"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuses names that hold an address: processes that share the tests must agree on them."""
    for item in items:
        if " at 0x" in item.nodeid:
            raise pytest.UsageError(f"give its cases ids: {item.nodeid}")
