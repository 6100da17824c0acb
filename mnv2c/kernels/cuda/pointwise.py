"""1x1 convolutions (project with its shortcut, expansions that stand alone) and the classifier: a matrix product.

``output[p, n] = activation(sum_k input[p, k] * weight[k, n] + bias[n] (+ residual[p, n]))``. A late layer has few
outputs and long sums: so those of a block's tile are split over groups of its threads, and added up through shared
memory. What a thread reads it reads in vectors of four: of the input along ``k``, of the weight along ``n``.
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
    Block,
    Loop,
    divisor,
    unroll,
    vector,
)
from mnv2c.kernels.elements import activate, plus, single, stored, stored_weight
from mnv2c.workloads import Dense, Pointwise


@dataclass(frozen=True)
class PointwiseSchedule:
    """A block owns ``rows x columns`` of the output: ``threadIdx.y`` is one of ``groups`` that share ``k``,
    ``threadIdx.x`` a tile of ``pixels`` and ``lanes`` channels."""

    rows: int
    columns: int
    groups: int
    pixels: int
    lanes: int

    @property
    def tiles(self) -> int:
        """Threads of a group."""
        return (self.rows // self.pixels) * (self.columns // self.lanes)


def pack(workload: Pointwise | Dense, constants: Sequence[Array]) -> tuple[Array, ...]:
    """The weight as ``k x n``, so that neighbouring threads read neighbouring channels; the bias as it is."""
    weight, bias = constants
    return stored_weight(weight.reshape(workload.n, workload.k).T, workload.dtype), bias


def compute(workload: Pointwise | Dense) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input[, residual], weight, bias, output)``.

    With a border every pixel of the output is computed, those of the border from some pixel, and then not taken.
    """
    pointwise = _as_pointwise(workload)
    H, W, K, N, act = pointwise.height, pointwise.width, pointwise.k, pointwise.n, pointwise.activation
    border, element, result = pointwise.border, pointwise.dtype, workload.outputs[0].dtype
    rows, columns = border.top + H + border.bottom, border.left + W + border.right
    P, Q = pointwise.pixels, pointwise.batch * rows * columns

    def row(p: Any) -> Any:
        return p // columns % rows - border.top

    def column(p: Any) -> Any:
        return p % columns - border.left

    def source(p: Any) -> Any:
        if not pointwise.bordered:
            return p
        near = tirx.max(tirx.min(row(p), H - 1), 0) * W + tirx.max(tirx.min(column(p), W - 1), 0)
        return p // (rows * columns) * (H * W) + near

    def inside(p: Any, value: Any) -> Any:
        if not pointwise.bordered:
            return value
        taken = tirx.all(row(p) >= 0, row(p) < H, column(p) >= 0, column(p) < W)
        return tirx.if_then_else(taken, value, tirx.const(0, result))

    @T.inline
    def body(input, residual, weight, bias, output):
        product = T.sblock_alloc_buffer((Q, N), "float32")
        for p, n, k in T.grid(Q, N, K):
            with T.sblock("product"):
                vp, vn, vk = T.axis.remap("SSR", [p, n, k])
                with T.init():
                    product[vp, vn] = T.float32(0)
                product[vp, vn] = product[vp, vn] + single(input[source(vp), vk]) * single(weight[vk, vn])
        for p, n in T.grid(Q, N):
            with T.sblock("epilogue"):
                vp, vn = T.axis.remap("SS", [p, n])
                output[vp, vn] = inside(
                    vp, stored(activate(plus(product[vp, vn] + bias[vn], residual, vp, vn), act), result)
                )

    @T.prim_func(s_tir=True)
    def plain(
        input: T.Buffer((P, K), element),
        weight: T.Buffer((K, N), element),
        bias: T.Buffer((N,), "float32"),
        output: T.Buffer((Q, N), result),
    ):
        body(input, None, weight, bias, output)

    @T.prim_func(s_tir=True)
    def with_residual(
        input: T.Buffer((P, K), element),
        residual: T.Buffer((P, N), element),
        weight: T.Buffer((K, N), element),
        bias: T.Buffer((N,), "float32"),
        output: T.Buffer((Q, N), result),
    ):
        body(input, residual, weight, bias, output)

    return with_residual if pointwise.residual else plain


def _as_pointwise(workload: Pointwise | Dense) -> Pointwise:
    """A classifier is a 1x1 convolution of one pixel."""
    if isinstance(workload, Pointwise):
        return workload
    return Pointwise(
        batch=workload.batch,
        height=1,
        width=1,
        k=workload.k,
        n=workload.n,
        activation=workload.activation,
        precision=workload.precision,
    )


