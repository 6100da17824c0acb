"""Writes the ONNX reference as a LiteRT model, so that ``mnv2c bench`` can time XNNPACK without TensorFlow.

What comes in: the model of ``reference.onnx_export``. What goes out: the bytes of a float32 ``.tflite`` flatbuffer that
takes NHWC images, as the library does, and has the model's outputs in their order.

It is the graph that TensorFlow's converter makes of a trained MobileNetV2: BatchNorm folded into weights and bias,
ReLU6 or ReLU fused into what is before it, ``SAME`` padding wherever the zeros are those of ``SAME``. Other zeros are
an explicit ``PAD`` before a ``VALID`` convolution; XNNPACK merges the two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.errors import LibraryError

if TYPE_CHECKING:
    import onnx

_VERSION, _IDENTIFIER = 3, b"TFL3"  # of LiteRT's schema
_ALIGNMENT = 16  # bytes, of a buffer's data: `force_align` in the schema, which flatbuffers' Python code leaves out

Attributes = Mapping[str, Any]


def write_tflite(model: onnx.ModelProto) -> bytes:
    """The flatbuffer. LibraryError where the model has a node that MobileNetV2 lacks; ImportError without LiteRT."""
    import onnx

    translation = _Translation(onnx.shape_inference.infer_shapes(model).graph)
    return translation.run()


class _Translation:
    """``_tensors`` has the LiteRT tensor of every ONNX edge so far; edges inside a fused operator have none.

    ``_shapes`` has those of all edges between nodes, NHWC where they are maps.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        from ai_edge_litert import schema_py_generated
        from onnx import numpy_helper

        self._schema: Any = schema_py_generated
        self._graph = graph
        self._constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self._shapes = {value.name: _nhwc(_shape(value)) for value in graph.value_info}
        self._shapes |= {value.name: _shape(value) for value in graph.input}
        self._flatbuffer = _Flatbuffer(schema_py_generated)
        self._tensors = {value.name: self._flatbuffer.tensor(value.name, _shape(value)) for value in graph.input}
        self._fused: set[str] = set()
        self._rectified: set[str] = set()

    def run(self) -> bytes:
        """The whole model."""
        for node in self._graph.node:
            if node.name not in self._fused:
                self._translate(node, _attributes(node))
        inputs = [self._tensors[value.name] for value in self._graph.input]
        outputs = [self._tensors[value.name] for value in self._graph.output]
        return self._flatbuffer.finish(inputs, outputs)

    def _translate(self, node: onnx.NodeProto, attributes: Attributes) -> None:
        edge, inputs = node.output[0], list(node.input)
        match node.op_type:
            case "Transpose" if attributes["perm"] in ([0, 3, 1, 2], [0, 2, 3, 1]):  # every map stays NHWC
                self._tensors[edge] = self._tensors[inputs[0]]
            case "Flatten" | "Identity":  # what MEAN gives is flat already
                self._tensors[edge] = self._tensors[inputs[0]]
            case "Conv" if attributes["group"] in (1, self._shapes[edge][-1]):
                self._convolution(node, attributes)
            case "Add":
                tensors = [self._tensors[name] for name in inputs]
                edge, activation = self._fused_activation(edge)
                options = self._schema.AddOptionsT(fusedActivationFunction=activation)
                self._operator("ADD", tensors, edge, self._shapes[edge], options)
            case "MaxPool" if inputs[0] in self._rectified:  # so that zeros around it are never the largest alone
                self._max_pool(node, attributes)
            case "GlobalAveragePool":
                axes = self._flatbuffer.constant(f"{node.name}.axes", np.array([1, 2], np.int32))
                tensors, shape = [self._tensors[inputs[0]], axes], (self._shapes[edge][0], self._shapes[edge][-1])
                self._operator("MEAN", tensors, edge, shape, self._schema.ReducerOptionsT(keepDims=False))
            case "Gemm" if attributes == {"transB": 1}:
                constants = [self._flatbuffer.constant(name, self._constants[name]) for name in inputs[1:]]
                tensors, options = [self._tensors[inputs[0]], *constants], self._schema.FullyConnectedOptionsT()
                self._operator("FULLY_CONNECTED", tensors, edge, self._shapes[edge], options)
            case "Relu":  # behind a dense layer
                self._operator("RELU", [self._tensors[inputs[0]]], edge, self._shapes[edge], None)
            case "Clip" if [float(self._constants[name]) for name in inputs[1:]] == [0.0, 6.0]:
                self._operator("RELU6", [self._tensors[inputs[0]]], edge, self._shapes[edge], None)
            case "Softmax" if attributes == {"axis": -1}:
                options = self._schema.SoftmaxOptionsT(beta=1.0)
                self._operator("SOFTMAX", [self._tensors[inputs[0]]], edge, self._shapes[edge], options)
            case _:
                raise LibraryError(f"LiteRT cannot be timed: {node.name}, of kind {node.op_type}, has no translation")

    def _convolution(self, node: onnx.NodeProto, attributes: Attributes) -> None:
        weight, bias, activation, edge = self._fold(node)
        depthwise = attributes["group"] > 1
        weight = weight.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))  # OIHW to 1HWC or OHWI
        vertical, horizontal = attributes["strides"]
        x, padding = self._padded(node, weight.shape[1:3], attributes)
        kind = self._schema.DepthwiseConv2DOptionsT if depthwise else self._schema.Conv2DOptionsT
        options = kind(padding=padding, strideH=vertical, strideW=horizontal, fusedActivationFunction=activation)
        if depthwise:
            options.depthMultiplier = 1
        constants = [self._flatbuffer.constant(f"{edge}.{name}", array) for name, array in (("w", weight), ("b", bias))]
        operator = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        self._operator(operator, [x, *constants], edge, self._shapes[edge], options)

    def _max_pool(self, node: onnx.NodeProto, attributes: Attributes) -> None:
        edge, (rows, columns) = node.output[0], attributes["kernel_shape"]
        vertical, horizontal = attributes["strides"]
        x, padding = self._padded(node, (rows, columns), attributes)
        options = self._schema.Pool2DOptionsT(
            padding=padding, strideH=vertical, strideW=horizontal, filterHeight=rows, filterWidth=columns
        )
        self._operator("MAX_POOL_2D", [x], edge, self._shapes[edge], options)

    def _fold(self, node: onnx.NodeProto) -> tuple[NDArray[Any], NDArray[Any], int, str]:
        """Weight (OIHW), bias, the activation that follows, in LiteRT's numbers, and the edge behind all that is
        fused."""
        weight = self._constants[node.input[1]].astype(np.float64)
        bias = self._constants[node.input[2]] if len(node.input) > 2 else np.zeros(len(weight))
        edge = node.output[0]
        if batchnorm := self._only_user(edge, "BatchNormalization"):
            gamma, beta, mean, variance = (self._constants[name].astype(np.float64) for name in batchnorm.input[1:])
            factor = gamma / np.sqrt(variance + _attributes(batchnorm)["epsilon"])
            weight, bias = weight * factor[:, None, None, None], (bias - mean) * factor + beta
            edge = batchnorm.output[0]
            self._fused.add(batchnorm.name)
        edge, activation = self._fused_activation(edge)
        return weight.astype(np.float32), bias.astype(np.float32), activation, edge

    def _fused_activation(self, edge: str) -> tuple[str, int]:
        """The edge behind the activation that alone reads ``edge``, and which that is; ``edge`` where there is none."""
        kinds = self._schema.ActivationFunctionType
        relu, clip = self._only_user(edge, "Relu"), self._only_user(edge, "Clip")
        if clip and [float(self._constants[name]) for name in clip.input[1:]] != [0.0, 6.0]:
            clip = None
        node = relu or clip
        if node is None:
            return edge, int(kinds.NONE)
        self._fused.add(node.name)
        self._rectified.add(node.output[0])
        return node.output[0], int(kinds.RELU if relu else kinds.RELU6)

    def _padded(self, node: onnx.NodeProto, kernel: Sequence[int], attributes: Attributes) -> tuple[int, int]:
        """What the node reads, and its padding: ``SAME``, or ``VALID`` behind a ``PAD`` if need be."""
        x, shape = self._tensors[node.input[0]], self._shapes[node.input[0]]
        top, left, bottom, right = attributes["pads"]
        extents = zip(shape[1:3], kernel, attributes["strides"], strict=True)
        if [_same_zeros(*extent) for extent in extents] == [(top, bottom), (left, right)]:
            return x, self._schema.Padding.SAME
        if any(attributes["pads"]):
            sides = np.array([(0, 0), (top, bottom), (left, right), (0, 0)], np.int32)
            tensors = [x, self._flatbuffer.constant(f"{node.name}.zeros", sides)]
            padded = [extent + int(added) for extent, added in zip(shape, sides.sum(axis=1), strict=True)]
            x = self._operator("PAD", tensors, f"{node.name}.padded", padded, self._schema.PadOptionsT())
        return x, self._schema.Padding.VALID

    def _operator(self, kind: str, inputs: list[int], edge: str, shape: Sequence[int], options: object | None) -> int:
        """Appends one, and returns the tensor that it makes: ``edge``."""
        self._tensors[edge] = self._flatbuffer.tensor(edge, shape)
        self._flatbuffer.operator(kind, inputs, self._tensors[edge], options)
        return self._tensors[edge]

    def _only_user(self, edge: str, kind: str) -> onnx.NodeProto | None:
        """The node that alone reads ``edge``, if it is of ``kind`` and ``edge`` is no output."""
        users = [node for node in self._graph.node if edge in node.input]
        is_output = any(value.name == edge for value in self._graph.output)
        return users[0] if len(users) == 1 and users[0].op_type == kind and not is_output else None


