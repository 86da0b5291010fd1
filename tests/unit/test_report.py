"""Previews, and the catalogue in words."""

from __future__ import annotations

import io
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from augpipe.errors import DataError, UsageError
from augpipe.ops import catalogue
from augpipe.pipeline import Pipeline, load
from augpipe.recipe import load as load_recipe
from augpipe.report.annotations import Marks
from augpipe.report.catalogue import describe_op, example_item, list_ops
from augpipe.report.draw import color_of, drawn, plain, scale_to
from augpipe.report.html import draw_html
from augpipe.report.preview import build_preview
from augpipe.report.sheet import _Page, draw_sheet
from augpipe.report.sources import open_sources
from augpipe.report.speed import measure
from augpipe.report.story import Picture

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples"
RECIPE = {
    "version": 1,
    "seed": 1,
    "sample": [
        {"horizontal_flip": {"p": 1.0}},
        {"rotate": {"degrees": [20, 20]}},
        {"brightness": {"factor": [1, 1]}},
    ],
}


def preview(path: Path, **options):
    return build_preview(load_recipe(RECIPE), open_sources(path), "a title", **options)


# ---------------------------------------------------------------- stories


def test_variants_are_what_the_pipeline_gives_for_index_and_epoch() -> None:
    recipe = load_recipe({"version": 1, "sample": ["rotate", "color_jitter"]})
    shown, errors = build_preview(
        recipe, open_sources(SAMPLES / "garments"), "t", samples=2, variants=2
    )
    assert not errors
    for story in shown.stories:
        original, first, second = (each.image for each in story.variants)
        pipe = Pipeline(recipe)
        np.testing.assert_array_equal(pipe(original, index=story.index, epoch=0), first)
        np.testing.assert_array_equal(pipe(original, index=story.index, epoch=1), second)
        np.testing.assert_array_equal(story.steps[-1].image, first)


def test_op_by_op_says_what_was_drawn_and_what_did_nothing() -> None:
    (story,) = preview(SAMPLES / "garments", samples=1)[0].stories
    flip, turn, same = story.steps
    assert (flip.title, turn.title) == ("1  horizontal_flip", "2  rotate")
    assert turn.notes == ("angle 20",)
    assert same.idle
    assert same.notes == ("no change",)
    np.testing.assert_array_equal(flip.image, story.variants[0].image[:, ::-1])


def test_a_combinator_names_the_op_it_chose() -> None:
    op = {"one_of": {"ops": [{"rotate": {"degrees": [9, 9]}}, "vertical_flip"], "weights": [1, 0]}}
    recipe = load_recipe({"version": 1, "sample": [op]})
    shown, _ = build_preview(recipe, open_sources(SAMPLES / "garments"), "t", samples=1, variants=1)
    assert shown.stories[0].steps[0].notes == ("rotate: angle 9",)


def test_samples_are_spread_over_the_classes() -> None:
    shown, _ = preview(SAMPLES / "garments", samples=5, variants=1)
    assert len({story.name.split("/")[0] for story in shown.stories}) == 5
    shown, _ = preview(SAMPLES / "photos", samples=3, variants=1)
    assert len(shown.stories) == 3


def test_an_unreadable_image_is_left_out_and_another_takes_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    Image.new("L", (9, 9)).save(tmp_path / "b.png")
    shown, errors = preview(tmp_path, samples=1, variants=1)
    assert [story.name for story in shown.stories] == ["b.png"]
    assert "a.png" in str(errors[0])
    (tmp_path / "b.png").unlink()
    with pytest.raises(DataError, match=r"a\.png"):
        preview(tmp_path)


def broken_on(monkeypatch: pytest.MonkeyPatch, width: int, error: Exception) -> None:
    """Makes the pipeline fail, as no pipeline should, on images of one width."""
    prepare = Pipeline._prepare

    def failing(self, samples, *args, **options):
        if any(sample.image.shape[1] == width for sample in samples):
            raise error
        return prepare(self, samples, *args, **options)

    monkeypatch.setattr(Pipeline, "_prepare", failing)


@pytest.mark.parametrize("error", [ZeroDivisionError("no\nluck"), MemoryError("no luck")])
def test_an_image_that_breaks_the_pipeline_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for width in (9, 10):
        Image.new("RGB", (width, 9)).save(tmp_path / f"{width}.png")
    broken_on(monkeypatch, 9, error)
    words = f"{tmp_path / '9.png'}: {type(error).__name__}: no"
    shown, errors = preview(tmp_path, samples=2, variants=1)
    assert [story.name for story in shown.stories] == ["10.png"]
    assert [str(each).removesuffix(" luck") for each in errors] == [words]
    speed = measure(load(RECIPE), tmp_path, 0.01, workers=0)
    assert speed.images == 1
    assert [str(each).removesuffix(" luck") for each in speed.left_out] == [words]


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 0},
        {"samples": 101},
        {"variants": 0},
        {"variants": 101},
        {"epoch": -1},
        {"epoch": 2**32 - 4},
    ],
)
def test_numbers_out_of_range_are_refused(options) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(options))} is"):
        preview(SAMPLES / "garments", **options)


