"""The Library: the files a person deploys, as a pure value, written last and at once.

What comes in: a ``Program`` and the files that describe how it came about. What goes out: one directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mnv2c.errors import LibraryError

MANIFEST = "manifest.json"
_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # fcntl.h


@dataclass(frozen=True)
class Library:
    """Contents by relative path with ``/``."""

    files: Mapping[str, bytes]

    @property
    def digest(self) -> str:
        """SHA-256 over every path, size and content, in the order of the paths."""
        total = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            total.update(f"{path}\0{len(content)}\0".encode())
            total.update(content)
        return total.hexdigest()

    def write(self, directory: Path) -> None:
        """Makes ``directory`` hold this library alone; killed at any moment, it holds the old files or the new.

        LibraryError where it holds something that is not a library of ours, or cannot be written.
        """
        directory = Path(os.path.realpath(directory))
        check_replaceable(directory)
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(directory)
            with _sibling(directory) as partial:
                for path, content in self.files.items():
                    (partial / path).parent.mkdir(parents=True, exist_ok=True)
                    (partial / path).write_bytes(content)
                _swap(partial, directory)
        except OSError as error:
            raise LibraryError(f"cannot write {directory}: {_reason(error)}") from error


def check_replaceable(directory: Path) -> None:
    """An empty directory or an earlier build may be replaced; anything else is somebody's work."""
    try:
        if not directory.exists() or (directory / MANIFEST).is_file():
            return
        if not directory.is_dir():
            raise LibraryError(f"cannot write {directory}: a file of that name is in the way; choose another place")
        if any(directory.iterdir()):
            raise LibraryError(
                f"cannot write {directory}: the directory is not empty and holds no {MANIFEST}, so mnv2c did not make "
                "it; choose another place, or empty it first"
            )
    except OSError as error:
        raise LibraryError(f"cannot write {directory}: {_reason(error)}") from error


def _reason(error: OSError) -> str:
    hints = {
        errno.ENOSPC: "the disk is full; free some space and build again",
        errno.EDQUOT: "the disk quota is used up; free some space and build again",
        errno.ENOTDIR: "a file on that path is in the way; choose another place",
        errno.EEXIST: "a file on that path is in the way; choose another place",
        errno.EROFS: "the file system is read-only; choose another place",
        errno.EACCES: "permission denied; choose another place",
        errno.EPERM: "permission denied; choose another place",
    }
    return hints.get(error.errno or 0, error.strerror or str(error))


@contextlib.contextmanager
def _sibling(directory: Path, mark: str = "") -> Iterator[Path]:
    """A fresh directory on the same file system, gone afterwards; named after its writer for ``_remove_leftovers``."""
    partial = directory.with_name(f".{directory.name}{mark}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_leftovers(directory: Path) -> None:
    """What writers of this directory left that were killed."""
    for path in directory.parent.iterdir():
        if path.name.startswith(f".{directory.name}.") and path.name.endswith(".partial"):
            writer = path.name.split(".")[-2]
            if writer.isdigit() and not _is_alive(int(writer)):
                shutil.rmtree(path, ignore_errors=True)


def _is_alive(writer: int) -> bool:
    if writer == os.getpid():
        return False  # an earlier write of our own failed; this one has not begun
    try:
        os.kill(writer, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _swap(partial: Path, directory: Path) -> None:
    """Puts ``partial`` in the place of ``directory``, in one step wherever the system can exchange two names."""
    if not directory.exists():
        partial.rename(directory)
        return
    if _exchange(partial, directory):
        return
    with _sibling(directory, ".old") as old:
        directory.rename(old)
        partial.rename(directory)


def _exchange(one: Path, other: Path) -> bool:
    """Whether the two directories now have each other's names; False where the file system knows no exchange."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS):
        return False
    raise OSError(code, os.strerror(code))