class _Flatbuffer:
    """The tables of LiteRT's schema, filled."""

    def __init__(self, schema: Any) -> None:
        self._schema = schema
        self._buffers = [schema.BufferT()]  # the first stands for no data, by convention
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        self._codes: list[int] = []

    def tensor(self, name: str, shape: Sequence[int], *, kind: str = "FLOAT32", buffer: int = 0) -> int:
        """Appends one; its index."""
        kind_code = getattr(self._schema.TensorType, kind)
        self._tensors.append(self._schema.TensorT(shape=list(shape), type=kind_code, buffer=buffer, name=name))
        return len(self._tensors) - 1

    def constant(self, name: str, array: NDArray[Any]) -> int:
        """A tensor with data: float32 or int32."""
        self._buffers.append(self._schema.BufferT(data=np.frombuffer(array.tobytes(), np.uint8)))
        return self.tensor(name, array.shape, kind=array.dtype.name.upper(), buffer=len(self._buffers) - 1)

    def operator(self, kind: str, inputs: list[int], output: int, options: object | None) -> None:
        """``kind`` as in the schema's ``BuiltinOperator``; ``options`` one of its option tables, None where it has
        none."""
        code = getattr(self._schema.BuiltinOperator, kind)
        if code not in self._codes:
            self._codes.append(code)
        table = "NONE" if options is None else type(options).__name__.removesuffix("T")
        options_type = getattr(self._schema.BuiltinOptions, table)
        self._operators.append(
            self._schema.OperatorT(
                opcodeIndex=self._codes.index(code),
                inputs=inputs,
                outputs=[output],
                builtinOptionsType=options_type,
                builtinOptions=options,
            )
        )

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The file."""
        schema = self._schema
        graph = schema.SubGraphT(
            tensors=self._tensors, inputs=inputs, outputs=outputs, operators=self._operators, name="main"
        )
        codes = [schema.OperatorCodeT(builtinCode=code, deprecatedBuiltinCode=code) for code in self._codes]
        model = schema.ModelT(version=_VERSION, operatorCodes=codes, subgraphs=[graph], buffers=self._buffers)
        builder = _aligned_builder()
        builder.Finish(model.Pack(builder), _IDENTIFIER)
        return bytes(builder.Output())


def _aligned_builder() -> Any:
    import flatbuffers

    class Builder(flatbuffers.Builder):  # type: ignore[misc]
        def CreateNumpyVector(self, x: NDArray[Any]) -> int:
            self.Prep(_ALIGNMENT, x.nbytes)
            return int(super().CreateNumpyVector(x))

    return Builder()


def _same_zeros(extent: int, kernel: int, stride: int) -> tuple[int, int]:
    """The zeros that ``SAME`` puts before and after: ceil(extent / stride) outputs, an odd zero after."""
    outputs = -(-extent // stride)
    zeros = max((outputs - 1) * stride + kernel - extent, 0)
    return zeros // 2, zeros - zeros // 2


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(extent.dim_value for extent in value.type.tensor_type.shape.dim)


def _nhwc(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], *shape[2:], shape[1]) if len(shape) == 4 else shape


def _attributes(node: onnx.NodeProto) -> Attributes:
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
