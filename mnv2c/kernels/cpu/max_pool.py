"""Max pooling: the computation, its schedule template and the rule for its defaults.

``output[h, w, c] = max_{i, j} input[near(h * stride + i - top), near(w * stride + j - left), c]``: what is outside of
the map is read at its edge, which the window has as well, so that it changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cpu.tiles import chunks, register_tile, task_loops
from mnv2c.targets import InstructionSet
from mnv2c.workloads import MaxPool


def pack(workload: MaxPool, constants: Sequence[Array]) -> tuple[Array, ...]:
    """There is nothing to pack."""
    return tuple(constants)


def compute(workload: MaxPool) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, output)``."""
    B, H, W, C = workload.batch, workload.height, workload.width, workload.channels
    rows, columns, kernel, stride = workload.rows, workload.columns, workload.kernel, workload.stride
    top, left = workload.padding.top, workload.padding.left

    def near(place: tirx.Expr, extent: int) -> tirx.Expr:
        return tirx.max(tirx.min(place, extent - 1), 0)

    @T.prim_func(s_tir=True)
    def max_pool(input: T.Buffer((B, rows, columns, C), "float32"), output: T.Buffer((B, H, W, C), "float32")):
        largest = T.sblock_alloc_buffer((B, H, W, C), "float32")
        for b, h, w, c, i, j in T.grid(B, H, W, C, kernel, kernel):
            with T.sblock("largest"):
                vb, vh, vw, vc, vi, vj = T.axis.remap("SSSSRR", [b, h, w, c, i, j])
                with T.init():
                    largest[vb, vh, vw, vc] = T.min_value("float32")
                largest[vb, vh, vw, vc] = T.max(
                    largest[vb, vh, vw, vc],
                    input[vb, near(vh * stride + vi - top, rows), near(vw * stride + vj - left, columns), vc],
                )
        for b, h, w, c in T.grid(B, H, W, C):
            with T.sblock("epilogue"):
                vb, vh, vw, vc = T.axis.remap("SSSS", [b, h, w, c])
                output[vb, vh, vw, vc] = largest[vb, vh, vw, vc]

    return max_pool


@dataclass(frozen=True)
class MaxPoolSchedule:
    """Windows of ``channels`` at once, in vectors of ``lanes``."""

    channels: int
    lanes: int


def apply(s: s_tir.Schedule, workload: MaxPool, schedule: MaxPoolSchedule) -> None:
    """Pixel by pixel, a chunk of channels, its windows."""
    largest, epilogue = s.get_sblock("largest"), s.get_sblock("epilogue")
    b, h, w, c = s.get_loops(epilogue)
    c, lane = s.split(c, [None, schedule.channels])
    task_loops(s, (b, h, w, c), ragged=(c,))
    s.compute_at(largest, c, preserve_unit_loops=True)
    *_, largest_lane, i, j = s.get_loops(largest)
    s.reorder(i, j, largest_lane)
    register_tile(s, (i, j), largest_lane, schedule.lanes)
    s.decompose_reduction(largest, i)
    register_tile(s, (), lane, schedule.lanes)


def space(workload: MaxPool, isa: InstructionSet) -> list[MaxPoolSchedule]:
    """From the most channels down to eight."""
    return [MaxPoolSchedule(count, lanes) for count, lanes in chunks(workload.channels, isa)]
