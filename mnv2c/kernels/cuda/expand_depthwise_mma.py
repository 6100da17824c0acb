"""Expansion on tensor cores and 3x3 depthwise convolution in one kernel; see ``mma`` and ``expand_depthwise``.

A block owns some tiles of the expanded channels over a band of output rows of one image. Its warps sum the expansion's
tiles, activate them, and put them into shared memory, where the nine taps are read. How many rows a band has is part of
the computation: the tiles begin where it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cuda.blocks import bind_grid, unroll
from mnv2c.kernels.cuda.mma import (
    COLUMNS,
    LANES,
    SUMS,
    TilesSchedule,
    column,
    depth,
    held,
    in_order,
    in_whole_tiles,
    multiply,
    pack_weight,
    row,
    share_tiles,
    steps,
    tilings,
    vector,
    whole_tiles,
)
from mnv2c.kernels.elements import activate, single, stored, stored_weight
from mnv2c.workloads import ExpandDepthwise

_BLOCKS = 2 * 132  # that keep an H100 busy


def _band(workload: ExpandDepthwise) -> int:
    """Output rows of a band: few where blocks are few, else many, as bands share rows of the expanded map."""

    def cost(rows: int) -> float:
        blocks = workload.batch * (workload.height // rows) * (workload.channels // COLUMNS)
        return max(blocks / _BLOCKS, 1.0) * whole_tiles(_pixels(workload, rows))

    fitting = [
        rows
        for rows in range(1, workload.height + 1)
        if workload.height % rows == 0 and tilings(whole_tiles(_pixels(workload, rows)), 1)
    ]
    return min(fitting, key=cost)


def _width(workload: ExpandDepthwise) -> int:
    """Of the expanded map that an output row reads, zeros included."""
    return (workload.width - 1) * workload.stride + 3


def _pixels(workload: ExpandDepthwise, rows: int) -> int:
    """The same of a band."""
    return ((rows - 1) * workload.stride + 3) * _width(workload)


def takes(workload: ExpandDepthwise) -> bool:
    """Whether tensor cores can compute it: whole tiles, and room in shared memory for a row of outputs."""
    return in_whole_tiles(workload) and bool(tilings(whole_tiles(_pixels(workload, 1)), 1))


def pack(workload: ExpandDepthwise, constants: Sequence[Array]) -> tuple[Array, ...]:
    """The expansion's weight as the lanes take it (``mma.pack_weight``), the depthwise one's tap by tap; the biases as
    they are."""
    expand, expand_bias, depthwise, depthwise_bias = constants
    matrix = expand.reshape(workload.channels, workload.k)
    taps = stored_weight(depthwise[:, 0].transpose(1, 2, 0), workload.dtype)
    return pack_weight(workload, matrix, 1), expand_bias, taps, depthwise_bias


def compute(workload: ExpandDepthwise) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, expand_weight, expand_bias, weight, bias, output)``."""
    B, H, W, K, C, S = (
        workload.batch,
        workload.height,
        workload.width,
        workload.k,
        workload.channels,
        workload.stride,
    )
    rows, columns, top, left = workload.rows, workload.columns, workload.padding.top, workload.padding.left
    inner, outer, element = workload.expansion, workload.activation, workload.dtype
    band, width = _band(workload), _width(workload)
    bands, tiles, groups = H // band, whole_tiles(_pixels(workload, band)), C // COLUMNS
    depths, lanes = steps(workload), vector(workload)

    def source_row(part: Any, pixel: Any) -> Any:
        return part % bands * band * S + pixel // width - top

    def source_column(pixel: Any) -> Any:
        return pixel % width - left

    def near(index: Any, extent: int) -> Any:
        return tirx.max(tirx.min(index, extent - 1), 0)

    def inside(part: Any, pixel: Any) -> Any:
        h, w = source_row(part, pixel), source_column(pixel)
        return tirx.all(h >= 0, h < rows, w >= 0, w < columns)

    @T.prim_func(s_tir=True)
    def expand_depthwise(
        input: T.Buffer((B, rows, columns, K), element),
        expand_weight: T.Buffer((1, depths, groups, LANES, lanes), element),
        expand_bias: T.Buffer((C,), "float32"),
        weight: T.Buffer((3, 3, C), element),
        bias: T.Buffer((C,), "float32"),
        output: T.Buffer((B, H, W, C), element),
    ):
        read = T.sblock_alloc_buffer((B * bands, tiles, depths, LANES, 2, lanes), element)
        sums = T.sblock_alloc_buffer((B * bands, tiles, groups, LANES * SUMS), "float32")
        expanded = T.sblock_alloc_buffer((B * bands, groups, tiles, 2, LANES, 2), "float32")
        total = T.sblock_alloc_buffer((B * bands, band, groups, W, COLUMNS), "float32")
        for part, m, k, lane, half, item in T.grid(B * bands, tiles, depths, LANES, 2, lanes):
            with T.sblock("rows"):
                vb, vm, vk, vl, vh, vi = T.axis.remap("SSSSSS", [part, m, k, lane, half, item])
                read[vb, vm, vk, vl, vh, vi] = input[
                    vb // bands,
                    near(source_row(vb, row(vm, vl, vh)), rows),
                    near(source_column(row(vm, vl, vh)), columns),
                    depth(vk, vl, vi, lanes),
                ]
        multiply(sums, read, expand_weight, B * bands, tiles, groups, depths, lanes, 0)
        for part, m, n, lane, half, pair in T.grid(B * bands, tiles, groups, LANES, 2, 2):
            with T.sblock("expanded"):
                vb, vm, vn, vl, vh, vp = T.axis.remap("SSSSSS", [part, m, n, lane, half, pair])
                expanded[vb, vn, vm, vh, vl, vp] = activate(
                    sums[vb, vm, vn, held(vl, vh, vp)] + expand_bias[column(vn, vl, vp)], inner
                ) * T.Cast("float32", inside(vb, row(vm, vl, vh)))
        for part, h, n, w, c, i, j in T.grid(B * bands, band, groups, W, COLUMNS, 3, 3):
            with T.sblock("total"):
                vb, vh, vn, vw, vc, vi, vj = T.axis.remap("SSSSSRR", [part, h, n, w, c, i, j])
                with T.init():
                    total[vb, vh, vn, vw, vc] = T.float32(0)
                total[vb, vh, vn, vw, vc] = total[vb, vh, vn, vw, vc] + expanded[
                    (vb, vn, *in_order((vh * S + vi) * width + vw * S + vj, vc))
                ] * single(weight[vi, vj, vn * COLUMNS + vc])
        for part, h, n, w, c in T.grid(B * bands, band, groups, W, COLUMNS):
            with T.sblock("epilogue"):
                vb, vh, vn, vw, vc = T.axis.remap("SSSSS", [part, h, n, w, c])
                output[vb // bands, vb % bands * band + vh, vw, vn * COLUMNS + vc] = stored(
                    activate(total[vb, vh, vn, vw, vc] + bias[vn * COLUMNS + vc], outer), element
                )

    return expand_depthwise


