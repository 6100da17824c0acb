"""Folds each BatchNorm into the convolution before it: at inference both are affine in the same channel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mnv2c.errors import GraphError
from mnv2c.ir.graph import Array, BatchNorm, Convolution, Graph, Op
from mnv2c.passes.rewrite import has_one_reader, merge


def fold_batchnorm(graph: Graph) -> Graph:
    """One convolution with a bias for a convolution and its BatchNorm, computed in float64::

    x    = Conv(i, x.weight)                           ->  x = Conv(i, x.weight', x.bias)
    x.bn = BatchNorm(x, x.gamma, x.beta, x.mean, x.var)

    scale   = x.gamma / sqrt(x.var + epsilon)
    x.weight' = x.weight * scale        x.bias = x.beta - x.mean * scale
    """
    merged: dict[str, Op] = {}
    constants = dict(graph.constants)
    for norm in graph.ops:
        if not isinstance(norm, BatchNorm):
            continue
        conv = graph.op(norm.inputs[0])
        if not isinstance(conv, Convolution) or not _foldable(graph, conv):
            continue
        for name in (norm.gamma, norm.beta, norm.mean, norm.var):
            del constants[name]
        bias = f"{conv.name}.bias"
        constants[conv.weight], constants[bias] = _fold(graph, conv, norm)
        merged[norm.name] = replace(conv, bias=bias)
    return merge(graph, merged, constants)


def _foldable(graph: Graph, conv: Convolution) -> bool:
    return conv.bias is None and conv.activation is None and len(conv.inputs) == 1 and has_one_reader(graph, conv.name)


def _fold(graph: Graph, conv: Convolution, norm: BatchNorm) -> tuple[Array, Array]:
    """Weight (OIHW) and bias (O) that do the work of both; GraphError where they are no finite float32."""
    weight, gamma, beta, mean, var = (
        graph.constants[name].astype(np.float64) for name in (conv.weight, norm.gamma, norm.beta, norm.mean, norm.var)
    )
    with np.errstate(over="ignore"):
        scale = gamma / np.sqrt(var + norm.epsilon)
        folded = (weight * scale[:, None, None, None]).astype(np.float32), (beta - mean * scale).astype(np.float32)
    if not all(np.isfinite(values).all() for values in folded):
        raise GraphError(f"{conv.name}: with its BatchNorm folded into it a weight is beyond float32")
    return folded
