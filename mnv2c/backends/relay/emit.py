"""The Graph as a Relay module in the ops that a TVM user knows: ``nn.conv2d``, ``nn.bias_add``, ``clip``, ``nn.dense``.

Imported by ``program`` alone, in the environment that has Relay. What comes in: a graph after ``passes``. What goes
out: an IRModule whose ``main`` takes the image (NHWC) and every constant, in the order of the graph, each under the
name of its edge with ``_`` for ``.``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tvm
from tvm import relay

from mnv2c.errors import GraphError
from mnv2c.ir.graph import Convolution, Dense, Depthwise, GlobalAvgPool, Graph, MaxPool, Op, Pad, Padding, Softmax


def emit(graph: Graph, *, returned: Sequence[str] | None = None) -> tvm.IRModule:
    """The module, typed. ``main`` returns the ``returned`` edges, by default the graph's outputs: a tensor where it is
    one, else a tuple in their order. GraphError where an op is left that the passes fold into its neighbour."""
    image = relay.var("input", shape=graph.input.type.shape, dtype=graph.input.type.dtype)
    constants = {
        name: relay.var(name.replace(".", "_"), shape=value.shape, dtype=str(value.dtype))
        for name, value in graph.constants.items()
    }
    edges: dict[str, relay.Expr] = {graph.input.name: image, **constants}
    for op in graph.ops[1:]:
        edges[op.name] = _emit_op(op, edges)
    values = [edges[edge] for edge in returned or graph.outputs.values()]
    body = values[0] if len(values) == 1 else relay.Tuple(values)
    return relay.transform.InferType()(tvm.IRModule.from_expr(relay.Function([image, *constants.values()], body)))


def _emit_op(op: Op, edges: Mapping[str, relay.Expr]) -> relay.Expr:
    match op:
        case Convolution(bias=str() as bias):
            return _emit_convolution(op, edges[bias], edges)
        case GlobalAvgPool():
            return relay.mean(edges[op.inputs[0]], axis=[1, 2])
        case Dense(bias=str() as bias):
            product = relay.nn.dense(edges[op.inputs[0]], edges[op.weight])
            return _activated(relay.nn.bias_add(product, edges[bias], axis=1), op)
        case Softmax():
            return relay.nn.softmax(edges[op.inputs[0]], axis=-1)
        case MaxPool():
            window, strides = (op.kernel, op.kernel), (op.stride, op.stride)
            return relay.nn.max_pool2d(
                edges[op.inputs[0]], pool_size=window, strides=strides, padding=op.padding.sides, layout="NHWC"
            )
        case Pad():
            return _pad(edges[op.inputs[0]], op.border)
    raise GraphError(f"{op.name}: no kernel computes {type(op).__name__} as it is; the passes fold it into another op")


def _emit_convolution(op: Convolution, bias: relay.Expr, edges: Mapping[str, Any]) -> relay.Expr:
    """``conv2d`` of an NHWC map with an OIHW weight, then whatever was fused into it: bias, shortcut, activation."""
    weight = edges[op.weight]
    channels, _, height, width = (int(extent) for extent in weight.type_annotation.shape)
    value = relay.nn.conv2d(
        edges[op.inputs[0]],
        weight,
        strides=(op.stride, op.stride),
        padding=op.padding.sides,
        groups=channels if isinstance(op, Depthwise) else 1,
        channels=channels,
        kernel_size=(height, width),
        data_layout="NHWC",
        kernel_layout="OIHW",
    )
    value = relay.nn.bias_add(value, bias, axis=3)
    if len(op.inputs) > 1:
        value = relay.add(value, edges[op.inputs[1]])
    value = _activated(value, op)
    return _pad(value, op.border) if op.border else value


def _activated(x: relay.Expr, op: Convolution | Dense) -> relay.Expr:
    if op.activation == "relu6":
        return relay.clip(x, 0.0, 6.0)
    return relay.nn.relu(x) if op.activation == "relu" else x


def _pad(x: relay.Expr, border: Padding) -> relay.Expr:
    return relay.nn.pad(x, ((0, 0), (border.top, border.bottom), (border.left, border.right), (0, 0)))
