"""Reads files that somebody names: ordinary ones alone.

What comes in: a path. What goes out: bytes, or an OSError with a ``strerror``. A FIFO would never be opened, and a
device never end.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path


def read_ordinary(path: Path, most: int = -1) -> bytes:
    """The content, or its first ``most`` bytes. OSError for what is no ordinary file; ValueError as ``open``."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "not a file", os.fspath(path))
    with path.open("rb") as stream:
        is_whole = most < 0 or os.fstat(stream.fileno()).st_size <= most
        return stream.read() if is_whole else stream.read(most)  # which makes room for as much, whatever there is
