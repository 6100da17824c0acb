"""The executable definition of every op, in numpy: short before fast, and it shares no code with the compiler.

What comes in: a ``Graph`` and the normalised image (NHWC). What goes out: the outputs, or every edge, by name. Sums are
accumulated in float64; each edge is rounded to float32.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mnv2c.ir.graph import (
    Activation,
    Add,
    Array,
    BatchNorm,
    Convolution,
    Dense,
    Depthwise,
    GlobalAvgPool,
    Graph,
    MaxPool,
    Op,
    Pad,
    Padding,
    ReLU,
    ReLU6,
    Softmax,
)

Wide = NDArray[np.float64]


def interpret(graph: Graph, x: Array) -> dict[str, Array]:
    """The graph's outputs by name (float32, NHWC or NC) for the normalised image ``x``, in the graph's input shape.

    ``ValueError`` where ``x`` has another shape.
    """
    edges = interpret_all(graph, x)
    return {name: edges[edge] for name, edge in graph.outputs.items()}


def interpret_all(graph: Graph, x: Array) -> dict[str, Array]:
    """Every edge by name (float32, NHWC or NC), the input first. ``ValueError`` where ``x`` has another shape."""
    if x.shape != graph.input.type.shape:
        raise ValueError(f"{graph.name} takes {graph.input.type.shape}, not {x.shape}")
    edges: dict[str, Array] = {graph.input.name: x.astype(np.float32)}
    for op in graph.ops[1:]:
        inputs = [edges[name].astype(np.float64) for name in op.inputs]
        edges[op.name] = _evaluate(op, inputs, graph).astype(np.float32)
    return edges


def _evaluate(op: Op, inputs: list[Wide], graph: Graph) -> Wide:
    x = inputs[0]
    match op:
        case Convolution():
            return _convolution(op, inputs, graph)
        case BatchNorm():
            gamma, beta = _wide(graph, op.gamma), _wide(graph, op.beta)
            mean, var = _wide(graph, op.mean), _wide(graph, op.var)
            return gamma * (x - mean) / np.sqrt(var + op.epsilon) + beta
        case ReLU6():
            return np.clip(x, 0.0, 6.0)
        case ReLU():
            return np.maximum(x, 0.0)
        case Softmax():
            e = np.exp(x - x.max(axis=-1, keepdims=True))
            return np.asarray(e / e.sum(axis=-1, keepdims=True))
        case Add():
            return x + inputs[1]
        case Pad():
            return _pad(x, op.border)
        case MaxPool():
            return _largest(op, x)
        case GlobalAvgPool():
            return np.asarray(x.mean(axis=(1, 2)))
        case Dense():
            y = x @ _wide(graph, op.weight).T
            return _activate(y if op.bias is None else y + _wide(graph, op.bias), op.activation)
    raise TypeError(f"the interpreter does not know {type(op).__name__}")


def _convolution(op: Convolution, inputs: list[Wide], graph: Graph) -> Wide:
    """``y = activation(conv(x) + bias + residual)``, and the border around it."""
    x = _pad(inputs[0], op.padding)
    weight = _wide(graph, op.weight)
    shape = op.border.inside(op.type.shape)
    _, height, width, _ = shape
    y = np.zeros(shape)
    for row in range(weight.shape[2]):
        for column in range(weight.shape[3]):
            shifted = x[:, row :: op.stride, column :: op.stride][:, :height, :width]
            tap = weight[:, :, row, column]
            y += shifted * tap[:, 0] if isinstance(op, Depthwise) else shifted @ tap.T
    if op.bias is not None:
        y += _wide(graph, op.bias)
    return _pad(_activate(y + inputs[1] if len(inputs) == 2 else y, op.activation), op.border)


def _activate(x: Wide, activation: Activation) -> Wide:
    if activation is None:
        return x
    return np.clip(x, 0.0, 6.0 if activation == "relu6" else np.inf)


def _largest(op: MaxPool, x: Wide) -> Wide:
    _, height, width, _ = op.type.shape
    padded = _pad(x, op.padding, -np.inf)
    taps = [(row, column) for row in range(op.kernel) for column in range(op.kernel)]
    windows = (padded[:, row :: op.stride, column :: op.stride][:, :height, :width] for row, column in taps)
    return np.asarray(np.maximum.reduce(list(windows)))


def _pad(x: Wide, sides: Padding, value: float = 0.0) -> Wide:
    around = ((0, 0), (sides.top, sides.bottom), (sides.left, sides.right), (0, 0))
    return np.pad(x, around, constant_values=value)


def _wide(graph: Graph, name: str) -> Wide:
    return graph.constants[name].astype(np.float64)
