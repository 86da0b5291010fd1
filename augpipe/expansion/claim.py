"""The output folder: whose it is, who may write in it, and what a killed run left there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from augpipe.data.address import Address
from augpipe.data.claim import make_folder
from augpipe.data.encode import TEMPORARY_PREFIX, unwritable, write_atomic
from augpipe.errors import AugpipeError, UsageError
from augpipe.expansion.jobs import Job, read_record
from augpipe.expansion.record import JOB, OWN_FILES, Record

_LEFTOVER = re.compile(re.escape(TEMPORARY_PREFIX) + "[0-9a-f]{16}")


def check_apart(source: Path, job: Job, out: Path) -> None:
    """Refuses an output folder inside the input, or around it.

    Folders that are linked into the input count as input; beside the file that describes a dataset
    there may be an output folder.

    Raises:
        UsageError: With the two folders.
    """
    target = out.resolve()
    inputs = {source.resolve()}
    if job.plan is not None:
        inputs = {source.resolve() if source.is_dir() else source.resolve().parent}
        inputs |= {job.plan.images.resolve()} if job.plan.images else set()
    elif source.is_dir():
        inputs.update(p.resolve() for p in {each.path.parent for each in job.listing.sources})
    for each in inputs:
        if target == each:
            raise UsageError(f"{out}: the output folder is the input: choose another")
        if each in target.parents and (job.plan is None or each != source.resolve().parent):
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
        for name in OWN_FILES:
            if (out / name).is_symlink():  # lines would be added to what it leads to
                raise AugpipeError(f"{out / name}: is a link: put the file itself there")
        sweep(out, deep=(out / JOB).exists())
        if not (out / JOB).exists():
            if any(out.iterdir()):
                raise UsageError(
                    f"{out}: not empty, and not an expansion: choose a new folder or empty this one"
                )
            write_atomic(out / JOB, job.record.dump())
            return job.record
    except OSError as error:
        raise unwritable(out, error) from error
    begun = read_record(out)
    differences = begun.differences(job.record)
    if differences:
        raise UsageError(
            f"{out}: holds another expansion, which differs in {', '.join(differences)}: "
            "choose a new folder, or delete this one"
        )
    if begun.source != job.record.source:  # the same images at another place
        begun = begun.model_copy(update={"source": job.record.source})
        write_atomic(out / JOB, begun.dump())
    return begun


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
