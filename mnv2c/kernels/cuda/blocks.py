"""What several kernel families share: how loops become blocks and threads.

A kernel is a grid of blocks ``x, y, z`` of ``threads`` each; ``z`` is the image of a batch. Consecutive threads write
consecutive channels, so that a warp's accesses to memory are whole sectors of 32 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import s_tir

from mnv2c.ir.graph import TensorType

Block = s_tir.schedule.SBlockRV
Loop = s_tir.schedule.LoopRV

SHARED_BYTES = 48 * 1024
"""That a block may have on every architecture, without asking for more."""

_VECTORS = (4, 2, 1)
"""Elements of fp32 that one instruction loads."""


def bind_threads(s: s_tir.Schedule, loops: list[Loop], threads: int) -> Loop:
    """Shares the turns of ``loops`` among a block's threads, consecutive ones to consecutive threads; returns the loop
    that is bound. Threads may be idle in the last turn."""
    fused = s.fuse(*loops)
    _, thread = s.split(fused, [None, threads])
    s.bind(thread, "threadIdx.x")
    return thread  # type: ignore[no-any-return]


def bind_grid(s: s_tir.Schedule, *, x: Loop, y: Loop, z: Loop) -> None:
    """Makes three loops, outermost of all, the grid."""
    for loop, axis in ((z, "blockIdx.z"), (y, "blockIdx.y"), (x, "blockIdx.x")):
        s.bind(loop, axis)


def unroll(s: s_tir.Schedule, *loops: Loop) -> None:
    """All of each."""
    for loop in loops:
        s.unroll(loop)


def vector(extent: int) -> int:
    """The widest vector of which a whole number makes ``extent``; it is aligned where rows are of such a length."""
    return next(lanes for lanes in _VECTORS if extent % lanes == 0)


def divisor(extent: int, most: int) -> int:
    """The largest of at most ``most`` that divides ``extent``."""
    return next(value for value in range(min(most, extent), 0, -1) if extent % value == 0)


@dataclass(frozen=True)
class RowSchedule:
    """A thread computes ``pixels`` neighbours of one row and one channel; a block is ``channels`` threads side by side,
    ``columns`` tiles of a row deep."""

    pixels: int
    columns: int
    channels: int


def row_per_thread(s: s_tir.Schedule, schedule: RowSchedule, *, reduced: int) -> None:
    """Schedules ``epilogue``, of ``image, row, column, channel``, and ``total`` before it, whose last ``reduced`` loops
    are summed over; neighbouring threads have neighbouring channels."""
    epilogue = s.get_sblock("epilogue")
    image, row, column, channel = s.get_loops(epilogue)
    column, pixel = s.split(column, [None, schedule.pixels])
    column, deep = s.split(column, [None, schedule.columns])
    group, thread = s.split(channel, [None, schedule.channels])
    s.reorder(image, row, column, group, deep, thread, pixel)
    bind_grid(s, x=group, y=s.fuse(row, column), z=image)
    s.bind(deep, "threadIdx.y")
    s.bind(thread, "threadIdx.x")
    unroll(s, pixel)
    if reduced:
        total = s.get_sblock("total")
        s.compute_at(total, thread, preserve_unit_loops=True)
        s.set_scope(total, 0, "local")
        loops = s.get_loops(total)
        taps, channel, pixel = loops[-reduced:], loops[-reduced - 1], loops[-reduced - 2]
        s.reorder(*taps, pixel, channel)
        s.decompose_reduction(total, taps[0])
        unroll(s, *taps, pixel)


def row_space(type_: TensorType) -> list[RowSchedule]:
    """Of an output NHWC: the widest tile that divides its rows first, as neighbours share what they read."""
    _, _, width, channels = type_.shape
    found = []
    for pixels in (pixels for pixels in (4, 7, 8, 2, 1) if width % pixels == 0):
        for side in dict.fromkeys((divisor(channels, 64), divisor(channels, 128), divisor(channels, 32))):
            found.append(RowSchedule(pixels, divisor(width // pixels, max(128 // side, 1)), side))
    return found
