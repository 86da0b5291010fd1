"""Hulls, areas, and what is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from augpipe.data.annotated import AnnotatedImage, Annotation, span
from augpipe.data.content import FileContent
from augpipe.data.shapes import Notes, area_of, clipped, hull, polygon_area
from tests.formats.scenes import blob, rle


def test_boxes_that_are_told() -> None:
    boxes = [
        (0.0, 0.0, 20.0, 10.0),
        (5.0, 5.0, 5.0, 5.0),
        (1.0, 2.0, 9.0, 2.0),
        (20.0, 0.0, 30.0, 5.0),
        (-1.0, 0.0, 5.0, 5.0),
        (15.0, 5.0, 21.0, 8.0),
    ]
    objects = tuple(Annotation(1, box, id=k) for k, box in enumerate(boxes))
    nowhere = FileContent(Path("none"))
    notes = Notes()
    notes.check(AnnotatedImage("a", nowhere, None, (10, 20), annotations=objects))
    assert str(notes).splitlines() == [
        "2 boxes without area: a, object 1; a, object 2",
        "1 box outside its image: a, object 3",
        "2 boxes that reach beyond their images: a, object 4; a, object 5",
    ]
    for _ in range(2):
        notes.check(AnnotatedImage("b", nowhere, None, (10, 20), annotations=objects[1:2]))
    assert str(notes).startswith("4 boxes without area: a, object 1; a, object 2; b, object 1, ...")


def test_hulls_and_areas() -> None:
    mask = blob(20, 24, 2)
    rows, columns = np.nonzero(mask)
    solid = Annotation(1, rle=rle(mask))
    expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    assert hull(solid, "") == expected
    assert area_of(solid, "") == mask.sum()
    square = (1.0, 1.0, 4.0, 1.0, 4.0, 5.0, 1.0, 5.0)
    two = Annotation(1, polygons=(square, (9.0, 0.0, 11.0, 0.0, 9.0, 2.0)))
    assert (hull(two, ""), area_of(two, "")) == ((1.0, 0.0, 11.0, 5.0), 14.0)
    turned = Annotation(1, oriented=(2.0, 0.0, 4.0, 2.0, 2.0, 4.0, 0.0, 2.0))
    assert (hull(turned, ""), area_of(turned, "")) == ((0.0, 0.0, 4.0, 4.0), 8.0)
    assert (hull(Annotation(1), ""), area_of(Annotation(1), "")) == (None, 0.0)
    assert hull(Annotation(1, rle=rle(np.zeros((4, 5), np.uint8))), "") is None
    assert polygon_area(square[::-1]) == 12.0


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((-2.0, 1.0, 3.0, 30.0), (0.0, 1.0, 3.0, 10.0)),
        ((20.0, 1.0, 25.0, 3.0), None),
        ((1.0, 1.0, 1.0, 3.0), None),
    ],
)
def test_clipped(box: tuple[float, float, float, float], expected: object) -> None:
    assert clipped(box, (10, 20)) == expected


@given(
    st.decimals(0, 5000, places=2).map(float),
    st.decimals(0, 5000, places=2).map(float),
)
def test_widths_come_back_as_they_were(low: float, width: float) -> None:
    """COCO's x, y, width, height through corners: no digit more than the file had."""
    assert span(low, low + width) == width
