"""The stem, a full convolution of the image: the computation, its schedule template and the rule for its defaults.

``output[h, w, n] = activation(sum_{i, j, c} padded[h * stride + i, w * stride + j, c] * weight[i, j, c, n] +
bias[n])``. The caller's image has no border, so that a band of its rows is first copied into one, in scratch; for raw
RGB bytes that copy is also where ``(pixel - mean) / scale`` happens. The output has a border of zeros for the
depthwise convolution behind it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cpu.tiles import register_tile, summed_columns, task_loops, vector_lanes, zero_border
from mnv2c.kernels.cpu.tir_passes import TAIL
from mnv2c.kernels.elements import activate
from mnv2c.targets import InstructionSet
from mnv2c.workloads import Stem

CHANNELS = Stem.CHANNELS


def pack(workload: Stem, constants: Sequence[Array]) -> tuple[Array, ...]:
    """``n x 3 x kernel x kernel`` (OIHW) tap by tap, and the bias; zeros behind both where more columns are summed."""
    weight, bias = constants
    zeros = (0, summed_columns(workload.n) - workload.n)
    taps = np.pad(weight.transpose(2, 3, 1, 0), ((0, 0), (0, 0), (0, 0), zeros))
    return np.ascontiguousarray(taps), np.pad(bias, zeros)


def compute(workload: Stem) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, weight, bias, output)``."""
    B, H, W, N, stride = workload.batch, workload.height, workload.width, workload.n, workload.stride
    S = summed_columns(N)
    whole = S == N
    kernel, rows, columns = workload.kernel, workload.rows, workload.columns
    image, act = workload.image, workload.activation
    border, zeros = workload.border, workload.padding
    top, left, bottom, right = border.top, border.left, border.bottom, border.right
    first, begin, end = zeros.top, zeros.left * CHANNELS, (zeros.left + columns) * CHANNELS
    padded_rows, padded_columns = (H - 1) * stride + kernel, ((W - 1) * stride + kernel) * CHANNELS
    pixel = functools.partial(_normalised, workload)

    @T.prim_func(s_tir=True)
    def stem(
        input: T.Buffer((B, rows, columns, CHANNELS), image),
        weight: T.Buffer((kernel, kernel, CHANNELS, S), "float32"),
        bias: T.Buffer((S,), "float32"),
        output: T.Buffer((B, top + H + bottom, left + W + right, N), "float32"),
    ):
        padded = T.sblock_alloc_buffer((B, padded_rows, padded_columns), "float32")
        product = T.sblock_alloc_buffer((B, H, W, S), "float32")
        for b, h, x in T.grid(B, padded_rows, padded_columns):
            with T.sblock("padded"):
                vb, vh, vx = T.axis.remap("SSS", [b, h, x])
                padded[vb, vh, vx] = T.if_then_else(
                    vh >= first and vh < first + rows and vx >= begin and vx < end,
                    pixel(input[vb, vh - first, (vx - begin) // CHANNELS, (vx - begin) % CHANNELS], vx),
                    T.float32(0),
                )
        for b, h, w, n, i, j, c in T.grid(B, H, W, S, kernel, kernel, CHANNELS):
            with T.sblock("product"):
                vb, vh, vw, vn, vi, vj, vc = T.axis.remap("SSSSRRR", [b, h, w, n, i, j, c])
                with T.init():
                    product[vb, vh, vw, vn] = bias[vn]
                product[vb, vh, vw, vn] = (
                    product[vb, vh, vw, vn]
                    + padded[vb, vh * stride + vi, (vw * stride + vj) * CHANNELS + vc] * weight[vi, vj, vc, vn]
                )
        for b, h, w, n in T.grid(B, H, W, S):
            with T.sblock("epilogue"):
                vb, vh, vw, vn = T.axis.remap("SSSS", [b, h, w, n])
                if whole or vn < N:
                    output[vb, vh + top, vw + left, vn] = activate(product[vb, vh, vw, vn], act)
        zero_border(output, B, H, W, N, top, left, bottom, right)

    return stem


def _normalised(workload: Stem, value: tirx.Expr, x: tirx.Expr) -> tirx.Expr:
    """``(value - mean) / scale`` of a byte at position ``x`` of its row; fp32 comes normalised already."""
    if workload.image == "float32":
        return value
    channel = tirx.floormod(x, CHANNELS)
    inverse = [1 / scale for scale in workload.scale]
    return (tirx.Cast("float32", value) - _per_channel(workload.mean, channel)) * _per_channel(inverse, channel)


def _per_channel(values: Sequence[float], channel: tirx.Expr) -> tirx.Expr:
    red, green, blue = (tirx.const(value, "float32") for value in values)
    if len(set(values)) == 1:
        return red
    return tirx.Select(channel == 0, red, tirx.Select(channel == 1, green, blue))


@dataclass(frozen=True)
class StemSchedule:
    """``band`` output rows share one padded copy; in them a register tile of ``rows`` pixels x ``columns`` channels."""

    band: int
    rows: int
    columns: int
    lanes: int


def apply(s: s_tir.Schedule, workload: Stem, schedule: StemSchedule) -> None:
    """Band, row, column tile, pixel tile, the taps, register tile; the band's padded copy first."""
    padded, product, epilogue = s.get_sblock("padded"), s.get_sblock("product"), s.get_sblock("epilogue")
    b, h, w, n = s.get_loops(epilogue)
    band, h = s.split(h, [None, schedule.band])
    w, row = s.split(w, [None, schedule.rows])
    n, lane = s.split(n, [None, schedule.columns])
    s.reorder(b, band, h, n, w, row, lane)
    task_loops(s, (b, band))
    s.annotate(w, TAIL, 1)
    s.annotate(n, TAIL, 1)
    s.compute_at(product, w, preserve_unit_loops=True)
    *_, product_h, product_row, product_lane, i, j, c = s.get_loops(product)
    s.reorder(i, j, c, product_h, product_row, product_lane)
    register_tile(s, (j, c, product_row), product_lane, schedule.lanes)
    s.decompose_reduction(product, i)
    register_tile(s, (row,), lane, schedule.lanes)
    s.compute_at(padded, band, preserve_unit_loops=True)
    *_, padded_row, x = s.get_loops(padded)
    x, x_lane = s.split(x, [None, schedule.lanes])
    s.vectorize(x_lane)
    s.annotate(padded_row, TAIL, 1)
    s.annotate(x, TAIL, 1)


def space(workload: Stem, isa: InstructionSet) -> list[StemSchedule]:
    """One to four vectors wide, up to three quarters of the registers, bands that divide the rows; the rule's first,
    with as many sums as the core wants."""
    bands = [band for band in (4, 3, 2, 1) if (workload.band or workload.height) % band == 0]
    found = []
    summed = summed_columns(workload.n)
    for columns in (width for width in (2 * isa.lanes, isa.lanes, 8, 4 * isa.lanes) if summed % width == 0):
        lanes = vector_lanes(columns, isa.lanes)
        vectors = columns // lanes
        first = max(min(isa.sums // vectors, workload.width), 1)
        most = min(3 * isa.registers // 4 // vectors, workload.width)
        rows = [*range(first, 0, -1), *range(first + 1, most + 1)]
        found += [StemSchedule(band, row, columns, lanes) for row in rows for band in bands]
    return list(dict.fromkeys(found))
