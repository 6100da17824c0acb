"""The kernel families of CPUs as a ``Device``: which module computes, schedules and packs which workload.

What comes in: a workload and an instruction set. What goes out: ``space``, the schedules to choose from, the rule's
first; ``scheduled``, a PrimFunc that ``lower`` turns into a C function; object files of them.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any

import tvm
from tvm import s_tir, tirx

import mnv2c.workloads as workloads
from mnv2c.forked import in_fork
from mnv2c.ir.graph import Array
from mnv2c.kernels.abi import KernelCode, Schedule
from mnv2c.kernels.cpu import dense, depthwise, pad, pointwise, pool, stem
from mnv2c.kernels.cpu.lower import build_object, llvm_version, lower
from mnv2c.targets import InstructionSet, Target
from mnv2c.workloads import Workload

_FAMILIES: dict[type[Workload], Any] = {
    workloads.Stem: stem,
    workloads.Pointwise: pointwise,
    workloads.Depthwise: depthwise,
    workloads.Pad: pad,
    workloads.Pool: pool,
    workloads.Dense: dense,
}
SCHEDULES: dict[str, type[Any]] = {
    "stem": stem.StemSchedule,
    "pointwise": pointwise.PointwiseSchedule,
    "depthwise": depthwise.DepthwiseSchedule,
    "pad": pad.PadSchedule,
    "pool": pool.PoolSchedule,
    "dense": dense.DenseSchedule,
}
"""The class of each family's schedules."""


@functools.cache
def computation(workload: Workload) -> tirx.PrimFunc:
    """The workload's PrimFunc, not scheduled, named after it, with its description as an attribute."""
    described = json.dumps(workloads.to_json(workload), separators=(",", ":"))
    computed = _FAMILIES[type(workload)].compute(workload)
    return computed.with_attr({"global_symbol": workload.name, "mnv2c.workload": described})


@functools.cache
def space(workload: Workload, isa: InstructionSet) -> tuple[Schedule, ...]:
    """Every schedule of the workload that may be good on ``isa``; first what the family's rule takes, untuned."""
    return tuple(_FAMILIES[type(workload)].space(workload, isa))


def apply(s: s_tir.Schedule, workload: Workload, schedule: Schedule) -> None:
    """Schedules ``s``, of the workload's computation, as ``schedule`` says."""
    _FAMILIES[type(workload)].apply(s, workload, schedule)


def scheduled(workload: Workload, schedule: Schedule) -> tirx.PrimFunc:
    """The workload's computation under ``schedule``."""
    s = s_tir.Schedule(tvm.IRModule({"main": computation(workload)}))
    apply(s, workload, schedule)
    return s.mod["main"]


class _Cpu:
    """See ``kernels.abi.Device``."""

    @property
    def versions(self) -> dict[str, str]:
        return {"llvm": str(llvm_version())}

    workers = 1  # in_fork wants one thread

    def symbol(self, identifier: str, isa: InstructionSet, workload: Workload) -> str:
        return f"{identifier}_{isa.name}_{workload.name}"

    def pack(self, workload: Workload, constants: Sequence[Array]) -> tuple[Array, ...]:
        packed: tuple[Array, ...] = _FAMILIES[type(workload)].pack(workload, constants)
        return packed

    def space(self, workload: Workload, isa: InstructionSet) -> tuple[Schedule, ...]:
        return space(workload, isa)

    def compile(
        self, kernels: Sequence[tuple[str, Workload, Schedule]], target: Target, isa: InstructionSet
    ) -> tuple[bytes, tuple[KernelCode, ...]]:
        lowered = {
            symbol: lower(scheduled(workload, schedule), symbol, pointer_bits=target.pointer_bits)
            for symbol, workload, schedule in kernels
        }
        codes = (KernelCode(symbol, kernel.tasks, kernel.scratch_bytes) for symbol, kernel in lowered.items())
        return in_fork(lambda: build_object(lowered, target, isa)), tuple(codes)


CPU = _Cpu()
