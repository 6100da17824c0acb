"""Gives each depthwise convolution its zeros as a border in memory, so that its kernel never asks where the edge is."""

from __future__ import annotations

from dataclasses import replace

from mnv2c.ir.graph import Depthwise, Graph, Op, Pad, Padding, TensorType


def pad_depthwise(graph: Graph) -> Graph:
    """A Pad before the convolution for the padding in it::

    b.dw = Depthwise(x, b.dw.weight) padding=1,1,1,1  ->  b.dw.pad = Pad(x) border=1,1,1,1
                                                          b.dw = Depthwise(b.dw.pad, b.dw.weight)
    """
    ops: list[Op] = []
    for op in graph.ops:
        if isinstance(op, Depthwise) and op.padding:
            pad = _pad(op, graph.op(op.inputs[0]).type)
            ops += [pad, replace(op, inputs=(pad.name,), padding=Padding())]
        else:
            ops.append(op)
    return replace(graph, ops=tuple(ops))


def _pad(op: Depthwise, type_: TensorType) -> Pad:
    return Pad(
        name=f"{op.name}.pad",
        inputs=op.inputs,
        type=replace(type_, shape=op.padding.around(type_.shape)),
        source=op.source,
        border=op.padding,
    )
