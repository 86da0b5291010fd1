"""What an expansion came to, as one HTML file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from augpipe.errors import DataError
from augpipe.expansion.estimating import Count
from augpipe.plan.explain import plural
from augpipe.report.expanded import Expanded
from augpipe.report.html import folded, legend, page, row
from augpipe.report.looks import IDLE, Group, Looks, across, pixels_of
from augpipe.report.sheet import cell_of
from augpipe.report.similar import BITS, LEVELS
from augpipe.report.story import Picture

_ROWS = 100  # of a table
_GROUPS, _MEMBERS = 12, 6  # of near duplicates that are shown
_IDLE = 20
_CELL = 112


def draw_page(expanded: Expanded) -> str:
    """Returns what an expansion came to as an HTML page that stands alone."""
    parts = [
        "\n".join(f"<p>{escape(fact)}</p>" for fact in expanded.facts),
        _section("Images", _counts("class", expanded.classes)),
        _section("Objects", _counts("category", expanded.objects)) if expanded.objects else "",
        _examples(expanded),
        _section("Time for one copy", _times(expanded)),
        _section("Near duplicates in the input", _alike(expanded.looks)),
        _section("Copies that hardly differ from their source", _idle(expanded.looks)),
        _section("Images that could not be used", _skipped(expanded)),
        folded("The plan", expanded.plan),
        folded("The recipe", expanded.recipe),
    ]
    return page(expanded.title, "\n".join(filter(None, parts)))


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{body}\n</section>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], more: int = 0) -> str:
    """Returns a table of cells that are HTML already; all but the first and last are numbers."""
    last = len(head) - 1

    def line(cells: Sequence[str], tag: str) -> str:
        made = (
            f'<{tag} class="number">{cell}</{tag}>' if 0 < k < last else f"<{tag}>{cell}</{tag}>"
            for k, cell in enumerate(cells)
        )
        return f"<tr>{''.join(made)}</tr>"

    body = "\n".join(line(cells, "td") for cells in rows)
    below = f"<p>... and {more} more</p>" if more else ""
    return f"<table>\n<thead>{line(head, 'th')}</thead>\n<tbody>\n{body}\n</tbody>\n</table>{below}"


def _bar(value: float, most: float, kind: str = "") -> str:
    own = f' class="{kind}"' if kind else ""
    return f'<i{own} style="width: {100.0 * value / max(most, 1e-9):.1f}%"></i>'


def _counts(what: str, counts: Sequence[Count]) -> str:
    most = max((max(each.before, each.after) for each in counts), default=0)
    rows = [
        (
            escape(each.name),
            f"{each.before:,}",
            f"{each.after:,}",
            f'<div class="bar">{_bar(each.before, most, "before")}{_bar(each.after, most)}</div>',
        )
        for each in counts[:_ROWS]
    ]
    whole = sum(each.before for each in counts), sum(each.after for each in counts)
    if len(counts) > 1:
        rows.append(("in all", f"{whole[0]:,}", f"{whole[1]:,}", ""))
    return _table((what, "before", "after", ""), rows, max(0, len(counts) - _ROWS))


def _examples(expanded: Expanded) -> str:
    if not expanded.stories:
        return ""
    cell = cell_of(expanded.stories)
    parts = [legend(expanded.names)]
    for story in expanded.stories:
        parts.append(f"<h3>{escape(story.name)}</h3>\n{row(story.variants, cell, expanded.names)}")
    return _section("Examples", "\n".join(parts))


def _times(expanded: Expanded) -> str:
    said = f"<p>{escape(expanded.timed)}</p>"
    if not expanded.times:
        return said
    most = max(ms for _, ms in expanded.times)
    rows = [
        (escape(name), f"{ms:.3f}", f'<div class="bar">{_bar(ms, most)}</div>')
        for name, ms in expanded.times
    ]
    rows.append(("in all", f"{sum(ms for _, ms in expanded.times):.3f}", ""))
    return said + _table(("what is done", "ms", ""), rows)


def _alike(looks: Looks) -> str:
    rule = (
        f"Hashes that differ in {BITS} of 64 bits at most, and pictures that are {LEVELS:g} grey "
        f"levels apart on average at most, among {plural(looks.images, 'image')}. "
        "What was mirrored, turned or cropped more than a little is not found."
    )
    if not looks.groups:
        return f"<p>None.</p>\n<p>{escape(rule)}</p>"
    of = sum(len(each.sources) for each in looks.groups)
    classes, splits = across(looks.groups)
    said = [f"{plural(len(looks.groups), 'group')} of {of} images."]
    if classes:
        said.append(f"{classes} of them span classes: one of the labels may be wrong.")
    if splits:
        said.append(f"{splits} of them span splits: what is learned from leaks into what measures.")
    worst = sorted(looks.groups, key=lambda each: (-len(each.kinds), -len(each.classes)))
    parts = [f"<p>{escape(' '.join(said))}</p>", f"<p>{escape(rule)} similar.jsonl has all.</p>"]
    for group in worst[:_GROUPS]:
        spans = [name for name in (", ".join(group.kinds), ", ".join(group.classes)) if name]
        parts.append(f"<h3>{escape('; '.join(spans) or 'alike')}</h3>")
        parts.append(row(list(_members(group)), _CELL, {}))
    if len(worst) > _GROUPS:
        parts.append(f"<p>... and {plural(len(worst) - _GROUPS, 'group')} more</p>")
    return "\n".join(parts)


def _members(group: Group) -> Iterator[Picture]:
    """Yields the pictures of a group, of each split and each class before the second of any."""
    first = {(each.split, each.label): each for each in reversed(group.sources)}
    ones = list(reversed(first.values()))
    rest = [each for each in group.sources if each not in ones]
    for source in [*ones, *rest][:_MEMBERS]:
        try:
            yield Picture(source.name, (), pixels_of(source, whole=False))
        except DataError:  # it was there when it was looked at
            continue


def _idle(looks: Looks) -> str:
    rule = f"Pixels that are {IDLE:g} grey levels apart on average, at most."
    if not looks.idle:
        return f"<p>None of {looks.copies}. {rule}</p>"
    share = len(looks.idle) / looks.copies
    said = f"{len(looks.idle)} of {looks.copies} ({share:.1%}). {rule} similar.jsonl has all."
    rows = [
        (escape(each.output), f"{each.levels:.2f}", escape(each.source))
        for each in looks.idle[:_IDLE]
    ]
    more = max(0, len(looks.idle) - _IDLE)
    return f"<p>{said}</p>" + _table(("copy", "grey levels", "source"), rows, more)


def _skipped(expanded: Expanded) -> str:
    if not expanded.skipped:
        return "<p>None.</p>"
    count = sum(each.count for each in expanded.skipped)
    rows = [
        (escape(each.reason), str(each.count), escape(each.example))
        for each in expanded.skipped[:_ROWS]
    ]
    more = max(0, len(expanded.skipped) - _ROWS)
    table = _table(("why", "images", "the first"), rows, more)
    return f"<p>{plural(count, 'image')}; errors.jsonl has all.</p>{table}"
