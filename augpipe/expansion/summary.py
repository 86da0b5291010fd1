"""What an expansion came to, and how it is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from augpipe.errors import printable
from augpipe.expansion.record import ERRORS
from augpipe.plan.explain import plural


@dataclass(frozen=True, slots=True)
class Summary:
    """What an expansion came to.

    Args:
        out: The output folder.
        images: How many images the source has.
        written: Outputs made by this run.
        kept: Outputs that an earlier run had made.
        skipped: Images that could not be used; errors.jsonl says why.
        ignored: Files of the source that were passed over, since their names are no images'.
        ignored_names: The first three of them.
        left_out: Ops of the recipe that were left out, since files hold no floats.
        notes: What could not be balanced, or was found in an annotated dataset and is no error.
    """

    out: Path
    images: int
    written: int
    kept: int
    skipped: int
    ignored: int = 0
    ignored_names: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: str = ""

    @property
    def exit_code(self) -> int:
        """Returns 1 if images were skipped."""
        return int(self.skipped > 0)

    def __str__(self) -> str:
        lines = [self._done()]
        if self.skipped:
            lines.append(f"skipped {self.skipped} of {self.images}: {self.out / ERRORS} says why")
        if self.ignored:
            named = "is not named as an image" if self.ignored == 1 else "are not named as images"
            shown = ", ".join(self.ignored_names)
            more = ", ..." if self.ignored > len(self.ignored_names) else ""
            which = f": {shown}{more}" if shown else ""
            lines.append(f"passed over {plural(self.ignored, 'file')} that {named}{which}")
        if self.left_out:
            lines.append(f"left out {', '.join(self.left_out)}: image files hold no floats")
        lines += self.notes.splitlines()
        return "\n".join(map(printable, lines))

    def _done(self) -> str:
        used = self.images - self.skipped
        if self.written:
            were = "was" if self.kept == 1 else "were"
            before = f", {self.kept} {were} there already" if self.kept else ""
            return f"wrote {plural(self.written, 'image')} from {used} to {self.out}{before}"
        if self.kept == 1:
            return f"the one image is done already in {self.out}"
        if self.kept:
            return f"all {self.kept} images are done already in {self.out}"
        if self.images == 1:
            return "nothing written: the one image could not be used"
        return f"nothing written: none of the {self.images} images could be used"
