"""docs/parity.md says what is measured today."""

from __future__ import annotations

import numpy as np

from augpipe.ops import catalogue
from tests.parity import report


def test_the_parity_page_is_fresh() -> None:
    """To 0.02 in the mean and a level in the maximum: vector units of processors round apart."""
    written, measured = report.read(report.PAGE.read_text(encoding="utf-8")), report.measure()
    assert list(written) == list(measured), "make parity"
    for name, figures in measured.items():
        assert (abs(written[name] - figures) <= np.array([0.02, 1.0, 0.02, 1.0])).all(), (
            f"{name}: {figures}, the page says {written[name]}: make parity"
        )


def test_every_op_of_the_sample_section_is_on_the_page() -> None:
    missing = {n for n, c in catalogue().items() if c.sections[0] == "sample"} - set(
        report.measure()
    )
    assert not missing
