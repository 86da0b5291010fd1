"""What a verification finds, and how it is told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from augpipe.errors import printable
from augpipe.plan.explain import plural

_SHOWN = 20

Kind = Literal["missing", "altered", "source", "weights", "differs", "row", "extra", "unfinished"]
_SUMMARY: dict[Kind, tuple[str, str]] = {
    "missing": ("is missing", "are missing"),
    "altered": ("was altered", "were altered"),
    "source": ("source is not what it was", "sources are not what they were"),
    "weights": ("file of weights is another now", "files of weights are others now"),
    "differs": ("renders differently now", "render differently now"),
    "row": ("row of the manifest does not fit", "rows of the manifest do not fit"),
    "extra": ("file is in no row of the manifest", "files are in no row of the manifest"),
    "unfinished": ("part of the work is not done", "parts of the work are not done"),
}
"""What is said of one finding, and of more."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as the manifest says.

    Args:
        kind: "missing" (no such output), "altered" (the output's content is another),
            "source" (the source is gone, unreadable or another), "weights" (a learned op's
            weights are others), "differs" (rendering gives
            other bytes than it did), "row" (the manifest itself does not fit), "extra" (a file
            that no row names), "unfinished" (outputs that were not made yet).
        where: The output, the source or the file.
        detail: What is wrong.
    """

    kind: Kind
    where: str
    detail: str

    def __str__(self) -> str:
        return printable(f"{self.where}: {self.detail}")


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found.

    Args:
        out: The output folder.
        checked: How many outputs the manifest has.
        skipped: How many images errors.jsonl lists.
        findings: What is wrong.
    """

    out: Path
    checked: int
    skipped: int
    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """Returns 1 if anything is wrong, or all images were skipped."""
        return int(bool(self.findings) or (not self.checked and self.skipped > 0))

    def __str__(self) -> str:
        were = "was" if self.skipped == 1 else "were"
        skipped = f"; {plural(self.skipped, 'image')} {were} skipped" if self.skipped else ""
        if not self.findings:
            return printable(self._fine()) + skipped
        counts = Counter(each.kind for each in self.findings)
        parts = [f"{count} {_SUMMARY[kind][count > 1]}" for kind, count in counts.items()]
        found = " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))
        lines = [str(each) for each in self.findings[:_SHOWN]]
        if len(self.findings) > _SHOWN:
            lines.append(f"... and {len(self.findings) - _SHOWN} more")
        return "\n".join([*lines, f"checked {plural(self.checked, 'image')}: {found}{skipped}"])

    def _fine(self) -> str:
        match self.checked:
            case 0:
                return f"there is no image in {self.out} to check"
            case 1:
                return f"the one image in {self.out} is as the recipe makes it"
        return f"all {self.checked} images in {self.out} are as the recipe makes them"
