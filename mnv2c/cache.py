"""What is kept from command to command, in the user's cache: zig's own libraries, and the environment that has Relay.

Each has a folder there, and a lock: those who use it hold that together, who makes or removes it, alone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnv2c.errors import ToolError

_ANOTHER = "set XDG_CACHE_HOME to another place"
_LOCK = ".lock"


def directory() -> Path:
    """``~/.cache/mnv2c``, which need not exist. ToolError where there is no home for it."""
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home).absolute() if home else Path.home() / ".cache") / "mnv2c"
    except RuntimeError as error:
        raise ToolError(f"no home directory for mnv2c's cache: {_ANOTHER}") from error


@contextmanager
def using(name: str) -> Iterator[Path]:
    """The folder ``name`` there, made where it is missing; nobody removes it meanwhile. ToolError where it cannot be
    written."""
    with _locked(name, fcntl.LOCK_SH) as place:
        try:
            place.mkdir(exist_ok=True)
        except OSError as error:
            raise _unusable(place, error) from error
        if not os.access(place, os.W_OK | os.X_OK):
            raise ToolError(f"cannot write the cache {place}: permission denied; {_ANOTHER}")
        yield place


@contextmanager
def making(name: str) -> Iterator[Path]:
    """The place of the folder ``name`` there, for us alone: ToolError where another process has it.

    Children that keep our files hold the lock too, so that pip is never overtaken by what comes after it.
    """
    with _locked(name, fcntl.LOCK_EX | fcntl.LOCK_NB, is_inherited=True) as place:
        yield place


def size() -> int:
    """Bytes in all of it."""
    return sum(_size(place) for place in _folders())


def clear() -> int:
    """Removes all of it; how many bytes that were. ToolError where another process uses some, or it cannot be."""
    freed = 0
    for place in _folders():
        with making(place.name):
            bytes_there = _size(place)
            try:
                shutil.rmtree(place)
            except OSError as error:
                raise ToolError(f"{place}: cannot be removed: {error.strerror}") from error
            freed += bytes_there
    return freed


def _folders() -> list[Path]:
    try:
        return sorted(path for path in directory().iterdir() if path.is_dir() and not path.is_symlink())
    except FileNotFoundError:
        return []


def _size(place: Path) -> int:
    total = 0
    for folder, _, names in os.walk(place):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # somebody works there
                total += Path(folder, name).lstat().st_size
    return total


@contextmanager
def _locked(name: str, how: int, *, is_inherited: bool = False) -> Iterator[Path]:
    place = directory() / name
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        file = (place.parent / f"{name}{_LOCK}").open("w")
    except OSError as error:
        raise _unusable(place, error) from error
    with file:
        os.set_inheritable(file.fileno(), is_inherited)
        try:
            fcntl.flock(file, how)
        except BlockingIOError as error:
            raise ToolError(f"{place} is being made or used by another process; wait for its end") from error
        except OSError as error:
            raise _unusable(place, error) from error
        yield place


def _unusable(place: Path, error: OSError) -> ToolError:
    return ToolError(f"cannot make the cache {place}: {error.strerror}; {_ANOTHER}")
