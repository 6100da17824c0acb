"""The constants of an ONNX model: initializers, data beside the file, and what nodes compute of constants alone.

What comes in: the ``ModelProto`` and the folder that it lies in. What goes out: arrays by name, on request: sizes are
checked before anything is read. ``ValueError``, with text for the user, where a tensor is not what it says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.weights.layers import MOST_BYTES

if TYPE_CHECKING:
    import onnx

Value = NDArray[Any]
Attributes = Mapping[str, Any]

_MOST_COMPUTED = 1 << 24  # elements; what exporters leave to be computed are shapes, and weights turned round


class Constants:
    """``name in constants`` says whether the edge is one; ``constants[name]`` is its value, read when first asked."""

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._folder = folder
        self._values: dict[str, Value] = {}
        self._bytes = 0

    def __contains__(self, name: str) -> bool:
        return name in self._values or name in self._stored

    def __getitem__(self, name: str) -> Value:
        if name not in self._values:
            self._values[name] = self._read(self._stored[name])
        return self._values[name]

    def add_computed(self, node: onnx.NodeProto, attributes: Attributes) -> bool:
        """Keeps what ``node``, all of whose inputs are constants, computes; False where it is not known how."""
        if node.op_type == "Constant":
            self._values[node.output[0]] = self._constant(attributes)
            return True
        compute = _COMPUTED.get(node.op_type)
        if compute is None:
            return False
        inputs = [self[name] if name else None for name in node.input]
        if sum(value.size for value in inputs if value is not None) > _MOST_COMPUTED:
            raise ValueError(f"{node.op_type} computes too much of constants")
        try:
            with np.errstate(all="ignore"):
                value = np.asarray(compute(inputs, attributes))
        except (ValueError, IndexError, TypeError, KeyError, OverflowError, AttributeError) as error:
            raise ValueError(f"{node.op_type} of constants: {' '.join(str(error).split())}") from error
        self._values[node.output[0]] = value
        self._count(value.nbytes)
        return True

    def alias(self, name: str, other: str) -> None:
        """``name`` is ``other`` too."""
        self._values[name] = self[other]

    def _constant(self, attributes: Attributes) -> Value:
        if "value" in attributes:
            if not hasattr(attributes["value"], "data_type"):
                raise ValueError("Constant whose value is no tensor")
            return self._read(attributes["value"])
        for kind, dtype in (("float", np.float32), ("int", np.int64)):
            for form in (f"value_{kind}", f"value_{kind}s"):
                if form in attributes:
                    return np.asarray(attributes[form], dtype)
        raise ValueError("Constant without a value")

    def _read(self, tensor: onnx.TensorProto) -> Value:
        import onnx

        try:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"tensor {tensor.name!r} has no element type that is known") from error
        shape = tuple(tensor.dims)
        if len(shape) > 8 or any(extent < 0 for extent in shape):
            raise ValueError(f"tensor {tensor.name!r} has the shape {list(shape)[:9]}")
        self._count(prod(shape) * dtype.itemsize)
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return self._read_beside(tensor, dtype, shape)
        packed = tensor.HasField("raw_data")
        if packed and dtype.name != "int4" and len(tensor.raw_data) != prod(shape) * dtype.itemsize:
            raise ValueError(f"tensor {tensor.name!r}: {len(tensor.raw_data)} bytes for the shape {list(shape)}")
        try:
            return np.asarray(onnx.numpy_helper.to_array(tensor))
        except (ValueError, TypeError, RuntimeError) as error:
            raise ValueError(f"tensor {tensor.name!r} cannot be read: {' '.join(str(error).split())}") from error

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MOST_BYTES:
            raise ValueError(f"its tensors are more than {MOST_BYTES >> 20} MiB: this is no MobileNetV2")

    def _read_beside(self, tensor: onnx.TensorProto, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Value:
        """External data: a part of a file in the model's own folder."""
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        parts = PurePosixPath(location).parts
        path = self._folder / location
        if not parts or ".." in parts or location.startswith(("/", "~")) or "\0" in location:
            raise ValueError(f"tensor {tensor.name!r} lies in {location!r}, outside of the model's folder")
        if not path.is_file() or self._folder.resolve() not in path.resolve().parents:
            raise ValueError(f"its data {location} is missing: copy it beside the model")
        try:
            offset, length = int(entries.get("offset", 0)), int(entries.get("length", prod(shape) * dtype.itemsize))
        except ValueError as error:
            raise ValueError(f"tensor {tensor.name!r} lies nowhere in {location}") from error
        if length != prod(shape) * dtype.itemsize or offset < 0 or offset + length > path.stat().st_size:
            raise ValueError(f"tensor {tensor.name!r} is not wholly in {location}: copy or download both again")
        values = np.fromfile(path, dtype.newbyteorder("<"), prod(shape), offset=offset)
        return values.reshape(shape).astype(dtype)


