"""Fuses each ReLU6 into the convolution before it, which then clips its sums before it stores them."""

from __future__ import annotations

from dataclasses import replace

from mnv2c.ir.graph import Convolution, Graph, Op, Project, ReLU6
from mnv2c.passes.rewrite import has_one_reader, merge


def fuse_activation(graph: Graph) -> Graph:
    """One convolution with an activation for a convolution and its ReLU6; never a Project, which is linear::

    x       = Conv(i, x.weight, x.bias)  ->  x = Conv(i, x.weight, x.bias) activation=relu6
    x.relu6 = ReLU6(x)
    """
    merged: dict[str, Op] = {}
    for relu6 in graph.ops:
        conv = graph.op(relu6.inputs[0]) if isinstance(relu6, ReLU6) else None
        if isinstance(conv, Convolution) and not isinstance(conv, Project) and has_one_reader(graph, conv.name):
            merged[relu6.name] = replace(conv, activation="relu6")
    return merge(graph, merged, graph.constants)
