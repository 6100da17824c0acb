"""Folders for what a command writes on its way, under ``TMPDIR``: gone when it ends, or when the next one begins.

What goes out: an empty folder, and a lock on it for as long as its maker, or a fork of that, is alive. A folder that
nobody holds is what a killed command left: the first folder that a process makes removes those of the same user.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import tempfile
import weakref
from pathlib import Path

_PREFIX = "mnv2c-scratch-"
_OURS = re.compile(rf"{_PREFIX}\w{{8}}", re.ASCII)  # as mkdtemp ends names


class Scratch:
    """A folder, ``path``, until ``close``, or the end of a ``with``, which gives ``path``; OSError where there is no
    place for it."""

    def __init__(self) -> None:
        _sweep()
        self.path, lock = _make()
        self.close = weakref.finalize(self, _remove, self.path, lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *how: object) -> None:
        self.close()


def _make() -> tuple[Path, int]:
    """An empty folder, and a descriptor that keeps it locked."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        with contextlib.suppress(FileNotFoundError):
            lock = _open(path)
            if _is_held(path, lock):
                return path, lock
        # Another process took it for a leftover, in the moment before it was locked.


def _is_held(path: Path, lock: int) -> bool:
    """Locks it, where the file system has locks; what could not be locked is never swept."""
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    except OSError:
        pass
    if path.exists():
        return True
    os.close(lock)
    return False


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _remove(path: Path, lock: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


@functools.cache
def _sweep() -> None:
    """Removes what killed commands left; what another user's did is not ours to touch."""
    with contextlib.suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if _OURS.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                _remove_unheld(Path(entry.path))


def _remove_unheld(path: Path) -> None:
    with contextlib.suppress(OSError):
        lock = _open(path)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
        else:
            _remove(path, lock)
