"""Fuses each shortcut into the projection before it, which then adds the block's input to what it stores."""

from __future__ import annotations

from dataclasses import replace

from mnv2c.ir.graph import Add, Graph, Op, Project
from mnv2c.passes.rewrite import has_one_reader, merge


def fuse_add(graph: Graph) -> Graph:
    """One projection with a residual for a projection and its Add::

    b.project = Project(b.dw, b.project.weight, b.project.bias)  ->  b.project = Project(b.dw, r, b.project.weight, ...)
    b.add     = Add(b.project, r)
    """
    merged: dict[str, Op] = {}
    for add in graph.ops:
        project = _fusable(graph, add) if isinstance(add, Add) else None
        if project is not None:
            (residual,) = (edge for edge in add.inputs if edge != project.name)
            merged[add.name] = replace(project, inputs=(*project.inputs, residual))
    return merge(graph, merged, graph.constants)


def _fusable(graph: Graph, add: Add) -> Project | None:
    """The first operand of ``add`` that is a projection which nobody else reads."""
    for edge in add.inputs:
        op = graph.op(edge)
        if isinstance(op, Project) and len(op.inputs) == 1 and has_one_reader(graph, edge):
            return op
    return None
