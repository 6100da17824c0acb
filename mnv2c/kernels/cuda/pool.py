"""Global average pooling on its own: a thread sums a channel. What it computes, and from what, is as on a CPU."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import s_tir

from mnv2c.kernels.cpu.pool import compute, pack
from mnv2c.kernels.cuda.blocks import divisor
from mnv2c.workloads import Pool

__all__ = ["PoolSchedule", "apply", "compute", "pack", "space"]


@dataclass(frozen=True)
class PoolSchedule:
    """A block of ``threads`` owns as many channels."""

    threads: int


def apply(s: s_tir.Schedule, workload: Pool, schedule: PoolSchedule) -> None:
    """Grid of channels and images."""
    total, epilogue = s.get_sblock("total"), s.get_sblock("epilogue")
    image, channel = s.get_loops(epilogue)
    group, thread = s.split(channel, [None, schedule.threads])
    s.bind(image, "blockIdx.z")
    s.bind(group, "blockIdx.x")
    s.bind(thread, "threadIdx.x")
    s.compute_at(total, thread, preserve_unit_loops=True)
    s.set_scope(total, 0, "local")
    s.decompose_reduction(total, s.get_loops(total)[-2])


def space(workload: Pool) -> list[PoolSchedule]:
    """Small blocks first: there is one thread per channel."""
    return [PoolSchedule(divisor(workload.channels, threads)) for threads in (32, 64, 128)]
