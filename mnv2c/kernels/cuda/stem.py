"""The stem, a full convolution of the image: a thread sums a row of pixels of one channel.

``output[h, w, n] = activation(sum_{i, j, c} input[h * stride + i - top, w * stride + j - left, c] *
weight[i, j, c, n] + bias[n])``, with zeros around the image, and around the output where a depthwise convolution reads
it. Raw RGB bytes are normalised as they are read: ``(pixel - mean) / scale``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cuda.blocks import RowSchedule, row_per_thread, row_space
from mnv2c.kernels.elements import activate, single, stored, stored_weight
from mnv2c.workloads import Stem

CHANNELS = Stem.CHANNELS


def pack(workload: Stem, constants: Sequence[Array]) -> tuple[Array, ...]:
    """``n x 3 x kernel x kernel`` (OIHW) tap by tap, and the bias as it is."""
    weight, bias = constants
    return stored_weight(weight.transpose(2, 3, 1, 0), workload.dtype), bias


def compute(workload: Stem) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, weight, bias, output)``."""
    B, H, W, N, S = workload.batch, workload.height, workload.width, workload.n, workload.stride
    rows, columns, image, act = workload.rows, workload.columns, workload.image, workload.activation
    element, kernel = workload.dtype, workload.kernel
    border, zeros = workload.border, workload.padding
    top, left, up, aside = border.top, border.left, zeros.top, zeros.left
    out_rows, out_columns = top + H + border.bottom, left + W + border.right

    def pixel(image: Any, b: Any, h: Any, w: Any, c: Any) -> Any:
        near = (tirx.max(tirx.min(h, rows - 1), 0), tirx.max(tirx.min(w, columns - 1), 0))
        inside = tirx.all(h >= 0, h < rows, w >= 0, w < columns)
        return tirx.if_then_else(
            inside, _normalised(workload, image[b, near[0], near[1], c], c), tirx.const(0.0, "float32")
        )

    @T.prim_func(s_tir=True)
    def stem(
        input: T.Buffer((B, rows, columns, CHANNELS), image),
        weight: T.Buffer((kernel, kernel, CHANNELS, N), element),
        bias: T.Buffer((N,), "float32"),
        output: T.Buffer((B, out_rows, out_columns, N), element),
    ):
        total = T.sblock_alloc_buffer((B, out_rows, out_columns, N), "float32")
        for b, h, w, n, i, j, c in T.grid(B, out_rows, out_columns, N, kernel, kernel, CHANNELS):
            with T.sblock("total"):
                vb, vh, vw, vn, vi, vj, vc = T.axis.remap("SSSSRRR", [b, h, w, n, i, j, c])
                with T.init():
                    total[vb, vh, vw, vn] = T.float32(0)
                total[vb, vh, vw, vn] = total[vb, vh, vw, vn] + pixel(
                    input, vb, (vh - top) * S + vi - up, (vw - left) * S + vj - aside, vc
                ) * single(weight[vi, vj, vc, vn])
        for b, h, w, n in T.grid(B, out_rows, out_columns, N):
            with T.sblock("epilogue"):
                vb, vh, vw, vn = T.axis.remap("SSSS", [b, h, w, n])
                output[vb, vh, vw, vn] = T.if_then_else(
                    vh >= top and vh < top + H and vw >= left and vw < left + W,
                    stored(activate(total[vb, vh, vw, vn] + bias[vn], act), element),
                    tirx.const(0, element),
                )

    return stem


def _normalised(workload: Stem, value: tirx.Expr, channel: tirx.Expr) -> tirx.Expr:
    """``(value - mean) / scale`` of a byte; fp32 comes normalised already."""
    if workload.image == "float32":
        return value
    inverse = [1 / scale for scale in workload.scale]
    return (tirx.Cast("float32", value) - _per_channel(workload.mean, channel)) * _per_channel(inverse, channel)


def _per_channel(values: Sequence[float], channel: tirx.Expr) -> tirx.Expr:
    red, green, blue = (tirx.const(value, "float32") for value in values)
    if len(set(values)) == 1:
        return red
    return tirx.Select(channel == 0, red, tirx.Select(channel == 1, green, blue))


def apply(s: s_tir.Schedule, workload: Stem, schedule: RowSchedule) -> None:
    """See ``row_per_thread``."""
    row_per_thread(s, schedule, reduced=3)


def space(workload: Stem) -> list[RowSchedule]:
    """See ``row_space``."""
    return row_space(workload.outputs[0])
