"""1x1 convolutions (expand, project, head): the computation, its schedule template and the rule for its defaults.

``output[h, w, n] = activation(sum_k input[h, w, k] * weight[n // 16, k, n % 16] + bias[n]) (+ residual[h, w, n])``,
NHWC with batch 1; the weight lies in panels of 16 columns, which every vector width can read. Where the reader is a
depthwise convolution, the output has a border of zeros around it, so that the reader never has to ask where the edge
is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array, Padding
from mnv2c.kernels.cpu.lower import PANEL, PREFETCH, TAIL, TASK, TURNS
from mnv2c.kernels.cpu.tiles import pack_panels, register_tile, relu6, vector_lanes, zero_border
from mnv2c.targets import InstructionSet


@dataclass(frozen=True)
class Pointwise:
    """The workload: ``height x width`` pixels, ``k`` channels in, ``n`` out; ``border`` around the output."""

    height: int
    width: int
    k: int
    n: int
    relu6: bool
    residual: bool = False
    border: Padding = Padding()

    @property
    def name(self) -> str:
        b = self.border
        return (
            f"pointwise_{self.height}x{self.width}_{self.k}_{self.n}"
            + ("_relu6" if self.relu6 else "")
            + ("_residual" if self.residual else "")
            + (f"_border{b.top}{b.left}{b.bottom}{b.right}" if self.bordered else "")
        )

    @property
    def bordered(self) -> bool:
        return self.border != Padding()

    @property
    def pixels(self) -> int:
        return self.height * self.width

    @property
    def macs(self) -> int:
        return self.pixels * self.k * self.n

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (-(-self.n // PANEL), self.k, PANEL)

    def pack(self, weight: Array) -> Array:
        """``n x k x 1 x 1`` as panels."""
        return pack_panels(weight.reshape(self.n, self.k))

    def compute(self) -> tirx.PrimFunc:
        """The PrimFunc before scheduling: ``(input, weight, bias[, residual], output)``."""
        if self.bordered:
            return _bordered(self)
        return _with_residual(self) if self.residual else _plain(self)


@dataclass(frozen=True)
class PointwiseSchedule:
    """A register tile of ``rows`` pixels x ``columns`` channels in vectors of ``lanes``.

    ``strip`` pixels are done for all channels before the next, so that they stay in the cache; with ``weights_outer``
    one column tile is done for all pixels, so that each weight is read once. ``k`` is unrolled ``turns`` times; with
    ``prefetch`` as many row tiles share the prefetch of the next column tile's weights.
    """

    rows: int
    columns: int
    lanes: int
    strip: int
    weights_outer: bool
    turns: int
    prefetch: bool


def _bordered(workload: Pointwise) -> tirx.PrimFunc:
    H, W, K, N, on = workload.height, workload.width, workload.k, workload.n, workload.relu6
    top, left, bottom, right = workload.border.top, workload.border.left, workload.border.bottom, workload.border.right

    @T.prim_func(s_tir=True)
    def pointwise(
        input: T.Buffer((1, H, W, K), "float32"),
        weight: T.Buffer(((N + PANEL - 1) // PANEL, K, PANEL), "float32"),
        bias: T.Buffer((N,), "float32"),
        output: T.Buffer((1, top + H + bottom, left + W + right, N), "float32"),
    ):
        product = T.sblock_alloc_buffer((H, W, N), "float32")
        for h, w, n, k in T.grid(H, W, N, K):
            with T.sblock("product"):
                vh, vw, vn, vk = T.axis.remap("SSSR", [h, w, n, k])
                with T.init():
                    product[vh, vw, vn] = bias[vn]
                product[vh, vw, vn] = product[vh, vw, vn] + input[0, vh, vw, vk] * weight[vn // PANEL, vk, vn % PANEL]
        for h, w, n in T.grid(H, W, N):
            with T.sblock("epilogue"):
                vh, vw, vn = T.axis.remap("SSS", [h, w, n])
                output[0, vh + top, vw + left, vn] = relu6(product[vh, vw, vn], on)
        zero_border(output, H, W, N, top, left, bottom, right)

    return pointwise


@T.inline
def _multiply(product, input, weight, bias, P, W, N, K):  # buffers and extents, as T.inline wants them
    for p, n, k in T.grid(P, N, K):
        with T.sblock("product"):
            vp, vn, vk = T.axis.remap("SSR", [p, n, k])
            with T.init():
                product[vp, vn] = bias[vn]
            product[vp, vn] = product[vp, vn] + input[0, vp // W, vp % W, vk] * weight[vn // PANEL, vk, vn % PANEL]


def _plain(workload: Pointwise) -> tirx.PrimFunc:
    H, W, K, N, on = workload.height, workload.width, workload.k, workload.n, workload.relu6

    @T.prim_func(s_tir=True)
    def pointwise(
        input: T.Buffer((1, H, W, K), "float32"),
        weight: T.Buffer(((N + PANEL - 1) // PANEL, K, PANEL), "float32"),
        bias: T.Buffer((N,), "float32"),
        output: T.Buffer((1, H, W, N), "float32"),
    ):
        product = T.sblock_alloc_buffer((H * W, N), "float32")
        _multiply(product, input, weight, bias, H * W, W, N, K)
        for p, n in T.grid(H * W, N):
            with T.sblock("epilogue"):
                vp, vn = T.axis.remap("SS", [p, n])
                output[0, vp // W, vp % W, vn] = relu6(product[vp, vn], on)

    return pointwise


def _with_residual(workload: Pointwise) -> tirx.PrimFunc:
    H, W, K, N, on = workload.height, workload.width, workload.k, workload.n, workload.relu6

    @T.prim_func(s_tir=True)
    def pointwise(
        input: T.Buffer((1, H, W, K), "float32"),
        weight: T.Buffer(((N + PANEL - 1) // PANEL, K, PANEL), "float32"),
        bias: T.Buffer((N,), "float32"),
        residual: T.Buffer((1, H, W, N), "float32"),
        output: T.Buffer((1, H, W, N), "float32"),
    ):
        product = T.sblock_alloc_buffer((H * W, N), "float32")
        _multiply(product, input, weight, bias, H * W, W, N, K)
        for p, n in T.grid(H * W, N):
            with T.sblock("epilogue"):
                vp, vn = T.axis.remap("SS", [p, n])
                output[0, vp // W, vp % W, vn] = relu6(product[vp, vn], on) + residual[0, vp // W, vp % W, vn]

    return pointwise


def apply(s: s_tir.Schedule, workload: Pointwise, schedule: PointwiseSchedule) -> None:
    """From the outside in: strip, column tile (first with ``weights_outer``), row tile, ``k``, register tile."""
    epilogue = s.get_sblock("epilogue")
    (product,) = s.get_producers(epilogue)  # T.inline numbers the name of a block that it brings
    if workload.bordered:
        strip, pixel, column = s.get_loops(epilogue)
    else:
        pixels, column = s.get_loops(epilogue)
        strip, pixel = s.split(pixels, [None, schedule.strip])
    pixel, row = s.split(pixel, [None, schedule.rows])
    column, lane = s.split(column, [None, schedule.columns])
    order = (column, strip, pixel) if schedule.weights_outer else (strip, column, pixel)
    s.reorder(*order, row, lane)
    s.annotate(order[0], TASK, 1)
    for loop in {pixel, column} - {order[0]}:
        s.annotate(loop, TAIL, 1)
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
    tiles = sorted(
        _tiles(workload, isa),
        key=lambda schedule: (_cycles(workload, isa, schedule), -schedule.strip, -schedule.rows, -schedule.columns),
    )
    unrolls = [turns for turns in (4, 2, 1) if workload.k % turns == 0]
    found = []
    for schedule in tiles:
        shared = [
            turns for turns in unrolls if turns <= -(-schedule.strip // schedule.rows)
        ]  # among the strip's row tiles
        if workload.n > schedule.columns:
            found += [replace(schedule, turns=turns, prefetch=True) for turns in shared]
        found += [replace(schedule, turns=turns, prefetch=False) for turns in (*shared, *unrolls)]
    return list(dict.fromkeys(found))


def _tiles(workload: Pointwise, isa: InstructionSet) -> Iterator[PointwiseSchedule]:
    """Strips of whole tiles, or one for the whole map; turns and prefetch left open."""
    for strip, weights_outer in _strips(workload, isa):
        for columns in _column_tiles(workload, weights_outer):
            lanes = vector_lanes(columns, isa.lanes)
            for rows in range(1, _most_rows(isa, columns // lanes) + 1):
                if rows <= strip and (workload.bordered or weights_outer or strip % rows == 0):
                    yield PointwiseSchedule(rows, columns, lanes, strip, weights_outer, turns=1, prefetch=False)


def _strips(workload: Pointwise, isa: InstructionSet) -> Iterator[tuple[int, bool]]:
    """``(strip, weights_outer)``: rows of pixels small enough for the L2 beside the weights, or the whole map."""
    if workload.k * workload.n * 4 > isa.l2_bytes:
        yield (workload.width if workload.bordered else workload.pixels), True
    elif workload.bordered:
        yield workload.width, False
    else:
        fits = max(isa.l2_bytes // 8 // (workload.k * 4), 8)
        yield from ((strip, False) for strip in range(1, fits + 1) if workload.pixels % strip == 0)
        if workload.pixels * workload.k * 4 <= isa.l2_bytes:
            yield workload.pixels, True


def _column_tiles(workload: Pointwise, exact: bool) -> Iterator[int]:
    """Tiles that begin at a panel's or a half panel's edge; ``exact`` ones divide ``n``, as a task loop must."""
    for columns in (8, 16, 24, 32, 40, 48, 64):
        within_panels = columns in (8, workload.n) or columns % PANEL == 0
        if within_panels and columns <= workload.n and not (exact and workload.n % columns):
            yield columns


def _most_rows(isa: InstructionSet, vectors: int) -> int:
    """The tallest tile whose accumulators, one row of weights and one pixel fit in the registers together."""
    spare = 1 if isa.fused_multiply_add else 2
    return (isa.registers - spare - isa.loads_ahead) // vectors - 1


TILE = 8.0  # cycles a tile costs at its ends; like the cores' ``load_cycles`` fitted, to Zen 3


def _cycles(workload: Pointwise, isa: InstructionSet, schedule: PointwiseSchedule) -> float:
    """Estimated cycles for all tiles: each bound by the FMA units or their latency, and a little by its loads."""

    def tile(rows: int, columns: int) -> float:
        vectors = -(-columns // vector_lanes(columns, isa.lanes))
        step = max(rows * vectors / isa.fmas_per_cycle, isa.fma_latency) + isa.load_cycles * (rows + vectors)
        return workload.k * step + 2 * rows * vectors + TILE

    def tiles(columns: int) -> float:
        last = schedule.strip % schedule.rows
        return (schedule.strip // schedule.rows) * tile(schedule.rows, columns) + (tile(last, columns) if last else 0.0)

    last = workload.n % schedule.columns
    one_strip = (workload.n // schedule.columns) * tiles(schedule.columns) + (tiles(last) if last else 0.0)
    return (workload.pixels // schedule.strip) * one_strip
