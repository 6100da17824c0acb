"""Reads trained weights from a NumPy ``.npz`` file, and never a pickle.

What comes in: a file with one tensor per name of ``frontend.parameter_shapes`` (``stem.weight``, ``block3.dw.gamma``,
...; OIHW convolutions, classes x features for ``fc.weight``, BatchNorm unfolded) and, optionally, ``__meta__``: JSON
text that may state the ``padding`` and ``bn_eps`` the weights were trained with. What goes out: float32 arrays, or one
``WeightsError`` that lists everything at fault.
"""

from __future__ import annotations

import difflib
import json
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.errors import WeightsError
from mnv2c.ir.graph import Array

META = "__meta__"
FLOATS = ("float16", "float32", "float64")
PADDINGS = {"tf_same": "same", "same": "same", "symmetric": "symmetric"}  # what files say: what a spec says
DAMAGE = (OSError, EOFError, ValueError, KeyError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Trained:
    """What weights are trained for and a spec must repeat; ``None`` where it is not known."""

    padding: str | None = None
    batchnorm_epsilon: float | None = None


def read_npz(path: Path, expected: Mapping[str, tuple[int, ...]], *, spec: Trained | None = None) -> dict[str, Array]:
    """The tensors of ``expected`` (name: shape) as C-contiguous float32; float16 and float64 are converted.

    ``spec`` says what the graph assumes, and is compared with the file's ``__meta__``. Raises ``WeightsError``:
    one line for a file that cannot be read, else one line per tensor at fault.
    """
    found = _read_members(path)
    faults = _meta_faults(found.pop(META, None), spec or Trained())
    if not found:
        raise WeightsError(f"{path}: the archive holds no tensors")
    if not found.keys() & expected.keys():
        raise WeightsError(
            f"{path}: none of its {len(found)} tensors has a name of the spec's layers: "
            f"it holds {_few(found)}, the spec needs {_few(expected)}"
        )
    faults += _name_faults(found, expected)
    weights: dict[str, Array] = {}
    for name, shape in expected.items():
        if name in found:
            fault = _tensor_fault(found[name], name, shape)
            if fault:
                faults.append(f"{name}: {fault}")
            else:
                weights[name] = np.ascontiguousarray(found[name], dtype=np.float32)
    if faults:
        heading = f"{path}: these weights do not fit the spec, {len(faults)} fault{'s' if len(faults) > 1 else ''}:"
        raise WeightsError("\n    ".join([heading, *faults, *_hints(found, expected)]))
    return weights


def _read_members(path: Path) -> dict[str, NDArray[Any] | str]:
    """Every member of the archive; a damaged one becomes the text of what is wrong with it."""
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
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: {getattr(error, 'strerror', None) or error}") from error
    if not archive:
        state = "empty" if size == 0 else "not an .npz archive, or truncated"
        raise WeightsError(f"{path}: the file is {state} ({size} bytes); copy or download it again")


def _read_member(archive: Any, name: str) -> NDArray[Any] | str:
    try:
        value = archive[name]
    except DAMAGE as error:
        return f"cannot be read ({_one_line(error)})"
    return value if isinstance(value, np.ndarray) else "not a NumPy array"


def _name_faults(found: Mapping[str, object], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected]
    faults = [f"{name}: missing, expected {_shape(expected[name])}" for name in missing]
    for name in extra:
        close = difflib.get_close_matches(name, missing, n=1) or difflib.get_close_matches(name, expected, n=1)
        faults.append(f"{name}: extra, no layer of the spec has it" + (f"; did you mean {close[0]}?" if close else ""))
    return faults


def _tensor_fault(tensor: NDArray[Any] | str, name: str, shape: tuple[int, ...]) -> str:
    """What is wrong with one tensor; empty where nothing is."""
    if isinstance(tensor, str):
        return tensor
    if tensor.dtype.name not in FLOATS:
        return f"dtype {tensor.dtype}, expected float32 (or float16 or float64, which are converted)"
    if tensor.shape != shape:
        return f"shape {_shape(tensor.shape)}, expected {_shape(shape)}"
    with np.errstate(over="ignore"):
        finite = np.isfinite(tensor.astype(np.float32))
    if not finite.all():
        first = np.argwhere(~finite)[0].tolist()
        return f"{int((~finite).sum())} of {tensor.size} values not finite in float32, the first at {first}"
    if name.endswith(".var") and (tensor < 0).any():
        first = np.argwhere(tensor < 0)[0].tolist()
        return f"{int((tensor < 0).sum())} of {tensor.size} variances below zero, the first at {first}"
    return ""


def _meta_faults(meta: NDArray[Any] | str | None, spec: Trained) -> list[str]:
    """Where the file's own account of its training disagrees with the spec."""
    if meta is None:
        return []
    try:
        trained = _parse_meta(meta)
    except ValueError as error:
        return [f"{META}: {_one_line(error)}"]
    faults = []
    if None not in (trained.padding, spec.padding) and trained.padding != spec.padding:
        faults.append(
            f"{META}: trained with padding {trained.padding}, the spec says {spec.padding}; "
            f"mend it with --set padding={trained.padding}"
        )
    if trained.batchnorm_epsilon is not None and spec.batchnorm_epsilon is not None:
        same = math.isclose(trained.batchnorm_epsilon, spec.batchnorm_epsilon, rel_tol=1e-4)
        if not same:
            faults.append(
                f"{META}: trained with BatchNorm epsilon {trained.batchnorm_epsilon:g}, the spec says "
                f"{spec.batchnorm_epsilon:g}; mend it with --set batchnorm_epsilon={trained.batchnorm_epsilon:g}"
            )
    return faults


def _parse_meta(meta: NDArray[Any] | str) -> Trained:
    """Raises ValueError with a message for the user; keys other than ``padding`` and ``bn_eps`` are left alone."""
    if isinstance(meta, str):
        raise ValueError(meta)
    if meta.dtype.kind != "U" or meta.ndim != 0:
        raise ValueError(f"must be one JSON text, not {meta.dtype} of shape {_shape(meta.shape)}")
    try:
        fields = json.loads(str(meta))
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError("must be a JSON object")
    padding, epsilon = fields.get("padding"), fields.get("bn_eps")
    if padding is not None and (not isinstance(padding, str) or padding not in PADDINGS):
        raise ValueError(f"padding is {padding!r}, expected one of {', '.join(PADDINGS)}")
    if epsilon is not None and not isinstance(epsilon, float):
        raise ValueError(f"bn_eps is {epsilon!r}, expected a number such as 0.001")
    return Trained(padding=PADDINGS[padding] if padding else None, batchnorm_epsilon=epsilon)


def _hints(found: Mapping[str, NDArray[Any] | str], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What probably went wrong, from the shapes alone."""
    shapes = {name: tensor.shape for name, tensor in found.items() if isinstance(tensor, np.ndarray)}
    hints = []
    fc, wanted = shapes.get("fc.weight", ()), expected.get("fc.weight", ())
    if len(fc) == 2 and len(wanted) == 2 and fc[0] != wanted[0]:
        hints.append(f"hint: the file has {fc[0]} classes, the spec {wanted[0]}: --set classes={fc[0]}")
    other = [
        name for name in expected if not name.startswith("fc.") and shapes.get(name, expected[name]) != expected[name]
    ]
    if len(other) > len(expected) // 4:
        hints.append("hint: most shapes differ, so the file is for another width multiplier or another table")
    return hints


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(extent) for extent in shape) or "scalar"


def _few(names: Iterable[str]) -> str:
    few = list(names)
    return ", ".join(few[:3]) + (", ..." if len(few) > 3 else "")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
