"""A preview as one HTML file, and what such files share: no scripts, nothing fetched."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from augpipe.report.draw import color_of, drawn
from augpipe.report.sheet import cell_of
from augpipe.report.story import Picture, Preview, Story

_SHARP = 2  # image pixels a CSS pixel, for screens of high density
_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1e; --pale: #5f5f67; --rule: #d8d8dc;
  --paper: #fff; --soft: #f4f4f6; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf0; --pale: #a2a2ac;
  --rule: #3a3a40; --paper: #161618; --soft: #202024; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 90rem; color: var(--ink);
  background: var(--paper); font: 16px/1.45 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0; overflow-wrap: anywhere; }
h3 { font-size: .95rem; margin: 1rem 0 .5rem; font-weight: 500; color: var(--pale); }
p { margin: .15rem 0; color: var(--pale); }
section { margin-top: 1.5rem; padding-top: 1rem; border-top: 1px solid var(--rule); }
.row { display: grid; gap: 1rem; margin-top: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(168px, 44vw), 1fr)); }
figure { margin: 0; min-width: 0; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--rule); }
.pixels img { image-rendering: pixelated; }
figcaption { margin-top: .3rem; font-size: .9rem; overflow-wrap: anywhere; }
figcaption span { display: block; color: var(--pale); font-size: .8rem; }
.idle figcaption { color: var(--pale); }
ul { list-style: none; margin: .6rem 0 0; padding: 0; display: flex; flex-wrap: wrap;
  gap: .3rem 1.1rem; font-size: .9rem; }
li i { display: inline-block; width: .75rem; height: .75rem; margin-right: .4rem; }
table { border-collapse: collapse; margin-top: .75rem; font-size: .9rem; }
th, td { text-align: left; padding: .2rem 1.2rem .2rem 0; overflow-wrap: anywhere; }
th { font-weight: 500; color: var(--pale); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.bar { width: 16rem; min-width: 6rem; }
.bar i { display: block; height: .5rem; margin: .12rem 0; background: #0072b2; }
.bar i.before { background: var(--pale); }
details { margin-top: .75rem; }
summary { cursor: pointer; }
pre { overflow-x: auto; padding: .75rem; background: var(--soft); font-size: .8rem;
  line-height: 1.4; }
""".strip()


def draw_html(preview: Preview) -> str:
    """Returns a preview as an HTML page that stands alone.

    Args:
        preview: What to show; it has a story or more.
    """
    cell = cell_of(preview.stories)
    facts = "\n".join(f"<p>{escape(fact)}</p>" for fact in preview.facts)
    stories = "\n".join(_story(story, cell, preview.names) for story in preview.stories)
    body = f"""{facts}
{legend(preview.names)}
{folded("The plan", preview.plan)}
{folded("The recipe", preview.recipe)}
{stories}"""
    return page(preview.title, body)


def page(title: str, body: str) -> str:
    """Returns a whole page.

    Args:
        title: Its heading, as text.
        body: What follows, as HTML.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
</body>
</html>
"""


def folded(title: str, text: str) -> str:
    """Returns a text that is shown when its title is clicked."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"


def legend(names: dict[int, str]) -> str:
    """Returns the colours of classes of objects."""
    items = "".join(
        f'<li><i style="background: rgb{color_of(label)}"></i>{escape(name)}</li>'
        for label, name in names.items()
    )
    return f"<ul>{items}</ul>" if items else ""


def _story(story: Story, cell: int, names: dict[int, str]) -> str:
    built = ""
    if story.steps:
        built = (
            f"<h3>Op by op, as in {escape(story.variants[1].title)}</h3>\n"
            f"{row(story.steps, cell, names)}"
        )
    return (
        f"<section>\n<h2>{escape(story.name)}</h2>\n"
        f"{row(story.variants, cell, names)}\n{built}\n</section>"
    )


def row(pictures: Sequence[Picture], cell: int, names: dict[int, str]) -> str:
    """Returns pictures side by side, each with its caption.

    Args:
        pictures: What to show.
        cell: The longest side of each, in CSS pixels.
        names: The names of the classes of objects.
    """
    figures = "\n".join(_figure(picture, cell, names) for picture in pictures)
    return f'<div class="row">\n{figures}\n</div>'


def _figure(picture: Picture, cell: int, names: dict[int, str]) -> str:
    longest = max(picture.image.shape[:2])
    small, enlarged = longest <= cell, 2 * longest <= cell
    unit = 1 if small else _SHARP
    image = drawn(picture, cell * unit, names, unit)
    # Few pixels are kept as they are; a photo as PNG would be five times as large.
    buffer = io.BytesIO()
    if small:
        image.save(buffer, "PNG")
    else:
        image.save(buffer, "JPEG", quality=92, subsampling="4:4:4")
    data = base64.b64encode(buffer.getvalue()).decode()
    kind = " ".join(filter(None, ("pixels" * enlarged, "idle" * picture.idle)))
    notes = "".join(f"<span>{escape(note)}</span>" for note in picture.notes)
    return (
        f'<figure class="{kind}"><img width="{image.width // unit}" alt="{escape(picture.title)}" '
        f'src="data:image/{"png" if small else "jpeg"};base64,{data}">'
        f"<figcaption>{escape(picture.title)}{notes}</figcaption></figure>"
    )
