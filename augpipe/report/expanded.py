"""What an expansion came to, as a value and as a page: counts, examples, times, near duplicates."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from augpipe.data.address import place_of
from augpipe.data.annotated import Category, image_from
from augpipe.data.content import Content, FileContent
from augpipe.data.decode import decode
from augpipe.data.encode import encode, write_atomic
from augpipe.data.folder import scan
from augpipe.data.formats import open_dataset
from augpipe.errors import AugpipeError, DataError, UsageError, in_a_line
from augpipe.expansion.estimating import Count, counted
from augpipe.expansion.finishing import packed_contents
from augpipe.expansion.jobs import read_record, recipe_of
from augpipe.expansion.manifest import Row, rows_of
from augpipe.expansion.progress import Progress
from augpipe.expansion.record import ERRORS, MANIFEST, REPORT, SIMILAR, Record
from augpipe.expansion.skipped import read_skipped
from augpipe.expansion.sources import Plan, plan_for
from augpipe.pipeline import Pipeline
from augpipe.plan.explain import plural
from augpipe.recipe import Recipe
from augpipe.report.annotations import marks_of
from augpipe.report.looks import Looks, compare_looks
from augpipe.report.sources import Sources
from augpipe.report.story import Picture, Story
from augpipe.report.timing import Timed, one_thread
from augpipe.targets import Sample
from augpipe.types import Array

_EXAMPLES, _COPIES = 6, 5  # images shown, and copies of each
_TIMED, _ROUNDS = 16, 3


@dataclass(frozen=True, slots=True)
class Skipped:
    """Why images could not be used.

    Args:
        reason: Why.
        count: How many.
        example: The first of them.
    """

    reason: str
    count: int
    example: str


@dataclass(frozen=True, slots=True)
class Expanded:
    """What an expansion came to.

    Args:
        title: The recipe's input and output.
        facts: What to know about it, one line each.
        classes: Images by class, before and after.
        objects: Objects by category, before and after.
        stories: Examples: an image and its copies.
        names: The names of the classes of objects that are drawn.
        times: What is done to a copy, and its milliseconds.
        timed: What was timed, or why nothing was.
        looks: Near duplicates, and copies that hardly differ.
        skipped: Images that could not be used.
        plan: The plan in words.
        recipe: The recipe as YAML.
    """

    title: str
    facts: tuple[str, ...]
    classes: tuple[Count, ...]
    objects: tuple[Count, ...]
    stories: tuple[Story, ...]
    names: dict[int, str]
    times: tuple[tuple[str, float], ...]
    timed: str
    looks: Looks
    skipped: tuple[Skipped, ...]
    plan: str
    recipe: str


def write_report(
    out: str | Path, workers: int = 0, progress: Progress | None = None
) -> tuple[Path, Looks]:
    """Writes report.html and similar.jsonl into the folder of an expansion.

    Args:
        out: The folder.
        workers: Threads that look at images; 0 works in the caller's.
        progress: Called at most ten times a second, and at the end, with images looked at.

    Returns:
        The page, and what images look like beside one another.

    Raises:
        UsageError: It is no expansion, or its images are not there.
        AugpipeError: It cannot be read or written.
    """
    from augpipe.report.page import draw_page

    out = place_of(out)
    done = describe(out, workers, progress)
    write_atomic(out / SIMILAR, b"".join(_lines(done.looks)))
    write_atomic(out / REPORT, draw_page(done).encode())
    return out / REPORT, done.looks


def _lines(looks: Looks) -> Iterator[bytes]:
    """Yields the lines of similar.jsonl: groups of the input's images, then idle copies."""
    for group in looks.groups:
        images = [
            {"source": each.name, "label": each.label, "split": each.split}
            for each in group.sources
        ]
        yield json.dumps({"alike": images}).encode() + b"\n"
    for idle in looks.idle:
        yield json.dumps({**idle._asdict(), "levels": round(idle.levels, 2)}).encode() + b"\n"


