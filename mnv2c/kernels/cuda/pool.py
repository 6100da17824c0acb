"""Global average pooling on its own: a thread sums a channel.

``output[c] = sum_{h, w} input[h, w, c] / (height * width)``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cuda.blocks import divisor
from mnv2c.workloads import Pool


@dataclass(frozen=True)
class PoolSchedule:
    """A block of ``threads`` owns as many channels."""

    threads: int


def pack(workload: Pool, constants: Sequence[Array]) -> tuple[Array, ...]:
    """There is nothing to pack."""
    return tuple(constants)


def compute(workload: Pool) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, output)``."""
    B, H, W, C = workload.batch, workload.height, workload.width, workload.channels
    share = 1.0 / (H * W)

    @T.prim_func(s_tir=True)
    def pool(input: T.Buffer((B, H, W, C), "float32"), output: T.Buffer((B, C), "float32")):
        total = T.sblock_alloc_buffer((B, C), "float32")
        for b, c, h, w in T.grid(B, C, H, W):
            with T.sblock("total"):
                vb, vc, vh, vw = T.axis.remap("SSRR", [b, c, h, w])
                with T.init():
                    total[vb, vc] = T.float32(0)
                total[vb, vc] = total[vb, vc] + input[vb, vh, vw, vc]
        for b, c in T.grid(B, C):
            with T.sblock("epilogue"):
                vb, vc = T.axis.remap("SS", [b, c])
                output[vb, vc] = total[vb, vc] * T.float32(share)

    return pool


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
