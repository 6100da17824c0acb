"""Reads a TFLite model, float or quantised, from the flatbuffer alone.

What comes in: a path. What goes out: its ``Network``. Numbers of fields and operators are those of TensorFlow's
``schema.fbs``. Quantised tensors give their float values back; what an image's quantisation makes of a pixel is its
preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.errors import WeightsError
from mnv2c.ir.graph import Array, Padding
from mnv2c.weights.flatbuffer import Table
from mnv2c.weights.layers import (
    MOST_BYTES,
    Clip,
    Convolution,
    Dense,
    Image,
    Layer,
    Mean,
    Network,
    Preprocessing,
    Scale,
    Softmax,
    Sum,
    Unknown,
    Zeros,
)

_MOST = 20_000  # operators, tensors, buffers
_KINDS = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 7: "<i2", 9: "i1", 10: "<f8"}
_UINT8, _INT8 = 3, 9
_QUANTISED = "quantised: taken as floats, without what 8 bits lose in the activations"
_NAMES = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D", 6: "DEQUANTIZE",
    9: "FULLY_CONNECTED", 14: "LOGISTIC", 17: "MAX_POOL_2D", 18: "MUL", 19: "RELU", 21: "RELU6", 22: "RESHAPE",
    25: "SOFTMAX", 32: "CUSTOM", 34: "PAD", 39: "TRANSPOSE", 40: "MEAN", 41: "SUB", 42: "DIV", 43: "SQUEEZE",
    53: "CAST", 60: "PADV2", 67: "TRANSPOSE_CONV", 114: "QUANTIZE", 117: "HARD_SWISH", 118: "IF", 119: "WHILE",
}  # fmt: skip
_LIMITS = {1: (0.0, inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}  # of fused activations


@dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]
    kind: int
    buffer: int
    scale: NDArray[np.float32]
    zero: NDArray[np.int64]
    axis: int


@dataclass(frozen=True)
class _Operator:
    kind: str
    inputs: tuple[int, ...]
    output: int
    options: Table | None

    @property
    def label(self) -> str:
        return f"tensor {self.output} ({self.kind})"

    def option(self, field: int, kind: str, default: float = 0) -> Any:
        return default if self.options is None else self.options.number(field, kind, default)


def read_tflite(path: Path) -> Network:
    """WeightsError, one line, where it cannot be read."""
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise WeightsError(f"{path}: {size >> 20} MiB: this is no MobileNetV2")
    data = path.read_bytes()
    try:
        return _Reader(data).run()
    except (ValueError, OverflowError) as error:
        raise WeightsError(f"{path}: not a TFLite model that can be read: {error}") from error


class _Misfit(Exception):
    """Why an operator is no layer that is known."""


class _Reader:
    """``layers`` so far by name; ``made`` has the layer that makes each tensor."""

    def __init__(self, data: bytes) -> None:
        model = Table.root(data)
        self._codes = [max(code.number(0, "<i1"), code.number(3, "<i4")) for code in model.tables(1, most=_MOST)]
        graphs = model.tables(2, most=16)
        if not graphs:
            raise ValueError("it has no graph")
        self._buffers = model.tables(4, most=_MOST)
        self._graph = graphs[0]
        self._tensors = [_tensor(table) for table in self._graph.tables(0, most=_MOST)]
        self.layers: dict[str, Layer] = {}
        self.made: dict[int, str] = {}
        self._constants: dict[int, NDArray[Any]] = {}
        self._bytes = 0
        self.quantised = False

    def run(self) -> Network:
        inputs, outputs = (self._graph.numbers(field, "<i4", most=16).tolist() for field in (1, 2))
        preprocessing = self._image(inputs)
        for table in self._graph.tables(3, most=_MOST):
            self._add_operator(table)
        made = [self.made[output] for output in outputs if output in self.made]
        if not made:
            raise ValueError("none of its outputs is computed from the image")
        order = list(self.layers)
        return Network(
            origin="TFLite" + (", quantised" if self.quantised else ""),
            layers=self.layers,
            output=max(made, key=order.index),
            layout="NHWC",
            notes=(_QUANTISED,) if self.quantised else (),
            preprocessing=preprocessing,
            in_8_bits=self.quantised,
        )

    def _image(self, inputs: list[int]) -> Preprocessing | None:
        if len(inputs) != 1:
            raise ValueError(f"it has {len(inputs)} inputs, not one image")
        tensor = self.tensor(inputs[0])
        if len(tensor.shape) != 4 or tensor.shape[3] != 3:
            raise ValueError(f"its input is {'x'.join(map(str, tensor.shape)) or 'a number'}, not NxHxWx3")
        height, width = (extent if extent > 1 else None for extent in tensor.shape[1:3])
        image = Image(name="image", inputs=(), label="the image", height=height, width=width, channels=3)
        self.layers["image"] = image
        self.made[inputs[0]] = "image"
        if tensor.kind not in (_UINT8, _INT8) or tensor.scale.size != 1 or not 0 < tensor.scale[0] < inf:
            return None
        mean = float(tensor.zero[0]) + (128 if tensor.kind == _INT8 else 0)
        scale = float(f"{1 / float(tensor.scale[0]):.7g}")
        return Preprocessing((mean, mean, mean), (scale, scale, scale))

    def _add_operator(self, table: Table) -> None:
        inputs = tuple(table.numbers(1, "<i4", most=16).tolist())
        outputs = table.numbers(2, "<i4", most=16).tolist()
        code = table.number(0, "<u4")
        if code >= len(self._codes) or not outputs:
            raise ValueError("damaged: an operator without a kind or an output")
        kind = _NAMES.get(self._codes[code], f"operator {self._codes[code]}")
        operator = _Operator(kind, inputs, int(outputs[0]), table.table(4))
        made = [one for one in inputs if one in self.made]
        if not made:
            if kind == "DEQUANTIZE" and inputs:  # of weights in float16, or in 8 bits
                self._constants[operator.output] = self.constant(inputs[0])
            return
        handle = _OPERATORS.get(kind)
        try:
            if handle is None:
                raise _Misfit(f"no network of this family has {kind}")
            handle(self, operator)
        except _Misfit as error:
            sources = tuple(dict.fromkeys(self.made[one] for one in made))
            name = self.name(operator)
            self.add(operator, Unknown(name=name, inputs=sources, label=operator.label, why=str(error)))
        except IndexError as error:
            raise ValueError(f"{operator.label} lacks an input") from error

    def tensor(self, index: int) -> _Tensor:
        if not 0 <= index < len(self._tensors):
            raise ValueError(f"damaged: there is no tensor {index}")
        return self._tensors[index]

    def constant(self, index: int) -> NDArray[Any]:
        """Its values, floats where it is quantised; a tensor that is computed is no constant."""
        if index in self._constants:
            return self._constants[index]
        tensor = self.tensor(index)
        if tensor.kind not in _KINDS or not 0 < tensor.buffer < len(self._buffers) or index in self.made:
            raise _Misfit("its weights are computed, or of an element type that is not known")
        kind = np.dtype(_KINDS[tensor.kind])
        size = prod(tensor.shape) * kind.itemsize
        self._bytes += prod(tensor.shape) * 8
        if self._bytes > MOST_BYTES:
            raise ValueError(f"its tensors are more than {MOST_BYTES >> 20} MiB: this is no MobileNetV2")
        data = self._buffers[tensor.buffer].numbers(0, "<u1", most=MOST_BYTES)
        if len(data) != size:
            raise ValueError(f"tensor {index} has {len(data)} bytes for the shape {list(tensor.shape)}")
        values = data.view(kind) if not data.size or data.ctypes.data % kind.itemsize == 0 else data.copy().view(kind)
        value = values.reshape(tensor.shape)
        if tensor.scale.size and kind.kind in "iu":
            self.quantised = True
            value = _dequantised(value, tensor)
        self._constants[index] = value
        return value

    def floats(self, index: int) -> Array:
        return np.asarray(self.constant(index), np.float32)

    def optional(self, operator: _Operator, number: int) -> Array | None:
        present = len(operator.inputs) > number and operator.inputs[number] >= 0
        return self.floats(operator.inputs[number]) if present else None

    def source(self, operator: _Operator, number: int = 0) -> str:
        """The layer that an input is of."""
        if operator.inputs[number] not in self.made:
            raise _Misfit("its first input is a constant")
        return self.made[operator.inputs[number]]

    def name(self, operator: _Operator) -> str:
        return f"tensor{operator.output}.{len(self.layers)}"

    def add(self, operator: _Operator, layer: Layer, activation: int = 0) -> None:
        """``layer``, and the activation fused into it."""
        self.layers[layer.name] = layer
        self.made[operator.output] = layer.name
        if activation:
            if activation not in _LIMITS:
                raise _Misfit(f"its activation, number {activation}, is neither ReLU6 nor ReLU")
            self.clip(operator, layer.name, *_LIMITS[activation])

    def clip(self, operator: _Operator, source: str, low: float, high: float) -> None:
        clip = Clip(name=self.name(operator), inputs=(source,), label=operator.label, low=low, high=high)
        self.layers[clip.name] = clip
        self.made[operator.output] = clip.name


def _tensor(table: Table) -> _Tensor:
    shape = tuple(table.numbers(0, "<i4", most=8).tolist())
    if min(shape, default=0) < 0:
        raise ValueError(f"a tensor of the shape {list(shape)}")
    quantisation = table.table(4)
    none = np.zeros(0, np.int64)
    return _Tensor(
        shape=shape,
        kind=table.number(1, "<i1"),
        buffer=table.number(2, "<u4"),
        scale=none.astype(np.float32) if quantisation is None else quantisation.numbers(2, "<f4", most=1 << 17),
        zero=none if quantisation is None else quantisation.numbers(3, "<i8", most=1 << 17),
        axis=0 if quantisation is None else quantisation.number(6, "<i4"),
    )


def _dequantised(value: NDArray[Any], tensor: _Tensor) -> NDArray[np.float32]:
    scale, zero = tensor.scale.astype(np.float64), tensor.zero.astype(np.float64)
    if scale.size > 1:
        if (
            not 0 <= tensor.axis < value.ndim
            or value.shape[tensor.axis] != scale.size
            or zero.size not in (1, scale.size)
        ):
            raise ValueError(f"{scale.size} scales for a tensor of the shape {list(value.shape)}")
        shape = [1] * value.ndim
        shape[tensor.axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape) if zero.size > 1 else zero
    if zero.size == 0:
        zero = np.zeros(1)
    return np.asarray((value.astype(np.float64) - zero) * scale, np.float32)


def _convolution(reader: _Reader, operator: _Operator) -> None:
    weight = reader.floats(operator.inputs[1])
    if weight.ndim != 4:
        raise _Misfit(f"a weight of {weight.ndim} axes")
    channels = reader.tensor(operator.inputs[0]).shape[-1]
    if weight.shape[3] == 0 or channels % weight.shape[3]:
        raise _Misfit(f"{channels} channels for a weight of {weight.shape[3]}")
    groups = channels // weight.shape[3]
    _add_convolution(reader, operator, weight.transpose(0, 3, 1, 2), groups, activation=3, dilations=(5, 4))


def _depthwise(reader: _Reader, operator: _Operator) -> None:
    weight = reader.floats(operator.inputs[1])
    if weight.ndim != 4 or weight.shape[0] != 1 or operator.option(3, "<i4", 1) not in (0, 1):
        raise _Misfit("a depthwise convolution that makes several channels of each")
    turned = weight.transpose(3, 0, 1, 2)
    _add_convolution(reader, operator, turned, weight.shape[3], activation=4, dilations=(6, 5))


def _add_convolution(
    reader: _Reader, operator: _Operator, weight: Array, groups: int, *, activation: int, dilations: tuple[int, int]
) -> None:
    """Fields of the options: padding, stride across, stride down."""
    layer = Convolution(
        name=reader.name(operator),
        inputs=(reader.source(operator),),
        label=operator.label,
        weight=np.ascontiguousarray(weight),
        bias=reader.optional(operator, 2),
        strides=(operator.option(2, "<i4"), operator.option(1, "<i4")),
        padding="same" if operator.option(0, "<i1") == 0 else Padding(),
        groups=groups,
        dilations=(operator.option(dilations[0], "<i4", 1), operator.option(dilations[1], "<i4", 1)),
    )
    reader.add(operator, layer, operator.option(activation, "<i1"))


def _dense(reader: _Reader, operator: _Operator) -> None:
    weight = reader.floats(operator.inputs[1])
    shape = reader.tensor(operator.inputs[0]).shape
    if weight.ndim != 2 or prod(shape[1:]) != weight.shape[1]:
        raise _Misfit(f"a dense layer of {'x'.join(map(str, shape))}; this family takes the mean over the map first")
    layer = Dense(
        name=reader.name(operator),
        inputs=(reader.source(operator),),
        label=operator.label,
        weight=weight,
        bias=reader.optional(operator, 2),
    )
    reader.add(operator, layer, operator.option(0, "<i1"))


def _arithmetic(reader: _Reader, operator: _Operator) -> None:
    """ADD, SUB, MUL, DIV: of two maps the first alone, else one number for each channel, or for all."""
    kind, (one, other) = operator.kind, operator.inputs[:2]
    activation = operator.option(0, "<i1")
    if one in reader.made and other in reader.made:
        if kind != "ADD":
            raise _Misfit(f"{kind} of two maps")
        inputs = (reader.made[one], reader.made[other])
        reader.add(operator, Sum(name=reader.name(operator), inputs=inputs, label=operator.label), activation)
        return
    if one not in reader.made:
        if kind not in ("ADD", "MUL"):
            raise _Misfit(f"{kind} by a map")
        one, other = other, one
    value = reader.floats(other)
    if value.size not in (1, value.shape[-1] if value.ndim else 1):
        raise _Misfit(f"numbers of the shape {list(value.shape)}, not one for each channel")
    value = value.reshape(()) if value.size == 1 else value.ravel()
    unit, none = np.ones((), np.float32), np.zeros((), np.float32)
    with np.errstate(all="ignore"):
        factor, offset = {
            "ADD": (unit, value), "SUB": (unit, -value), "MUL": (value, none), "DIV": (unit / value, none)
        }[kind]  # fmt: skip
    layer = Scale(
        name=reader.name(operator),
        inputs=(reader.made[one],),
        label=operator.label,
        factor=np.asarray(factor, np.float32),
        offset=np.asarray(offset, np.float32),
    )
    reader.add(operator, layer, activation)


def _mean(reader: _Reader, operator: _Operator) -> None:
    axes = sorted(int(axis) % 4 for axis in np.atleast_1d(reader.constant(operator.inputs[1])).ravel()[:8])
    if axes != [1, 2]:
        raise _Misfit(f"the mean over the axes {axes}, not over height and width")
    reader.add(operator, Mean(name=reader.name(operator), inputs=(reader.source(operator),), label=operator.label))


def _average_pool(reader: _Reader, operator: _Operator) -> None:
    extents = operator.option(4, "<i4"), operator.option(3, "<i4")
    name, source = reader.name(operator), reader.source(operator)
    reader.add(operator, Mean(name=name, inputs=(source,), label=operator.label, extents=extents))


def _pad(reader: _Reader, operator: _Operator) -> None:
    zeros = reader.constant(operator.inputs[1])
    if zeros.shape != (4, 2) or zeros[0].any() or zeros[3].any() or (zeros < 0).any():
        raise _Misfit("pads something else than height and width")
    if operator.kind == "PADV2" and reader.floats(operator.inputs[2]).any():
        raise _Misfit("pads with something else than zeros")
    (top, bottom), (left, right) = zeros[1:3].tolist()
    name, source = reader.name(operator), reader.source(operator)
    reader.add(
        operator, Zeros(name=name, inputs=(source,), label=operator.label, sides=Padding(top, left, bottom, right))
    )


def _reshape(reader: _Reader, operator: _Operator) -> None:
    shape = reader.tensor(operator.inputs[0]).shape
    if prod(shape[1:-1]) != 1:
        raise _Misfit("reshapes a map; this family takes its mean first")
    _alias(reader, operator)


def _alias(reader: _Reader, operator: _Operator) -> None:
    reader.made[operator.output] = reader.source(operator)


def _quantisation(reader: _Reader, operator: _Operator) -> None:
    reader.quantised = True
    _alias(reader, operator)


def _softmax(reader: _Reader, operator: _Operator) -> None:
    if operator.option(0, "<f4", 1.0) != 1.0:
        raise _Misfit("a softmax with a beta of its own")
    reader.add(operator, Softmax(name=reader.name(operator), inputs=(reader.source(operator),), label=operator.label))


def _clip(low: float, high: float) -> Callable[[_Reader, _Operator], None]:
    return lambda reader, operator: reader.clip(operator, reader.source(operator), low, high)


_OPERATORS: dict[str, Callable[[_Reader, _Operator], None]] = {
    "ADD": _arithmetic,
    "AVERAGE_POOL_2D": _average_pool,
    "CAST": _alias,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEQUANTIZE": _quantisation,
    "DIV": _arithmetic,
    "FULLY_CONNECTED": _dense,
    "MEAN": _mean,
    "MUL": _arithmetic,
    "PAD": _pad,
    "PADV2": _pad,
    "QUANTIZE": _quantisation,
    "RELU": _clip(0.0, inf),
    "RELU6": _clip(0.0, 6.0),
    "RESHAPE": _reshape,
    "SOFTMAX": _softmax,
    "SQUEEZE": _reshape,
    "SUB": _arithmetic,
}
