"""What several kernel families share: the activation, the border of zeros, and the register tile."""

from __future__ import annotations

import numpy as np
from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cpu.lower import PANEL


def pack_panels(matrix: Array) -> Array:
    """``n x k`` as panels ``ceil(n / 16) x k x 16``, the last filled up with zeros."""
    n, k = matrix.shape
    panels = -(-n // PANEL)
    full = np.zeros((panels * PANEL, k), np.float32)
    full[:n] = matrix
    return np.ascontiguousarray(full.reshape(panels, PANEL, k).transpose(0, 2, 1))


def relu6(x: tirx.Expr, on: bool) -> tirx.Expr:
    """``min(max(x, 0), 6)`` where ``on``, else ``x``."""
    if not on:
        return x
    return tirx.max(tirx.min(x, tirx.const(6.0, "float32")), tirx.const(0.0, "float32"))


@T.inline
def zero_border(output, rows, columns, channels, top, left, bottom, right):
    """Zeros around the ``rows x columns`` pixels inside ``output``, four blocks, some of them empty."""
    for h, w, n in T.grid(top, left + columns + right, channels):
        with T.sblock("zero_top"):
            vh, vw, vn = T.axis.remap("SSS", [h, w, n])
            output[0, vh, vw, vn] = T.float32(0)
    for h, w, n in T.grid(bottom, left + columns + right, channels):
        with T.sblock("zero_bottom"):
            vh, vw, vn = T.axis.remap("SSS", [h, w, n])
            output[0, top + rows + vh, vw, vn] = T.float32(0)
    for h, w, n in T.grid(rows, left, channels):
        with T.sblock("zero_left"):
            vh, vw, vn = T.axis.remap("SSS", [h, w, n])
            output[0, top + vh, vw, vn] = T.float32(0)
    for h, w, n in T.grid(rows, right, channels):
        with T.sblock("zero_right"):
            vh, vw, vn = T.axis.remap("SSS", [h, w, n])
            output[0, top + vh, left + columns + vw, vn] = T.float32(0)


def register_tile(
    s: s_tir.Schedule, rows: tuple[s_tir.schedule.LoopRV, ...], columns: s_tir.schedule.LoopRV, lanes: int
) -> None:
    """Unroll ``rows`` and the vectors of ``columns``, so that the tile they write is held in registers."""
    outer, inner = s.split(columns, [None, lanes])
    for loop in (*rows, outer):
        s.unroll(loop)
    s.vectorize(inner)


def vector_lanes(columns: int, lanes: int) -> int:
    """The widest vector, at most ``lanes``, that a whole number of fills ``columns``."""
    while columns % lanes:
        lanes //= 2
    return lanes
