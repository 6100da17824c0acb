"""Softmax: the computation, its schedule template and the rule for its defaults.

``output[b, n] = exp(input[b, n] - m[b]) / sum_n exp(input[b, n] - m[b])``, where ``m[b]`` is the largest of the row, so
that no exponential is infinite.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import s_tir, tirx
from tvm.script import tirx as T

from mnv2c.ir.graph import Array
from mnv2c.kernels.cpu.tiles import task_loops
from mnv2c.targets import InstructionSet
from mnv2c.workloads import Softmax


def pack(workload: Softmax, constants: Sequence[Array]) -> tuple[Array, ...]:
    """There is nothing to pack."""
    return tuple(constants)


def compute(workload: Softmax) -> tirx.PrimFunc:
    """The PrimFunc before scheduling: ``(input, output)``."""
    B, N = workload.batch, workload.n

    @T.prim_func(s_tir=True)
    def softmax(input: T.Buffer((B, N), "float32"), output: T.Buffer((B, N), "float32")):
        largest = T.sblock_alloc_buffer((B,), "float32")
        power = T.sblock_alloc_buffer((B, N), "float32")
        total = T.sblock_alloc_buffer((B,), "float32")
        for b, n in T.grid(B, N):
            with T.sblock("largest"):
                vb, vn = T.axis.remap("SR", [b, n])
                with T.init():
                    largest[vb] = T.min_value("float32")
                largest[vb] = T.max(largest[vb], input[vb, vn])
        for b, n in T.grid(B, N):
            with T.sblock("power"):
                vb, vn = T.axis.remap("SS", [b, n])
                power[vb, vn] = T.exp(input[vb, vn] - largest[vb])
        for b, n in T.grid(B, N):
            with T.sblock("total"):
                vb, vn = T.axis.remap("SR", [b, n])
                with T.init():
                    total[vb] = T.float32(0)
                total[vb] = total[vb] + power[vb, vn]
        for b, n in T.grid(B, N):
            with T.sblock("epilogue"):
                vb, vn = T.axis.remap("SS", [b, n])
                output[vb, vn] = power[vb, vn] / total[vb]

    return softmax


@dataclass(frozen=True)
class SoftmaxSchedule:
    """A row is a task: there is nothing to choose."""


def apply(s: s_tir.Schedule, workload: Softmax, schedule: SoftmaxSchedule) -> None:
    """One row after the other."""
    image, _ = s.get_loops(s.get_sblock("epilogue"))
    task_loops(s, (image,))
    for name in ("total", "power", "largest"):
        s.compute_at(s.get_sblock(name), image, preserve_unit_loops=True)
    for name in ("total", "largest"):
        block = s.get_sblock(name)
        s.decompose_reduction(block, s.get_loops(block)[-1])


def space(workload: Softmax, isa: InstructionSet) -> list[SoftmaxSchedule]:
    """The one there is."""
    return [SoftmaxSchedule()]
