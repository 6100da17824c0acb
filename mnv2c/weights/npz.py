"""Reads a NumPy ``.npz`` file, and never a pickle.

What comes in: a path. What goes out: every tensor in it by name, for ``fit`` to judge.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mnv2c.errors import WeightsError
from mnv2c.weights.fit import Tensor
from mnv2c.weights.layers import MOST_BYTES

DAMAGE = (OSError, EOFError, ValueError, KeyError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_npz(path: Path) -> dict[str, Tensor]:
    """Every member of the archive; one that cannot be read becomes the text of what is wrong with it.

    Raises ``WeightsError``, one line, for a file that cannot be read at all.
    """
    _check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: _read_member(archive, name) for name in archive.files}
    except DAMAGE as error:
        raise WeightsError(f"{path}: cannot be read as an .npz archive ({_one_line(error)})") from error


def _check_archive(path: Path) -> None:
    """Says what is there instead of an archive; whatever ``open`` would wait for, such as a FIFO, is not opened."""
    try:
        if not path.exists():
            raise WeightsError(f"{path}: no such file; give an .npz file of trained weights, or leave --weights out")
        if not path.is_file():
            raise WeightsError(f"{path}: not a file; give an .npz file of trained weights")
        with path.open("rb") as file:
            size, archive = path.stat().st_size, zipfile.is_zipfile(file)
        unpacked = _unpacked(path) if archive else 0
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if unpacked > MOST_BYTES:
        raise WeightsError(f"{path}: holds {unpacked >> 20} MiB: these are no weights of ours")
    if not archive:
        state = "empty" if size == 0 else "not an .npz archive, or truncated"
        raise WeightsError(f"{path}: the file is {state} ({size} bytes); copy or download it again")


def _unpacked(path: Path) -> int:
    """The bytes that the archive says it holds; what is more than it says is not read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError):
        return 0


def _read_member(archive: Any, name: str) -> Tensor:
    try:
        value = archive[name]
    except DAMAGE as error:
        return f"cannot be read ({_one_line(error)})"
    return value if isinstance(value, np.ndarray) else "not a NumPy array"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