def dequantised(value: Value, scale: Value, zero: Value | None, axis: int) -> NDArray[np.float32]:
    """``(value - zero) * scale``, one of each for all or for each slice along ``axis``."""
    wide = value.astype(np.float64)
    shape = [1] * value.ndim
    if scale.ndim == 1 and scale.size > 1:
        shape[axis] = scale.size
        if value.shape[axis] != scale.size:
            raise ValueError(f"{scale.size} scales for {value.shape[axis]} channels")
    elif scale.size != 1:
        raise ValueError("quantised in blocks, which is not supported")
    shift = 0.0 if zero is None else zero.astype(np.float64).reshape(shape)
    return np.asarray((wide - shift) * scale.astype(np.float64).reshape(shape), np.float32)


def _checked(shape: Sequence[int]) -> tuple[int, ...]:
    if len(shape) > 8 or any(extent < 0 for extent in shape) or prod(shape) > _MOST_COMPUTED:
        raise ValueError(f"a constant of the shape {list(shape)[:9]}")
    return tuple(int(extent) for extent in shape)


def _reshape(inputs: list[Any], attributes: Attributes) -> Value:
    value, shape = inputs[0], [int(extent) for extent in inputs[1]]
    kept = [
        value.shape[i] if extent == 0 and not attributes.get("allowzero") else extent for i, extent in enumerate(shape)
    ]
    return np.asarray(value.reshape(kept))


def _axes(inputs: list[Any], attributes: Attributes) -> tuple[int, ...] | None:
    axes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else attributes.get("axes")
    return None if axes is None else tuple(int(axis) for axis in axes)


def _slice(inputs: list[Any], attributes: Attributes) -> Value:
    value = inputs[0]
    starts, ends = (
        np.asarray(one) for one in (inputs[1:3] if len(inputs) > 2 else (attributes["starts"], attributes["ends"]))
    )
    given = [*inputs[3:], None, None][:2] if len(inputs) > 2 else [attributes.get("axes"), None]
    axes = range(len(starts)) if given[0] is None else given[0]
    steps = [1] * len(starts) if given[1] is None else given[1]
    index: list[Any] = [slice(None)] * value.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        start, end = int(start), int(end)
        index[int(axis)] = slice(start, None if step < 0 and end < -value.shape[int(axis)] else end, int(step))
    return np.asarray(value[tuple(index)])


def _cast(inputs: list[Any], attributes: Attributes) -> Value:
    import onnx

    return np.asarray(inputs[0].astype(onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])))


def _filled(inputs: list[Any], attributes: Attributes) -> Value:
    import onnx

    value = onnx.numpy_helper.to_array(attributes["value"]) if "value" in attributes else np.zeros(1, np.float32)
    return np.full(_checked(inputs[0]), value.ravel()[0], value.dtype)


def _broadcast(operation: Callable[[Value, Value], Any]) -> Callable[[list[Any], Attributes], Value]:
    def compute(inputs: list[Any], attributes: Attributes) -> Value:
        _checked(np.broadcast_shapes(inputs[0].shape, inputs[1].shape))
        return np.asarray(operation(inputs[0], inputs[1]))

    return compute


def _dequantise(inputs: list[Any], attributes: Attributes) -> Value:
    value, scale, *zero = inputs
    axis = int(attributes.get("axis", 1)) if value.ndim > 1 else 0
    return dequantised(value, scale, zero[0] if zero else None, axis)


def _quantise(inputs: list[Any], attributes: Attributes) -> Value:
    value, scale, *zero = inputs
    if scale.size != 1 or not zero:
        raise ValueError("a constant is quantised in a way that is not supported")
    limits = np.iinfo(zero[0].dtype)
    rounded = np.rint(value / scale) + zero[0].astype(np.int64)
    return np.asarray(np.clip(rounded, limits.min, limits.max), zero[0].dtype)


_COMPUTED: dict[str, Callable[[list[Any], Attributes], Any]] = {
    "Add": _broadcast(np.add),
    "Cast": _cast,
    "Concat": lambda inputs, attributes: np.concatenate(inputs, attributes["axis"]),
    "ConstantOfShape": _filled,
    "DequantizeLinear": _dequantise,
    "Div": _broadcast(lambda x, y: x / y if x.dtype.kind == "f" else x // y),
    "Gather": lambda inputs, attributes: np.take(inputs[0], inputs[1], attributes.get("axis", 0)),
    "Identity": lambda inputs, attributes: inputs[0],
    "Mul": _broadcast(np.multiply),
    "Neg": lambda inputs, attributes: -inputs[0],
    "QuantizeLinear": _quantise,
    "Reciprocal": lambda inputs, attributes: 1 / inputs[0],
    "Reshape": _reshape,
    "Shape": lambda inputs, attributes: np.array(inputs[0].shape, np.int64),
    "Slice": _slice,
    "Sqrt": lambda inputs, attributes: np.sqrt(inputs[0]),
    "Squeeze": lambda inputs, attributes: np.squeeze(inputs[0], _axes(inputs, attributes)),
    "Sub": _broadcast(np.subtract),
    "Transpose": lambda inputs, attributes: np.transpose(inputs[0], attributes.get("perm")),
    "Unsqueeze": lambda inputs, attributes: np.expand_dims(inputs[0], _axes(inputs, attributes) or 0),
}
