"""The reference: an ONNX model of the graph as the paper states it, before any pass.

What comes in: the *unoptimised* ``Graph`` (BatchNorm and activations still ops of their own). What goes out: a float32
``ModelProto`` that takes the NHWC image as ``input`` and gives each output of the graph under its name, maps as NHWC:
exactly what the library takes and gives. It shares no code with the passes and backends, so that it can contradict
them.

ONNX convolutions are NCHW: the model transposes its input once, keeps every activation NCHW, and transposes the maps
among its outputs. Edges, nodes and initializers have the graph's names; ``input.nchw``, ``<pool>.nchw``, ``relu6.min``
and ``relu6.max`` are added to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from mnv2c.errors import GraphError
from mnv2c.ir.graph import (
    Add,
    BatchNorm,
    Convolution,
    Dense,
    Depthwise,
    GlobalAvgPool,
    Graph,
    MaxPool,
    Op,
    ReLU,
    ReLU6,
    Softmax,
)
from mnv2c.ir.verifier import constant_names

if TYPE_CHECKING:
    import onnx

INPUT = "input"
OPSET = 17
IR_VERSION = 8  # with opset 17: what onnxruntime reads from 1.12 on


def export_onnx(graph: Graph) -> onnx.ModelProto:
    """The model, checked by ``onnx.checker``; equal graphs give equal bytes.

    Raises ``GraphError`` for an op or a field that only passes make.
    """
    import onnx
    from onnx import helper

    nodes = [_node("Transpose", [INPUT], f"{INPUT}.nchw", attributes={"perm": [0, 3, 1, 2]})]
    for op in graph.ops[1:]:
        nodes += _nodes(op, graph)
    nodes += [_output(name, graph.op(edge)) for name, edge in graph.outputs.items()]
    outputs = [_value(name, graph.op(edge).type.shape) for name, edge in graph.outputs.items()]
    body = helper.make_graph(nodes, graph.name, [_value(INPUT, graph.input.type.shape)], outputs, _initializers(graph))
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(body, producer_name="mnv2c", ir_version=IR_VERSION, opset_imports=[opset])
    onnx.checker.check_model(model, full_check=True)
    return model


def _nodes(op: Op, graph: Graph) -> list[onnx.NodeProto]:
    """The node, or nodes, of one op; the last makes the edge ``op.name``."""
    inputs = [f"{INPUT}.nchw" if edge == graph.input.name else edge for edge in op.inputs]
    row = op.source.row
    match op:
        case Convolution():
            return [_convolution(op, inputs, graph)]
        case BatchNorm():
            statistics = [op.gamma, op.beta, op.mean, op.var]
            return [_node("BatchNormalization", inputs + statistics, op.name, row, attributes={"epsilon": op.epsilon})]
        case ReLU6():
            return [_node("Clip", [*inputs, "relu6.min", "relu6.max"], op.name, row)]
        case ReLU():
            return [_node("Relu", inputs, op.name, row)]
        case MaxPool():
            attributes = {
                "kernel_shape": [op.kernel, op.kernel],
                "strides": [op.stride, op.stride],
                "pads": list(op.padding.sides),
            }
            return [_node("MaxPool", inputs, op.name, row, attributes=attributes)]
        case Softmax():
            return [_node("Softmax", inputs, op.name, row, attributes={"axis": -1})]
        case Add():
            return [_node("Add", inputs, op.name, row)]
        case GlobalAvgPool():
            pooled = f"{op.name}.nchw"  # N x C x 1 x 1
            return [_node("GlobalAveragePool", inputs, pooled, row), _node("Flatten", [pooled], op.name, row)]
        case Dense(activation=None):
            return [_node("Gemm", [*inputs, *constant_names(op)], op.name, row, attributes={"transB": 1})]
    raise GraphError(f"{op.name}: {type(op).__name__} has no place in the reference; export the graph before any pass")


def _output(name: str, op: Op) -> onnx.NodeProto:
    """The edge of ``op`` as the caller gets it."""
    if len(op.type.shape) == 4:
        return _node("Transpose", [op.name], name, attributes={"perm": [0, 2, 3, 1]})
    return _node("Identity", [op.name], name)


def _convolution(op: Convolution, inputs: list[str], graph: Graph) -> onnx.NodeProto:
    if op.activation is not None or len(inputs) != 1 or op.border:
        raise GraphError(f"{op.name}: something is fused into it; the reference is exported before any pass")
    out_channels, _, height, width = graph.constants[op.weight].shape
    return _node(
        "Conv",
        [*inputs, *constant_names(op)],
        op.name,
        op.source.row,
        attributes={
            "kernel_shape": [height, width],
            "strides": [op.stride, op.stride],
            "pads": list(op.padding.sides),
            "group": out_channels if isinstance(op, Depthwise) else 1,
        },
    )


def _node(
    kind: str,
    inputs: list[str],
    output: str,
    row: str = "",
    *,
    attributes: Mapping[str, float | list[int]] = MappingProxyType({}),
) -> onnx.NodeProto:
    """``row``, the YAML row, becomes the node's doc string; ``attributes`` are ONNX's."""
    from onnx import helper

    return helper.make_node(kind, inputs, [output], name=output, doc_string=row, **attributes)


def _value(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def _initializers(graph: Graph) -> list[onnx.TensorProto]:
    import numpy as np
    from onnx import numpy_helper

    clips = any(isinstance(op, ReLU6) for op in graph.ops)
    limits = {"relu6.min": np.array(0, np.float32), "relu6.max": np.array(6, np.float32)} if clips else {}
    return [numpy_helper.from_array(array, name) for name, array in (*graph.constants.items(), *limits.items())]