def apply(s: s_tir.Schedule, workload: Pointwise | Dense, schedule: PointwiseSchedule) -> None:
    """Grid of tiles; in a block the sums of all groups, a barrier, then their sum and the rest."""
    *_, epilogue = s.get_child_blocks(s.get_sblock("root"))  # T.inline numbers the names of blocks that it brings
    (product,) = s.get_producers(epilogue)
    *_, k = s.get_loops(product)
    group, _ = s.split(k, [schedule.groups, None])
    partial = s.rfactor(group, 0)

    row, column = s.get_loops(epilogue)
    y, row = s.split(row, [None, schedule.rows])
    x, column = s.split(column, [None, schedule.columns])
    s.reorder(y, x, row, column)
    s.bind(y, "blockIdx.y")
    s.bind(x, "blockIdx.x")
    thread = _share_outputs(s, s.fuse(row, column), schedule)
    s.compute_at(product, thread, preserve_unit_loops=True)
    s.set_scope(product, 0, "local")
    group, *_ = s.get_loops(product)[-3:]
    s.decompose_reduction(product, group)
    unroll(s, group)
    _sum_up(s, partial, x, workload, schedule)


def _share_outputs(s: s_tir.Schedule, outputs: Loop, schedule: PointwiseSchedule) -> Loop:
    """Binds the outputs of a block to all of its threads; where their number does not divide, to each group as a whole,
    which then all do the same."""
    if (schedule.pixels * schedule.lanes) % schedule.groups:
        _, thread = s.split(outputs, [None, schedule.tiles])
    else:
        _, group, thread = s.split(outputs, [None, schedule.groups, schedule.tiles])
        s.bind(group, "threadIdx.y")
    s.bind(thread, "threadIdx.x")
    return thread


def _sum_up(
    s: s_tir.Schedule, partial: Block, x: Loop, workload: Pointwise | Dense, schedule: PointwiseSchedule
) -> None:
    """The sums of a block's tile, for every group: in registers, then in shared memory."""
    s.set_scope(partial, 0, "shared")
    stored = s.cache_write(partial, 0, "local")
    s.compute_at(stored, x, preserve_unit_loops=True)
    group, pixel, channel = s.get_loops(stored)[-3:]
    pixel, tile = s.split(pixel, [None, schedule.pixels])
    channel, lane = s.split(channel, [None, schedule.lanes])
    s.reorder(group, pixel, channel, tile, lane)
    thread = s.fuse(pixel, channel)
    s.bind(group, "threadIdx.y")
    s.bind(thread, "threadIdx.x")
    unroll(s, tile, lane)
    s.compute_at(partial, thread, preserve_unit_loops=True)
    *_, tile, lane, k = s.get_loops(partial)
    k, step = s.split(k, [None, vector(workload.k // schedule.groups)])
    s.reorder(k, step, tile, lane)
    unroll(s, step, tile, lane)
    for name in ("weight",) if getattr(workload, "bordered", False) else ("input", "weight"):
        cached = s.cache_read(partial, name, "local")
        s.compute_at(cached, k, preserve_unit_loops=True)
        outer, lanes = s.get_loops(cached)[-2:]
        unroll(s, outer)
        s.vectorize(lanes)
    s.decompose_reduction(partial, k)


def space(workload: Pointwise | Dense) -> list[PointwiseSchedule]:
    """Every schedule whose partial sums are within ``SHARED_BYTES``; the rule's choice first: enough blocks for a large
    GPU, then the fewest reads."""
    pointwise = _as_pointwise(workload)
    output = pointwise.outputs[0]
    pixels = output.elements // pointwise.n
    found = []
    for rows in (rows for rows in range(1, min(pixels, 64) + 1) if pixels % rows == 0):
        for columns in (columns for columns in range(4, 65) if pointwise.n % columns == 0):
            for groups in (groups for groups in (1, 2, 4, 8, 16, 32) if pointwise.k % groups == 0):
                found += _tiles(rows, columns, groups)
    if not found:  # too small for a warp, or of no convenient extent
        found = [PointwiseSchedule(divisor(pixels, 8), divisor(pointwise.n, 64), 1, 1, 1)]
    return sorted(found, key=lambda schedule: _rank(pointwise, pixels, schedule))


def _tiles(rows: int, columns: int, groups: int) -> list[PointwiseSchedule]:
    """With each number of pixels that a thread may take."""
    found = []
    for pixels in (pixels for pixels in range(8, 0, -1) if rows % pixels == 0):
        schedule = PointwiseSchedule(rows, columns, groups, pixels, vector(columns))
        if 32 <= groups * schedule.tiles <= 512 and 4 * groups * rows * columns <= SHARED_BYTES:
            found.append(schedule)
    return found


_BLOCKS = 132  # streaming multiprocessors of an H100
_WARPS = 8  # that hide each other's latencies


def _rank(workload: Pointwise, pixels: int, schedule: PointwiseSchedule) -> tuple[float, int]:
    """Estimated: waves of blocks times the loads that a multiprocessor does one after the other, at least as many as
    keep ``_WARPS`` busy."""
    blocks = (pixels // schedule.rows) * (workload.n // schedule.columns)
    steps = workload.k // schedule.groups
    loads = steps * (schedule.pixels / 4 + 1) + schedule.groups
    warps = -(-schedule.groups * schedule.tiles // 32)
    waves = max(blocks / _BLOCKS, 1.0)
    return waves * loads * max(warps, _WARPS), schedule.groups
