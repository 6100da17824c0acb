"""Gives a bias of zeros to whatever has none, so that kernels know one form: they always add a bias."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mnv2c.ir.graph import Array, Convolution, Dense, Graph, Op


def add_bias(graph: Graph) -> Graph:
    """Zeros for the bias that a classifier without one, or a convolution that kept its BatchNorm, does not have::

    fc = Dense(pool, fc.weight)  ->  fc = Dense(pool, fc.weight, fc.bias)        fc.bias = 0
    """
    ops: list[Op] = []
    zeros: dict[str, Array] = {}
    for op in graph.ops:
        if isinstance(op, Convolution | Dense) and op.bias is None:
            bias = f"{op.name}.bias"
            zeros[bias] = np.zeros(op.type.shape[-1], np.float32)
            ops.append(replace(op, bias=bias))
        else:
            ops.append(op)
    return replace(graph, ops=tuple(ops), constants={**graph.constants, **zeros})
