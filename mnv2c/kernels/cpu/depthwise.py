"""3x3 depthwise convolution: the computation, its schedule template and the rule for its defaults.

``output[h, w, c] = activation(sum_{i, j} input[h * stride + i, w * stride + j, c] * weight[i, j, c] + bias[c])``. The
input comes with its border of zeros (see ``pointwise``), so that there is no edge to ask about; weights lie tap by
tap.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cpu.tiles import register_tile, task_loops, vector_lanes
from mnv2c.kernels.elements import activate, single, stored
from mnv2c.targets import InstructionSet
from mnv2c.workloads import Depthwise


def pack(workload: Depthwise, constants: Sequence[Array]) -> tuple[Array, ...]:
    """``channels x 1 x 3 x 3`` tap by tap; the bias as it is."""
    weight, bias = constants
    return np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0)), bias


def compute(workload: Depthwise) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, weight, bias, output)``."""
    B, H, W, C, S = workload.batch, workload.height, workload.width, workload.channels, workload.stride
    rows, columns, act, element = workload.rows, workload.columns, workload.activation, workload.dtype
    place = functools.partial(_place, workload)

    @T.prim_func(s_tir=True)
    def depthwise(
        input: T.Buffer((B, rows, columns, C), element),
        weight: T.Buffer((3, 3, C), element),
        bias: T.Buffer((C,), "float32"),
        output: T.Buffer((B, H, W, C), element),
    ):
        total = T.sblock_alloc_buffer((B, H, W, C), "float32")
        for b, h, w, c, i, j in T.grid(B, H, W, C, 3, 3):
            with T.sblock("total"):
                vb, vh, vw, vc, vi, vj = T.axis.remap("SSSSRR", [b, h, w, c, i, j])
                with T.init():
                    total[vb, vh, vw, vc] = bias[vc]
                total[vb, vh, vw, vc] = total[vb, vh, vw, vc] + single(
                    input[vb, place(vh * S + vi), vw * S + vj, vc]
                ) * single(weight[vi, vj, vc])
        for b, h, w, c in T.grid(B, H, W, C):
            with T.sblock("epilogue"):
                vb, vh, vw, vc = T.axis.remap("SSSS", [b, h, w, c])
                output[vb, vh, vw, vc] = stored(activate(total[vb, vh, vw, vc], act), element)

    return depthwise


def _place(workload: Depthwise, row: tirx.Expr) -> tirx.Expr:
    """Where the input has its row of that number."""
    return tirx.floormod(row, workload.rows) if workload.ring else row


@dataclass(frozen=True)
class DepthwiseSchedule:
    """A register tile of ``height x width`` outputs and one vector of ``lanes`` channels: a task."""

    height: int
    width: int
    lanes: int


def apply(s: s_tir.Schedule, workload: Depthwise, schedule: DepthwiseSchedule) -> None:
    """Rows, columns, then channels, so that memory is read in the order in which it lies."""
    total, epilogue = s.get_sblock("total"), s.get_sblock("epilogue")
    b, h, w, c = s.get_loops(epilogue)
    h, row = s.split(h, [None, schedule.height])
    w, column = s.split(w, [None, schedule.width])
    c, lane = s.split(c, [None, schedule.lanes])
    s.reorder(b, h, w, c, row, column, lane)
    task_loops(s, (b, h, w, c), ragged=(w, c))
    s.compute_at(total, c, preserve_unit_loops=True)
    *_, total_row, total_column, total_lane, i, j = s.get_loops(total)
    s.reorder(i, j, total_row, total_column, total_lane)
    register_tile(s, (i, j, total_row, total_column), total_lane, schedule.lanes)
    s.decompose_reduction(total, i)
    register_tile(s, (row, column), lane, schedule.lanes)


def space(workload: Depthwise, isa: InstructionSet) -> list[DepthwiseSchedule]:
    """All tiles of as many sums as the core wants, then those of more; fewest estimated cycles first."""
    most = 3 * isa.registers // 4
    widest = isa.lanes if workload.channels % 8 else vector_lanes(workload.channels, isa.lanes)
    tiles = [
        DepthwiseSchedule(height, width, lanes)
        for lanes in {widest, max(widest // 2, 4)}
        for height in (3, 2, 1)
        for width in range(min(most // height, workload.width), 0, -1)
        if (workload.band or workload.height) % height == 0
    ]
    return sorted(
        tiles,
        key=lambda schedule: (
            schedule.height * schedule.width > isa.sums + 1 or _live(workload, schedule) > 3 * isa.sums // 2,
            schedule.lanes != widest,
            workload.stride == 2 and schedule.height == 1,  # reads one row in three once more
            _cycles(workload, isa, schedule),
        ),
    )


def _live(workload: Depthwise, schedule: DepthwiseSchedule) -> int:
    """Values that wait in registers at once: sums, and with stride 2 the row of input that two rows of sums share.

    LLVM reads that row once; spilled, it makes tiles of 2 x 4 in 16 registers 1.05 to 1.25 times slower than 2 x 2
    (Zen 3, Zen 4), of 2 x 8 in 32 registers 1.03 to 1.2 times slower than 2 x 5 (llvm-mca, Cortex-A53 to A76).
    """
    shared = (schedule.width - 1) * workload.stride + 3 if workload.stride == 2 and schedule.height > 1 else 0
    return schedule.height * schedule.width + shared + 1


def _cycles(workload: Depthwise, isa: InstructionSet, schedule: DepthwiseSchedule) -> float:
    """Estimated cycles per vector of channels: multiply-adds, a little for the loads, and a start-up cost per tile."""

    def tile(width: int) -> float:
        loads = ((schedule.height - 1) * workload.stride + 3) * ((width - 1) * workload.stride + 3) + 9
        return 8 + 9 * schedule.height * width / isa.fmas_per_cycle + 0.25 * loads

    last = workload.width % schedule.width
    one_row = (workload.width // schedule.width) * tile(schedule.width) + (tile(last) if last else 0.0)
    return workload.height / schedule.height * one_row
