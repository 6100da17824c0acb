"""What the nodes of an ONNX model are as layers: one function for each kind, in ``NODES``.

What comes in: a node, its attributes, and the ``Reading`` so far. What goes out: a layer added to that, or another name
for an edge; ``Misfit`` where the node is no layer that is known, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from mnv2c.ir.graph import Array, Padding
from mnv2c.weights.layers import (
    BatchNorm,
    Clip,
    Convolution,
    Dense,
    Layer,
    Mean,
    Scale,
    Softmax,
    Sum,
    Zeros,
)
from mnv2c.weights.onnx_constants import Attributes, Constants, Value, dequantised

if TYPE_CHECKING:
    import onnx

_ABOVE_SIX = 6.01  # what rounding may make of 6


@dataclass(frozen=True)
class Edge:
    """The ``layer`` that makes it; ``axes`` is the order of its axes, ``NCHW`` or ``NHWC``, or ``NC``; ``pooled`` says
    that a map is of one pixel."""

    layer: str
    axes: str
    pooled: bool = False


class Reading(Protocol):
    """``layers`` by name, and ``edges`` by their ONNX names; ``quantised`` and ``dequantised`` say that activations and
    weights are of fewer bits."""

    constants: Constants
    layers: dict[str, Layer]
    edges: dict[str, Edge]
    quantised: bool
    dequantised: bool

    def add(self, node: onnx.NodeProto, layer: Layer, edge: Edge) -> None:
        """``layer``, which makes the node's first output."""

    def float(self, name: str) -> Array:
        """A constant's value as float32; ``Misfit`` where it is none."""

    def constant(self, name: str) -> Value:
        """A constant's value; ``Misfit`` where it is none."""


class Misfit(Exception):
    """Why a node is no layer that is known."""


def label(node: onnx.NodeProto) -> str:
    return f"{node.name or node.output[0]} ({node.op_type})"


def first_edge(reader: Reading, node: onnx.NodeProto) -> str:
    return str(next(name for name in node.input if name in reader.edges))


def _named(reader: Reading, node: onnx.NodeProto, edge: Edge) -> dict[str, Any]:
    return {"name": node.output[0], "inputs": (edge.layer,), "label": label(node)}


def _optional(node: onnx.NodeProto, index: int) -> str | None:
    return str(node.input[index]) if len(node.input) > index and node.input[index] else None


