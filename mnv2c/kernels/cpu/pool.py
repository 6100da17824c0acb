"""Global average pooling: the computation, its schedule template and the rule for its defaults.

``output[c] = sum_{h, w} input[h, w, c] / (height * width)``.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.kernels.cpu.lower import TASK
from mnv2c.kernels.cpu.tiles import register_tile, vector_lanes
from mnv2c.targets import InstructionSet


@dataclass(frozen=True)
class Pool:
    """The workload: ``height x width`` pixels of ``channels``."""

    height: int
    width: int
    channels: int

    @property
    def name(self) -> str:
        return f"pool_{self.height}x{self.width}_{self.channels}"

    @property
    def macs(self) -> int:
        return 0

    def compute(self) -> tirx.PrimFunc:
        """The PrimFunc before scheduling: ``(input, output)``."""
        H, W, C = self.height, self.width, self.channels
        share = 1.0 / (H * W)

        @T.prim_func(s_tir=True)
        def pool(input: T.Buffer((1, H, W, C), "float32"), output: T.Buffer((1, C), "float32")):
            total = T.sblock_alloc_buffer((C,), "float32")
            for c, h, w in T.grid(C, H, W):
                with T.sblock("total"):
                    vc, vh, vw = T.axis.remap("SRR", [c, h, w])
                    with T.init():
                        total[vc] = T.float32(0)
                    total[vc] = total[vc] + input[0, vh, vw, vc]
            for c in T.serial(C):
                with T.sblock("epilogue"):
                    vc = T.axis.remap("S", [c])
                    output[0, vc] = total[vc] * T.float32(share)

        return pool


@dataclass(frozen=True)
class PoolSchedule:
    """``channels`` are summed at once, in vectors of ``lanes``."""

    channels: int
    lanes: int


def apply(s: s_tir.Schedule, workload: Pool, schedule: PoolSchedule) -> None:
    """A chunk of channels, then all pixels of it."""
    total, epilogue = s.get_sblock("total"), s.get_sblock("epilogue")
    (c,) = s.get_loops(epilogue)
    c, lane = s.split(c, [None, schedule.channels])
    s.annotate(c, TASK, 1)
    s.compute_at(total, c, preserve_unit_loops=True)
    *_, total_lane, h, w = s.get_loops(total)
    s.reorder(h, w, total_lane)
    register_tile(s, (), total_lane, schedule.lanes)
    s.decompose_reduction(total, h)
    register_tile(s, (), lane, schedule.lanes)


def space(workload: Pool, isa: InstructionSet) -> list[PoolSchedule]:
    """From the most channels down to eight."""
    most = isa.lanes * isa.registers // 2
    channels = [channels for channels in range(most // 8 * 8, 0, -8) if workload.channels % channels == 0]
    return [PoolSchedule(channels, vector_lanes(channels, isa.lanes)) for channels in channels]
