"""The command about other libraries' pipelines: import."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from augpipe.errors import UsageError, printable, reason

_BYTES = 4_000_000  # a million characters, however wide


def import_(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="The file, - for standard input, or the text.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="OUT", help="The recipe; else stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it is there.")] = False,
) -> None:
    """Turn another library's pipeline into a recipe.

    Takes what albumentations' A.save writes, a timm string such as rand-m9-mstd0.5-inc1, and
    what a torchvision Compose prints. What became of each line is told on stderr: exact,
    changed, foreign (the library itself does it) or dropped. Exit code 1: something was dropped;
    if that was all, no recipe is written.
    """
    from augpipe.data.encode import write_atomic
    from augpipe.importers import import_recipe

    if out is not None and out.is_dir():
        raise UsageError(f"{out}: is a folder; name a file in it")
    if out is not None and out.exists() and not force:
        raise UsageError(f"{out}: is already there; --force replaces it")
    text, name = _read(source)
    imported = import_recipe(text, name, str(out) if out else "recipe.yaml")
    nothing = imported.empty and not imported.complete
    if out is None and not nothing:
        print(imported.recipe_yaml, end="")
    elif out is not None and not nothing:
        write_atomic(out, imported.recipe_yaml.encode())
    for note in imported.notes:
        print(printable(str(note)), file=sys.stderr)
    if nothing:
        unwritten = f"{out} is not written" if out else "there is no recipe"
        print(f"nothing was carried over: {printable(unwritten)}", file=sys.stderr)
    raise typer.Exit(int(not imported.complete))


def _read(source: str) -> tuple[str, str]:
    """Returns the text, and what to call it.

    Raises:
        UsageError: There is no such file, or it is not text.
    """
    from augpipe.importers import KNOWN, looks_known

    if source == "-":
        return _decode(sys.stdin.buffer.read(_BYTES + 1), "standard input"), "standard input"
    if not source.strip():
        raise UsageError(f"the argument is empty; {KNOWN}")
    path = Path(source)
    try:
        if path.is_dir():
            raise UsageError(f"{source}: is a folder, not a file")
        if path.exists() and not path.is_file():
            raise UsageError(f"{source}: is not a regular file")
        if path.exists():
            with path.open("rb") as file:
                return _decode(file.read(_BYTES + 1), source), source
    except (ValueError, OSError) as error:  # too long for a name, or with a NUL in it
        if not looks_known(source):
            why = reason(error) if isinstance(error, OSError) else str(error)
            raise UsageError(f"{source[:80]!r}: cannot be read: {why}") from None
    if looks_known(source):
        return source, _beginning(source)
    from augpipe.errors import did_you_mean

    near = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
    hint = did_you_mean(path.name, near)
    raise UsageError(f"there is no file {source}{f' ({hint})' if hint else ''}")


def _beginning(text: str) -> str:
    """Returns what to call a text: itself where it is short, else how it begins."""
    first, *more = text.strip().splitlines()
    return f"{first[:40]}..." if more or len(first) > 60 else first


def _decode(data: bytes, name: str) -> str:
    from augpipe.importers import KNOWN

    if len(data) > _BYTES:
        raise UsageError(f"{name}: is larger than 4 MB; {KNOWN}")
    # A pickle begins with its protocol's byte, torch.save's file with that of a ZIP.
    if data[:1] == b"\x80" or data[:2] == b"PK":
        raise UsageError(f"{name}: is a pickle or an archive, and those are not opened; {KNOWN}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UsageError(f"{name}: is not text in UTF-8; {KNOWN}")
    return text
