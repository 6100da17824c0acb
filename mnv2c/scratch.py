"""What is on its way: folders under ``TMPDIR``, and files and folders beside those whose place they are to take.

What goes out: an empty one, locked for as long as its maker, or a fork of that, is alive. It is gone afterwards; what a
killed command left, nobody holds, and the next command that works at the same place removes it.
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "mnv2c-scratch-"
_FOLDERS = re.compile(rf"{_PREFIX}\w{{8}}", re.ASCII)  # as mkdtemp ends names


class Scratch:
    """A folder, ``path``, until ``close``, or the end of a ``with``, which gives ``path``; OSError where there is no
    place for it."""

    def __init__(self) -> None:
        _sweep_once()
        while (lock := _hold(path := Path(tempfile.mkdtemp(prefix=_PREFIX)))) is None:
            pass
        self.path = path
        self.close = weakref.finalize(self, _remove, path, lock)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *how: object) -> None:
        self.close()


@contextmanager
def beside(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """An empty file, or a ``folder``, on the file system of ``path``, to be renamed to that. OSError where there is no
    place for it."""
    _sweep(path.parent, re.compile(rf"\.{re.escape(path.name)}\.(old\.)?[0-9a-f]{{8}}\.partial"))
    lock = None
    while lock is None:
        partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
        partial.mkdir() if folder else partial.touch(exist_ok=False)
        lock = _hold(partial)
    try:
        yield partial
    finally:
        _remove(partial, lock)


def _hold(path: Path) -> int | None:
    """A descriptor that keeps ``path`` locked, where the file system has locks; what has none is never swept.

    None where another process took it for a leftover, in the moment since it was made.
    """
    try:
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):
        fcntl.flock(lock, fcntl.LOCK_SH)
    if path.exists():
        return lock
    os.close(lock)
    return None


def _remove(path: Path, lock: int) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
    os.close(lock)


@functools.cache
def _sweep_once() -> None:
    _sweep(Path(tempfile.gettempdir()), _FOLDERS)


def _sweep(place: Path, names: re.Pattern[str]) -> None:
    """Removes what nobody holds; what another user's command left is not ours to touch."""
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            if names.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                with contextlib.suppress(OSError):
                    _remove_unheld(Path(entry.path))


def _remove_unheld(path: Path) -> None:
    lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
    else:
        _remove(path, lock)
