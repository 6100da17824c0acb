"""Fuses each ReLU6 or ReLU into what computes its sums, which then clips them before it stores them."""

from __future__ import annotations

from dataclasses import replace

from mnv2c.ir.graph import Convolution, Dense, Graph, Op, Project, ReLU, ReLU6
from mnv2c.passes.rewrite import has_one_reader, merge


def fuse_activation(graph: Graph) -> Graph:
    """One convolution, or dense layer, with an activation for it and its ReLU6 or ReLU; never a Project, which is
    linear::

    x       = Conv(i, x.weight, x.bias)  ->  x = Conv(i, x.weight, x.bias) activation=relu6
    x.relu6 = ReLU6(x)
    """
    merged: dict[str, Op] = {}
    for op in graph.ops:
        sums = graph.op(op.inputs[0]) if isinstance(op, ReLU6 | ReLU) else None
        if isinstance(sums, Convolution | Dense) and not isinstance(sums, Project) and has_one_reader(graph, sums.name):
            merged[op.name] = replace(sums, activation="relu6" if isinstance(op, ReLU6) else "relu")
    return merge(graph, merged, graph.constants)