def _alias(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    reader.edges[node.output[0]] = reader.edges[node.input[0]]


def _dequantise(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    reader.quantised = True
    _alias(reader, node, attributes)


def _quantise(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    reader.quantised = True
    _alias(reader, node, attributes)
    _clip_to_range(reader, node, 1, 2)


def _clip_to_range(reader: Reading, node: onnx.NodeProto, scale: int, zero: int) -> None:
    """What onnxruntime's quantiser makes of an activation behind sums: a range of 8 bits that begins at zero."""
    edge = reader.edges[node.output[0]]
    name = _optional(node, zero)
    zeros = np.zeros(1, np.uint8) if name is None else reader.constant(name)
    step = reader.float(node.input[scale])
    if zeros.size != 1 or step.size != 1 or zeros.dtype.kind not in "iu":
        return
    limits = np.iinfo(zeros.dtype)
    if zeros.item() == limits.min and isinstance(reader.layers[edge.layer], Convolution | BatchNorm | Scale | Dense):
        high = (limits.max - limits.min) * step.item()
        layer = Clip(
            name=f"{node.output[0]}.clip",
            inputs=(edge.layer,),
            label=label(node),
            low=0.0,
            high=6.0 if high <= _ABOVE_SIX else inf,
        )
        reader.add(node, layer, edge)


def _transpose(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    edge = reader.edges[node.input[0]]
    order = list(attributes.get("perm", reversed(range(len(edge.axes)))))
    if sorted(order) != list(range(len(edge.axes))):
        raise Misfit(f"transposed by {order}")
    reader.edges[node.output[0]] = replace(edge, axes="".join(edge.axes[axis] for axis in order))


def _flatten(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    """Flatten, Reshape, Squeeze, Unsqueeze: of one pixel they change nothing."""
    edge = reader.edges[node.input[0]]
    if not edge.pooled and edge.axes != "NC":
        raise Misfit("reshapes a map; this family takes its mean first")
    axes = "NC"
    shape = reader.constants[node.input[1]] if (_optional(node, 1) or "") in reader.constants else np.zeros(0)
    if node.op_type == "Reshape" and shape.size == 4:
        axes = "NCHW" if list(shape[2:]) == [1, 1] else "NHWC"
    if node.op_type == "Unsqueeze":
        wanted = [int(axis) for axis in (shape if shape.size else attributes.get("axes", ()))]
        axes = {"2,3": "NCHW", "-1,-2": "NCHW", "-2,-1": "NCHW", "1,2": "NHWC"}.get(",".join(map(str, wanted)), "")
        if not axes:
            raise Misfit(f"axes {wanted} added")
    if node.op_type == "Squeeze" and edge.pooled:
        given = [int(axis) % 4 for axis in (shape if shape.size else attributes.get("axes", ()))]
        axes = "".join(axis for number, axis in enumerate(edge.axes) if number not in given) if given else "NC"
        if axes != "NC":
            raise Misfit(f"axes {given} taken away")
    reader.edges[node.output[0]] = replace(edge, axes=axes, pooled=len(axes) == 4)


def _convolution(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    bias = _optional(node, 2)
    weight = reader.float(node.input[1])
    _add_convolution(reader, node, attributes, weight, None if bias is None else reader.float(bias))


def _qlinear_convolution(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    """``x, x scale, x zero, w, w scale, w zero, y scale, y zero, bias``; the bias in units of both scales."""
    reader.quantised = reader.dequantised = True
    scale = reader.constant(node.input[4])
    weight = dequantised(reader.constant(node.input[3]), scale, reader.constant(node.input[5]), 0)
    bias = _optional(node, 8)
    unit = reader.constant(node.input[1]).astype(np.float64) * scale.astype(np.float64)
    values = None if bias is None else np.asarray(reader.constant(bias).astype(np.float64) * unit, np.float32)
    _add_convolution(reader, node, attributes, weight, values)
    _clip_to_range(reader, node, 6, 7)


def _add_convolution(
    reader: Reading, node: onnx.NodeProto, attributes: Attributes, weight: Array, bias: Array | None
) -> None:
    edge = reader.edges[node.input[0]]
    if weight.ndim != 4 or edge.axes != "NCHW":
        raise Misfit(f"a convolution of {edge.axes} by a weight of {weight.ndim} axes")
    pads = tuple(attributes.get("pads", (0, 0, 0, 0)))
    automatic = attributes.get("auto_pad", b"NOTSET")
    if automatic == b"SAME_LOWER" or len(pads) != 4:
        raise Misfit(f"auto_pad {automatic.decode(errors='replace')}, pads {list(pads)}")
    strides, dilations = (tuple(attributes.get(name, (1, 1))) for name in ("strides", "dilations"))
    layer = Convolution(
        **_named(reader, node, edge),
        weight=weight,
        bias=bias,
        strides=(strides[0], strides[1]),
        padding="same" if automatic == b"SAME_UPPER" else Padding(*pads),
        groups=int(attributes.get("group", 1)),
        dilations=(dilations[0], dilations[1]),
    )
    reader.add(node, layer, edge)


def _batch_norm(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    edge = reader.edges[node.input[0]]
    if edge.axes[1] != "C" or attributes.get("training_mode"):
        raise Misfit("a BatchNorm of another axis than the channels, or in training mode")
    gamma, beta, mean, var = (reader.float(name) for name in node.input[1:5])
    epsilon = float(attributes.get("epsilon", 1e-5))
    named = _named(reader, node, edge)
    reader.add(node, BatchNorm(**named, gamma=gamma, beta=beta, mean=mean, var=var, epsilon=epsilon), edge)


def _add_clip(reader: Reading, node: onnx.NodeProto, low: float, high: float) -> None:
    edge = reader.edges[first_edge(reader, node)]
    reader.add(node, Clip(**_named(reader, node, edge), low=low, high=high), edge)


def _clip(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    limits = [attributes.get("min", -inf), attributes.get("max", inf)]
    for index in (1, 2):
        name = _optional(node, index)
        if name is not None:
            limits[index - 1] = reader.float(name).item() if reader.float(name).size == 1 else np.nan
    _add_clip(reader, node, *limits)


def _limit(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    """Min and Max with one number."""
    (other,) = (name for name in node.input if name not in reader.edges)
    limit = reader.float(other)
    if limit.size != 1:
        raise Misfit(f"{node.op_type} with {limit.size} numbers")
    _add_clip(reader, node, *((-inf, limit.item()) if node.op_type == "Min" else (limit.item(), inf)))


def _arithmetic(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    """Add, Sub, Mul, Div: of two maps the first alone, else one number for each channel, or for all."""
    kind = node.op_type
    if all(name in reader.edges for name in node.input):
        if kind != "Add":
            raise Misfit(f"{kind} of two maps")
        _sum(reader, node, attributes)
        return
    first = first_edge(reader, node)
    edge = reader.edges[first]
    (other,) = (name for name in node.input if name != first)
    value = _per_channel(reader.float(other), edge)
    factor, offset = np.ones((), np.float32), np.zeros((), np.float32)
    match kind, node.input[0] == first:
        case "Mul", _:
            factor = value
        case "Add", _:
            offset = value
        case "Sub", True:
            offset = -value
        case "Sub", False:
            factor, offset = -factor, value
        case "Div", True:
            with np.errstate(all="ignore"):
                factor = factor / value
        case _:
            raise Misfit("Div by a map")
    reader.add(node, Scale(**_named(reader, node, edge), factor=factor, offset=offset), edge)


def _per_channel(value: Array, edge: Edge) -> Array:
    """``value`` as it is broadcast to the edge, one number for each channel or for all."""
    if value.size == 1:
        return value.reshape(())
    axis = edge.axes.index("C") - len(edge.axes) + value.ndim  # of value, whose axes are the edge's last
    if axis < 0 or value.shape[axis] != value.size:
        raise Misfit(f"numbers of the shape {list(value.shape)}, not one for each channel")
    return value.ravel()


def _sum(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    names = [name for name in node.input if name in reader.edges]
    one, other = (reader.edges[name] for name in (names * 2)[:2])
    if one.axes != other.axes:
        raise Misfit("the sum of maps in different orders of axes")
    reader.quantised |= node.op_type == "QLinearAdd"
    inputs = (one.layer, other.layer)
    reader.add(node, Sum(name=node.output[0], inputs=inputs, label=label(node)), one)


def _pad(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    edge = reader.edges[node.input[0]]
    pads = [int(n) for n in (reader.constant(node.input[1]) if _optional(node, 1) else attributes["pads"])]
    value = _optional(node, 2)
    if attributes.get("mode", b"constant") != b"constant" or (value is not None and reader.float(value).any()):
        raise Misfit("pads with something else than zeros")
    if _optional(node, 3) is not None or len(pads) != 8 or len(edge.axes) != 4:
        raise Misfit(f"pads by {pads}")
    around = {axis: (pads[number], pads[number + 4]) for number, axis in enumerate(edge.axes)}
    if any(around["N"] + around["C"]) or min(pads) < 0:
        raise Misfit(f"pads by {pads}, not around the map alone")
    (top, bottom), (left, right) = around["H"], around["W"]
    reader.add(node, Zeros(**_named(reader, node, edge), sides=Padding(top, left, bottom, right)), edge)


def _global_mean(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    """GlobalAveragePool, or com.microsoft's QLinearGlobalAveragePool, which may have the channels last."""
    edge = reader.edges[node.input[0]]
    reader.quantised |= node.op_type.startswith("QLinear")
    if edge.axes != ("NHWC" if attributes.get("channels_last") else "NCHW"):
        raise Misfit(f"the mean of {edge.axes}")
    reader.add(node, Mean(**_named(reader, node, edge)), replace(edge, pooled=True))


def _reduce_mean(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    edge = reader.edges[node.input[0]]
    name = _optional(node, 1)
    given = attributes.get("axes", ()) if name is None else reader.constant(name)
    axes = {edge.axes[int(axis)] for axis in given}
    if axes != {"H", "W"}:
        raise Misfit(f"the mean over {len(axes)} axes that are not the map's height and width")
    keeps = bool(attributes.get("keepdims", 1))
    after = edge.axes if keeps else edge.axes.replace("H", "").replace("W", "")
    reader.add(node, Mean(**_named(reader, node, edge)), replace(edge, axes=after, pooled=keeps))


def _average_pool(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    edge = reader.edges[node.input[0]]
    height, width = attributes["kernel_shape"]
    if edge.axes != "NCHW" or any(attributes.get("pads", ())):
        raise Misfit("an AveragePool with padding")
    layer = Mean(**_named(reader, node, edge), extents=(height, width))
    reader.add(node, layer, replace(edge, pooled=True))


def _gemm(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    if attributes.get("transA") or alpha != 1 or beta != 1:
        raise Misfit(f"Gemm with transA or factors {alpha:g}, {beta:g}")
    weight = reader.float(node.input[1])
    bias = _optional(node, 2)
    values = None if bias is None else reader.float(bias)
    _add_dense(reader, node, weight if attributes.get("transB") else weight.T, values)


def _matmul(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    _add_dense(reader, node, reader.float(node.input[1]).T, None)


def _qlinear_matmul(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    """QLinearMatMul: ``a, a scale, a zero, b, b scale, b zero, y scale, y zero``."""
    reader.quantised = reader.dequantised = True
    value, scale, zero = (reader.constant(node.input[index]) for index in (3, 4, 5))
    weight = dequantised(value, scale, zero, 1)
    _add_dense(reader, node, weight.T, None)
    _clip_to_range(reader, node, 6, 7)


def _qgemm(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    """com.microsoft's QGemm: ``a, a scale, a zero, b, b scale, b zero, bias, y scale, y zero``."""
    reader.quantised = reader.dequantised = True
    scale = reader.constant(node.input[4])
    turned = bool(attributes.get("transB"))
    weight = dequantised(reader.constant(node.input[3]), scale, reader.constant(node.input[5]), 0 if turned else 1)
    unit = reader.constant(node.input[1]).astype(np.float64) * scale.astype(np.float64)
    bias = _optional(node, 6)
    values = None if bias is None else np.asarray(reader.constant(bias).astype(np.float64) * unit, np.float32)
    _add_dense(reader, node, weight if turned else weight.T, values)
    if _optional(node, 7) is not None:
        _clip_to_range(reader, node, 7, 8)


def _add_dense(reader: Reading, node: onnx.NodeProto, weight: Array, bias: Array | None) -> None:
    edge = reader.edges[node.input[0]]
    if (edge.axes != "NC" and not (edge.pooled and edge.axes == "NHWC")) or weight.ndim != 2:
        raise Misfit(f"a matrix product of {edge.axes}; this family takes the mean over the map first")
    bias = bias.ravel() if bias is not None and bias.size == len(weight) else bias
    reader.add(node, Dense(**_named(reader, node, edge), weight=np.ascontiguousarray(weight), bias=bias), edge)


def _softmax(reader: Reading, node: onnx.NodeProto, attributes: Attributes) -> None:
    edge = reader.edges[node.input[0]]
    axis = int(attributes.get("axis", -1))
    if not -len(edge.axes) <= axis < len(edge.axes) or edge.axes[axis] != "C":
        raise Misfit(f"Softmax over axis {axis}, not over the classes")
    reader.add(node, Softmax(**_named(reader, node, edge)), edge)


Handle = Callable[[Reading, "onnx.NodeProto", Attributes], None]

SYMMETRIC = ("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "QLinearAdd")
"""What may have a constant first."""

NODES: dict[str, Handle] = {
    "Add": _arithmetic,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _alias,
    "Clip": _clip,
    "Conv": _convolution,
    "DequantizeLinear": _dequantise,
    "Div": _arithmetic,
    "Dropout": _alias,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_mean,
    "Identity": _alias,
    "MatMul": _matmul,
    "Max": _limit,
    "Min": _limit,
    "Mul": _arithmetic,
    "Pad": _pad,
    "QGemm": _qgemm,
    "QLinearAdd": _sum,
    "QLinearConv": _qlinear_convolution,
    "QLinearGlobalAveragePool": _global_mean,
    "QLinearMatMul": _qlinear_matmul,
    "QuantizeLinear": _quantise,
    "ReduceMean": _reduce_mean,
    "Relu": lambda reader, node, attributes: _add_clip(reader, node, 0.0, inf),
    "Reshape": _flatten,
    "Softmax": _softmax,
    "Squeeze": _flatten,
    "Sub": _arithmetic,
    "Sum": _sum,
    "Transpose": _transpose,
    "Unsqueeze": _flatten,
}
