"""Full convolutions of maps (3x3, and 1x1 with a stride): the computation, its schedule template and the rule for its
defaults.

``output[h, w, n] = activation(sum_{i, x} input[h * stride + i, w * stride * K + x] * weight[n // 16, i, x, n % 16] +
bias[n])``, NHWC, ``K`` channels in: ``x`` runs over the ``kernel * K`` values that lie side by side in a row of the
input. The input comes with its border of zeros, so that there is no edge to ask about; the weight lies in panels of 16
columns, tap by tap.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cpu.tiles import (
    column_tiles,
    most_rows,
    pack_panels,
    panels_of,
    register_tile,
    row_cycles,
    spills,
    summed_columns,
    task_loops,
    vector_lanes,
    zero_border,
)
from mnv2c.kernels.cpu.tir_passes import PANEL
from mnv2c.kernels.elements import activate
from mnv2c.targets import InstructionSet
from mnv2c.workloads import Conv


def pack(workload: Conv, constants: Sequence[Array]) -> tuple[Array, ...]:
    """``n x k x kernel x kernel`` (OIHW) as panels, tap by tap; the bias with zeros behind it where the sums have more
    columns."""
    weight, bias = constants
    taps = weight.transpose(0, 2, 3, 1).reshape(workload.n, -1)
    return pack_panels(taps), np.pad(bias, (0, summed_columns(workload.n) - workload.n))


def compute(workload: Conv) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, weight, bias, output)``."""
    B, H, W, K, N = workload.batch, workload.height, workload.width, workload.k, workload.n
    S, stride, kernel, act = summed_columns(N), workload.stride, workload.kernel, workload.activation
    rows, columns, border = workload.rows, workload.columns, workload.border
    top, left, bottom, right = border.top, border.left, border.bottom, border.right
    whole = S == N

    @T.prim_func(s_tir=True)
    def conv(
        input: T.Buffer((B, rows, columns * K), "float32"),
        weight: T.Buffer((panels_of(N), kernel, kernel * K, PANEL), "float32"),
        bias: T.Buffer((S,), "float32"),
        output: T.Buffer((B, top + H + bottom, left + W + right, N), "float32"),
    ):
        product = T.sblock_alloc_buffer((B, H, W, S), "float32")
        for b, h, w, n, i, x in T.grid(B, H, W, S, kernel, kernel * K):
            with T.sblock("product"):
                vb, vh, vw, vn, vi, vx = T.axis.remap("SSSSRR", [b, h, w, n, i, x])
                with T.init():
                    product[vb, vh, vw, vn] = bias[vn]
                product[vb, vh, vw, vn] = (
                    product[vb, vh, vw, vn]
                    + input[vb, vh * stride + vi, vw * stride * K + vx] * weight[vn // PANEL, vi, vx, vn % PANEL]
                )
        for b, h, w, n in T.grid(B, H, W, S):
            with T.sblock("epilogue"):
                vb, vh, vw, vn = T.axis.remap("SSSS", [b, h, w, n])
                if whole or vn < N:
                    output[vb, vh + top, vw + left, vn] = activate(product[vb, vh, vw, vn], act)
        zero_border(output, B, H, W, N, top, left, bottom, right)

    return conv


@dataclass(frozen=True)
class ConvSchedule:
    """A register tile of ``rows`` pixels of one row x ``columns`` channels in vectors of ``lanes``: a task.

    With ``weights_outer`` one column tile is done for the whole map, so that its weights stay in the cache; without, a
    row of pixels for all channels. The sum over a row of taps is unrolled ``turns`` times.
    """

    rows: int
    columns: int
    lanes: int
    weights_outer: bool = True
    turns: int = 1


def apply(s: s_tir.Schedule, workload: Conv, schedule: ConvSchedule) -> None:
    """From the outside in: row of pixels, column tile (first with ``weights_outer``), row tile, taps, register tile."""
    product, epilogue = s.get_sblock("product"), s.get_sblock("epilogue")
    b, h, w, n = s.get_loops(epilogue)
    w, row = s.split(w, [None, schedule.rows])
    n, lane = s.split(n, [None, schedule.columns])
    order = (n, b, h, w) if schedule.weights_outer else (b, h, n, w)
    s.reorder(*order, row, lane)
    task_loops(s, order, ragged=(w, n))
    s.compute_at(product, w, preserve_unit_loops=True)
    *_, product_row, product_lane, i, x = s.get_loops(product)
    x, turn = s.split(x, [None, schedule.turns])
    s.reorder(i, x, turn, product_row, product_lane)
    register_tile(s, (turn, product_row), product_lane, schedule.lanes)
    s.decompose_reduction(product, i)
    register_tile(s, (row,), lane, schedule.lanes)


def space(workload: Conv, isa: InstructionSet) -> list[ConvSchedule]:
    """Every tile that fits in the registers; fewest estimated cycles first."""
    unrolls = [turns for turns in (4, 2, 1) if workload.kernel * workload.k % turns == 0]
    return [
        ConvSchedule(rows, columns, vector_lanes(columns, isa.lanes), weights_outer, turns)
        for rows, columns in sorted(_tiles(workload, isa), key=lambda tile: _rank(workload, isa, *tile))
        for turns in unrolls
        for weights_outer in (True, False)
    ]


def _tiles(workload: Conv, isa: InstructionSet) -> Iterator[tuple[int, int]]:
    """Rows and columns."""
    for columns in column_tiles(workload.n):
        most = most_rows(isa, columns // vector_lanes(columns, isa.lanes))
        yield from ((rows, columns) for rows in range(1, min(most, workload.width) + 1))


def _rank(workload: Conv, isa: InstructionSet, rows: int, columns: int) -> tuple[bool, float, int, int]:
    taps, vectors = workload.kernel**2 * workload.k, columns // vector_lanes(columns, isa.lanes)
    spilled = spills(isa, workload.kernel * workload.k, (rows, vectors), apart=workload.stride * workload.k)
    return spilled, row_cycles(isa, taps, (workload.width, workload.n), (rows, columns)), -rows, -columns
