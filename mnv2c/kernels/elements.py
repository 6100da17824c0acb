"""What a kernel does to one element, on any device."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx

from mnv2c.errors import WeightsError
from mnv2c.ir.graph import Activation, Array


def activate(x: tirx.Expr, activation: Activation) -> tirx.Expr:
    """``min(max(x, 0), 6)`` for ReLU6, ``max(x, 0)`` for ReLU, else ``x``."""
    if activation is None:
        return x
    most = tirx.min(x, tirx.const(6.0, "float32")) if activation == "relu6" else x
    return tirx.max(most, tirx.const(0.0, "float32"))


def single(x: tirx.Expr) -> tirx.Expr:
    """``x``, as it is stored, as fp32: all arithmetic is in that."""
    return stored(x, "float32")


def stored(x: tirx.Expr, dtype: str) -> tirx.Expr:
    """fp32 as it is stored."""
    return x if str(x.ty.dtype) == dtype else tirx.Cast(dtype, x)


def stored_weight(weight: Array, dtype: str) -> Array:
    """``weight`` in one piece, as ``dtype``; WeightsError where a value is beyond that."""
    largest = float(np.abs(weight).max())
    if largest > float(np.finfo(dtype).max):
        raise WeightsError(f"a weight is {largest:.3g} when BatchNorm is folded: beyond {dtype}")
    return np.ascontiguousarray(weight, dtype)


def plus(x: tirx.Expr, residual: Any, *index: Any) -> tirx.Expr:
    """``x`` and the ``residual`` there, a buffer as it is stored; ``x`` alone where there is none."""
    return x if residual is None else x + single(residual[index])
