"""The stem, a full 3x3 convolution of the image: the computation, its schedule template and the rule for its defaults.

``output[h, w, n] = activation(sum_{i, j, c} padded[h * stride + i, w * stride + j, c] * weight[i, j, c, n] +
bias[n])``. The caller's image has no border, so that a band of its rows is first copied into one, in scratch; for raw
RGB bytes that copy is also where ``(pixel - mean) / scale`` happens. The output has a border of zeros for the
depthwise convolution behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array, Padding
from mnv2c.kernels.cpu.lower import TAIL, TASK
from mnv2c.kernels.cpu.tiles import register_tile, relu6, vector_lanes, zero_border
from mnv2c.targets import InstructionSet

CHANNELS = 3


@dataclass(frozen=True)
class Stem:
    """The workload: ``height x width`` outputs of ``n`` channels, from an image of ``rows x columns``.

    ``mean`` and ``scale``, per channel, are set where the image is raw bytes, and empty where it is normalised fp32.
    """

    height: int
    width: int
    n: int
    stride: int
    rows: int
    columns: int
    padding: Padding
    border: Padding
    relu6: bool
    mean: tuple[float, ...] = ()
    scale: tuple[float, ...] = ()

    @property
    def dtype(self) -> str:
        return "uint8" if self.mean else "float32"

    @property
    def name(self) -> str:
        return f"stem_{self.rows}x{self.columns}_{self.n}_stride{self.stride}_{self.dtype}" + (
            "_relu6" if self.relu6 else ""
        )

    @property
    def macs(self) -> int:
        return 9 * CHANNELS * self.height * self.width * self.n

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (3, 3, CHANNELS, self.n)

    def pack(self, weight: Array) -> Array:
        """``n x 3 x 3 x 3`` (OIHW) tap by tap."""
        return np.ascontiguousarray(weight.transpose(2, 3, 1, 0))

    def compute(self) -> tirx.PrimFunc:
        """The PrimFunc before scheduling: ``(input, weight, bias, output)``."""
        H, W, N, S, on = self.height, self.width, self.n, self.stride, self.relu6
        rows, columns, dtype, pixel = self.rows, self.columns, self.dtype, self._normalized
        top, left, bottom, right = self.border.top, self.border.left, self.border.bottom, self.border.right
        first, begin, end = self.padding.top, self.padding.left * CHANNELS, (self.padding.left + columns) * CHANNELS
        padded_rows, padded_columns = (H - 1) * S + 3, ((W - 1) * S + 3) * CHANNELS

        @T.prim_func(s_tir=True)
        def stem(
            input: T.Buffer((1, rows, columns, CHANNELS), dtype),
            weight: T.Buffer((3, 3, CHANNELS, N), "float32"),
            bias: T.Buffer((N,), "float32"),
            output: T.Buffer((1, top + H + bottom, left + W + right, N), "float32"),
        ):
            padded = T.sblock_alloc_buffer((padded_rows, padded_columns), "float32")
            product = T.sblock_alloc_buffer((H, W, N), "float32")
            for h, x in T.grid(padded_rows, padded_columns):
                with T.sblock("padded"):
                    vh, vx = T.axis.remap("SS", [h, x])
                    padded[vh, vx] = T.if_then_else(
                        vh >= first and vh < first + rows and vx >= begin and vx < end,
                        pixel(input[0, vh - first, (vx - begin) // CHANNELS, (vx - begin) % CHANNELS], vx),
                        T.float32(0),
                    )
            for h, w, n, i, j, c in T.grid(H, W, N, 3, 3, CHANNELS):
                with T.sblock("product"):
                    vh, vw, vn, vi, vj, vc = T.axis.remap("SSSRRR", [h, w, n, i, j, c])
                    with T.init():
                        product[vh, vw, vn] = bias[vn]
                    product[vh, vw, vn] = (
                        product[vh, vw, vn]
                        + padded[vh * S + vi, (vw * S + vj) * CHANNELS + vc] * weight[vi, vj, vc, vn]
                    )
            for h, w, n in T.grid(H, W, N):
                with T.sblock("epilogue"):
                    vh, vw, vn = T.axis.remap("SSS", [h, w, n])
                    output[0, vh + top, vw + left, vn] = relu6(product[vh, vw, vn], on)
            zero_border(output, H, W, N, top, left, bottom, right)

        return stem

    def _normalized(self, value: tirx.Expr, x: tirx.Expr) -> tirx.Expr:
        """``(value - mean) / scale`` of a byte at position ``x`` of its row; fp32 comes normalised already."""
        if self.dtype == "float32":
            return value
        channel = tirx.floormod(x, CHANNELS)
        inverse = [1 / scale for scale in self.scale]
        return (tirx.Cast("float32", value) - _per_channel(self.mean, channel)) * _per_channel(inverse, channel)


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
    """Band, row, column tile, pixel tile, the 27 taps, register tile; the band's padded copy first."""
    padded, product, epilogue = s.get_sblock("padded"), s.get_sblock("product"), s.get_sblock("epilogue")
    h, w, n = s.get_loops(epilogue)
    band, h = s.split(h, [None, schedule.band])
    w, row = s.split(w, [None, schedule.rows])
    n, lane = s.split(n, [None, schedule.columns])
    s.reorder(band, h, n, w, row, lane)
    s.annotate(band, TASK, 1)
    s.annotate(w, TAIL, 1)
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
    """One to four vectors wide, up to three quarters of the registers, bands that divide the rows; the rule's first."""
    bands = [band for band in (4, 3, 2, 1) if workload.height % band == 0]
    found = []
    for columns in (columns for columns in (2 * isa.lanes, isa.lanes, 8, 4 * isa.lanes) if workload.n % columns == 0):
        lanes = vector_lanes(columns, isa.lanes)
        registers = isa.registers * lanes // columns  # for each row of the tile
        first, most = max(min(registers // 2, workload.width), 1), min(registers * 3 // 4, workload.width)
        rows = [*range(first, 0, -1), *range(first + 1, most + 1)]
        found += [StemSchedule(band, row, columns, lanes) for row in rows for band in bands]
    return list(dict.fromkeys(found))
