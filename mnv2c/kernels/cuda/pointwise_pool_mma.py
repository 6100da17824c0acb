"""The head on tensor cores and the mean behind it in one kernel; see ``mma`` and ``pointwise_pool``."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cuda.blocks import bind_threads
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
    nearest,
    pack_weight,
    row,
    share_tiles,
    steps,
    tilings,
    vector,
    whole_tiles,
)
from mnv2c.kernels.elements import activate, stored
from mnv2c.workloads import PointwisePool


def _tiles(workload: PointwisePool) -> int:
    return whole_tiles(workload.height * workload.width)


def takes(workload: PointwisePool) -> bool:
    """Whether tensor cores can compute it: whole tiles, and room in shared memory for the map of one."""
    return in_whole_tiles(workload) and bool(tilings(_tiles(workload), 1))


def pack(workload: PointwisePool, constants: Sequence[Array]) -> tuple[Array, ...]:
    """The weight as the lanes take it (``mma.pack_weight``); the bias as it is."""
    weight, bias = constants
    return pack_weight(workload, weight.reshape(workload.n, workload.k), 1), bias


def compute(workload: PointwisePool) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, weight, bias, output)``."""
    B, P, K, N = workload.batch, workload.height * workload.width, workload.k, workload.n
    act, share, element = workload.activation, 1.0 / P, workload.dtype
    tiles, groups, depths, lanes = _tiles(workload), N // COLUMNS, steps(workload), vector(workload)

    @T.prim_func(s_tir=True)
    def pointwise_pool(
        input: T.Buffer((B, P, K), element),
        weight: T.Buffer((1, depths, groups, LANES, lanes), element),
        bias: T.Buffer((N,), "float32"),
        output: T.Buffer((B, N), element),
    ):
        read = T.sblock_alloc_buffer((B, tiles, depths, LANES, 2, lanes), element)
        sums = T.sblock_alloc_buffer((B, tiles, groups, LANES * SUMS), "float32")
        activated = T.sblock_alloc_buffer((B, groups, tiles, 2, LANES, 2), "float32")
        total = T.sblock_alloc_buffer((B, groups, COLUMNS), "float32")
        for b, m, k, lane, half, item in T.grid(B, tiles, depths, LANES, 2, lanes):
            with T.sblock("rows"):
                vb, vm, vk, vl, vh, vi = T.axis.remap("SSSSSS", [b, m, k, lane, half, item])
                read[vb, vm, vk, vl, vh, vi] = input[vb, nearest(row(vm, vl, vh), P), depth(vk, vl, vi, lanes)]
        multiply(sums, read, weight, B, tiles, groups, depths, lanes, 0)
        for b, m, n, lane, half, pair in T.grid(B, tiles, groups, LANES, 2, 2):
            with T.sblock("activated"):
                vb, vm, vn, vl, vh, vp = T.axis.remap("SSSSSS", [b, m, n, lane, half, pair])
                activated[vb, vn, vm, vh, vl, vp] = activate(
                    sums[vb, vm, vn, held(vl, vh, vp)] + bias[column(vn, vl, vp)], act
                )
        for b, n, c, p in T.grid(B, groups, COLUMNS, P):
            with T.sblock("total"):
                vb, vn, vc, vp = T.axis.remap("SSSR", [b, n, c, p])
                with T.init():
                    total[vb, vn, vc] = T.float32(0)
                total[vb, vn, vc] = total[vb, vn, vc] + activated[(vb, vn, *in_order(vp, vc))]
        for b, n, c in T.grid(B, groups, COLUMNS):
            with T.sblock("epilogue"):
                vb, vn, vc = T.axis.remap("SSS", [b, n, c])
                output[vb, vn * COLUMNS + vc] = stored(total[vb, vn, vc] * T.float32(share), element)

    return pointwise_pool


def apply(s: s_tir.Schedule, workload: PointwisePool, schedule: TilesSchedule) -> None:
    """Grid of channels and images; in a block the product, a barrier, then the mean, by all warps alike."""
    activated, total, epilogue = (s.get_sblock(name) for name in ("activated", "total", "epilogue"))
    (product,) = s.get_producers(activated)
    (rows,) = s.get_producers(product)
    image, group, channel = s.get_loops(epilogue)
    x, group = s.split(group, [None, schedule.columns])
    s.bind(image, "blockIdx.z")
    s.bind(x, "blockIdx.x")
    thread = bind_threads(s, [group, channel], LANES)
    s.compute_at(total, thread, preserve_unit_loops=True)
    s.set_scope(total, 0, "local")
    s.decompose_reduction(total, s.get_loops(total)[-1])
    s.compute_at(activated, x, preserve_unit_loops=True)
    s.set_scope(activated, 0, "shared")
    share_tiles(s, activated, product, rows, warps=schedule.warps)


def space(workload: PointwisePool) -> list[TilesSchedule]:
    """As many blocks as there can be first, of four warps."""
    return tilings(_tiles(workload), workload.n // COLUMNS)
