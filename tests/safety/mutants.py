"""Mutants: what a stranger, a bad disk or a slip of the hand makes of a file that was fine."""

from __future__ import annotations

import re
from functools import reduce
from typing import Any

from hypothesis import strategies as st

_TOKEN = re.compile(rb"[A-Za-z_]+|-?[0-9][0-9.eE+-]*|\"[^\"\n]*\"|[^\sA-Za-z0-9_]")
_EDGES = [
    b"",
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\r",
    b"\n",
]
WORDS = [
    *(
        b"0",
        b"-1",
        b"1",
        b"3",
        b"1e308",
        b"-1e308",
        b"1e999",
        b"NaN",
        b"Infinity",
        b".nan",
        b".inf",
    ),
    *(b"9" * 25, b"9" * 5000, b"9223372036854775808", b"0x10", b"1_0", b"null", b"true", b"~", b""),
    *(b'"', b"'", b"<", b">", b"&lol;", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"{", b"}", b"[", b"]"),
    *(b'"\\ud800"', b'"\\u0000"', b'"\\n"', b'"../../up"', b'"/etc/passwd"', b"../../up", b"/etc"),
    *(
        b"[" * 2000,
        b"[" * 50 + b"]" * 50,
        b"{}",
        b"[]",
        b"[[]]",
        b'""',
        b":",
        b",",
        b"-",
        b"#",
        b"%",
    ),
    *(b"&a ", b"*a", b"!!python/object/apply:os.system ['x']", b"\t", b"\xc3\xa9", b"\xc3", b"\0"),
    *(b'"' + b"n" * 300 + b'"', b'"C:\\\\up"', b'"a\\\\b"', b'"."', b'".."', b'" "', b'"a/../.."'),
]
"""What is put in the place of a word."""

VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 2, 3.5, -0.0, 1e308, -1e308, 5e-324, 2**31, 2**63, -(2**63) - 1),
    *(
        10**25,
        float("nan"),
        float("inf"),
        "",
        " ",
        "a",
        "\n",
        "é\0",
        "\ud800",
        "../../up",
        "/etc",
        ".",
    ),
    *("n" * 300, "bundled", "rotate", "all", [], {}, [[]], [0, 1], [1, 0], [0.0], [1, 2, 3, 4]),
    *({"a": 1}, {"": []}, [None], ["a", 1], [{}], {"bbox": 3}, [[[[[[[[0]]]]]]]], [1e308, -1e308]),
]
"""What is put in the place of a value."""


@st.composite
def mutated(draw: st.DrawFn, data: bytes, head: int | None = None) -> bytes:
    """Bytes with some of them changed, left out, twice there or put in.

    Args:
        draw: Hypothesis's.
        data: The bytes.
        head: How many of the first are changed; any by default.
    """
    out = bytearray(data)
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        reach = len(out) if head is None else min(head, len(out))
        at = draw(st.integers(0, max(reach - 1, 0)))
        match draw(st.sampled_from(("set", "flip", "cut", "end", "twice", "put", "edge"))):
            case "set" if out:
                out[at] = draw(st.integers(0, 255))
            case "flip" if out:
                out[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del out[at : at + draw(st.integers(1, 40))]
            case "end":
                del out[at:]
            case "twice":
                out[at:at] = out[at : at + draw(st.integers(1, 60))]
            case "put":
                out[at:at] = draw(st.binary(min_size=1, max_size=8))
            case "edge":
                edge = draw(st.sampled_from(_EDGES))
                out[at : at + len(edge)] = edge
    return bytes(out)


@st.composite
def reworded(draw: st.DrawFn, data: bytes) -> bytes:
    """Text with some of its words exchanged for others, of its own or of `WORDS`."""
    words = [each.span() for each in _TOKEN.finditer(data)]
    out = data
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        if not words:
            return draw(st.sampled_from(WORDS))
        start, end = words[draw(st.integers(0, len(words) - 1))]
        if end > len(out):
            continue
        other = words[draw(st.integers(0, len(words) - 1))]
        word = draw(st.sampled_from([*WORDS, data[slice(*other)]]))
        out = out[:start] + word + out[end:]
    return out


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Returns the path of every value in a tree of dicts and lists; the tree itself is ()."""
    out = [path]
    inner = (
        tree if isinstance(tree, dict) else dict(enumerate(tree if isinstance(tree, list) else ()))
    )
    for key, value in inner.items():
        out += places(value, (*path, key))
    return out


@st.composite
def regrown(draw: st.DrawFn, tree: Any) -> Any:
    """A tree of dicts and lists in which values, keys and branches were exchanged."""
    out = tree
    for _ in range(draw(st.sampled_from((1, 1, 2, 3)))):
        known = places(out)
        path, other = (known[draw(st.integers(0, len(known) - 1))] for _ in range(2))
        what = draw(st.sampled_from(("value", "value", "branch", "drop", "key", "twice", "wrap")))
        value = draw(st.sampled_from(VALUES))
        if what == "branch":
            value = reduce(lambda each, key: each[key], other, out)
        out = _changed(draw, out, path, what, value)
    return out


def _changed(draw: st.DrawFn, tree: Any, path: tuple[Any, ...], what: str, value: Any) -> Any:
    if not path:
        return value if what == "value" else tree
    key, *rest = path
    items = dict(tree) if isinstance(tree, dict) else list(tree)
    if rest:
        items[key] = _changed(draw, items[key], tuple(rest), what, value)
        return items
    match what:
        case "value" | "branch":
            items[key] = value
        case "drop":
            del items[key]
        case "wrap":
            items[key] = draw(st.sampled_from(([items[key]], {"a": items[key]})))
        case "twice" if isinstance(items, list):
            items.insert(key, items[key])
        case "key" if isinstance(items, dict):
            other = draw(st.sampled_from(("", "a", str(key)[:-1], f"{key}x", f" {key}", "augpipe")))
            items[other] = items.pop(key)
    return items
