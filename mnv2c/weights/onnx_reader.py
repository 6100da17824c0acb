"""Reads an ONNX model, by what its nodes compute and not by their names.

What comes in: a path. What goes out: its ``Network``. Every edge is known by the layer that makes it and the order of
its axes, so that transpositions need no layer of their own; reshapes and flattening count only behind the mean over the
map, where they do nothing. Quantised models (QDQ, and the QLinear operators) give their float values back; where their
quantiser has left an activation to the range of 8 bits, it is there again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnv2c.errors import WeightsError
from mnv2c.ir.graph import Array, Padding
from mnv2c.weights.layers import (
    MOST_BYTES,
    BatchNorm,
    Clip,
    Convolution,
    Dense,
    Image,
    Layer,
    Layout,
    Mean,
    Network,
    Scale,
    Softmax,
    Sum,
    Unknown,
    Zeros,
)
from mnv2c.weights.onnx_constants import Attributes, Constants, Value, dequantised

if TYPE_CHECKING:
    import onnx

_MOST_NODES = 20_000
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_RGB = 3
_ABOVE_SIX = 6.01  # what rounding may make of 6
_DEQUANTISED = "quantised weights: taken as floats"
_ACTIVATIONS = "quantised activations: left as floats, without what 8 bits lose"


@dataclass(frozen=True)
class _Edge:
    """The ``layer`` that makes it; ``axes`` is the order of its axes, ``NCHW`` or ``NHWC``, or ``NC``; ``pooled`` says
    that a map is of one pixel."""

    layer: str
    axes: str
    pooled: bool = False


def read_onnx(path: Path) -> Network:
    """The model in ``path``; ``WeightsError``, one line, where it cannot be read."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    size = path.stat().st_size
    if size > MOST_BYTES:
        raise WeightsError(f"{path}: {size >> 20} MiB: this is no MobileNetV2")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError) as error:
        raise WeightsError(f"{path}: not an ONNX model, or truncated; copy or export it again") from error
    if not model.graph.node:
        raise WeightsError(f"{path}: an ONNX file without nodes; export the model again")
    if len(model.graph.node) > _MOST_NODES:
        raise WeightsError(f"{path}: {len(model.graph.node)} nodes: this is no MobileNetV2")
    try:
        return _Reader(model, Constants(model, path.parent)).run()
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


