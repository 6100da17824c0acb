"""3x3 depthwise convolution: the computation, its schedule template and the rule for its defaults.

``output[h, w, c] = activation(sum_{i, j} input[h * stride + i, w * stride + j, c] * weight[i, j, c] + bias[c])``. The
input comes with its border of zeros (see ``pointwise``), so that there is no edge to ask about; weights lie tap by
tap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cpu.lower import TAIL, TASK
from mnv2c.kernels.cpu.tiles import register_tile, relu6, vector_lanes
from mnv2c.targets import InstructionSet


@dataclass(frozen=True)
class Depthwise:
    """The workload: ``height x width`` outputs of ``channels`` from ``rows x columns`` inputs, border included."""

    height: int
    width: int
    channels: int
    stride: int
    rows: int
    columns: int
    relu6: bool

    @property
    def name(self) -> str:
        return (
            f"depthwise_{self.height}x{self.width}_{self.channels}_stride{self.stride}"
            f"_from_{self.rows}x{self.columns}" + ("_relu6" if self.relu6 else "")
        )

    @property
    def macs(self) -> int:
        return 9 * self.height * self.width * self.channels

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (3, 3, self.channels)

    def pack(self, weight: Array) -> Array:
        """``channels x 1 x 3 x 3`` tap by tap."""
        return np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0))

    def compute(self) -> tirx.PrimFunc:
        """The PrimFunc before scheduling: ``(input, weight, bias, output)``."""
        H, W, C, S, on = self.height, self.width, self.channels, self.stride, self.relu6
        rows, columns = self.rows, self.columns

        @T.prim_func(s_tir=True)
        def depthwise(
            input: T.Buffer((1, rows, columns, C), "float32"),
            weight: T.Buffer((3, 3, C), "float32"),
            bias: T.Buffer((C,), "float32"),
            output: T.Buffer((1, H, W, C), "float32"),
        ):
            total = T.sblock_alloc_buffer((H, W, C), "float32")
            for h, w, c, i, j in T.grid(H, W, C, 3, 3):
                with T.sblock("total"):
                    vh, vw, vc, vi, vj = T.axis.remap("SSSRR", [h, w, c, i, j])
                    with T.init():
                        total[vh, vw, vc] = bias[vc]
                    total[vh, vw, vc] = total[vh, vw, vc] + input[0, vh * S + vi, vw * S + vj, vc] * weight[vi, vj, vc]
            for h, w, c in T.grid(H, W, C):
                with T.sblock("epilogue"):
                    vh, vw, vc = T.axis.remap("SSS", [h, w, c])
                    output[0, vh, vw, vc] = relu6(total[vh, vw, vc], on)

        return depthwise


@dataclass(frozen=True)
class DepthwiseSchedule:
    """A register tile of ``height x width`` outputs and one vector of ``lanes`` channels."""

    height: int
    width: int
    lanes: int


def apply(s: s_tir.Schedule, workload: Depthwise, schedule: DepthwiseSchedule) -> None:
    """Rows, columns, then channels, so that memory is read in the order in which it lies."""
    total, epilogue = s.get_sblock("total"), s.get_sblock("epilogue")
    h, w, c = s.get_loops(epilogue)
    h, row = s.split(h, [None, schedule.height])
    w, column = s.split(w, [None, schedule.width])
    c, lane = s.split(c, [None, schedule.lanes])
    s.reorder(h, w, c, row, column, lane)
    s.annotate(h, TASK, 1)
    s.annotate(w, TAIL, 1)
    s.compute_at(total, c, preserve_unit_loops=True)
    *_, total_row, total_column, total_lane, i, j = s.get_loops(total)
    s.reorder(i, j, total_row, total_column, total_lane)
    register_tile(s, (i, j, total_row, total_column), total_lane, schedule.lanes)
    s.decompose_reduction(total, i)
    register_tile(s, (row, column), lane, schedule.lanes)


def space(workload: Depthwise, isa: InstructionSet) -> list[DepthwiseSchedule]:
    """All such tiles, then those that fill up to three quarters of the registers; fewest estimated cycles first."""
    half, most = isa.registers // 2 + 1, 3 * isa.registers // 4
    widest = vector_lanes(workload.channels, isa.lanes)
    tiles = [
        DepthwiseSchedule(height, width, lanes)
        for lanes in {widest, max(widest // 2, 4)}
        for height in (3, 2, 1)
        for width in range(min(most // height, workload.width), 0, -1)
        if workload.height % height == 0
    ]
    return sorted(
        tiles,
        key=lambda schedule: (
            schedule.height * schedule.width > half,
            schedule.lanes != widest,
            _cycles(workload, isa, schedule),
        ),
    )


def _cycles(workload: Depthwise, isa: InstructionSet, schedule: DepthwiseSchedule) -> float:
    """Estimated cycles per vector of channels: multiply-adds, a little for the loads, and a start-up cost per tile."""

    def tile(width: int) -> float:
        loads = ((schedule.height - 1) * workload.stride + 3) * ((width - 1) * workload.stride + 3) + 9
        return 8 + 9 * schedule.height * width / isa.fmas_per_cycle + 0.25 * loads

    last = workload.width % schedule.width
    one_row = (workload.width // schedule.width) * tile(schedule.width) + (tile(last) if last else 0.0)
    return workload.height / schedule.height * one_row
