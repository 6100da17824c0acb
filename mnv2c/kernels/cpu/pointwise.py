"""1x1 convolutions (expand, project, head): the computation, its schedule template and the rule for its defaults.

``output[p, n] = activation(sum_k input[p, k] * weight[n // 16, k, n % 16] + bias[n] (+ residual[p, n]))``, NHWC, so
that the pixels ``p`` of a whole batch are rows of a matrix; the weight lies in panels of 16 columns, which every
vector width can read. Where the reader is a depthwise convolution, the output has a border of zeros around it, so that
the reader never has to ask where the edge is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cpu.tiles import (
    column_tiles,
    most_rows,
    pack_panels,
    panels_of,
    register_tile,
    row_cycles,
    spills,
    summed_columns,
    task_loops,
    vector_lanes,
    zero_border,
)
from mnv2c.kernels.cpu.tir_passes import PANEL, PREFETCH, TURNS
from mnv2c.kernels.elements import activate
from mnv2c.targets import InstructionSet
from mnv2c.workloads import Pointwise


@dataclass(frozen=True)
class PointwiseSchedule:
    """A register tile of ``rows`` pixels x ``columns`` channels in vectors of ``lanes``: a task.

    ``strip`` pixels are done for all channels before the next, so that they stay in the cache; with ``weights_outer``
    one column tile is done for all pixels, so that each weight is read once. ``k`` is unrolled ``turns`` times; with
    ``prefetch`` as many row tiles share the prefetch of the next column tile's weights.
    """

    rows: int
    columns: int
    lanes: int
    strip: int
    weights_outer: bool = False
    turns: int = 1
    prefetch: bool = False


def pack(workload: Pointwise, constants: Sequence[Array]) -> tuple[Array, ...]:
    """``n x k x 1 x 1`` as panels; the bias with zeros behind it where the sums have more columns."""
    weight, bias = constants
    return pack_panels(weight.reshape(workload.n, workload.k)), np.pad(
        bias, (0, summed_columns(workload.n) - workload.n)
    )


def compute(workload: Pointwise) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input[, residual], weight, bias, output)``."""
    if workload.band:  # a strip of pixels that no tile goes beyond, as a row is
        rows = replace(workload, height=workload.height // workload.band, width=workload.width * workload.band)
        return _rows_with_residual(rows) if workload.residual else _rows(rows)
    if workload.bordered:
        return _rows(workload)
    return _with_residual(workload) if workload.residual else _plain(workload)


def _rows(workload: Pointwise) -> tirx.PrimFunc:
    B, H, W, K, N = workload.batch, workload.height, workload.width, workload.k, workload.n
    S, border, act = summed_columns(workload.n), workload.border, workload.activation
    whole = S == N
    top, left, bottom, right = border.top, border.left, border.bottom, border.right

    @T.prim_func(s_tir=True)
    def pointwise(
        input: T.Buffer((B, H, W, K), "float32"),
        weight: T.Buffer((panels_of(N), K, PANEL), "float32"),
        bias: T.Buffer((S,), "float32"),
        output: T.Buffer((B, top + H + bottom, left + W + right, N), "float32"),
    ):
        product = T.sblock_alloc_buffer((B, H, W, S), "float32")
        _multiply_rows(product, input, weight, bias, B, H, W, S, K)
        for b, h, w, n in T.grid(B, H, W, S):
            with T.sblock("epilogue"):
                vb, vh, vw, vn = T.axis.remap("SSSS", [b, h, w, n])
                if whole or vn < N:
                    output[vb, vh + top, vw + left, vn] = activate(product[vb, vh, vw, vn], act)
        zero_border(output, B, H, W, N, top, left, bottom, right)

    return pointwise


def _rows_with_residual(workload: Pointwise) -> tirx.PrimFunc:
    B, H, W, K, N = workload.batch, workload.height, workload.width, workload.k, workload.n
    S, act = summed_columns(workload.n), workload.activation
    whole = S == N

    @T.prim_func(s_tir=True)
    def pointwise(
        input: T.Buffer((B, H, W, K), "float32"),
        residual: T.Buffer((B, H, W, N), "float32"),
        weight: T.Buffer((panels_of(N), K, PANEL), "float32"),
        bias: T.Buffer((S,), "float32"),
        output: T.Buffer((B, H, W, N), "float32"),
    ):
        product = T.sblock_alloc_buffer((B, H, W, S), "float32")
        _multiply_rows(product, input, weight, bias, B, H, W, S, K)
        for b, h, w, n in T.grid(B, H, W, S):
            with T.sblock("epilogue"):
                vb, vh, vw, vn = T.axis.remap("SSSS", [b, h, w, n])
                if whole or vn < N:
                    output[vb, vh, vw, vn] = activate(product[vb, vh, vw, vn] + residual[vb, vh, vw, vn], act)

    return pointwise


@T.inline
def _multiply_rows(product, input, weight, bias, B, H, W, N, K):  # buffers and extents, as T.inline wants them
    for b, h, w, n, k in T.grid(B, H, W, N, K):
        with T.sblock("product"):
            vb, vh, vw, vn, vk = T.axis.remap("SSSSR", [b, h, w, n, k])
            with T.init():
                product[vb, vh, vw, vn] = bias[vn]
            product[vb, vh, vw, vn] = (
                product[vb, vh, vw, vn] + input[vb, vh, vw, vk] * weight[vn // PANEL, vk, vn % PANEL]
            )


@T.inline
def _multiply(product, input, weight, bias, P, N, K):  # buffers and extents, as T.inline wants them
    for p, n, k in T.grid(P, N, K):
        with T.sblock("product"):
            vp, vn, vk = T.axis.remap("SSR", [p, n, k])
            with T.init():
                product[vp, vn] = bias[vn]
            product[vp, vn] = product[vp, vn] + input[vp, vk] * weight[vn // PANEL, vk, vn % PANEL]


def _plain(workload: Pointwise) -> tirx.PrimFunc:
    P, K, N, act = workload.pixels, workload.k, workload.n, workload.activation
    S = summed_columns(workload.n)
    whole = S == N

    @T.prim_func(s_tir=True)
    def pointwise(
        input: T.Buffer((P, K), "float32"),
        weight: T.Buffer((panels_of(N), K, PANEL), "float32"),
        bias: T.Buffer((S,), "float32"),
        output: T.Buffer((P, N), "float32"),
    ):
        product = T.sblock_alloc_buffer((P, S), "float32")
        _multiply(product, input, weight, bias, P, S, K)
        for p, n in T.grid(P, S):
            with T.sblock("epilogue"):
                vp, vn = T.axis.remap("SS", [p, n])
                if whole or vn < N:
                    output[vp, vn] = activate(product[vp, vn], act)

    return pointwise


def _with_residual(workload: Pointwise) -> tirx.PrimFunc:
    P, K, N, act = workload.pixels, workload.k, workload.n, workload.activation
    S = summed_columns(workload.n)
    whole = S == N

    @T.prim_func(s_tir=True)
    def pointwise(
        input: T.Buffer((P, K), "float32"),
        residual: T.Buffer((P, N), "float32"),
        weight: T.Buffer((panels_of(N), K, PANEL), "float32"),
        bias: T.Buffer((S,), "float32"),
        output: T.Buffer((P, N), "float32"),
    ):
        product = T.sblock_alloc_buffer((P, S), "float32")
        _multiply(product, input, weight, bias, P, S, K)
        for p, n in T.grid(P, S):
            with T.sblock("epilogue"):
                vp, vn = T.axis.remap("SS", [p, n])
                if whole or vn < N:
                    output[vp, vn] = activate(product[vp, vn] + residual[vp, vn], act)

    return pointwise


def apply(s: s_tir.Schedule, workload: Pointwise, schedule: PointwiseSchedule) -> None:
    """From the outside in: strip, column tile (first with ``weights_outer``), row tile, ``k``, register tile."""
    epilogue = s.get_sblock("epilogue")
    (product,) = s.get_producers(epilogue)  # T.inline numbers the name of a block that it brings
    if workload.bordered or workload.band:
        *strips, pixel, column = s.get_loops(epilogue)
    else:
        pixels, column = s.get_loops(epilogue)
        strip, pixel = s.split(pixels, [None, schedule.strip])
        strips = [strip]
    pixel, row = s.split(pixel, [None, schedule.rows])
    column, lane = s.split(column, [None, schedule.columns])
    order = (column, *strips, pixel) if schedule.weights_outer else (*strips, column, pixel)
    s.reorder(*order, row, lane)
    task_loops(s, order, ragged=(pixel, column))
    s.compute_at(product, pixel, preserve_unit_loops=True)
    *_, product_row, product_lane, k = s.get_loops(product)
    k, turn = s.split(k, [None, schedule.turns])
    s.reorder(k, turn, product_row, product_lane)
    register_tile(s, (turn, product_row), product_lane, schedule.lanes)
    if schedule.prefetch:
        s.annotate(pixel, TURNS, schedule.turns)
        s.annotate(k, PREFETCH, max(schedule.columns, PANEL) * workload.k)
    s.decompose_reduction(product, k)
    register_tile(s, (row,), lane, schedule.lanes)


def space(workload: Pointwise, isa: InstructionSet) -> list[PointwiseSchedule]:
    """Every schedule whose tile fits in the registers and whose strip fits in the cache; the model's choice first.

    The model does not know the turns and the prefetch: those measured best on Zen 3 come first.
    """

    def rank(one: PointwiseSchedule) -> tuple[bool, float, int, int, int]:
        tile = one.rows, one.columns // one.lanes
        alone = one.weights_outer and workload.n <= one.columns
        spilled = spills(isa, workload.k, tile, apart=workload.k, alone=alone)
        return spilled, _cycles(workload, isa, one), -one.strip, -one.rows, -one.columns

    unrolls = [turns for turns in (4, 2, 1) if workload.k % turns == 0]
    found = []
    for one in sorted(_tiles(workload, isa), key=rank):
        shared = [turns for turns in unrolls if turns <= -(-one.strip // one.rows)]  # among the strip's row tiles
        if workload.n > one.columns:
            found += [replace(one, turns=turns, prefetch=True) for turns in shared]
        found += [replace(one, turns=turns, prefetch=False) for turns in (*shared, *unrolls)]
    return list(dict.fromkeys(found))


def _tiles(workload: Pointwise, isa: InstructionSet) -> Iterator[PointwiseSchedule]:
    """Strips of whole tiles, or one for the whole map; turns and prefetch left open."""
    for strip, weights_outer in _strips(workload, isa):
        for columns in column_tiles(workload.n):
            lanes = vector_lanes(columns, isa.lanes)
            for rows in range(1, most_rows(isa, columns // lanes) + 1):
                ragged = workload.bordered or weights_outer or workload.band
                if rows <= strip and (ragged or strip % rows == 0):
                    yield PointwiseSchedule(rows, columns, lanes, strip, weights_outer)


def _strips(workload: Pointwise, isa: InstructionSet) -> Iterator[tuple[int, bool]]:
    """``(strip, weights_outer)``: rows of pixels small enough for the L2 beside the weights, or the whole map; a band
    where the tasks are to be bands."""
    if workload.band:
        yield workload.band * workload.width, False
    elif workload.k * workload.n * 4 > isa.l2_bytes:
        yield (workload.width if workload.bordered else workload.pixels), True
    elif workload.bordered:
        yield workload.width, False
    else:
        fits = max(isa.l2_bytes // 8 // (workload.k * 4), 8)
        yield from ((strip, False) for strip in range(1, fits + 1) if workload.pixels % strip == 0)
        if workload.pixels * workload.k * 4 <= isa.l2_bytes:
            yield workload.pixels, True


def _cycles(workload: Pointwise, isa: InstructionSet, schedule: PointwiseSchedule) -> float:
    """Estimated cycles for all strips."""
    strip, tile = (schedule.strip, workload.n), (schedule.rows, schedule.columns)
    return (workload.pixels // schedule.strip) * row_cycles(isa, workload.k, strip, tile)