class _Reader:
    """``layers`` so far by name, ``edges`` by their ONNX names; ``quantised`` says that activations are."""

    def __init__(self, model: onnx.ModelProto, constants: Constants) -> None:
        self._model = model
        self.constants = constants
        self.layers: dict[str, Layer] = {}
        self.edges: dict[str, _Edge] = {}
        self.quantised = False
        self.dequantised = False
        self._sizes: set[str] = set()

    def run(self) -> Network:
        layout = self._image()
        for node in self._model.graph.node:
            self._node(node)
        outputs = [self.edges[one.name] for one in self._model.graph.output if one.name in self.edges]
        if not outputs:
            raise ValueError("none of its outputs is computed from the image")
        order = list(self.layers)
        output = max((edge.layer for edge in outputs), key=order.index)
        versions = [one.version for one in self._model.opset_import if one.domain in ("", "ai.onnx")]
        by = " ".join(filter(None, (self._model.producer_name, self._model.producer_version)))
        return Network(
            origin=f"ONNX opset {max(versions, default=0)}" + (f", from {by[:60]}" if by else ""),
            layers=self.layers,
            output=output,
            layout=layout,
            notes=(_DEQUANTISED,) * self.dequantised + (_ACTIVATIONS,) * self.quantised,
            in_8_bits=self.quantised,
        )

    def _image(self) -> Layout:
        """The one input that is no initializer, a batch of RGB images."""
        inputs = [one for one in self._model.graph.input if one.name not in self.constants]
        if len(inputs) != 1:
            names = ", ".join(one.name for one in inputs[:4])
            raise ValueError(f"{len(inputs)} inputs ({names}), not one image" if inputs else "no input for an image")
        extents = [dim.dim_value or None for dim in inputs[0].type.tensor_type.shape.dim]
        if len(extents) != 4 or (extents[1] == _RGB) == (extents[3] == _RGB):
            shown = "x".join("?" if extent is None else str(extent) for extent in extents) or "of any shape"
            raise ValueError(f"its input {inputs[0].name} is {shown}, not batches of RGB images (Nx3xHxW or NxHxWx3)")
        layout: Layout = "NCHW" if extents[1] == _RGB else "NHWC"
        height, width = extents[layout.index("H")], extents[layout.index("W")]
        name = inputs[0].name
        image = Image(name=name, inputs=(), label=f"{name} (input)", height=height, width=width, channels=_RGB)
        self.layers[name], self.edges[name] = image, _Edge(name, layout)
        return layout

    def _node(self, node: onnx.NodeProto) -> None:
        """Adds what it computes to the constants, to the sizes, to the edges, or to the layers."""
        from onnx import helper

        if not node.output:
            return
        given = [name for name in node.input if name]
        for name in given:
            if name not in self.constants and name not in self.edges and name not in self._sizes:
                raise ValueError(f"{_label(node)} reads {name!r}, which nothing before it makes")
        try:
            attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        except ValueError as error:
            raise ValueError(f"{_label(node)}: {error}") from error
        data = [name for name in given if name in self.edges]
        if not data and all(name in self.constants for name in given) and self.constants.add_computed(node, attributes):
            self.dequantised |= node.op_type == "DequantizeLinear"
            return
        if node.op_type in ("Shape", "Size") or not data:
            self._sizes.update(node.output)
            return
        handle = _NODES.get(node.op_type) if node.domain in _DOMAINS else None
        if handle is None or (data[0] != given[0] and node.op_type not in _SYMMETRIC):
            self.unknown(node, f"no network of this family has {node.op_type}")
        else:
            try:
                handle(self, node, attributes)
            except _Misfit as error:
                self.unknown(node, str(error))
            except (IndexError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{_label(node)} lacks an input or an attribute") from error

    def add(self, node: onnx.NodeProto, layer: Layer, edge: _Edge) -> None:
        """``layer``, which makes the node's first output."""
        self.layers[layer.name] = layer
        self.edges[node.output[0]] = replace(edge, layer=layer.name)

    def unknown(self, node: onnx.NodeProto, why: str) -> None:
        for output in node.output:
            sources = tuple(dict.fromkeys(self.edges[name].layer for name in node.input if name in self.edges))
            self.layers[output] = Unknown(name=output, inputs=sources, label=_label(node), why=why)
            self.edges[output] = _Edge(output, self.edges[_first(self, node)].axes)

    def float(self, name: str) -> Array:
        """A constant's value as float32; a node that reads anything else there is no layer."""
        return np.asarray(self.constant(name), np.float32)

    def constant(self, name: str) -> Value:
        if name not in self.constants:
            raise _Misfit("its weights are computed, not constants")
        return self.constants[name]


class _Misfit(Exception):
    """Why a node is no layer that is known."""


def _label(node: onnx.NodeProto) -> str:
    return f"{node.name or node.output[0]} ({node.op_type})"


def _first(reader: _Reader, node: onnx.NodeProto) -> str:
    return str(next(name for name in node.input if name in reader.edges))


def _named(reader: _Reader, node: onnx.NodeProto, edge: _Edge) -> dict[str, Any]:
    return {"name": node.output[0], "inputs": (edge.layer,), "label": _label(node)}


def _optional(node: onnx.NodeProto, index: int) -> str | None:
    return str(node.input[index]) if len(node.input) > index and node.input[index] else None


def _alias(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    reader.edges[node.output[0]] = reader.edges[node.input[0]]


def _dequantise(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    reader.quantised = True
    _alias(reader, node, attributes)


def _quantise(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    reader.quantised = True
    _alias(reader, node, attributes)
    _clip_to_range(reader, node, 1, 2)


def _clip_to_range(reader: _Reader, node: onnx.NodeProto, scale: int, zero: int) -> None:
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
            label=_label(node),
            low=0.0,
            high=6.0 if high <= _ABOVE_SIX else inf,
        )
        reader.add(node, layer, edge)


def _transpose(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    edge = reader.edges[node.input[0]]
    order = list(attributes.get("perm", reversed(range(len(edge.axes)))))
    if sorted(order) != list(range(len(edge.axes))):
        raise _Misfit(f"transposed by {order}")
    reader.edges[node.output[0]] = replace(edge, axes="".join(edge.axes[axis] for axis in order))


def _flatten(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    """Flatten, Reshape, Squeeze, Unsqueeze: of one pixel they change nothing."""
    edge = reader.edges[node.input[0]]
    if not edge.pooled and edge.axes != "NC":
        raise _Misfit("reshapes a map; this family takes its mean first")
    axes = "NC"
    shape = reader.constants[node.input[1]] if (_optional(node, 1) or "") in reader.constants else np.zeros(0)
    if node.op_type == "Reshape" and shape.size == 4:
        axes = "NCHW" if list(shape[2:]) == [1, 1] else "NHWC"
    if node.op_type == "Unsqueeze":
        wanted = [int(axis) for axis in (shape if shape.size else attributes.get("axes", ()))]
        axes = {"2,3": "NCHW", "-1,-2": "NCHW", "-2,-1": "NCHW", "1,2": "NHWC"}.get(",".join(map(str, wanted)), "")
        if not axes:
            raise _Misfit(f"axes {wanted} added")
    if node.op_type == "Squeeze" and edge.pooled:
        given = [int(axis) % 4 for axis in (shape if shape.size else attributes.get("axes", ()))]
        axes = "".join(axis for number, axis in enumerate(edge.axes) if number not in given) if given else "NC"
        if axes != "NC":
            raise _Misfit(f"axes {given} taken away")
    reader.edges[node.output[0]] = replace(edge, axes=axes, pooled=len(axes) == 4)


def _convolution(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    bias = _optional(node, 2)
    weight = reader.float(node.input[1])
    _add_convolution(reader, node, attributes, weight, None if bias is None else reader.float(bias))


def _qlinear_convolution(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
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
    reader: _Reader, node: onnx.NodeProto, attributes: Attributes, weight: Array, bias: Array | None
) -> None:
    edge = reader.edges[node.input[0]]
    if weight.ndim != 4 or edge.axes != "NCHW":
        raise _Misfit(f"a convolution of {edge.axes} by a weight of {weight.ndim} axes")
    pads = tuple(attributes.get("pads", (0, 0, 0, 0)))
    automatic = attributes.get("auto_pad", b"NOTSET")
    if automatic == b"SAME_LOWER" or len(pads) != 4:
        raise _Misfit(f"auto_pad {automatic.decode(errors='replace')}, pads {list(pads)}")
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


def _batch_norm(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    edge = reader.edges[node.input[0]]
    if edge.axes[1] != "C" or attributes.get("training_mode"):
        raise _Misfit("a BatchNorm of another axis than the channels, or in training mode")
    gamma, beta, mean, var = (reader.float(name) for name in node.input[1:5])
    epsilon = float(attributes.get("epsilon", 1e-5))
    named = _named(reader, node, edge)
    reader.add(node, BatchNorm(**named, gamma=gamma, beta=beta, mean=mean, var=var, epsilon=epsilon), edge)


def _add_clip(reader: _Reader, node: onnx.NodeProto, low: float, high: float) -> None:
    edge = reader.edges[_first(reader, node)]
    reader.add(node, Clip(**_named(reader, node, edge), low=low, high=high), edge)


def _clip(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    limits = [attributes.get("min", -inf), attributes.get("max", inf)]
    for index in (1, 2):
        name = _optional(node, index)
        if name is not None:
            limits[index - 1] = reader.float(name).item() if reader.float(name).size == 1 else np.nan
    _add_clip(reader, node, *limits)


def _limit(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    """Min and Max with one number."""
    (other,) = (name for name in node.input if name not in reader.edges)
    limit = reader.float(other)
    if limit.size != 1:
        raise _Misfit(f"{node.op_type} with {limit.size} numbers")
    _add_clip(reader, node, *((-inf, limit.item()) if node.op_type == "Min" else (limit.item(), inf)))


def _arithmetic(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    """Add, Sub, Mul, Div: of two maps the first alone, else one number for each channel, or for all."""
    kind = node.op_type
    if all(name in reader.edges for name in node.input):
        if kind != "Add":
            raise _Misfit(f"{kind} of two maps")
        _sum(reader, node, attributes)
        return
    first = _first(reader, node)
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
            raise _Misfit("Div by a map")
    reader.add(node, Scale(**_named(reader, node, edge), factor=factor, offset=offset), edge)


def _per_channel(value: Array, edge: _Edge) -> Array:
    """``value`` as it is broadcast to the edge, one number for each channel or for all."""
    if value.size == 1:
        return value.reshape(())
    axis = edge.axes.index("C") - len(edge.axes) + value.ndim  # of value, whose axes are the edge's last
    if axis < 0 or value.shape[axis] != value.size:
        raise _Misfit(f"numbers of the shape {list(value.shape)}, not one for each channel")
    return value.ravel()


def _sum(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    names = [name for name in node.input if name in reader.edges]
    one, other = (reader.edges[name] for name in (names * 2)[:2])
    if one.axes != other.axes:
        raise _Misfit("the sum of maps in different orders of axes")
    reader.quantised |= node.op_type == "QLinearAdd"
    inputs = (one.layer, other.layer)
    reader.add(node, Sum(name=node.output[0], inputs=inputs, label=_label(node)), one)


def _pad(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    edge = reader.edges[node.input[0]]
    pads = [int(n) for n in (reader.constant(node.input[1]) if _optional(node, 1) else attributes["pads"])]
    value = _optional(node, 2)
    if attributes.get("mode", b"constant") != b"constant" or (value is not None and reader.float(value).any()):
        raise _Misfit("pads with something else than zeros")
    if _optional(node, 3) is not None or len(pads) != 8 or len(edge.axes) != 4:
        raise _Misfit(f"pads by {pads}")
    around = {axis: (pads[number], pads[number + 4]) for number, axis in enumerate(edge.axes)}
    if any(around["N"] + around["C"]) or min(pads) < 0:
        raise _Misfit(f"pads by {pads}, not around the map alone")
    (top, bottom), (left, right) = around["H"], around["W"]
    reader.add(node, Zeros(**_named(reader, node, edge), sides=Padding(top, left, bottom, right)), edge)


def _global_mean(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    """GlobalAveragePool, or com.microsoft's QLinearGlobalAveragePool, which may have the channels last."""
    edge = reader.edges[node.input[0]]
    reader.quantised |= node.op_type.startswith("QLinear")
    if edge.axes != ("NHWC" if attributes.get("channels_last") else "NCHW"):
        raise _Misfit(f"the mean of {edge.axes}")
    reader.add(node, Mean(**_named(reader, node, edge)), replace(edge, pooled=True))


def _reduce_mean(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    edge = reader.edges[node.input[0]]
    name = _optional(node, 1)
    given = attributes.get("axes", ()) if name is None else reader.constant(name)
    axes = {edge.axes[int(axis)] for axis in given}
    if axes != {"H", "W"}:
        raise _Misfit(f"the mean over {len(axes)} axes that are not the map's height and width")
    keeps = bool(attributes.get("keepdims", 1))
    after = edge.axes if keeps else edge.axes.replace("H", "").replace("W", "")
    reader.add(node, Mean(**_named(reader, node, edge)), replace(edge, axes=after, pooled=keeps))


def _average_pool(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    edge = reader.edges[node.input[0]]
    height, width = attributes["kernel_shape"]
    if edge.axes != "NCHW" or any(attributes.get("pads", ())):
        raise _Misfit("an AveragePool with padding")
    layer = Mean(**_named(reader, node, edge), extents=(height, width))
    reader.add(node, layer, replace(edge, pooled=True))


def _gemm(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    if attributes.get("transA") or alpha != 1 or beta != 1:
        raise _Misfit(f"Gemm with transA or factors {alpha:g}, {beta:g}")
    weight = reader.float(node.input[1])
    bias = _optional(node, 2)
    values = None if bias is None else reader.float(bias)
    _add_dense(reader, node, weight if attributes.get("transB") else weight.T, values)


def _matmul(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    _add_dense(reader, node, reader.float(node.input[1]).T, None)


def _qlinear_matmul(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    """QLinearMatMul: ``a, a scale, a zero, b, b scale, b zero, y scale, y zero``."""
    reader.quantised = reader.dequantised = True
    value, scale, zero = (reader.constant(node.input[index]) for index in (3, 4, 5))
    weight = dequantised(value, scale, zero, 1)
    _add_dense(reader, node, weight.T, None)
    _clip_to_range(reader, node, 6, 7)


def _qgemm(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
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


def _add_dense(reader: _Reader, node: onnx.NodeProto, weight: Array, bias: Array | None) -> None:
    edge = reader.edges[node.input[0]]
    if (edge.axes != "NC" and not (edge.pooled and edge.axes == "NHWC")) or weight.ndim != 2:
        raise _Misfit(f"a matrix product of {edge.axes}; this family takes the mean over the map first")
    bias = bias.ravel() if bias is not None and bias.size == len(weight) else bias
    reader.add(node, Dense(**_named(reader, node, edge), weight=np.ascontiguousarray(weight), bias=bias), edge)


def _softmax(reader: _Reader, node: onnx.NodeProto, attributes: Attributes) -> None:
    edge = reader.edges[node.input[0]]
    axis = int(attributes.get("axis", -1))
    if not -len(edge.axes) <= axis < len(edge.axes) or edge.axes[axis] != "C":
        raise _Misfit(f"Softmax over axis {axis}, not over the classes")
    reader.add(node, Softmax(**_named(reader, node, edge)), edge)


Handle = Callable[[_Reader, "onnx.NodeProto", Attributes], None]

_SYMMETRIC = ("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "QLinearAdd")
"""What may have a constant first."""

_NODES: dict[str, Handle] = {
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
