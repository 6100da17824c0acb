"""Workloads as JSON and back: for tuning records, and for programs that share our code, but not our Python.

What comes in: a ``Workload``, or what somebody else wrote. What goes out: an object that ``json.dumps`` takes; the
workload, or a ValueError.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields
from typing import Any

from mnv2c.ir.graph import Padding
from mnv2c.precision import PRECISIONS
from mnv2c.workloads import FAMILIES, Workload


def to_json(workload: Workload) -> dict[str, Any]:
    """The family and every field that is not at its default; borders as lists: top, left, bottom, right."""
    values = {f.name: getattr(workload, f.name) for f in fields(workload)}
    changed = {f.name: values[f.name] for f in fields(workload) if values[f.name] != f.default}
    plain = {name: list(asdict(v).values()) if isinstance(v, Padding) else v for name, v in changed.items()}
    return {"family": workload.family, **json.loads(json.dumps(plain))}


def from_json(value: Any) -> Workload:
    """The workload that ``to_json`` wrote; ValueError for anything else."""
    kind = FAMILIES.get(str(value.get("family"))) if isinstance(value, dict) else None
    if kind is None:
        raise ValueError(f"no family of kernels: {value!r:.80}")
    known = {f.name: str(f.type) for f in fields(kind)}
    given = {name: item for name, item in value.items() if name != "family"}
    unknown = given.keys() - known.keys()
    if unknown:
        raise ValueError(f"{kind.family}: unknown field {min(unknown)}")
    try:
        return kind(**{name: _field(known[name], name, item) for name, item in given.items()})
    except TypeError as error:
        raise ValueError(f"{kind.family}: {error}") from error


def _field(type_: str, name: str, value: Any) -> Any:
    """``value`` as a field of the type; ValueError where it is of another."""
    if type_ == "int" and isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 31:
        return value
    if type_ == "bool" and isinstance(value, bool):
        return value
    if type_ == "str" and value in ("float32", "uint8"):
        return value
    if type_ == "Precision" and value in PRECISIONS:
        return value
    if type_ == "Activation" and value in ("relu6", "relu", None):
        return value
    if type_ == "Padding" and isinstance(value, list) and len(value) == 4 and all(map(_is_side, value)):
        return Padding(*value)
    if type_.startswith("tuple[float") and isinstance(value, list) and all(map(_is_number, value)):
        return tuple(map(float, value))
    raise ValueError(f"{name}: {value!r:.40} is no {type_}")


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
