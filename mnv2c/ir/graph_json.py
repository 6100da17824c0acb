"""A graph as JSON and back, without the values of its constants: for programs that share our code, but not our Python.

What comes in: a ``Graph``. What goes out: its ops with all their fields, its outputs, and the shapes of its constants;
the same wherever the spec lies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import PurePath
from typing import Any

import numpy as np

from mnv2c.ir import graph as ir
from mnv2c.ir.graph import Array, Graph, Op, Padding, Source, TensorType

GRAPH = "graph.json"
"""The name under which a build keeps the graph as the frontend made it."""

_OPS: dict[str, type[Op]] = {
    op.__name__: op
    for op in (
        ir.Input,
        ir.Conv,
        ir.Expand,
        ir.Depthwise,
        ir.Project,
        ir.BatchNorm,
        ir.ReLU,
        ir.ReLU6,
        ir.Softmax,
        ir.Add,
        ir.Pad,
        ir.MaxPool,
        ir.GlobalAvgPool,
        ir.Dense,
    )
}


def to_json(graph: Graph) -> dict[str, Any]:
    """What ``json.dumps`` takes."""
    return {
        "name": graph.name,
        "ops": [_described(op) for op in graph.ops],
        "constants": {name: list(value.shape) for name, value in graph.constants.items()},
        "outputs": dict(graph.outputs),
    }


def from_json(value: dict[str, Any], constants: Mapping[str, Array] | None = None) -> Graph:
    """The graph of which ``to_json`` made ``value``, with these ``constants``, or with zeros."""
    zero = np.zeros((), np.float32)
    held = {
        name: np.broadcast_to(zero, tuple(shape)) if constants is None else constants[name]
        for name, shape in value["constants"].items()
    }
    return Graph(value["name"], tuple(map(_op, value["ops"])), held, value["outputs"])


def _described(op: Op) -> dict[str, Any]:
    """The file of its source without the folders, which say where somebody's files lie."""
    source = replace(op.source, file=PurePath(op.source.file).name)
    return {"op": type(op).__name__, **asdict(replace(op, source=source))}


def _op(value: dict[str, Any]) -> Op:
    kind = _OPS[value["op"]]
    return kind(**{field.name: _field(field.name, value[field.name]) for field in fields(kind)})


def _field(name: str, value: Any) -> Any:
    match name:
        case "type":
            return TensorType(tuple(value["shape"]), value["dtype"])
        case "source":
            return Source(**{**value, "file": str(value["file"])})
        case "padding" | "border":
            return Padding(**value)
    return tuple(value) if isinstance(value, list) else value
