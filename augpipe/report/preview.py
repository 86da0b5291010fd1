"""A recipe on a few images, ready to be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from augpipe.errors import AugpipeError, DataError, UsageError, in_a_line
from augpipe.pipeline import Pipeline
from augpipe.plan.explain import count, plural
from augpipe.recipe import Recipe
from augpipe.report.sources import Sources
from augpipe.report.story import Preview, Story, tell
from augpipe.settings import KeypointRules

MOST = 100
"""Images, and variants of each, in one preview."""

_LOOKED = 200  # records of a dataset, at most, to choose images by
_T = TypeVar("_T")


def build_preview(
    recipe: Recipe,
    sources: Sources,
    title: str,
    *,
    samples: int = 3,
    variants: int = 5,
    epoch: int = 0,
) -> tuple[Preview, tuple[DataError, ...]]:
    """Runs a recipe on a few images.

    Where the recipe mixes images, those of one epoch are the batch that is mixed; where they
    leave the sample section with different sizes, the batch section is not shown. Kornia's ops
    get batches of one. For both, images are made RGB, as those of a folder are for training.
    Native ops that mix nothing, alone in a batch section, follow the sample section.

    Args:
        recipe: What to do.
        sources: The images to choose from; what is known of them is drawn.
        title: The preview's heading.
        samples: How many images, 1 to 100: those with annotations first, then spread over the
            classes.
        variants: How many epochs of each, 1 to 100.
        epoch: The first of them; the last is below 2**32.

    Returns:
        The preview, and the images that could not be used; others took their places.

    Raises:
        UsageError: If a number is out of its range.
        DataError: If no image could be used.
    """
    for name, number in (("samples", samples), ("variants", variants)):
        if not 1 <= number <= MOST:
            raise UsageError(f"{name} is {number}: it goes from 1 to {MOST}")
    if not 0 <= epoch <= 2**32 - variants:
        last = f"{2**32 - variants} with {plural(variants, 'variant')}"
        raise UsageError(f"epoch is {epoch}: it goes from 0 to {last}")
    alone, needy = recipe.one_by_one()
    seen = _unended(recipe if needy else alone)
    nodes = Pipeline(seen).batch_nodes
    mixing = [step.key for each in nodes for step in each.steps if step.op.company]
    stories: list[Story] = []
    errors: list[DataError] = []
    for index in _spread(sources, samples):
        if len(stories) == samples or len(errors) > samples:
            break
        where = sources.where(index)
        try:
            story = tell(seen, sources, index, variants=variants, epoch=epoch, rgb=bool(needy))
            if needy and not mixing:
                story = _by_itself(seen, story, where, epoch, sources.classes)
        except DataError as error:
            errors.append(error)
        except AugpipeError:
            raise
        except Exception as error:  # one image must not end the preview
            errors.append(DataError(where, in_a_line(error)))
        else:
            stories.append(story)
    if not stories:
        raise errors[0]
    missing: tuple[str, ...] = ()
    if mixing:
        try:
            stories, missing = _mixed(seen, stories, epoch, sources.classes, mixing)
        except DataError as error:
            errors.append(DataError("the batch section", str(error)))
            bare = all(story.variants[0].marks is None for story in stories)
            wants = bare and any(key.startswith("copy_paste#") for key in mixing)
            hint = " (preview takes an annotated dataset, or --annotations)" * wants
            missing = (f"Not shown: {_section(seen)}: {error}{hint}.",)
    facts = (*_facts(recipe, bool(mixing) and not missing), *missing)
    plan = str(Pipeline(recipe).explain(stories[0].variants[0].image.shape[:2]))
    shown = {label for s in stories for p in s.variants if p.marks for label in p.marks.classes()}
    names = {k: each.name for k, each in enumerate(sources.categories, 1) if k in shown}
    preview = Preview(title, facts, tuple(stories), names, plan, recipe.dump(), missing)
    return preview, tuple(errors)


def _unended(recipe: Recipe) -> Recipe:
    """Returns a recipe without the ops that end in numbers, and without keypoints' names."""
    sections = {"sample": recipe.sample, "batch": recipe.batch}
    kept = {name: tuple(op for op in ops if not op.last) for name, ops in sections.items()}
    return recipe.model_copy(update={**kept, "keypoints": KeypointRules()})  # dots have no names


