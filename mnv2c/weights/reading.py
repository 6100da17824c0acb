"""Reads a trained model, whatever its format, by what is in the file and not by its name.

What comes in: a path, or a folder of transformers'. What goes out: its ``Network``; ``WeightsError``, one line, where
it cannot be read, ``ToolError`` where a package is missing that reads it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

from mnv2c.errors import WeightsError
from mnv2c.weights.keras_reader import read_h5, read_keras
from mnv2c.weights.layers import Network
from mnv2c.weights.named import read_named
from mnv2c.weights.onnx_reader import read_onnx
from mnv2c.weights.tflite_reader import read_tflite
from mnv2c.weights.torch_reader import read_pth, read_safetensors

NPZ = ".npz"
_READ = {
    NPZ: read_named,
    ".onnx": read_onnx,
    ".safetensors": read_safetensors,
    ".pth": read_pth,
    ".h5": read_h5,
    ".keras": read_keras,
    ".tflite": read_tflite,
}
FORMATS = ", ".join(_READ)
_OTHER_NAMES = {".pt": ".pth", ".bin": ".pth", ".ckpt": ".pth", ".hdf5": ".h5", ".npy": NPZ}
_BEGIN = 16


def read_network(path: Path) -> Network:
    """The network in ``path``."""
    file = model_file(path)
    read: Callable[[Path], Network] = _READ[format_of(file)]
    try:
        return read(file)
    except MemoryError as error:
        raise WeightsError(f"{path}: takes more memory than there is to read: this is no MobileNetV2") from error
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error


def model_file(path: Path) -> Path:
    """``path``, or in a folder of transformers' the file with its weights."""
    if not path.is_dir():
        return path
    found = [path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()]
    if not found:
        raise WeightsError(f"{path}: a folder without model.safetensors; name the file of the trained model")
    return found[0]


def format_of(path: Path) -> str:
    """The format, as files of it usually end. What ``open`` would wait for, such as a FIFO, is not opened."""
    try:
        if not path.exists():
            raise WeightsError(f"{path}: no such file; give a trained model's ({FORMATS})")
        if not path.is_file():
            raise WeightsError(f"{path}: not a file; give a trained model's ({FORMATS})")
        with path.open("rb") as stream:
            begin = stream.read(_BEGIN)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not begin:
        raise WeightsError(f"{path}: the file is empty (0 bytes); copy or download it again")
    suffix = path.suffix.lower()
    named = suffix if suffix in _READ else _OTHER_NAMES.get(suffix)
    if named is None and begin[:1] == b"\x08":  # ModelProto.ir_version, as every exporter of ONNX begins
        named = ".onnx"
    found = _by_content(path, begin) or named
    if found is None:
        raise WeightsError(f"{path}: not a trained model of a format that is known ({FORMATS})")
    return found


def _by_content(path: Path, begin: bytes) -> str | None:
    if begin[8:9] == b"{" and int.from_bytes(begin[:8], "little") < 1 << 27:
        return ".safetensors"  # first of all: its length may begin as others' marks do
    if begin.startswith(b"\x89HDF\r\n\x1a\n"):
        return ".h5"
    if begin[4:8] == b"TFL3":
        return ".tflite"
    if begin.startswith(b"PK"):
        return _by_members(path)
    if begin[:1] == b"\x80" or begin.startswith(b"\x08\x00PK"):
        return ".pth"  # a bare pickle: torch alone may look at it
    return None


def _by_members(path: Path) -> str | None:
    """Of a ZIP archive: NumPy, torch and Keras all make such."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return None
    if "model.weights.h5" in names and "config.json" in names:
        return ".keras"
    if any(name.endswith("data.pkl") for name in names):
        return ".pth"
    return NPZ if any(name.endswith(".npy") for name in names) else None
