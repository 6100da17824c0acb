"""A border of zeros around a map that others read without one: the computation and its schedule.

``output[h, w, c] = input[h - top, w - left, c]`` inside, 0 around it. Needed where a depthwise convolution reads an
edge that something else reads too (expansion factor 1 with a shortcut); elsewhere the producer writes the border
itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Padding
from mnv2c.kernels.cpu.lower import TASK
from mnv2c.kernels.cpu.tiles import register_tile, vector_lanes, zero_border
from mnv2c.targets import InstructionSet


@dataclass(frozen=True)
class Pad:
    """The workload: ``height x width`` pixels of ``channels``, and the border around them."""

    height: int
    width: int
    channels: int
    border: Padding

    @property
    def name(self) -> str:
        b = self.border
        return f"pad_{self.height}x{self.width}_{self.channels}_border{b.top}{b.left}{b.bottom}{b.right}"

    @property
    def macs(self) -> int:
        return 0

    def compute(self) -> tirx.PrimFunc:
        """The PrimFunc before scheduling: ``(input, output)``."""
        H, W, C = self.height, self.width, self.channels
        top, left, bottom, right = self.border.top, self.border.left, self.border.bottom, self.border.right

        @T.prim_func(s_tir=True)
        def pad(
            input: T.Buffer((1, H, W, C), "float32"),
            output: T.Buffer((1, top + H + bottom, left + W + right, C), "float32"),
        ):
            for h, w, c in T.grid(H, W, C):
                with T.sblock("copy"):
                    vh, vw, vc = T.axis.remap("SSS", [h, w, c])
                    output[0, vh + top, vw + left, vc] = input[0, vh, vw, vc]
            zero_border(output, H, W, C, top, left, bottom, right)

        return pad


@dataclass(frozen=True)
class PadSchedule:
    """Vectors of ``lanes`` channels."""

    lanes: int


def apply(s: s_tir.Schedule, workload: Pad, schedule: PadSchedule) -> None:
    """A row is a task."""
    h, _, c = s.get_loops(s.get_sblock("copy"))
    s.annotate(h, TASK, 1)
    c, lane = s.split(c, [None, schedule.lanes])
    register_tile(s, (), lane, schedule.lanes)


def space(workload: Pad, isa: InstructionSet) -> list[PadSchedule]:
    """There is no choice: the widest vector."""
    return [PadSchedule(vector_lanes(workload.channels, isa.lanes))]
