"""A recipe on a few images of a folder, ready to be drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from augpipe.data.folder import Listing, Source
from augpipe.errors import AugpipeError, DataError, UsageError, in_a_line
from augpipe.pipeline import Pipeline
from augpipe.plan.explain import count, plural
from augpipe.recipe import Recipe
from augpipe.report.annotations import Annotations
from augpipe.report.story import Preview, Story, tell

MOST = 100
"""Images, and variants of each, in one preview."""

_T = TypeVar("_T")


def build_preview(
    recipe: Recipe,
    listing: Listing,
    title: str,
    *,
    samples: int = 3,
    variants: int = 5,
    epoch: int = 0,
    annotations: Annotations | None = None,
) -> tuple[Preview, tuple[DataError, ...]]:
    """Runs a recipe on a few images.

    Where the recipe mixes images, those of one epoch are the batch that is mixed; where they
    leave the sample section with different sizes, the batch section is not shown. Kornia's ops
    get batches of one. For both, images are made RGB, as those of a folder are for training.
    Native ops that mix nothing, alone in a batch section, follow the sample section.

    Args:
        recipe: What to do.
        listing: The images to choose from.
        title: The preview's heading.
        samples: How many images, 1 to 100: those with annotations first, then spread over the
            classes.
        variants: How many epochs of each, 1 to 100.
        epoch: The first of them; the last is below 2**32.
        annotations: Boxes, masks and keypoints to draw.

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
    known = annotations or Annotations()
    alone, needy = recipe.one_by_one()
    seen = _unended(recipe if needy else alone)
    nodes = Pipeline(seen).batch_nodes
    mixing = [step.key for each in nodes for step in each.steps if step.op.company]
    stories: list[Story] = []
    errors: list[DataError] = []
    for index, source in _spread(listing, known, samples):
        if len(stories) == samples or len(errors) > samples:
            break
        try:
            story = tell(
                seen,
                source,
                index,
                variants=variants,
                epoch=epoch,
                annotations=annotations,
                rgb=bool(needy),
            )
            if needy and not mixing:
                story = _by_itself(seen, story, source, epoch, listing.classes)
        except DataError as error:
            errors.append(error)
        except AugpipeError:
            raise
        except Exception as error:  # one image must not end the preview
            errors.append(DataError(source.path, in_a_line(error)))
        else:
            stories.append(story)
    if not stories:
        raise errors[0]
    missing: tuple[str, ...] = ()
    if mixing:
        try:
            stories, missing = _mixed(seen, stories, epoch, listing.classes, mixing)
        except DataError as error:
            errors.append(DataError("the batch section", str(error)))
            wants = annotations is None and any(key.startswith("copy_paste#") for key in mixing)
            hint = " (preview takes --annotations)" * wants
            missing = (f"Not shown: {_section(seen)}: {error}{hint}.",)
    facts = (*_facts(recipe, bool(mixing) and not missing), *missing)
    plan = str(Pipeline(recipe).explain(stories[0].variants[0].image.shape[:2]))
    shown = {label for s in stories for p in s.variants if p.marks for label in p.marks.classes()}
    names = {label: name for label, name in known.names.items() if label in shown}
    preview = Preview(title, facts, tuple(stories), names, plan, recipe.dump(), missing)
    return preview, tuple(errors)


def _unended(recipe: Recipe) -> Recipe:
    """Returns a recipe without the ops that end in numbers."""
    sections = {"sample": recipe.sample, "batch": recipe.batch}
    kept = {name: tuple(op for op in ops if not op.last) for name, ops in sections.items()}
    return recipe.model_copy(update=kept)


def _by_itself(
    recipe: Recipe, story: Story, source: Source, epoch: int, classes: Sequence[str]
) -> Story:
    """Does the batch section to an image as a batch of one.

    Raises:
        DataError: The batch section cannot take it.
    """
    from augpipe.report.together import finish

    try:
        (done,) = finish(recipe, [story], epoch, classes)
    except DataError as error:
        raise DataError(source.path, str(error)) from error
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


def _spread(listing: Listing, known: Annotations, count: int) -> list[tuple[int, Source]]:
    """Orders images, with their indices, so that the first `count` show the most.

    Those with annotations, where there are any; one of each class before the second of any;
    classes, or images where there are no classes, at even distances.
    """
    every = list(enumerate(listing.sources))
    marked = [each for each in every if known.has(each[1].relative)]
    classes: dict[str | None, list[tuple[int, Source]]] = {}
    for each in marked or every:
        classes.setdefault(each[1].label, []).append(each)
    if len(classes) == 1:
        return _evenly(marked or every, count)
    groups = _evenly(list(classes.values()), count)
    deepest = max(len(group) for group in groups)
    return [group[i] for i in range(deepest) for group in groups if i < len(group)]


def _evenly(items: list[_T], count: int) -> list[_T]:
    """Returns the items, with `count` of them at even distances first."""
    first = dict.fromkeys(k * len(items) // count for k in range(count))
    return [items[i] for i in first] + [x for i, x in enumerate(items) if i not in first]
