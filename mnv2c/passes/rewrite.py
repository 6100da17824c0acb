"""What every pass does with the ops it has chosen: merge a pair of neighbours into one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from mnv2c.ir.graph import Array, Graph, Op


def has_one_reader(graph: Graph, edge: str) -> bool:
    """Whether ``edge`` is read once in all and is no output: only then may an op be merged into its reader."""
    return edge not in graph.outputs.values() and sum(op.inputs.count(edge) for op in graph.ops) == 1


def merge(graph: Graph, merged: Mapping[str, Op], constants: Mapping[str, Array]) -> Graph:
    """The graph in which each op named by a key of ``merged``, and its producer, give way to the value.

    The value keeps the producer's name and stands where the key's op stood, where all its inputs are defined. Readers
    of the key read the value; an output that was the key becomes the value, under its old name::

        a = P(x)                          a = Q(x, y)
        b = R(a, y)    merged {b: Q}  ->  c = S(a)
        c = S(b)
    """
    new_name = {old: op.name for old, op in merged.items()}
    gone = set(new_name.values())
    ops = (merged.get(op.name, op) for op in graph.ops if op.name not in gone)
    renamed = (replace(op, inputs=tuple(new_name.get(edge, edge) for edge in op.inputs)) for op in ops)
    outputs = {name: new_name.get(edge, edge) for name, edge in graph.outputs.items()}
    return replace(graph, ops=tuple(renamed), constants=constants, outputs=outputs)
