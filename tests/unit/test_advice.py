"""What bench says of figures, word for word."""

from __future__ import annotations

from dataclasses import replace

import pytest

from augpipe.report.advice import (
    Figures,
    Keeping,
    Load,
    Move,
    Part,
    Room,
    add_workers,
    advise,
    bottleneck,
    choose_backend,
    keep,
    make_room,
    move_lines,
    scale,
)

DECODE = Part("decode", 6.0, "decode")
DRAW = Part("draw and compose", 0.5, "draw")
WARP = Part("1 warp: random_resized_crop#0", 1.5, "pass")
COLOR = Part("2 colour matrix: color_jitter#0, normalize#0", 1.75, "pass")
COLLATE = Part("make a batch", 0.25, "collate")
FIGURES = Figures((DECODE, DRAW, WARP, COLOR, COLLATE), cores=8)  # 10 ms
LINES = ("sample[2] color_jitter", "sample[3] normalize")


def longer(part: Part, ms: float) -> Figures:
    """The figures with one part that takes as long as is said."""
    parts = tuple(replace(each, ms=ms) if each == part else each for each in FIGURES.parts)
    return replace(FIGURES, parts=parts)


def with_batch(ms: float) -> Figures:
    return replace(FIGURES, parts=(*FIGURES.parts, Part("batch 1 mix: mixup#0", ms, "batch")))


@pytest.mark.parametrize(
    ("figures", "text"),
    [
        (FIGURES, "decoding takes 60 % of the time: all the rest takes 4.00 ms an image"),
        (
            replace(FIGURES, halved=0.25),
            "decoding (25 % of the images at a fraction of their size) takes 60 % of the time: "
            "all the rest takes 4.00 ms an image",
        ),
        (
            longer(WARP, 11.3),
            "the pass 1 warp: random_resized_crop#0 takes 57 % of the time: all the rest takes "
            "8.50 ms an image",
        ),
        (
            longer(DRAW, 10.7),
            "drawing and composing parameters takes 53 % of the time: it is the same work for an "
            "image of any size",
        ),
        (
            longer(COLLATE, 30.25),
            "making batches takes 76 % of the time: that is copying, and Python's work for each "
            "image",
        ),
        (
            with_batch(30.0),
            "the batch section takes 75 % of the time: it was done on the CPU, and moves to a GPU "
            "whole",
        ),
        (
            Figures((Part("read from the cache", 0.3, "cache"), Part("1 x", 0.1, "pass")), 2),
            "reading the cache takes 75 % of the time: all the rest takes 0.100 ms an image",
        ),
    ],
)
def test_the_bottleneck_is_what_takes_most(figures: Figures, text: str) -> None:
    assert bottleneck(figures) == text


HEAD = (
    "move `sample[2] color_jitter` and what follows it (`sample[3] normalize`) to the head of "
    "`batch:`: the CPU workers then take 8.00 ms an image instead of 10.0 (20 % less). "
)


@pytest.mark.parametrize(
    ("move", "text"),
    [
        (
            Move(LINES, 8.0, 14.0),
            f"{HEAD}It pays where `batch:` runs on a GPU, not on this CPU: 14.0 ms an image in all "
            "instead of 10.0",
        ),
        (
            Move(LINES, 8.0, 10.5),
            f"{HEAD}It pays where `batch:` runs on a GPU; on this CPU it makes no odds: 10.5 ms an "
            "image in all instead of 10.0",
        ),
        (
            Move(LINES, 8.0, 8.9),
            f"{HEAD}It pays without a GPU too: on this CPU 8.90 ms an image in all instead of 10.0",
        ),
        (
            Move(LINES, 8.0, None, alike=True),
            f"{HEAD}(They can move because all images measured are of one size.) It pays where "
            "`batch:` runs on a GPU, or on tiny images",
        ),
        (
            Move(LINES[:1], 5.0, None),
            "move `sample[2] color_jitter` to the head of `batch:`: the CPU workers then take 5.00 "
            "ms an image instead of 10.0 (50 % less). It pays where `batch:` runs on a GPU, or on "
            "tiny images",
        ),
        (
            Move(LINES, 9.5, 10.0),
            "nothing is to be gained by moving lines to `batch:`: from `sample[2] color_jitter` on "
            "they take 0.500 of the workers' 10.0 ms an image",
        ),
        (
            Move(LINES[:1], 11.0, 10.0),
            "nothing is to be gained by moving lines to `batch:`: `sample[2] color_jitter` takes "
            "0.000 of the workers' 10.0 ms an image",
        ),
    ],
)
def test_which_lines_to_move(move: Move, text: str) -> None:
    assert move_lines(replace(FIGURES, move=move)) == text


