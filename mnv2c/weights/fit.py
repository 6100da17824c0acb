"""Fits the tensors of a weights file, whatever its format, to the layers of a spec.

What comes in: tensors by name, as a reader of ``weights`` found them, and the shapes that the spec wants
(``frontend.parameter_shapes``). What goes out: float32 arrays, or one ``WeightsError`` that names every tensor at fault
up to ``MOST_FAULTS``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.errors import WeightsError
from mnv2c.ir.graph import Array
from mnv2c.spelling import did_you_mean

Tensor = NDArray[Any] | str
"""A tensor, or the text of why it could not be read."""

META = "__meta__"
FLOATS = ("float16", "float32", "float64")
PADDINGS = {"tf_same": "same", "same": "same", "symmetric": "symmetric"}  # what files say: what a spec says
STATISTICS = (".gamma", ".beta", ".mean", ".var")
MOST_FAULTS = 20


@dataclass(frozen=True)
class Trained:
    """What weights are trained for and a spec must repeat; ``None`` where it is not known."""

    padding: str | None = None
    batchnorm_epsilon: float | None = None


def fit(
    path: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], *, spec: Trained | None = None
) -> dict[str, Array]:
    """The tensors of ``expected`` (name: shape) as C-contiguous float32; float16 and float64 are converted.

    ``tensors`` may hold ``__meta__``: JSON text that states the ``padding`` and ``bn_eps`` the weights were trained
    with; ``spec`` says what the graph assumes. ``path`` is for the messages. Raises ``WeightsError``: one line for a
    file that has nothing to do with the spec, else a line per fault.
    """
    found = {name: tensor for name, tensor in tensors.items() if name != META}
    if not found:
        raise WeightsError(f"{path}: the archive holds no tensors")
    if not found.keys() & expected.keys():
        raise WeightsError(
            f"{path}: none of its {len(found)} tensors has a name of the spec's layers: "
            f"it holds {_few(found)}, the spec needs {_few(expected)}"
        )
    faults = [*_meta_faults(tensors.get(META), spec or Trained(), found), *_name_faults(found, expected)]
    weights: dict[str, Array] = {}
    for name in (name for name in expected if name in found):
        tensor = found[name]
        fault = _tensor_fault(tensor, name, expected[name])
        if isinstance(tensor, str) or fault:
            faults.append(f"{name}: {fault}")
        else:
            weights[name] = np.ascontiguousarray(tensor, dtype=np.float32)
    if faults:
        raise WeightsError(_message(path, faults, _hints(found, expected)))
    return weights


def _message(path: Path, faults: list[str], hints: list[str]) -> str:
    count = len(faults)
    heading = f"{path}: these weights do not fit the spec, {count} fault{'s' if count > 1 else ''}:"
    shown = faults if count <= MOST_FAULTS else [*faults[:MOST_FAULTS], f"and {count - MOST_FAULTS} more"]
    return "\n    ".join([heading, *shown, *hints])


def _name_faults(found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    missing = [name for name in expected if name not in found]
    known = [*missing, *expected, *(f"{_layer(name)}.bias" for name in expected)]
    faults = [f"{name}: missing, expected {_shape(expected[name])}" for name in missing]
    for name in (name for name in found if name not in expected):
        close = did_you_mean(name, missing) or did_you_mean(name, known)
        if name in known:
            faults.append(f"{name}: extra, the layer has a BatchNorm")
        else:
            faults.append(f"{name}: extra, no layer of the spec has it" + (f"; did you mean {close}?" if close else ""))
    return faults


def _tensor_fault(tensor: Tensor, name: str, shape: tuple[int, ...]) -> str:
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


def _meta_faults(meta: Tensor | None, spec: Trained, found: Iterable[str]) -> list[str]:
    """Where the file's own account of its training disagrees with the spec; epsilon matters to a BatchNorm alone."""
    if meta is None:
        return []
    try:
        trained = parse_meta(meta)
    except ValueError as error:
        return [f"{META}: {' '.join(str(error).split())}"]
    faults = []
    if None not in (trained.padding, spec.padding) and trained.padding != spec.padding:
        faults.append(
            f"{META}: trained with padding {trained.padding}, the spec says {spec.padding}; "
            f"give --set padding={trained.padding}"
        )
    epsilon, assumed = trained.batchnorm_epsilon, spec.batchnorm_epsilon
    normalised = any(name.endswith(".var") for name in found)
    if normalised and epsilon is not None and assumed is not None and not math.isclose(epsilon, assumed, rel_tol=1e-4):
        faults.append(
            f"{META}: trained with BatchNorm epsilon {epsilon:g}, the spec says {assumed:g}; "
            f"give --set batchnorm_epsilon={epsilon:g}"
        )
    return faults


def parse_meta(meta: Tensor) -> Trained:
    """Raises ValueError with a message for the user; keys other than ``padding`` and ``bn_eps`` are left alone."""
    if isinstance(meta, str):
        raise ValueError(meta)
    if meta.dtype.kind != "U" or meta.ndim != 0:
        raise ValueError(f"must be one JSON text, not {meta.dtype} of shape {_shape(meta.shape)}")
    try:
        fields = json.loads(str(meta))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError("must be a JSON object")
    padding, epsilon = fields.get("padding"), fields.get("bn_eps")
    if padding is not None and (not isinstance(padding, str) or padding not in PADDINGS):
        raise ValueError(f"padding is {padding!r}, expected one of {', '.join(PADDINGS)}")
    if epsilon is not None and not isinstance(epsilon, float):
        raise ValueError(f"bn_eps is {epsilon!r}, expected a number such as 0.001")
    return Trained(padding=PADDINGS[padding] if padding else None, batchnorm_epsilon=epsilon)


def _hints(found: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What probably went wrong, from names and shapes alone."""
    shapes = {name: tensor.shape for name, tensor in found.items() if isinstance(tensor, np.ndarray)}
    hints = []
    fc, wanted = shapes.get("fc.weight", ()), expected.get("fc.weight", ())
    if len(fc) == 2 and len(wanted) == 2 and fc[0] != wanted[0]:
        hidden = sum(name.startswith("hidden") and name.endswith(".weight") for name in expected)
        field = f'"classifier[{hidden}].c={fc[0]}"' if hidden else f"classes={fc[0]}"
        hints.append(f"hint: the file has {fc[0]} classes, the spec {wanted[0]}: --set {field}")
    missing = expected.keys() - found.keys()
    if any(missing.issuperset(_layer(name) + part for part in STATISTICS) for name in found.keys() & expected.keys()):
        hints.append(f"hint: beside its .weight a convolution has {', '.join(STATISTICS)}, or where folded .bias alone")
    other = [
        name
        for name in expected
        if not name.startswith(("fc.", "hidden")) and shapes.get(name, expected[name]) != expected[name]
    ]
    if len(other) > len(expected) // 4:
        hints.append("hint: most shapes differ, so the file is for another width multiplier or another table")
    return hints


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(str(extent) for extent in shape) or "scalar"


def _few(names: Iterable[str]) -> str:
    few = list(names)
    return ", ".join(few[:3]) + (", ..." if len(few) > 3 else "")
