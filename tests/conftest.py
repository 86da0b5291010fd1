"""Options of the test run."""

from __future__ import annotations

import hypothesis
import pytest

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
