"""Zeros around a map: a thread writes one element at a time."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cuda.blocks import RowSchedule, row_per_thread, row_space
from mnv2c.workloads import Pad


def pack(workload: Pad, constants: Sequence[Array]) -> tuple[Array, ...]:
    """There is nothing to pack."""
    return tuple(constants)


def compute(workload: Pad) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, output)``."""
    B, H, W, C = workload.batch, workload.height, workload.width, workload.channels
    border = workload.border
    top, left = border.top, border.left
    rows, columns = top + H + border.bottom, left + W + border.right
    element = workload.dtype

    @T.prim_func(s_tir=True)
    def pad(input: T.Buffer((B, H, W, C), element), output: T.Buffer((B, rows, columns, C), element)):
        for b, h, w, c in T.grid(B, rows, columns, C):
            with T.sblock("epilogue"):
                vb, vh, vw, vc = T.axis.remap("SSSS", [b, h, w, c])
                output[vb, vh, vw, vc] = T.if_then_else(
                    vh >= top and vh < top + H and vw >= left and vw < left + W,
                    input[vb, vh - top, vw - left, vc],
                    tirx.const(0, element),
                )

    return pad


def apply(s: s_tir.Schedule, workload: Pad, schedule: RowSchedule) -> None:
    """See ``row_per_thread``."""
    row_per_thread(s, schedule, reduced=0)


def space(workload: Pad) -> list[RowSchedule]:
    """See ``row_space``."""
    return row_space(workload.outputs[0])
