"""Reads an HDF5 file's tensors and one of its attributes, by h5py, in a process of its own: the library behind it is C.

What comes in: a path, or the bytes of a file. What goes out: arrays by their paths in the file, and text. Nothing that
the file names outside of itself is opened; sizes are checked before anything is read.
"""

from __future__ import annotations

import io
import json
import math
import resource
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.errors import ToolError
from mnv2c.forked import CrashError, in_fork
from mnv2c.weights.layers import MOST_BYTES

ATTRIBUTE = "model_config"
_OPTIMIZER = ("optimizer", "optimizer_weights")  # Keras 3, and .h5: up to twice what the model itself has, for Adam
_LENGTH = struct.Struct("<Q")
_MOST_OBJECTS = 10_000  # some times those of a ResNet-50 with its optimizer
_SECONDS = 120
_BYTES_PER_SECOND = 64 << 20  # of processor time, beside the first; HDF5 reads damaged files for ever
_LONGEST_TEXT = 1 << 24
_MEMORY = 8 << 30


def read_hdf5(source: Path | bytes) -> tuple[dict[str, NDArray[Any]], str]:
    """Every dataset of floats or integers, but for an optimizer's, and the attribute ``model_config`` of the root.

    The attribute is empty where there is none.

    ValueError, one line, where it cannot be read; ToolError where h5py is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ToolError("reading it needs h5py: pip install 'mnv2c[import]'") from error
    try:
        content = in_fork(lambda: _read(h5py, source), seconds=_SECONDS, what="h5py")
    except CrashError as error:
        raise ValueError(f"damaged, or no HDF5 file ({error})") from error
    begin = _LENGTH.size + _LENGTH.unpack_from(content)[0]
    about = json.loads(content[_LENGTH.size : begin])
    found: dict[str, NDArray[Any]] = {}
    for name, dtype, shape in about["arrays"]:
        found[name] = np.frombuffer(content, dtype, math.prod(shape), begin).reshape(shape)
        begin += found[name].nbytes
    return found, about["text"]


def _read(h5py: Any, source: Path | bytes) -> bytes:
    """In the fork: the length of what is said of it in JSON, that, and the arrays' values one after the other."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    _limit(resource.RLIMIT_AS, _MEMORY)
    _limit(resource.RLIMIT_CPU, 1 + size // _BYTES_PER_SECOND)
    found: dict[str, NDArray[Any]] = {}
    counts = {"objects": 0, "bytes": 0}

    def visit(name: str, held: Any) -> None:
        counts["objects"] += 1
        if counts["objects"] > _MOST_OBJECTS:
            raise ValueError("too many objects")
        if name.partition("/")[0] in _OPTIMIZER or not isinstance(held, h5py.Dataset) or held.dtype.kind not in "fiu":
            return
        if held.external or held.is_virtual:
            raise ValueError(f"{name} lies in another file")
        counts["bytes"] += held.size * held.dtype.itemsize
        if counts["bytes"] > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES >> 20} MiB of tensors: this is no MobileNetV2")
        found[name] = held[()]

    with h5py.File(io.BytesIO(source) if isinstance(source, bytes) else source, "r") as file:
        text = file.attrs.get(ATTRIBUTE, "")
        if len(text) > _LONGEST_TEXT:
            raise ValueError(f"{ATTRIBUTE} is too long")
        file.visititems(visit)
    plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    arrays = [(name, value.dtype.str, value.shape) for name, value in found.items()]
    about = json.dumps({"text": plain, "arrays": arrays}).encode()
    return b"".join([_LENGTH.pack(len(about)), about, *(np.ascontiguousarray(value).data for value in found.values())])


def _limit(kind: int, most: int) -> None:
    """Of this process, where the system's own is not lower."""
    _, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY or hard > most:
        resource.setrlimit(kind, (most, hard))
