"""The other libraries' transforms in words, from the facts: no library is imported."""

from __future__ import annotations

import textwrap

from augpipe.foreign import LIBRARIES, SECTIONS, facts
from augpipe.foreign.facts import LIMITS


def list_libraries(width: int = 100) -> str:
    """Returns what recipes may have of the other libraries, with what each transform cannot."""
    return "\n\n".join(list_library(library, width) for library in LIBRARIES)


def list_library(library: str, width: int = 100, reasons: bool = False) -> str:
    """Returns a library's transforms: their names, then those of each limit.

    Args:
        library: One of LIBRARIES.
        width: Of a line, in characters.
        reasons: Whether to say what is left out, and why.
    """
    known = facts()
    limits, left_out = known.limits[library], known.left_out[library]
    sections = " and ".join(f"{section}:" for section in SECTIONS[library])
    lines = [
        f"{library}.*  {len(limits)} transforms of {library} {known.versions[library]}, "
        f"in {sections}",
        _filled(", ".join(limits), "  ", width),
    ]
    for limit in LIMITS:
        names = [own for own, each in limits.items() if limit in each]
        if names or limit == "not deterministic":
            words = limit.replace("row by row", "slower, one image at a time")
            lines.append(_filled(f"{words}: {', '.join(names) or 'none'}", "    ", width))
    if not reasons:
        lines.append(f"    left out: {len(left_out)} (augpipe ops {library} says which and why)")
        return "\n".join(lines)
    lines += ["", "Left out"]
    for reason in dict.fromkeys(left_out.values()):
        names = [own for own, each in left_out.items() if each == reason]
        lines.append(_filled(f"{reason}: {', '.join(names)}", "  ", width))
    return "\n".join(lines)


def _filled(text: str, indent: str, width: int) -> str:
    """Wraps a list of names; lines after the first hang two further."""
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=indent if indent == "  " else indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
