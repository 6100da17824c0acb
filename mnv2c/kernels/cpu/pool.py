"""Global average pooling: the computation, its schedule template and the rule for its defaults.

``output[c] = sum_{h, w} input[h, w, c] / (height * width)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cpu.tiles import chunks, register_tile, task_loops
from mnv2c.kernels.elements import single, stored
from mnv2c.targets import InstructionSet
from mnv2c.workloads import Pool


def pack(workload: Pool, constants: Sequence[Array]) -> tuple[Array, ...]:
    """There is nothing to pack."""
    return tuple(constants)


def compute(workload: Pool) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, output)``."""
    B, H, W, C = workload.batch, workload.height, workload.width, workload.channels
    share, element = 1.0 / (H * W), workload.dtype

    @T.prim_func(s_tir=True)
    def pool(input: T.Buffer((B, H, W, C), element), output: T.Buffer((B, C), element)):
        total = T.sblock_alloc_buffer((B, C), "float32")
        for b, c, h, w in T.grid(B, C, H, W):
            with T.sblock("total"):
                vb, vc, vh, vw = T.axis.remap("SSRR", [b, c, h, w])
                with T.init():
                    total[vb, vc] = T.float32(0)
                total[vb, vc] = total[vb, vc] + single(input[vb, vh, vw, vc])
        for b, c in T.grid(B, C):
            with T.sblock("epilogue"):
                vb, vc = T.axis.remap("SS", [b, c])
                output[vb, vc] = stored(total[vb, vc] * T.float32(share), element)

    return pool


@dataclass(frozen=True)
class PoolSchedule:
    """``channels`` are summed at once, in vectors of ``lanes``."""

    channels: int
    lanes: int


def apply(s: s_tir.Schedule, workload: Pool, schedule: PoolSchedule) -> None:
    """A chunk of channels, then all pixels of it."""
    total, epilogue = s.get_sblock("total"), s.get_sblock("epilogue")
    b, c = s.get_loops(epilogue)
    c, lane = s.split(c, [None, schedule.channels])
    task_loops(s, (b, c), ragged=(c,))
    s.compute_at(total, c, preserve_unit_loops=True)
    *_, total_lane, h, w = s.get_loops(total)
    s.reorder(h, w, total_lane)
    register_tile(s, (), total_lane, schedule.lanes)
    s.decompose_reduction(total, h)
    register_tile(s, (), lane, schedule.lanes)


def space(workload: Pool, isa: InstructionSet) -> list[PoolSchedule]:
    """From the most channels down to eight."""
    return [PoolSchedule(count, lanes) for count, lanes in chunks(workload.channels, isa)]
