"""Fuses each shortcut into the 1x1 convolution before it, which then adds the block's input to its sums."""

from __future__ import annotations

from dataclasses import replace

from mnv2c.ir.graph import Add, Convolution, Depthwise, Graph, Op
from mnv2c.passes.rewrite import has_one_reader, merge


def fuse_add(graph: Graph) -> Graph:
    """One convolution with a residual for a 1x1 convolution, such as a projection, and its Add::

    b.project = Project(b.dw, b.project.weight, b.project.bias)  ->  b.project = Project(b.dw, r, b.project.weight, ...)
    b.add     = Add(b.project, r)
    """
    merged: dict[str, Op] = {}
    for add in graph.ops:
        conv = _fusable(graph, add) if isinstance(add, Add) else None
        if conv is not None:
            (residual,) = (edge for edge in add.inputs if edge != conv.name)
            merged[add.name] = replace(conv, inputs=(*conv.inputs, residual))
    return merge(graph, merged, graph.constants)


def _fusable(graph: Graph, add: Add) -> Convolution | None:
    """The first operand of ``add`` that is a linear 1x1 convolution which nobody else reads."""
    for edge in add.inputs:
        op = graph.op(edge)
        if isinstance(op, Convolution) and _takes_residual(graph, op) and has_one_reader(graph, edge):
            return op
    return None


def _takes_residual(graph: Graph, op: Convolution) -> bool:
    is_pointwise = graph.constants[op.weight].shape[2:] == (1, 1) and op.stride == 1 and not isinstance(op, Depthwise)
    return is_pointwise and len(op.inputs) == 1 and op.activation is None and not op.border
