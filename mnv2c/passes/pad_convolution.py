"""Gives convolutions of maps their zeros as a border in memory, so that their kernels never ask where the edge is."""

from __future__ import annotations

from dataclasses import replace

from mnv2c.ir.graph import Convolution, Graph, Op, Pad, Padding, TensorType


def pad_convolution(graph: Graph) -> Graph:
    """A Pad before a convolution for the padding in it; the image, which is the caller's, stays without::

    b.dw = Depthwise(x, b.dw.weight) padding=1,1,1,1  ->  b.dw.pad = Pad(x) border=1,1,1,1
                                                          b.dw = Depthwise(b.dw.pad, b.dw.weight)
    """
    ops: list[Op] = []
    for op in graph.ops:
        if isinstance(op, Convolution) and op.padding and op.inputs[0] != graph.input.name:
            pad = _pad(op, graph.op(op.inputs[0]).type)
            ops += [pad, replace(op, inputs=(pad.name,), padding=Padding())]
        else:
            ops.append(op)
    return replace(graph, ops=tuple(ops))


def _pad(op: Convolution, type_: TensorType) -> Pad:
    return Pad(
        name=f"{op.name}.pad",
        inputs=op.inputs,
        type=replace(type_, shape=op.padding.around(type_.shape)),
        source=op.source,
        border=op.padding,
    )
