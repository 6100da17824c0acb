"""Workloads of every family, and numpy's word for what they compute."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnv2c.ir.graph import Activation, Padding
from mnv2c.workloads import (
    Conv,
    Dense,
    Depthwise,
    ExpandDepthwise,
    MaxPool,
    Pad,
    Pointwise,
    PointwisePool,
    Pool,
    Softmax,
    Stem,
    Workload,
)

Array = NDArray[Any]
NONE, ALL, AFTER = Padding(), Padding(1, 1, 1, 1), Padding(0, 0, 1, 1)


def pointwise(height: int, width: int, k: int, n: int, **options: Any) -> Pointwise:
    return Pointwise(height=height, width=width, k=k, n=n, **options)


def depthwise(height: int, width: int, channels: int, stride: int, **options: Any) -> Depthwise:
    rows, columns = (height - 1) * stride + 3, (width - 1) * stride + 3
    return Depthwise(
        height=height, width=width, channels=channels, stride=stride, rows=rows, columns=columns, **options
    )


def stem(height: int, width: int, n: int, stride: int, rows: int, columns: int, **options: Any) -> Stem:
    given = {"activation": "relu6"} | options
    return Stem(height=height, width=width, n=n, stride=stride, rows=rows, columns=columns, **given)


def conv(height: int, width: int, k: int, n: int, kernel: int, stride: int, **options: Any) -> Conv:
    rows, columns = (height - 1) * stride + kernel, (width - 1) * stride + kernel
    given = {"activation": "relu", "rows": rows, "columns": columns} | options
    return Conv(height=height, width=width, k=k, n=n, kernel=kernel, stride=stride, **given)


def of_bytes(mean: tuple[float, float, float], scale: tuple[float, float, float]) -> dict[str, Any]:
    return {"image": "uint8", "mean": mean, "scale": scale}


TRIED: tuple[Workload, ...] = (
    stem(6, 5, 16, 2, 12, 10, padding=AFTER, border=ALL),
    stem(5, 7, 24, 2, 9, 13, padding=ALL, border=NONE),
    stem(7, 6, 8, 1, 7, 6, padding=ALL, border=AFTER),
    stem(6, 6, 32, 2, 12, 12, padding=ALL, border=ALL, **of_bytes((127.5,) * 3, (127.5,) * 3)),
    stem(6, 6, 8, 2, 12, 12, padding=AFTER, border=ALL, **of_bytes((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))),
    stem(4, 6, 8, 2, 8, 12, padding=AFTER, border=ALL, batch=3, **of_bytes((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))),
    stem(6, 5, 16, 2, 12, 10, padding=AFTER, border=ALL, batch=2),
    stem(6, 5, 21, 2, 12, 10, padding=AFTER, border=ALL),
    stem(8, 6, 16, 2, 16, 12, padding=Padding(3, 3, 3, 3), kernel=7, activation="relu"),
    stem(5, 6, 8, 1, 8, 9, padding=AFTER, kernel=5, **of_bytes((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))),
    pointwise(7, 7, 40, 64, activation="relu6"),
    pointwise(7, 7, 40, 64, residual=True),
    pointwise(14, 14, 24, 144, activation="relu6", border=ALL),
    pointwise(7, 7, 160, 960, activation="relu6", border=ALL),
    pointwise(6, 8, 16, 56, activation="relu6", border=AFTER),
    pointwise(3, 3, 336, 112),
    pointwise(13, 13, 48, 40),
    pointwise(12, 12, 96, 8, residual=True),
    pointwise(12, 12, 32, 40, residual=True, activation="relu"),
    pointwise(7, 7, 48, 64, residual=True, activation="relu6"),
    pointwise(1, 1, 320, 1280, activation="relu6"),
    pointwise(28, 28, 144, 32),
    pointwise(5, 3, 24, 40, batch=4, residual=True),
    pointwise(5, 3, 24, 72, batch=3, activation="relu6", border=ALL),
    pointwise(7, 7, 960, 160, batch=2),
    pointwise(9, 9, 21, 35, activation="relu6", border=ALL),
    pointwise(9, 9, 126, 21, residual=True),
    pointwise(4, 4, 6, 1),
    depthwise(14, 14, 24, 1, activation="relu6"),
    depthwise(7, 7, 40, 1, activation="relu6"),
    depthwise(7, 5, 8, 2, activation="relu6"),
    Depthwise(height=6, width=10, channels=16, stride=2, rows=14, columns=22),
    depthwise(3, 3, 336, 1, activation="relu6"),
    depthwise(1, 1, 48, 1, activation="relu6"),
    depthwise(6, 5, 24, 2, batch=3, activation="relu6"),
    depthwise(6, 5, 126, 1, activation="relu6"),
    depthwise(6, 5, 40, 1, activation="relu"),
    Pad(height=5, width=4, channels=24, border=ALL),
    Pad(height=4, width=6, channels=16, border=AFTER, batch=2),
    Pad(height=4, width=6, channels=7, border=ALL),
    Pool(height=7, width=7, channels=1280),
    Pool(height=1, width=1, channels=40),
    Pool(height=3, width=5, channels=50, batch=2),
    Dense(k=1280, n=1001),
    Dense(k=24, n=3),
    Dense(k=112, n=16),
    Dense(k=112, n=50, batch=4),
    Dense(k=112, n=100, activation="relu"),
    Dense(k=24, n=7, batch=2, activation="relu6"),
    Softmax(n=4),
    Softmax(n=1001, batch=3),
    Softmax(n=96, batch=2),
)

IN_BANDS: tuple[Stem | Pointwise | Depthwise, ...] = (
    stem(8, 5, 16, 2, 16, 10, padding=ALL, batch=2, band=1),
    stem(8, 5, 16, 2, 16, 10, padding=AFTER, band=1, **of_bytes((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))),
    pointwise(9, 7, 24, 40, batch=2, activation="relu6", band=1),
    pointwise(6, 5, 40, 24, batch=2, residual=True, band=3),
    depthwise(6, 5, 24, 2, batch=2, activation="relu6", band=2),
    Depthwise(height=7, width=5, channels=24, stride=1, rows=3, columns=7, band=1, ring=True, activation="relu6"),
    Depthwise(height=6, width=5, channels=48, stride=2, rows=5, columns=11, band=2, ring=True, batch=2),
)
"""Those that blocks in bands take on a CPU."""

OF_RESIDUAL_BLOCKS: tuple[Conv | MaxPool, ...] = (
    conv(7, 7, 24, 32, 3, 1),
    conv(14, 14, 16, 64, 3, 1),
    conv(5, 4, 8, 40, 3, 2, batch=2, activation=None),
    conv(5, 6, 20, 21, 3, 1, border=ALL, activation="relu6"),
    conv(4, 6, 7, 16, 3, 2, border=AFTER, batch=2, rows=10, columns=14),
    conv(7, 7, 64, 48, 1, 2, activation=None, rows=14, columns=14),
    conv(3, 2, 24, 8, 5, 1),
    conv(1, 1, 12, 130, 3, 1),
    MaxPool(height=6, width=6, channels=64, kernel=3, stride=2, rows=12, columns=12, padding=Padding(1, 1, 1, 1)),
    MaxPool(height=5, width=4, channels=21, kernel=3, stride=2, rows=10, columns=8, padding=AFTER, batch=2),
    MaxPool(height=4, width=3, channels=8, kernel=2, stride=1, rows=5, columns=4, padding=NONE),
)
"""Those that CPUs alone compute."""


def expand_depthwise(height: int, width: int, k: int, channels: int, stride: int, **options: Any) -> ExpandDepthwise:
    """As ``same`` padding has it, for maps of an even size where the stride is 2."""
    zeros = ALL if stride == 1 else AFTER
    common = {"rows": height * stride, "columns": width * stride, "padding": zeros, "expansion": "relu6"}
    given = {"activation": "relu6"} | common | options
    return ExpandDepthwise(height=height, width=width, k=k, channels=channels, stride=stride, **given)


FUSED: tuple[Workload, ...] = (
    expand_depthwise(14, 14, 64, 384, 1),
    expand_depthwise(7, 7, 160, 960, 1),
    expand_depthwise(7, 7, 96, 576, 2),
    expand_depthwise(12, 12, 24, 144, 1, batch=2),
    expand_depthwise(28, 28, 24, 144, 2),
    expand_depthwise(6, 8, 16, 96, 2, batch=3),
    expand_depthwise(5, 3, 6, 20, 1, expansion=None, activation=None),
    expand_depthwise(4, 5, 7, 14, 2, rows=7, columns=9, padding=ALL),
    expand_depthwise(1, 1, 48, 288, 1),
    PointwisePool(height=7, width=7, k=320, n=1280, activation="relu6"),
    PointwisePool(height=3, width=3, k=112, n=1280, activation="relu6", batch=2),
    PointwisePool(height=1, width=2, k=7, n=9),
)
"""Those that some devices compute in place of two."""

ON_TENSOR_CORES: tuple[Workload, ...] = tuple(
    replace(workload, precision="tf32")
    for workload in (
        *FUSED[:6],
        *FUSED[8:11],
        pointwise(7, 7, 40, 64, activation="relu6"),
        pointwise(7, 7, 48, 64, residual=True),
        pointwise(12, 12, 96, 8, residual=True),
        pointwise(1, 1, 320, 1280, activation="relu6"),
        pointwise(28, 28, 144, 32),
        pointwise(5, 3, 24, 40, batch=4, residual=True),
        pointwise(7, 7, 960, 160, batch=2),
        pointwise(14, 14, 384, 96, residual=True),
    )
)
"""Products in whole tiles, with few of them and many, k shared by several warps and by none."""

IN_FP16: tuple[Workload, ...] = tuple(
    replace(workload, precision="fp16")
    for workload in (*TRIED, *FUSED, *ON_TENSOR_CORES[-1:])
    if not isinstance(workload, Softmax)
)


def example(workload: Workload) -> tuple[list[Array], list[Array], Array]:
    """Inputs, constants as the graph has them, and what must come out, of operands as the workload rounds them."""
    constants = [_random(*type_.shape) for type_ in workload.constants]
    if constants:
        constants[0] = constants[0] / np.float32(np.prod(constants[0].shape[1:])) ** np.float32(0.5)
    if isinstance(workload, ExpandDepthwise):
        constants[2] = constants[2] / np.float32(3)
    inputs = [_bytes(*t.shape) if t.dtype == "uint8" else _random(*t.shape).astype(t.dtype) for t in workload.inputs]
    return inputs, constants, _expected(workload, *_rounded(workload, inputs, constants))


def tolerance(workload: Workload) -> tuple[float, float]:
    """How far a kernel may be off ``example``: of the value, and beside that. Sums are fp32 in every precision."""
    return (2**-10 if workload.outputs[0].dtype == "float16" else 0.0), 2e-5


def _rounded(workload: Workload, inputs: list[Array], constants: list[Array]) -> tuple[list[Array], list[Array]]:
    """Operands as fp32, of the values that are multiplied: biases stay as they are."""
    if workload.precision == "fp16":
        weights = [c.astype(np.float16).astype(np.float32) if c.ndim > 1 else c for c in constants]
        return [x.astype(np.float32) if x.dtype == np.float16 else x for x in inputs], weights
    if workload.precision == "tf32":
        return [_tf32(inputs[0]), *inputs[1:]], [_tf32(constants[0]), *constants[1:]]
    return inputs, constants


def _tf32(x: Array) -> Array:
    """The nearest value of 11 bits, ties away from zero."""
    mantissa, exponent = np.frexp(x)
    scaled = mantissa.astype(np.float64) * 2**11
    whole = np.copysign(np.floor(np.abs(scaled) + 0.5), scaled)
    return np.ldexp(whole / 2**11, exponent).astype(np.float32)


def _expected(workload: Workload, inputs: list[Array], constants: list[Array]) -> Array:
    x = inputs[0]
    match workload:
        case Stem():
            if workload.image == "uint8":
                x = (x.astype(np.float32) - np.float32(workload.mean)) / np.float32(workload.scale)
            return _convolved(workload, _around(x, workload.padding), constants)
        case Conv():
            return _convolved(workload, x, constants)
        case Pointwise():
            y = x @ constants[0][:, :, 0, 0].T + constants[1]
            return _around(_activated(y + inputs[1] if workload.residual else y, workload.activation), workload.border)
        case MaxPool():
            shifts = _shifts(_around(x, workload.padding, -np.inf), workload)
            return np.maximum.reduce([view for _, _, view in shifts])
        case Depthwise():
            if workload.ring:
                x = x[:, np.arange((workload.height - 1) * workload.stride + 3) % workload.rows]
            shifts = _shifts(x, workload, kernel=3)
            return _activated(
                sum(v * constants[0][:, 0, i, j] for i, j, v in shifts) + constants[1], workload.activation
            )
        case ExpandDepthwise():
            expanded = _activated(x @ constants[0][:, :, 0, 0].T + constants[1], workload.expansion)
            padded = _around(expanded, workload.padding)
            shifts = _shifts(padded, workload, kernel=3)
            taps = sum(v * constants[2][:, 0, i, j] for i, j, v in shifts)
            return _activated(taps + constants[3], workload.activation)
        case PointwisePool():
            y = _activated(x @ constants[0][:, :, 0, 0].T + constants[1], workload.activation)
            means: Array = y.mean(axis=(1, 2))
            return means
        case Pad():
            return _around(x, workload.border)
        case Pool():
            mean: Array = x.mean(axis=(1, 2))
            return mean
        case Dense():
            return _activated(x @ constants[0].T + constants[1], workload.activation)
        case Softmax():
            powers = np.exp(x.astype(np.float64))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)
    raise AssertionError(f"no example for {workload}")


def _random(*shape: int) -> Array:
    seed = int(np.prod(shape)) + len(shape)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _bytes(*shape: int) -> Array:
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def _activated(x: Array, activation: Activation) -> Array:
    return np.clip(x, 0, 6 if activation == "relu6" else None) if activation else x


def _around(x: Array, sides: Padding, value: float = 0) -> Array:
    around = ((0, 0), (sides.top, sides.bottom), (sides.left, sides.right), (0, 0))
    return np.pad(x, around, constant_values=value)


def _convolved(workload: Stem | Conv, x: Array, constants: list[Array]) -> Array:
    y = sum(view @ constants[0][:, :, i, j].T for i, j, view in _shifts(x, workload)) + constants[1]
    return _around(_activated(y, workload.activation), workload.border)


def _shifts(x: Array, workload: Any, kernel: int = 0) -> list[tuple[int, int, Array]]:
    """The views of bordered maps that a convolution weighs: nine where it is 3x3."""
    taps = range(kernel or workload.kernel)
    rows, columns = ((extent - 1) * workload.stride + 1 for extent in (workload.height, workload.width))
    stride = workload.stride
    return [(i, j, x[:, i : i + rows : stride, j : j + columns : stride]) for i in taps for j in taps]
