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
    get batches of one. Whatever else the batch section has is done to each image by itself.

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
    mixing = [s.key for n in Pipeline(seen).batch_nodes if n.kind is Mix for s in n.steps]
    stories: list[Story] = []
    errors: list[DataError] = []
    for index, source in _spread(listing, known, samples):
        if len(stories) == samples or len(errors) > samples:
            break
        try:
            story = tell(
                seen, source, index, variants=variants, epoch=epoch, annotations=annotations
            )
            if needy and not mixing:
                (story,) = _finish(seen, source, [story], epoch)
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
    facts = _facts(alone, seen, left_out)
    plan = str(Pipeline(recipe).explain(stories[0].variants[0].image.shape[:2]))
    shown = {label for s in stories for p in s.variants if p.marks for label in p.marks.classes()}
    names = {label: name for label, name in known.names.items() if label in shown}
    preview = Preview(title, facts, tuple(stories), names, plan, recipe.dump())
    return preview, tuple(errors)


def _facts(recipe: Recipe, seen: Recipe, left_out: Sequence[str]) -> tuple[str, ...]:
    ops, passes = count(Pipeline(recipe).nodes)
    facts = [f"{plural(ops, 'op')} in {plural(passes, 'pass')}, seed {recipe.seed}"]
    ends = [op.name() for op in recipe.sample if op not in seen.sample]
    if ends:
        facts.append(f"Shown before {', '.join(ends)}, which makes numbers of the picture.")
    if left_out:
        facts.append(f"Not shown: {', '.join(left_out)}, which need a batch.")
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
