"""ONNX models as the exporters of others write them: one network, in the forms that its layers come in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mnv2c.ir.graph import (
    Add,
    Array,
    BatchNorm,
    Convolution,
    Dense,
    Depthwise,
    GlobalAvgPool,
    Graph,
    Op,
    ReLU,
    ReLU6,
    Softmax,
)


@dataclass(frozen=True)
class Form:
    """What exporters differ in."""

    opset: int = 17
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    relu6: Literal["clip", "clip attributes", "constants", "min max", "relu min"] = "clip"
    mean: Literal["global", "reduce", "reduce flat", "average"] = "global"
    flatten: Literal["flatten", "reshape", "squeeze", "dynamic", "none"] = "flatten"
    dense: Literal["gemm", "gemm untransposed", "matmul", "convolution"] = "gemm"
    norm: Literal["batchnorm", "with bias", "mul add"] = "batchnorm"
    padding: Literal["attribute", "node", "auto"] = "attribute"
    weights: Literal["float", "int8", "float16"] = "float"
    activations_quantised: bool = False
    pixels: tuple[float, float] | None = None  # mean and scale, inside the model
    dynamic: bool = False
    resolution_known: bool = True


def write(graph: Graph, form: Form = Form()) -> onnx.ModelProto:
    """The model of ``graph`` before any pass, checked by onnx."""
    return _Writer(graph, form).model()


class _Writer:
    def __init__(self, graph: Graph, form: Form) -> None:
        self._graph, self._form = graph, form
        self._nodes: list[onnx.NodeProto] = []
        self._stored: dict[str, np.ndarray[Any, Any]] = {}
        self._edges: dict[str, str] = {}

    def model(self) -> onnx.ModelProto:
        form, image = self._form, self._graph.input
        batch, height, width, _ = image.type.shape
        sides: list[int | str] = [height, width] if form.resolution_known else ["height", "width"]
        n: int | str = "batch" if form.dynamic else batch
        shape = [n, 3, *sides] if form.layout == "NCHW" else [n, *sides, 3]
        last = "pixels"
        if form.pixels is not None:
            last = self._node("Sub", [last, self._constant("mean", np.float32(form.pixels[0]))])
            last = self._node("Div", [last, self._constant("scale", np.float32(form.pixels[1]))])
        if form.layout == "NHWC":
            last = self._node("Transpose", [last], perm=[0, 3, 1, 2])
        self._edges[image.name] = last
        for op in self._graph.ops[1:]:
            self._edges[op.name] = self._op(op, [self._edges[name] for name in op.inputs])
        (edge,) = self._graph.outputs.values()
        self._nodes.append(helper.make_node("Identity", [self._edges[edge]], ["output"]))
        classes = self._graph.op(edge).type.shape[-1]
        body = helper.make_graph(
            self._nodes,
            "main_graph",
            [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, [n, classes])],
            [numpy_helper.from_array(value, name) for name, value in self._stored.items()],
        )
        opsets = [helper.make_opsetid("", form.opset)]
        model = helper.make_model(body, producer_name="tests", ir_version=8, opset_imports=opsets)
        onnx.checker.check_model(model)
        return model

    def _op(self, op: Op, inputs: list[str]) -> str:
        match op:
            case Convolution():
                return self._convolution(op, inputs[0])
            case BatchNorm():
                return self._norm(op, inputs[0])
            case ReLU6():
                return self._relu6(inputs[0])
            case ReLU():
                return self._node("Relu", inputs)
            case Softmax():
                return self._node("Softmax", inputs, axis=-1)
            case Add():
                return self._node("Add", inputs)
            case GlobalAvgPool():
                return self._mean(op, inputs[0])
            case Dense():
                return self._dense(op, inputs[0])
        raise TypeError(op)

    def _convolution(self, op: Convolution, x: str) -> str:
        form = self._form
        weight = self._graph.constants[op.weight]
        pads = list(op.padding.sides)
        attributes: dict[str, Any] = {"kernel_shape": list(weight.shape[2:]), "strides": [op.stride] * 2}
        attributes["group"] = len(weight) if isinstance(op, Depthwise) else 1
        if form.padding == "node" and any(pads):
            top, left, bottom, right = pads
            zeros = [0, 0, top, left, 0, 0, bottom, right]
            if form.opset < 11:
                x = self._node("Pad", [x], pads=zeros, mode="constant")
            else:
                x = self._node("Pad", [x, self._constant(f"{op.name}.pads", np.array(zeros, np.int64))])
        elif form.padding == "auto":
            attributes["auto_pad"] = "SAME_UPPER"
        else:
            attributes["pads"] = pads
        inputs = [x, self._weight(op.weight, weight)]
        if op.bias is not None:
            inputs.append(self._constant(op.bias, self._graph.constants[op.bias]))
        elif form.norm == "with bias":
            inputs.append(self._constant(f"{op.name}.shift", np.full(len(weight), 0.25, np.float32)))
        return self._quantised(self._node("Conv", inputs, **attributes))

    def _weight(self, name: str, value: Array) -> str:
        """The edge with a weight: as it is, or behind what makes floats of it."""
        if self._form.weights == "float16":
            return self._node("Cast", [self._constant(name, value.astype(np.float16))], to=TensorProto.FLOAT)
        if self._form.weights == "float":
            return self._constant(name, value)
        quantised, scale = quantise(value)
        inputs = [self._constant(name, quantised), self._constant(f"{name}.scale", scale)]
        inputs.append(self._constant(f"{name}.zero", np.zeros(len(scale), np.int8)))
        return self._node("DequantizeLinear", inputs, axis=0)

    def _quantised(self, x: str) -> str:
        if not self._form.activations_quantised:
            return x
        operands = [self._constant("step", np.float32(0.05)), self._constant("zero", np.uint8(128))]
        return self._node("DequantizeLinear", [self._node("QuantizeLinear", [x, *operands]), *operands])

    def _norm(self, op: BatchNorm, x: str) -> str:
        gamma, beta, mean, var = (self._graph.constants[name] for name in (op.gamma, op.beta, op.mean, op.var))
        if self._form.norm == "mul add":
            factor = gamma / np.sqrt(var + np.float32(op.epsilon))
            shape = (1, -1, 1, 1)
            x = self._node("Mul", [x, self._constant(f"{op.name}.factor", factor.reshape(shape))])
            return self._node("Add", [x, self._constant(f"{op.name}.offset", (beta - mean * factor).reshape(shape))])
        if self._form.norm == "with bias":
            mean = mean + np.float32(0.25)
        values = {op.gamma: gamma, op.beta: beta, op.mean: mean, op.var: var}
        names = [self._constant(name, value) for name, value in values.items()]
        return self._node("BatchNormalization", [x, *names], epsilon=op.epsilon)

    def _relu6(self, x: str) -> str:
        low, high = np.float32(0), np.float32(6)
        match self._form.relu6:
            case "clip attributes":
                return self._node("Clip", [x], min=0.0, max=6.0)
            case "constants":
                limits = [self._node("Constant", [], value=numpy_helper.from_array(np.array(v))) for v in (low, high)]
                return self._node("Clip", [x, *limits])
            case "min max":
                return self._node(
                    "Max", [self._constant("low", low), self._node("Min", [x, self._constant("high", high)])]
                )
            case "relu min":
                return self._node("Min", [self._node("Relu", [x]), self._constant("high", high)])
        return self._node("Clip", [x, self._constant("low", low), self._constant("high", high)])

    def _mean(self, op: GlobalAvgPool, x: str) -> str:
        _, height, width, _ = self._graph.op(op.inputs[0]).type.shape
        match self._form.mean:
            case "reduce" | "reduce flat":
                keeps = int(self._form.mean == "reduce")
                if self._form.opset >= 18:
                    axes = self._constant("axes", np.array([2, 3], np.int64))
                    x = self._node("ReduceMean", [x, axes], keepdims=keeps)
                else:
                    x = self._node("ReduceMean", [x], axes=[2, 3], keepdims=keeps)
                if not keeps:
                    return x
            case "average":
                x = self._node("AveragePool", [x], kernel_shape=[height, width])
            case _:
                x = self._node("GlobalAveragePool", [x])
        if self._form.dense == "convolution":
            return x
        return self._flat(x)

    def _flat(self, x: str) -> str:
        match self._form.flatten:
            case "reshape":
                return self._node("Reshape", [x, self._constant("flat", np.array([0, -1], np.int64))])
            case "squeeze":
                return self._node("Squeeze", [x, self._constant("ones", np.array([2, 3], np.int64))])
            case "dynamic":
                size = self._node(
                    "Gather", [self._node("Shape", [x]), self._constant("first", np.array([0], np.int64))]
                )
                shape = self._node("Concat", [size, self._constant("rest", np.array([-1], np.int64))], axis=0)
                return self._node("Reshape", [x, shape])
            case "none":
                return x
        return self._node("Flatten", [x])

    def _dense(self, op: Dense, x: str) -> str:
        weight = self._graph.constants[op.weight]
        bias = [] if op.bias is None else [self._constant(op.bias, self._graph.constants[op.bias])]
        match self._form.dense:
            case "convolution":
                kernel = self._weight(op.weight, weight[:, :, None, None])
                last = op.name == "fc"
                x = self._node("Conv", [x, kernel, *bias], kernel_shape=[1, 1])
                return self._flat(x) if last else x
            case "matmul":
                x = self._node("MatMul", [x, self._constant(op.weight, weight.T)])
                return self._node("Add", [x, *bias]) if bias else x
            case "gemm untransposed":
                return self._node("Gemm", [x, self._constant(op.weight, weight.T), *bias])
        return self._node("Gemm", [x, self._weight(op.weight, weight), *bias], transB=1)

    def _constant(self, name: str, value: Any) -> str:
        self._stored[name] = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        return name

    def _node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, **attributes))
        return f"{name}_out"


def quantise(value: Array) -> tuple[np.ndarray[Any, Any], Array]:
    """int8 along the first axis, symmetric, and the scales."""
    scale = np.abs(value.reshape(len(value), -1)).max(axis=1).astype(np.float32) / np.float32(127)
    return np.rint(value / scale.reshape(-1, *[1] * (value.ndim - 1))).astype(np.int8), scale


def dequantised(weights: Mapping[str, Array]) -> dict[str, Array]:
    """``weights``, those with several axes rounded as ``quantise`` does it."""
    found = dict(weights)
    for name, value in weights.items():
        if value.ndim > 1:
            whole, scale = quantise(value)
            found[name] = whole.astype(np.float32) * scale.reshape(-1, *[1] * (value.ndim - 1))
    return found
