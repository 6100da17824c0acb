"""Matrix products on tensor cores: how a warp of 32 lanes holds tiles of 16 x 8 sums, and what it multiplies.

One ``mma`` adds the products of 8 values of ``k`` to such a tile. In PTX's ``mma.m16n8k8`` lane ``l`` holds the sums of
rows ``l // 4`` and ``l // 4 + 8`` and of columns ``2 * (l % 4)`` and the next; it brings two values of ``k`` for each
of these rows, and two for column ``l // 4`` of the weight. Which two is free as long as rows and columns agree; so a
lane takes neighbours in memory, the ``vector`` that one instruction loads, and the weight lies in memory as the lanes
want it. Sums are fp32; operands have 11 bits, whether they are stored as fp16 or rounded from fp32 (tf32).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cuda.blocks import SHARED_BYTES, Block, Loop, unroll
from mnv2c.kernels.elements import stored_weight
from mnv2c.workloads import ExpandDepthwise, Pointwise, PointwisePool

ROWS, COLUMNS, LANES = 16, 8, 32
SUMS = ROWS * COLUMNS // LANES
_DEPTH = 8  # values of k that one mma takes, two in each lane
_VECTORS = {"tf32": (4, 2), "fp16": (8, 4, 2)}  # of at most 16 bytes
_TF32_DROPPED = 13  # bits of an fp32's 23


@dataclass(frozen=True)
class TilesSchedule:
    """A block owns ``columns`` tiles of channels, whose product stays in shared memory; it has ``warps``, each with
    every so many of the tiles of rows."""

    columns: int
    warps: int


def tilings(rows: int, columns: int) -> list[TilesSchedule]:
    """Every one that divides so many tiles and has room in shared memory: few columns first, four warps before others;
    none where there is no room for one column."""
    return [
        TilesSchedule(wide, warps)
        for wide in range(1, 6)
        for warps in (4, 2, 1, 8)
        if columns % wide == 0 and rows % warps == 0 and 4 * rows * ROWS * wide * COLUMNS <= SHARED_BYTES
    ]


Product = Pointwise | ExpandDepthwise | PointwisePool


def in_whole_tiles(workload: Product) -> bool:
    """Whether its product comes in tiles of columns, and in steps along ``k``, without a rest."""
    return workload.k % _DEPTH == 0 and _columns(workload) % COLUMNS == 0


def _columns(workload: Product) -> int:
    """Channels that the product has."""
    return workload.channels if isinstance(workload, ExpandDepthwise) else workload.n


def vector(workload: Product) -> int:
    """Neighbours along ``k`` that a lane loads at once."""
    return next(v for v in _VECTORS[workload.precision] if workload.k % (4 * v) == 0)


def steps(workload: Product) -> int:
    """How many times it does so: each of the four lanes that share a row."""
    return workload.k // (4 * vector(workload))


def row(tile: Any, lane: Any, half: Any) -> Any:
    """Of a tile's rows the first or second that a lane holds."""
    return tile * ROWS + lane // 4 + half * (ROWS // 2)


def column(tile: Any, lane: Any, pair: Any) -> Any:
    """Of a tile's columns the first or second that a lane holds."""
    return tile * COLUMNS + lane % 4 * 2 + pair


def held(lane: Any, half: Any, pair: Any) -> Any:
    """Where the sum of a row and a column is among those of a tile, lane by lane."""
    return lane * SUMS + half * 2 + pair


def depth(step: Any, lane: Any, item: Any, width: int) -> Any:
    """The value of ``k`` that is a lane's ``item`` of a vector of ``width``."""
    return (step * 4 + lane % 4) * width + item


