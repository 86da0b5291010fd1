"""The output folder: whose it is, who may write in it, and what a killed run left there."""

from __future__ import annotations

import os
import re
from pathlib import Path

from augpipe.data.address import Address
from augpipe.data.encode import TEMPORARY_PREFIX, unwritable, write_atomic
from augpipe.errors import AugpipeError, UsageError
from augpipe.expansion.jobs import Job, read_record
from augpipe.expansion.record import JOB, Record

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
        AugpipeError: If it cannot be read or written.
    """
    try:
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


def sweep(out: Path, deep: bool = True) -> None:
    """Removes the temporary files of a killed run, or of workers that died."""
    if isinstance(out, Address):
        for name in out.files() if out.renames and deep else ():
            if _LEFTOVER.fullmatch(name.rpartition("/")[2]):
                (out / name).unlink(missing_ok=True)
        return
    for folder, inner, files in os.walk(out):
        for name in files:
            if _LEFTOVER.fullmatch(name):
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
            try:
                folder.mkdir(parents=True, exist_ok=True)
                real = folder.resolve()
            except OSError as error:
                raise unwritable(folder, error) from error
            if real != self._real / folder.relative_to(self.out):
                raise AugpipeError(f"{folder}: leads out of the output folder, to {real}")
            self._made.add(folder)
        write_atomic(path, data)

    def remove(self, relative: str) -> None:
        """Removes a file, if it is there.

        Raises:
            AugpipeError: If it cannot be removed.
        """
        path = self.out / relative
        try:
            path.unlink(missing_ok=True)
        except NotADirectoryError:
            return
        except OSError as error:
            raise unwritable(path, error) from error