def _by_itself(
    recipe: Recipe, story: Story, where: str, epoch: int, classes: Sequence[str]
) -> Story:
    """Does the batch section to an image as a batch of one.

    Raises:
        DataError: The batch section cannot take it.
    """
    from augpipe.report.together import finish

    try:
        (done,) = finish(recipe, [story], epoch, classes)
    except DataError as error:
        raise DataError(where, str(error)) from error
    return done


def _mixed(
    recipe: Recipe, stories: list[Story], epoch: int, classes: Sequence[str], mixing: Sequence[str]
) -> tuple[list[Story], tuple[str, ...]]:
    """Does the batch section to all images together; returns them, and what could not be shown.

    Raises:
        DataError: The batch section cannot take the images.
    """
    from augpipe.report.together import finish

    for pictures in zip(*(story.variants[1:] for story in stories), strict=True):
        shapes = sorted({picture.image.shape[:2] for picture in pictures})
        if len(shapes) > 1:
            sizes = ", ".join(" × ".join(map(str, shape)) for shape in shapes[:3])
            more = ", ..." if len(shapes) > 3 else ""
            return stories, (
                f"Not shown: {_section(recipe)}: a batch needs images of one size, and the "
                f"sample section leaves {sizes}{more}.",
            )
    done = list(finish(recipe, stories, epoch, classes))
    if len(done) > 1:
        return done, ()
    names = ", ".join(dict.fromkeys(key.partition("#")[0] for key in mixing))
    return done, (f"Not shown: {names}: one image alone has no partner to be mixed with.",)


def _section(recipe: Recipe) -> str:
    return f"the batch section ({', '.join(op.name() for op in recipe.batch)})"


def _facts(recipe: Recipe, mixed: bool) -> tuple[str, ...]:
    pipe = Pipeline(recipe)
    ops, passes = count((*pipe.nodes, *pipe.batch_nodes))
    facts = [f"{plural(ops, 'op')} in {plural(passes, 'pass')}, seed {recipe.seed}"]
    ends = [op.name() for op in (*recipe.sample, *recipe.batch) if op.last]
    if ends:
        facts.append(f"Shown before {', '.join(ends)}, which makes numbers of the picture.")
    if mixed:
        facts.append("The images shown are the batch that is mixed, epoch by epoch.")
    return tuple(facts)


def _spread(sources: Sources, count: int) -> list[int]:
    """Orders images so that the first `count` show the most.

    Those with annotations, where there are any; one of each class before the second of any;
    classes, or images where there are no classes, at even distances. What cannot be read stands
    last. Of a large dataset, whose records are read one by one, some images are looked at, at even
    distances.
    """
    classes: dict[str | None, list[int]] = {}
    marked: dict[str | None, list[int]] = {}
    unread: list[int] = []
    many = len(sources)
    some = many if sources.listing is not None else min(many, _LOOKED)
    for index in (k * many // some for k in range(some)):
        try:
            source = sources[index]
        except DataError:
            unread.append(index)
            continue
        classes.setdefault(source.label, []).append(index)
        if source.marked:
            marked.setdefault(source.label, []).append(index)
    groups = list((marked or classes).values())
    if len(groups) == 1:
        return [*_evenly(groups[0], count), *unread]
    groups = _evenly(groups, count) if groups else []
    deepest = max((len(group) for group in groups), default=0)
    return [*(group[i] for i in range(deepest) for group in groups if i < len(group)), *unread]


def _evenly(items: list[_T], count: int) -> list[_T]:
    """Returns the items, with `count` of them at even distances first."""
    first = dict.fromkeys(k * len(items) // count for k in range(count))
    return [items[i] for i in first] + [x for i, x in enumerate(items) if i not in first]
