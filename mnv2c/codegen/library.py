"""The Library: the files a person deploys, as a pure value, written last and at once.

What comes in: the files' contents and the manifest that describes them. What goes out: one directory.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from mnv2c.deploy.manifest import MANIFEST, Manifest
from mnv2c.errors import LibraryError
from mnv2c.scratch import beside

_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # fcntl.h
_NAMED = 3  # of the files that are in the way: enough to recognise them


@dataclass(frozen=True)
class Library:
    """``files`` are contents by relative path with ``/``; ``manifest`` is one of them, and lists all the others."""

    files: Mapping[str, bytes]
    manifest: Manifest

    @classmethod
    def of(cls, files: Mapping[str, bytes], manifest: Manifest) -> Library:
        """The library of ``files`` and a ``manifest`` that does not list them yet."""
        listed = {path: hashlib.sha256(content).hexdigest() for path, content in sorted(files.items())}
        manifest = replace(manifest, files=listed)
        everything = {**files, MANIFEST: manifest.to_json()}
        return cls({path: everything[path] for path in sorted(everything)}, manifest)

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

        LibraryError where it holds anything but an earlier build, or cannot be written.
        """
        directory = Path(os.path.realpath(directory))
        check_replaceable(directory)
        try:
            directory.parent.mkdir(parents=True, exist_ok=True)
            with beside(directory, folder=True) as partial:
                for path, content in self.files.items():
                    (partial / path).parent.mkdir(parents=True, exist_ok=True)
                    (partial / path).write_bytes(content)
                check_replaceable(directory)  # somebody may have put a file there while this one wrote
                _swap(partial, directory)
        except OSError as error:
            raise LibraryError(f"cannot write {directory}: {_reason(error)}") from error


def check_replaceable(directory: Path) -> None:
    """LibraryError, which names it, where ``directory`` holds anything but an earlier build.

    That is its manifest and the files that this lists, whatever is in them by now.
    """
    try:
        if not directory.exists():
            return
        if not directory.is_dir():
            raise LibraryError(f"cannot write {directory}: a file of that name is in the way; choose another place")
        strangers = _strangers(directory, _listed(directory))
    except OSError as error:
        raise LibraryError(f"cannot write {directory}: {_reason(error)}") from error
    if strangers:
        more = f" and {len(strangers) - _NAMED} more" if len(strangers) > _NAMED else ""
        one = len(strangers) == 1
        raise LibraryError(
            f"cannot write {directory}: it holds {', '.join(strangers[:_NAMED])}{more}, which {'is' if one else 'are'} "
            f"not part of an earlier build by mnv2c; move {'it' if one else 'them'} away, or choose another place"
        )


def _listed(directory: Path) -> set[str]:
    """The paths of the build in ``directory``, its manifest's among them; none where there is no manifest of ours."""
    path = directory / MANIFEST
    if path.is_symlink() or not path.is_file():
        return set()
    try:
        return {MANIFEST, *Manifest.from_json(path.read_bytes()).files}
    except ValueError:
        return set()


def _strangers(directory: Path, ours: set[str], inside: str = "") -> list[str]:
    """What lies below ``inside`` in ``directory`` and is no file of ``ours``, nor a folder of them; no link is ours."""
    folders = {str(folder) for path in ours for folder in PurePosixPath(path).parents}
    found = []
    for entry in sorted(os.scandir(directory / inside), key=lambda entry: entry.name):
        path = f"{inside}{entry.name}"
        if entry.is_dir(follow_symlinks=False):
            found += _strangers(directory, ours, f"{path}/") if path in folders else [f"{path}/"]
        elif path not in ours or not entry.is_file(follow_symlinks=False):
            found.append(path)
    return found


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


def _swap(partial: Path, directory: Path) -> None:
    """Puts ``partial`` in the place of ``directory``, in one step wherever the system can exchange two names."""
    if not directory.exists():
        partial.rename(directory)
        return
    if _exchange(partial, directory):
        return
    with beside(directory.with_name(f"{directory.name}.old"), folder=True) as old:
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
