"""Fuses each Pad into the convolution before it, which then writes the border of zeros itself."""

from __future__ import annotations

from dataclasses import replace

from mnv2c.ir.graph import Convolution, Depthwise, Graph, Op, Pad
from mnv2c.passes.rewrite import has_one_reader, merge


def fuse_pad(graph: Graph) -> Graph:
    """One convolution with a border for a convolution and its Pad; only where nobody else reads either of them, and
    neither is an output: the caller gets maps without borders::

    b.expand = Expand(x, ...) : [1x14x14xC]  ->  b.expand = Expand(x, ...) border=1,1,1,1 : [1x16x16xC]
    b.dw.pad = Pad(b.expand) border=1,1,1,1
    """
    merged: dict[str, Op] = {}
    for pad in graph.ops:
        producer = _fusable(graph, pad) if isinstance(pad, Pad) and pad.name not in graph.outputs.values() else None
        if isinstance(pad, Pad) and producer is not None:
            merged[pad.name] = replace(producer, border=pad.border, type=pad.type)
    return merge(graph, merged, graph.constants)


def _fusable(graph: Graph, pad: Pad) -> Convolution | None:
    """The convolution that ``pad`` alone reads; not a depthwise one, nor one with a shortcut or a border already."""
    op = graph.op(pad.inputs[0])
    if not isinstance(op, Convolution) or isinstance(op, Depthwise) or len(op.inputs) > 1 or op.border:
        return None
    return op if has_one_reader(graph, op.name) else None