def test_what_the_batch_section_takes_already_is_not_the_workers() -> None:
    """Of 10 ms for the workers 9.5 are left: little, however long the batch section takes."""
    said = move_lines(replace(with_batch(90.0), move=Move(LINES, 9.5, None)))
    assert said is not None
    assert said.endswith("they take 0.500 of the workers' 10.0 ms an image")


def test_why_no_line_can_move_is_said() -> None:
    said = "nothing is to be gained by moving lines to `batch:`: the sample section is empty"
    assert move_lines(replace(FIGURES, unmoved="the sample section is empty")) == said
    assert move_lines(FIGURES) is None


def test_a_cache_pays_where_decoding_dominates() -> None:
    text = (
        "from the second epoch on an image takes 2.00 ms instead of 10.0; all images take about "
        "{} in memory, or on disk where a folder stands in place of `memory`"
    )
    whole = keep(replace(FIGURES, keeping=Keeping(2.0, 0.0641, None)))
    assert whole == "add `cache: memory`: " + text.format("64 MB")
    resized = keep(replace(FIGURES, keeping=Keeping(2.0, 251.0, 256)))
    assert resized == (
        "add `cache: {where: memory, max_gb: 277}`, and `- resize: 256` as the first line of "
        f"`sample:`: {text.format('251 GB')}. It changes the pixels: crops are then taken of "
        "smaller images"
    )


def test_no_cache_where_it_saves_little_or_was_not_measured() -> None:
    assert keep(FIGURES) is None
    assert keep(replace(FIGURES, keeping=Keeping(9.1, 1.0, None))) is None
    quick = longer(DECODE, 2.0)
    assert keep(replace(quick, keeping=Keeping(1.0, 1.0, None))) is None


def test_a_cache_that_is_too_small() -> None:
    assert make_room(FIGURES) is None
    assert make_room(replace(FIGURES, room=Room(10.0, 10.0))) is None
    assert make_room(replace(FIGURES, room=Room(2.04, 0.0055))) == (
        "raise `cache.max_gb` to 3: all images take about 2.0 GB, and what is over 5.5 MB is "
        "decoded anew each epoch, and slower than measured"
    )


def test_scaled_decoding_is_advised_where_it_is_off_and_saves() -> None:
    assert scale(FIGURES) is None
    assert scale(replace(FIGURES, scaled=9.5)) is None
    said = "load with `scaled_decoding=True`: an image takes 6.00 ms instead of 10.0"
    assert scale(replace(FIGURES, scaled=6.0)) == said


ASKED, OTHER, MORE = Load(2, "processes", 5.0), Load(2, "threads", 3.0), Load(4, "processes", 2.6)


def test_the_other_backend_is_advised_where_it_is_faster() -> None:
    said = 'load with `backend="threads"`: 3.00 ms an image instead of 5.00'
    assert choose_backend(replace(FIGURES, loads=(ASKED, OTHER, MORE))) == said
    assert choose_backend(replace(FIGURES, loads=(ASKED, replace(OTHER, ms=4.5)))) is None
    assert choose_backend(replace(FIGURES, loads=(ASKED, MORE))) is None
    assert choose_backend(FIGURES) is None


def test_more_workers_are_advised_up_to_the_cores() -> None:
    said = "load with `workers=4`: 2.60 ms an image instead of 5.00 with 2; there are 8 cores"
    loads = (ASKED, OTHER, MORE)
    assert add_workers(replace(FIGURES, loads=loads)) == said
    assert add_workers(replace(FIGURES, loads=loads, cores=2)) is None
    assert add_workers(replace(FIGURES, loads=(ASKED, OTHER, replace(MORE, ms=4.5)))) is None
    assert add_workers(replace(FIGURES, loads=(ASKED, OTHER))) is None
    assert add_workers(FIGURES) is None


def test_advice_is_what_the_rules_say_in_order() -> None:
    assert advise(FIGURES) == ()
    figures = replace(
        FIGURES,
        loads=(ASKED, OTHER, MORE),
        move=Move(LINES, 8.0, None),
        keeping=Keeping(2.0, 0.5, None),
        room=Room(2.0, 1.0),
        scaled=6.0,
    )
    words = [
        "move ",
        "add `cache",
        "raise ",
        "load with `scaled",
        "load with `back",
        "load with `w",
    ]
    said = advise(figures)
    assert [text.startswith(word) for text, word in zip(said, words, strict=True)] == [True] * 6
