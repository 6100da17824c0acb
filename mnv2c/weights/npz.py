"""Reads a NumPy ``.npz`` file, and never a pickle.

What comes in: a path, and what is expected in it. What goes out: every tensor in it by name, for ``fit`` to judge.

Nothing that the file says is believed: sizes are looked at before anything is read, and a tensor whose header asks for
more or less than the archive holds of it is not, nor one that nobody asked for.
"""

from __future__ import annotations

import functools
import math
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from mnv2c.errors import WeightsError
from mnv2c.weights.fit import META, Tensor
from mnv2c.weights.layers import MOST_BYTES

_NPY = ".npy"
_AT_ONCE = 1 << 20
_LONGEST_TEXT = 1 << 20
_LONGEST_NUMBER = 32  # bytes of NumPy's largest

Expected = Callable[[Collection[str]], Mapping[str, tuple[int, ...]]]
"""From the names that there are follow the shapes by name."""

Wanted = Callable[[tuple[int, ...]], bool]
"""Whether a tensor of that shape is read."""


def read_npz(path: Path, expected: Expected | None = None) -> dict[str, Tensor]:
    """Every member of the archive; one that cannot be read becomes the text of what is wrong with it.

    Of tensors that are not ``expected`` there are name, type and shape alone, and zeros that take no memory. Raises
    ``WeightsError``, one line, for a file that cannot be read at all, or that holds too much where all is wanted.
    """
    _check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            total = sum(member.file_size for member in members)
            if expected is None and total > MOST_BYTES:
                raise WeightsError(f"{path}: holds {total >> 20} MiB: these are no weights of ours")
            times = Counter(member.filename.removesuffix(_NPY) for member in members)
            shapes = None if expected is None else expected(times)
            return {
                name: _read_member(archive, member, functools.partial(_is_wanted, shapes, name))
                if times[name] == 1
                else f"is in the archive {times[name]} times"
                for member in members
                for name in [member.filename.removesuffix(_NPY)]
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


def _is_wanted(shapes: Mapping[str, tuple[int, ...]] | None, name: str, shape: tuple[int, ...]) -> bool:
    return shapes is None or shapes.get(name) == shape or (name == META and shape == ())


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, wanted: Wanted) -> Tensor:
    if not member.filename.endswith(_NPY):
        return "not a NumPy array"
    try:
        with archive.open(member) as stream:
            return _read_array(stream, member.file_size, wanted)
    except Exception as error:  # a header is parsed as Python, and a stream decompressed
        return f"cannot be read ({_one_line(error)})"


def _read_array(stream: IO[bytes], size: int, wanted: Wanted) -> Tensor:
    """The array of a member of ``size`` bytes."""
    version = np.lib.format.read_magic(stream)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read_header(stream)
    if dtype.hasobject:
        return "cannot be read (Python objects, which would be a pickle)"
    held, asked = size - stream.tell(), math.prod(shape) * dtype.itemsize
    if shape == () and asked > _LONGEST_TEXT:
        return f"cannot be read (a text of {asked} bytes)"
    if held != asked:
        return f"cannot be read ({held} bytes, where its shape and type take {asked})"
    if not wanted(shape) or (shape and dtype.itemsize > _LONGEST_NUMBER):
        return np.broadcast_to(np.zeros((), dtype), shape)
    content = bytearray(asked)
    for begin in range(0, asked, _AT_ONCE):  # read as one it would be in memory twice
        part = stream.read(min(_AT_ONCE, asked - begin))
        content[begin : begin + len(part)] = part
    return np.frombuffer(content, dtype, count=math.prod(shape)).reshape(shape, order="F" if fortran_order else "C")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
