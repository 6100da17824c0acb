"""1x1 convolutions on tensor cores; see ``mma`` for what a warp holds, and ``pointwise`` for what is computed.

Where there are few tiles and long sums, ``parts`` of ``k`` go to warps of their own, which add up through shared
memory. How many is part of the computation, not of its schedule: the order of the sums depends on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cuda.blocks import Block, Loop, unroll
from mnv2c.kernels.cuda.mma import (
    COLUMNS,
    LANES,
    ROWS,
    SUMS,
    column,
    depth,
    held,
    in_whole_tiles,
    multiply,
    nearest,
    pack_weight,
    row,
    steps,
    sum_up,
    vector,
)
from mnv2c.kernels.elements import activate, plus, stored
from mnv2c.workloads import Pointwise


@dataclass(frozen=True)
class PointwiseMmaSchedule:
    """A warp sums ``rows x columns`` tiles; a block is ``warps`` of them, below each other, or, where ``k`` is shared,
    one for each part of it."""

    rows: int
    columns: int
    warps: int


_TILES = 4 * 132  # that keep an H100 busy: a warp for each scheduler of a multiprocessor
_MOST_PARTS = 8


def _parts(workload: Pointwise) -> int:
    """Of ``k``: enough for ``_TILES`` warps, each with two steps of it at least."""
    tiles = _row_tiles(workload) * (workload.n // COLUMNS)
    most = min(-(-_TILES // tiles), _MOST_PARTS, max(steps(workload) // 2, 1))
    return next(parts for parts in range(most, 0, -1) if steps(workload) % parts == 0)


def _row_tiles(workload: Pointwise) -> int:
    return -(-workload.pixels // ROWS)


def takes(workload: Pointwise) -> bool:
    """Whether tensor cores can compute it: whole tiles, and no border of zeros around its output."""
    return in_whole_tiles(workload) and not workload.bordered


def pack(workload: Pointwise, constants: Sequence[Array]) -> tuple[Array, ...]:
    """The weight as the lanes take it (``mma.pack_weight``); the bias as it is."""
    weight, bias = constants
    return pack_weight(workload, weight.reshape(workload.n, workload.k), _parts(workload)), bias


def compute(workload: Pointwise) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input[, residual], weight, bias, output)``."""
    P, K, N, act, element = workload.pixels, workload.k, workload.n, workload.activation, workload.dtype
    tiles, columns, parts, width = _row_tiles(workload), N // COLUMNS, _parts(workload), vector(workload)
    depths = steps(workload) // parts

    @T.inline
    def body(input, residual, weight, bias, output):
        rows = T.sblock_alloc_buffer((parts, tiles, depths, LANES, 2, width), element)
        sums = T.sblock_alloc_buffer((parts, tiles, columns, LANES * SUMS), "float32")
        total = T.sblock_alloc_buffer((tiles, columns, LANES, 2, 2), "float32")
        for part, m, k, lane, half, item in T.grid(parts, tiles, depths, LANES, 2, width):
            with T.sblock("rows"):
                vp, vm, vk, vl, vh, vi = T.axis.remap("SSSSSS", [part, m, k, lane, half, item])
                rows[vp, vm, vk, vl, vh, vi] = input[
                    nearest(row(vm, vl, vh), P), depth(vp * depths + vk, vl, vi, width)
                ]
        multiply(sums, rows, weight, parts, tiles, columns, depths, width, 1)
        for m, n, lane, half, pair, part in T.grid(tiles, columns, LANES, 2, 2, parts):
            with T.sblock("total"):
                vm, vn, vl, vh, vi, vp = T.axis.remap("SSSSSR", [m, n, lane, half, pair, part])
                with T.init():
                    total[vm, vn, vl, vh, vi] = T.float32(0)
                total[vm, vn, vl, vh, vi] = total[vm, vn, vl, vh, vi] + sums[vp, vm, vn, held(vl, vh, vi)]
        for m, n, lane, half, pair in T.grid(tiles, columns, LANES, 2, 2):
            with T.sblock("epilogue"):
                vm, vn, vl, vh, vp = T.axis.remap("SSSSS", [m, n, lane, half, pair])
                if row(vm, vl, vh) < P:
                    output[row(vm, vl, vh), column(vn, vl, vp)] = stored(
                        activate(
                            plus(
                                total[vm, vn, vl, vh, vp] + bias[column(vn, vl, vp)],
                                residual,
                                row(vm, vl, vh),
                                column(vn, vl, vp),
                            ),
                            act,
                        ),
                        element,
                    )

    @T.prim_func(s_tir=True)
    def plain(
        input: T.Buffer((P, K), element),
        weight: T.Buffer((parts, depths, columns, LANES, width), element),
        bias: T.Buffer((N,), "float32"),
        output: T.Buffer((P, N), element),
    ):
        body(input, None, weight, bias, output)

    @T.prim_func(s_tir=True)
    def with_residual(
        input: T.Buffer((P, K), element),
        residual: T.Buffer((P, N), element),
        weight: T.Buffer((parts, depths, columns, LANES, width), element),
        bias: T.Buffer((N,), "float32"),
        output: T.Buffer((P, N), element),
    ):
        body(input, residual, weight, bias, output)

    return with_residual if workload.residual else plain


