"""Expansion and 3x3 depthwise convolution in one kernel: the expanded map never leaves a block's shared memory.

A block owns some of the expanded channels over a band of output rows of one image. It computes those channels of the
band's input rows, zeros around the map included, into shared memory, and then sums the nine taps from there. Rows that
two bands share are computed twice; nothing is written and read again but the thin input and the wide output (paper,
section 5.1, where the expanded tensor of a block is split over channels in the same way).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cuda.blocks import (
    SHARED_BYTES,
    bind_grid,
    bind_threads,
    divisor,
    unroll,
    vector,
)
from mnv2c.kernels.elements import activate, single, stored, stored_weight
from mnv2c.workloads import ExpandDepthwise


@dataclass(frozen=True)
class ExpandDepthwiseSchedule:
    """A block owns ``channels`` over ``rows`` rows of outputs; it sums ``together`` of them at once, one a thread.
    Of
    the expansion each thread sums a tile of ``pixels`` and ``lanes`` channels at a time, ``depth`` input channels after
    the other from shared memory."""

    channels: int
    rows: int
    together: int
    pixels: int
    lanes: int
    depth: int


def pack(workload: ExpandDepthwise, constants: Sequence[Array]) -> tuple[Array, ...]:
    """The expansion's weight as ``k x channels``, the depthwise one's tap by tap, so that a block's channels lie side
    by side; the biases as they are."""
    expand, expand_bias, depthwise, depthwise_bias = constants
    matrix = expand.reshape(workload.channels, workload.k)
    taps = depthwise[:, 0].transpose(1, 2, 0)
    expand, depthwise = (stored_weight(one, workload.dtype) for one in (matrix.T, taps))
    return expand, expand_bias, depthwise, depthwise_bias


def compute(workload: ExpandDepthwise) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, expand_weight, expand_bias, weight, bias, output)``.

    The expanded map has its zeros around it, and its pixels in one row: as two extents they would make the registers
    that hold them an array with computed indices. So would a condition in place of a product with 0 or 1.
    """
    B, H, W, K, C, S = (
        workload.batch,
        workload.height,
        workload.width,
        workload.k,
        workload.channels,
        workload.stride,
    )
    rows, columns, padding = workload.rows, workload.columns, workload.padding
    top, left = padding.top, padding.left
    width = (W - 1) * S + 3
    pixels = ((H - 1) * S + 3) * width
    inner, outer, element = workload.expansion, workload.activation, workload.dtype

    def inside(pixel: Any) -> Any:
        row, column = pixel // width, pixel % width
        return tirx.all(row >= top, row < top + rows, column >= left, column < left + columns)

    @T.prim_func(s_tir=True)
    def expand_depthwise(
        input: T.Buffer((B, rows, columns, K), element),
        expand_weight: T.Buffer((K, C), element),
        expand_bias: T.Buffer((C,), "float32"),
        weight: T.Buffer((3, 3, C), element),
        bias: T.Buffer((C,), "float32"),
        output: T.Buffer((B, H, W, C), element),
    ):
        padded = T.sblock_alloc_buffer((B, pixels, K), "float32")
        product = T.sblock_alloc_buffer((B, pixels, C), "float32")
        expanded = T.sblock_alloc_buffer((B, pixels, C), "float32")
        total = T.sblock_alloc_buffer((B, H, W, C), "float32")
        for b, p, k in T.grid(B, pixels, K):
            with T.sblock("padded"):
                vb, vp, vk = T.axis.remap("SSS", [b, p, k])
                padded[vb, vp, vk] = T.if_then_else(
                    inside(vp), single(input[vb, vp // width - top, vp % width - left, vk]), T.float32(0)
                )
        for b, p, c, k in T.grid(B, pixels, C, K):
            with T.sblock("product"):
                vb, vp, vc, vk = T.axis.remap("SSSR", [b, p, c, k])
                with T.init():
                    product[vb, vp, vc] = T.float32(0)
                product[vb, vp, vc] = product[vb, vp, vc] + padded[vb, vp, vk] * single(expand_weight[vk, vc])
        for b, p, c in T.grid(B, pixels, C):
            with T.sblock("expanded"):
                vb, vp, vc = T.axis.remap("SSS", [b, p, c])
                expanded[vb, vp, vc] = activate(product[vb, vp, vc] + expand_bias[vc], inner) * T.Cast(
                    "float32", inside(vp)
                )
        for b, h, w, c, i, j in T.grid(B, H, W, C, 3, 3):
            with T.sblock("total"):
                vb, vh, vw, vc, vi, vj = T.axis.remap("SSSSRR", [b, h, w, c, i, j])
                with T.init():
                    total[vb, vh, vw, vc] = T.float32(0)
                total[vb, vh, vw, vc] = total[vb, vh, vw, vc] + expanded[
                    vb, (vh * S + vi) * width + vw * S + vj, vc
                ] * single(weight[vi, vj, vc])
        for b, h, w, c in T.grid(B, H, W, C):
            with T.sblock("epilogue"):
                vb, vh, vw, vc = T.axis.remap("SSSS", [b, h, w, c])
                output[vb, vh, vw, vc] = stored(activate(total[vb, vh, vw, vc] + bias[vc], outer), element)

    return expand_depthwise


def apply(s: s_tir.Schedule, workload: ExpandDepthwise, schedule: ExpandDepthwiseSchedule) -> None:
    """Grid of channels, bands and images; in a block the expansion, a barrier, then the taps."""
    padded, product, expanded, total, epilogue = (
        s.get_sblock(name) for name in ("padded", "product", "expanded", "total", "epilogue")
    )
    image, row, column, channel = s.get_loops(epilogue)
    band, row = s.split(row, [None, schedule.rows])
    group, channel = s.split(channel, [None, schedule.channels])
    s.reorder(image, band, group, row, column, channel)
    bind_grid(s, x=group, y=band, z=image)
    _, row = s.split(row, [None, schedule.together])
    thread = s.fuse(row, column, channel)
    s.bind(thread, "threadIdx.x")
    s.compute_at(total, thread, preserve_unit_loops=True)
    s.set_scope(total, 0, "local")
    taps = s.get_loops(total)[-2:]
    s.decompose_reduction(total, taps[0])
    unroll(s, *taps)

    s.compute_at(expanded, group, preserve_unit_loops=True)
    s.set_scope(expanded, 0, "shared")
    pixel, channel = s.get_loops(expanded)[-2:]
    pixel, tile = s.split(pixel, [None, schedule.pixels])
    channel, lane = s.split(channel, [None, schedule.lanes])
    s.reorder(pixel, channel, tile, lane)
    thread = bind_threads(s, [pixel, channel], _threads(workload, schedule))
    unroll(s, tile, lane)
    s.compute_at(product, thread, preserve_unit_loops=True)
    s.set_scope(product, 0, "local")
    tile, lane, k = s.get_loops(product)[-3:]
    k, step = s.split(k, [None, schedule.depth])
    s.reorder(k, step, tile, lane)
    unroll(s, step, tile, lane)
    _stage(s, product, padded, k, group, _threads(workload, schedule))
    s.decompose_reduction(product, k)


def _stage(
    s: s_tir.Schedule,
    product: s_tir.schedule.SBlockRV,
    padded: s_tir.schedule.SBlockRV,
    k: s_tir.schedule.LoopRV,
    group: s_tir.schedule.LoopRV,
    threads: int,
) -> None:
    """The weights of the block's channels once, the input ``depth`` channels at a time, both into shared memory; a
    row of input has an odd length there, so that the threads of a warp read from different banks."""
    s.set_scope(padded, 0, "shared")  # before compute_at: what all threads of the block read is to be there
    s.compute_at(padded, k, preserve_unit_loops=True)
    bind_threads(s, s.get_loops(padded)[-2:], threads)
    s.storage_align(padded, 0, -2, factor=2, offset=1)
    weights = s.cache_read(product, "expand_weight", "shared")
    s.compute_at(weights, group, preserve_unit_loops=True)
    bind_threads(s, s.get_loops(weights)[-2:], threads)


def space(workload: ExpandDepthwise) -> list[ExpandDepthwiseSchedule]:
    """Every schedule whose shared memory is within ``SHARED_BYTES``; the rule's choice, by estimated time, first."""
    found = []
    for channels in (count for count in (8, 16, 4, 32, 2, 1) if workload.channels % count == 0):
        for rows in _divisors(workload.height, workload.height):
            for together in _divisors(rows, rows):
                for pixels in _divisors(_pixels(workload, rows), 9):
                    depth = divisor(workload.k, 8)
                    schedule = ExpandDepthwiseSchedule(channels, rows, together, pixels, vector(channels), depth)
                    if _threads(workload, schedule) <= 512 and _shared_bytes(workload, schedule) <= SHARED_BYTES:
                        found.append(schedule)
    return sorted(found, key=lambda schedule: _rank(workload, schedule))


def _divisors(extent: int, most: int) -> list[int]:
    return [value for value in range(1, most + 1) if extent % value == 0]


def _threads(workload: ExpandDepthwise, schedule: ExpandDepthwiseSchedule) -> int:
    return schedule.together * workload.width * schedule.channels


def _pixels(workload: ExpandDepthwise, rows: int) -> int:
    """Of the expanded map that a band of output rows reads, zeros included."""
    return ((rows - 1) * workload.stride + 3) * ((workload.width - 1) * workload.stride + 3)


def _shared_bytes(workload: ExpandDepthwise, schedule: ExpandDepthwiseSchedule) -> int:
    expanded = _pixels(workload, schedule.rows) * schedule.channels
    tiles = -(-_threads(workload, schedule) // (schedule.channels // schedule.lanes))
    staged = tiles * schedule.pixels * (schedule.depth + 1)
    return 4 * (expanded + staged + workload.k * schedule.channels)


_PROCESSORS = 132  # streaming multiprocessors of an H100
_LANES = 128  # multiply-adds of one in a cycle
_SUMS = 1024  # that it has to have under way for that: the latencies of arithmetic and of shared memory
_READS = 16  # fp32 values that it reads from the L2 in a cycle
_WARP = 32


def _rank(workload: ExpandDepthwise, schedule: ExpandDepthwiseSchedule) -> tuple[bool, float, int]:
    """Whole warps first; then estimated cycles: the multiply-adds, those of rows that are computed twice included, as
    fast as the sums under way and the reads from shared memory allow, or the reads of the input, once for every group
    of channels; then small blocks."""
    bands, groups = workload.height // schedule.rows, workload.channels // schedule.channels
    blocks = workload.batch * bands * groups
    expansion = _pixels(workload, schedule.rows) * workload.k
    threads, tile = _threads(workload, schedule), schedule.pixels * schedule.lanes
    tiles = _pixels(workload, schedule.rows) * schedule.channels // tile
    turns = -(-tiles // threads) * min(threads, tiles) / tiles  # the last one may leave threads idle
    reads = max(4 * (schedule.pixels + 1) / tile, 1.0)  # four times as slow as arithmetic; weights come in vectors
    work = blocks * schedule.channels * (expansion * turns * reads + 9 * schedule.rows * workload.width)
    busy = min(blocks * min(threads, tiles) * min(tile, 8) / (_PROCESSORS * _SUMS), 1.0)
    cycles = max(work / (busy * _LANES), blocks * expansion / _READS) / _PROCESSORS
    return threads < 2 * _WARP, cycles, threads
