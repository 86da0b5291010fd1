"""Files at an address of fsspec: `s3://bucket/data`, `gs://…`, `az://…`, `memory://…`.

An address is a path as any other to what reads and writes datasets; what differs is told here.
There is nothing to append to, to lock or to link, and folders need not be made. A file is put whole
or not at all: object storage does so by itself, and where there are real folders behind an address
(`file://`, `sftp://`) it is written under another name first.

Options (endpoint, anonymous access) are those of fsspec's own configuration, for instance in
`FSSPEC_S3_ENDPOINT_URL`: https://filesystem-spec.readthedocs.io/en/latest/features.html#configuration.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from augpipe.errors import UsageError, in_a_line

_FORM = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
_RENAMING = frozenset(("file", "local", "sftp", "ssh", "ftp", "hdfs", "webhdfs", "smb"))
"""Protocols with real folders, where a file is written bit by bit and can be renamed."""

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())


def place_of(place: str | Path) -> Path:
    """Returns where something is: a path on disk, or an `Address`.

    Raises:
        UsageError: If it is an address that nothing installed can open.
    """
    if isinstance(place, Path):
        return place.expanduser()
    found = _FORM.fullmatch(place)
    if found is None:
        return Path(place).expanduser()
    protocol, rest = found[1].lower(), found[2].strip("/")
    if "::" in place:
        raise UsageError(f"{place}: addresses within addresses (::) cannot be used: copy it first")
    parts = rest.split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise UsageError(f"{place}: an address is protocol://folder, without empty parts and '..'")
    address = Address(f"{protocol}:", *parts)
    try:
        address.system.invalidate_cache()  # what it knew of an earlier job
    except ImportError as error:
        raise UsageError(f"{place}: {protocol} needs a package: {error}") from None
    except ValueError as error:
        raise UsageError(f"{place}: cannot be opened ({error})") from None
    except Exception as error:  # what a protocol's package finds wrong with its settings
        raise UsageError(f"{place}: cannot be opened ({in_a_line(error)})") from None
    return address


class Address(_Path):
    """A file or a folder that fsspec reaches, as a path.

    Make it by `place_of`. Whatever goes wrong in reaching it is an OSError in one line.
    """

    __slots__ = ()

    def __str__(self) -> str:
        if not self.parts or not self.parts[0].endswith(":"):  # a part of one
            return "/".join(self.parts) or "."
        slashes = ":///" if self.parts[0] in ("file:", "local:") else "://"
        return self.parts[0][:-1] + slashes + "/".join(self.parts[1:])

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def __fspath__(self) -> str:
        raise TypeError(f"{self}: is not on this machine's disks")

    @property
    def protocol(self) -> str:
        """Returns how it is reached: "s3"."""
        return self.parts[0][:-1]

    @property
    def renames(self) -> bool:
        """Returns whether there are real folders behind it, and what a killed run leaves there."""
        return self.protocol in _RENAMING

    @property
    def system(self) -> Any:
        """Returns fsspec's file system."""
        from fsspec.core import url_to_fs

        return url_to_fs(str(self))[0]

    @property
    def _own(self) -> str:
        return str(self.system._strip_protocol(str(self)))

    def open(self, *args: Any, **options: Any) -> Any:
        """Opens it to read bytes; it is read as far as is asked for, and a little ahead."""
        mode = args[0] if args else options.get("mode", "r")
        if mode != "rb":
            raise OSError(f"an address is not opened to {mode!r}")
        with _told():
            return self.system.open(self._own, "rb")

    def read_bytes(self) -> bytes:
        """Returns the whole content, in one request."""
        return self.part()

    def part(self, start: int | None = None, end: int | None = None) -> bytes:
        """Returns the content between two places, in one request."""
        with _told():
            return bytes(self.system.cat_file(self._own, start=start, end=end))

    def put(self, data: bytes) -> None:
        """Writes the content, whole or not at all."""
        with _told(), self._named() as name:
            self.system.pipe_file(name, data)

    def put_file(self, path: Path) -> None:
        """Writes the content of a file on disk, whole or not at all."""
        with _told(), self._named() as name:
            self.system.put_file(str(path), name)

    @contextmanager
    def _named(self) -> Iterator[str]:
        """Yields the name to write to, which then becomes this one."""
        if not self.renames:
            yield self._own
            return
        other = self.with_name(f".augpipe-{secrets.token_hex(8)}")
        try:
            yield other._own
            self.system.mv(other._own, self._own)
        except BaseException:
            other.unlink(missing_ok=True)
            raise

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Returns its kind and size; the rest is made up."""
        with _told():
            info = self.system.info(self._own)
        folder = info["type"] == "directory"
        mode = (stat.S_IFDIR if folder else stat.S_IFREG) | 0o644
        inode = hash(self) & (2**62 - 1)  # tells files apart
        return os.stat_result((mode, inode, 0, 1, 0, 0, int(info.get("size") or 0), 0, 0, 0))

    def exists(self, **_: Any) -> bool:
        """Tells whether there is such a file or folder.

        Raises:
            OSError: If it cannot be told.
        """
        return self._mode() != 0

    def is_file(self, **_: Any) -> bool:
        """Tells whether it is a file."""
        return stat.S_ISREG(self._mode())

    def is_dir(self, **_: Any) -> bool:
        """Tells whether it is a folder, or what a file's name begins with."""
        return stat.S_ISDIR(self._mode())

    def is_symlink(self) -> bool:
        """Tells that it is no link."""
        return False

    def _mode(self) -> int:
        try:
            return self.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def listing(self) -> tuple[list[str], list[str]]:
        """Returns the sorted names of its folders and of its files, hidden ones left out."""
        folders: set[str] = set()
        files: set[str] = set()
        with _told():
            for each in self.system.ls(self._own, detail=True):
                name = str(each["name"]).rstrip("/").rpartition("/")[2]
                itself = str(each["name"]).strip("/") == self._own.strip("/")
                if name and not itself and not name.startswith("."):
                    (folders if each["type"] == "directory" else files).add(name)
        return sorted(folders), sorted(files)

    def files(self) -> dict[str, int]:
        """Returns the files in it, at any depth: their paths from here, and sizes."""
        own = self._own.strip("/")
        with _told():
            self.system.invalidate_cache(self._own)
            try:
                found = self.system.find(self._own, detail=True)
            except FileNotFoundError:
                return {}
        return {
            name.strip("/")[len(own) + 1 :]: int(info.get("size") or 0)
            for name, info in sorted(found.items())
        }

    def iterdir(self) -> Generator[Address, None, None]:
        """Yields what lies in it; nothing if it is not there, for folders need not be."""
        try:
            folders, files = self.listing()
        except FileNotFoundError:
            return
        yield from (self / name for name in (*folders, *files))

    def mkdir(self, *args: Any, **options: Any) -> None:
        """Makes a real folder; elsewhere there is nothing to make."""
        if self.renames:
            with _told():
                self.system.makedirs(self._own, exist_ok=True)

    def rmdir(self) -> None:
        """Removes a real folder; elsewhere it is gone with its last file."""
        if self.renames:
            with _told():
                self.system.rmdir(self._own)

    def unlink(self, missing_ok: bool = False) -> None:
        """Removes a file."""
        try:
            with _told():
                self.system.rm_file(self._own)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def expanduser(self) -> Address:
        """Returns itself."""
        return self

    def resolve(self, strict: bool = False) -> Address:
        """Returns itself: there are no links."""
        return self


@contextmanager
def _told() -> Iterator[None]:
    """Makes whatever a protocol's package raises an OSError in one line."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # no credentials, no network: each package has types of its own
        raise OSError(in_a_line(error)) from error
