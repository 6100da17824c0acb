"""Fuses each ReLU6 or ReLU into what computes its sums, which then clips them before it stores them."""

from __future__ import annotations

from dataclasses import replace

from mnv2c.ir.graph import ACTIVATIONS, Convolution, Dense, Graph, Op, Project
from mnv2c.passes.rewrite import has_one_reader, merge


def fuse_activation(graph: Graph) -> Graph:
    """One convolution, or dense layer, with an activation for it and its ReLU6 or ReLU; never a Project, which is
    linear::

    x       = Conv(i, x.weight, x.bias)  ->  x = Conv(i, x.weight, x.bias) activation=relu6
    x.relu6 = ReLU6(x)
    """
    merged: dict[str, Op] = {}
    for relu in graph.ops:
        sums = graph.op(relu.inputs[0]) if type(relu) in ACTIVATIONS else None
        if isinstance(sums, Convolution | Dense) and not isinstance(sums, Project) and has_one_reader(graph, sums.name):
            merged[relu.name] = replace(sums, activation=ACTIVATIONS[type(relu)])
    return merge(graph, merged, graph.constants)