@pytest.mark.parametrize(
    ("op", "pattern"),
    [
        ("cutout", r"x \d+, y \d+"),
        ({"random_resized_crop": {"size": 20}}, r"box -?\d+ -?\d+ \d+ \d+"),
        ({"random_erasing": {"p": 1.0, "fill": 7}}, r"x \d+, y \d+, size \d+ \d+"),
        ("perspective", r"corners( -?\d[\d.e-]*){8}"),
        ({"color_temperature": {}}, r".*kelvin \d{4,5}"),
    ],
)
def test_draws_that_are_arrays_are_words_too(op, pattern: str) -> None:
    recipe = load_recipe({"version": 1, "sample": [op]})
    shown, _ = build_preview(recipe, open_sources(SAMPLES / "photos"), "t", samples=1, variants=1)
    assert re.fullmatch(pattern, shown.stories[0].steps[0].notes[0])


def test_what_makes_numbers_of_the_picture_is_not_shown() -> None:
    recipe = load_recipe({"version": 1, "sample": ["rotate", {"normalize": "imagenet"}]})
    shown, _ = build_preview(recipe, open_sources(SAMPLES / "photos"), "t", samples=1, variants=1)
    assert len(shown.stories[0].steps) == 1
    assert any("normalize" in fact for fact in shown.facts)


# ---------------------------------------------------------------- drawing


@pytest.mark.parametrize(("side", "factor"), [(28, 6), (64, 2), (168, 1), (84, 2), (336, 0.5)])
def test_enlarging_is_by_whole_factors(side: int, factor: float) -> None:
    assert scale_to(side, side // 2, 168) == factor


def test_a_tiny_image_keeps_its_pixels() -> None:
    image = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3) * 5
    out = np.asarray(drawn(Picture("", (), image), 16, {}))
    np.testing.assert_array_equal(out, image.repeat(4, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_kind_of_image_is_drawn_rgb(channels: int) -> None:
    image = np.full((3, 500, channels), 9, np.uint8)
    assert drawn(Picture("", (), image), 100, {}).size == (100, 1)


def test_marks_are_drawn_at_their_places() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[:10] = 2
    marks = Marks(np.array([[4.0, 12.0, 16.0, 18.0]]), (1,), np.array([[2.0, 15.0, 2.0]]), mask)
    picture = Picture("", (), np.zeros((20, 20, 3), np.uint8), marks)
    out = np.asarray(drawn(picture, 200, {1: "cat"}))
    assert tuple(out[120, 159]) == color_of(1)  # the box's right end, drawn within its pixels
    assert tuple(out[50, 50]) == tuple(np.rint(np.array(color_of(2)) * 0.3))
    assert tuple(out[155, 25]) == (220, 0, 90)
    assert not out[195:, 100:].any()


def test_names_the_font_lacks_are_still_legible() -> None:
    assert plain("é × 2…") == "e x 2..."
    assert plain("漢.png") == "?.png"


@pytest.fixture(scope="module")
def small():
    return preview(SAMPLES / "garments", samples=2, variants=3)[0]


def test_the_sheet_is_a_png_of_a_sane_size(small) -> None:
    sheet = Image.open(io.BytesIO(draw_sheet(small)))
    assert sheet.format == "PNG"
    assert 600 < sheet.width < 1500
    assert draw_sheet(small) == draw_sheet(small)


@pytest.mark.parametrize(
    ("count", "rows"), [(1, [1]), (6, [6]), (7, [4, 3]), (12, [6, 6]), (13, [5, 4, 4])]
)
def test_the_sheets_rows_are_even(count: int, rows: list[int]) -> None:
    page = _Page(40, 6)
    page.row([Picture(str(i), (), np.zeros((4, 4, 3), np.uint8)) for i in range(count)], {})
    assert list(Counter(y for _, y, _ in page.images).values()) == rows


def test_an_original_and_five_variants_stand_in_one_row_of_the_page(small) -> None:
    column = re.search(r"auto-fill, minmax\(min\((\d+)px", draw_html(small))
    assert column
    room = 1200 - 15 - 2 * 16  # without a scroll bar and the margins
    assert (room + 16) // (int(column[1]) + 16) == 6
    assert int(column[1]) >= 168, "or tiny images would not be enlarged by a whole factor"


def test_the_page_stands_alone_and_escapes_names(tmp_path: Path) -> None:
    (tmp_path / "<b>&").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / "<b>&" / '"x".png')
    page = draw_html(preview(tmp_path, variants=1)[0])
    assert "&lt;b&gt;&amp;/&quot;x&quot;.png" in page
    assert "<b>" not in page
    assert not re.search(r"<script|https?://|<link|@import", page)
    assert set(re.findall(r'(?:src|href)="([^,"]*)', page)) == {"data:image/png;base64"}


# ---------------------------------------------------------------- the catalogue


def test_every_op_is_listed_with_its_parameters() -> None:
    listing = list_ops(80)
    assert max(map(len, listing.splitlines())) <= 80
    for name, cls in catalogue().items():
        assert re.search(rf"^  {name} ", listing, re.MULTILINE)
        text = describe_op(name)
        for parameter in cls.model_fields:
            assert re.search(rf"^  {parameter}: ", text, re.MULTILINE)


@pytest.mark.parametrize("name", list(catalogue()))
def test_the_example_of_every_op_holds(name: str) -> None:
    cls = catalogue()[name]
    load_recipe({"version": 1, cls.sections[0]: [example_item(cls)]})


def test_an_unknown_op_gets_a_hint() -> None:
    with pytest.raises(UsageError, match="did you mean 'rotate'"):
        describe_op("rotat")