def describe(out: Path, workers: int = 0, progress: Progress | None = None) -> Expanded:
    """Returns what an expansion came to; see `write_report`."""
    record = read_record(out)
    root = place_of(record.source)
    if not root.exists():
        raise UsageError(f"{root}: the images are not there any more: a report needs them")
    plan, sources = _sources(record, root)
    contents = {} if plan is None else packed_contents(plan, out)
    recipe = recipe_of(record)
    looks = compare_looks(sources, out / MANIFEST, contents, out, workers, progress)
    labels = [sources.label(index) for index in range(sources.own)]
    chosen = _spread(labels, _EXAMPLES)
    tally, shown = _read(out / MANIFEST, chosen)
    stories = tuple(_stories(shown, sources, contents, out))
    drawn = {label for s in stories for p in s.variants if p.marks for label in p.marks.classes()}
    times, timed = _times(recipe, record, sources)
    return Expanded(
        f"{root.name} expanded to {out.name}",
        _facts(record, recipe, tally, sources),
        _classes(labels, tally.classes),
        _objects(plan, tally.objects),
        stories,
        {k: each.name for k, each in enumerate(sources.categories, 1) if k in drawn},
        times,
        timed,
        looks,
        _skipped(out / ERRORS),
        str(Pipeline(recipe).explain()),
        recipe.dump(),
    )


def _sources(record: Record, root: Path) -> tuple[Plan | None, Sources]:
    said, split = record.dataset, record.settings.split
    if said is None:
        listing = scan(root, split)
        whole = None
        if listing.sources[0].split is not None:
            whole = open_dataset(root, "folder")
        return None, Sources(listing, whole=whole)
    images = None if said.images is None else Path(said.images)
    plan = plan_for(root, said.format, said.to, images, split)
    assert plan is not None
    whole = open_dataset(root, said.format, images) if plan.dataset.splits else None
    return plan, Sources(None, plan.dataset, whole)


@dataclass(slots=True)
class _Tally:
    """What the rows of a manifest come to."""

    classes: Counter[str]
    objects: Counter[int]
    outputs: int = 0
    bytes: int = 0
    mixed: int = 0
    generated: int = 0


def _read(manifest: Path, chosen: Sequence[int]) -> tuple[_Tally, dict[int, list[Row]]]:
    """Counts a manifest's rows; keeps those of a few images."""
    tally = _Tally(Counter(), Counter())
    shown: dict[int, list[Row]] = defaultdict(list)
    for row in (row for _, row in rows_of(manifest) if row is not None):
        tally.outputs += 1
        tally.bytes += row.bytes
        tally.classes[row.label or ""] += 1
        tally.mixed += row.shares is not None
        tally.generated += row.generated
        if row.record is not None:
            objects = image_from(row.record, FileContent(Path()), None).annotations
            tally.objects.update(each.category for each in objects)
        if row.index in chosen and row.copy is not None and len(shown[row.index]) < _COPIES:
            shown[row.index].append(row)
    return tally, {index: shown[index] for index in chosen if shown.get(index)}