def apply(s: s_tir.Schedule, workload: ExpandDepthwise, schedule: TilesSchedule) -> None:
    """Grid of channels, bands and images; in a block the expansion, a barrier, then the taps."""
    expanded, total, epilogue = (s.get_sblock(name) for name in ("expanded", "total", "epilogue"))
    (product,) = s.get_producers(expanded)
    (rows,) = s.get_producers(product)
    part, row, group, column, channel = s.get_loops(epilogue)
    image, band = s.split(part, [workload.batch, None])
    x, group = s.split(group, [None, schedule.columns])
    s.reorder(image, band, x, row, group, column, channel)
    bind_grid(s, x=x, y=band, z=image)
    _, warp, lane = s.split(s.fuse(row, group, column, channel), [None, schedule.warps, LANES])
    s.bind(warp, "threadIdx.y")
    s.bind(lane, "threadIdx.x")
    s.compute_at(total, lane, preserve_unit_loops=True)
    s.set_scope(total, 0, "local")
    unroll(s, *s.get_loops(total)[-2:])  # then its first tap alone begins at 0
    s.compute_at(expanded, x, preserve_unit_loops=True)
    s.set_scope(expanded, 0, "shared")
    share_tiles(s, expanded, product, rows, warps=schedule.warps)


def space(workload: ExpandDepthwise) -> list[TilesSchedule]:
    """Few channels first, while there are fewer blocks than ``_BLOCKS``; then many, which read the input less often."""
    band, groups = _band(workload), workload.channels // COLUMNS

    def rank(schedule: TilesSchedule) -> tuple[float, bool]:
        blocks = workload.batch * (workload.height // band) * (groups // schedule.columns)
        return max(_BLOCKS / blocks, 1.0) * (1 + 1 / schedule.columns), schedule.warps != 4

    return sorted(tilings(whole_tiles(_pixels(workload, band)), groups), key=rank)
