"""Fuses each ReLU6 or ReLU into the convolution before it, which then cuts its sums before it stores them."""

from __future__ import annotations

from dataclasses import replace

from mnv2c.ir.graph import ACTIVATIONS, Convolution, Graph, Op, Project
from mnv2c.passes.rewrite import has_one_reader, merge


def fuse_activation(graph: Graph) -> Graph:
    """One convolution with an activation for a convolution and its ReLU6, or ReLU; never a Project, which is linear::

    x       = Conv(i, x.weight, x.bias)  ->  x = Conv(i, x.weight, x.bias) activation=relu6
    x.relu6 = ReLU6(x)
    """
    merged: dict[str, Op] = {}
    for relu in graph.ops:
        conv = graph.op(relu.inputs[0]) if type(relu) in ACTIVATIONS else None
        if isinstance(conv, Convolution) and not isinstance(conv, Project) and has_one_reader(graph, conv.name):
            merged[relu.name] = replace(conv, activation=ACTIVATIONS[type(relu)])
    return merge(graph, merged, graph.constants)