def _spread(labels: Sequence[str | None], count: int) -> list[int]:
    """Returns some images at even distances, one of each class before the second of any."""
    classes: dict[str | None, list[int]] = {}
    for index, label in enumerate(labels):
        classes.setdefault(label, []).append(index)
    groups = [list(own) for _, own in sorted(classes.items(), key=lambda each: str(each[0]))]
    some = min(count, len(groups))
    groups = [groups[k * len(groups) // some] for k in range(some)]
    each = -(-count // max(some, 1))
    return [own[k * len(own) // each] for own in groups for k in range(min(each, len(own)))][:count]


def _classes(labels: Sequence[str | None], after: Counter[str]) -> tuple[Count, ...]:
    return counted(Counter(label or "" for label in labels), after)


def _objects(plan: Plan | None, after: Counter[int]) -> tuple[Count, ...]:
    if plan is None:
        return ()
    before: Counter[int] = Counter()
    for index in range(len(plan.dataset)):
        try:
            before.update(each.category for each in plan.dataset[index].annotations)
        except DataError:  # listed in errors.jsonl
            continue
    return tuple(
        Count(each.name, before[each.id], after[each.id])
        for each in plan.dataset.meta.categories
        if before[each.id] or after[each.id]
    )


def _facts(record: Record, recipe: Recipe, tally: _Tally, sources: Sources) -> tuple[str, ...]:
    settings = record.settings
    facts = [
        f"{plural(tally.outputs, 'image')} from {sources.own}, {tally.bytes / 1e6:,.1f} MB, "
        f"{settings.format}, seed {recipe.seed}",
    ]
    if recipe.balance is not None:
        words = {"max": "as many images as the largest", "median": "as many as half of them have"}
        target = recipe.balance.target
        facts.append(f"Balanced: each class comes to {words.get(str(target), target)}, at least.")
    for name, rule in recipe.per_class.items():
        copies = "" if rule.copies is None else f", copies of each image: {rule.copies}"
        facts.append(f"{name}: strength {rule.strength:g}{copies}.")
    if tally.generated:
        facts.append(f"{tally.generated} are of images that a generator made.")
    if tally.mixed:
        facts.append(
            f"{tally.mixed} have labels of several classes; manifest.jsonl has the shares."
        )
    return tuple(facts)


def _stories(
    shown: Mapping[int, list[Row]],
    sources: Sources,
    contents: Mapping[str, Content],
    out: Path,
) -> Iterator[Story]:
    for index, rows in shown.items():
        try:
            source = sources[index]
            image = decode(source.content.read(), name=source.name)
            marks = marks_of(source.record, image, sources.categories)
            first = Picture("original", _notes(source.label), image, marks)
            copies = (_copy(row, sources.categories, contents, out) for row in rows)
            pictures = [first, *copies]
        except (AugpipeError, OSError):  # `verify` says what is wrong with it
            continue
        yield Story(source.name, index, tuple(pictures), (), source.label)


def _copy(
    row: Row, categories: Sequence[Category], contents: Mapping[str, Content], out: Path
) -> Picture:
    content = contents.get(row.output) or FileContent(out / row.output)
    image = decode(content.read(), name=row.output)
    record = None
    if row.record is not None:
        mask = None
        if row.mask is not None:
            mask = contents.get(row.mask.path) or FileContent(out / row.mask.path)
        record = image_from(row.record, content, mask)
    shares = sorted((row.shares or {}).items(), key=lambda each: -each[1])[:3]
    notes = tuple(f"{name} {share:.2f}" for name, share in shares)
    return Picture(f"copy {row.copy}", notes, image, marks_of(record, image, categories))


def _notes(label: str | None) -> tuple[str, ...]:
    return () if label is None else (label,)


def _skipped(path: Path) -> tuple[Skipped, ...]:
    found: dict[str, list[str]] = defaultdict(list)
    for row in filter(None, read_skipped(path)):
        found[row.reason].append(row.source)
    made = (Skipped(reason, len(names), names[0]) for reason, names in found.items())
    return tuple(sorted(made, key=lambda each: -each.count))


class _Items:
    """Images as the clock takes them: pixels, and a class; without those that are none."""

    def __init__(self, sources: Sources) -> None:
        self.data: list[bytes] = []
        for index in dict.fromkeys(k * sources.own // _TIMED for k in range(_TIMED)):
            try:
                data = sources[index].content.read()
                decode(data)
            except DataError:  # listed in errors.jsonl
                continue
            self.data.append(data)

    def __getitem__(self, index: int) -> tuple[Array, int]:
        return decode(self.data[index]), 0


def _times(
    recipe: Recipe, record: Record, sources: Sources
) -> tuple[tuple[tuple[str, float], ...], str]:
    """Times what is done to a copy, pass by pass, on a few images in memory, in one thread."""
    items = _Items(sources)
    count = len(items.data)
    if not count:
        return (), "Not timed: no image can be used."
    try:
        pipe = Pipeline(recipe.model_copy(update={"cache": None}))
        timed = Timed(pipe, items)
        with one_thread():
            timed.round(range(count), 0)  # what is done once
            for epoch in range(_ROUNDS):
                timed.run(range(count), epoch)
            samples = [Sample(items[index][0]) for index in range(count)]
            done = pipe.run(samples, np.arange(count), 0)
            start = time.perf_counter()
            for each in done:
                encode(each.image, record.settings.format, record.settings.quality)
            spent = 1000.0 * (time.perf_counter() - start) / count
    except AugpipeError as error:
        return (), f"Not timed: {error}"
    except Exception as error:  # a report must not fail for its clock
        return (), f"Not timed: {in_a_line(error)}"
    parts = [(each.name, each.ms) for each in timed.parts(count) if each.kind != "collate"]
    words = f"Measured on {plural(count, 'image')} in memory, in one thread, without the disk."
    if timed.tail.unmeasured:
        words += f" Not timed: {timed.tail.unmeasured}."
    return (*parts, (f"encode {record.settings.format}", spent)), words
