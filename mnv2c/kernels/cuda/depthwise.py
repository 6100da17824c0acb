"""3x3 depthwise convolution on its own, where no expansion stands before it: a thread sums a row of pixels.

What it computes, and from what, is as on a CPU: the input has its zeros in memory, the weights lie tap by tap.
"""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir

from mnv2c.ir.graph import Array
from mnv2c.kernels.cpu.depthwise import compute
from mnv2c.kernels.cuda.blocks import RowSchedule, row_per_thread, row_space
from mnv2c.kernels.elements import stored_weight
from mnv2c.workloads import Depthwise

__all__ = ["apply", "compute", "pack", "space"]


def pack(workload: Depthwise, constants: Sequence[Array]) -> tuple[Array, ...]:
    """``channels x 1 x 3 x 3`` tap by tap; the bias as it is."""
    weight, bias = constants
    return stored_weight(weight[:, 0].transpose(1, 2, 0), workload.dtype), bias


def apply(s: s_tir.Schedule, workload: Depthwise, schedule: RowSchedule) -> None:
    """See ``row_per_thread``."""
    row_per_thread(s, schedule, reduced=2)


def space(workload: Depthwise) -> list[RowSchedule]:
    """See ``row_space``."""
    return row_space(workload.outputs[0])