def pack_weight(workload: Product, weight: Array, parts: int) -> Array:
    """``weight``, n x k, as ``parts x steps x tiles x lanes x vector``, rounded as the workload says."""
    width = vector(workload)
    tiles = weight.reshape(_columns(workload) // COLUMNS, COLUMNS, steps(workload), 4, width)
    lanes = tiles.transpose(2, 0, 1, 3, 4).reshape(parts, steps(workload) // parts, -1, LANES, width)
    return _rounded(workload, lanes)


def _rounded(workload: Product, weight: Array) -> Array:
    """fp32 to tf32 here, as the lanes would: to the nearest, ties away from zero."""
    kept = stored_weight(weight, workload.dtype)
    if workload.precision != "tf32":
        return kept
    half = np.uint32(1 << (_TF32_DROPPED - 1))
    return ((kept.view(np.uint32) + half) & ~np.uint32((1 << _TF32_DROPPED) - 1)).view(np.float32)


@T.inline
def multiply(sums, rows, weight, outer, tiles, columns, depths, width, share):  # as T.inline wants them: no types
    """``sums`` of ``outer`` products, each of ``tiles x columns``; ``share`` is 1 where each has weights of its own."""
    for o, m, n, lane, k in T.grid(outer, tiles, columns, LANES, depths):
        with T.sblock("product"):
            vo, vm, vn, vl, vk = T.axis.remap("SSSSR", [o, m, n, lane, k])
            T.reads(rows[vo, vm, vk, vl, 0:2, 0:width], weight[vo * share, vk, vn, vl, 0:width])
            T.writes(sums[vo, vm, vn, vl * SUMS : vl * SUMS + SUMS])
            with T.init():
                for i in T.serial(SUMS):
                    sums[vo, vm, vn, vl * SUMS + i] = T.float32(0)
            for item in T.unroll(width // 2):
                T.evaluate(
                    T.call_extern(
                        "void",
                        "mma",
                        T.address_of(sums[vo, vm, vn, vl * SUMS]),
                        T.address_of(rows[vo, vm, vk, vl, 0, 2 * item]),
                        T.address_of(rows[vo, vm, vk, vl, 1, 2 * item]),
                        T.address_of(weight[vo * share, vk, vn, vl, 2 * item]),
                    )
                )


def share_tiles(s: s_tir.Schedule, stored: Block, product: Block, rows: Block, *, warps: int) -> None:
    """``stored``, in shared memory, of ``(..., row tile, column tile, lane, half, pair)``, by a block's ``warps``: each
    takes every so many row tiles, and all column tiles of a row tile at once."""
    m, n, lane, half, pair = s.get_loops(stored)[-5:]
    _, warp = s.split(m, [None, warps])
    s.reorder(warp, lane, n, half, pair)
    s.bind(warp, "threadIdx.y")
    s.bind(lane, "threadIdx.x")
    unroll(s, n, half)
    s.vectorize(pair)
    sum_up(s, product, rows, lane)


def sum_up(s: s_tir.Schedule, product: Block, rows: Block, lane: Loop) -> None:
    """The sums of a warp's tiles in registers, at the loop over its lanes; what they are made of is loaded step by
    step."""
    s.compute_at(product, lane, preserve_unit_loops=True)
    s.set_scope(product, 0, "local")
    *_, m, n, _, k = s.get_loops(product)
    s.reorder(k, m, n)
    unroll(s, m, n)
    weight = s.cache_read(product, 1, "local")
    s.set_scope(rows, 0, "local")
    for loaded in (rows, weight):
        s.compute_at(loaded, k, preserve_unit_loops=True)
        s.vectorize(s.get_loops(loaded)[-1])
    unroll(s, s.get_loops(rows)[-2])
    s.decompose_reduction(product, k)


def in_order(pixel: Any, channel: Any) -> tuple[Any, Any, Any, Any]:
    """Row tile, half, lane and pair of a value of ``stored``: in this order of axes it lies pixel after pixel."""
    return pixel // ROWS, pixel % ROWS // 8, pixel % 8 * 4 + channel // 2, channel % 2


def whole_tiles(pixels: int) -> int:
    """Tiles of rows that hold ``pixels``; fours of them, where there are so many, for a block's warps to share."""
    tiles = -(-pixels // ROWS)
    return tiles if tiles <= 4 else -(-tiles // 4) * 4


def nearest(pixel: Any, pixels: int) -> Any:
    """``pixel``, or the last one where a tile goes beyond: what comes of it is not stored."""
    return tirx.min(pixel, pixels - 1) if pixels % ROWS else pixel
