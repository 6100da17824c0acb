"""Workloads of every family, at sizes that divide badly, and what numpy says of each."""

from __future__ import annotations

import numpy as np
from compiled_kernels import Operand
from numpy.typing import NDArray

from mnv2c.ir.graph import Padding
from mnv2c.kernels import Dense, Depthwise, Pad, Pointwise, Pool, Stem, Workload

Array = NDArray[np.float32]
NONE, ALL, AFTER = Padding(), Padding(1, 1, 1, 1), Padding(0, 0, 1, 1)

TRIED: tuple[Workload, ...] = (
    Stem(6, 5, 16, 2, rows=12, columns=10, padding=AFTER, border=ALL, relu6=True),
    Stem(5, 7, 24, 2, rows=9, columns=13, padding=ALL, border=NONE, relu6=True),
    Stem(7, 6, 8, 1, rows=7, columns=6, padding=ALL, border=AFTER, relu6=True),
    Stem(6, 6, 32, 2, rows=12, columns=12, padding=ALL, border=ALL, relu6=True, mean=(127.5,) * 3, scale=(127.5,) * 3),
    Stem(
        6,
        6,
        8,
        2,
        rows=12,
        columns=12,
        padding=AFTER,
        border=ALL,
        relu6=True,
        mean=(1.0, 2.0, 3.0),
        scale=(4.0, 5.0, 6.0),
    ),
    Pointwise(7, 7, 40, 64, relu6=True),
    Pointwise(7, 7, 40, 64, relu6=False, residual=True),
    Pointwise(14, 14, 24, 144, relu6=True, border=ALL),
    Pointwise(7, 7, 160, 960, relu6=True, border=ALL),
    Pointwise(6, 8, 16, 56, relu6=True, border=AFTER),
    Pointwise(3, 3, 336, 112, relu6=False),
    Pointwise(13, 13, 48, 40, relu6=False),
    Pointwise(12, 12, 96, 8, relu6=False, residual=True),
    Pointwise(1, 1, 320, 1280, relu6=True),
    Pointwise(28, 28, 144, 32, relu6=False),
    Depthwise(14, 14, 24, 1, rows=16, columns=16, relu6=True),
    Depthwise(7, 7, 40, 1, rows=9, columns=9, relu6=True),
    Depthwise(7, 5, 8, 2, rows=15, columns=11, relu6=True),
    Depthwise(6, 10, 16, 2, rows=14, columns=22, relu6=False),
    Depthwise(3, 3, 336, 1, rows=5, columns=5, relu6=True),
    Depthwise(1, 1, 48, 1, rows=3, columns=3, relu6=True),
    Pad(5, 4, 24, ALL),
    Pad(4, 6, 16, AFTER),
    Pool(7, 7, 1280),
    Pool(1, 1, 40),
    Dense(1280, 1001),
    Dense(24, 3),
    Dense(112, 16),
)


def _random(*shape: int) -> Array:
    seed = int(np.prod(shape)) + len(shape)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _clip(x: Array, on: bool) -> Array:
    return np.clip(x, 0, 6) if on else x


def _border(x: Array, zeros: Padding) -> Array:
    return np.pad(x, ((zeros.top, zeros.bottom), (zeros.left, zeros.right), (0, 0)))


def _shifts(x: Array, height: int, width: int, stride: int) -> list[tuple[int, int, Array]]:
    """The nine views of a bordered map that a 3x3 convolution weighs."""
    rows, columns = (height - 1) * stride + 1, (width - 1) * stride + 1
    return [(i, j, x[i : i + rows : stride, j : j + columns : stride]) for i in range(3) for j in range(3)]


def example(workload: Workload) -> tuple[list[Operand], Array]:
    """Operands in the kernel's layouts, and what must come out."""
    match workload:
        case Stem():
            return _stem(workload)
        case Pointwise():
            x, weight, bias = (
                _random(workload.height, workload.width, workload.k),
                _random(workload.n, workload.k, 1, 1),
                _random(workload.n),
            )
            weight = weight / np.float32(workload.k) ** np.float32(0.5)
            y = _clip(x @ weight[:, :, 0, 0].T + bias, workload.relu6)
            residual = _random(workload.height, workload.width, workload.n) if workload.residual else None
            y = y if residual is None else y + residual
            return [x, workload.pack(weight), bias, residual], _border(y, workload.border)
        case Depthwise():
            x, weight = _random(workload.rows, workload.columns, workload.channels), _random(workload.channels, 1, 3, 3)
            bias = _random(workload.channels)
            y = (
                sum(v * weight[:, 0, i, j] for i, j, v in _shifts(x, workload.height, workload.width, workload.stride))
                + bias
            )
            return [x, workload.pack(weight), bias], _clip(y, workload.relu6)
        case Pad():
            x = _random(workload.height, workload.width, workload.channels)
            return [x], _border(x, workload.border)
        case Pool():
            x = _random(workload.height, workload.width, workload.channels)
            return [x], x.mean(axis=(0, 1))
        case Dense():
            x, weight, bias = (
                _random(workload.k),
                _random(workload.n, workload.k) / np.float32(workload.k**0.5),
                _random(workload.n),
            )
            return [x, workload.pack(weight), bias], weight @ x + bias


def _stem(workload: Stem) -> tuple[list[Operand], Array]:
    weight, bias = _random(workload.n, 3, 3, 3) * np.float32(0.3), _random(workload.n)
    image: Operand
    if workload.dtype == "uint8":
        image = np.random.default_rng(1).integers(0, 256, (workload.rows, workload.columns, 3), np.uint8)
        x = (image.astype(np.float32) - np.float32(workload.mean)) / np.float32(workload.scale)
    else:
        image = x = _random(workload.rows, workload.columns, 3)
    shifts = _shifts(_border(x, workload.padding), workload.height, workload.width, workload.stride)
    y = sum(view @ weight[:, :, i, j].T for i, j, view in shifts) + bias
    return [image, workload.pack(weight), bias], _border(_clip(y, workload.relu6), workload.border)
