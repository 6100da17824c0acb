"""Reads an HDF5 file's tensors and one of its attributes, by h5py, in a process of its own: the library behind it is C.

What comes in: a path, or the bytes of a file. What goes out: arrays by their paths in the file, and text. Nothing that
the file names outside of itself is opened; sizes are checked before anything is read.
"""

from __future__ import annotations

import io
import json
import resource
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.errors import ToolError
from mnv2c.forked import CrashError, in_fork
from mnv2c.weights.layers import MOST_BYTES

ATTRIBUTE = "model_config"
_TEXT = "__text__"
_NAMES = "__names__"
_MOST_OBJECTS = 50_000
_SECONDS = 120
_LONGEST_TEXT = 1 << 24
_MEMORY = 8 << 30


def read_hdf5(source: Path | bytes) -> tuple[dict[str, NDArray[Any]], str]:
    """Every dataset of floats or integers, and the attribute ``model_config`` of the root, empty where there is none.

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
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        names = json.loads(str(archive[_NAMES]))
        text = str(archive[_TEXT])
        return {name: archive[f"a{number}"] for number, name in enumerate(names)}, text


def _read(h5py: Any, source: Path | bytes) -> bytes:
    """In the fork: an .npz of it all."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    found: dict[str, NDArray[Any]] = {}
    counts = {"objects": 0, "bytes": 0}

    def visit(name: str, held: Any) -> None:
        counts["objects"] += 1
        if counts["objects"] > _MOST_OBJECTS:
            raise ValueError("too many objects")
        if not isinstance(held, h5py.Dataset) or held.dtype.kind not in "fiu":
            return
        if held.external or held.is_virtual:
            raise ValueError(f"{name} lies in another file")
        counts["bytes"] += held.size * held.dtype.itemsize
        if counts["bytes"] > MOST_BYTES:
            raise ValueError(f"more than {MOST_BYTES >> 30} GiB of tensors: this is no MobileNetV2")
        found[name] = held[()]

    with h5py.File(io.BytesIO(source) if isinstance(source, bytes) else source, "r") as file:
        text = file.attrs.get(ATTRIBUTE, "")
        if len(text) > _LONGEST_TEXT:
            raise ValueError(f"{ATTRIBUTE} is too long")
        file.visititems(visit)
    plain = text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)
    stream = io.BytesIO()
    arrays: dict[str, Any] = {f"a{number}": value for number, value in enumerate(found.values())}
    arrays |= {_TEXT: np.array(plain), _NAMES: np.array(json.dumps(list(found)))}
    np.savez(stream, **arrays)
    return stream.getvalue()