def apply(s: s_tir.Schedule, workload: Pointwise, schedule: PointwiseMmaSchedule) -> None:
    """Grid of tiles; a warp's sums, and with parts of ``k`` a barrier, their sum, and the rest."""
    *_, epilogue = s.get_child_blocks(s.get_sblock("root"))  # T.inline numbers the names of blocks that it brings
    (total,) = s.get_producers(epilogue)
    (product,) = s.get_producers(total)
    (rows,) = s.get_producers(product)
    parts = _parts(workload)
    m, n, lane, half, pair = s.get_loops(epilogue)
    y, warp, m = s.split(m, [None, schedule.warps, schedule.rows])
    x, n = s.split(n, [None, schedule.columns])
    s.reorder(y, x, warp, m, n, half, lane, pair)
    s.bind(y, "blockIdx.y")
    s.bind(x, "blockIdx.x")
    if parts == 1:
        s.reorder(warp, lane, m, n, half, pair)
        unroll(s, m, n, half)
    else:
        _, warp = s.split(s.fuse(warp, m, n, half), [None, parts])
    s.bind(warp, "threadIdx.y")
    s.bind(lane, "threadIdx.x")
    s.vectorize(pair)
    s.compute_at(total, lane, preserve_unit_loops=True)
    s.set_scope(total, 0, "local")
    *outputs, part = s.get_loops(total)[-6:]
    unroll(s, *outputs, part)
    s.decompose_reduction(total, part)
    if parts > 1:
        lane, product = _through_shared_memory(s, product, x)
    sum_up(s, product, rows, lane)


def _through_shared_memory(s: s_tir.Schedule, product: Block, x: Loop) -> tuple[Loop, Block]:
    """A warp for each part of ``k``; the loop over its lanes, and the block of sums in registers."""
    s.set_scope(product, 0, "shared")
    stored = s.cache_write(product, 0, "local")
    s.compute_at(stored, x, preserve_unit_loops=True)
    part, m, n, sums = s.get_loops(stored)[-4:]
    lane, sums = s.split(sums, [LANES, None])
    s.reorder(part, lane, m, n, sums)
    s.bind(part, "threadIdx.y")
    s.bind(lane, "threadIdx.x")
    unroll(s, m, n)
    s.vectorize(sums)
    return lane, product


def space(workload: Pointwise) -> list[PointwiseMmaSchedule]:
    """Small tiles first while there are fewer than ``_TILES``; then those that read least for a product."""
    tiles, columns, parts = _row_tiles(workload), workload.n // COLUMNS, _parts(workload)
    found = [
        PointwiseMmaSchedule(rows, wide, warps)
        for rows in (1, 2, 4)
        for wide in (1, 2, 3, 4, 5, 6, 8)
        for warps in ((1,) if parts > 1 else (4, 2, 1, 8))
        if tiles % (rows * warps) == 0 and columns % wide == 0 and rows * wide <= 16
    ]

    def rank(schedule: PointwiseMmaSchedule) -> tuple[float, int]:
        warps = parts * (tiles // schedule.rows) * (columns // schedule.columns)
        loads = 1 / schedule.rows + 1 / schedule.columns
        return max(_TILES / warps, 1.0) * (1 + loads), -schedule.warps

    return sorted(found, key=rank)
