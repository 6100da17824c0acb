"""What several kernel families share: packing, the border of zeros, the register tile and what it costs."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from tvm import s_tir
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cpu.tir_passes import PANEL, RAGGED, TASK
from mnv2c.targets import InstructionSet


def panels_of(columns: int) -> int:
    """How many panels hold so many columns."""
    return -(-columns // PANEL)


def summed_columns(columns: int) -> int:
    """How many columns are summed for so many: an odd count is filled up to whole panels with weights of zero, so that
    all sums are whole vectors; only what is stored is cut."""
    return columns if columns % 8 == 0 else panels_of(columns) * PANEL


def pack_panels(matrix: Array) -> Array:
    """``n x k`` as panels ``ceil(n / 16) x k x 16``, the last filled up with zeros; the element type stays."""
    n, k = matrix.shape
    full = np.zeros((panels_of(n) * PANEL, k), matrix.dtype)
    full[:n] = matrix
    return np.ascontiguousarray(full.reshape(panels_of(n), PANEL, k).transpose(0, 2, 1))


@T.inline
def zero_border(output, batch, rows, columns, channels, top, left, bottom, right):
    """Zeros around the ``rows x columns`` pixels inside each image of ``output``, four blocks, some of them empty."""
    for b, h, w, n in T.grid(batch, top, left + columns + right, channels):
        with T.sblock("zero_top"):
            vb, vh, vw, vn = T.axis.remap("SSSS", [b, h, w, n])
            output[vb, vh, vw, vn] = T.float32(0)
    for b, h, w, n in T.grid(batch, bottom, left + columns + right, channels):
        with T.sblock("zero_bottom"):
            vb, vh, vw, vn = T.axis.remap("SSSS", [b, h, w, n])
            output[vb, top + rows + vh, vw, vn] = T.float32(0)
    for b, h, w, n in T.grid(batch, rows, left, channels):
        with T.sblock("zero_left"):
            vb, vh, vw, vn = T.axis.remap("SSSS", [b, h, w, n])
            output[vb, top + vh, vw, vn] = T.float32(0)
    for b, h, w, n in T.grid(batch, rows, right, channels):
        with T.sblock("zero_right"):
            vb, vh, vw, vn = T.axis.remap("SSSS", [b, h, w, n])
            output[vb, top + vh, left + columns + vw, vn] = T.float32(0)


def register_tile(
    s: s_tir.Schedule, rows: tuple[s_tir.schedule.LoopRV, ...], columns: s_tir.schedule.LoopRV, lanes: int
) -> None:
    """Unroll ``rows`` and the vectors of ``columns``, so that the tile they write is held in registers."""
    outer, inner = s.split(columns, [None, lanes])
    for loop in (*rows, outer):
        s.unroll(loop)
    if lanes > 1:
        s.vectorize(inner)


def task_loops(
    s: s_tir.Schedule, loops: tuple[s_tir.schedule.LoopRV, ...], *, ragged: tuple[s_tir.schedule.LoopRV, ...] = ()
) -> None:
    """Makes ``loops``, each inside the one before, the kernel's tasks: task ``t`` is the t-th turn of the innermost.

    The last turn of a ``ragged`` one may be cut short where its extent does not divide. The same for every schedule, so
    that MetaSchedule may change a trace's decisions: ``tir_passes.keep_enough_tasks`` leaves the inner loops out.
    """
    for loop in loops:
        s.annotate(loop, TASK, 1)
    for loop in ragged:
        s.annotate(loop, RAGGED, 1)


def vector_lanes(columns: int, lanes: int) -> int:
    """The widest vector, at most ``lanes``, that a whole number of fills ``columns``."""
    while columns % lanes:
        lanes //= 2
    return lanes


def chunks(channels: int, isa: InstructionSet) -> Iterator[tuple[int, int]]:
    """How many of so many channels to do at once where each is a sum of its own, and in vectors of how many: from half
    of the registers down to eight channels."""
    most = min(isa.lanes * isa.registers // 2, -(-channels // 8) * 8)
    for count in range(most // 8 * 8, 0, -8):
        if channels % 8 or channels % count == 0:
            yield count, vector_lanes(count, isa.lanes)


def column_tiles(summed: int) -> Iterator[int]:
    """Tiles that begin at a panel's or a half panel's edge; the last may be wider than what is left of an odd count."""
    widest = max(summed_columns(summed), 8)
    for columns in (8, 16, 24, 32, 40, 48, 64):
        within_panels = columns in (8, summed) or columns % PANEL == 0
        if within_panels and columns <= widest:
            yield columns


def most_rows(isa: InstructionSet, vectors: int) -> int:
    """The tallest tile whose accumulators, one row of weights and one pixel fit in the registers together."""
    return (isa.registers - _factors(isa) - isa.loads_ahead) // vectors - 1


WHOLE = 8  # the greatest sum of products of which LLVM unrolls every turn


def spills(isa: InstructionSet, k: int, tile: tuple[int, int], *, apart: int, alone: bool = False) -> bool:
    """Whether LLVM wants more registers for a ``tile`` of (rows, vectors) than there are.

    The pixels are ``apart`` by so many values. ``alone`` is a column tile that one loop does for all pixels, and no
    other. Where LLVM unrolls all of ``k``, all weights and biases are loaded before the loop over the pixels.
    """
    if isa.scalar_operand and not isa.pair_bytes:
        return False
    rows, vectors = tile
    weights = vectors * (k + 1 if isa.unrolls and k <= WHOLE else 1)
    return rows * vectors + weights + _waiting(isa, rows, apart, alone) + _factors(isa) > isa.registers


def _waiting(isa: InstructionSet, rows: int, apart: int, alone: bool) -> int:
    """Registers with values of so many pixels that are not used yet, as found in LLVM's code.

    Where each value is spread by its load, two of every pixel but the first, and one where the tile is alone. Else the
    second values of pairs: of as many pixels as one base is enough for, in order, and of three quarters of them out of
    order.
    """
    if not isa.scalar_operand:
        return 2 * (rows - 1) + alone
    quarters = 4 if isa.loads_ahead else 3
    return min(rows, quarters * isa.pair_bytes // (4 * 4 * apart))


def _factors(isa: InstructionSet) -> int:
    """Registers for what a row of weights is multiplied by, and for the products."""
    return 1 + (not isa.fused_multiply_add) + (not isa.scalar_operand)


TILE = 8.0  # cycles a tile costs at its ends; like the cores' ``load_cycles`` fitted, to Zen 3


def row_cycles(isa: InstructionSet, k: int, extents: tuple[int, int], tile: tuple[int, int]) -> float:
    """Estimated cycles to multiply ``extents`` (pixels in a row, columns) in tiles of (rows, columns), each a sum of
    ``k`` products: bound by the FMA units or their latency, and a little by its loads."""
    pixels, columns = extents[0], summed_columns(extents[1])

    def one(rows: int, columns: int) -> float:
        vectors = -(-columns // vector_lanes(columns, isa.lanes))
        spread = 0 if isa.scalar_operand else rows
        step = max((rows * vectors + spread) / isa.fmas_per_cycle, isa.fma_latency) + isa.load_cycles * (rows + vectors)
        return k * step + 2 * rows * vectors + TILE

    def all_rows(columns: int) -> float:
        last = pixels % tile[0]
        return (pixels // tile[0]) * one(tile[0], columns) + (one(last, columns) if last else 0.0)

    last = columns % tile[1]
    return (columns // tile[1]) * all_rows(tile[1]) + (all_rows(last) if last else 0.0)
