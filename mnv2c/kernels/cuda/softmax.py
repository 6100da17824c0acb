"""Softmax: a block computes a row.

Thread ``g`` takes the classes that are ``GROUPS`` apart, its largest and its sum go into shared memory, and then every
thread reduces those of all: ``output = exp(input - largest) / total``, as on a CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cuda.blocks import divisor
from mnv2c.workloads import Softmax

_MOST_THREADS = 128


def pack(workload: Softmax, constants: Sequence[Array]) -> tuple[Array, ...]:
    """There is nothing to pack."""
    return tuple(constants)


def compute(workload: Softmax) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, output)``."""
    B, N, G = workload.batch, workload.n, divisor(workload.n, _MOST_THREADS)
    S = N // G

    @T.prim_func(s_tir=True)
    def softmax(input: T.Buffer((B, S, G), "float32"), output: T.Buffer((B, S, G), "float32")):
        own_largest = T.sblock_alloc_buffer((B, G), "float32", scope="shared")
        largest = T.sblock_alloc_buffer((B, G), "float32", scope="local")
        own_total = T.sblock_alloc_buffer((B, G), "float32", scope="shared")
        total = T.sblock_alloc_buffer((B, G), "float32", scope="local")
        for b, g, s in T.grid(B, G, S):
            with T.sblock("own_largest"):
                vb, vg, vs = T.axis.remap("SSR", [b, g, s])
                with T.init():
                    own_largest[vb, vg] = T.min_value("float32")
                own_largest[vb, vg] = T.max(own_largest[vb, vg], input[vb, vs, vg])
        for b, g, h in T.grid(B, G, G):
            with T.sblock("largest"):
                vb, vg, vh = T.axis.remap("SSR", [b, g, h])
                with T.init():
                    largest[vb, vg] = T.min_value("float32")
                largest[vb, vg] = T.max(largest[vb, vg], own_largest[vb, vh])
        for b, g, s in T.grid(B, G, S):
            with T.sblock("own_total"):
                vb, vg, vs = T.axis.remap("SSR", [b, g, s])
                with T.init():
                    own_total[vb, vg] = T.float32(0)
                own_total[vb, vg] = own_total[vb, vg] + T.exp(input[vb, vs, vg] - largest[vb, vg])
        for b, g, h in T.grid(B, G, G):
            with T.sblock("total"):
                vb, vg, vh = T.axis.remap("SSR", [b, g, h])
                with T.init():
                    total[vb, vg] = T.float32(0)
                total[vb, vg] = total[vb, vg] + own_total[vb, vh]
        for b, g, s in T.grid(B, G, S):
            with T.sblock("epilogue"):
                vb, vg, vs = T.axis.remap("SSS", [b, g, s])
                output[vb, vs, vg] = T.exp(input[vb, vs, vg] - largest[vb, vg]) / total[vb, vg]

    return softmax


@dataclass(frozen=True)
class SoftmaxSchedule:
    """A row is a block: there is nothing to choose."""


def apply(s: s_tir.Schedule, workload: Softmax, schedule: SoftmaxSchedule) -> None:
    """Grid of images; a barrier behind each share in shared memory."""
    image, thread, _ = s.get_loops(s.get_sblock("epilogue"))
    s.bind(image, "blockIdx.x")
    s.bind(thread, "threadIdx.x")
    for name in ("total", "own_total", "largest", "own_largest"):
        block = s.get_sblock(name)
        s.compute_at(block, image, preserve_unit_loops=True)
        _, _, thread, reduced = s.get_loops(block)
        s.bind(thread, "threadIdx.x")
        s.decompose_reduction(block, reduced)


def space(workload: Softmax) -> list[SoftmaxSchedule]:
    """The one there is."""
    return [SoftmaxSchedule()]
