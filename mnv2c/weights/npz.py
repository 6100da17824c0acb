"""Reads a NumPy ``.npz`` file, and never a pickle.

What comes in: a path. What goes out: every tensor in it by name, for ``fit`` to judge.

Nothing that the file says is believed: sizes are looked at before anything is read, and a tensor whose header asks for
more or less than the archive holds of it is not.
"""

from __future__ import annotations

import math
import zipfile
from collections import Counter
from pathlib import Path
from typing import IO

import numpy as np

from mnv2c.errors import WeightsError
from mnv2c.weights.fit import Tensor
from mnv2c.weights.layers import MOST_BYTES

_NPY = ".npy"


def read_npz(path: Path) -> dict[str, Tensor]:
    """Every member of the archive; one that cannot be read becomes the text of what is wrong with it.

    Raises ``WeightsError``, one line, for a file that cannot be read at all.
    """
    _check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if total > MOST_BYTES:
                raise WeightsError(f"{path}: holds {total >> 20} MiB: these are no weights of ours")
            times = Counter(member.filename for member in members)
            return {
                member.filename.removesuffix(_NPY): _read_member(archive, member)
                if times[member.filename] == 1
                else f"is in the archive {times[member.filename]} times"
                for member in members
            }
    except WeightsError:
        raise
    except Exception as error:  # zipfile and its decompressors raise anything for an archive that is damaged
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
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not archive:
        state = "empty" if size == 0 else "not an .npz archive, or truncated"
        raise WeightsError(f"{path}: the file is {state} ({size} bytes); copy or download it again")


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    if not member.filename.endswith(_NPY):
        return "not a NumPy array"
    try:
        with archive.open(member) as stream:
            return _read_array(stream, member.file_size)
    except Exception as error:  # a header is parsed as Python, and a stream decompressed
        return f"cannot be read ({_one_line(error)})"


def _read_array(stream: IO[bytes], size: int) -> Tensor:
    """The array of a member of ``size`` bytes."""
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read_header(stream)
    if dtype.hasobject:
        return "cannot be read (Python objects, which would be a pickle)"
    held, asked = size - stream.tell(), math.prod(shape) * dtype.itemsize
    if held != asked:
        return f"cannot be read ({held} bytes, where its shape and type take {asked})"
    values = np.frombuffer(stream.read(), dtype, count=math.prod(shape))
    return values.reshape(shape, order="F" if fortran_order else "C")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
