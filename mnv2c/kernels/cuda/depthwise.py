"""3x3 depthwise convolution on its own, where no expansion stands before it: a thread sums a row of pixels.

``output[h, w, c] = activation(sum_{i, j} input[h * stride + i, w * stride + j, c] * weight[i, j, c] + bias[c])``; the
input has its zeros in memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cuda.blocks import RowSchedule, activate, row_per_thread, row_space
from mnv2c.workloads import Depthwise


def pack(workload: Depthwise, constants: Sequence[Array]) -> tuple[Array, ...]:
    """``channels x 1 x 3 x 3`` tap by tap; the bias as it is."""
    weight, bias = constants
    return np.ascontiguousarray(weight[:, 0].transpose(1, 2, 0)), bias


def compute(workload: Depthwise) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, weight, bias, output)``."""
    B, H, W, C, S = workload.batch, workload.height, workload.width, workload.channels, workload.stride
    rows, columns, act = workload.rows, workload.columns, workload.activation

    @T.prim_func(s_tir=True)
    def depthwise(
        input: T.Buffer((B, rows, columns, C), "float32"),
        weight: T.Buffer((3, 3, C), "float32"),
        bias: T.Buffer((C,), "float32"),
        output: T.Buffer((B, H, W, C), "float32"),
    ):
        total = T.sblock_alloc_buffer((B, H, W, C), "float32")
        for b, h, w, c, i, j in T.grid(B, H, W, C, 3, 3):
            with T.sblock("total"):
                vb, vh, vw, vc, vi, vj = T.axis.remap("SSSSRR", [b, h, w, c, i, j])
                with T.init():
                    total[vb, vh, vw, vc] = T.float32(0)
                total[vb, vh, vw, vc] = (
                    total[vb, vh, vw, vc] + input[vb, vh * S + vi, vw * S + vj, vc] * weight[vi, vj, vc]
                )
        for b, h, w, c in T.grid(B, H, W, C):
            with T.sblock("epilogue"):
                vb, vh, vw, vc = T.axis.remap("SSSS", [b, h, w, c])
                output[vb, vh, vw, vc] = activate(total[vb, vh, vw, vc] + bias[vc], act)

    return depthwise


def apply(s: s_tir.Schedule, workload: Depthwise, schedule: RowSchedule) -> None:
    """See ``row_per_thread``."""
    row_per_thread(s, schedule, reduced=2)


def space(workload: Depthwise) -> list[RowSchedule]:
    """See ``row_space``."""
    return row_space(workload.outputs[0])
