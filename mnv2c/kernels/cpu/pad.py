"""A border of zeros around a map that others read without one: the computation and its schedule.

``output[h, w, c] = input[h - top, w - left, c]`` inside, 0 around it. Needed where a depthwise convolution reads an
edge that something else reads too (expansion factor 1 with a shortcut); elsewhere the producer writes the border
itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cpu.tiles import register_tile, task_loops, vector_lanes, zero_border
from mnv2c.targets import InstructionSet
from mnv2c.workloads import Pad


def pack(workload: Pad, constants: Sequence[Array]) -> tuple[Array, ...]:
    """There is nothing to pack."""
    return tuple(constants)


def compute(workload: Pad) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, output)``."""
    B, H, W, C, border = workload.batch, workload.height, workload.width, workload.channels, workload.border
    top, left, bottom, right = border.top, border.left, border.bottom, border.right

    @T.prim_func(s_tir=True)
    def pad(
        input: T.Buffer((B, H, W, C), "float32"),
        output: T.Buffer((B, top + H + bottom, left + W + right, C), "float32"),
    ):
        for b, h, w, c in T.grid(B, H, W, C):
            with T.sblock("copy"):
                vb, vh, vw, vc = T.axis.remap("SSSS", [b, h, w, c])
                output[vb, vh + top, vw + left, vc] = input[vb, vh, vw, vc]
        zero_border(output, B, H, W, C, top, left, bottom, right)

    return pad


@dataclass(frozen=True)
class PadSchedule:
    """Vectors of ``lanes`` channels."""

    lanes: int


def apply(s: s_tir.Schedule, workload: Pad, schedule: PadSchedule) -> None:
    """A row is a task."""
    b, h, _, c = s.get_loops(s.get_sblock("copy"))
    task_loops(s, (b, h))
    c, lane = s.split(c, [None, schedule.lanes])
    register_tile(s, (), lane, schedule.lanes)


def space(workload: Pad, isa: InstructionSet) -> list[PadSchedule]:
    """There is no choice: the widest vector."""
    return [PadSchedule(vector_lanes(workload.channels, isa.lanes))]
