"""Reads a directory that ``mnv2c build`` wrote: what ``validate`` and ``bench`` need beside the library itself.

What comes in: the directory. What goes out: the manifest, the preprocessing, the ONNX reference.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.errors import LibraryError
from mnv2c.ir.graph import Array

if TYPE_CHECKING:
    import onnx

MODEL = "model.onnx"
MANIFEST = "manifest.json"


def normalise(directory: Path, pixels: NDArray[np.uint8]) -> Array:
    """``(pixel - mean) / scale`` in float32, with the library's own mean and scale per channel."""
    mean, scale = _preprocessing(directory)
    return (pixels.astype(np.float32) - mean) / scale


def read_manifest(directory: Path) -> dict[str, Any]:
    """What the build says about itself. LibraryError where there is none."""
    path = directory / MANIFEST
    if not directory.is_dir():
        raise LibraryError(f"{directory}: no such directory; `mnv2c build SPEC --out {directory}` makes one")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise LibraryError(f"{directory}: no {MANIFEST} in it, so it is not a library that mnv2c built") from error
    except OSError as error:
        raise LibraryError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise _damaged(directory) from error
    if not isinstance(manifest, dict):
        raise _damaged(directory)
    return manifest


def read_reference(directory: Path) -> onnx.ModelProto:
    """The ONNX model of the network before any pass. LibraryError where it is missing or damaged."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    path = directory / MODEL
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise LibraryError(f"{path}: missing; build the library again") from error
    except OSError as error:
        raise LibraryError(f"{path}: cannot be read: {error.strerror}") from error
    except (DecodeError, onnx.checker.ValidationError, ValueError) as error:
        raise LibraryError(f"{path}: damaged; build the library again") from error
    return model


def input_shape(directory: Path) -> tuple[int, int, int]:
    """Height, width and channels of an image that the library takes."""
    try:
        _, height, width, channels = read_manifest(directory)["interface"]["input_shape"]
        return int(height), int(width), int(channels)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(directory) from error


def _preprocessing(directory: Path) -> tuple[Array, Array]:
    try:
        fields = read_manifest(directory)["preprocessing"]
        mean, scale = (np.asarray(fields[key], dtype=np.float32) for key in ("mean", "scale"))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(directory) from error
    return mean, scale


def _damaged(directory: Path) -> LibraryError:
    return LibraryError(f"{directory / MANIFEST}: damaged, or not mnv2c's; build the library again")
