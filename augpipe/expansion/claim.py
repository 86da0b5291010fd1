"""The output folder: whose it is, who may write in it, and what a killed run left there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from augpipe.data.address import Address
from augpipe.data.claim import make_folder
from augpipe.data.encode import TEMPORARY_PREFIX, unwritable, write_atomic
from augpipe.data.formats import check_reach
from augpipe.errors import AugpipeError, UsageError
from augpipe.expansion.jobs import Job, read_record
from augpipe.expansion.manifest import changes
from augpipe.expansion.record import JOB, OWN_FILES, Record

_LEFTOVER = re.compile(re.escape(TEMPORARY_PREFIX) + "[0-9a-f]{16}")


def check_target(source: Path, job: Job, out: Path) -> None:
    """Refuses an output folder that a job cannot have: see `check_apart` and `formats.check_reach`.

    Folders that are linked into the input count as input.

    Raises:
        UsageError: With the reason.
    """
    check_reach(out, "folder" if job.plan is None else job.plan.to)
    if job.plan is not None:
        check_apart(source, out, [job.plan.images] if job.plan.images else [])
        return
    others = {each.path.parent for each in job.listing.sources} if source.is_dir() else set()
    check_apart(source, out, others, described=False)


def check_apart(
    source: Path, out: Path, others: Iterable[Path] = (), described: bool = True
) -> None:
    """Refuses an output folder inside the input, or around it.

    Args:
        source: The input: a folder, or a file.
        out: The output folder.
        others: More folders of the input.
        described: Whether a file says what the input is: beside it there may be an output folder.

    Raises:
        UsageError: With the two folders.
    """
    target, beside = out.resolve(), described and not source.is_dir()
    home = source.resolve().parent if beside else source.resolve()
    for each in [home, *(other.resolve() for other in others)]:
        if target == each:
            raise UsageError(f"{out}: the output folder is the input: choose another")
        if each in target.parents and not (beside and each == home):
            raise UsageError(f"{out}: lies inside the input {each}: choose a folder outside")
        if target in each.parents:
            raise UsageError(f"{out}: the input {each} lies inside it: choose another folder")


def take_over(out: Path, job: Job) -> Record:
    """Makes sure that the folder is this job's, and leaves job.json in it.

    Returns:
        The job.json of the run that began the work: its versions are those of the rows.

    Raises:
        UsageError: If it holds something else.
        AugpipeError: If it cannot be read or written, or a file of its own is a link.
    """
    try:
        begun = begun_in(out, job)
        sweep(out, deep=begun is not None)
        if begun is None:
            write_atomic(out / JOB, job.record.dump())
            return job.record
    except OSError as error:
        raise unwritable(out, error) from error
    if begun.source != job.record.source:  # the same images at another place
        begun = begun.model_copy(update={"source": job.record.source})
        write_atomic(out / JOB, begun.dump())
    return begun


def begun_in(out: Path, job: Job) -> Record | None:
    """Returns the job.json of a folder where the job was begun; None if it is empty, or not there.

    Raises:
        UsageError: If it holds something else.
        AugpipeError: If a file of its own is a link.
    """
    for name in OWN_FILES:
        if (out / name).is_symlink():  # lines would be added to what it leads to
            raise AugpipeError(f"{out / name}: is a link: put the file itself there")
    if (out / JOB).exists():
        begun = read_record(out)
        if differences := begun.differences(job.record):
            raise UsageError(
                f"{out}: holds another expansion, which differs in {', '.join(differences)}: "
                "choose a new folder, or delete this one"
            )
        return begun
    if out.is_dir() and any(not is_leftover(each.name) for each in out.iterdir()):
        raise UsageError(
            f"{out}: not empty, and not an expansion: choose a new folder or empty this one"
        )
    return None


def check_versions(out: Path, begun: Mapping[str, str], job: Job) -> None:
    """Refuses to go on with other libraries than those that the work was begun with.

    Raises:
        UsageError: With those that differ.
    """
    if changed := changes(begun, job.record.versions):
        raise UsageError(
            f"{out}: was begun with other versions: {changed}. "
            "Install those again, or choose a new folder"
        )


def is_leftover(name: str) -> bool:
    """Tells whether a name is that of a file that a killed run was writing."""
    return _LEFTOVER.fullmatch(name) is not None


def sweep(out: Path, deep: bool = True) -> None:
    """Removes the temporary files of a killed run, or of workers that died."""
    if isinstance(out, Address):
        for name in out.files() if out.renames and deep else ():
            if is_leftover(name.rpartition("/")[2]):
                (out / name).unlink(missing_ok=True)
        return
    for folder, inner, files in os.walk(out):
        for name in files:
            if is_leftover(name):
                (Path(folder) / name).unlink(missing_ok=True)
        if not deep:
            inner.clear()


class Writer:
    """Writes outputs, and makes their folders.

    Args:
        out: The output folder.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._real = out.resolve()
        self._made: set[Path] = set()

    def write(self, relative: str, data: bytes) -> None:
        """Writes a file, whole or not at all.

        Raises:
            AugpipeError: If it cannot be written, or its folder is a link to elsewhere.
        """
        path = self.out / relative
        folder = path.parent
        if folder not in self._made:
            self._check_inside(folder)
            make_folder(folder)
            self._made.add(folder)
        write_atomic(path, data)

    def remove(self, relative: str) -> None:
        """Removes a file, if it is there.

        Raises:
            AugpipeError: If it cannot be removed, or its folder is a link to elsewhere.
        """
        path = self.out / relative
        if path.parent not in self._made:
            self._check_inside(path.parent)
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise unwritable(path, error) from error

    def _check_inside(self, folder: Path) -> None:
        """Refuses a folder that leads elsewhere, before anything is made in it."""
        try:
            real = folder.resolve()
        except (OSError, RuntimeError) as error:  # links that go round
            raise AugpipeError(f"{folder}: cannot be followed ({error})") from error
        if real != self._real / folder.relative_to(self.out):
            raise AugpipeError(f"{folder}: leads out of the output folder, to {real}")
